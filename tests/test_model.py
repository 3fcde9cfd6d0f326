import math

import pytest
import torch

from cases import (
    SHAPES,
    Shape,
    assert_close,
    assert_estimates,
    double,
    each_dtype,
    each_posterior,
    each_shape,
    exact_log_likelihood,
    generator,
    positive,
    random_parameters,
    random_problem,
    stretched,
)
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows


def of_any_length(parameters):
    """The same atoms, no longer of unit length."""
    length = positive(parameters.h, draw=generator(9)).to(parameters.dictionary)
    return Parameters(parameters.dictionary * length, parameters.prior_scale, parameters.noise_variance), length


@each_shape
@each_dtype
def test_gauged_atoms_have_unit_length_and_sample_the_same_data(shape, dtype):
    parameters, length = of_any_length(random_parameters(shape, dtype))
    gauged, factor = parameters.gauged()
    assert_close(gauged.dictionary.norm(dim=0), torch.ones(shape.h, dtype=dtype))
    assert_close(factor, length)
    x, codes = parameters.sample(20, seed=3)
    same_x, same_codes = gauged.sample(20, seed=3)
    assert_close(same_x, x)
    assert_close(same_codes, codes * factor)


@each_shape
@each_posterior
def test_gauge_keeps_the_bound(shape, name):
    problem = random_problem(name, shape)
    parameters = of_any_length(problem.parameters)[0]
    gauged, factor = parameters.gauged()
    same = elbo_rows(problem.x, stretched(problem.q, factor), gauged)
    assert_close(same, elbo_rows(problem.x, problem.q, parameters))


def test_gauge_keeps_the_likelihood():
    parameters = of_any_length(random_parameters(Shape(5, 3, 1)))[0]
    x = parameters.sample(5)[0]
    assert_close(exact_log_likelihood(x, parameters.gauged()[0]), exact_log_likelihood(x, parameters))


@each_dtype
def test_an_atom_of_length_zero_keeps_its_place(dtype):
    parameters = random_parameters(SHAPES["d>h"], dtype)
    dictionary = parameters.dictionary.clone()
    dictionary[:, 1] = 0
    gauged, factor = Parameters(dictionary, parameters.prior_scale, parameters.noise_variance).gauged()
    assert factor[1] == 1
    assert (gauged.dictionary[:, 1] == 0).all()
    assert gauged.prior_scale[1] == parameters.prior_scale[1]
    assert_close(gauged.dictionary, dictionary)


def test_rescaled_is_the_model_of_rescaled_data():
    parameters = random_parameters(Shape(5, 3, 1))
    x, codes = parameters.sample(5, seed=2)
    rescaled = parameters.rescaled(7.0)
    same_x, same_codes = rescaled.sample(5, seed=2)
    assert_close(same_x, 7 * x)
    assert_close(same_codes, 7 * codes)
    expected = exact_log_likelihood(x, parameters) - parameters.d * math.log(7)
    assert_close(exact_log_likelihood(7 * x, rescaled), expected)


@each_dtype
def test_moments_of_samples(dtype):
    parameters = random_parameters(Shape(0, 3, 4), dtype)
    x, codes = parameters.sample(50_000)
    assert x.dtype == codes.dtype == dtype
    W, scale = parameters.dictionary.double(), parameters.prior_scale.double()
    covariance = 2 * (W * scale**2) @ W.T + parameters.noise_variance * torch.eye(3)
    assert_estimates(x, torch.zeros(3))
    assert_estimates(x.unsqueeze(-1) * x.unsqueeze(-2), covariance)
    assert_estimates(codes.abs(), scale)
    assert_estimates((x - codes @ parameters.dictionary.T).square(), parameters.noise_variance.expand(3))


def test_seeds_reproduce_samples():
    parameters = random_parameters(SHAPES["d<h"])
    first, second, other = (parameters.sample(5, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@each_shape
@each_dtype
def test_sizes_and_dtypes(shape, dtype):
    parameters = random_parameters(shape, torch.float64).to(dtype)
    assert (parameters.d, parameters.h) == (shape.d, shape.h)
    for value in (parameters.dictionary, parameters.prior_scale, parameters.noise_variance):
        assert value.dtype == dtype
    assert_close(parameters.noise_variance, double(0.25))


def test_parameters_cannot_be_changed_by_accident():
    parameters = random_parameters(SHAPES["d>h"])
    with pytest.raises(AttributeError):
        parameters.prior_scale = torch.ones(4)
