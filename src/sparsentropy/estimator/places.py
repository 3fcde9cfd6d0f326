"""The checkpoints of a fit: whose they are, and where it goes on.

A fit may go on from a checkpoint if everything that decides its result is the same: the data, the parameters and the
version. Where the posteriors are kept, how much is printed and how long it took do not.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsentropy.checkpoints import Checkpoints, Place
from sparsentropy.rows import AbstractRows, bytes_of

DECISIVE = (
    "n_components",
    "learning",
    "posterior",
    "rank",
    "inference",
    "encoder",
    "refine",
    "max_iter",
    "tol",
    "batch_size",
    "n_init",
    "validation_fraction",
    "low_memory",
    "dtype",
)
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
            if not resume and checkpoints.listed():
                raise ValueError(
                    f"{folder} holds checkpoints of an earlier run: go on from there with resume=True, or give another "
                    "folder"
                )
        yield checkpoints, checkpoints.newest(x.device) if resume else None
    finally:
        checkpoints.close()


def _identity(x: AbstractRows, parameters: dict[str, Any]) -> dict[str, Any]:
    annealing, seed = parameters["annealing"], parameters["random_state"]
    first = bytes_of(next(x.split(SAMPLE)).cpu().contiguous().numpy())
    return {
        "version": version("sparsentropy"),
        "data": [*x.shape, str(x.dtype), x.typical_size(), hashlib.sha256(first).hexdigest()[:16]],
        "annealing": annealing if annealing is None or isinstance(annealing, str) else type(annealing).__name__,
        "random_state": int(seed) if isinstance(seed, int) else None,
        "kept": parameters["cache"] != "none",
        "process": [x.team.rank, x.team.size],
    } | {name: parameters[name] for name in DECISIVE}
