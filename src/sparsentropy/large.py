"""Tables that are not read into memory: large files, and arrays that come in pieces.

What is opened here is a source of rows (`rows`); it can be learned from, and everything else is done to it a few
megabytes at a time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsentropy import rows
from sparsentropy.datasets import csv_batches, load_array, parquet_batches, parquet_files
from sparsentropy.rows import AbstractSource

HELD_OUT = 100_000  # rows at most
ZARR = ("zarr.json", ".zarray")  # what a folder that is an array of zarr has in it


def opened(path: Path, columns: Sequence[str] | None = None) -> AbstractSource | None:
    """The table in a large .npy, .csv or .parquet file, a folder of .parquet files or an array of zarr; or None.

    Parameters
    ----------
    path : Path
        What exists.
    columns : sequence of str, optional
        Which columns of a .csv or .parquet file, and in which order; all of them by default.

    Returns
    -------
    AbstractSource, optional

    Raises
    ------
    ImportError, OSError, TypeError, ValueError
        If it cannot be read, or holds anything but numbers.
    """
    if any((path / name).is_file() for name in ZARR):
        return rows.source_of(_zarr(path))
    files = parquet_files(path)
    if files and (path.is_dir() or path.stat().st_size > rows.MEMORY):
        return rows.spool(parquet_batches(files, columns=columns))
    if path.suffix.lower() == ".csv" and path.stat().st_size > rows.MEMORY:
        return rows.spool(csv_batches(path, columns=columns))
    if path.suffix.lower() == ".npy" and path.stat().st_size > rows.MEMORY:
        array = load_array(path, mmap=True)
        return rows.source_of(array) if array.ndim == 2 else None
    return None


def _zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError:
        raise ImportError(f"{path} is an array of zarr, which is not installed; pip install zarr") from None
    found = zarr.open(str(path), mode="r")
    if not hasattr(found, "chunks"):
        raise ValueError(f"{path} is a group of zarr; give the folder of one of its arrays")
    return found


def apart(source: AbstractSource, share: float, seed: int) -> tuple[AbstractSource, NDArray[Any] | None]:
    """A source without some random rows, and these, in memory: that share of all, or as many as are enough.

    Parameters
    ----------
    source : AbstractSource
    share : float
    seed : int

    Returns
    -------
    AbstractSource, and ndarray or None
    """
    n = source.shape[0]
    count = min(round(share * n), HELD_OUT)
    if count == 0:
        return source, None
    chosen = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
    return rows.Without(source, chosen), source.pick(chosen)


def sample(source: AbstractSource, seed: int = 0) -> NDArray[Any]:
    """Random rows of a source, as many as may be held in memory."""
    n, d = source.shape
    count = min(n, max(1, rows.MEMORY // (8 * d)))
    return source.pick(np.sort(np.random.default_rng(seed).choice(n, count, replace=False)))
