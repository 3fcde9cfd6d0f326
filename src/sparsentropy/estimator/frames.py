"""Tables that come out as they went in: a data frame for a data frame, with its names, its index and its types.

What was observed is given back bit by bit, whatever type the model computes in.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsentropy.inputs import untensored
from sparsentropy.rows import unmasked

Array = NDArray[Any]
WHOLE = 2**53  # up to which float64 holds every integer


def filled(given: Any, missing: NDArray[np.bool_], values: Array) -> Any:
    """A table as it was given, with these values where they are missing.

    Parameters
    ----------
    given : array-like or data frame, shape (n, d)
    missing : ndarray of bool, shape (n, d)
    values : ndarray, shape (n, d)

    Returns
    -------
    ndarray or data frame
        Of the type of what was given; integers of which any are missing become float64, as half floats do.

    Raises
    ------
    ValueError
        If integers that no float holds are beside missing values.

    Examples
    --------
    >>> filled([[1.5, np.nan]], np.array([[False, True]]), np.array([[0.0, 2.5]]))
    array([[1.5, 2.5]])
    """
    if _is_pandas(given):
        return _filled_pandas(given, missing, values)
    if _is_polars(given):
        return _filled_polars(given, missing, values)
    known = given.data if isinstance(given, np.ma.MaskedArray) else np.asarray(unmasked(untensored(given)))
    return _merged(known, missing, values)


def like(given: Any, values: Array) -> Any:
    """Numbers (n, d) in a data frame like the one that was given; as they are if that is none."""
    if _is_pandas(given):
        import pandas as pd  # imported late: whoever has given a data frame of it has it

        return pd.DataFrame(values, index=given.index, columns=given.columns)
    if _is_polars(given):
        return type(given)(values, schema=given.columns)
    return values


def wished(table: Any, wish: str, names: Sequence[str]) -> Any:
    """A table of the kind that `set_output` asks for: "pandas", "polars", or "default", which leaves it as it is."""
    if wish == "pandas" and not _is_pandas(table):
        import pandas as pd  # imported late: it is slow, and only data frames need it

        return pd.DataFrame(np.asarray(table), columns=list(names))
    if wish == "polars" and not _is_polars(table):
        import polars as pl  # imported late: not everybody has it

        return pl.DataFrame(np.asarray(table), schema=list(names))
    return table


def joined(parts: Sequence[Any]) -> Any:
    """Tables of one kind, one below the other."""
    if len(parts) == 1:
        return parts[0]
    if _is_pandas(parts[0]):
        import pandas as pd

        return pd.concat(parts)
    if _is_polars(parts[0]):
        import polars as pl

        return pl.concat(parts, how="vertical_relaxed")
    return np.concatenate(parts)


def _is_pandas(table: Any) -> bool:
    return "pandas" in sys.modules and isinstance(table, sys.modules["pandas"].DataFrame)


def _is_polars(table: Any) -> bool:
    return "polars" in sys.modules and isinstance(table, sys.modules["polars"].DataFrame)


def _filled_pandas(given: Any, missing: NDArray[np.bool_], values: Array) -> Any:
    import pandas as pd

    result = given.copy()
    for j in np.flatnonzero(missing.any(0)).tolist():
        column = given.iloc[:, j]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind == "f":
            known = column.to_numpy()
        else:
            known = column.to_numpy(dtype=object, na_value=np.nan)
        merged = _merged(known, missing[:, j], values[:, j], str(given.columns[j]))
        kept = pd.api.types.is_float_dtype(column.dtype) and not isinstance(column.dtype, pd.SparseDtype)
        result.isetitem(j, pd.Series(merged, index=given.index, dtype=column.dtype if kept else None))
    return result


def _filled_polars(given: Any, missing: NDArray[np.bool_], values: Array) -> Any:
    import polars as pl

    columns = []
    for j in np.flatnonzero(missing.any(0)).tolist():
        column = given[:, j]
        known = column.to_numpy() if column.dtype.is_float() else np.array(column.to_list(), object)
        columns.append(pl.Series(column.name, _merged(known, missing[:, j], values[:, j], column.name)))
    return given.with_columns(columns)


def _merged(known: Array, missing: NDArray[np.bool_], values: Array, name: str | None = None) -> Array:
    """An array in which what is missing is filled in, and nothing else changes."""
    if not missing.any():
        return known.copy()
    if known.dtype.kind != "f":
        large = known[~missing]
        if known.dtype.kind == "O":
            large = np.array([value if isinstance(value, int | np.integer) else 0 for value in large], object)
        if (large > WHOLE).any() or (large < -WHOLE).any():
            where = "" if name is None else f" in column {name!r}"
            raise ValueError(
                f"X holds integers above 2**53{where} beside missing values, and no float holds these: leave them out."
            )
    merged = np.array(known, known.dtype if known.dtype.kind == "f" and known.dtype.itemsize >= 4 else np.float64)
    merged[missing] = values[missing]
    return merged
