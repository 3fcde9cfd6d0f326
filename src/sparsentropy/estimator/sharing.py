"""Which rows a process learns from when several learn together.

Either all are given the same data and each takes its share of the rows, or each is given rows of its own. What has to
be known of all data before learning is put together from what each process has seen of its own.
"""

import itertools
from typing import Any

from sparsentropy import inputs, rows
from sparsentropy.rows import AbstractRows, AbstractSource, Shared
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


def shared(
    mine: AbstractRows,
    everything: AbstractRows | None,
    own: range,
    team: AbstractTeam,
    typical: float,
    gaps: bool,
    batch: int,
) -> AbstractRows:
    """The rows of this process among those of all; `everything` if these were given to it, of which `own` are its."""
    if team.size == 1:
        return mine
    joined = Shared.joined(mine, team, typical, gaps=gaps)
    if everything is None:
        return joined
    return Shared(mine, team, len(everything), own, typical, gaps, everything, batch, joined.stored)
