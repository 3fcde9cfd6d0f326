"""Tables that are too large to read at once: .parquet files, one or a folder of them, batch by batch.

Only numbers are read, as in `tables`, and all files of a folder must have the same columns.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import checks
from .tables import frame_values

ROWS = 65_536


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


def parquet_batches(files: list[Path], *, rows: int = ROWS) -> Iterator[np.ndarray]:
    """Read the numeric columns of .parquet files.

    Parameters
    ----------
    files : list of Path
    rows : int
        Most rows of a batch.

    Yields
    ------
    ndarray, shape (n, d)
        Float64, NaN for missing values.

    Raises
    ------
    FileNotFoundError
        When a file does not exist.
    ValueError
        When a file is damaged, holds anything but numbers, or has other columns than the first.
    """
    import pyarrow.parquet  # imported late: only tables need it

    first: list[str] | None = None
    for file in files:
        checks.file("path", file)
        with checks.reading(file, "a .parquet table"):
            table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        first = names if first is None else first
        if names != first:
            raise ValueError(
                f"{file} has the columns {', '.join(names)}, but {files[0]} has {', '.join(first)}; "
                "all files of a folder must have the same ones"
            )
        with checks.reading(file, "a .parquet table"), table:
            for batch in table.iter_batches(batch_size=rows):
                yield frame_values(file, batch.to_pandas())
