"""Tables with one cell that is far too large: whether learning says it has converged below a hand-made model."""

import itertools
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from sparsentropy import SparseCoding
from sparsentropy.inference import AbstractSolver, DiagonalSolver, FullSolver
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, entropy_elbo
from table import Table

D, ATOMS, NOISE, COLUMN, SWEEPS = 8, 4, 0.1, 3, 30
SIZES, CELLS, NUMBERS = (200, 500, 2000, 5000), (1e5, 3e5, 1e6, 3e6, 1e7), (4, 5, 6, 8)
SOLVERS: dict[str, AbstractSolver] = {"diagonal": DiagonalSolver(), "full": FullSolver()}
BELOW = 0.5  # nats per data point, from which on a converged model counts as wrong
NOTES = f"""\
Four Laplace sources in {D} columns with noise {NOISE:g}, and one cell replaced by 10⁵ to 10⁷, as codes of missing
values are; every size of the table with every cell and 4 to 8 atoms, each with another seed. *Hand-made*: the true
atoms, or the best of them where there is no room for all, and one for the column of the cell, with the best scales and
noise for these. *Below*: models that say they have converged with a bound more than {BELOW} nats per data point below
the hand-made one. *Not converged*: those that say so. *Worst*: the largest difference, hand-made less learned, of
converged ones. *Noise*: the median noise that is learned with 5 atoms or more."""
COLUMNS = ("posterior", "tables", "below", "not converged", "worst, nats", "noise")


def run(*, quick: bool) -> Iterator[list[Table]]:
    sizes, cells, numbers = (SIZES[:1], CELLS[2:3], NUMBERS[1:2]) if quick else (SIZES, CELLS, NUMBERS)
    table = Table("One cell that is far too large", NOTES, COLUMNS).begin()
    for posterior, solver in SOLVERS.items():
        differences, noises, unfinished = [], [], 0
        for seed, (n, cell, h) in enumerate(itertools.product(sizes, cells, numbers)):
            X, atoms = data(n, cell, seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = SparseCoding(h, posterior=posterior, random_state=0).fit(X)
            unfinished += not model.converged_
            if model.converged_:
                differences.append(hand_made(X, atoms, h, solver) - model.lower_bound_)
            if h > ATOMS:
                noises.append(model.noise_variance_**0.5)
        below, worst = sum(one > BELOW for one in differences), max(differences)
        count = len(sizes) * len(cells) * len(numbers)
        table.add(posterior, f"{count}", f"{below}", f"{unfinished}", f"{worst:.2f}", f"{np.median(noises):.3f}")
        yield [table]


def data(n: int, cell: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A table, and the atoms it was made of."""
    draw = np.random.default_rng(seed)
    atoms = draw.normal(size=(ATOMS, D))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    X = draw.laplace(size=(n, ATOMS)) @ atoms + NOISE * draw.normal(size=(n, D))
    X[draw.integers(n), COLUMN] = cell
    return X, atoms


def hand_made(X: np.ndarray, atoms: np.ndarray, h: int, solver: AbstractSolver) -> float:
    """The bound of the best hand-made model with so many atoms."""
    chosen = itertools.combinations(range(ATOMS), min(ATOMS, h - 1))
    return max(_bound(X, np.vstack([atoms[list(which)], np.eye(D)[COLUMN]]), solver) for which in chosen)


def _bound(X: np.ndarray, atoms: np.ndarray, solver: AbstractSolver) -> float:
    scale = torch.ones(len(atoms), dtype=torch.float64)
    scale[-1] = float(np.abs(X[:, COLUMN]).mean())
    x, q = torch.tensor(X), None
    parameters, bound = Parameters(torch.tensor(atoms.T), scale, torch.tensor(NOISE**2, dtype=torch.float64)), 0.0
    for _ in range(SWEEPS):
        q = solver(x, parameters, q, max_iter=200).posterior
        statistics = Statistics.of(x, q, parameters)
        bound, parameters = float(entropy_elbo(statistics, parameters)), statistics.fit(parameters)
    return bound
