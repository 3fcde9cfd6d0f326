"""Results in files that other programs read: named columns of numbers, which come a part at a time.

There may be more of them than memory can hold, so each part is written when it comes. The file takes its name when all
of it is there.
"""

import itertools
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from sparsentropy.storage import check_output, replacing

Part = Mapping[str, np.ndarray]


def check(path: Path, kinds: tuple[str, ...], reads: Iterable[Path]) -> None:
    """Refuse a file that cannot be written, or is one of those that are read, before time is spent on it.

    Parameters
    ----------
    path : Path
        File to write.
    kinds : tuple of str
        Endings that its name may have.
    reads : iterable of Path
        Files, and folders with files, that are read; other names of these are known by the file they lead to.

    Raises
    ------
    OSError, ValueError
    """
    check_output(path, kinds)
    if not path.exists():
        return
    written = path.stat()
    for place in reads:
        for file in place.rglob("*") if place.is_dir() else [place]:
            if file.exists() and os.path.samestat(file.stat(), written):
                raise ValueError(f"{path} is one of the files to read ({file}); give another name for the result")


def write(path: Path, n: int, parts: Iterable[Part], *, exact: bool = False) -> None:
    """Write named matrices of n rows, which come a part at a time: .npz by name, .npy the only one, .csv side by side.

    Parameters
    ----------
    path : Path
        File to write, wholly or not at all.
    n : int
        Rows of all parts together.
    parts : iterable of mappings from str to ndarray, shape (·, ·)
        With the same names, widths and types.
    exact : bool
        Whether all digits go into a .csv file, so that the same numbers are read again, or nine.

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "x.npy", 3, [{"x": np.zeros((1, 2))}, {"x": np.ones((2, 2))}])
    ...     np.load(Path(folder) / "x.npy")
    array([[0., 0.],
           [1., 1.],
           [1., 1.]])
    """
    rest = iter(parts)
    with replacing(path) as file:
        first = next(rest)
        every = itertools.chain([first], rest)
        if path.suffix.lower() == ".csv":
            _write_csv(file, first, every, exact)
        else:
            writer = _write_npz if path.suffix.lower() == ".npz" else _write_npy
            writer(file, n, first, every)


def write_text(path: Path, pieces: Iterable[str], encoding: str = "utf-8") -> None:
    """Write a text, wholly or not at all.

    Parameters
    ----------
    path : Path
    pieces : iterable of str
    encoding : str

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with replacing(path) as file:
        for piece in pieces:
            file.write(piece.encode(encoding))


def _write_npy(file: IO[bytes], n: int, first: Part, parts: Iterable[Part]) -> None:
    ((name, like),) = first.items()
    _write_head(file, n, like)
    for part in parts:
        file.write(np.ascontiguousarray(part[name]).data)


def _write_head(file: IO[bytes], n: int, like: np.ndarray) -> None:
    head = np.lib.format.header_data_from_array_1_0(like) | {"shape": (n, *like.shape[1:]), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, head)


def _write_npz(file: IO[bytes], n: int, first: Part, parts: Iterable[Part]) -> None:
    """One after the other in the archive; until it is their turn the columns lie in files without a name."""
    folder = Path(file.name).parent
    with zipfile.ZipFile(file, "w") as archive, ExitStack() as open_files:
        columns = {name: open_files.enter_context(tempfile.TemporaryFile(dir=folder)) for name in first}
        for part in parts:
            for name, column in columns.items():
                column.write(np.ascontiguousarray(part[name]).data)
        for name, column in columns.items():
            column.seek(0)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_head(member, n, first[name])
                shutil.copyfileobj(column, member, 2**20)


def _write_csv(file: IO[bytes], first: Part, parts: Iterable[Part], exact: bool) -> None:
    names = [f"{name}_{i + 1}" for name, matrix in first.items() for i in range(matrix.shape[1])]
    file.write((",".join(names) + "\n").encode())
    for part in parts:
        if not exact:
            np.savetxt(file, np.concatenate(list(part.values()), axis=1), fmt="%.9g", delimiter=",")
            continue
        for rows in zip(*(_texts(matrix) for matrix in part.values()), strict=True):
            file.write((",".join(itertools.chain(*rows)) + "\n").encode())


def _texts(matrix: np.ndarray) -> Iterator[list[str]]:
    """The numbers of each row with as many digits as are needed to read the same ones again."""
    if matrix.dtype == np.float64:  # the same in half the time
        return (list(map(repr, row.tolist())) for row in matrix)
    return iter(matrix.astype(str).tolist())
