"""Learning by minibatches, for dictionaries so wide that a matrix of all pairs of atoms is too large.

The full sweep (`loop`) keeps Σ ννᵀ + T, an (h, h) matrix, the posteriors of all data points, and a dozen steps of the
size of the dictionary. Here nothing is larger than the dictionary, the codes of a batch and one (d, d) matrix. The
slope of the bound in the dictionary, ((Σ xνᵀ) − W Σ(ννᵀ + T))/(n σ²), is computed as residual times codes. The scales
follow in closed form from sums per atom that forget slowly (Cappé and Moulines, JRSS B 2009), for a batch says little
of one atom. It says enough of the noise, which therefore follows it at once, and further than EM would go, since EM
is slow where noise is small (Salakhutdinov and Roweis, "Adaptive overrelaxed bound optimization methods", ICML 2003).

A step is measured with the Fisher information of a batch. With the pull u = (x − Wν)/σ² of a data point on the
dictionary its slope is u νᵀ − W T/σ², and if u and ν are taken for independent, and codes for uncorrelated, its second
moment is E[u uᵀ] ⊗ diag E[z²] (the factors of Martens and Grosse, "Optimizing neural networks with Kronecker-factored
approximate curvature", ICML 2015). So the direction is E[u uᵀ]⁻¹ times the slope, over E[z²] of each atom. For a square
dictionary without noise this is the natural gradient of independent component analysis: u = W⁻ᵀ ψ(ν), so E[u uᵀ]⁻¹ is
W W^T up to scales (Amari, "Natural gradient works efficiently in learning", 1998).

Steps of one length end in a cloud around the optimum, whose mean is far nearer to it than its points (Polyak and
Juditsky, "Acceleration of stochastic approximation by averaging", 1992). So at the end of every round of batches the
mean dictionary of its second half is evaluated, on rows that are the same each time. If its bound is higher than ever
it is kept, told, and gone on from. If not, the round is taken back, and the next ones make shorter steps. So the bound
that is told only ever rises, and there is no rate to tune.

Several processes each take a share of every batch, and add up slopes and sums.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import rows
from sparsentropy.inference import AbstractSolver, Inference, for_data
from sparsentropy.learning import em, start
from sparsentropy.learning.course import BatchCourse, nowhere
from sparsentropy.learning.task import COLD_ITERATIONS, Sweep
from sparsentropy.model import Parameters
from sparsentropy.objectives import Marginals, elbo, uphill
from sparsentropy.rows import AbstractRows, drawn
from sparsentropy.team import AbstractTeam

ITERATIONS = 12  # of the E-step for a batch
# Part of a Newton step that a batch is given at first. What its sampling costs is half that part of one nat for each of
# d h unknowns and data point of the batch, so a batch with fewer data points for an atom in use is given less
RATE, ROWS_PER_ATOM = 0.3, 2.0
SHORTER, SHORTEST = 0.5, 2**-9  # of it after a round that was taken back or gained nothing; learning ends below that
MOMENTUM = 0.9
REMEMBERED = 16  # batches, in the sums
FURTHER = 1.8  # times as far as EM goes the noise variance goes, in its logarithm; below 2 that ends where EM ends
DAMPING = 1e-4  # part of the mean curvature that is added to all of it
FLAT = 1e-6  # least curvature on average, for data in units of their size, where nothing pulls
ENOUGH = 4.0  # data points per dimension from which on the curvature is believed
CAP = 0.5  # longest way an atom of unit length may go in one step
LEAST_BATCH = 512
# Batches of a round: so many that this many codes are inferred, within limits; a share of its rows is evaluated, or
# such a number of codes where that is more
ROUND_CODES, ROUND = 2**25, (2, 32)
EVALUATED, EVALUATED_CODES = 8, 2**21
CONTEST_PASSES = 4  # over all data, at most, before starts are compared


def default_batch(d: int) -> int:
    """Data points of a batch: to prepare for a dictionary takes as long as to solve for a part of d data points."""
    return max(LEAST_BATCH, d // 4)


@final
@dataclass(frozen=True)
class Round:
    """How many data points are in a batch, how many batches in a round, and how many data points are evaluated."""

    batch: int
    batches: int
    evaluated: int

    @classmethod
    def of(cls, n: int, h: int, batch_size: int) -> "Round":
        """For n data points and h atoms.

        Examples
        --------
        >>> Round.of(1_000_000, 512, 512)
        Round(batch=512, batches=32, evaluated=4096)
        >>> Round.of(1_000_000, 16_384, 1024)
        Round(batch=1024, batches=2, evaluated=256)
        """
        batch, (least, most) = min(n, batch_size), ROUND
        batches = min(max(least, ROUND_CODES // (h * batch)), most)
        return cls(batch, batches, min(n, max(batch * batches // EVALUATED, EVALUATED_CODES // h)))


def learn_by_batches(
    x: Tensor | AbstractRows,
    starts: Sequence[Parameters],
    solver: AbstractSolver,
    *,
    max_iter: int,
    tol: float,
    batch_size: int,
    generator: torch.Generator,
    resume: BatchCourse | None = None,
    mark: Callable[[BatchCourse], None] = nowhere,
) -> Iterator[Sweep]:
    """Learn parameters from data; yields after every round that has raised the bound.

    Parameters
    ----------
    x : Tensor or AbstractRows, shape (n, d)
        NaN is what is missing.
    starts : sequence of Parameters
        Where to start, with unit-length atoms; a later one is taken only where its bound is clearly higher after a
        round of each.
    solver : AbstractSolver
    max_iter : int
        Most rounds.
    tol : float
        Gain in nats per data point and round below which steps get shorter.
    batch_size : int
        Data points of a batch.
    generator : torch.Generator
        Draws the rows that are evaluated, and the batches.
    resume : BatchCourse, optional
        Where an earlier call with the same arguments was, to go on from there.
    mark : function
        Hears of every place between two rounds.

    Yields
    ------
    Sweep
        The bound is that of the rows that are evaluated, at the parameters that come with it.
    """
    data = rows.of(x)
    plan = Round.of(len(data), starts[0].h, batch_size)
    judge = _Judge.of(data, solver, plan, generator)
    if resume is None or resume.starts < len(starts):
        begin, several = _Endless(data, plan.batch, generator), len(starts) > 1 and max_iter > 1
        resume = yield from _contest(judge, starts, begin, resume, mark, several=several, tol=tol)
    best, learner = resume.best, _Learner.at(judge, resume)
    batches = _Endless(data, plan.batch, generator, resume)
    resume = None  # it keeps what is soon no longer needed
    while learner.rounds < max_iter - 1 and not learner.over:
        new = learner.round(best, batches, plan.batches, tol)
        if new is not best or learner.over:
            yield replace(new, converged=learner.over)
        best = new
        mark(learner.place(best, batches, len(starts)))


def _contest(
    judge: "_Judge",
    starts: Sequence[Parameters],
    batches: "_Endless",
    winner: BatchCourse | None,
    mark: Callable[[BatchCourse], None],
    *,
    several: bool,
    tol: float,
) -> Generator[Sweep, None, BatchCourse]:
    """The first of the starts than which no later one is clearly better, after a round of each if these are `several`.

    Where those begin that will end far apart, their bounds may be nearly the same. Each is given the same batches, not
    so many that few data are learned by heart. What is told in the meantime still only rises. `winner` is that of an
    earlier call that did not come to its end.
    """
    random, plan = batches.random, judge.plan
    count = min(plan.batches, math.ceil(CONTEST_PASSES * judge.of_all / plan.batch))
    for number, parameters in enumerate(starts):
        if winner is not None and number < winner.starts:
            continue
        batches.restart(random)
        best, inference = judge(parameters)
        learner = _Learner(judge, best, inference)
        del inference  # what is prepared for it is large, and of use for one batch only
        if winner is None:
            yield best
        told = (winner.best if winner else best).lower_bound
        best = learner.round(best, batches, count, tol) if several else best
        margin = start.margin(winner.best.parameters, best.parameters, judge.of_all) if winner else 0.0
        better = best.lower_bound > told + margin
        if better:
            yield best
        if better or winner is None:
            winner = learner.place(best, batches, number + 1)
        winner = replace(winner, starts=number + 1)
        mark(winner)
        del learner  # before the next one is made
    assert winner is not None, "there is a start"
    return winner


@final
@dataclass(frozen=True)
class _Judge:
    """The rows that are evaluated, always the same."""

    rows: Tensor
    of_all: int  # data points
    solver: AbstractSolver
    plan: Round
    unit: float  # typical size of the data
    team: AbstractTeam  # of which each has a share of these rows

    @classmethod
    def of(cls, data: AbstractRows, solver: AbstractSolver, plan: Round, generator: torch.Generator) -> "_Judge":
        chosen = drawn(len(data), plan.evaluated, generator)
        unit = data.typical_size()
        return cls(data.take(chosen), len(data), for_data(solver, data), plan, unit, data.team)

    def __call__(self, parameters: Parameters) -> tuple[Sweep, Inference]:
        """The bound at given parameters, from posteriors that are found from nothing, and how these were found."""
        p = em.floored(parameters.agreed(self.team), self.unit)
        inference, statistics = self.solver.at(p), None
        for x in self.rows.split(self.plan.batch):
            part = Marginals.of(x, inference(x, max_iter=COLD_ITERATIONS, tol=0.0).posterior, p)
            statistics = part if statistics is None else statistics + part
        assert statistics is not None, "the estimator refuses empty data"
        statistics = statistics.pooled(self.team)
        (bound,) = self.team.agreed(elbo(statistics, p))
        return Sweep(p, float(bound), statistics, stands_for=self.of_all), inference


@final
class _Learner:
    """The dictionary that moves, and what is remembered on the way."""

    def __init__(self, judge: _Judge, start: Sweep, inference: Inference) -> None:
        assert isinstance(start.statistics, Marginals), "these are what is evaluated"
        parameters, self.sums = start.parameters, start.statistics
        self.judge, self.parameters, self.inference = judge, parameters, inference
        self.first_rate = RATE * min(1.0, judge.plan.batch / (ROWS_PER_ATOM * max(1, em.in_use(parameters))))
        self.rate, self.steps, self.rows, self.rounds = self.first_rate, 1, 0.0, 0
        self.curvature = torch.zeros(parameters.d, parameters.d, dtype=torch.float64, device=judge.rows.device)
        self._rest()

    @classmethod
    def at(cls, judge: _Judge, place: BatchCourse) -> "_Learner":
        """Where another one was."""
        learner = cls(judge, place.best, judge.solver.at(place.parameters))
        learner.sums, learner.curvature, learner.rows = place.sums, place.curvature, place.rows
        learner.rate, learner.first_rate = place.rate, place.first_rate
        learner.steps, learner.rounds = place.steps, place.rounds
        return learner

    def place(self, best: Sweep, batches: "_Endless", starts: int) -> BatchCourse:
        """Where it is between two rounds, as the best of so many starts."""
        return BatchCourse(
            best=best,
            random=batches.random,
            taken=batches.taken,
            sums=self.sums,
            curvature=self.curvature.clone(),
            rows=self.rows,
            steps=self.steps,
            first_rate=self.first_rate,
            rate=self.rate,
            rounds=self.rounds,
            starts=starts,
        )

    @property
    def over(self) -> bool:
        """Whether steps have become too short."""
        return self.rate < self.first_rate * SHORTEST

    def _rest(self) -> None:
        self.momentum = torch.zeros_like(self.parameters.dictionary)
        self.total = torch.zeros_like(self.parameters.dictionary)
        self.log_noise, self.age, self.counted = 0.0, 0, 0

    def round(self, best: Sweep, batches: Iterator[Tensor], count: int, tol: float) -> Sweep:
        """So many batches and what they have led to, or the best before them, which is then gone on from."""
        for number in range(count):
            self.step(next(batches), counts=2 * number >= count)
        new, inference = self.judge(self.mean())
        gain = new.lower_bound - best.lower_bound
        if gain <= 0:
            new, inference = best, self.judge.solver.at(best.parameters)
        self.go_on_from(new.parameters, inference, shorter=gain < tol)
        return new

    def step(self, x: Tensor, *, counts: bool) -> None:
        """On a share of a batch; the dictionary that it leads to counts for the mean, or does not."""
        p, team = self.parameters, self.judge.team
        q = self.inference(x, max_iter=ITERATIONS, tol=0.0).posterior
        batch = Marginals.of(x, q, p).pooled(team)
        self._remember(batch)
        slope, residual = uphill(x, q, p)
        del q
        pull = residual / p.noise_variance
        slope, square = team.sum(slope, (pull.T @ pull).double())
        self._bend(square, round(float(batch.n)))
        slope /= batch.n.to(slope.dtype) * p.noise_variance
        # Atoms have unit length, and the bound does not change with their length: only what is at right angles counts
        slope -= p.dictionary * (p.dictionary * slope).sum(0)
        self.age += 1
        self.momentum.lerp_(slope, 1 - MOMENTUM)
        dictionary = p.dictionary + self._step(self.momentum / (1 - MOMENTUM**self.age))
        dictionary /= dictionary.norm(dim=0)
        self._move_to(dictionary, batch)
        if counts:
            self.total += dictionary
            self.log_noise += float(self.parameters.noise_variance.log())
            self.counted += 1

    def mean(self) -> Parameters:
        """The mean dictionary and noise since they began to count; atoms have unit length."""
        noise = torch.full_like(self.parameters.noise_variance, math.exp(self.log_noise / self.counted))
        dictionary = self.total / self.total.norm(dim=0)
        return replace(self.parameters, dictionary=dictionary, noise_variance=noise)

    def go_on_from(self, parameters: Parameters, inference: Inference, *, shorter: bool) -> None:
        """Begin another round there."""
        self.parameters, self.inference = parameters, inference
        self.rate *= SHORTER if shorter else 1.0
        self.rounds += 1
        self._rest()

    def _remember(self, batch: Marginals) -> None:
        self.steps += 1
        weight = 1 / min(self.steps, REMEMBERED)
        self.sums = self.sums * (1 - weight) + batch

    def _bend(self, square: Tensor, n: int) -> None:
        """Take the mean of u uᵀ over as many data points as it needs."""
        self.rows = min(self.rows + n, max(2 * ENOUGH * len(square), REMEMBERED * n))
        self.curvature.lerp_(square / n, n / self.rows)

    def _step(self, slope: Tensor) -> Tensor:
        """A part of E[u uᵀ]⁻¹ slope/E[z²], for atoms that are not off."""
        p, factor = self.parameters, self._factor().to(slope.dtype)
        code_square = (self.sums.code_square / self.sums.n).to(slope.dtype)
        step = torch.cholesky_solve(slope, factor) * (self.rate / code_square)
        step *= em.above_noise(p.prior_scale, p.noise_variance).to(step.dtype)
        return step * (CAP / step.norm(dim=0).clamp(min=CAP))

    def _factor(self) -> Tensor:
        """Cholesky factor (d, d) of the curvature, as far as it is believed."""
        # Of fewer data points than dimensions it is believed less and less, and less still where rounding has spoilt it
        doubt = min(max((ENOUGH * len(self.curvature) / self.rows - 1) / (ENOUGH - 1), DAMPING), 1.0)
        mean = self.curvature.diagonal().mean().clamp(min=FLAT)
        while True:
            matrix = (1 - doubt) * self.curvature
            matrix.diagonal().add_(doubt * mean)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                return factor
            doubt = min(10 * doubt, 1.0)

    def _move_to(self, dictionary: Tensor, batch: Marginals) -> None:
        before = self.parameters.noise_variance
        noise = before * (batch.fit(self.parameters).noise_variance / before) ** FURTHER
        fitted = em.fit(self.sums, replace(self.parameters, dictionary=dictionary))
        self.parameters = em.floored(replace(fitted, noise_variance=noise), self.judge.unit)
        self.inference = self.judge.solver.at(self.parameters)


@final
class _Endless(Iterator[Tensor]):
    """Of batches of all rows, in another order each time, the own share; what is left over waits for the next time."""

    def __init__(
        self, data: AbstractRows, size: int, generator: torch.Generator, place: BatchCourse | None = None
    ) -> None:
        self.data, self.size, self.generator = data, size, generator
        # Where each process shuffles by itself, batches are a little smaller, all of them alike
        self.least = len(data) // math.ceil(len(data) / size)
        if place is not None:
            generator.set_state(place.random)
        self._begin()
        for _ in itertools.islice(self.batches, 0 if place is None else place.taken):
            self.taken += 1

    def restart(self, random: Tensor) -> None:
        """Begin again as when the generator was in this state."""
        self.generator.set_state(random)
        self._begin()

    def _begin(self) -> None:
        self.random, self.taken = self.generator.get_state(), 0
        self.batches = self.data.shuffled(self.size, self.generator)

    def __next__(self) -> Tensor:
        while True:
            for batch in self.batches:
                self.taken += 1
                (count,) = self.data.team.sum(torch.tensor(len(batch), device=batch.device))
                if count >= self.least:
                    return batch
            self._begin()
