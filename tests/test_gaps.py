"""Contexts of data that were seen in part, against dense Gaussians, against complete data, and draws from the model."""

import itertools

import pytest
import torch
from torch.distributions import MultivariateNormal

from cases import STANDARD_ERRORS, TOLERANCE, each_dtype, generator, normal, positive, unit_dictionary
from sparsentropy.contexts import Contexts, probable
from sparsentropy.gaps import BlockContexts, Seen
from sparsentropy.learning import with_gaps

SHAPES = {"h<d": (6, 4), "h=d": (5, 5), "h>d": (4, 7)}
each_shape = pytest.mark.parametrize(("d", "h"), SHAPES.values(), ids=SHAPES)
each_block = pytest.mark.parametrize("b", [1, 3])


def contexts_of(d, h, b=1, k=3, seed=0):
    draw = generator(seed)
    variance = torch.stack([positive(b, h, draw=draw) * 4.0**c for c in range(k)])
    share = positive(k, draw=draw)
    return BlockContexts(unit_dictionary(d, h, draw), variance, share / share.sum())


def drawn(contexts, n, missing=0.4, seed=1, common=0, scale=1.0):
    """Data with gaps, what they are without noise, and the context of each; the first ones share one pattern."""
    draw = generator(seed)
    b, h = contexts.prior_variance.shape[1:]
    label = torch.multinomial(contexts.share, n, replacement=True, generator=draw)
    codes = normal(n, b, h, draw=draw) * contexts.prior_variance[label].sqrt()
    clean = codes @ contexts.dictionary.T
    noise = scale * positive(n, clean.shape[2], draw=draw)
    noise[torch.rand(noise.shape, generator=draw) < missing] = torch.inf
    noise[:common] = noise[common]
    shown = noise.nan_to_num(posinf=1.0)[:, None]
    return Seen(clean + shown.sqrt() * normal(*clean.shape, draw=draw), noise), clean, label


def in_dtype(value, dtype):
    return type(value)(*(tensor.to(dtype) for tensor in vars(value).values() if isinstance(tensor, torch.Tensor)))


def by_hand(contexts, data):
    """Log joint (n, k), and mean and variance of clean data in every context, (n, k, b, d), by dense algebra."""
    k, b, _ = contexts.prior_variance.shape
    joint = contexts.share.log().expand(len(data), k).clone()
    mean, variance = (torch.zeros(len(data), k, b, data.x.shape[2]).double() for _ in range(2))
    for n, c, i in itertools.product(range(len(data)), range(k), range(b)):
        o = data.noise_variance[n].isfinite()
        C = contexts.covariance(c, i)
        variance[n, c, i] = C.diagonal()
        if not o.any():
            continue
        covariance = C[o][:, o] + torch.diag(data.noise_variance[n, o])
        joint[n, c] += MultivariateNormal(torch.zeros(int(o.sum())).double(), covariance).log_prob(data.x[n, i, o])
        gain = C[:, o] @ torch.linalg.inv(covariance)
        mean[n, c, i] = gain @ data.x[n, i, o]
        variance[n, c, i] -= (gain * C[:, o]).sum(1)
    return joint, mean, variance


@each_dtype
@each_shape
@each_block
@pytest.mark.parametrize("common", [0, 20])
def test_probabilities_and_fillings_are_those_of_dense_gaussians(d, h, b, dtype, common):
    contexts = contexts_of(d, h, b)
    data = drawn(contexts, 30, common=common)[0]
    data.noise_variance[-1] = torch.inf  # nothing is seen
    joint, mean, variance = by_hand(contexts, data)
    single, seen = in_dtype(contexts, dtype), in_dtype(data, dtype)
    loose = {key: 20 * value for key, value in TOLERANCE[dtype].items()}
    torch.testing.assert_close(single.log_joint(seen), joint.to(dtype), **loose)
    r = probable(joint)
    found_mean, found_variance = single.filled(seen, r.to(dtype))
    expected = torch.einsum("nk,nkbd->nbd", r, mean)
    square = torch.einsum("nk,nkbd->nd", r, variance + mean.square())
    torch.testing.assert_close(found_mean, expected.to(dtype), **loose)
    torch.testing.assert_close(found_variance, (square - expected.square().sum(1)).to(dtype), **loose)


@each_shape
def test_without_gaps_it_is_the_model_of_complete_data(d, h):
    contexts = contexts_of(d, h)
    x = drawn(contexts, 20)[0].x
    whole = Contexts(contexts.dictionary, contexts.prior_variance[:, 0], 0.3, contexts.share)
    data = Seen(x, torch.full((20, d), 0.3).double())
    torch.testing.assert_close(contexts.log_joint(data), whole.log_joint(x[:, 0]))
    mean, variance = contexts.filled(data, probable(contexts.log_joint(data)))
    expected_mean, expected_variance = whole.denoised(x[:, 0])
    torch.testing.assert_close(mean[:, 0], expected_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.sum(1), expected_variance, rtol=1e-6, atol=1e-6)


def test_what_stands_in_gaps_does_not_matter():
    contexts = contexts_of(5, 5)
    data = drawn(contexts, 20)[0]
    other = Seen(torch.where(data.noise_variance[:, None].isinf(), 1e6, data.x), data.noise_variance)
    torch.testing.assert_close(contexts.log_joint(data), contexts.log_joint(other))


def test_only_contexts_that_are_asked_for_are_scored():
    contexts = contexts_of(5, 5)
    data = drawn(contexts, 20)[0]
    among = torch.tensor([[0, 2]]).expand(20, 2)
    found, every = contexts.log_joint(data, among), contexts.log_joint(data)
    torch.testing.assert_close(found[:, [0, 2]], every[:, [0, 2]])
    assert bool((found[:, 1] == -torch.inf).all())


def test_the_variance_is_the_error_that_draws_have():
    contexts = contexts_of(6, 4, b=2)
    data, clean, _ = drawn(contexts, 20_000)
    mean, variance = contexts.filled(data, probable(contexts.log_joint(data)))
    difference = (mean - clean).square().sum(1) - variance
    standard_error = difference.std(0) / len(data) ** 0.5
    left_out = 1e-3 * variance.mean(0)  # what is rarer in a mixture than a thousandth
    assert bool((difference.mean(0).abs() < STANDARD_ERRORS * standard_error + left_out).all())


@each_shape
@each_block
def test_every_sweep_raises_the_likelihood(d, h, b, monkeypatch):
    monkeypatch.setattr("sparsentropy.contexts.LEAST", 0.0)
    monkeypatch.setattr(with_gaps, "BEST", 2)
    data = drawn(contexts_of(d, h, b), 1000)[0]
    other = contexts_of(d, h, b, seed=5)
    begun = BlockContexts(contexts_of(d, h, b).dictionary, other.prior_variance, other.share)
    found = [sweep.log_likelihood for sweep in with_gaps.learn(data, begun, max_iter=25)]
    assert all(after > before - 1e-12 for before, after in itertools.pairwise(found))
    assert found[-1] > found[0] + 0.02


def test_learning_finds_the_variances_that_data_were_drawn_with():
    truth = BlockContexts(
        torch.eye(4).double(),
        torch.tensor([[[0.05, 0.05, 0.05, 0.05]], [[9.0, 9.0, 0.05, 0.05]], [[0.05, 0.05, 25.0, 25.0]]]).double(),
        torch.tensor([0.5, 0.3, 0.2]).double(),
    )
    data = drawn(truth, 8000, missing=0.3, scale=0.01)[0]
    begun = BlockContexts(truth.dictionary, truth.prior_variance.sqrt(), torch.full((3,), 1 / 3).double())
    for sweep in with_gaps.learn(data, begun, max_iter=60):
        contexts = sweep.contexts
    torch.testing.assert_close(contexts.share, truth.share, atol=0.03, rtol=0.0)
    torch.testing.assert_close(contexts.prior_variance, truth.prior_variance, atol=0.02, rtol=0.15)


def test_contexts_that_nobody_is_in_are_given_up():
    contexts = contexts_of(4, 4)
    data = drawn(contexts, 500)[0]
    rare = BlockContexts(contexts.dictionary, contexts.prior_variance, torch.tensor([0.6, 0.4, 1e-300]).double())
    for sweep in with_gaps.learn(data, rare, max_iter=2):
        contexts = sweep.contexts
    assert len(contexts) == 2
    assert float(contexts.share.sum()) == pytest.approx(1)
