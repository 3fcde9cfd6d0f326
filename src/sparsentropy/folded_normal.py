"""The one special function of the whole library: how large a Gaussian code is, in absolute value, on average.

If a code z is Gaussian with mean ν and standard deviation s, then E|z| is the mean of a folded normal,

    A(ν, s) = E|z| = s √(2/π) exp(−ν²/2s²) + ν erf(ν/(s√2)).

A Laplace prior asks nothing else of a posterior, which is why the entropy-based lower bound is exact without sampling
(Velychko, Damm, Fischer and Lücke, AISTATS 2024). A is jointly convex in (ν, s). It behaves like |ν| far from zero
and like s √(2/π) at zero, and the exponential becomes too small to matter in between, never NaN.
"""

import math

import torch
from torch import Tensor

SQRT_2 = math.sqrt(2.0)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
LOG2_E = math.log2(math.e)


def mean(location: Tensor, scale: Tensor) -> Tensor:
    """E|z| for z ~ N(location, scale²).

    Parameters
    ----------
    location : Tensor, any shape
        ν, in code units.
    scale : Tensor, broadcastable to `location`
        s > 0, in code units.

    Returns
    -------
    Tensor
        A(ν, s), in code units.

    Examples
    --------
    >>> import torch
    >>> mean(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1e-8]))
    tensor([0.7979, 3.0000])
    """
    z = standardised(location, scale)
    return scale * SQRT_2_OVER_PI * bell(z) + location * torch.erf(z)


def standardised(location: Tensor, scale: Tensor) -> Tensor:
    """Z = ν/(s√2), the argument that A and all its slopes share."""
    return location / (scale * SQRT_2)


def bell(z: Tensor) -> Tensor:
    """exp(−z²), as a power of 2: where that becomes zero it is still fast, an exponential ten times as slow.

    Examples
    --------
    >>> import torch
    >>> bell(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.3679])
    """
    return torch.mul(z, z).mul_(-LOG2_E).exp2_()


def slopes(location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """∂A/∂ν = erf(ν/(s√2)) and ∂A/∂s = √(2/π) exp(−ν²/2s²).

    Parameters
    ----------
    location, scale : Tensor
        ν and s > 0.

    Returns
    -------
    tuple of Tensor
        Both slopes, without unit, in [−1, 1] and [0, √(2/π)].
    """
    z = standardised(location, scale)
    return torch.erf(z), SQRT_2_OVER_PI * bell(z)


def curvature(location: Tensor, scale: Tensor) -> Tensor:
    """∂²A/∂ν² = √(2/π) exp(−ν²/2s²) / s, in 1/(code units)."""
    return slopes(location, scale)[1] / scale
