"""Mixtures of Gaussian models against dense Gaussians and draws from the model, and learning against its gradient."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from cases import STANDARD_ERRORS, TOLERANCE, double, each_dtype, generator, normal, positive, unit_dictionary
from sparsentropy.contexts import Contexts
from sparsentropy.learning import in_contexts

SHAPES = {"h<d": (6, 4), "h=d": (5, 5), "h>d": (4, 7)}
each_shape = pytest.mark.parametrize(("d", "h"), SHAPES.values(), ids=SHAPES)


def contexts_of(d, h, k=3, seed=0, noise=0.3):
    draw = generator(seed)
    variance = torch.stack([positive(h, draw=draw) * 4.0**c for c in range(k)])
    share = positive(k, draw=draw)
    return Contexts(unit_dictionary(d, h, draw), variance, noise, share / share.sum())


def drawn(contexts, n, seed=1):
    """Data, what they are without noise, and the context of each."""
    draw = generator(seed)
    label = torch.multinomial(contexts.share, n, replacement=True, generator=draw)
    codes = normal(n, contexts.dictionary.shape[1], draw=draw) * contexts.prior_variance[label].sqrt()
    clean = codes @ contexts.dictionary.T
    return clean + math.sqrt(contexts.noise_variance) * normal(*clean.shape, draw=draw), clean, label


def dense(contexts):
    """Covariance of clean data, and of data, in every context."""
    W, eye = contexts.dictionary, torch.eye(contexts.dictionary.shape[0], dtype=torch.float64)
    clean = [(W * v) @ W.T for v in contexts.prior_variance]
    return [(c, c + contexts.noise_variance * eye) for c in clean]


def in_dtype(contexts, dtype):
    return Contexts(
        contexts.dictionary.to(dtype),
        contexts.prior_variance.to(dtype),
        contexts.noise_variance,
        contexts.share.to(dtype),
    )


@each_dtype
@each_shape
def test_the_joint_probability_is_that_of_dense_gaussians(d, h, dtype):
    contexts = contexts_of(d, h)
    x = drawn(contexts, 20)[0]
    expected = [
        MultivariateNormal(torch.zeros(d).double(), data).log_prob(x) + share.log()
        for (_, data), share in zip(dense(contexts), contexts.share, strict=True)
    ]
    found = in_dtype(contexts, dtype).log_joint(x.to(dtype))
    torch.testing.assert_close(found, torch.stack(expected, 1).to(dtype), **TOLERANCE[dtype])


@each_dtype
@each_shape
def test_denoised_data_are_the_mean_of_dense_posteriors(d, h, dtype):
    contexts = contexts_of(d, h)
    x = drawn(contexts, 20)[0]
    weight = torch.softmax(contexts.log_joint(x), 1)
    weight = weight * (weight > 1e-3)  # what is rarer is left out, and the rest counts as if it were all
    weight = weight / weight.sum(1, keepdim=True)
    mean, square = torch.zeros_like(x), torch.zeros(len(x)).double()
    for (clean, data), r in zip(dense(contexts), weight.T, strict=True):
        gain = clean @ torch.linalg.inv(data)
        part = x @ gain.T
        mean += r[:, None] * part
        square += r * (part.square().sum(1) + torch.trace(clean - gain @ clean))
    found, variance = in_dtype(contexts, dtype).denoised(x.to(dtype))
    loose = {key: 20 * value for key, value in TOLERANCE[dtype].items()}
    torch.testing.assert_close(found, mean.to(dtype), **loose)
    torch.testing.assert_close(variance, (square - mean.square().sum(1)).to(dtype), **loose)


@each_shape
def test_the_variance_is_the_error_that_draws_have(d, h):
    contexts = contexts_of(d, h)
    x, clean, _ = drawn(contexts, 20_000)
    mean, variance = contexts.denoised(x)
    difference = (mean - clean).square().sum(1) - variance
    standard_error = float(difference.std()) / math.sqrt(len(x))
    left_out = 1e-3 * float(variance.mean())  # what is rarer in a mixture than a thousandth
    assert abs(float(difference.mean())) < STANDARD_ERRORS * standard_error + left_out


def test_less_noise_changes_less():
    contexts = contexts_of(4, 7)
    x = drawn(contexts, 50)[0]
    moved = [float((contexts.with_noise(v).denoised(x)[0] - x).norm()) for v in (1.0, 0.1, 0.01)]
    assert moved[0] > moved[1] > moved[2]


@each_shape
def test_every_sweep_raises_the_likelihood(d, h):
    x = drawn(contexts_of(d, h), 2000)[0]
    begun = contexts_of(d, h, seed=5)
    found = [sweep.log_likelihood for sweep in in_contexts.learn(x, begun, max_iter=40, tol=0.0)]
    assert len(found) == 40
    assert all(after > before - 1e-12 for before, after in itertools.pairwise(found))
    assert found[-1] > found[0] + 0.05


def test_learning_ends_where_the_gradient_is_zero():
    x = drawn(contexts_of(3, 3, k=2), 300)[0]
    for sweep in in_contexts.learn(x, contexts_of(3, 3, k=2, seed=5), max_iter=3000, tol=0.0):
        last = sweep.contexts
    W = last.dictionary.clone().requires_grad_()
    log_variance = last.prior_variance.log().requires_grad_()
    eye = torch.eye(3, dtype=torch.float64)
    joint = [
        MultivariateNormal(eye[0] * 0, (W * v) @ W.T + last.noise_variance * eye).log_prob(x) + share.log()
        for v, share in zip(log_variance.exp(), last.share, strict=True)
    ]
    torch.logsumexp(torch.stack(joint), 0).mean().backward()
    assert float(W.grad.abs().max()) < 1e-3
    assert float(log_variance.grad.abs().max()) < 1e-3


def test_quiet_and_loud_are_told_apart():
    scales = double([[0.01, 0.01, 0.01], [9.0, 0.01, 0.01], [0.01, 9.0, 9.0]])
    truth = Contexts(torch.eye(3).double(), scales, 0.01, double([0.5, 0.3, 0.2]))
    x, _, label = drawn(truth, 5000)
    contexts = in_contexts.started(x, truth.dictionary, truth.noise_variance, k=3, seed=0)
    for sweep in in_contexts.learn(x, contexts, max_iter=100, tol=1e-6):
        contexts = sweep.contexts
    order = contexts.prior_variance.sum(1).argsort()
    found = contexts.log_joint(x).argmax(1)
    assert float((order.argsort()[found] == label).double().mean()) > 0.95
    torch.testing.assert_close(contexts.share[order], truth.share, atol=0.03, rtol=0.0)


def test_contexts_that_nobody_is_in_are_given_up():
    contexts = contexts_of(4, 4)
    rare = Contexts(contexts.dictionary, contexts.prior_variance, contexts.noise_variance, double([0.5, 0.5, 1e-12]))
    x = drawn(Contexts(contexts.dictionary, contexts.prior_variance[:2], 0.3, double([0.5, 0.5])), 200)[0]
    (sweep,) = in_contexts.learn(x, rare, max_iter=1, tol=0.0)
    assert len(sweep.contexts) == 2
    assert float(sweep.contexts.share.sum()) == pytest.approx(1)


def test_few_data_have_one_context():
    x = normal(2, 4, draw=generator(0))
    assert len(in_contexts.started(x, torch.eye(4).double(), 1.0, k=10, seed=0)) == 1
