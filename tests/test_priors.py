import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from cases import (
    TOLERANCE,
    Shape,
    assert_close,
    assert_estimates,
    double,
    each_dtype,
    each_posterior,
    each_prior,
    generator,
    normal,
    positive,
    random_posterior,
)
from sparsentropy.posteriors import Diagonal

SCALES = [0.01, 1.0, 30.0]
P_VALUE = 1e-3  # of a Kolmogorov-Smirnov test with a fixed seed


def density(prior, scale):
    """p(z) of one code in units of its scale."""
    scale = double([scale])
    return lambda u: prior.log_prob(scale * u, scale).exp().item() * scale.item()


def integral(function):
    return 2 * integrate.quad(function, 0, np.inf, epsabs=1e-12, epsrel=1e-10)[0]


@each_prior
@pytest.mark.parametrize("scale", SCALES)
def test_density_is_even_and_integrates_to_one(prior, reference, scale):
    p = density(prior, scale)
    assert p(-0.7) == p(0.7)
    assert integral(p) == pytest.approx(1, abs=1e-9)


@each_prior
@pytest.mark.parametrize("scale", SCALES)
def test_entropy_by_quadrature(prior, reference, scale):
    p = density(prior, scale)
    expected = -integral(lambda u: p(u) * np.log(p(u) / scale) if p(u) > 0 else 0.0)
    assert prior.entropy(double([scale])).item() == pytest.approx(expected, abs=1e-8)


@each_prior
@each_dtype
def test_log_prob_and_entropy_add_up_over_atoms(prior, reference, dtype):
    scale = positive(4, draw=generator()).to(dtype)
    codes = normal(3, 5, 4, draw=generator(1)).to(dtype)
    same = reference(scale=scale.double())
    assert_close(prior.log_prob(codes, scale), torch.as_tensor(same.logpdf(codes.double())).sum(-1))
    assert_close(prior.entropy(scale), torch.as_tensor(same.entropy()).sum())


@each_prior
@each_dtype
def test_samples_follow_the_density(prior, reference, dtype):
    scale = torch.tensor(SCALES, dtype=dtype)
    codes = prior.sample(20_000, scale, generator())
    assert codes.shape == (20_000, 3)
    assert codes.dtype == dtype
    for column, s in zip(codes.double().T, SCALES, strict=True):
        assert stats.kstest(column, reference(scale=s).cdf).pvalue > P_VALUE
    correlation = np.corrcoef(codes.double().T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    assert_estimates(-prior.log_prob(codes, scale), prior.entropy(scale))


@each_prior
def test_samples_are_those_of_the_generator(prior, reference):
    scale = torch.ones(3)
    first, second = generator(5), generator(5)
    assert torch.equal(prior.sample(4, scale, first), prior.sample(4, scale, second))
    assert not torch.equal(prior.sample(4, scale, first), prior.sample(4, scale, generator(5)))


@each_prior
@each_posterior
def test_expected_log_prob_by_monte_carlo(prior, reference, name):
    q = random_posterior(name, Shape(6, 3, 5))
    scale = positive(5, draw=generator(1))
    expected = prior.expected_log_prob(prior.statistic(q), scale)
    assert_estimates(prior.log_prob(q.sample(20_000, seed=2), scale), expected)


@each_prior
def test_fit_maximises_the_expected_log_prob(prior, reference):
    statistic = prior.statistic(random_posterior("diagonal", Shape(6, 3, 4)))
    best = prior.fit(statistic.mean(0))

    def loss(log_scale):
        scale = torch.as_tensor(log_scale).exp().requires_grad_()
        value = -prior.expected_log_prob(statistic, scale).mean()
        (gradient,) = torch.autograd.grad(value, scale)
        return value.item(), (gradient * scale).detach().numpy()

    found = optimize.minimize(loss, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(np.exp(found.x), best, rtol=1e-6)
    assert -found.fun == pytest.approx(prior.expected_log_prob(statistic, best).mean().item(), abs=1e-10)


@each_prior
def test_at_the_fit_the_expected_log_prob_is_minus_the_entropy(prior, reference):
    statistic = prior.statistic(random_posterior("diagonal", Shape(6, 3, 4)))
    scale = prior.fit(statistic.mean(0))
    assert_close(prior.expected_log_prob(statistic, scale).mean(), -prior.entropy(scale))


@each_prior
@each_dtype
def test_slopes_by_automatic_differentiation(prior, reference, dtype):
    mean = normal(3, 4, draw=generator()).to(dtype).requires_grad_()
    std = positive(3, 4, draw=generator(1)).to(dtype).requires_grad_()
    total = prior.statistic(Diagonal(mean, std.square())).sum()
    for gradient, slope in zip(torch.autograd.grad(total, (mean, std)), prior.slopes(mean, std), strict=True):
        torch.testing.assert_close(gradient, slope, **TOLERANCE[dtype])
