"""The loop around inference and learning, and the choice of the step.

A *sweep* is one pass over the data: new parameters are tried, all posteriors are brought up to date from where they
were, and the pooled bound L_H says whether the parameters are kept. Learning starts on a small random part of the
data and moves to larger ones when the part has little more to teach, since the first thousand data points show the
way as well as a million. Where posteriors are slow to find, learning with simpler ones runs ahead, and is gone on with
if it has found a use for all atoms. Learning begins with a few sweeps of plain EM. On each part come rotations, as long
as they gain something, then accelerated sweeps (`quasi_newton`), and where they end, pairs of atoms that are still
mixed are turned apart (`separation`). A sweep that does not raise the bound is taken back and a shorter step is tried,
so the bounds that are reported for a given part only ever rise.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from sparsentropy import rows
from sparsentropy.inference import AbstractSolver, for_data
from sparsentropy.learning import em, quasi_newton, rotation, separation, start
from sparsentropy.learning.annealing import Schedule, anneal
from sparsentropy.learning.course import Course, Mark, ahead, among, nowhere
from sparsentropy.learning.independent import Independent
from sparsentropy.learning.shelf import IN_MEMORY, Cache
from sparsentropy.learning.task import COLD_ITERATIONS, NOTHING, State, Sweep, Task
from sparsentropy.model import Parameters
from sparsentropy.objectives import PLAIN, Weights
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.rows import AbstractRows, drawn

PLAIN_SWEEPS = 1  # of EM before anything else
ROTATION_STEPS = 10  # most in a sweep
REVIVE_EVERY = 7
MOST_ITERATIONS = 128
CONTEST_ROWS, CONTEST_SWEEPS = 8192, 2  # starts are compared on so many data points after so many sweeps
SHORTER = 0.3
CAP = 0.5  # longest way an atom of unit length may go in one accelerated sweep
SUFFICIENT = 1e-4  # part of the predicted gain that a step must bring
# Prior scale in units of the median one: bars for which independent codes have no use had at most 0.1, the softest atom
# of natural patches at least 0.47
LEFT_OVER = 0.25
WINDOW = 5  # sweeps over which the gain is averaged before it is compared with the tolerance
ROWS_PER_UNKNOWN = 128  # size of the first part of the data, times max(h, d)
GROWTH = 4
OVERFIT = 0.1  # of one unknown per data point: with less gain in a sweep, a part is left for a larger one


def learn(
    x: Tensor | AbstractRows,
    starts: Sequence[Parameters],
    solver: AbstractSolver,
    *,
    max_iter: int,
    tol: float,
    batch_size: int,
    generator: torch.Generator,
    weights: Weights = PLAIN,
    schedule: Schedule | None = None,
    cache: Cache = IN_MEMORY,
    resume: Course | None = None,
    mark: Mark = nowhere,
) -> Iterator[Sweep]:
    """Learn parameters from data; yields after every sweep, so that the caller may stop at any time and keep the best.

    Parameters
    ----------
    x : Tensor or AbstractRows, shape (n, d)
        NaN is what is missing.
    starts : sequence of Parameters
        Where to start, with unit-length atoms; a later one is taken only where it soon leads to a clearly higher bound.
    solver : AbstractSolver
    max_iter : int
        Most sweeps over all data, parts not counted.
    tol : float
        Gain in nats per data point and sweep below which learning has converged.
    batch_size : int
        Data points that one E-step call sees.
    generator : torch.Generator
        Draws the parts.
    weights : Weights
        Annealing weights, held during the call.
    schedule : function or None
        From a step, counted from 0, to annealing weights γ and δ; learning begins with these steps, on its first part
        of the data, and half of `max_iter` at most.
    cache : Cache
        Where the posteriors of all data are kept between sweeps; those of a part are kept in memory.
    resume : Course, optional
        Where an earlier call with the same arguments was, to go on from there.
    mark : function
        Hears of every place from which learning could go on.

    Yields
    ------
    Sweep
    """
    data, first = rows.of(x), starts[0]
    # A part is held in memory, with its posteriors before and after a sweep
    sizes = _parts(len(data), data.affordable(first.d + 4 * first.h), first.h, first.d)
    order = drawn(len(data), max(CONTEST_ROWS, *sizes[:-1], 0), generator)
    plan = _Plan(data, order, for_data(solver, data), batch_size, data.typical_size(), weights, cache)
    here, others, reached = resume if resume is not None and resume.behind is None else None, starts, -math.inf
    if here is not None:
        starts, sizes, max_iter = [here.state.parameters], list(here.sizes), here.left
        generator.set_state(here.random)
    elif max_iter > 1 and (forerunner := plan.solver.forerunner(first.h)):
        options = {"tol": tol, "batch_size": batch_size, "generator": generator, "weights": weights}
        options |= {"cache": cache, "schedule": schedule}
        last, max_iter = yield from _ahead(data, starts, forerunner, max_iter, resume, mark, options)
        if last is not None and _uses_all(last):
            starts, sizes, schedule = [last.parameters], sizes[-1:], None
    resume = None  # it keeps posteriors that are soon no longer needed
    parameters, begins = starts[0], here is None or here.first
    if len(starts) > 1:
        parameters = _best(starts, plan.task(CONTEST_ROWS, whole=False), len(data))
    for number, size in enumerate(sizes):
        whole = size == len(data)
        task, told = plan.task(size, whole=whole), among(mark, sizes[number:], max_iter, first=begins)
        # A part cannot tell the whole apart from itself by better than about one unknown per data point: what it goes
        # on gaining is more and more its own
        enough = tol if whole else max(tol, OVERFIT * parameters.d * parameters.h / size)
        begun = None if here is None else replace(here, state=task.shelved(here.state))
        if begun is None or begun.detour is not None:
            least = reached - _overfit(parameters, sizes[number - 1]) if number else -math.inf
            entered = begun or _entered(task, parameters, others, least)
            place = yield from _first_sweeps(task, entered, max_iter, schedule, generator, told)
            told(place)
        else:
            place = begun
        parameters, reached = place.state.parameters, place.bounds[-1]
        sweeps = _learn_part(task, place, max_iter, enough, first=begins, generator=generator, mark=told)
        here, begun, place, schedule, begins = None, None, None, None, False
        for sweep in sweeps:
            parameters, reached = sweep.parameters, sweep.lower_bound
            yield sweep if whole else replace(sweep, converged=False)


@final
@dataclass(frozen=True)
class _Plan:
    """All data, their random order, and how posteriors are found."""

    data: AbstractRows
    order: Tensor
    solver: AbstractSolver
    batch_size: int
    unit: float
    weights: Weights
    cache: Cache

    def task(self, size: int, *, whole: bool) -> Task:
        """All data, or so many of them."""
        part = self.data if whole else self.data.part(self.order[:size])
        cache = self.cache if whole else replace(self.cache, place="memory")
        return Task(part, self.solver, self.batch_size, self.unit, self.weights, cache)


def _ahead(
    data: AbstractRows,
    starts: Sequence[Parameters],
    forerunner: AbstractSolver,
    max_iter: int,
    resume: Course | None,
    mark: Mark,
    options: dict[str, Any],
) -> Generator[Sweep, None, tuple[Sweep | None, int]]:
    """Learning with simpler posteriors; its last sweep, and how many sweeps over all data are left."""
    last, place, left = None, None, max_iter
    if resume is not None and resume.behind is not None:
        last, place, left = resume.state.sweep(), replace(resume, behind=None), resume.behind
    behind = ahead(mark, lambda: left)
    for last in learn(data, starts, forerunner, max_iter=max_iter // 2, resume=place, mark=behind, **options):
        left -= last.rows == len(data)
        yield replace(last, converged=False, annealed=True)
    return last, left


def _uses_all(sweep: Sweep) -> bool:
    """Whether no atom is off, or left to fit the noise."""
    scale = sweep.parameters.prior_scale
    return bool((sweep.statistics.usage >= start.OFF).all()) and float(scale.min()) >= LEFT_OVER * float(scale.median())


def _parts(n: int, most: int, h: int, d: int) -> list[int]:
    """Sizes of the parts, the last one being n, and those before `most` at most."""
    sizes, size = [], ROWS_PER_UNKNOWN * max(h, d)
    while size * GROWTH // 2 <= n and size <= most:
        sizes.append(size)
        size *= GROWTH
    return [*sizes, n]


def _best(starts: Sequence[Parameters], task: Task, n: int) -> Parameters:
    """What the first of the starts that is not clearly worse than a later one has become after a few sweeps.

    `n` is the number of all data points, of which the task may have a part.
    """
    best = None
    for parameters in starts:
        state = task.expect(parameters, None, COLD_ITERATIONS)
        for _ in range(CONTEST_SWEEPS if task.weights.plain else 0):
            state = _rotated_sweep(task, state) or state
        if best is None or state.bound > best.lower_bound + start.margin(best.parameters, state.parameters, n):
            best = state.sweep()  # without its posteriors
    assert best is not None, "there is a start"
    return best.parameters


def _overfit(parameters: Parameters, n: int) -> float:
    """Return by how much a bound may fall when more data follow on n data points: nats per data point.

    Each unknown is expected to raise the bound of the data it was learned from by 1/2n, and to lower that of others by
    as much; twice that much is allowed.
    """
    return parameters.d * (start.FEWER + 2 * parameters.h / n)


def _entered(task: Task, parameters: Parameters, starts: Sequence[Parameters], least: float) -> State:
    """Return the first state on a part of the data, with posteriors from nothing.

    A part may have missed what matters most: a few rows that are unlike all others. Where the bound on the next part
    comes out below `least`, what was learned so far has to compete with the starts, which have seen all data.
    """
    state = task.expect(parameters, None, COLD_ITERATIONS)
    if state.bound >= least or not task.weights.plain:
        return state
    best = _best([parameters, *starts], task, len(task.rows))
    return task.expect(best, None, COLD_ITERATIONS)


def _first_sweeps(
    task: Task,
    begin: State | Course,
    max_iter: int,
    schedule: Schedule | None,
    generator: torch.Generator,
    mark: Mark,
) -> Generator[Sweep, None, Course]:
    """The first sweep, and the detour, or what is left of it; where learning is then."""
    if isinstance(begin, Course):
        state, bounds, gone = begin.state, [*begin.bounds], begin.detour
    else:
        state, bounds, gone = begin, [begin.bound], None
        yield state.sweep()
    del begin  # it would keep posteriors that are no longer needed
    for annealed, detour in anneal(task, state, schedule, max_iter // 2, gone) if schedule else ():
        state = annealed
        bounds.append(state.bound)
        yield replace(state.sweep(), annealed=True)
        if detour is not None:
            mark(Course(state, generator.get_state(), tuple(bounds), detour=detour))
    # A turn takes many looks at all posteriors; where these are not kept, parts of the data have seen to it
    return Course(state, generator.get_state(), tuple(bounds), early=task.weights.plain and task.cache.keeps)


def _learn_part(
    task: Task,
    place: Course,
    max_iter: int,
    tol: float,
    *,
    first: bool,
    generator: torch.Generator,
    mark: Mark,
) -> Iterator[Sweep]:
    state, bounds, early, settling, over = place.state, [*place.bounds], place.early, place.settling, place.over
    del place  # it would keep posteriors that are no longer needed
    while not over and len(bounds) < max_iter:
        age = len(bounds)
        new = _revived_sweep(task, state, generator) if age % REVIVE_EVERY == 0 else None
        if new is None and early:
            new = _plain_sweep(task, state) if first and age < PLAIN_SWEEPS else _rotated_sweep(task, state)
            early = new is not None and (age < PLAIN_SWEEPS or new.bound > state.bound + tol)
        settling = age if early else settling
        new = new or _late_sweep(task, state)
        stuck, state = new is None, new or state
        settled = _gain([*bounds, state.bound], settling) < tol
        if (settled or stuck) and (new := _separated_sweep(task, state, tol)):
            state, settled, stuck, settling = new, False, False, age
        new = None  # as above
        bounds.append(state.bound)
        over = settled or stuck
        converged = settled or (stuck and _promise(task, state) < WINDOW * tol)
        yield state.sweep(converged=converged)
        mark(Course(state, generator.get_state(), tuple(bounds), early, settling, over, converged))


def _promise(task: Task, state: State) -> float:
    """Gain that a quadratic model of the bound expects of the next sweep, nats per data point.

    Where nothing raises the bound although much is promised, the E-step has come to the end of its arithmetic, and
    learning has stopped without having converged.
    """
    if not task.weights.plain:
        return 0.0
    gradient = quasi_newton.gradient(state.statistics, state.parameters)
    return float((state.metric()(gradient) * gradient).sum()) / 2


def _gain(bounds: list[float], settling: int) -> float:
    """Mean gain of the last sweeps; infinite while too few were made with the step that is used to the end."""
    return (bounds[-1] - bounds[-1 - WINDOW]) / WINDOW if len(bounds) > settling + WINDOW else float("inf")


def _late_sweep(task: Task, state: State) -> State | None:
    """A sweep of the end; None when nothing raises the bound any more."""
    new = _accelerated_sweep(task, state) if task.weights.plain else None
    return new or _plain_sweep(task, replace(state, memory=NOTHING))


def _revived_sweep(task: Task, state: State, generator: torch.Generator) -> State | None:
    """Atoms that are off, started anew in what the model misses; kept only if the bound is higher at once."""
    error, n = _expected_error(task, state)
    parameters = start.revive(error, n, state.parameters, state.statistics.usage, generator)
    if parameters is None:
        return None
    new = task.expect(parameters, state.posteriors.__getitem__, 2 * state.iterations)
    return replace(new, iterations=state.iterations) if new.bound > state.bound else None


def _expected_error(task: Task, state: State) -> tuple[Tensor, int]:
    """mean_n E[(x − Wz)(x − Wz)ᵀ] (d, d) over the first batch, and its number of data points."""
    x = task.rows.first(task.batch_size)
    q, W = state.posteriors[0][: len(x)], state.parameters.dictionary.double()
    residual = x.double() - q.mean.double() @ W.T
    spread, n = task.team.sum(W @ q.covariance_sum().double() @ W.T, W.new_tensor(float(len(x))))
    return start.second_moment(residual, task.team) + spread / n, int(n)


def _plain_sweep(task: Task, state: State) -> State | None:
    parameters, factor = em.update(state.statistics, state.parameters, task.weights)
    return _patiently(task, state, parameters, _scaled(state.posteriors.__getitem__, factor))


def _rotated_sweep(task: Task, state: State) -> State | None:
    return _turned_sweep(task, state, rotation.rotate(_view(task, state), ROTATION_STEPS))


def _view(task: Task, state: State) -> rotation.AbstractView:
    """The posteriors before any turn."""
    if state.independent:
        return Independent.of(state.posteriors, state.statistics, state.parameters, task.team)
    eye = torch.eye(state.parameters.h, dtype=torch.float64, device=state.parameters.dictionary.device)
    return rotation.Joint.of(state.posteriors, eye, task.team)


def _turned_sweep(task: Task, state: State, view: rotation.AbstractView) -> State | None:
    """Kept only if the bound is higher after the E-step."""
    statistics, parameters = rotation.turn(view, state.statistics, state.parameters)
    parameters, factor = em.update(statistics, parameters)
    new = task.expect(parameters, _scaled(view.turned, factor), state.iterations)
    return replace(new, iterations=state.iterations) if new.bound > state.bound else None


def _separated_sweep(task: Task, state: State, tol: float) -> State | None:
    """Turn pairs of atoms that learning has left mixed; None when that does not raise the bound."""
    if not task.weights.plain or not task.cache.keeps:
        return None
    statistics = state.statistics
    size = (statistics.second_moment.diagonal() / statistics.n).sqrt()
    q = state.posteriors[0][: len(task.rows.first(min(separation.ROWS, task.batch_size)))]
    pairs = separation.turns(q, size, (statistics.usage >= start.OFF).nonzero().ravel(), task.team)
    view = _view(task, state)
    while pairs:
        new = _turned_sweep(task, state, view.at(separation.turn_by(pairs, size)[view.used[:, None], view.used]))
        if new is not None and new.bound > state.bound + WINDOW * tol:
            return new
        pairs = pairs[: len(pairs) // 2]
    return None


def _patiently(
    task: Task, state: State, parameters: Parameters, start: Callable[[int], AbstractPosterior]
) -> State | None:
    """An E-step that may not end below the bound it started from: more iterations until it does not."""
    iterations = state.iterations
    while iterations <= MOST_ITERATIONS:
        new = task.expect(parameters, start, iterations)
        if new.bound > state.bound:
            return replace(new, iterations=state.iterations)
        del new  # before the next one is made: posteriors are large
        iterations *= 2
    return None


def _accelerated_sweep(task: Task, state: State) -> State | None:
    """A quasi-Newton step on F(W), shortened until it raises the bound."""
    gradient = quasi_newton.gradient(state.statistics, state.parameters)
    direction = state.memory.direction(gradient, state.metric())
    direction = direction * (CAP / direction.norm(dim=0).clamp(min=CAP))
    slope = float((direction * gradient).sum())
    step, iterations = 1.0, state.iterations
    while slope > 0 and iterations <= MOST_ITERATIONS:
        trial = state.parameters.dictionary.double() + step * direction
        parameters, factor = em.fit(state.statistics, state.parameters, trial).gauged()
        parameters = replace(parameters, noise_variance=state.parameters.noise_variance)
        new = task.expect(parameters, _scaled(state.posteriors.__getitem__, factor), iterations)
        if new.bound > state.bound + SUFFICIENT * step * slope:
            bent = gradient * factor - quasi_newton.gradient(new.statistics, new.parameters)
            memory = state.memory.rescaled(factor).extended(step * direction / factor, bent)
            return replace(new, memory=memory, iterations=iterations)
        del new  # before the next one is made: posteriors are large
        step, iterations = SHORTER * step, iterations if step == 1.0 else 2 * iterations
    return None


def _scaled(posterior: Callable[[int], AbstractPosterior], factor: Tensor) -> Callable[[int], AbstractPosterior]:
    """Batch by batch, so that no more than one is ever there."""

    def scaled(index: int) -> AbstractPosterior:
        q = posterior(index)
        return q.scaled(factor.to(q.mean.dtype))

    return scaled
