"""How far from the optimum a diagonal posterior is at most, for every data point, in nats.

Fenchel duality: for any vector u of the data space with |w_hᵀu| ≤ 1/λ_h,

    min f ≥ uᵀx − σ²|u|²/2 − Σ_h ψ_h*(w_hᵀu),

where ψ* is the conjugate of the code's own cost (module `diagonal`). Its maximiser is explicit, z = erf⁻¹(λ y), so
evaluating the bound takes one product with the dictionary and no iteration. Two vectors u are tried and the better is
kept: the scaled residual (x − Wν)/σ², and the vector next to it whose pull Wᵀu is as near to the slopes of the prior at
q as may be, which no rounding of ν can make infeasible. The difference between f(ν) and this bound is a certificate:
it holds whatever solver found ν. It is evaluated in float64, since near the optimum it is a small difference of large
numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.folded_normal import SQRT_2, SQRT_2_OVER_PI
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior

ROUNDING = 4.0  # units in the last place of |x|²/σ², a small multiple of what was seen at optima


def duality_gap(x: Tensor, q: AbstractPosterior, parameters: Parameters) -> Tensor:
    """Upper bound on (best diagonal bound − bound of q) for each data point.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        NaN is what is missing; vectors u are zero there.
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
    return Certificate.of(parameters).gap(x, q)


@final
@dataclass(frozen=True)
class Certificate:
    """What the duality gaps of all data points share, made once for given parameters."""

    parameters: Parameters  # in float64
    own_precision: Tensor  # |w_h|²/σ² (h,)

    @classmethod
    def of(cls, parameters: Parameters) -> "Certificate":
        """Prepare for these parameters."""
        p = parameters.to(torch.float64)
        return cls(p, p.dictionary.square().sum(0) / p.noise_variance)

    @cached_property
    def pseudo_inverse(self) -> Tensor:
        """diag(λ) (W diag(λ))⁺ (h, d): what moves all pulls nearest to given ones.

        The flatter the cost of a code is, the nearer its own must come; 1/λ² is the curvature of a prior as a whole.
        """
        p = self.parameters
        return p.prior_scale[:, None] * torch.linalg.pinv(p.dictionary * p.prior_scale, rtol=1e-10)

    def gap(self, x: Tensor, q: AbstractPosterior) -> Tensor:
        """See `duality_gap`."""
        return self._gap_and_cost(x, q)[0]

    def holds(
        self, x: Tensor, q: AbstractPosterior, tol: float, nearest: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Whether the gap is at most `tol` times 1 + the cost f(ν), or what rounding makes of zero; bool (n,).

        `nearest` gives the small vector whose pull is a given one (n, h); by default that of the pseudo-inverse.
        """
        gap, cost = self._gap_and_cost(x, q, nearest)
        # Both sides of the gap are sums of terms as large as |x|²/σ²
        rounding = ROUNDING * torch.finfo(torch.float64).eps * x.double().square().nansum(1)
        return gap <= tol * (1 + cost.abs()) + rounding / self.parameters.noise_variance

    def _gap_and_cost(
        self, x: Tensor, q: AbstractPosterior, nearest: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        p, own_precision = self.parameters, self.own_precision
        x, mean, scale = x.double(), q.mean.double(), q.std.double()
        u, missing = (x - mean @ p.dictionary.T) / p.noise_variance, x.isnan()
        if some := bool(missing.any()):
            x, u = x.masked_fill(missing, 0.0), u.masked_fill(missing, 0.0)
            own_precision = (~missing).double() @ p.dictionary.square() / p.noise_variance
        primal = p.noise_variance / 2 * u.square().sum(1) + self._code_cost(mean, scale, own_precision).sum(1)
        gradient = u @ p.dictionary - p.prior.slopes(mean, scale)[0] / p.prior_scale
        consistent = u - (gradient @ self.pseudo_inverse if nearest is None else nearest(gradient))
        if some:
            consistent.masked_fill_(missing, 0.0)
        dual = torch.maximum(self._dual(x, u, own_precision), self._dual(x, consistent, own_precision))
        return primal - dual, primal

    def _code_cost(self, mean: Tensor, scale: Tensor, own_precision: Tensor) -> Tensor:
        """A(ν, s)/λ + s² |w|²/2σ² − log s."""
        prior = folded_normal.mean(mean, scale) / self.parameters.prior_scale
        return prior + scale.square() * own_precision / 2 - scale.log()

    def _dual(self, x: Tensor, u: Tensor, own_precision: Tensor) -> Tensor:
        p = self.parameters
        slope = u @ p.dictionary * p.prior_scale  # λ wᵀu, must lie in [−1, 1]
        shrink = (1 / slope.abs().amax(1, keepdim=True)).clamp(max=1.0)
        u = u * shrink
        # At ±1 the maximiser is at infinity, but the conjugate is not: stop just below 1
        slope = (slope * shrink).clamp(-1 + 1e-15, 1 - 1e-15)
        z = torch.erfinv(slope)
        k = SQRT_2_OVER_PI * folded_normal.bell(z) / p.prior_scale
        scale = 2 / (k + torch.sqrt(k * k + 4 * own_precision))
        mean = SQRT_2 * z * scale
        conjugate = slope / p.prior_scale * mean - self._code_cost(mean, scale, own_precision)
        return (u * x).sum(1) - p.noise_variance / 2 * u.square().sum(1) - conjugate.sum(1)
