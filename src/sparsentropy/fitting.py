"""From checked data to the best of several starts: what lies between the estimator and the learning loop.

A start draws its own first parameters and runs the loop to its end, to the user's Ctrl-C, or until the user's
callback says so; the start with the highest bound wins. Data come in units of their own size, and what is reported is
in the units of the user.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sparsentropy.checkpoints import Checkpoints, Place
from sparsentropy.inference import AbstractSolver, AmortizedSolver, for_data
from sparsentropy.learning import (
    IN_MEMORY,
    Cache,
    Schedule,
    Sweep,
    em,
    learn,
    learn_amortized,
    learn_by_batches,
    random_starts,
)
from sparsentropy.learning.course import AbstractCourse, BatchCourse, Course, EncoderCourse
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.rows import AbstractRows, drawn
from sparsentropy.team import AbstractTeam

COLD_ITERATIONS = 50  # of the E-step for held-out rows from nothing
WARM_ITERATIONS = 8  # of that for held-out rows from the posteriors of the last sweep
NEARLY = 100  # times the least noise that the arithmetic knows
PATIENCE = 5  # sweeps in which the held-out bound has to rise


@final
@dataclass(frozen=True)
class Progress:
    """What `SparseCoding(callback=...)` is called with after every sweep.

    Parameters
    ----------
    sweep : int
        From 1 in every start; counts sweeps over parts of the data, too.
    max_sweeps : int
        Most sweeps over all data of this start.
    lower_bound : float
        Nats per data point, in the units of the data.
    noise_variance : float
        Data units squared.
    seconds : float
        Since `fit` began.
    rows : int
        Data points that this sweep passed over; learning begins on a part of large data.
    start : int
        Which of `n_init` starts this is, from 1.
    """

    sweep: int
    max_sweeps: int
    lower_bound: float
    noise_variance: float
    seconds: float
    rows: int
    start: int


@final
@dataclass(frozen=True)
class Settings:
    """What a user may set of learning, already checked."""

    n_components: int
    max_iter: int
    tol: float
    batch_size: int
    n_init: int
    validation_fraction: float = 0.0
    cache: Cache = IN_MEMORY
    annealing: Schedule | None = None
    learning: str = "sweeps"


@final
@dataclass(frozen=True)
class Outcome:
    """The best sweep of a start, and the bounds and noise variances after each of its sweeps over all data."""

    best: Sweep
    bounds: list[float]
    noise_variances: list[float]
    interrupted: bool
    held_out: list[float] = field(default_factory=list)
    held_out_d: float = 0.0  # known entries of a row that was set aside, on average
    solver: AbstractSolver | None = None  # that found the posteriors; an encoder has learned

    @property
    def merit(self) -> tuple[int, float]:
        """Larger is better; bounds of a part and of all data cannot be compared."""
        return self.best.rows, max(self.held_out, default=self.best.lower_bound)

    def in_units(self, unit: float) -> "Outcome":
        """The history for data multiplied by `unit`; the best sweep stays as it was computed."""
        # p(x) = p(x/c) / c^d
        shift, other = (d * math.log(unit) for d in (float(self.best.statistics.d), self.held_out_d))
        return replace(
            self,
            bounds=[bound - shift for bound in self.bounds],
            held_out=[bound - other for bound in self.held_out],
            noise_variances=[variance * unit**2 for variance in self.noise_variances],
        )


def best_of_starts(
    x: AbstractRows,
    solver_of: Callable[[int], AbstractSolver],
    settings: Settings,
    random: np.random.RandomState,
    unit: float,
    tell: Callable[[Progress], bool],
    checkpoints: Checkpoints | None = None,
    place: Place | None = None,
) -> Outcome:
    """Learn from several starts and keep the best.

    Parameters
    ----------
    x : AbstractRows
        Data divided by `unit`.
    solver_of : callable
        Makes a solver for a seed; every start has one of its own, since an encoder learns.
    settings : Settings
    random : numpy.random.RandomState
        Draws one seed for every start.
    unit : float
        What the data were divided by.
    tell : callable
        Hears of every sweep; learning ends when it answers True.
    checkpoints : Checkpoints, optional
        Where places are kept from which to go on.
    place : Place, optional
        To go on from, one that an earlier call with the same arguments has kept.

    Returns
    -------
    Outcome
        Its history is in the units of the user, its best sweep in those of `x`.

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C came before there was anything to keep.
    """
    began, best, interrupted = time.monotonic(), None, False
    seeds = x.team.told([int(random.randint(2**31 - 1)) for _ in range(settings.n_init)])[0]
    first, told = 1, 0
    if place is not None:
        seeds, first, told = place.done["seeds"], place.done["start"], place.done["told"]
        best, began = _earlier(place.done["earlier"], solver_of), began - place.done["seconds"]
    with x.team.attentive():
        for start, seed in enumerate(seeds[first - 1 :], first):
            count = itertools.count(told + 1)
            report = _reporter(start, settings.max_iter, unit, began, tell, count)
            mark = partial(_mark, checkpoints, seeds, start, best, began) if checkpoints else None
            outcome, interrupted = _one_start(x, solver_of(seed), settings, seed, report, mark, place)
            place, told = None, 0
            if outcome is not None and (best is None or outcome.merit > best.merit):
                best = outcome
            if interrupted:
                break
    if best is None:
        raise KeyboardInterrupt("stopped before the first sweep was over: there is nothing to keep")
    return replace(best, interrupted=interrupted).in_units(unit)


@final
class _HeldOut:
    """Rows that are not learned from: how likely they have become, and whether that goes on.

    The best sweep is the one with the highest bound of these rows. Learning has done what it can for new data when
    that bound has risen by less than the tolerance in each of the last sweeps, on average.
    """

    def __init__(self, x: Tensor, solver: AbstractSolver, tol: float, team: AbstractTeam) -> None:
        self.x, self.solver, self.tol, self.team = x, solver, tol, team
        known, n = team.sum((~x.isnan()).sum(), torch.tensor(len(x)).to(x.device))
        self.n, self.d = float(n), float(known) / float(n)
        self.posterior: AbstractPosterior | None = None
        self.best: Sweep | None = None
        self.bounds: list[float] = []
        self.annealed = 0  # sweeps of a detour, in which the bound may fall

    def look(self, sweep: Sweep) -> None:
        """Take the bound at the parameters of a sweep."""
        iterations = COLD_ITERATIONS if self.posterior is None else WARM_ITERATIONS
        solution = self.solver(self.x, sweep.parameters, self.posterior, max_iter=iterations, tol=0.0)
        self.posterior = solution.posterior
        (total,) = self.team.sum(elbo_rows(self.x, solution.posterior, sweep.parameters).sum(dtype=torch.float64))
        bound = float(total) / self.n
        self.best = sweep if bound > max(self.bounds, default=-math.inf) else self.best
        self.bounds.append(bound)
        self.annealed += sweep.annealed

    def told(self) -> list[Any]:
        """As numbers and frozen values; `hear` takes it."""
        return [self.posterior, self.best, self.bounds, self.annealed]

    def hear(self, told: list[Any]) -> None:
        """Go on from what was told."""
        self.posterior, self.best, self.bounds, self.annealed = told

    @property
    def settled(self) -> bool:
        """Whether the bound has stopped rising."""
        before, last = self.bounds[self.annealed : -PATIENCE], self.bounds[-PATIENCE:]
        return bool(before) and max(last) < max(before) + PATIENCE * self.tol


def held_out_rows(n: int, fraction: float) -> int:
    """Rows of n that are set aside; at least one, if any are to be."""
    return max(1, round(fraction * n)) if fraction else 0


def _one_start(
    x: AbstractRows,
    solver: AbstractSolver,
    settings: Settings,
    seed: int,
    report: Callable[[Sweep], bool],
    mark: "Callable[[_Record, AbstractCourse], None] | None",
    place: Place | None,
) -> tuple[Outcome | None, bool]:
    """What a start led to, if it had the time, and whether it was interrupted."""
    generator = torch.Generator().manual_seed(seed)
    interrupted, watch = False, None
    if aside := held_out_rows(len(x), settings.validation_fraction):
        chosen = drawn(len(x), aside, generator)
        watch = _HeldOut(x.take(chosen), for_data(solver, x), settings.tol, x.team)
        x = x.without(chosen)
    record = _Record(watch) if place is None else _Record.of(watch, place.done["record"])
    learning, course = _learning(solver, settings)
    if place is not None and not isinstance(place.course, course):
        raise ValueError("the checkpoint is of another way of learning; give another folder")
    kept = {} if mark is None else {"mark": partial(mark, record), "resume": place and place.course}
    place = None  # it keeps posteriors that are soon no longer needed
    try:
        sweeps = learning(
            x,
            random_starts(x, settings.n_components, generator),
            solver,
            max_iter=settings.max_iter,
            tol=settings.tol,
            batch_size=settings.batch_size,
            generator=generator,
            **kept,
        )
        kept.clear()
        for sweep in sweeps:
            record.add(sweep, whole=sweep.rows == len(x))
            if x.team.any(partial(report, sweep)):
                interrupted = True
                break
            if watch is not None and watch.settled:
                break
    except KeyboardInterrupt:
        interrupted = True
    return record.outcome(solver, interrupted=interrupted), interrupted


@final
class _Record:
    """What a start has led to so far."""

    def __init__(self, watch: _HeldOut | None) -> None:
        self.watch = watch
        self.best: Sweep | None = None
        self.bounds: list[float] = []
        self.noise_variances: list[float] = []
        self.sweeps = 0

    def add(self, sweep: Sweep, *, whole: bool) -> None:
        """Take a sweep, over all data or over a part."""
        self.best = sweep
        self.sweeps += 1
        if whole:
            self.bounds.append(sweep.lower_bound)
            self.noise_variances.append(float(sweep.parameters.noise_variance))
            if self.watch is not None:
                self.watch.look(sweep)
                assert self.watch.best is not None
                self.best = replace(self.watch.best, converged=sweep.converged or self.watch.settled)

    def outcome(self, solver: AbstractSolver, *, interrupted: bool) -> Outcome | None:
        """What it comes to; None if there is nothing."""
        if self.best is None:
            return None
        held_out, d = ([], 0.0) if self.watch is None else (self.watch.bounds, self.watch.d)
        return Outcome(self.best, self.bounds, self.noise_variances, interrupted, held_out, d, solver)

    def told(self) -> list[Any]:
        """As numbers, words and frozen values; `of` takes it."""
        watch = None if self.watch is None else self.watch.told()
        return [self.best, self.bounds, self.noise_variances, self.sweeps, watch]

    @classmethod
    def of(cls, watch: _HeldOut | None, told: list[Any]) -> "_Record":
        """What was told."""
        record = cls(watch)
        record.best, record.bounds, record.noise_variances, record.sweeps, held_out = told
        if watch is not None:
            watch.hear(held_out)
        return record


def _mark(
    checkpoints: Checkpoints,
    seeds: list[int],
    start: int,
    earlier: Outcome | None,
    began: float,
    record: _Record,
    course: AbstractCourse,
) -> None:
    """Write a checkpoint if it is time for one."""
    if not checkpoints.due:
        return
    before = None
    if earlier is not None:
        e = earlier
        learned = e.solver.encoder.learned() if isinstance(e.solver, AmortizedSolver) else []
        before = [learned, e.best, e.bounds, e.noise_variances, e.interrupted, e.held_out, e.held_out_d]
    done = {"seeds": seeds, "start": start, "earlier": before, "record": record.told(), "told": record.sweeps}
    checkpoints.write(Place(course, done | {"seconds": time.monotonic() - began}))


def _earlier(told: list[Any] | None, solver_of: Callable[[int], AbstractSolver]) -> Outcome | None:
    """The best of the starts before, as `_mark` told it."""
    if told is None:
        return None
    learned, *rest = told
    solver = solver_of(0)
    if isinstance(solver, AmortizedSolver):
        solver.encoder.take(learned)
    return Outcome(*rest, solver=solver)


def _learning(
    solver: AbstractSolver, settings: Settings
) -> tuple[Callable[..., Iterator[Sweep]], type[AbstractCourse]]:
    """How to learn, and what places on the way are."""
    if settings.learning == "minibatch":
        return learn_by_batches, BatchCourse
    options: dict[str, Any] = {"schedule": settings.annealing, "cache": settings.cache}
    if not isinstance(solver, AmortizedSolver):
        return partial(learn, **options), Course
    return partial(learn_amortized, **options), Course if solver.encoder.network.follows else EncoderCourse


def _reporter(
    start: int, max_iter: int, unit: float, began: float, tell: Callable[[Progress], bool], count: Iterator[int]
) -> Callable[[Sweep], bool]:
    def report(sweep: Sweep) -> bool:
        progress = Progress(
            sweep=next(count),
            max_sweeps=max_iter,
            lower_bound=sweep.lower_bound - float(sweep.statistics.d) * math.log(unit),
            noise_variance=float(sweep.parameters.noise_variance) * unit**2,
            seconds=time.monotonic() - began,
            rows=sweep.rows,
            start=start,
        )
        return tell(progress)

    return report


def unfinished(sweeps: int, max_iter: int, tol: float, dtype: torch.dtype) -> str:
    """Return what to tell a user whose model has not converged."""
    reason = f"max_iter={max_iter} sweeps; raise max_iter to learn on"
    if sweeps < max_iter:
        better = "try dtype='float64'" if dtype == torch.float32 else "the model is as good as float64 allows"
        reason = f"{sweeps} sweeps because rounding hid what was left; {better}"
    return (
        f"SparseCoding stopped while the bound could still rise by more than tol={tol} nats per sweep, after {reason}."
    )


def is_exact(noise_variance: float, unit: float, dtype: torch.dtype) -> bool:
    """Return whether a model explains data of this size to the end of the arithmetic."""
    return noise_variance <= NEARLY * em.least_noise(dtype) * unit**2


def exact(h: int, noise_variance: float, unit: float) -> str:
    """Return what to tell a user whose model explains the data exactly."""
    return (
        f"the noise has gone to zero (standard deviation {noise_variance**0.5:.2g}, data of size {unit:.2g}): {h} "
        "atoms explain these data exactly, so the noise is not known and new data may get a very low score. Use fewer "
        "atoms (n_components) or give more data, unless these data have no noise."
    )
