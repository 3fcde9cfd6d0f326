"""Every prior, likelihood and posterior once, and the numbers that all tests of them share.

To have a new implementation tested, add it to `PRIORS`, `LIKELIHOODS` or `POSTERIORS`.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sparsentropy import likelihoods, priors
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal, Full, LowRank

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-11}}
STANDARD_ERRORS = 5.0
"""A Monte Carlo average may be this many standard errors away from what it estimates."""

PRIORS = {"laplace": (priors.Laplace(), stats.laplace)}
"""Name → the prior and the same distribution at scale 1 by scipy."""

LIKELIHOODS = {"gaussian": (likelihoods.Gaussian(), stats.norm)}
"""Name → the likelihood and the distribution of the noise at variance 1 by scipy."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(value: float | list[float]) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def normal(*shape: int, draw: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


def positive(*shape: int, draw: torch.Generator) -> Tensor:
    """Log-normal: mostly between 0.2 and 4."""
    return normal(*shape, draw=draw).mul(0.7).exp()


def typical_size(x: np.ndarray) -> float:
    """The standard deviation of a normal distribution with the mean √|x| of the values that are not zero."""
    root = np.sqrt(np.abs(x[x != 0]).astype(float)).mean()
    return (root / stats.norm.expect(lambda z: abs(z) ** 0.5)) ** 2


def unit_dictionary(d: int, h: int, draw: torch.Generator) -> Tensor:
    dictionary = normal(d, h, draw=draw)
    return dictionary / dictionary.norm(dim=0)


@dataclass(frozen=True)
class Shape:
    n: int
    d: int
    h: int


SHAPES = {"d>h": Shape(7, 6, 4), "d=h": Shape(6, 4, 4), "d<h": Shape(7, 3, 5)}
"""The covariance of a full posterior is computed in one form for h ≤ d and in another for d < h."""


Arguments = Callable[[Shape, torch.Generator], dict[str, Tensor]]


def _diagonal(shape: Shape, draw: torch.Generator) -> dict[str, Tensor]:
    return {"mean": normal(shape.n, shape.h, draw=draw), "variance": positive(shape.n, shape.h, draw=draw)}


def _low_rank(r: int) -> Arguments:
    def arguments_of_rank(shape: Shape, draw: torch.Generator) -> dict[str, Tensor]:
        n, h = shape.n, shape.h
        mean, diagonal = normal(n, h, draw=draw), positive(n, h, draw=draw)
        return {"mean": mean, "diagonal": diagonal, "factor": normal(n, h, r, draw=draw)}

    return arguments_of_rank


def _full(shape: Shape, draw: torch.Generator) -> dict[str, Tensor]:
    mean, precision = normal(shape.n, shape.h, draw=draw), positive(shape.n, shape.h, draw=draw)
    scaled_dictionary = 2 * unit_dictionary(shape.d, shape.h, draw)
    return {"mean": mean, "prior_precision": precision, "scaled_dictionary": scaled_dictionary}


def _partly_seen(shape: Shape, draw: torch.Generator) -> dict[str, Tensor]:
    """The first data point is not seen at all, the last one as a whole."""
    observed = (torch.rand(shape.n, shape.d, dtype=torch.float64, generator=draw) < 0.6).double()
    observed[0], observed[-1] = 0.0, 1.0
    return _full(shape, draw) | {"observed": observed}


POSTERIORS: dict[str, tuple[Callable[..., AbstractPosterior], Arguments]] = {
    "diagonal": (Diagonal, _diagonal),
    "low-rank-1": (LowRank, _low_rank(1)),
    "low-rank-3": (LowRank, _low_rank(3)),
    "low-rank-9": (LowRank, _low_rank(9)),
    "full": (Full.from_precision, _full),
    "full-in-part": (Full.from_precision, _partly_seen),
}
"""Name → how the posterior is built, and its arguments at random for (n, d, h) and a generator."""


def random_posterior(name: str, shape: Shape, dtype: torch.dtype = torch.float64, seed: int = 0) -> AbstractPosterior:
    build, draw_arguments = POSTERIORS[name]
    return build(**{key: value.to(dtype) for key, value in draw_arguments(shape, generator(seed)).items()})


def builder(q: AbstractPosterior) -> Callable[..., AbstractPosterior]:
    return Full.from_precision if isinstance(q, Full) else type(q)


def arguments(q: AbstractPosterior) -> dict[str, Tensor]:
    """What q was built from: `builder(q)(**arguments(q))` is q again."""
    given = {name: getattr(q, name) for name in inspect.signature(builder(q)).parameters}
    return {name: value for name, value in given.items() if value is not None}


def to_double(q: AbstractPosterior) -> AbstractPosterior:
    """Built again in float64 from the same numbers."""
    return builder(q)(**{name: value.double() for name, value in arguments(q).items()})


def stretched(q: AbstractPosterior, c: Tensor) -> AbstractPosterior:
    """The posterior of diag(c) z."""
    if isinstance(q, Diagonal):
        return Diagonal(q.mean * c, q.variance * c**2)
    if isinstance(q, LowRank):
        return LowRank(q.mean * c, q.diagonal * c**2, q.factor * c[:, None])
    assert isinstance(q, Full), f"cases.stretched does not know {type(q).__name__}"
    return Full.from_precision(q.mean * c, q.prior_precision / c**2, q.scaled_dictionary / c, q.observed)


def random_parameters(shape: Shape, dtype: torch.dtype = torch.float64, seed: int = 1) -> Parameters:
    draw = generator(seed)
    scale = positive(shape.h, draw=draw)
    return Parameters(unit_dictionary(shape.d, shape.h, draw), scale, double(0.25)).to(dtype)


@dataclass(frozen=True)
class Problem:
    x: Tensor
    q: AbstractPosterior
    parameters: Parameters


def random_problem(name: str, shape: Shape, dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
    """Data, a posterior that knows nothing of them, and parameters."""
    parameters = random_parameters(shape, dtype, seed + 1)
    x = parameters.sample(shape.n, seed)[0]
    return Problem(x, random_posterior(name, shape, dtype, seed), parameters)


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
each_posterior = pytest.mark.parametrize("name", POSTERIORS)
each_prior = pytest.mark.parametrize(("prior", "reference"), PRIORS.values(), ids=PRIORS.keys())
each_likelihood = pytest.mark.parametrize(("likelihood", "noise"), LIKELIHOODS.values(), ids=LIKELIHOODS.keys())


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """Equal up to the rounding of the dtype in which `actual` was computed, which is its own unless given."""
    assert actual.shape == expected.shape
    tolerance = TOLERANCE[dtype or actual.dtype]
    torch.testing.assert_close(actual.double(), expected.double(), **tolerance)


def assert_estimates(draws: Tensor, expected: Tensor) -> None:
    """The average over the first axis of `draws` is `expected` up to its standard error."""
    error = draws.double().std(0) / math.sqrt(draws.shape[0])
    distance = (draws.double().mean(0) - expected.double()).abs() / error
    assert distance.shape == expected.shape
    assert (distance < STANDARD_ERRORS).all(), f"{distance.max():.1f} standard errors away"


def exact_log_likelihood(x: Tensor, parameters: Parameters) -> Tensor:
    """Log p(x) (n,) for one atom by the trapezoidal rule over its code."""
    assert parameters.h == 1
    codes = torch.linspace(-40, 40, 160_001, dtype=torch.float64)[:, None, None] * parameters.prior_scale
    joint = parameters.likelihood.log_prob(x, codes, parameters.dictionary, parameters.noise_variance)
    joint = joint + parameters.prior.log_prob(codes, parameters.prior_scale)
    return torch.logsumexp(joint, 0) + math.log((codes[1] - codes[0]).item())
