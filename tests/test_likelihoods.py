import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from cases import (
    Shape,
    assert_close,
    assert_estimates,
    double,
    each_dtype,
    each_likelihood,
    each_posterior,
    generator,
    normal,
    random_posterior,
    unit_dictionary,
)

VARIANCES = [1e-6, 0.3, 100.0]
P_VALUE = 1e-3  # of a Kolmogorov-Smirnov test with a fixed seed


def density(likelihood, variance, d):
    """p(x|z) of d observed dimensions and one code, in units of the noise around W z."""
    dictionary, code = torch.ones(d, 1).double(), double([[0.5]])
    scale = variance**0.5

    def p(*u):
        x = 0.5 + scale * double([u])
        return likelihood.log_prob(x, code, dictionary, double(variance)).exp().item() * scale**d

    return p


@each_likelihood
@pytest.mark.parametrize("variance", VARIANCES)
def test_density_integrates_to_one(likelihood, noise, variance):
    total = integrate.quad(density(likelihood, variance, 1), -np.inf, np.inf)[0]
    assert total == pytest.approx(1, abs=1e-8)
    total = integrate.nquad(density(likelihood, variance, 2), [(-8, 8)] * 2, opts={"epsabs": 1e-5, "epsrel": 1e-5})[0]
    assert total == pytest.approx(1, abs=1e-5)


@each_likelihood
@pytest.mark.parametrize("variance", VARIANCES)
def test_entropy_by_quadrature(likelihood, noise, variance):
    p = density(likelihood, variance, 1)
    expected = -integrate.quad(lambda u: p(u) * np.log(p(u) / variance**0.5), -20, 20)[0]
    for d in (1, 7):
        assert likelihood.entropy(double(variance), d).item() == pytest.approx(d * expected, abs=1e-8)


@each_likelihood
@each_dtype
def test_what_is_missing_has_no_density(likelihood, noise, dtype):
    dictionary, codes = unit_dictionary(3, 4, generator()).to(dtype), normal(5, 2, 4, draw=generator(1)).to(dtype)
    x = torch.tensor([[0.3, torch.nan, -1.0], [torch.nan] * 3], dtype=dtype)
    actual = likelihood.log_prob(x, codes, dictionary, torch.tensor(0.3, dtype=dtype))
    seen = [0, 2]
    expected = likelihood.log_prob(x[:1, seen], codes[:, :1], dictionary[seen], torch.tensor(0.3, dtype=dtype))
    assert_close(actual[:, :1], expected, dtype)
    assert (actual[:, 1] == 0).all()


@each_likelihood
@each_dtype
def test_log_prob_of_data_around_the_linear_map(likelihood, noise, dtype):
    dictionary = unit_dictionary(3, 4, generator()).to(dtype)
    codes, x = normal(5, 2, 4, draw=generator(1)).to(dtype), normal(2, 3, draw=generator(2)).to(dtype)
    actual = likelihood.log_prob(x, codes, dictionary, torch.tensor(0.3, dtype=dtype))
    reference = noise(loc=codes.double() @ dictionary.double().T, scale=0.3**0.5)
    assert_close(actual, torch.as_tensor(reference.logpdf(x.double())).sum(-1))


@each_likelihood
@each_dtype
def test_samples_follow_the_density(likelihood, noise, dtype):
    n, d, variance = 20_000, 3, torch.tensor(0.3, dtype=dtype)
    dictionary = unit_dictionary(d, 4, generator()).to(dtype)
    codes = normal(n, 4, draw=generator(1)).to(dtype)
    x = likelihood.sample(codes, dictionary, variance, generator(2))
    assert x.dtype == dtype
    residual = (x - codes @ dictionary.T).double() / 0.3**0.5
    for column in residual.T:
        assert stats.kstest(column, noise.cdf).pvalue > P_VALUE
    correlation = np.corrcoef(residual.T)[np.triu_indices(d, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert_estimates(-likelihood.log_prob(x, codes, dictionary, variance), likelihood.entropy(variance, d))


@each_likelihood
@each_posterior
def test_expected_log_prob_by_monte_carlo(likelihood, noise, name):
    q = random_posterior(name, Shape(6, 3, 5))
    dictionary, x = unit_dictionary(3, 5, generator(1)), normal(6, 3, draw=generator(2))
    variance = double(0.3)
    error = (x - q.mean @ dictionary.T).square().sum(1) + q.spread(dictionary)
    draws = likelihood.log_prob(x, q.sample(20_000, seed=3), dictionary, variance)
    assert_estimates(draws, likelihood.expected_log_prob(error, variance, 3))


@each_likelihood
@pytest.mark.parametrize("d", [1, 5])
def test_fit_maximises_the_expected_log_prob(likelihood, noise, d):
    error = normal(50, draw=generator()).square()
    best = likelihood.fit(error.mean(), d)

    def loss(log_variance):
        return -likelihood.expected_log_prob(error, double(log_variance).exp(), d).mean().item()

    found = optimize.minimize_scalar(loss, bracket=(-3, 3), tol=1e-10)
    assert np.exp(found.x) == pytest.approx(best.item(), rel=1e-6)
    assert -found.fun == pytest.approx(-likelihood.entropy(best, d).item(), abs=1e-10)
