import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsentropy.metrics import (
    amari_distance,
    coverage,
    dictionary_match,
    explained_variance,
    gini,
    interval,
    psnr,
)


def gini_by_differences(values):
    """Return the mean absolute difference, halved and relative to the mean."""
    c = np.abs(values)
    return np.abs(c[:, None] - c[None]).mean() / (2 * c.mean())


@given(hnp.arrays(float, st.integers(1, 30), elements=st.floats(-1e3, 1e3).map(lambda x: round(x, 3))))
@settings(max_examples=100, deadline=None)
def test_gini_equals_its_other_definition(values):
    expected = gini_by_differences(values) if np.any(values) else 0.0
    assert gini(values) == pytest.approx(expected, abs=1e-12)


def test_gini_of_known_distributions():
    rng = np.random.default_rng(0)
    assert gini(rng.laplace(size=200_000)) == pytest.approx(0.5, abs=0.005)  # |z| is exponential
    assert gini(rng.uniform(size=200_000)) == pytest.approx(1 / 3, abs=0.005)
    assert gini(rng.normal(size=200_000)) == pytest.approx(np.sqrt(2) - 1, abs=0.005)  # half normal


def test_gini_per_row_and_per_column():
    codes = np.random.default_rng(0).laplace(size=(7, 5))
    codes[3] = 0
    np.testing.assert_allclose(gini(codes, axis=1), [gini(row) for row in codes])
    np.testing.assert_allclose(gini(codes, axis=0), [gini(column) for column in codes.T])
    np.testing.assert_allclose(gini(codes, axis=-1), gini(codes, axis=1))
    assert gini(codes, axis=1)[3] == 0
    assert isinstance(gini(codes), float)


def test_gini_ignores_sign_scale_and_order_and_copies():
    codes = np.random.default_rng(0).laplace(size=50)
    for same in (-codes, 7 * codes, codes[::-1], np.tile(codes, 3)):
        assert gini(same) == pytest.approx(gini(codes))


@pytest.mark.parametrize(
    ("codes", "axis", "match"),
    [
        (np.zeros((2, 0)), None, "codes must hold real numbers"),
        (np.array(["a"]), None, "codes must hold real numbers"),
        ([[1.0], [1.0, 2.0]], None, "codes must be rectangular"),
        (np.array([np.nan]), None, "codes contains NaN"),
        (np.zeros((2, 3)), 2, "there is no axis 2"),
    ],
)
def test_gini_of_bad_codes(codes, axis, match):
    with pytest.raises(ValueError, match=match):
        gini(codes, axis)


def test_match_undoes_order_sign_and_length():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(8, 20))
    order, signs = rng.permutation(8), rng.choice([-1.0, 1.0], 8)
    learned = (signs * rng.uniform(0.1, 10, 8))[:, None] * true[order]
    match = dictionary_match(learned, true)
    np.testing.assert_allclose(match.cosines, 1)
    np.testing.assert_array_equal(order[match.assignment], np.arange(8))
    np.testing.assert_array_equal(match.signs, signs[match.assignment])


def test_match_is_the_best_of_all_assignments():
    rng = np.random.default_rng(1)
    learned, true = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    cosines = np.abs(
        (true / np.linalg.norm(true, axis=1)[:, None]) @ (learned / np.linalg.norm(learned, axis=1)[:, None]).T
    )
    best = max(cosines[range(4), list(p)].sum() for p in itertools.permutations(range(5), 4))
    match = dictionary_match(learned, true)
    assert match.cosines.sum() == pytest.approx(best)
    np.testing.assert_allclose(match.cosines, cosines[range(4), match.assignment])


def test_match_with_fewer_learned_atoms_and_with_dead_ones():
    match = dictionary_match(np.array([[0.0, 0.0, 2.0]]), np.eye(3))
    np.testing.assert_array_equal(match.cosines, [0, 0, 1])
    np.testing.assert_array_equal(match.assignment, [-1, -1, 0])
    np.testing.assert_array_equal(match.signs, 1)
    np.testing.assert_array_equal(dictionary_match(np.zeros((3, 3)), np.eye(3)).cosines, 0)


def test_one_learned_atom_is_not_counted_twice():
    true = np.array([[1.0, 0.0], [1.0, 0.1]])
    match = dictionary_match(np.array([[1.0, 0.05], [0.0, 1.0]]), true)
    assert sorted(match.assignment) == [0, 1]
    assert match.cosines.min() < 0.2


@pytest.mark.parametrize(
    ("learned", "true", "match"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "same number of columns, got"),
        (np.ones(3), np.ones((2, 3)), "learned must have 2 axes"),
        (np.ones((2, 3)), np.full((2, 3), np.inf), "true contains NaN or infinity"),
    ],
)
def test_match_of_bad_dictionaries(learned, true, match):
    with pytest.raises(ValueError, match=match):
        dictionary_match(learned, true)


def test_amari_is_zero_only_up_to_order_sign_and_length():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(6, 6))
    same = rng.normal(size=6)[:, None] * true[rng.permutation(6)]
    assert amari_distance(same, true) == pytest.approx(0, abs=1e-12)
    assert amari_distance(true + 0.1 * rng.normal(size=(6, 6)), true) > 0.01


def test_amari_equals_the_double_sum():
    rng = np.random.default_rng(1)
    learned, true = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    p = np.abs(learned @ np.linalg.inv(true))
    total = sum(p[i].sum() / p[i].max() + p[:, i].sum() / p[:, i].max() - 2 for i in range(4))
    assert amari_distance(learned, true) == pytest.approx(total / (2 * 4 * 3))


def test_amari_is_at_most_one():
    hadamard = np.array([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    assert amari_distance(hadamard, np.eye(4)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("learned", "true", "match"),
    [
        (np.ones((2, 3)), np.eye(3), "learned must be square"),
        (np.eye(1), np.eye(1), "at least 2 atoms"),
        (np.eye(3), np.ones((3, 3)), "true is singular"),
        (np.zeros((3, 3)), np.eye(3), "learned is singular"),
        (np.eye(3), np.eye(4), "must have the same shape"),
    ],
)
def test_amari_of_bad_matrices(learned, true, match):
    with pytest.raises(ValueError, match=match):
        amari_distance(learned, true)


def test_psnr_of_known_noise():
    rng = np.random.default_rng(0)
    clean = rng.uniform(0, 255, size=(256, 256))
    noisy = clean + 25 * rng.normal(size=clean.shape)
    assert psnr(clean, noisy, data_range=255) == pytest.approx(20.17, abs=0.05)  # 20 log10(255/25)
    assert psnr(clean / 255, noisy / 255, data_range=1.0) == pytest.approx(psnr(clean, noisy, data_range=255))
    assert psnr(clean, clean, data_range=255) == np.inf


def test_psnr_of_8_bit_images_does_not_wrap_around():
    clean, other = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    assert psnr(clean, other, data_range=255) == psnr(other, clean, data_range=255) == 0


@pytest.mark.parametrize("data_range", [0, -1, np.nan, np.inf, "1", None])
def test_psnr_of_bad_range(data_range):
    with pytest.raises(ValueError, match="data_range must be a positive number"):
        psnr(np.zeros(2), np.ones(2), data_range=data_range)


def test_psnr_of_different_shapes():
    with pytest.raises(ValueError, match="clean and other must have the same shape"):
        psnr(np.zeros((2, 1)), np.ones((1, 2)), data_range=1)


def test_explained_variance():
    X = np.random.default_rng(0).normal(size=(50, 4)) + 3
    mean = np.tile(X.mean(axis=0), (50, 1))
    assert explained_variance(X, X) == 1
    assert explained_variance(X, mean) == pytest.approx(0)
    assert explained_variance(X, mean + 0.7 * (X - mean)) == pytest.approx(1 - 0.09)
    assert explained_variance(X, 0 * X) < 0
    with pytest.raises(ValueError, match="data is constant"):
        explained_variance(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="data and reconstruction must have the same shape"):
        explained_variance(X, X[:-1])


def test_intervals_hold_what_they_say_of_gaussians():
    random = np.random.default_rng(0)
    mean, std = random.normal(size=(2, 100_000))
    std = np.abs(std)
    truth = mean + std * random.normal(size=mean.shape)
    for p in (0.5, 0.9, 0.99):
        low, high = interval(mean, std, p)
        np.testing.assert_allclose((low + high) / 2, mean, atol=1e-12)
        assert coverage(truth, mean, std, p) == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / len(mean)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [1.0], 1.0), "between 0 and 1"),
        (([0.0], [-1.0], 0.5), "negative"),
        (([0.0], [1.0, 2.0], 0.5), "same shape"),
        (([np.nan], [1.0], 0.5), "NaN"),
    ],
)
def test_what_is_no_interval_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        interval(*arguments)


def test_certain_values_are_no_test_of_intervals():
    with pytest.raises(ValueError, match="every standard deviation is 0"):
        coverage([1.0], [1.0], [0.0])
