"""Numbers from files: .npy, .npz, .mat, .csv and .parquet.

Only numbers are read. Nothing is ever unpickled, so a data file from a stranger cannot run code, and a
table with a text column is refused by the name of that column instead of being half understood.
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import checks

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def load_array(path: str | os.PathLike[str], *, key: str | None = None, mmap: bool = False) -> np.ndarray:
    """Read one array of numbers; the suffix of the file says how.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz``, ``.mat`` (up to version 7), ``.csv`` (separated by commas; a first line of
        numbers is data, unless it is the 0, 1, 2, … that pandas writes for columns without names) or
        ``.parquet``. Tables must hold numeric columns only.
    key : str or None
        Name of the array in a ``.npz`` or ``.mat`` file; not needed when the file holds just one.
    mmap : bool
        True leaves a ``.npy`` file on disk and reads only the rows that are used.

    Returns
    -------
    ndarray
        The numbers in their stored shape; arrays keep their dtype, tables become float64 of shape (n, d) with
        NaN for missing values.

    Raises
    ------
    FileNotFoundError
        When the file does not exist.
    ValueError
        When the file is damaged, of another kind, or holds anything but real numbers.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from sparsentropy.datasets import load_array
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "x.npy", np.eye(2))
    ...     load_array(Path(folder) / "x.npy")
    array([[1., 0.],
           [0., 1.]])
    """
    file = checks.file("path", path)
    suffix = file.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{file} ends in {suffix or 'no suffix'!r}; expected one of {', '.join(READERS)}")
    if key is not None and suffix not in (".npz", ".mat"):
        raise ValueError(f"key is only used with .npz and .mat files, got {key!r} for {file}; leave it out")
    if mmap and suffix != ".npy":
        raise ValueError(f"mmap needs a .npy file, got {file}; convert it with numpy.save or leave mmap out")
    array = READERS[suffix](file, key)
    return checked(file, array if mmap else np.array(array))


def checked(file: Path, array: np.ndarray) -> np.ndarray:
    """Return ``array`` if it holds real numbers."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{file} holds values of type {array.dtype}; expected real numbers, save it as floats")
    if array.size == 0 or array.ndim == 0:
        raise ValueError(f"{file} holds an array of shape {array.shape}; expected at least one row of numbers")
    return array


def read_npy(file: Path, key: str | None) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped."""
    del key
    # A damaged header can claim any size; mapping compares it with the file before memory is taken.
    with checks.reading(file, "a .npy array of numbers"):
        return np.load(file, mmap_mode="r", allow_pickle=False)


def read_npz(file: Path, key: str | None) -> np.ndarray:
    """Return one array of a .npz file."""
    with checks.reading(file, "a .npz archive"), zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    name = choose(file, names, key)
    with checks.reading(file, f"a .npz archive with numbers in {name!r}"), np.load(file) as archive:
        return archive[name]


def read_mat(file: Path, key: str | None) -> np.ndarray:
    """Return one variable of a MATLAB file."""
    from scipy.io import loadmat  # imported late: only MATLAB files need it

    with file.open("rb") as stream:
        start = stream.read(520)
    # MATLAB puts 512 bytes of its own in front of the HDF5 signature; other programs put none.
    if HDF5_SIGNATURE in (start[:8], start[512:]):
        raise ValueError(f"{file} is a MATLAB 7.3 (HDF5) file; save it again in MATLAB with save(…, '-v7')")
    with checks.reading(file, "a MATLAB file"):
        variables = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
    return np.asarray(variables[choose(file, list(variables), key)])


def choose(file: Path, names: list[str], key: str | None) -> str:
    """Return the name asked for, or the only one there is."""
    listed = ", ".join(repr(name) for name in names) or "nothing"
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise ValueError(f"{file} holds {listed}; say which with key=")
    if key not in names:
        raise ValueError(f"{file} holds {listed}, not {key!r}; choose one of those as key=")
    return key


def read_csv(file: Path, key: str | None) -> np.ndarray:
    """Return the numeric columns of a .csv file."""
    import pandas as pd  # imported late: it is slow and only tables need it

    del key
    with checks.reading(file, "a .csv table"):
        first = pd.read_csv(file, header=None, nrows=1)
        frame = pd.read_csv(file, header=0 if is_header(first) else None, low_memory=False)
    return frame_values(file, frame)


def is_header(first: Any) -> bool:
    """Say whether a data frame of the first line holds names rather than numbers."""
    if any(kind.kind not in "iuf" for kind in first.dtypes):
        return True
    # pandas names unnamed columns 0, 1, 2, …
    return first.shape[1] > 1 and first.iloc[0].tolist() == list(range(first.shape[1]))


def read_parquet(file: Path, key: str | None) -> np.ndarray:
    """Return the numeric columns of a .parquet file."""
    import pandas as pd  # imported late: it is slow and only tables need it

    del key
    with checks.reading(file, "a .parquet table"):
        frame = pd.read_parquet(file, engine="pyarrow")
    return frame_values(file, frame)


def frame_values(file: Path, frame: Any) -> np.ndarray:
    """Return a data frame as (n, d) float64, refusing text columns and a stray index by name."""
    from pandas.api.types import is_numeric_dtype

    if frame.empty:
        raise ValueError(f"{file} holds no rows; expected a table with one row or more")
    columns = zip(frame.columns, frame.dtypes, strict=True)
    text = [str(name) for name, kind in columns if not is_numeric_dtype(kind)]
    if text:
        raise ValueError(f"{file} has columns that are not numeric: {', '.join(text)}; drop or encode them first")
    unnamed = [str(name) for name in frame.columns if str(name).startswith("Unnamed: ")]
    if unnamed:
        raise ValueError(f"{file} has a column without a name, probably row numbers; write it with index=False")
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


READERS: Mapping[str, Callable[[Path, str | None], np.ndarray]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".mat": read_mat,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
