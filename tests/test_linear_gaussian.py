"""Gaussian codes: their closed form against scikit-learn, and against every other one nearby."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from sparsentropy.learning.linear_gaussian import LinearGaussian


def data(n=400, d=6, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((n, d)) * [3.0, 2.0, 1.5, 1.0, 0.8, 0.7] @ draw.standard_normal((d, d))
    return x - x.mean(0)


@pytest.mark.parametrize("h", [1, 3, 5])
def test_it_is_the_model_of_scikit_learn(h):
    x, new = data(), data(100, seed=1)
    found = LinearGaussian.fitted(torch.from_numpy(x), h)
    peer = PCA(h).fit(x * np.sqrt((len(x) - 1) / len(x)))  # which divides by n − 1
    assert found.noise_variance.item() == pytest.approx(peer.noise_variance_)
    own = found.dictionary @ found.dictionary.T + found.noise_variance * torch.eye(6)
    np.testing.assert_allclose(own, peer.get_covariance())
    np.testing.assert_allclose(found.log_likelihood(torch.from_numpy(new)), peer.score_samples(new))


def test_no_parameters_nearby_are_more_likely():
    x = torch.from_numpy(data())
    best = LinearGaussian.fitted(x, 3)
    W, noise = (value.clone().requires_grad_() for value in (best.dictionary, best.noise_variance))
    LinearGaussian(W, noise).log_likelihood(x).mean().backward()
    torch.testing.assert_close(W.grad, torch.zeros_like(W), atol=1e-9, rtol=0)
    torch.testing.assert_close(noise.grad, torch.zeros_like(noise), atol=1e-9, rtol=0)
    highest = best.log_likelihood(x).mean()
    for factor in (0.95, 1.05):
        assert LinearGaussian(factor * best.dictionary, best.noise_variance).log_likelihood(x).mean() < highest
        assert LinearGaussian(best.dictionary, factor * best.noise_variance).log_likelihood(x).mean() < highest


@pytest.mark.parametrize("h", [0, 6])
def test_there_are_fewer_atoms_than_dimensions(h):
    with pytest.raises(ValueError, match=f"h must lie between 1 and 5; got {h}"):
        LinearGaussian.fitted(torch.from_numpy(data()), h)
