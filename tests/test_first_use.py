"""What someone new to the library meets first: defaults that suit the data, and warnings that help."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding, datasets
from sparsentropy.learning import most_atoms, suitable_number

DRAW = np.random.default_rng(0)
CODES = DRAW.laplace(size=(1000, 8))
SOURCES = CODES @ DRAW.normal(size=(8, 20)) + 0.1 * DRAW.normal(size=(1000, 20))


def number(X):
    return suitable_number(torch.as_tensor(X, dtype=torch.float64), torch.Generator().manual_seed(0))


def with_gaps(X, share=0.2):
    X = X.copy()
    X[np.random.default_rng(1).random(X.shape) < share] = np.nan
    return X


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (SOURCES, 8),
        (1e-50 * SOURCES, 8),
        (with_gaps(SOURCES), 8),
        (datasets.make_bars(1000, noise_std=0.1, seed=0).data, 9),  # the dimensions that ten bars span
        (CODES[:, :6], 4),  # no direction stands out: two thirds of them
        (CODES[:, :6] * 2.0 ** np.arange(6), 4),  # every direction stands out
        (CODES[:, :1], 1),
        (CODES[:3], 2),  # three rows vary in three directions
        (np.ones((5, 4)), 1),
        (load_digits().data, 40),  # of 61 pixels that vary
        (DRAW.laplace(size=(400, 200)), 100),
    ],
)
def test_the_default_number_of_atoms_suits_the_data(X, expected):
    assert number(X) == expected
    assert expected <= most_atoms(*X.shape)


def test_without_a_number_of_atoms_the_model_finds_one():
    model = SparseCoding(random_state=0).fit(SOURCES)
    assert model.components_.shape == (8, 20)
    assert model.n_components is None
    assert model.converged_
    few = SparseCoding(posterior="low-rank", rank=8, random_state=0, tol=0.1).fit(SOURCES[:, :5])
    assert few.components_.shape == (3, 5)
    assert SparseCoding().memory_for(SOURCES) > SparseCoding(8).memory_for(SOURCES)


def test_digits_have_noise_by_default():
    X = load_digits().data
    with pytest.warns(UserWarning, match="the mean of"):
        model = SparseCoding(random_state=0, tol=0.1).fit(X)
    assert 0.5 < model.noise_variance_**0.5 < 2.0


def test_a_model_that_explains_data_exactly_says_what_to_do():
    with pytest.warns(ConvergenceWarning, match="8 atoms explain these data exactly.*Use fewer atoms"):
        SparseCoding(8, random_state=0).fit(SOURCES[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseCoding(8, random_state=0).fit(SOURCES[:300])


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "try dtype='float64'"), (np.float64, "as good as float64")])
def test_where_rounding_ends_learning_no_arithmetic_is_advised_that_was_used(dtype, words):
    from sparsentropy.fitting import unfinished

    text = unfinished(5, 200, 1e-3, torch.from_numpy(np.zeros(1, dtype)).dtype)
    assert words in text
    assert "max_iter=200 sweeps; raise max_iter" in unfinished(200, 200, 1e-3, torch.float64)


@pytest.mark.parametrize("batches", [1, 4])
def test_columns_that_are_not_centred_are_named(batches):
    X = SOURCES.copy()
    X[:, 3] += 100
    X[:, 7] -= 50
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(20)])
    spread = X[:, 3].std()
    with pytest.warns(UserWarning, match=f"2 of 20 columns.*column 3: {X[:, 3].mean():.3g} and {spread:.3g}.*subtract"):
        SparseCoding(8, max_iter=200, tol=1.0, random_state=0).fit(iter(np.array_split(X, batches)))
    with pytest.warns(UserWarning, match=r"\(column 'x3'"):
        SparseCoding(8, tol=1.0, random_state=0).fit(frame)


def test_centred_columns_and_few_rows_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseCoding(2, tol=1.0, random_state=0).fit(SOURCES - SOURCES.mean(0))
        SparseCoding(2, tol=1.0, random_state=0).fit(5 + SOURCES[:15])
