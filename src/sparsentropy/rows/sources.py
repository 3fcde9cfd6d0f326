"""Arrays that are not in memory, read a piece at a time.

A file of numbers is read by its position in the file and never mapped, so that nothing of it stays in memory; that is
how a numpy memory map is read, too, unless it has changes of its own or is not in one piece. Anything else that has a
shape and gives slices is asked for slices: arrays of zarr and h5py are.
"""

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sparsentropy.rows.scratch import read_at
from sparsentropy.rows.tabular import unmasked

NEAR = 16  # rows between two that are read in one piece with what lies between


class AbstractSource(ABC):
    """Numbers (n, d) that stay where they are."""

    shape: tuple[int, int]
    dtype: np.dtype
    names: tuple[Any, ...] | None = None  # of the columns, if they have any

    @abstractmethod
    def read(self, begin: int, end: int) -> NDArray[Any]:
        """Rows from `begin` up to `end`, as an array that may be changed.

        Raises
        ------
        OSError, ValueError
            If they are no longer there.
        """

    def __len__(self) -> int:
        return self.shape[0]

    def pick(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """Rows of these numbers, which ascend."""
        found = np.empty((len(index), self.shape[1]), self.dtype)
        cuts = np.flatnonzero(np.diff(index) > NEAR) + 1
        for run in np.split(np.arange(len(index)), cuts) if len(index) else ():
            first, last = int(index[run[0]]), int(index[run[-1]]) + 1
            found[run] = self.read(first, last)[index[run] - first]
        return found


@final
@dataclass(frozen=True, eq=False)
class File(AbstractSource):
    """Numbers in a file, row after row, from a byte on.

    Parameters
    ----------
    name : str
        What the file is called in messages.
    descriptor : int
        Of the open file, closed with this object; so it is read even if its name is gone.
    offset : int
        Bytes before the first number.
    shape : tuple of int
    dtype : numpy dtype
    names : tuple, optional
        Of the columns.
    """

    name: str
    descriptor: int
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype
    names: tuple[Any, ...] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], offset: int, shape: tuple[int, int], dtype: np.dtype) -> "File":
        """A file that has a name."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise type(error)(
                f"{path} cannot be read ({error.strerror}); it must stay while its rows are used"
            ) from None
        return cls(str(path), descriptor, offset, shape, dtype)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """See `AbstractSource`."""
        try:
            at = self.offset + begin * self._row
            return read_at(self.descriptor, at, (end - begin, self.shape[1]), self.dtype)
        except OSError as error:
            raise type(error)(f"{self.name} cannot be read any more ({error.strerror})") from None
        except EOFError:
            raise ValueError(
                f"{self.name} ends before row {end:,} of {self.shape[0]:,}: it was cut short while it was read, "
                "or is not whole; do not change it while a model learns from it"
            ) from None

    @property
    def _row(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def __del__(self) -> None:
        os.close(self.descriptor)


@final
@dataclass(frozen=True, eq=False)
class Sliced(AbstractSource):
    """Anything with a shape and a dtype that gives slices of rows."""

    array: Any
    shape: tuple[int, int] = field(init=False)
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(length) for length in self.array.shape))
        object.__setattr__(self, "dtype", np.dtype(self.array.dtype))

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """See `AbstractSource`; a mask that comes with the numbers says what is missing."""
        found = unmasked(self.array[begin:end])
        if found.dtype != self.dtype and self.dtype.kind in "biu":
            raise ValueError("X has masked integers, but only floats can be missing (NaN): convert it.")
        return np.array(found)

    def pick(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """See `AbstractSource`; whole pieces, since each slice may be a file to unpack."""
        if isinstance(self.array, np.ndarray):
            return self.array[index]
        found, piece = np.empty((len(index), self.shape[1]), self.dtype), piece_rows(self)
        number = index // piece
        for one in np.unique(number):
            here = number == one
            begin = int(one) * piece
            found[here] = self.read(begin, min(begin + piece, self.shape[0]))[index[here] - begin]
        return found


@final
@dataclass(frozen=True, eq=False)
class Between(AbstractSource):
    """The rows of a source from one number up to another."""

    source: AbstractSource
    begin: int
    end: int
    shape: tuple[int, int] = field(init=False)
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.end - self.begin, self.source.shape[1]))
        object.__setattr__(self, "dtype", self.source.dtype)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """See `AbstractSource`."""
        return self.source.read(self.begin + begin, self.begin + end)

    def pick(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """See `AbstractSource`."""
        return self.source.pick(self.begin + index)


@final
@dataclass(frozen=True, eq=False)
class Without(AbstractSource):
    """The rows of a source but some, in their order.

    Parameters
    ----------
    source : AbstractSource
    left_out : ndarray of int
        Numbers of rows, ascending.
    """

    source: AbstractSource
    left_out: NDArray[np.intp]
    shape: tuple[int, int] = field(init=False)
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        n, d = self.source.shape
        object.__setattr__(self, "shape", (n - len(self.left_out), d))
        object.__setattr__(self, "dtype", self.source.dtype)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """See `AbstractSource`."""
        if begin >= end:
            return self.source.read(0, 0)
        first, last = (int(number) for number in self._numbers(np.array([begin, end - 1])))
        between = self.left_out[np.searchsorted(self.left_out, first) : np.searchsorted(self.left_out, last)]
        return np.delete(self.source.read(first, last + 1), between - first, axis=0)

    def pick(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """See `AbstractSource`."""
        return self.source.pick(self._numbers(index))

    def _numbers(self, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of these rows in the source: the k-th that is left out comes before the row left_out[k] − k of the others."""
        return index + np.searchsorted(self.left_out - np.arange(len(self.left_out)), index, side="right")


@final
@dataclass(frozen=True, eq=False)
class Mapped(AbstractSource):
    """Rows of a source after a change of each, which leaves their number as it is."""

    source: AbstractSource
    change: Callable[[NDArray[Any]], NDArray[Any]]
    shape: tuple[int, int] = field(init=False)
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        first = self.read(0, 1)
        object.__setattr__(self, "shape", (len(self.source), first.shape[1]))
        object.__setattr__(self, "dtype", first.dtype)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """See `AbstractSource`."""
        return self.change(self.source.read(begin, end))

    def pick(self, index: NDArray[np.intp]) -> NDArray[Any]:
        """See `AbstractSource`."""
        return self.change(self.source.pick(index))


def piece_rows(source: AbstractSource, size: int = 2**23) -> int:
    """Rows that are read together, about as many bytes as `size`; whole chunks where the array has any."""
    rows = max(1, size // max(1, source.shape[1] * source.dtype.itemsize))
    chunks = getattr(getattr(source, "array", None), "chunks", None)
    chunk = int(np.max(chunks[0])) if chunks else 1  # dask lists them all
    return max(1, rows // chunk) * chunk


def pieces(source: AbstractSource) -> Iterator[NDArray[Any]]:
    """All rows, a few megabytes at a time."""
    step, n = piece_rows(source), source.shape[0]
    return (source.read(begin, min(begin + step, n)) for begin in range(0, n, step))


def is_stored(X: Any) -> bool:
    """Whether X is a numpy memory map, or an array of zarr, h5py and the like that is read by slices."""
    if isinstance(X, AbstractSource):
        return True
    if isinstance(X, np.ndarray):
        return (
            isinstance(X, np.memmap) and _map(X) is not None and X.ndim == 2 and X.size > 0 and X.dtype.kind in "biuf"
        )
    # numpy and torch arrays, and whatever is in memory, give their numbers by these; data frames have columns
    if any(hasattr(X, name) for name in ("__array_interface__", "iloc", "detach", "columns", "toarray")):
        return False
    return all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__", "chunks"))


def source_of(X: Any) -> AbstractSource:
    """How to read what `is_stored`; a source is itself.

    Raises
    ------
    TypeError, ValueError
        If it is not a table of real numbers.
    """
    if isinstance(X, AbstractSource):
        return X
    if len(X.shape) != 2 or 0 in X.shape:
        raise ValueError(f"X must have shape (n, d), with at least one of each; got {tuple(X.shape)}.")
    try:
        dtype = np.dtype(X.dtype)
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "biuf":
        raise TypeError(f"X must hold real numbers, but its dtype is {X.dtype}: convert it.")
    if isinstance(X, np.memmap) and isinstance(X.filename, str | Path) and X.flags.c_contiguous and X.dtype.isnative:
        mapped = _map(X)
        if mapped is not None and X.mode != "c":  # changes to a private map are in memory alone
            begin = X.offset - X.offset % mmap.ALLOCATIONGRANULARITY
            start = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
            offset = begin + X.__array_interface__["data"][0] - start
            return File.open(X.filename, offset, (X.shape[0], X.shape[1]), X.dtype)
    return Sliced(X)


def _map(X: np.memmap) -> mmap.mmap | None:
    """What a view of a memory map looks at; None for what was computed from one, which is in memory."""
    return getattr(X, "_mmap", None)
