"""From checked data to the best of several starts: what lies between the estimator and the learning loop.

A start draws its own first parameters and runs the loop to its end, to the user's Ctrl-C, or until the user's
callback says so; the start with the highest bound wins. Data come in units of their own size, and what is reported is
in the units of the user.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from sparsentropy.inference import AbstractSolver
from sparsentropy.learning import Sweep, em, learn, online, random_starts
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, entropy_elbo
from sparsentropy.posteriors import Diagonal

STREAM_ITERATIONS = 50  # of the E-step for each batch of a stream


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


@final
@dataclass(frozen=True)
class Outcome:
    """The best sweep of a start, and the bounds and noise variances after each of its sweeps over all data."""

    best: Sweep
    bounds: list[float]
    noise_variances: list[float]
    interrupted: bool

    @property
    def merit(self) -> tuple[int, float]:
        """Larger is better; bounds of a part and of all data cannot be compared."""
        return self.best.rows, self.best.lower_bound

    def in_units(self, unit: float) -> "Outcome":
        """The history for data multiplied by `unit`; the best sweep stays as it was computed."""
        shift = self.best.parameters.d * math.log(unit)
        return replace(
            self,
            bounds=[bound - shift for bound in self.bounds],
            noise_variances=[variance * unit**2 for variance in self.noise_variances],
        )


def best_of_starts(
    x: Tensor,
    solver: AbstractSolver,
    settings: Settings,
    random: np.random.RandomState,
    unit: float,
    tell: Callable[[Progress], bool],
) -> Outcome:
    """Learn from several starts and keep the best.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        Data divided by `unit`.
    solver : AbstractSolver
    settings : Settings
    random : numpy.random.RandomState
        Draws one seed for every start.
    unit : float
        What the data were divided by.
    tell : callable
        Hears of every sweep; learning ends when it answers True.

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
    for start in range(1, settings.n_init + 1):
        report = _reporter(start, settings.max_iter, unit, began, tell)
        outcome, interrupted = _one_start(x, solver, settings, int(random.randint(2**31 - 1)), report)
        if outcome is not None and (best is None or outcome.merit > best.merit):
            best = outcome
        if interrupted:
            break
    if best is None:
        raise KeyboardInterrupt("stopped before the first sweep was over: there is nothing to keep")
    return replace(best, interrupted=interrupted).in_units(unit)


def _one_start(
    x: Tensor, solver: AbstractSolver, settings: Settings, seed: int, report: Callable[[Sweep], bool]
) -> tuple[Outcome | None, bool]:
    """What a start led to, if it had the time, and whether it was interrupted."""
    generator = torch.Generator().manual_seed(seed)
    best, bounds, noise_variances, interrupted = None, [], [], False
    try:
        for sweep in learn(
            x,
            random_starts(x, settings.n_components, generator),
            solver,
            max_iter=settings.max_iter,
            tol=settings.tol,
            batch_size=settings.batch_size,
            generator=generator,
        ):
            best = sweep
            if sweep.rows == x.shape[0]:
                bounds.append(sweep.lower_bound)
                noise_variances.append(float(sweep.parameters.noise_variance))
            if report(sweep):
                interrupted = True
                break
    except KeyboardInterrupt:
        interrupted = True
    return (None if best is None else Outcome(best, bounds, noise_variances, interrupted)), interrupted


def _reporter(
    start: int, max_iter: int, unit: float, began: float, tell: Callable[[Progress], bool]
) -> Callable[[Sweep], bool]:
    count = itertools.count(1)

    def report(sweep: Sweep) -> bool:
        progress = Progress(
            sweep=next(count),
            max_sweeps=max_iter,
            lower_bound=sweep.lower_bound - sweep.parameters.d * math.log(unit),
            noise_variance=float(sweep.parameters.noise_variance) * unit**2,
            seconds=time.monotonic() - began,
            rows=sweep.rows,
            start=start,
        )
        return tell(progress)

    return report


def next_of_stream(x: Tensor, solver: AbstractSolver, parameters: Parameters, past: Statistics, seen: int) -> Sweep:
    """Learn from one more batch of a stream; `seen` data points came before."""
    solution = solver(x, parameters, max_iter=STREAM_ITERATIONS, tol=0.0)
    batch = Statistics.of(x, solution.posterior, parameters)
    seen, independent = seen + x.shape[0], isinstance(solution.posterior, Diagonal)
    statistics = online.absorb(past, batch, seen)
    statistics, parameters = online.update(statistics, batch, parameters, seen, independent=independent)
    parameters = em.floored(parameters, 1.0)
    return Sweep(parameters, float(entropy_elbo(statistics, parameters)), statistics)
