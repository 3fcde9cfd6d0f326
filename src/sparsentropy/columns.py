"""Results in files that other programs read: named columns of numbers, which come a part at a time.

There may be more of them than memory can hold, so each part is written when it comes. The file takes its name when all
of it is there.
"""

import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from sparsentropy.storage import replacing

Part = Mapping[str, np.ndarray]


def write(path: Path, n: int, parts: Iterable[Part]) -> None:
    """Write named matrices of n rows, which come a part at a time: .npz by name, .npy the only one, .csv side by side.

    Parameters
    ----------
    path : Path
        File to write, wholly or not at all.
    n : int
        Rows of all parts together.
    parts : iterable of mappings from str to ndarray, shape (·, ·)
        With the same names, widths and types.

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
    writer = {".npz": _write_npz, ".npy": _write_npy, ".csv": _write_csv}[path.suffix.lower()]
    with replacing(path) as file:
        rest = iter(parts)
        first = next(rest)
        writer(file, n, first, itertools.chain([first], rest))


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


def _write_csv(file: IO[bytes], n: int, first: Part, parts: Iterable[Part]) -> None:
    del n
    names = [f"{name}_{i + 1}" for name, matrix in first.items() for i in range(matrix.shape[1])]
    file.write((",".join(names) + "\n").encode())
    for part in parts:
        np.savetxt(file, np.concatenate(list(part.values()), axis=1), fmt="%.9g", delimiter=",")
