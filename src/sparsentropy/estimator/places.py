"""The checkpoints of a fit: whose they are, and where it goes on.

A fit may go on from a checkpoint if everything that decides its result is the same: the data, the parameters and the
version. Where the posteriors are kept, how much is printed and how long it took do not.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsentropy.checkpoints import PROCESSES, Checkpoints, Place, listed
from sparsentropy.estimator.agreement import settings_of
from sparsentropy.rows import AbstractRows, bytes_of

SAMPLE = 1024  # rows that stand for the data


@contextmanager
def opened(
    folder: str | os.PathLike[str] | None, every: float, x: AbstractRows, parameters: dict[str, Any], *, resume: bool
) -> Iterator[tuple[Checkpoints | None, Place | None]]:
    """The checkpoints in a folder, and the place to go on from if that is wanted and there is one.

    Parameters
    ----------
    folder : path or None
        Nothing is kept without one.
    every : float
        Seconds.
    x : AbstractRows
        What is learned from.
    parameters : dict
        Of the estimator.
    resume : bool

    Raises
    ------
    OSError
        If the folder cannot be used.
    ValueError
        If the newest checkpoint is damaged or one of another run, or there are some and nobody asked to go on.
    """
    if folder is None:
        yield None, None
        return
    checkpoints = Checkpoints(Path(folder), every, _identity(x, parameters), x.team)
    try:
        with x.team.together():
            if not resume and listed(checkpoints.folder):  # of any process
                raise ValueError(
                    f"{folder} holds checkpoints of an earlier run: go on from there with resume=True, or give another "
                    "folder"
                )
        yield checkpoints, checkpoints.newest(x.device) if resume else None
    finally:
        checkpoints.close()


def _identity(x: AbstractRows, parameters: dict[str, Any]) -> dict[str, Any]:
    """By the words in which a difference is told."""
    first = bytes_of(next(x.split(SAMPLE)).cpu().contiguous().numpy())
    return {
        PROCESSES: x.team.size,
        "number of the process": x.team.rank,
        **settings_of(parameters),
        "number of rows": x.shape[0],
        "number of columns": x.shape[1],
        "dtype of the data": str(x.dtype).removeprefix("torch."),
        "typical size of the data": x.typical_size(),
        f"checksum of the first {SAMPLE:,} rows": hashlib.sha256(first).hexdigest()[:16],
    }
