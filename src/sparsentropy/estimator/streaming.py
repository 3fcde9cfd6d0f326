"""One step of learning from a stream, and what to do with rows that are nothing like those before.

`step` learns from a batch and leaves such rows out; `left_out` says so, and what to do.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference import AbstractSolver, for_data
from sparsentropy.learning import Sweep, em, online
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo
from sparsentropy.posteriors import Diagonal
from sparsentropy.team import ALONE, AbstractTeam

ITERATIONS = 50  # of the E-step for each batch
UNLIKE = 1000.0  # nats per column below the mean bound of the past, from which on a row is nothing like the model


@final
@dataclass(frozen=True)
class StreamStep:
    """What came of a batch of a stream.

    Parameters
    ----------
    sweep : Sweep or None
        Parameters and sums; None where nothing was learned.
    rows : int
        Data points of the batch, of all processes.
    unlike : int
        Data points that are nothing like what the model expects, and were left out.
    """

    sweep: Sweep | None
    rows: int
    unlike: int


def step(
    x: Tensor,
    solver: AbstractSolver,
    parameters: Parameters,
    past: Statistics,
    seen: int,
    team: AbstractTeam = ALONE,
) -> StreamStep:
    """Learn from one more batch of a stream, of which each process has rows.

    The sums never forget all, so a single row of codes for missing values would spoil them for good: a row that the
    model finds all but impossible is left out. Where most rows are like that, none is learned from.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        The rows of this process, in units of the model.
    solver : AbstractSolver
    parameters : Parameters
    past : Statistics
        Of what was learned from so far.
    seen : int
        How many data points these were.
    team : AbstractTeam
    """
    solution = for_data(solver, x)(x, parameters, max_iter=ITERATIONS, tol=0.0)
    usual = float(entropy_elbo(past, parameters)) if past.n else -math.inf
    likely = elbo_rows(x, solution.posterior, parameters) >= usual - UNLIKE * x.shape[1]
    counts = team.sum(torch.tensor(len(x)), torch.tensor(int((~likely).sum())))
    rows, unlike = (int(count) for count in counts)
    if 2 * unlike > rows or (unlike and seen <= parameters.h):  # so few rows were explained exactly, and say nothing
        return StreamStep(None, rows, unlike)
    x, q = (x, solution.posterior) if bool(likely.all()) else (x[likely], solution.posterior[likely])
    batch = Statistics.of(x, q, parameters).pooled(team)
    seen, independent = seen + round(float(batch.n)), isinstance(q, Diagonal)
    statistics = online.absorb(past, batch, seen)
    statistics, parameters = online.update(statistics, batch, parameters, seen, independent=independent)
    parameters = em.floored(parameters, 1.0).agreed(team)
    return StreamStep(Sweep(parameters, float(entropy_elbo(statistics, parameters)), statistics), rows, unlike)


def remembered(seen: int) -> int:
    """Return the number of data points that the sums stand for, of so many that were seen."""
    return round(online.MEMORY * seen)


def left_out(step: StreamStep, waiting: int, seen: int) -> str:
    """Return what to tell a user of rows that were left out.

    Parameters
    ----------
    step : StreamStep
    waiting : int
        Data points that were left out in succession, if none of this batch was learned from.
    seen : int
        Data points that were learned from.
    """
    text = (
        f"{step.unlike} of {step.rows} rows of this batch are nothing like those before (their bound lies more than "
        f"{UNLIKE:g} nats per column below the mean), so "
    )
    if step.sweep is not None:
        return text + "they were left out: check them for codes of missing values, and give NaN instead."
    if waiting <= remembered(seen):
        return text + (
            "none was learned from: check them for another unit or for codes of missing values. If the data have "
            f"changed for good, go on: after {remembered(seen) - waiting + 1} more such rows learning begins anew."
        )
    return text + f"with {waiting} such rows in succession, learning has begun anew with this batch."
