"""Learning together with an encoder: its weights by Adam on the entropy objective, the dictionary as ever.

The objective of a batch is the mean bound of its data points at λ and σ² that are pooled over all data, so it does not
depend on the size of the batch; by the envelope theorem its gradient is that of the sum of three entropies. There is no
sampling in it.

An encoder that follows the dictionary (`inference.encoders.Unrolled`) takes the place of the E-step in the usual loop,
and learns its gains when the dictionary is there. Any other has to be trained along with it, batch after batch: one
step of Adam (Kingma and Ba, ICLR 2015) for the weights and for the dictionary, whose atoms are then brought back to
unit length, while λ and σ² follow in closed form from statistics that forget slowly. Newton steps would not do here:
they take posteriors for optimal, which those of such an encoder never are. The rate is halved whenever the bound has
stopped rising, and learning ends when that has happened a few times.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from sparsentropy import rows
from sparsentropy.inference import AmortizedSolver
from sparsentropy.inference.encoders import Encoder
from sparsentropy.learning import em, online
from sparsentropy.learning.annealing import Schedule, weights_of
from sparsentropy.learning.course import Course, EncoderCourse, nowhere
from sparsentropy.learning.loop import learn
from sparsentropy.learning.shelf import IN_MEMORY, Cache
from sparsentropy.learning.task import Sweep, Task
from sparsentropy.model import Parameters
from sparsentropy.objectives import PLAIN, Statistics, Weights, elbo_rows
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.rows import AbstractRows, drawn
from sparsentropy.team import AbstractTeam

RATE, RATE_OF_GAINS, RATE_OF_ATOMS = 1e-3, 1e-2, 5e-3  # of Adam; gains are factors near 1
BATCH = 512  # data points of a gradient step
PASSES = 10  # over the rows that an encoder is trained on by itself
TRAINING_ROWS = 16_384
STEPS = 64  # of the gradient in a sweep, at least: small data are passed over several times
WARM_UP = 1000  # steps of an encoder alone before the dictionary moves
NOT_KEPT = Cache("none")  # posteriors that an encoder gives again at once
HALVINGS, PATIENCE = 5, 2  # of the rate, and sweeps without a better bound before one


def train(
    encoder: Encoder,
    x: Tensor | AbstractRows,
    parameters: Parameters,
    *,
    generator: torch.Generator,
    passes: int = PASSES,
    solved: AbstractPosterior | None = None,
) -> float:
    """Train an encoder at fixed parameters.

    Parameters
    ----------
    encoder : Encoder
        Changed in place, unless its bound on these data would become lower.
    x : Tensor or AbstractRows, shape (n, d)
        About as large as 1.
    parameters : Parameters
    generator : torch.Generator
        Draws the order of the data.
    passes : int
        Over the data; the rate falls to zero like a cosine.
    solved : AbstractPosterior, optional
        Posteriors of these data that an iterative solver has found. With them the encoder learns to be near to these,
        by the Kullback-Leibler divergence of marginal distributions, and without them to have a high bound.

    Returns
    -------
    float
        Mean bound of the data afterwards, nats per data point.
    """
    data = rows.of(x)
    before, weights = _mean_bound(encoder, data, parameters), copy.deepcopy(encoder.state_dict())
    optimiser, encode = _adam(encoder), encoder.prepared(parameters)
    total = passes * math.ceil(len(data) / BATCH)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)

    def loss(index: Tensor) -> Tensor:
        part = data.take(index)
        q = encode(part)
        own = -elbo_rows(part, q, parameters) if solved is None else divergence(solved[index], q)
        return own.sum() / len(index)

    # One that is broken off early has steps that it does not take
    objective = data.team.parallel(_Objective(encoder, loss), spares=encoder.network.follows)
    for _ in range(passes):
        for index in torch.randperm(len(data), generator=generator, device=generator.device).split(BATCH):
            _step(optimiser, objective(index) * data.team.size)
            rate.step()
    after = _mean_bound(encoder, data, parameters)
    if after >= before or (solved is not None and math.isfinite(after)):
        return after
    encoder.load_state_dict(weights)
    return before


def learn_amortized(
    x: Tensor | AbstractRows,
    starts: Sequence[Parameters],
    solver: AmortizedSolver,
    *,
    max_iter: int,
    tol: float,
    batch_size: int,
    generator: torch.Generator,
    schedule: Schedule | None = None,
    cache: Cache = IN_MEMORY,
    resume: Course | EncoderCourse | None = None,
    mark: Callable[[Course | EncoderCourse], None] = nowhere,
) -> Iterator[Sweep]:
    """Learn parameters and an encoder; see `learn`, whose parameters these are.

    Yields
    ------
    Sweep
        The bound is pooled over the data, at the posteriors of the encoder and what refines it.
    """
    settings = _Settings(max_iter, tol, batch_size, generator, schedule, cache, mark)
    if solver.encoder.network.follows:
        assert not isinstance(resume, EncoderCourse), "such an encoder does not learn along"
        yield from _following(rows.of(x), starts, solver, settings, resume)
    else:
        assert not isinstance(resume, Course), "such an encoder learns along"
        yield from _jointly(rows.of(x), starts[0], solver, settings, resume)


@final
@dataclass(frozen=True)
class _Settings:
    max_iter: int
    tol: float
    batch_size: int
    generator: torch.Generator
    schedule: Schedule | None
    cache: Cache
    mark: Callable[[Course | EncoderCourse], None]


def _following(
    data: AbstractRows,
    starts: Sequence[Parameters],
    solver: AmortizedSolver,
    settings: _Settings,
    resume: Course | None,
) -> Iterator[Sweep]:
    """The usual loop, then the gains."""
    last = resume and resume.state.sweep(converged=resume.converged)
    options: dict[str, Any] = {"tol": settings.tol, "batch_size": settings.batch_size, "generator": settings.generator}
    options |= {"schedule": settings.schedule, "cache": settings.cache, "max_iter": max(1, settings.max_iter - 1)}
    options |= {"resume": resume, "mark": settings.mark}
    resume = None  # it keeps posteriors that are soon no longer needed
    x = data.part(drawn(len(data), TRAINING_ROWS, settings.generator))
    for sweep in learn(data, starts, solver, **options):
        last = sweep
        yield replace(sweep, converged=False)
    assert last is not None, "a loop has at least one sweep"
    train(solver.encoder, x, last.parameters, generator=settings.generator)
    task = Task(data, solver, settings.batch_size, 1.0, PLAIN, NOT_KEPT)
    yield task.expect(last.parameters, None, 0).sweep(converged=last.converged)


def _jointly(
    data: AbstractRows,
    start: Parameters,
    solver: AmortizedSolver,
    settings: _Settings,
    resume: EncoderCourse | None,
) -> Iterator[Sweep]:
    """Batch after batch, a step of the encoder and one of the dictionary."""
    if resume is None:
        x = data.part(torch.arange(min(len(data), TRAINING_ROWS)))
        solver.encoder.begin(x, start)
        train(solver.encoder, x, start, generator=settings.generator, passes=_passes(len(x), WARM_UP))
    joint = _Joint(solver, start, data.team)
    if resume is not None:
        joint.go_to(resume)
        settings.generator.set_state(resume.random)
    plain = Task(data, solver, settings.batch_size, 1.0, PLAIN, NOT_KEPT)
    schedule = settings.schedule
    detour = list(weights_of(schedule, settings.max_iter // 2)) if schedule else []
    number, best, waited, halvings = 0, -math.inf, 0, 0
    if resume is not None:
        number, best, waited, halvings = resume.number, resume.best, resume.waited, resume.halvings
    while number < settings.max_iter and halvings < HALVINGS:
        for _ in range(_passes(len(data), STEPS)):
            for batch in data.shuffled(BATCH, settings.generator):
                joint.step(batch, len(data), detour[number] if number < len(detour) else PLAIN)
        sweep = plain.expect(joint.parameters, None, 0).sweep()
        annealed, number = number < len(detour), number + 1
        if not annealed:
            waited = 0 if sweep.lower_bound > best + settings.tol else waited + 1
            best = max(best, sweep.lower_bound)
            if waited == PATIENCE:
                waited, halvings = 0, halvings + 1
                joint.slower()
        yield replace(sweep, converged=halvings == HALVINGS, annealed=annealed)
        settings.mark(joint.place(settings.generator, number, best, waited, halvings))


@final
class _Joint:
    """An encoder and parameters that are on their way."""

    def __init__(self, solver: AmortizedSolver, start: Parameters, team: AbstractTeam) -> None:
        self.solver, self.parameters, self.team = solver, start, team
        self.dictionary = nn.Parameter(start.dictionary.clone())
        self.optimiser = _adam(solver.encoder)
        self.optimiser.add_param_group({"params": [self.dictionary], "lr": RATE_OF_ATOMS})
        self.objective = team.parallel(_Objective(solver.encoder, self._loss, self.dictionary), spares=False)
        self.past: Statistics | None = None
        self.seen = 0

    def place(self, generator: torch.Generator, number: int, best: float, waited: int, halvings: int) -> EncoderCourse:
        """Where it is between two passes."""
        assert self.past is not None, "a pass has batches"
        weights = [value.clone() for value in self.solver.encoder.learned()]
        moments = [list(moments.values()) for moments in self.optimiser.state_dict()["state"].values()]
        state = generator.get_state()
        return EncoderCourse(
            self.parameters, state, weights, moments, self.past, self.seen, number, best, waited, halvings
        )

    @torch.no_grad()
    def go_to(self, place: EncoderCourse) -> None:
        """Where another one was."""
        self.parameters, self.past, self.seen = place.parameters, place.past, place.seen
        self.dictionary.copy_(place.parameters.dictionary)
        self.solver.encoder.take(place.weights)
        names = ("step", "exp_avg", "exp_avg_sq")
        state = {number: dict(zip(names, moments, strict=True)) for number, moments in enumerate(place.moments)}
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        for _ in range(place.halvings):
            self.slower()

    def step(self, x: Tensor, n: int, weights: Weights) -> None:
        """On a batch, of n data points in all."""
        (count,) = self.team.sum(x.new_tensor(float(len(x))))
        _step(self.optimiser, self.objective(x, weights) * (self.team.size / float(count)))
        with torch.no_grad():
            self.dictionary /= self.dictionary.norm(dim=0)
            moved = replace(self.parameters, dictionary=self.dictionary.detach().clone())
            q = self.solver(x, weights.apply(moved)).posterior
            batch = Statistics.of(x, q, moved).pooled(self.team)
            self.seen = min(self.seen + int(count), 2 * n)
            self.past = batch if self.past is None else online.absorb(self.past, batch, self.seen)
            self.parameters = em.floored(self.past.fit(moved), 1.0)

    def _loss(self, x: Tensor, weights: Weights) -> Tensor:
        parameters = replace(weights.apply(self.parameters), dictionary=self.dictionary)
        return -elbo_rows(x, self.solver.encoder(x, parameters), parameters).sum()

    def slower(self) -> None:
        """Half the rates."""
        for group in self.optimiser.param_groups:
            group["lr"] /= 2


@final
class _Objective(nn.Module):
    """A loss as a module that has all that learns, so that processes may average its gradients."""

    def __init__(self, encoder: Encoder, loss: Callable[..., Tensor], *others: nn.Parameter) -> None:
        super().__init__()
        self.encoder, self.loss, self.others = encoder, loss, nn.ParameterList(others)

    def forward(self, *given: Any) -> Tensor:
        """The loss, of what it is a loss of."""
        return self.loss(*given)


def _adam(encoder: Encoder) -> torch.optim.Adam:
    rate = RATE_OF_GAINS if encoder.network.follows else RATE
    groups = [{"params": encoder.network.parameters(), "lr": rate}, {"params": encoder.head.parameters(), "lr": RATE}]
    return torch.optim.Adam([group | {"params": params} for group in groups if (params := list(group["params"]))])


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _passes(n: int, steps: int) -> int:
    """Over n data points, to make at least so many steps."""
    return math.ceil(steps / math.ceil(n / BATCH))


@torch.no_grad()
def _mean_bound(encoder: Encoder, data: AbstractRows, parameters: Parameters) -> float:
    encode = encoder.fast(parameters)
    total = sum(elbo_rows(x, encode(x), parameters).sum(dtype=torch.float64) for x in data.split(TRAINING_ROWS))
    return float(data.team.sum(torch.as_tensor(total))[0]) / len(data)


def divergence(solved: AbstractPosterior, q: AbstractPosterior) -> Tensor:
    """Σ_h KL(N(ν', s'²) ‖ N(ν, s²)) = Σ_h log s/s' + (s'² + (ν' − ν)²)/2s² − ½, of marginal distributions (n,)."""
    ratio = (solved.variance + (solved.mean - q.mean).square()) / q.variance
    return (ratio - 1 + q.variance.log() - solved.variance.log()).sum(1) / 2
