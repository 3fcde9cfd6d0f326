"""How far from the optimum a diagonal posterior is at most, for every data point, in nats.

Fenchel duality: for any vector u of the data space with |w_hᵀu| ≤ 1/λ_h,

    min f ≥ uᵀx − σ²|u|²/2 − Σ_h ψ_h*(w_hᵀu),

where ψ* is the conjugate of the code's own cost (module `diagonal`). Its maximiser is explicit, z = erf⁻¹(λ y), so
evaluating the bound takes one product with the dictionary and no iteration. The best u is the scaled residual (x −
Wν)/σ²; shrunk, where needed, until it is feasible. The difference between f(ν) and this bound is a certificate: it
holds whatever solver found ν. It is evaluated in float64, since near the optimum it is a small difference of large
numbers.
"""

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.folded_normal import SQRT_2, SQRT_2_OVER_PI
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior


def duality_gap(x: Tensor, q: AbstractPosterior, parameters: Parameters) -> Tensor:
    """Upper bound on (best diagonal bound − bound of q) for each data point.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    q : AbstractPosterior
        Its mean and variance are used.
    parameters : Parameters

    Returns
    -------
    Tensor, shape (n,), float64
        Gap in nats; zero up to rounding at the optimum.

    Examples
    --------
    >>> import torch
    >>> from sparsentropy.posteriors import Diagonal
    >>> parameters = Parameters(torch.eye(1), torch.ones(1), torch.tensor(0.01))
    >>> poor = Diagonal(torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    >>> bool(duality_gap(torch.tensor([[3.0]]), poor, parameters) > 100)
    True
    """
    p = parameters.to(torch.float64)
    x, mean, scale = x.double(), q.mean.double(), q.std.double()
    own_precision = p.dictionary.square().sum(0) / p.noise_variance
    residual = x - mean @ p.dictionary.T
    primal = residual.square().sum(1) / (2 * p.noise_variance)
    primal = primal + _code_cost(mean, scale, p.prior_scale, own_precision).sum(1)
    return primal - _dual(x, residual / p.noise_variance, p, own_precision)


def _code_cost(mean: Tensor, scale: Tensor, prior_scale: Tensor, own_precision: Tensor) -> Tensor:
    """A(ν, s)/λ + s² g/2σ² − log s."""
    return folded_normal.mean(mean, scale) / prior_scale + scale.square() * own_precision / 2 - scale.log()


def _dual(x: Tensor, u: Tensor, p: Parameters, own_precision: Tensor) -> Tensor:
    slope = u @ p.dictionary * p.prior_scale  # λ wᵀu, must lie in [−1, 1]
    shrink = (1 / slope.abs().amax(1, keepdim=True)).clamp(max=1.0)
    u, slope = u * shrink, (slope * shrink).clamp(-1, 1)
    # At ±1 the maximiser is at infinity, but the conjugate is not: stop at the last number below 1
    z = torch.erfinv(slope.clamp(-1 + 1e-15, 1 - 1e-15))
    k = SQRT_2_OVER_PI * torch.exp(-z * z) / p.prior_scale
    scale = 2 / (k + torch.sqrt(k * k + 4 * own_precision))
    mean = SQRT_2 * z * scale
    conjugate = slope / p.prior_scale * mean - _code_cost(mean, scale, p.prior_scale, own_precision)
    return (u * x).sum(1) - p.noise_variance / 2 * u.square().sum(1) - conjugate.sum(1)
