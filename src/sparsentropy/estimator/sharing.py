"""Which rows a process learns from when several learn together.

Either all are given the same data and each takes its share of the rows, or each is given rows of its own. What has to
be known of all data before learning is put together from what each process has seen of its own.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsentropy import inputs, rows
from sparsentropy.rows import AbstractRows, AbstractSource, Between, Shared, Survey
from sparsentropy.team import ALONE, AbstractTeam, joined

GIVEN = ("same", "own")


def team_of(distributed: str | None) -> AbstractTeam:
    """Who learns together.

    Raises
    ------
    ValueError
        If several should, and this process was started alone, or there is no such way to share data.
    """
    if distributed is None:
        return ALONE
    inputs.check_choice("distributed", distributed, GIVEN)
    return joined()


def source_of(X: Any, team: AbstractTeam, distributed: str | None, folder: str | None) -> AbstractSource | None:
    """Data that are read from where they are, or a temporary copy of what comes in batches; None if X is an array.

    Raises
    ------
    ValueError
        If batches should be shared out.
    """
    if rows.is_stored(X):
        return rows.source_of(X)
    if not rows.is_stream(X):
        return None
    if team.size > 1 and distributed == "same":
        raise ValueError(
            "X comes in batches, which cannot be shared out: give every process batches of its own with "
            "distributed='own', or the name of a file or an array."
        )
    batches = rows.read_batches(X)
    first = list(itertools.islice(batches, 1))
    arrays = (batch.array for batch in itertools.chain(first, batches))
    return rows.spool(arrays, folder, first[0].names if first else None)


def share(n: int, team: AbstractTeam, distributed: str | None, batch: int) -> range:
    """Which of n rows that were given to this process are its own.

    Raises
    ------
    ValueError
        If there are fewer rows than processes.
    """
    if distributed != "same":
        return range(n)
    if n < team.size:
        raise ValueError(f"X has {n} rows, fewer than the {team.size} processes that share them: start fewer.")
    return rows.share(n, team, batch)


def survey_of(given: Tensor | AbstractSource, own: range) -> Survey:
    """What the own rows are like."""
    if isinstance(given, Tensor):
        return Survey.of(given[own.start : own.stop].cpu().numpy())
    if not own:
        return Survey.of(np.empty((0, given.shape[1]), given.dtype))
    return Survey.over(rows.pieces(Between(given, own.start, own.stop)))


def pooled(survey: Survey, dtype: torch.dtype, team: AbstractTeam) -> Survey:
    """What all data are like.

    Raises
    ------
    ValueError
        If those of one process are of another kind than those of the first.
    """
    kinds = team.told([len(survey.known), str(dtype).removeprefix("torch.")])
    for rank, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise ValueError(
                f"X has {kind[0]} columns of {kind[1]} in process {rank}, but {kinds[0][0]} of {kinds[0][1]} in "
                "process 0: give all processes rows of the same kind."
            )
    return survey.pooled(team)


def shared(
    mine: AbstractRows,
    everything: AbstractRows | None,
    own: range,
    team: AbstractTeam,
    square: float,
    gaps: bool,
    batch: int,
) -> AbstractRows:
    """The rows of this process among those of all; `everything` if these were given to it, of which `own` are its."""
    if team.size == 1:
        return mine
    if everything is None:
        return Shared.joined(mine, team, square, gaps=gaps)
    return Shared(mine, team, len(everything), own, square, gaps, everything, batch)
