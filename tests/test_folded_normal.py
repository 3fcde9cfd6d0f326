import itertools
import math

import pytest
import torch
from scipy import integrate, stats

from cases import DTYPES, assert_close, assert_estimates, double, each_dtype, generator, normal, positive
from sparsentropy import folded_normal

MODERATE = [(0.0, 1.0), (0.3, 0.5), (-2.0, 0.7), (5.0, 1.0), (-1e-3, 2e-4), (40.0, 30.0)]
SCALES = [1e-8, 1e-4, 1.0, 1e4, 1e8]


def expectation(function, location, scale):
    """E f(z) for z ~ N(location, scale²), where f may have a kink or a jump at 0."""
    ends = sorted({-12.0, *(u for u in (-location / scale,) if -12 < u < 12), 12.0})
    return sum(
        integrate.quad(lambda u: function(location + scale * u) * stats.norm.pdf(u), *piece, epsabs=1e-13)[0]
        for piece in itertools.pairwise(ends)
    )


def extremes(dtype):
    """Locations and scales with ν/s = 0 and ±1e4 … 1e8, for every scale."""
    ratios = torch.tensor([1e4, 1e6, 1e8], dtype=dtype)
    ratios = torch.cat([-ratios, torch.zeros(1, dtype=dtype), ratios])
    scale = torch.tensor(SCALES, dtype=dtype)[:, None].expand(-1, len(ratios)).clone()
    return ratios * scale, scale


@pytest.mark.parametrize(("location", "scale"), MODERATE)
@each_dtype
def test_everything_by_quadrature(location, scale, dtype):
    nu, s = torch.tensor(location, dtype=dtype), torch.tensor(scale, dtype=dtype)
    location, scale = nu.item(), s.item()

    def in_scale(z):
        """∂|z|/∂s at z = ν + s ε."""
        return math.copysign((z - location) / scale, z * (z - location))

    expected = {
        "mean": expectation(abs, location, scale) / scale,
        "in location": expectation(lambda z: math.copysign(1, z), location, scale),
        "in scale": expectation(in_scale, location, scale),
        "curvature": 2 * stats.norm(location, scale).pdf(0) * scale,  # |z|'' = 2 δ(z)
    }
    slopes = folded_normal.slopes(nu, s)
    actual = {
        "mean": folded_normal.mean(nu, s) / s,
        "in location": slopes[0],
        "in scale": slopes[1],
        "curvature": folded_normal.curvature(nu, s) * s,
    }
    for name, value in expected.items():
        assert_close(actual[name], double(value), dtype)


def test_mean_by_monte_carlo():
    draw = generator()
    location, scale = 2 * normal(20, draw=draw), positive(20, draw=draw)
    draws = location + scale * normal(50_000, 20, draw=draw)
    assert_estimates(draws.abs(), folded_normal.mean(location, scale))


@each_dtype
def test_slopes_and_curvature_by_automatic_differentiation(dtype):
    draw = generator(1)
    location = (3 * normal(200, draw=draw)).to(dtype).requires_grad_()
    scale = positive(200, draw=draw).to(dtype).requires_grad_()
    total = folded_normal.mean(location, scale).sum()
    in_location, in_scale = torch.autograd.grad(total, (location, scale), create_graph=True)
    (curvature,) = torch.autograd.grad(in_location.sum(), location)
    expected = folded_normal.slopes(location, scale)
    assert_close(in_location, expected[0])
    assert_close(in_scale, expected[1])
    assert_close(curvature, folded_normal.curvature(location, scale))


@each_dtype
def test_far_from_zero_the_sign_is_certain_and_the_exponential_vanishes(dtype):
    location, scale = extremes(dtype)
    far = location != 0
    in_location, in_scale = folded_normal.slopes(location, scale)
    torch.testing.assert_close(folded_normal.mean(location, scale)[far], location[far].abs(), rtol=0, atol=0)
    torch.testing.assert_close(in_location, location.sign(), rtol=0, atol=0)
    assert (in_scale[far] < 1e-34).all()
    assert (folded_normal.curvature(location, scale) * scale)[far].max() < 1e-34


@each_dtype
def test_at_zero_only_the_scale_counts(dtype):
    scale = torch.tensor(SCALES, dtype=dtype)
    zero = torch.zeros_like(scale)
    root = torch.full_like(scale, math.sqrt(2 / math.pi))
    assert_close(folded_normal.mean(zero, scale) / scale, root)
    assert_close(folded_normal.slopes(zero, scale)[1], root)
    assert_close(folded_normal.curvature(zero, scale) * scale, root)


@each_dtype
def test_gradients_at_the_extremes_are_the_slopes_and_never_nan(dtype):
    location, scale = (value.requires_grad_() for value in extremes(dtype))
    gradients = torch.autograd.grad(folded_normal.mean(location, scale).sum(), (location, scale))
    for gradient, slope in zip(gradients, folded_normal.slopes(location, scale), strict=True):
        assert_close(gradient, slope.detach())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_ratio_is_finite_and_at_least_what_jensen_says(dtype):
    ratio = torch.logspace(-8, 8, 400, dtype=dtype)
    scale = torch.tensor(SCALES, dtype=dtype)[:, None]
    location = ratio * scale
    value = folded_normal.mean(location, scale)
    floor = torch.maximum(location, math.sqrt(2 / math.pi) * scale)  # |E z|, and E|z − ν|
    assert (value >= floor * (1 - 4 * torch.finfo(dtype).eps)).all()
    assert (value <= (location + math.sqrt(2 / math.pi) * scale) * (1 + 4 * torch.finfo(dtype).eps)).all()
    slope = torch.cat([*folded_normal.slopes(location, scale), folded_normal.curvature(location, scale) * scale])
    assert ((slope >= 0) & (slope <= 1)).all()


def test_jointly_convex():
    draw = generator(2)
    n = 100_000
    left, right = normal(2, n, draw=draw), normal(2, n, draw=draw)
    for ends in (left, right):
        ends[0] *= 3
        ends[1] = ends[1].mul(2).exp()  # scales between 1e-3 and 1e3
    share = torch.rand(n, dtype=torch.float64, generator=draw)
    between = folded_normal.mean(*(share * left + (1 - share) * right))
    chord = share * folded_normal.mean(*left) + (1 - share) * folded_normal.mean(*right)
    assert (between <= chord * (1 + 1e-14)).all()


@each_dtype
@pytest.mark.parametrize("unit", SCALES)
def test_even_and_in_any_unit_the_same(unit, dtype):
    draw = generator(3)
    location, scale = normal(50, draw=draw).to(dtype), positive(50, draw=draw).to(dtype)
    value, slopes = folded_normal.mean(location, scale), folded_normal.slopes(location, scale)
    assert_close(folded_normal.mean(-unit * location, unit * scale) / unit, value)
    assert_close(torch.stack(folded_normal.slopes(unit * location, unit * scale)), torch.stack(slopes))
    curvature = folded_normal.curvature(unit * location, unit * scale) * unit
    assert_close(curvature, folded_normal.curvature(location, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bell_is_exact_down_to_where_it_vanishes(dtype):
    z = torch.linspace(-40, 40, 2001, dtype=dtype)
    exact = torch.exp(-z.double().square())
    smallest = torch.finfo(dtype).tiny
    # The exponent is rounded once, relative to its own size
    torch.testing.assert_close(
        folded_normal.bell(z).double(), exact, rtol=2e-5 if dtype == torch.float32 else 3e-13, atol=smallest
    )
