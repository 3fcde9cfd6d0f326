"""Tables that are too large to read at once: .csv and .parquet files, and folders of these, batch by batch.

Only numbers are read, as in `tables`, and all files of a folder must have the same columns.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import checks
from .csv_files import CsvTable
from .tables import csv_columns, frame_values, parquet_columns, parquet_frame

ROWS = 65_536


def csv_batches(file: Path, *, columns: Sequence[str] | None = None) -> Iterator[np.ndarray]:
    """Read the numeric columns of a .csv file.

    Parameters
    ----------
    file : Path
    columns : sequence of str, optional
        Which ones, by their names, and in which order; all of them by default.

    Yields
    ------
    ndarray, shape (n, d)
        Float64, NaN for missing values.

    Raises
    ------
    FileNotFoundError
        When the file does not exist.
    ValueError
        When it holds anything but numbers, has no such columns, or can be understood in two ways.
    """
    table = CsvTable.open(checks.file("path", file))
    yield from table.numbers(csv_columns(table, columns))


def parquet_batches(
    files: list[Path], *, rows: int = ROWS, columns: Sequence[str] | None = None
) -> Iterator[np.ndarray]:
    """Read the numeric columns of .parquet files.

    Parameters
    ----------
    files : list of Path
    rows : int
        Most rows of a batch.
    columns : sequence of str, optional
        Which ones, by their names, and in which order; all of them by default.

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
    return (frame_values(file, frame, columns) for file, frame in parquet_frames(files, rows=rows))


def parquet_frames(files: list[Path], *, rows: int = ROWS) -> Iterator[tuple[Path, Any]]:
    """Read all columns of .parquet files as data frames, whose integers stay integers where values are missing.

    Parameters
    ----------
    files : list of Path
    rows : int
        Most rows of a frame.

    Yields
    ------
    tuple of Path and pandas.DataFrame
        The file, and some of its rows.

    Raises
    ------
    FileNotFoundError
        When a file does not exist.
    ValueError
        When a file is damaged, or has other columns than the first.
    """
    import pyarrow.parquet  # imported late: only tables need it

    first: list[str] | None = None
    for file in files:
        parquet_columns(file)
        with checks.reading(file, "a .parquet table"):
            table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        first = names if first is None else first
        if names != first:
            raise ValueError(
                f"{file} has the columns {checks.listed(names)}, but {files[0]} has {checks.listed(first)}; "
                "all files of a folder must have the same ones"
            )
        with table:
            batches = table.iter_batches(batch_size=rows)
            while True:
                with checks.reading(file, "a .parquet table"):
                    batch = next(batches, None)
                    frame = None if batch is None else parquet_frame(batch)
                if frame is None:
                    break
                yield file, frame
