"""A stream of batches, written to a temporary file as it comes.

Learning passes over its data many times, always in the same order, and a stream can do neither: what it gives is kept
on the disk. The file has no name, so that nothing is left of it when the program ends, however it ends.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from sparsentropy.rows.scratch import Scratch
from sparsentropy.rows.sources import File
from sparsentropy.rows.tabular import check_dates, names_of, unmasked


def is_stream(X: Any) -> bool:
    """Whether X gives batches one after the other, as a generator or a torch DataLoader does, and is no array."""
    if isinstance(X, str | bytes | list | tuple | dict | set | frozenset):
        return False
    known = ("__array__", "__array_interface__", "iloc", "columns", "shape", "toarray")
    return isinstance(X, Iterable) and not any(hasattr(X, name) for name in known)


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of a stream.

    Parameters
    ----------
    given : array-like
        As it came, without its labels.
    array : ndarray, shape (n, d)
        The same as floating point numbers.
    names : tuple, optional
        Of its columns, if it is a data frame.
    """

    given: Any
    array: NDArray[Any]
    names: tuple[Any, ...] | None


def read_batches(X: Iterable[Any]) -> Iterator[Batch]:
    """The batches of a stream that have any rows.

    Raises
    ------
    TypeError, ValueError
        If one of them is no table of real numbers, or has other columns than the first.
    """
    first = None
    for number, labelled in enumerate(X):
        what = f"batch {number} of X"
        known = isinstance(labelled, list | tuple) and len(labelled) and np.ndim(labelled[0]) == 2
        given = labelled[0] if known else labelled
        batch = Batch(given, _array_of(what, given), names_of(given))
        first = batch if first is None else first
        d = first.array.shape[1]
        if batch.array.shape[1] != d:
            raise ValueError(f"{what} has {batch.array.shape[1]} columns, but those before have {d}.")
        if batch.names != first.names:
            here, before = (
                "no names" if names is None else f"the names {', '.join(map(str, names))}"
                for names in (batch.names, first.names)
            )
            raise ValueError(
                f"the columns of {what} have {here}, but those before have {before}: give the same columns in the same "
                "order in every batch."
            )
        if len(batch.array):
            yield batch


def batches_of(X: Iterable[Any]) -> Iterator[NDArray[Any]]:
    """The batches of a stream as arrays (n, d) of floating point numbers; of labelled ones the data.

    Raises
    ------
    TypeError, ValueError
        If one of them is no table of real numbers, or has other columns than the first.
    """
    return (batch.array for batch in read_batches(X))


def _array_of(what: str, given: Any) -> NDArray[Any]:
    """A batch as floating point numbers."""
    check_dates(what, given)
    array = np.asarray(unmasked(given.detach().cpu() if isinstance(given, torch.Tensor) else given))
    if array.dtype.kind == "O" and hasattr(given, "iloc"):
        array = _frame_values(what, given)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} holds {array.dtype}, but real numbers were expected: convert it.")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{what} must have shape (n, d), several rows; got {array.shape}.")
    return array if array.dtype.kind == "f" and array.dtype.itemsize >= 4 else array.astype(np.float64)


def _frame_values(what: str, frame: Any) -> NDArray[Any]:
    """A data frame of pandas whose columns are of several types; what is missing becomes NaN."""
    try:
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} holds something else than real numbers: {' '.join(str(error).split())}.") from None


def spool(
    batches: Iterable[NDArray[Any]],
    folder: str | os.PathLike[str] | None = None,
    names: tuple[Any, ...] | None = None,
) -> File:
    """Write batches to a temporary file and give it back as a source.

    Parameters
    ----------
    batches : iterable of ndarray, each (n, d)
        Floating point numbers; the first of them decides the type.
    folder : path, optional
        Where the file is; by default where the system keeps temporary files.
    names : tuple, optional
        Of the columns.

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
    shape, dtype = (n, first.shape[1]), first.dtype.newbyteorder("=")
    return File("the temporary copy of X", file.descriptor(), 0, shape, dtype, names)
