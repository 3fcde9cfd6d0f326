"""A temporary file that grows. It has no name, so nothing is left of it when the program ends, however it ends."""

import os
import tempfile
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of an array that is in one piece."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def read_at(descriptor: int, begin: int, shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
    """Numbers that lie in an open file from a byte on.

    Raises
    ------
    EOFError
        If the file ends before they do.
    OSError
        If it cannot be read.
    """
    found = np.empty(shape, dtype)
    rest = bytes_of(found)
    while len(rest):  # one call may read less than it was asked for
        count = os.preadv(descriptor, [rest], begin)
        if count == 0:
            raise EOFError("the file ends too early")
        rest, begin = rest[count:], begin + count
    return found


@final
class Scratch:
    """Numbers that are written one after the other, and read again from where they lie.

    Parameters
    ----------
    folder : path, optional
        Where the disk is; by default where the system keeps temporary files.
    what : str
        What is written, for messages.

    Raises
    ------
    OSError
        If no file can be made there.

    Examples
    --------
    >>> file = Scratch(None, "numbers")
    >>> file.append(np.arange(3.0)), file.append(np.arange(4.0))
    (0, 24)
    >>> file.read(24, (2, 2), np.dtype(float)).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(self, folder: str | os.PathLike[str] | None, what: str) -> None:
        self.place, self.what, self.size = Path(folder or tempfile.gettempdir()), what, 0
        try:
            with tempfile.TemporaryFile(dir=self.place) as file:
                self.number = os.dup(file.fileno())
        except OSError as error:
            raise self._refusal(error) from None

    def append(self, array: NDArray[Any]) -> int:
        """Write an array, and say where it begins.

        Raises
        ------
        OSError
            If the disk is full.
        """
        begin, rest = self.size, bytes_of(np.ascontiguousarray(array))
        self.put(rest, begin)
        self.size += len(rest)
        return begin

    def put(self, numbers: memoryview, begin: int) -> None:
        """Write from a byte on.

        Raises
        ------
        OSError
            If the disk is full.
        """
        try:
            while len(numbers):
                count = os.pwrite(self.number, numbers, begin)
                numbers, begin = numbers[count:], begin + count
        except OSError as error:
            raise self._refusal(error) from None

    def read(self, begin: int, shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
        """Numbers that were written."""
        return read_at(self.number, begin, shape, dtype)

    def descriptor(self) -> int:
        """One more of the open file, which may outlive this object."""
        return os.dup(self.number)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

    def _refusal(self, error: OSError) -> OSError:
        return type(error)(
            f"{self.what} could not be written to a temporary file in {self.place} ({error.strerror or error}); make "
            "room there, or set the environment variable TMPDIR to a folder on a larger disk"
        )
