"""What the paper proves and what follows from it, on random problems: every statement by a route of its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize

from cases import (
    SHAPES,
    Shape,
    arguments,
    assert_close,
    builder,
    each_posterior,
    each_shape,
    generator,
    positive,
    random_problem,
    stretched,
)
from sparsentropy.objectives import Statistics, Weights, elbo, elbo_rows, entropy_elbo
from sparsentropy.posteriors import Diagonal

each_weights = pytest.mark.parametrize(
    "weights",
    [Weights(), Weights(prior=4.0), Weights(likelihood=0.3), Weights(prior=0.5, likelihood=2.0)],
    ids=["plain", "prior", "likelihood", "both"],
)


def pooled(problem):
    return Statistics.of(problem.x, problem.q, problem.parameters)


def with_leaves(problem):
    """The same problem as a function of leaves: all that q is made of, and the dictionary."""
    leaves = {key: value.clone().requires_grad_() for key, value in arguments(problem.q).items()}
    dictionary = problem.parameters.dictionary.clone().requires_grad_()
    parameters = replace(problem.parameters, dictionary=dictionary)
    return replace(problem, q=builder(problem.q)(**leaves), parameters=parameters), [*leaves.values(), dictionary]


@each_posterior
@each_shape
def test_entropy_elbo_is_the_largest_elbo_over_scale_and_noise(name, shape):
    problem = random_problem(name, shape)
    statistics = pooled(problem)

    def loss(log_scale_and_variance):
        values = torch.as_tensor(log_scale_and_variance).exp().requires_grad_()
        bound = elbo(statistics, replace(problem.parameters, prior_scale=values[:-1], noise_variance=values[-1]))
        (gradient,) = torch.autograd.grad(-bound, values)
        return -bound.item(), (gradient * values).detach().numpy()

    found = optimize.minimize(loss, np.zeros(shape.h + 1), jac=True, method="BFGS", options={"gtol": 1e-9})
    assert -found.fun == pytest.approx(entropy_elbo(statistics, problem.parameters).item(), abs=1e-9)
    fitted = statistics.fit(problem.parameters)
    np.testing.assert_allclose(np.exp(found.x[:-1]), fitted.prior_scale, rtol=1e-6)
    assert math.exp(found.x[-1]) == pytest.approx(fitted.noise_variance.item(), rel=1e-6)


@each_posterior
@each_shape
def test_at_the_fit_the_elbo_is_the_entropy_elbo_and_elsewhere_it_is_smaller(name, shape):
    problem = random_problem(name, shape)
    statistics = pooled(problem)
    fitted = statistics.fit(problem.parameters)
    best = entropy_elbo(statistics, problem.parameters)
    assert_close(elbo(statistics, fitted), best)
    for factor in (0.9, 1.1):
        assert elbo(statistics, replace(fitted, prior_scale=factor * fitted.prior_scale)) < best
        assert elbo(statistics, replace(fitted, noise_variance=factor * fitted.noise_variance)) < best


@each_posterior
@each_shape
@each_weights
def test_gradient_is_that_of_the_elbo_at_the_fit_held_fixed(name, shape, weights):
    problem, leaves = with_leaves(random_problem(name, shape))
    objective = entropy_elbo(pooled(problem), problem.parameters, weights)
    through = torch.autograd.grad(objective, leaves, retain_graph=True)
    with torch.no_grad():
        annealed = weights.apply(pooled(problem).fit(problem.parameters))
    fixed = replace(problem.parameters, prior_scale=annealed.prior_scale, noise_variance=annealed.noise_variance)
    for bound in (elbo(pooled(problem), fixed), elbo_rows(problem.x, problem.q, fixed).mean()):
        held = torch.autograd.grad(bound, leaves, retain_graph=True)
        for one, other in zip(through, held, strict=True):
            assert one.abs().max() > 1e-4
            assert_close(one, other)


@each_posterior
@pytest.mark.parametrize("shape", [Shape(2, 3, 2), Shape(2, 2, 3)], ids=["d>h", "d<h"])
def test_gradient_is_the_numerical_one(name, shape):
    problem = random_problem(name, shape)
    build, names = builder(problem.q), list(arguments(problem.q))

    def objective(dictionary, *leaves):
        q = build(**dict(zip(names, leaves, strict=True)))
        parameters = replace(problem.parameters, dictionary=dictionary)
        return entropy_elbo(Statistics.of(problem.x, q, parameters), parameters, Weights(2.0, 0.7))

    leaves = with_leaves(problem)[1]
    assert torch.autograd.gradcheck(objective, (leaves[-1], *leaves[:-1]), rtol=1e-5, atol=1e-7)


@each_posterior
@each_shape
def test_entropy_elbo_is_gauge_invariant(name, shape):
    problem = random_problem(name, shape)
    c = positive(shape.h, draw=generator(7))
    parameters = replace(problem.parameters, dictionary=problem.parameters.dictionary / c)
    same = Statistics.of(problem.x, stretched(problem.q, c), parameters)
    expected = entropy_elbo(pooled(problem), problem.parameters)
    assert_close(entropy_elbo(same, parameters), expected)
    annealed = entropy_elbo(same, parameters, Weights(prior=2.0))
    shift = c.log().sum()  # H[q] gains it, 2 H[p(z)] loses twice as much
    assert_close(annealed, entropy_elbo(pooled(problem), problem.parameters, Weights(prior=2.0)) - shift)


@each_posterior
@each_shape
def test_minibatch_objectives_are_optimistic(name, shape):
    problem = random_problem(name, Shape(12, shape.d, shape.h))
    best = entropy_elbo(pooled(problem), problem.parameters)
    averages = []
    for size in (12, 6, 3, 1):  # every batch size divides the one before
        rows = [slice(i, i + size) for i in range(0, 12, size)]
        batches = [Statistics.of(problem.x[r], problem.q[r], problem.parameters) for r in rows]
        averages.append(torch.stack([entropy_elbo(b, problem.parameters) for b in batches]).mean())
    assert_close(averages[0], best)
    assert averages[0] < averages[1] < averages[2] < averages[3]


@each_posterior
def test_held_out_bound_is_never_above_its_own_fit(name):
    problem = random_problem(name, Shape(12, 3, 5))
    train = Statistics.of(problem.x[:6], problem.q[:6], problem.parameters)
    held_out = Statistics.of(problem.x[6:], problem.q[6:], problem.parameters)
    assert elbo(held_out, train.fit(problem.parameters)) < entropy_elbo(held_out, problem.parameters)


def bound_of_an_unused_atom(std, weights):
    """The objective when the last atom of a good fit is nowhere used."""
    problem = random_problem("diagonal", SHAPES["d>h"])
    mean, variance = problem.q.mean.clone(), problem.q.variance.clone()
    mean[:, -1], variance[:, -1] = 0, std**2
    statistics = Statistics.of(problem.x, Diagonal(mean, variance), problem.parameters)
    return entropy_elbo(statistics, problem.parameters, weights).item()


def test_strong_prior_annealing_is_unbounded_and_the_plain_bound_is_not():
    gamma = Weights(prior=3.0)
    tight, tighter = (bound_of_an_unused_atom(std, gamma) for std in (1e-4, 1e-8))
    assert tighter - tight == pytest.approx((gamma.prior - 1) * math.log(1e4), rel=1e-6)
    tight, tighter = (bound_of_an_unused_atom(std, Weights()) for std in (1e-4, 1e-8))
    assert tighter == pytest.approx(tight, abs=1e-6)
