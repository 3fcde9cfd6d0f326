"""Learning from a file that is never held in memory, beside learning from the same rows in memory."""

import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from child import measured
from sparsentropy import SparseCoding
from table import Table

ROWS, D, ATOMS, WHOLE, TOL = 10_000_000, 64, 32, 3, 0.05
BLOCK = 100_000
CACHES = (("memory", "memory"), ("file", "disk"), ("file", "none"))
NOTES = f"""\
{ROWS:,} rows of {D} float32 numbers ({ROWS * D * 4 / 1e9:.1f} GB), drawn from the model with {ATOMS} atoms, learned
with as many by `SparseCoding(tol={TOL})` until {WHOLE} sweeps over all rows are done; each row of the table is a
process of its own. *Rows/s*: of these sweeps, the first of which finds all posteriors from nothing. *Memory*: the most
that was resident beyond what the process had with everything imported; data that are in memory are counted. Posteriors
are kept in memory, in a temporary file, or nowhere."""
COLUMNS = ("rows in", "posteriors in", "rows/s", "of memory's", "MB", "bound")


def run(*, quick: bool) -> Iterator[list[Table]]:
    n = 20_000 if quick else ROWS
    table = Table(
        "Data larger than memory", NOTES, ("rows in", "posteriors in", "rows/s", "of memory's", "MB", "bound")
    )
    table.begin()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "rows.npy"
        write(path, n)
        best = None
        for place, cache in CACHES:
            found = measured(nothing, learned, str(path), place, cache, n)
            rate, bound = found.value
            best = rate if best is None else best
            table.add(place, cache, f"{rate:,.0f}", f"{rate / best:.0%}", f"{found.megabytes:,.0f}", f"{bound:.4f}")
            yield [table]


def write(path: Path, n: int, dtype: Any = np.float32) -> None:
    """Laplace codes, atoms of unit length at random, noise 0.3."""
    draw = np.random.default_rng(0)
    dictionary = draw.normal(size=(ATOMS, D))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    file = np.lib.format.open_memmap(path, "w+", dtype, (n, D))
    for begin in range(0, n, BLOCK):
        rows = file[begin : begin + BLOCK]
        rows[:] = draw.laplace(size=(len(rows), ATOMS)) @ dictionary + 0.3 * draw.normal(size=rows.shape)
    file.flush()


def nothing(*options: Any) -> None:
    """There is nothing to prepare: reading the data is a part of what is measured."""
    del options


def learned(ready: None, path: str, place: str, cache: str, n: int) -> tuple[float, float]:
    """Rows/s of the whole sweeps, and the last bound."""
    del ready
    x = np.load(path, mmap_mode="r" if place == "file" else None)
    whole, last = [], time.perf_counter()

    def tell(progress: Any) -> bool:
        nonlocal last
        now = time.perf_counter()
        if progress.rows == n:
            whole.append(now - last)
        last = now
        return len(whole) == WHOLE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SparseCoding(ATOMS, tol=TOL, random_state=0, cache=cache, callback=tell).fit(x)
    return len(whole) * n / sum(whole), model.lower_bound_
