import numpy as np
import pytest

from sparsentropy.datasets import make_bars


def test_dictionary_holds_every_bar_once():
    dictionary = make_bars(n=1, size=4, amplitude=2.0).dictionary
    images = dictionary.T.reshape(8, 4, 4)
    for i in range(4):
        np.testing.assert_array_equal(images[i][i], 2.0)
        np.testing.assert_array_equal(images[4 + i][:, i], 2.0)
    np.testing.assert_array_equal(images.sum(axis=(1, 2)), 8.0)


def test_bars_span_one_dimension_less_than_their_number():
    assert np.linalg.matrix_rank(make_bars(n=1).dictionary) == 9


def test_data_is_codes_times_dictionary_plus_noise():
    bars = make_bars(n=20_000, noise_std=0.3)
    noise = bars.data - bars.codes @ bars.dictionary.T
    assert noise.std() == pytest.approx(0.3, rel=0.01)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.03


def test_laplace_codes_have_scale_one():
    codes = make_bars(n=20_000).codes
    assert np.abs(codes).mean() == pytest.approx(1.0, rel=0.02)  # E|z| = λ
    assert codes.var() == pytest.approx(2.0, rel=0.03)  # Var z = 2λ²


@pytest.mark.parametrize(("probability", "expected"), [(None, 0.2), (0.5, 0.5), (1.0, 1.0)])
def test_bernoulli_codes_are_present_with_the_given_probability(probability, expected):
    codes = make_bars(n=20_000, codes="bernoulli", probability=probability).codes
    assert set(np.unique(codes)) <= {0.0, 1.0}
    assert codes.mean() == pytest.approx(expected, rel=0.02)


def test_same_seed_same_data():
    np.testing.assert_array_equal(make_bars(seed=3).data, make_bars(seed=3).data)
    assert not np.array_equal(make_bars(seed=3).data, make_bars(seed=4).data)
    assert make_bars(n=2, seed=np.random.default_rng(0)).data.shape == (2, 25)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 2.5}, TypeError, "n must be a whole number, got 2.5"),
        ({"n": True}, TypeError, "n must be a whole number"),
        ({"size": 1}, ValueError, "size must be at least 2"),
        ({"noise_std": -1}, ValueError, "noise_std must be a finite number >= 0"),
        ({"noise_std": np.nan}, ValueError, "noise_std must be a finite number"),
        ({"noise_std": "a"}, TypeError, "noise_std must be a number"),
        ({"amplitude": 0}, ValueError, "amplitude must be a finite number > 0"),
        ({"codes": "gauss"}, ValueError, 'codes must be "laplace" or "bernoulli"'),
        ({"codes": "bernoulli", "probability": 1.5}, ValueError, "probability must be at most 1"),
        ({"probability": 0.5}, ValueError, "probability is only used with codes"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        make_bars(**arguments)
