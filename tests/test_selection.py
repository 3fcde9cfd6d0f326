"""The number of atoms that data were made with, atoms that come back, and what is no choice."""

import numpy as np
import pytest

from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from sparsentropy.selection import pick_n_components, restarts


def made(h, d=24, n=1500, seed=0):
    """Data of h atoms with Laplace codes."""
    random = np.random.default_rng(seed)
    W = random.normal(size=(d, h))
    W /= np.linalg.norm(W, axis=0)
    return random.laplace(size=(n, h)) @ W.T + 0.1 * random.normal(size=(n, d))


@pytest.mark.parametrize("h", [3, 7, 12])
def test_the_true_number_of_atoms_is_picked(h):
    picked = pick_n_components(made(h))
    assert picked.n_components == h
    assert picked.model.components_.shape[0] == h
    assert picked.bounds[h] == max(picked.bounds.values())
    assert list(picked.bounds) == sorted(picked.bounds)
    assert h - 1 in picked.bounds


def test_bounds_are_those_of_rows_that_were_not_learned_from():
    data = made(5)
    told = []
    picked = pick_n_components(data, candidates=[4, 5], held_out=0.4, callback=told.append)
    assert picked.model.n_samples_seen_ == 900
    assert set(picked.bounds) == {4, 5}
    assert told == [{4: picked.bounds[4]}, picked.bounds]
    assert abs(picked.model.score(data) - picked.bounds[5]) < 1


def test_the_parameters_of_the_model_are_used():
    given = SparseCoding(99, posterior="low-rank", rank=2, tol=0.1, random_state=3)
    picked = pick_n_components(made(4), given, candidates=[4])
    assert picked.model.get_params() == given.set_params(n_components=4).get_params()
    assert not hasattr(given, "components_")


@pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")  # on some processors
def test_few_rows_and_few_columns_limit_what_is_tried():
    assert max(pick_n_components(made(3, d=4)).bounds) <= 8
    assert max(pick_n_components(made(20, n=30)).bounds) <= 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0.0}, "more than 0"),
        ({"held_out": 1.5}, "held_out"),
        ({"candidates": []}, "at least one"),
        ({"candidates": [0]}, "candidates"),
    ],
)
def test_what_is_no_choice_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pick_n_components(made(3, n=50), **options)


def test_atoms_of_the_data_come_back_and_others_do_not():
    bars = make_bars(1000, noise_std=0.1, seed=0)
    found = restarts(bars.data, SparseCoding(10, posterior="full"), n=3)
    assert found.stability.min() > 0.99
    assert found.models[0].lower_bound_ == max(model.lower_bound_ for model in found.models)
    np.testing.assert_allclose(np.diag(found.similarity), 1)
    np.testing.assert_allclose(found.similarity, found.similarity.T)
    noise = np.random.default_rng(0).normal(size=(300, 12))
    assert restarts(noise, SparseCoding(12, posterior="full", tol=0.1), n=3).stability.mean() < 0.95


def test_once_is_no_restart():
    with pytest.raises(ValueError, match="n must be"):
        restarts(made(3, n=50), n=1)
