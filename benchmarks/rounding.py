"""How far two processes end from one, beside what the last digit of the data does, and how that shrinks."""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from table import Table

ROWS, NOISE, SEEDS = 20_000, 0.1, 3
SHAPES = ((16, 16), (32, 16))  # dimensions, and atoms
TOLERANCES = (1e-3, 1e-6)
NOTES = f"""\
{ROWS:,} rows of float64 numbers, drawn from the model with noise {NOISE:g} and learned with as many atoms by
`SparseCoding(tol=...)` until it has converged, for {SEEDS} seeds; torchrun starts the processes. *Atoms*: the largest
difference of an entry of the dictionary, whose atoms have unit length, between two processes and one: the median of the
seeds, and the largest. *Bound*: the largest difference of the final bounds, in nats per data point. *Last digit*: the
same for one process, and data in which the last binary digit of every number was changed."""
COLUMNS = ("dimensions", "atoms", "tol", "atoms, median", "atoms, largest", "bound", "last digit: atoms, largest")


def run(*, quick: bool) -> Iterator[list[Table]]:
    n, seeds = (1_000, 1) if quick else (ROWS, SEEDS)
    table = Table("Two processes and one", NOTES, COLUMNS).begin()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for (d, h), tol in product(SHAPES, TOLERANCES):
            found = {
                name: _learned_by(processes, Path(folder) / f"{name}.npz", n, d, h, tol, seeds, name)
                for name, processes in (("one", 1), ("two", 2), ("digit", 1))
            }
            two, digit = (_differences(found["one"], found[name]) for name in ("two", "digit"))
            atoms = f"{np.median(two[0]):.0e}", f"{two[0].max():.0e}"
            table.add(f"{d}", f"{h}", f"{tol:g}", *atoms, f"{two[1].max():.0e}", f"{digit[0].max():.0e}")
            yield [table]


def _learned_by(processes: int, path: Path, *options: Any) -> dict[str, np.ndarray]:
    call = [sys.executable, __file__, str(path), *map(str, options)]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        call = [sys.executable, *launch, *call[1:]]
    environment = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    subprocess.run(call, env=environment, check=True)
    with np.load(path) as found:
        return dict(found)


def _differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of the dictionaries and of the bounds, for each seed."""
    return np.abs(one["atoms"] - other["atoms"]).max((1, 2)), np.abs(one["bounds"] - other["bounds"])


def rows(n: int, d: int, h: int, seed: int) -> np.ndarray:
    """Laplace codes, atoms of unit length at random, and noise."""
    draw = np.random.default_rng(seed)
    dictionary = draw.normal(size=(d, h))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    return draw.laplace(size=(n, h)) @ dictionary.T + NOISE * draw.normal(size=(n, d))


def _learn(path: str, n: int, d: int, h: int, tol: float, seeds: int, name: str) -> None:
    from sklearn.exceptions import ConvergenceWarning

    from sparsentropy import SparseCoding

    warnings.simplefilter("error", ConvergenceWarning)
    models = []
    for seed in range(seeds):
        x = rows(n, d, h, seed)
        if name == "digit":
            x = np.nextafter(x, np.random.default_rng(seed).choice([-np.inf, np.inf], x.shape))
        together = "same" if name == "two" else None
        models.append(SparseCoding(h, tol=tol, max_iter=1000, random_state=0, distributed=together).fit(x))
    if os.environ.get("RANK", "0") == "0":
        bounds = np.array([model.lower_bound_ for model in models])
        np.savez(path, atoms=np.stack([model.components_ for model in models]), bounds=bounds)


if __name__ == "__main__":
    path, n, d, h, tol, seeds, name = sys.argv[1:]
    _learn(path, int(n), int(d), int(h), float(tol), int(seeds), name)
