import math

import pytest
import torch
from scipy import stats

from cases import (
    SHAPES,
    TOLERANCE,
    Shape,
    assert_close,
    assert_estimates,
    double,
    each_dtype,
    each_posterior,
    each_shape,
    generator,
    normal,
    positive,
    random_posterior,
    stretched,
    unit_dictionary,
)
from sparsentropy import precision
from sparsentropy.posteriors import Diagonal, Full, LowRank

DRAWS = 20_000
SUMS = ("covariance_sum", "second_moment_sum", "projected_covariance_sum")  # always in float64


def dense(q):
    return torch.distributions.MultivariateNormal(q.mean.double(), q.covariance().double())


def dense_full(q):
    """T_n⁻¹ = Σ_d o_nd w_d w_dᵀ/σ² + diag(κ_n), one data point at a time."""
    W, seen = q.scaled_dictionary, torch.ones_like(q.mean[:, :1]) if q.observed is None else q.observed
    data = [(row[:, None] * W).T @ W for row in seen.expand(-1, len(W))]
    return torch.linalg.inv(torch.stack(data) + torch.diag_embed(q.prior_precision))


EXPECTED_COVARIANCE = {
    Diagonal: lambda q: torch.diag_embed(q.variance),
    LowRank: lambda q: torch.diag_embed(q.diagonal) + torch.einsum("nhr,nkr->nhk", q.factor, q.factor),
    Full: dense_full,
}


def answers(q, shape):
    """All that a posterior can be asked, by name."""
    draw = generator(1)
    dictionary, matrix = unit_dictionary(shape.d, shape.h, draw), normal(shape.h, shape.h, draw=draw)
    dictionary, matrix = dictionary.to(q.mean), matrix.to(q.mean)
    rotated = q.rotated(matrix)
    return {
        "mean": q.mean,
        "variance": q.variance,
        "std": q.std,
        "covariance": q.covariance(),
        "covariance_sum": q.covariance_sum(),
        "second_moment_sum": q.second_moment_sum(),
        "entropy": q.entropy(),
        "spread": q.spread(dictionary),
        "projected_variance": q.projected_variance(dictionary),
        "projected_covariance_sum": q.projected_covariance_sum(dictionary, q.mean @ dictionary.T),
        "abs_moment": q.abs_moment(),
        "log_prob": q.log_prob(q.mean + normal(3, shape.n, shape.h, draw=draw).to(q.mean)),
        "rotated mean": rotated.mean,
        "rotated variance": rotated.variance,
        "rotated_covariance_sum": q.rotated_covariance_sum(matrix, q.mean.square()),
        "sample": q.sample(4, seed=3),
        "interval": torch.stack(q.interval(0.8)),
    }


@each_posterior
@each_shape
@each_dtype
def test_covariance_is_that_of_the_definition(name, shape, dtype):
    q = random_posterior(name, shape, dtype)
    assert_close(q.covariance(), EXPECTED_COVARIANCE[type(q)](q))


@each_posterior
@each_shape
@each_dtype
def test_answers_are_those_of_the_dense_gaussian(name, shape, dtype):
    q = random_posterior(name, shape, dtype)
    reference, given = dense(q), answers(q, shape)
    draw = generator(1)
    dictionary, matrix = unit_dictionary(shape.d, shape.h, draw), normal(shape.h, shape.h, draw=draw)
    mean, covariance = q.mean.double(), q.covariance().double()
    std = reference.variance.sqrt()
    half_width = stats.norm.ppf(0.9) * std
    expected = {
        "variance": reference.variance,
        "std": std,
        "covariance_sum": covariance.sum(0),
        "second_moment_sum": torch.einsum("nh,nk->hk", mean, mean) + covariance.sum(0),
        "entropy": reference.entropy(),
        "spread": torch.einsum("dh,nhk,dk->n", dictionary, covariance, dictionary),
        "projected_variance": torch.einsum("dh,nhk,dk->nd", dictionary, covariance, dictionary),
        "projected_covariance_sum": torch.einsum("nd,dh,nhk->dk", mean @ dictionary.T, dictionary, covariance),
        "abs_moment": torch.as_tensor(stats.foldnorm(mean.abs() / std, scale=std).mean()),
        "log_prob": reference.log_prob(mean + normal(3, shape.n, shape.h, draw=draw)),
        "rotated mean": torch.einsum("gh,nh->ng", matrix, mean),
        "rotated variance": torch.einsum("gh,nhk,gk->ng", matrix, covariance, matrix),
        "rotated_covariance_sum": torch.einsum("ng,gh,nhk,jk->gj", mean**2, matrix, covariance, matrix),
        "interval": torch.stack([mean - half_width, mean + half_width]),
    }
    assert set(given) - set(expected) == {"mean", "covariance", "sample"}
    for key, value in expected.items():
        assert given[key].dtype == (torch.float64 if key in SUMS else dtype), key
        assert_close(given[key], value, dtype)


@each_posterior
@each_shape
def test_samples_follow_the_dense_gaussian(name, shape):
    q = random_posterior(name, shape)
    draws = q.sample(DRAWS)
    covariance = q.covariance()
    assert draws.shape == (DRAWS, shape.n, shape.h)
    assert_estimates(draws, q.mean)
    offset = draws - q.mean
    assert_estimates(offset.unsqueeze(-1) * offset.unsqueeze(-2), covariance)
    assert_estimates(draws.abs(), q.abs_moment())
    distance = (offset.mT * torch.linalg.solve(covariance, offset.unsqueeze(-1)).squeeze(-1).mT).sum(1)
    for row in distance.T:
        assert stats.kstest(row, stats.chi2(shape.h).cdf).pvalue > 1e-3


@each_posterior
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_interval_covers_as_many_draws_as_it_says(name, p):
    q = random_posterior(name, SHAPES["d<h"])
    lower, upper = q.interval(p)
    draws = q.sample(DRAWS, seed=1)
    coverage = ((lower < draws) & (draws < upper)).double().mean(0)
    assert ((coverage - p).abs() < 5 * math.sqrt(p * (1 - p) / DRAWS)).all()


@each_posterior
@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 90, float("nan")])
def test_interval_of_a_bad_probability(name, p):
    with pytest.raises(ValueError, match="p must lie between 0 and 1"):
        random_posterior(name, SHAPES["d>h"]).interval(p)


@each_posterior
@each_shape
def test_seeds_reproduce(name, shape):
    q = random_posterior(name, shape)
    assert torch.equal(q.sample(3, seed=4), q.sample(3, seed=4))
    assert torch.equal(q.sample(3, seed=4), q.sample(3, generator(4)))
    assert not torch.equal(q.sample(3, seed=4), q.sample(3, seed=5))
    going_on = generator(4)
    assert not torch.equal(q.sample(3, going_on), q.sample(3, going_on))


@each_posterior
@each_shape
@pytest.mark.parametrize(
    "rows",
    [slice(2, 5), slice(None, None, 2), torch.tensor([4, 0, 0]), torch.arange(6) % 2 == 0],
    ids=["slice", "step", "index", "mask"],
)
def test_some_rows(name, shape, rows):
    shape = Shape(6, shape.d, shape.h)
    q = random_posterior(name, shape)
    some = q[rows]
    assert type(some) is type(q)
    assert len(q) == 6
    assert len(some) == 3
    whole, part = answers(q, shape), answers(some, Shape(3, shape.d, shape.h))
    for key in ("mean", "variance", "std", "covariance", "entropy", "spread", "abs_moment", "rotated variance"):
        assert_close(part[key], whole[key][rows])
    codes = normal(2, 6, shape.h, draw=generator(2))
    assert_close(some.log_prob(codes[:, rows]), q.log_prob(codes)[:, rows])


@each_posterior
@each_shape
@each_dtype
def test_scaled_is_the_posterior_of_scaled_codes(name, shape, dtype):
    q = random_posterior(name, shape, dtype)
    factor = positive(shape.h, draw=generator(1)).to(dtype)
    scaled = q.scaled(factor)
    assert type(scaled) is type(q)
    given, expected = answers(scaled, shape), answers(stretched(q, factor), shape)
    for key, value in expected.items():
        assert_close(given[key], value, dtype)
    torch.testing.assert_close(scaled.sample(3), q.sample(3) * factor, **TOLERANCE[dtype])


@each_shape
@each_dtype
def test_full_multiplies_with_its_covariance(shape, dtype):
    q = random_posterior("full", shape, dtype)
    right = normal(shape.n, shape.h, draw=generator(1)).to(dtype)
    assert_close(q.multiply(right), torch.einsum("nhk,nk->nh", q.covariance(), right))


@each_shape
@pytest.mark.parametrize("name", ["full", "full-in-part"])
@pytest.mark.parametrize("elements", [1, 60])
def test_full_in_chunks_is_full_at_once(name, shape, elements, monkeypatch):
    whole = random_posterior(name, shape)
    expected = answers(whole, shape) | {"multiply": whole.multiply(whole.mean)}
    monkeypatch.setattr(precision, "CHUNK", {"cpu": elements})
    pieces = random_posterior(name, shape)
    actual = answers(pieces, shape) | {"multiply": pieces.multiply(pieces.mean)}
    for key, value in expected.items():
        assert_close(actual[key], value)


@pytest.mark.parametrize("elements", [1, 60, 10_000])
@each_shape
def test_no_chunk_of_full_is_larger_than_allowed(shape, elements, monkeypatch):
    monkeypatch.setattr(precision, "CHUNK", {"cpu": elements})
    chunks = list(random_posterior("full", shape)._chunks())
    rows = [factor.covariance().shape[0] for _, factor in chunks]
    assert sum(rows) == shape.n
    one = shape.h * max(shape.h, shape.d)
    assert max(rows) * one <= max(elements, one)
    assert len(rows) == math.ceil(shape.n / max(1, elements // one))


@each_shape
@each_dtype
def test_full_of_no_data_is_the_prior(shape, dtype):
    precision = positive(shape.n, shape.h, draw=generator()).to(dtype)
    q = Full.from_precision(precision, precision, torch.zeros(shape.d, shape.h, dtype=dtype))
    given, expected = answers(q, shape), answers(Diagonal(precision, 1 / precision), shape)
    for key in set(given) - {"sample"}:
        assert_close(given[key], expected[key], dtype)


@each_shape
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_low_rank_without_common_directions_is_diagonal(shape, rank):
    plain = random_posterior("diagonal", shape)
    q = LowRank(plain.mean, plain.variance, torch.zeros(shape.n, shape.h, rank, dtype=torch.float64))
    given, expected = answers(q, shape), answers(plain, shape)
    assert isinstance(q.rotated(torch.eye(shape.h, dtype=torch.float64)), LowRank)
    for key, value in expected.items():
        assert_close(given[key], value)


@each_shape
def test_low_rank_keeps_its_common_directions_when_rotated(shape):
    q = random_posterior("low-rank-3", shape)
    matrix = normal(shape.h, shape.h, draw=generator(1))
    own = torch.diag_embed(q.diagonal @ matrix.square().T)
    common = matrix @ (q.covariance() - torch.diag_embed(q.diagonal)) @ matrix.T
    assert_close(q.rotated(matrix).covariance(), own + common)


def test_covariance_sum_of_low_rank_in_float32_keeps_what_the_data_determine():
    # Wide in the directions that W does not see, narrow in the others
    dictionary = unit_dictionary(4, 8, generator()).float()
    unseen = torch.linalg.svd(dictionary.double())[2][4:].T
    factor = 10 * (unseen @ normal(50, 4, 3, draw=generator(1))).float()
    q = LowRank(torch.zeros(50, 8), torch.full((50, 8), 1e-6), factor)
    covariance = torch.diag_embed(q.diagonal.double()) + factor.double() @ factor.double().mT
    gram = dictionary.double().T @ dictionary.double()
    expected = (gram * covariance).sum().item()
    assert expected < 1e-3
    assert (gram * q.covariance_sum()).sum().item() == pytest.approx(expected, rel=1e-4)
    assert q.spread(dictionary).sum().item() == pytest.approx(expected, rel=1e-4)


@each_dtype
def test_full_where_the_data_leave_no_doubt_stays_positive(dtype):
    # Two atoms that nobody else explains: their variance is σ², far below the rounding of the prior's
    dictionary = torch.eye(2, 3, dtype=dtype)
    precision = torch.full((1, 3), 1e-2, dtype=dtype)
    q = Full.from_precision(torch.zeros(1, 3, dtype=dtype), precision, dictionary / 1e-5)
    expected = double([[1e-10, 1e-10, 100]])
    for variance in (q.variance, q.rotated(torch.eye(3, dtype=dtype)).variance):
        torch.testing.assert_close(variance.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(q.spread(dictionary).double(), double([2e-10]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("noise", [1e-1, 1e-3])
@pytest.mark.parametrize("shape", [Shape(8, 24, 16), Shape(8, 16, 32)], ids=["d>h", "d<h"])
def test_full_in_float32_where_the_data_say_far_more_than_the_prior(shape, noise):
    draw = generator()
    dictionary = unit_dictionary(shape.d, shape.h, draw).float()
    dictionary[:, 1] = dictionary[:, 0]  # so that WᵀW is singular whatever its shape
    precision = positive(shape.n, shape.h, draw=draw).float()
    precision[:, 2:10] = 1e-30  # codes far from zero, where the prior's curvature underflows
    q = Full.from_precision(torch.zeros_like(precision), precision, dictionary / noise)
    wide = q.scaled_dictionary.double()
    covariance = torch.linalg.inv(wide.T @ wide + torch.diag_embed(precision.double()))
    spread = torch.einsum("dh,nhk,dk->n", dictionary.double(), covariance, dictionary.double())
    close = {"rtol": 1e-4, "atol": 0}
    torch.testing.assert_close(q.variance.double(), covariance.diagonal(dim1=1, dim2=2), **close)
    torch.testing.assert_close(q.log_det.double(), torch.linalg.slogdet(covariance)[1], **close)
    torch.testing.assert_close(q.spread(dictionary).double(), spread, **close)
    total = (dictionary.double().T @ dictionary.double() * q.covariance_sum()).sum()
    torch.testing.assert_close(total, spread.sum(), **close)


@each_dtype
def test_entropy_of_tight_and_of_wide_posteriors(dtype):
    for scale in (1e-8, 1e8):
        variance = torch.full((1, 3), scale**2, dtype=dtype)
        expected = 3 * double(scale).log() + 1.5 * math.log(2 * math.pi * math.e)
        for q in (Diagonal(variance, variance), LowRank(variance, variance, torch.zeros(1, 3, 2, dtype=dtype))):
            assert_close(q.entropy(), expected[None])


def test_directions_that_go_together_and_dwarf_the_rest_leave_an_entropy():
    """I + VᵀD⁻¹V is singular to rounding then."""
    factor = torch.zeros(2, 2, 3, dtype=torch.float64)
    factor[0] = 1e3 * torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0 + 1e-7]], dtype=torch.float64)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    q = LowRank(zero, zero + 1e-18, factor)
    # det VVᵀ is the square of a cross product, of (1, 2, 3) and (0, 0, 10⁻⁷)
    exact = [5e-2, 1e-36]
    expected = torch.tensor([math.log(2 * math.pi * math.e) + math.log(value) / 2 for value in exact]).double()
    assert torch.allclose(q.entropy(), expected, atol=1e-5)
    assert q.log_prob(zero[None]).isfinite().all()
