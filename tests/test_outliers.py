"""One cell of 10⁵ to 10⁷, as a code for a missing value would be, must not hide the rest of a table from learning."""

import numpy as np
import pytest
import torch

from sparsentropy import SparseCoding
from sparsentropy.inference import DiagonalSolver, FullSolver
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, entropy_elbo

D, ATOMS, NOISE, COLUMN = 8, 4, 0.1, 3
SOLVERS = {"diagonal": DiagonalSolver(), "full": FullSolver()}


def table(n, cell, seed=0):
    """Four Laplace sources with noise, one cell replaced; and the atoms."""
    draw = np.random.default_rng(seed)
    atoms = draw.normal(size=(ATOMS, D))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    X = draw.laplace(size=(n, ATOMS)) @ atoms + NOISE * draw.normal(size=(n, D))
    X[n // 3, COLUMN] = cell
    return X, atoms


def hand_made_bound(X, atoms, posterior):
    """That of the true atoms and one for the column of the cell, with the best scales and noise for them."""
    dictionary = torch.tensor(np.vstack([atoms, np.eye(D)[COLUMN]]).T)
    scale = torch.ones(ATOMS + 1, dtype=torch.float64)
    scale[-1] = float(np.abs(X[:, COLUMN]).mean())
    parameters = Parameters(dictionary, scale, torch.tensor(NOISE**2, dtype=torch.float64))
    x, q, statistics = torch.tensor(X), None, None
    for _ in range(20):
        q = SOLVERS[posterior](x, parameters, q).posterior
        statistics = Statistics.of(x, q, parameters)
        parameters = statistics.fit(parameters)
    return float(entropy_elbo(statistics, parameters))


@pytest.mark.parametrize(
    ("n", "seed", "cell", "h", "posterior"),
    [
        (500, 0, 1e6, 6, "diagonal"),
        (500, 3, 3e5, 8, "diagonal"),
        (2000, 0, 3e6, 5, "diagonal"),
        (200, 0, 1e7, 5, "diagonal"),
        (2000, 0, 1e6, 5, "full"),
    ],
)
def test_a_cell_that_is_far_too_large_costs_one_atom_and_no_more(n, seed, cell, h, posterior):
    X, atoms = table(n, cell, seed)
    model = SparseCoding(h, posterior=posterior, random_state=0).fit(X)
    assert model.converged_
    assert model.lower_bound_ > hand_made_bound(X, atoms, posterior) - 0.1
    assert model.noise_variance_**0.5 == pytest.approx(NOISE, rel=0.15)


def test_a_cell_in_a_row_that_the_first_part_of_the_data_lacks_is_found():
    """Learning begins on 1,024 of these rows, and the cell is in none of them."""
    X, atoms = table(5000, 1e5, seed=2)
    model = SparseCoding(5, posterior="full", random_state=0).fit(X)
    assert model.converged_
    assert model.lower_bound_ > hand_made_bound(X, atoms, "full") - 0.1
