"""Numbers from files: .npy, .npz, .mat, .csv and .parquet.

Only numbers are read. Nothing is ever unpickled, so a data file from a stranger cannot run code, and a
table with a text column is refused by the name of that column instead of being half understood.
"""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from . import checks
from .csv_cells import Kind
from .csv_dialect import is_grouped
from .csv_files import CsvTable

_INTEGERS = [f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def load_array(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    mmap: bool = False,
    columns: Sequence[str] | None = None,
) -> np.ndarray:
    """Read one array of numbers; the suffix of the file says how.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz``, ``.mat`` (up to version 7), ``.csv`` or ``.parquet``. A ``.csv`` file may be separated by
        commas, semicolons, tabs, bars or single spaces, and its decimal mark may be a comma; a first line of numbers is
        data, unless it is the 0, 1, 2, … that pandas writes for columns without names. What can be understood in two
        ways is refused. Tables must hold numeric columns only.
    key : str or None
        Name of the array in a ``.npz`` or ``.mat`` file; not needed when the file holds just one.
    mmap : bool
        True leaves a ``.npy`` file on disk and reads only the rows that are used.
    columns : sequence of str, optional
        Which columns of a ``.csv`` or ``.parquet`` file, by their names, and in which order; all of them by default.

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
        When the file is damaged, of another kind, or holds anything but real numbers, or has no such columns.

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
    if suffix not in (*READERS, *TABLES):
        expected = ", ".join((*READERS, *TABLES))
        raise ValueError(f"{file} ends in {suffix or 'no suffix'!r}; expected one of {expected}")
    if key is not None and suffix not in (".npz", ".mat"):
        raise ValueError(f"key is only used with .npz and .mat files, got {key!r} for {file}; leave it out")
    if mmap and suffix != ".npy":
        raise ValueError(f"mmap needs a .npy file, got {file}; convert it with numpy.save or leave mmap out")
    if columns is not None and suffix not in TABLES:
        raise ValueError(f"columns have names in {' and '.join(TABLES)} files only, got {file}; leave columns out")
    array = TABLES[suffix](file, columns) if suffix in TABLES else READERS[suffix](file, key)
    return checked(file, array if mmap else np.array(array))


@final
@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called.

    Parameters
    ----------
    names : tuple of str
    numeric : tuple of bool
        Which of them hold numbers; the others hold text.
    """

    names: tuple[str, ...]
    numeric: tuple[bool, ...]

    @property
    def text(self) -> list[str]:
        """The names of those that hold text."""
        return [name for name, numeric in zip(self.names, self.numeric, strict=True) if not numeric]


def columns_of(path: str | os.PathLike[str]) -> Columns | None:
    r"""Read the names of the columns of a table, and no more.

    Parameters
    ----------
    path : path
        Anything that exists.

    Returns
    -------
    Columns, optional
        Of a ``.csv`` file with names, a ``.parquet`` file or a folder of these. None of all else: it has none.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged, or can be understood in two ways.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.csv"
    ...     _ = file.write_text("who,height\nAnn,1.71\nBob,1.80\n")
    ...     columns_of(file)
    Columns(names=('who', 'height'), numeric=(False, True))
    """
    found = checks.path("path", path)
    if found.is_file() and found.suffix.lower() == ".csv":
        dialect = CsvTable.open(checks.file("path", found)).dialect
        if dialect.names is None:
            return None
        return Columns(dialect.names, tuple(kind != Kind.TEXT for kind in dialect.kinds))
    files = parquet_files(found)
    return parquet_columns(files[0]) if files else None


def parquet_files(path: str | os.PathLike[str]) -> list[Path]:
    """The .parquet files in a folder, or the one that the path names, sorted; empty if there are none.

    Examples
    --------
    >>> parquet_files("table.parquet")
    [PosixPath('table.parquet')]
    """
    place = Path(path)
    if place.is_dir():
        return sorted(file for file in place.rglob("*.parquet") if file.is_file())
    return [place] if place.suffix.lower() == ".parquet" else []


def parquet_columns(file: Path) -> Columns | None:
    """The columns of a .parquet file; None if it has none but those that pandas has numbered."""
    import pandas as pd  # imported late: they are slow and only tables need them
    import pyarrow.parquet
    from pandas.api.types import is_numeric_dtype

    checks.file("path", file)
    with checks.reading(file, "a .parquet table"):
        frame = pyarrow.parquet.read_schema(file).empty_table().to_pandas()
    if frame.columns.equals(pd.RangeIndex(frame.shape[1])):
        return None
    names = tuple(str(name) for name in frame.columns)
    if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        raise ValueError(f"{file} has several columns of the name {checks.listed(twice)}; rename them")
    return Columns(names, tuple(is_numeric_dtype(kind) for kind in frame.dtypes))


def parquet_frame(table: Any) -> Any:
    """A data frame of a table of pyarrow; integers and booleans stay what they are where values are missing."""
    import pandas as pd  # imported late: they are slow and only tables need them
    import pyarrow as pa

    kinds = {getattr(pa, kind.lower())(): getattr(pd, f"{kind}Dtype")() for kind in _INTEGERS}
    return table.to_pandas(types_mapper=(kinds | {pa.bool_(): pd.BooleanDtype()}).get)


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


def read_csv(file: Path, columns: Sequence[str] | None) -> np.ndarray:
    """Return columns of a .csv file as (n, d) float64."""
    table = CsvTable.open(file)
    batches = list(table.numbers(csv_columns(table, columns)))
    if not batches:
        raise ValueError(f"{file} holds no rows; expected a table with one row or more")
    return np.concatenate(batches)


def csv_columns(table: CsvTable, names: Sequence[str] | None) -> list[int]:
    """Find columns of a .csv file by their names, all of them by default; refuse those of text."""
    dialect, file = table.dialect, table.file
    known = dialect.names or tuple(str(j + 1) for j in range(len(dialect.kinds)))
    chosen = indices(file, known, names)
    if text := [j for j in chosen if dialect.kinds[j] == Kind.TEXT]:
        example = dialect.examples[text[0]]
        advice = "write numbers without separators of thousands" if is_grouped(example) else "drop or encode them first"
        raise ValueError(
            f"{file} has columns that are not numeric: {checks.listed([known[j] for j in text])} (such as "
            f"{checks.quoted(example)}); {advice}"
        )
    return chosen


def indices(file: Path, known: Sequence[str], names: Sequence[str] | None) -> list[int]:
    """Where columns of these names are, which are all by default."""
    if names is None:
        return list(range(len(known)))
    places = {name: j for j, name in enumerate(known)}
    if absent := [name for name in names if name not in places]:
        raise ValueError(f"{file} has no columns {checks.listed(absent)}; it has {checks.listed(known)}")
    return [places[name] for name in names]


def read_parquet(file: Path, columns: Sequence[str] | None) -> np.ndarray:
    """Return columns of a .parquet file as (n, d) float64."""
    import pyarrow.parquet  # imported late: only tables need it

    parquet_columns(file)
    with checks.reading(file, "a .parquet table"):
        frame = parquet_frame(pyarrow.parquet.read_table(file))
    return frame_values(file, frame, columns)


def frame_values(file: Path, frame: Any, columns: Sequence[str] | None = None) -> np.ndarray:
    """Return columns of a data frame as (n, d) float64, refusing text columns and a stray index by name."""
    from pandas.api.types import is_numeric_dtype

    if frame.empty:
        raise ValueError(f"{file} holds no rows; expected a table with one row or more")
    frame = frame.iloc[:, indices(file, [str(name) for name in frame.columns], columns)]
    kinds = zip(frame.columns, frame.dtypes, strict=True)
    if text := [str(name) for name, kind in kinds if not is_numeric_dtype(kind)]:
        raise ValueError(f"{file} has columns that are not numeric: {checks.listed(text)}; drop or encode them first")
    unnamed = [str(name) for name in frame.columns if str(name).startswith("Unnamed: ")]
    if unnamed:
        raise ValueError(f"{file} has a column without a name, probably row numbers; write it with index=False")
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


READERS: Mapping[str, Callable[[Path, str | None], np.ndarray]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".mat": read_mat,
}
TABLES: Mapping[str, Callable[[Path, Sequence[str] | None], np.ndarray]] = {
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""Files whose columns may have names."""
