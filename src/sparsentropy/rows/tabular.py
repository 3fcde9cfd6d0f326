"""What users hand in as a table: the names of its columns, values that are masked, and dates, which are no numbers.

Data frames of pandas, polars and pyarrow are known by what they have, and none of these libraries is imported for it.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np

DATES = (dt.date, dt.time, dt.timedelta, np.datetime64, np.timedelta64)


def names_of(X: Any) -> tuple[Any, ...] | None:
    """The names of the columns of a data frame; None if they have none but numbers, or X is none.

    Examples
    --------
    >>> import pandas as pd
    >>> names_of(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    ('a', 'b')
    """
    found = getattr(X, "column_names", getattr(X, "columns", None))  # pyarrow has its data in columns
    if hasattr(X, "iloc") and found is not None:
        found = list(found)
    if not isinstance(found, list) or not any(isinstance(name, str) for name in found):
        return None
    return tuple(found)


def unmasked(X: Any) -> Any:
    """A masked array as an array that is NaN where it is masked, also within lists; anything else as it is.

    Examples
    --------
    >>> unmasked(np.ma.MaskedArray([[1, 2]], [[False, True]]))
    array([[ 1., nan]])
    """
    if isinstance(X, np.ma.MaskedArray):
        if not np.ma.is_masked(X):
            return X.data
        if X.dtype.kind in "biu" or X.dtype == np.float16:
            X = X.astype(np.float64)
        return X.filled(np.nan) if X.dtype.kind in "fcO" else X.data
    if isinstance(X, list | tuple) and any(_is_masked(row) for row in X):
        return [unmasked(row) for row in X]
    return X


def _is_masked(row: Any) -> bool:
    if isinstance(row, list | tuple):
        return any(isinstance(value, np.ma.MaskedArray) for value in row)
    return isinstance(row, np.ma.MaskedArray)


def check_dates(what: str, X: Any) -> None:
    """Refuse dates, times and durations, which would become counts of nanoseconds.

    Parameters
    ----------
    what : str
        What X is called in messages.
    X : array-like or data frame

    Raises
    ------
    TypeError
        If any are in it; of a data frame the columns are named.
    """
    found = dict(_dates(X))
    if not found:
        return
    kind = next(iter(found.values()))
    where = f" in column {', '.join(map(repr, found))}" if None not in found else ""
    raise TypeError(
        f"{what} holds dates or times{where} ({kind}), but real numbers were expected: leave them out, or turn them "
        "into numbers, the days since a date for example."
    )


def _dates(X: Any) -> Iterator[tuple[Any, str]]:
    """Columns of dates, None for all of an array, and of which type they are."""
    if hasattr(X, "iloc") and hasattr(X, "dtypes") and hasattr(X, "columns"):
        for j, (name, kind) in enumerate(zip(X.columns, X.dtypes, strict=True)):
            values = X.iloc[:, j].to_numpy() if str(kind) == "object" else getattr(kind, "categories", ())
            if getattr(kind, "kind", None) in ("m", "M") or any(isinstance(value, DATES) for value in values):
                yield name, str(kind)
    elif hasattr(X, "schema"):  # of polars, or of pyarrow
        schema = X.schema
        pairs = schema.items() if hasattr(schema, "items") else zip(schema.names, schema.types, strict=True)
        for name, kind in pairs:
            if str(kind).lower().startswith(("date", "time", "duration", "timestamp", "interval")):
                yield name, str(kind)
    else:
        kind = getattr(X, "dtype", None)
        if getattr(kind, "kind", None) in ("m", "M"):
            yield None, str(kind)
        elif str(kind) == "object" or isinstance(X, list | tuple):
            values = X.flat if isinstance(X, np.ndarray) else _flat(X)
            if (one := next((value for value in values if _is_date(value)), None)) is not None:
                yield None, str(getattr(one, "dtype", type(one).__name__))


def _is_date(value: Any) -> bool:
    return isinstance(value, DATES) or getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M")


def _flat(X: Any) -> Iterator[Any]:
    """Everything in lists of lists."""
    for value in X if isinstance(X, list | tuple) else ():
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value
