"""A stream of batches, written to a temporary file as it comes.

Learning passes over its data many times, always in the same order, and a stream can do neither: what it gives is kept
on the disk. The file has no name, so that nothing is left of it when the program ends, however it ends.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsentropy.rows.scratch import Scratch
from sparsentropy.rows.sources import File


def is_stream(X: Any) -> bool:
    """Whether X gives batches one after the other, as a generator or a torch DataLoader does, and is no array."""
    if isinstance(X, str | bytes | list | tuple | dict | set | frozenset):
        return False
    known = ("__array__", "__array_interface__", "iloc", "columns", "shape", "toarray")
    return isinstance(X, Iterable) and not any(hasattr(X, name) for name in known)


def batches_of(X: Iterable[Any]) -> Iterator[NDArray[Any]]:
    """The batches of a stream as arrays (n, d) of floating point numbers; of labelled ones the data.

    Raises
    ------
    TypeError, ValueError
        If one of them is no table of real numbers, or has another width than the first.
    """
    d = None
    for number, given in enumerate(X):
        batch = given[0] if isinstance(given, list | tuple) and len(given) and np.ndim(given[0]) == 2 else given
        array = np.asarray(batch.detach().cpu() if isinstance(batch, torch.Tensor) else batch)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"batch {number} of X holds {array.dtype}, but real numbers were expected: convert it.")
        if array.ndim != 2 or array.shape[1] == 0:
            raise ValueError(f"batch {number} of X must have shape (n, d), several rows; got {array.shape}.")
        d = array.shape[1] if d is None else d
        if array.shape[1] != d:
            raise ValueError(f"batch {number} of X has {array.shape[1]} columns, but those before have {d}.")
        if len(array):
            yield array if array.dtype.kind == "f" and array.dtype.itemsize >= 4 else array.astype(np.float64)


def spool(batches: Iterable[NDArray[Any]], folder: str | os.PathLike[str] | None = None) -> File:
    """Write batches to a temporary file and give it back as a source.

    Parameters
    ----------
    batches : iterable of ndarray, each (n, d)
        Floating point numbers; the first of them decides the type.
    folder : path, optional
        Where the file is; by default where the system keeps temporary files.

    Raises
    ------
    OSError
        If the disk is full, or the folder cannot be written to.
    ValueError
        If there are no batches.

    Examples
    --------
    >>> source = spool(np.full((2, 3), float(k)) for k in range(5))
    >>> source.shape, source.read(3, 6)[:, 0].tolist()
    ((10, 3), [1.0, 2.0, 2.0])
    """
    file, n, first = Scratch(folder, "the batches of X"), 0, None
    for batch in batches:
        first = batch if first is None else first
        file.append(np.ascontiguousarray(batch, first.dtype.newbyteorder("=")))
        n += len(batch)
    if first is None:
        raise ValueError("X gave no batches, but at least one was expected; a generator can be used only once.")
    return File("the temporary copy of X", file.descriptor(), 0, (n, first.shape[1]), first.dtype.newbyteorder("="))
