"""Values far too large, as codes for missing values are, must not hide the rest of a table or of a stream."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

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


# streams


def rows(n, draw=None):
    """Rows of the same four sources."""
    draw = draw or np.random.default_rng(n)
    _, atoms = table(10, 1.0)
    return draw.laplace(size=(n, ATOMS)) @ atoms + NOISE * draw.normal(size=(n, D))


def streamed(batches):
    model = SparseCoding(ATOMS, random_state=0)
    for batch in batches:
        model.partial_fit(batch)
    return model


GOOD = [rows(300, np.random.default_rng(seed)) for seed in range(6)]
NEW = rows(500)
ONE_CELL = GOOD[1].copy()
ONE_CELL[17, COLUMN] = -999
POISON = {
    "rows of a code": (np.full((5, D), 999_999.0), "5 of 5 rows.*none was learned from.*after 146 more such rows"),
    "another unit": (1e6 * rows(10), "10 of 10 rows.*none was learned from"),
    "one cell": (ONE_CELL, "1 of 300 rows.*they were left out.*give NaN instead"),
}


@pytest.mark.parametrize("kind", POISON)
def test_a_stream_recovers_from_a_batch_that_is_nothing_like_the_others(kind):
    batch, words = POISON[kind]
    clean = streamed(GOOD)
    with pytest.warns(UserWarning, match=words):
        model = streamed([GOOD[0], batch, *GOOD[1:]])
    assert model.score(NEW) > clean.score(NEW) - 0.05
    assert model.noise_variance_**0.5 == pytest.approx(NOISE, rel=0.1)
    assert model.n_samples_seen_ == clean.n_samples_seen_ + (299 if kind == "one cell" else 0)


def test_a_stream_whose_unit_changes_for_good_is_learned_anew():
    first, then = [batch / 1000 for batch in GOOD[:2]], GOOD[2:]
    with pytest.warns(UserWarning, match="300 of 300 rows") as caught:
        model = streamed([*first, *then])
    assert "none was learned from" in str(caught[0].message)
    assert "with 600 such rows in succession, learning has begun anew with this batch" in str(caught[1].message)
    assert len(caught) == 2
    assert model.score(NEW) > streamed(then).score(NEW) - 0.05


@pytest.mark.parametrize("given", [list, iter], ids=["array", "stream"])
def test_a_first_batch_that_is_explained_exactly_is_said_and_forgotten(given):
    with pytest.warns(ConvergenceWarning, match="4 atoms explain these data exactly"):
        model = SparseCoding(ATOMS, random_state=0).partial_fit(rows(ATOMS))
    with pytest.warns(UserWarning, match="300 of 300 rows.*learning has begun anew"):
        model.partial_fit(GOOD[0] if given is list else iter(np.array_split(GOOD[0], 3)))
    for batch in GOOD[1:]:
        model.partial_fit(batch)
    assert model.score(NEW) > streamed(GOOD).score(NEW) - 0.05
