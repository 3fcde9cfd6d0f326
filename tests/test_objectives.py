import math
from dataclasses import fields, replace
from functools import reduce
from operator import add

import pytest
import torch

from cases import (
    SHAPES,
    Shape,
    arguments,
    assert_close,
    assert_estimates,
    builder,
    double,
    each_dtype,
    each_posterior,
    each_shape,
    exact_log_likelihood,
    generator,
    normal,
    positive,
    random_parameters,
    random_posterior,
    random_problem,
    stretched,
    to_double,
    unit_dictionary,
)
from sparsentropy.objectives import (
    Statistics,
    Weights,
    elbo,
    elbo_rows,
    entropy_elbo,
    importance_log_likelihood,
    sampled_elbo,
)
from sparsentropy.posteriors import Diagonal


def statistics_of(problem, rows=slice(None)):
    return Statistics.of(problem.x[rows], problem.q[rows], problem.parameters)


def assert_same_statistics(actual, expected, dtype=torch.float64):
    for field in fields(Statistics):
        assert getattr(actual, field.name).dtype == torch.float64, field.name
        assert_close(getattr(actual, field.name), getattr(expected, field.name), dtype)


def dense_elbo_rows(x, q, parameters):
    """The bound of section 2, written out with dense covariances in float64."""
    p, x, nu, T = parameters.to(torch.float64), x.double(), q.mean.double(), q.covariance().double()
    s = T.diagonal(dim1=1, dim2=2).sqrt()
    absolute = s * math.sqrt(2 / math.pi) * torch.exp(-(nu**2) / (2 * s**2)) + nu * torch.erf(nu / s / math.sqrt(2))
    W, variance, scale = p.dictionary, p.noise_variance, p.prior_scale
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * T)
    prior = (torch.log(2 * scale) + absolute / scale).sum(1)
    error = torch.einsum("dh,nhk,dk->n", W, T, W) + (nu @ W.T - x).square().sum(1)
    return entropy - prior - p.d / 2 * torch.log(2 * math.pi * variance) - error / (2 * variance)


def plausible(shape, seed=0):
    """Data, parameters, and a posterior near the true one: ridge regression and its variances."""
    parameters = random_parameters(shape, seed=seed)
    x = parameters.sample(shape.n, seed)[0]
    W = parameters.dictionary
    precision = W.T @ W / parameters.noise_variance + torch.diag(0.5 / parameters.prior_scale**2)
    mean = x @ W @ torch.linalg.inv(precision) / parameters.noise_variance
    variance = (1 / precision.diagonal()).expand_as(mean)
    return x, Diagonal(mean, variance), parameters


# --- Weights


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["prior", "likelihood"])
def test_bad_weights(bad, name):
    with pytest.raises(ValueError, match="both weights must be positive and finite"):
        Weights(**{name: bad})


@pytest.mark.parametrize(
    ("weights", "plain"), [(Weights(), True), (Weights(prior=1.1), False), (Weights(likelihood=0.9), False)]
)
def test_only_weights_of_one_are_plain(weights, plain):
    assert weights.plain is plain


@each_dtype
def test_weights_divide_the_scale_and_the_noise(dtype):
    parameters = random_parameters(SHAPES["d>h"], dtype)
    annealed = Weights(prior=4.0, likelihood=0.5).apply(parameters)
    assert_close(annealed.prior_scale, parameters.prior_scale / 4)
    assert_close(annealed.noise_variance, parameters.noise_variance * 2)
    assert torch.equal(annealed.dictionary, parameters.dictionary)
    assert annealed.prior_scale.dtype == annealed.noise_variance.dtype == dtype


# --- Statistics


@each_posterior
@each_shape
@each_dtype
def test_statistics_by_their_definition(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    x, nu, covariance = problem.x.double(), problem.q.mean.double(), problem.q.covariance().double()
    slope = torch.erf(nu / problem.q.std.double() / math.sqrt(2))
    expected = Statistics(
        n=double(float(shape.n)),
        observed=double(float(shape.n * shape.d)),
        square=(x**2).sum(),
        cross=torch.einsum("nd,nh->dh", x, nu),
        second_moment=torch.einsum("nh,nk->hk", nu, nu) + covariance.sum(0),
        prior_statistic=problem.q.abs_moment().double().sum(0),
        entropy=problem.q.entropy().double().sum(),
        slope_square=(slope**2).sum(0),
        slope_code=(slope * nu).sum(0),
    )
    assert_same_statistics(statistics_of(problem), expected, dtype)
    assert statistics_of(problem).d == shape.d


@each_posterior
@each_shape
@each_dtype
def test_statistics_of_batches_add_up(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    batches = [slice(0, 1), slice(1, 4), slice(4, None)]
    total = reduce(add, (statistics_of(problem, rows) for rows in batches))
    assert_same_statistics(total, statistics_of(problem), dtype)


@each_posterior
def test_statistics_do_not_depend_on_the_parameters_they_are_computed_around(name):
    problem = random_problem(name, SHAPES["d<h"])
    other = random_parameters(SHAPES["d<h"], seed=8)
    assert_same_statistics(Statistics.of(problem.x, problem.q, other), statistics_of(problem))


@each_posterior
def test_weighted_statistics_are_those_of_repeated_data(name):
    problem = random_problem(name, SHAPES["d<h"])
    once = statistics_of(problem)
    assert_same_statistics(once * 3.0, once + once + once)
    assert_close(elbo(once * 0.1, problem.parameters), elbo(once, problem.parameters))
    assert_close(entropy_elbo(once * 0.1, problem.parameters), entropy_elbo(once, problem.parameters))


@each_posterior
@each_shape
def test_rescaled_statistics_are_those_of_rescaled_codes(name, shape):
    problem = random_problem(name, shape)
    factor = positive(shape.h, draw=generator(5))
    parameters = replace(problem.parameters, dictionary=problem.parameters.dictionary / factor)
    expected = Statistics.of(problem.x, stretched(problem.q, factor), parameters)
    assert_same_statistics(statistics_of(problem).rescaled(factor), expected)


@each_posterior
@each_shape
@each_dtype
def test_fit_is_the_closed_form(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    statistics, other = statistics_of(problem), unit_dictionary(shape.d, shape.h, generator(3))
    for dictionary in (None, other):
        fitted = statistics.fit(problem.parameters, dictionary)
        W = problem.parameters.dictionary.double() if dictionary is None else dictionary
        error = (problem.x.double() - problem.q.mean.double() @ W.T).square().sum(1)
        error = error + torch.einsum("dh,nhk,dk->n", W, problem.q.covariance().double(), W)
        for value in (fitted.dictionary, fitted.prior_scale, fitted.noise_variance):
            assert value.dtype == dtype
        assert_close(fitted.dictionary, W)
        assert_close(fitted.prior_scale, problem.q.abs_moment().mean(0))
        assert_close(fitted.noise_variance, error.mean() / shape.d)
        assert_close(statistics.mean_error(W), error.mean(), dtype)


def test_error_of_a_perfect_fit_stays_positive():
    dictionary = unit_dictionary(4, 4, generator())
    mean = 1e3 * normal(50, 4, draw=generator(1))
    parameters = replace(random_parameters(Shape(50, 4, 4)), dictionary=dictionary)
    x, q = mean @ dictionary.T, Diagonal(mean, torch.full_like(mean, 1e-30))
    away = normal(4, 4, draw=generator(2))  # statistics around another dictionary, then asked at this one
    statistics = Statistics.of(x, q, replace(parameters, dictionary=away))
    error = statistics.mean_error(dictionary)
    assert 0 < error < 1e-8
    assert torch.isfinite(entropy_elbo(statistics, parameters))


def tight_problem(name, shape, noise):
    """Data of unit size and a posterior as narrow as the noise, in float32."""
    draw = generator(4)
    dictionary = unit_dictionary(shape.d, shape.h, draw)
    mean = normal(shape.n, shape.h, draw=draw)
    x = mean @ dictionary.T + noise * normal(shape.n, shape.d, draw=draw)
    wide = arguments(random_posterior(name, shape))
    size = {"mean": mean, "scaled_dictionary": dictionary / noise, "prior_precision": 1 / (noise * wide["mean"].abs())}
    size |= {"variance": noise**2, "diagonal": noise**2, "factor": noise, "observed": torch.ones_like(x)}
    narrow = {k: v * size[k] if k in ("variance", "diagonal", "factor") else size[k] for k, v in wide.items()}
    q = builder(random_posterior(name, shape))(**{k: v.float() for k, v in narrow.items()})
    parameters = replace(random_parameters(shape), dictionary=dictionary, noise_variance=double(noise**2))
    return x.float(), q, parameters.to(torch.float32)


@each_posterior
@pytest.mark.parametrize("shape", [Shape(500, 32, 16), Shape(500, 16, 32)], ids=["d>h", "d<h"])
def test_float32_is_as_good_as_float64_at_small_noise(name, shape):
    x, q, parameters = tight_problem(name, shape, noise=1e-3)
    accurate = Statistics.of(x.double(), to_double(q), parameters.to(torch.float64))
    W, statistics = parameters.dictionary, Statistics.of(x, q, parameters)
    expected = accurate.mean_error(W)
    assert expected < 1e-2  # small indeed, next to |x|² ≈ d
    assert statistics.mean_error(W).item() == pytest.approx(expected.item(), rel=1e-4)
    turned = W + 1e-4 * normal(shape.d, shape.h, draw=generator(6))  # after a learning step
    assert statistics.mean_error(turned).item() == pytest.approx(accurate.mean_error(turned).item(), rel=1e-4)
    exact = entropy_elbo(accurate, parameters).item()
    assert entropy_elbo(statistics, parameters).item() == pytest.approx(exact, abs=1e-3)


# --- Missing entries


def with_gaps(x, seed=7):
    """Data of which about a third is missing, all of the first data point, and nothing of the second."""
    missing = torch.rand(x.shape, generator=generator(seed)) < 0.35
    missing[0], missing[1] = True, False
    return torch.where(missing, torch.nan, x)


def by_rows(bound, x, q, parameters):
    """What is observed of each data point, with its own part of the dictionary."""
    seen = [~row.isnan() for row in x]
    parts = [replace(parameters, dictionary=parameters.dictionary[some]) for some in seen]
    return torch.cat([bound(x[n : n + 1, seen[n]], q[n : n + 1], parts[n]) for n in range(len(x))])


@each_posterior
@each_shape
@each_dtype
def test_missing_entries_are_left_out_of_the_bound(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    x = with_gaps(problem.x)
    rows = elbo_rows(x, problem.q, problem.parameters)
    assert rows.dtype == dtype
    expected = by_rows(dense_elbo_rows, x, problem.q, problem.parameters)
    assert_close(rows, expected)
    statistics = Statistics.of(x, problem.q, problem.parameters)
    assert float(statistics.observed) == float((~x.isnan()).sum())
    assert_close(elbo(statistics, problem.parameters), expected.mean(), dtype)


@each_posterior
@each_shape
def test_the_bound_of_completed_moments_touches_that_of_what_is_observed(name, shape):
    """It has the same slope at the dictionary the moments were completed with, and is below it at others."""
    problem = random_problem(name, shape)
    x, p = with_gaps(problem.x), problem.parameters
    statistics = Statistics.of(x, problem.q, p)
    W = p.dictionary.clone().requires_grad_()
    bounds = (
        elbo(statistics, replace(p, dictionary=W)),
        elbo_rows(x, problem.q, replace(p, dictionary=W)).mean(),
    )
    assert_close(*(torch.autograd.grad(bound, W)[0] for bound in bounds))
    for seed in range(3):
        other = replace(p, dictionary=p.dictionary + 0.3 * normal(shape.d, shape.h, draw=generator(seed)))
        assert elbo(statistics, other) < elbo_rows(x, problem.q, other).mean()


@each_posterior
def test_statistics_of_batches_with_missing_entries_add_up(name):
    problem = random_problem(name, SHAPES["d>h"])
    x, q, p = with_gaps(problem.x), problem.q, problem.parameters
    parts = [Statistics.of(x[rows], q[rows], p) for rows in (slice(0, 1), slice(1, 3), slice(3, None))]
    assert_same_statistics(reduce(add, parts), Statistics.of(x, q, p))


@pytest.mark.parametrize("name", ["diagonal", "low-rank-1"])
def test_in_float32_wide_codes_of_what_is_missing_do_not_hide_a_small_error(name):
    shape, noise = Shape(400, 12, 6), 1e-4
    x, q, p = tight_problem(name, shape, noise)
    nothing = torch.arange(shape.n) % 3 == 0  # is observed of these, and their codes are as wide as the prior
    wide = torch.where(nothing[:, None], 1 / noise, 1.0)
    powers = {"mean": wide**0, "variance": wide**2, "diagonal": wide**2, "factor": wide[:, None]}
    q, x = builder(q)(**{key: value * powers[key] for key, value in arguments(q).items()}), x.clone()
    x[nothing] = torch.nan
    error = Statistics.of(x, q, p).mean_error(p.dictionary) * shape.n
    exact = Statistics.of(x[~nothing].double(), to_double(q[~nothing]), p.to(torch.float64))
    assert error.item() == pytest.approx(float(exact.mean_error(p.dictionary) * exact.n), rel=1e-3)


def test_noise_is_fitted_to_what_is_observed():
    problem = random_problem("full", SHAPES["d<h"])
    statistics = Statistics.of(with_gaps(problem.x), problem.q, problem.parameters)
    fitted = statistics.fit(problem.parameters)
    highest = elbo(statistics, fitted)
    assert_close(highest, entropy_elbo(statistics, problem.parameters))
    for factor in (0.99, 1.01):
        assert elbo(statistics, replace(fitted, noise_variance=factor * fitted.noise_variance)) < highest


# --- Bounds


@each_posterior
@each_shape
@each_dtype
def test_elbo_by_hand(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    rows = elbo_rows(problem.x, problem.q, problem.parameters)
    assert rows.dtype == dtype
    expected = dense_elbo_rows(problem.x, problem.q, problem.parameters)
    assert_close(rows, expected)
    bound = elbo(statistics_of(problem), problem.parameters)
    assert bound.dtype == torch.float64
    assert_close(bound, expected.mean(), dtype)


@each_posterior
@each_shape
@each_dtype
def test_entropy_elbo_is_three_entropies(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    T, W = problem.q.covariance().double(), problem.parameters.dictionary.double()
    scale = problem.q.abs_moment().double().mean(0)
    error = (problem.x.double() - problem.q.mean.double() @ W.T).square().sum(1)
    error = error + torch.einsum("dh,nhk,dk->n", W, T, W)
    variance = error.mean() / shape.d
    posterior_entropy = 0.5 * torch.logdet(2 * math.pi * math.e * T).mean()
    prior_entropy = sum(math.log(2 * math.e * s) for s in scale.tolist())
    noise_entropy = shape.d / 2 * math.log(2 * math.pi * math.e * variance)
    for gamma, delta in ((1.0, 1.0), (4.0, 0.5)):
        bound = entropy_elbo(statistics_of(problem), problem.parameters, Weights(gamma, delta))
        assert bound.dtype == torch.float64
        assert_close(bound, posterior_entropy - gamma * prior_entropy - delta * noise_entropy, dtype)


@each_posterior
@each_shape
def test_sampled_elbo_is_an_unbiased_estimate(name, shape):
    problem = random_problem(name, shape)
    p, k = problem.parameters, 8
    draws = torch.stack([sampled_elbo(problem.x, problem.q, p, k, seed) for seed in range(400)])
    assert_estimates(draws, elbo_rows(problem.x, problem.q, p))
    assert_estimates(draws.mean(1), elbo(statistics_of(problem), p))


@each_posterior
def test_one_importance_weight_is_on_average_the_bound(name):
    problem = random_problem(name, SHAPES["d<h"])
    draw = generator(3)
    draws = [importance_log_likelihood(problem.x, problem.q, problem.parameters, 1, draw) for _ in range(2_000)]
    assert_estimates(torch.stack(draws), elbo_rows(problem.x, problem.q, problem.parameters))


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_one_atom_lie_below_the_exact_log_likelihood(seed):
    x, q, parameters = plausible(Shape(30, 3, 1), seed)
    exact = exact_log_likelihood(x, parameters)
    rows = elbo_rows(x, q, parameters)
    assert (rows < exact).all()
    by_sampling = importance_log_likelihood(x, q, parameters, 20_000)
    assert (rows < by_sampling).all()
    torch.testing.assert_close(by_sampling, exact, rtol=0, atol=0.05)
    few = torch.stack([importance_log_likelihood(x, q, parameters, 4, seed).mean() for seed in range(50)])
    assert rows.mean() < few.mean() < exact.mean()


@each_posterior
@each_shape
def test_bound_lies_below_the_importance_sampled_log_likelihood(name, shape):
    x, _, parameters = plausible(shape)
    q = random_posterior(name, shape)
    rows = elbo_rows(x, q, parameters)
    assert (rows < importance_log_likelihood(x, q, parameters, 20_000)).all()


@each_dtype
@pytest.mark.parametrize("estimate", [sampled_elbo, importance_log_likelihood])
def test_estimates_have_the_dtype_of_the_data_and_reproduce(estimate, dtype):
    problem = random_problem("full", SHAPES["d<h"], dtype)
    first, second, other = (estimate(problem.x, problem.q, problem.parameters, 5, seed) for seed in (1, 1, 2))
    assert first.dtype == dtype
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_posterior
@each_shape
@each_dtype
def test_bounds_on_a_cuda_device_are_those_of_the_cpu(name, shape, dtype):
    problem = random_problem(name, shape, dtype)
    p = problem.parameters
    there = replace(
        p,
        dictionary=p.dictionary.cuda(),
        prior_scale=p.prior_scale.cuda(),
        noise_variance=p.noise_variance.cuda(),
    )
    x = problem.x.cuda()
    q = builder(problem.q)(**{key: value.cuda() for key, value in arguments(problem.q).items()})
    statistics = Statistics.of(x, q, there)
    assert_close(elbo(statistics, there).cpu(), elbo(statistics_of(problem), p), dtype)
    assert_close(entropy_elbo(statistics, there).cpu(), entropy_elbo(statistics_of(problem), p), dtype)
    assert_close(elbo_rows(x, q, there).cpu(), elbo_rows(problem.x, problem.q, p))
    codes = q.sample(3).cpu()
    assert_close(q.log_prob(codes.cuda()).cpu(), problem.q.log_prob(codes))
    below = elbo_rows(x, q, there).mean() - importance_log_likelihood(x, q, there, 2_000).mean()
    assert below < 0
