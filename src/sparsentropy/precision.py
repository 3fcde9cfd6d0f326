"""A Gaussian covariance that is known by its inverse, T⁻¹ = WᵀW/σ² + diag(κ), one for each data point.

The data term is shared, up to the entries that a data point misses; only κ differs. Everything asked of T needs one
factorisation, of an h×h matrix, or of a d×d one by the Woodbury identity when there are fewer dimensions than atoms.
Work arrays are made for as many data points at a time as fit into a fixed budget. They are in float64, since the two
terms of the precision may differ by many orders of magnitude, unless the data are float32 and the dictionary alone
tells all codes apart: then WᵀW/σ², its diagonal brought to 1, has no eigenvalue near zero, κ only lifts the smallest
one, and float32 loses two digits at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

# Dense (n, h, h) or (n, d, h) work arrays hold no more elements than this. On a processor they fit into its cache
CHUNK = {"cpu": 2**20, "cuda": 2**26}
APART = 0.1  # smallest eigenvalue of WᵀW with a diagonal of ones for which float32 is good enough
BLOCK = 16  # matrices up to this size are factorised as a whole


def arithmetic(scaled_dictionary: Tensor, dtype: torch.dtype, observed: Tensor | None = None) -> torch.dtype:
    """What T_n is to be computed in, for data of this dtype; in float64 where entries are missing.

    With σ = 0.01 the data term is about 10⁴ times the prior's. Where the data leave a direction open float32 would keep
    nothing of the smaller one, or find a matrix that is no longer positive definite.

    Examples
    --------
    >>> arithmetic(torch.eye(3), torch.float32)
    torch.float32
    >>> arithmetic(torch.ones(3, 2), torch.float32)  # codes that can be traded against each other
    torch.float64
    """
    d, h = scaled_dictionary.shape
    length = scaled_dictionary.double().norm(dim=0)
    if dtype != torch.float32 or observed is not None or not 0 < h <= d or not bool((length > 0).all()):
        return torch.float64
    atoms = scaled_dictionary.double() / length
    return torch.float32 if float(torch.linalg.eigvalsh(atoms.T @ atoms)[0]) >= APART else torch.float64


def factorised(
    prior_precision: Tensor,
    scaled_dictionary: Tensor,
    dtype: torch.dtype = torch.float64,
    observed: Tensor | None = None,
) -> "Cholesky | Woodbury":
    """T_n⁻¹ of κ (n, h) and W/σ (d, h), in the smaller of h×h and d×d; see `arithmetic` for the dtype.

    Where `observed` (n, d) is zero the data point does not see that row of W.
    """
    prior_precision, scaled_dictionary = prior_precision.to(dtype), scaled_dictionary.to(dtype)
    if observed is not None:
        scaled_dictionary = observed.to(dtype).unsqueeze(2) * scaled_dictionary
    if scaled_dictionary.shape[-2] < scaled_dictionary.shape[-1]:
        return Woodbury.of(prior_precision, scaled_dictionary)
    return Cholesky.of(prior_precision, scaled_dictionary.mT @ scaled_dictionary)


def rows_at_once(h: int, d: int, device: torch.device) -> int:
    """Data points whose factors fit into `CHUNK`."""
    return max(1, CHUNK[device.type] // max(1, h * max(h, d)))


def factors(
    prior_precision: Tensor,
    scaled_dictionary: Tensor,
    dtype: torch.dtype = torch.float64,
    observed: Tensor | None = None,
) -> "Iterator[tuple[slice, Cholesky | Woodbury]]":
    """Factorise T_n⁻¹ chunk by chunk; of no data points there is one chunk."""
    n, h = prior_precision.shape
    size = rows_at_once(h, scaled_dictionary.shape[0], prior_precision.device)
    for begin in range(0, max(n, 1), size):
        rows = slice(begin, min(begin + size, n))
        seen = None if observed is None else observed[rows]
        yield rows, factorised(prior_precision[rows], scaled_dictionary, dtype, seen)


@final
@dataclass(frozen=True)
class Cholesky:
    """T⁻¹ = L Lᵀ with h×h factors, for h ≤ d; keeps L⁻¹, since everything asked of T is a product with it."""

    inverse_factor: Tensor  # L⁻¹ (n, h, h)
    half_log_det_precision: Tensor  # (n,)

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.inverse_factor.dtype

    @classmethod
    def of(cls, prior_precision: Tensor, gram: Tensor) -> "Cholesky":
        """Factorise for κ (n, h) and WᵀW/σ², (h, h) or (n, h, h)."""
        matrix = gram.expand(len(prior_precision), -1, -1).clone()
        matrix.diagonal(dim1=1, dim2=2).add_(prior_precision)
        _invert_factor(matrix, inverse := torch.zeros_like(matrix))
        return cls(inverse, -inverse.diagonal(dim1=1, dim2=2).log().sum(1, dtype=torch.float64))

    def covariance(self) -> Tensor:
        """T_n, (n, h, h)."""
        return self.inverse_factor.mT @ self.inverse_factor  # T = L⁻ᵀ L⁻¹

    def covariance_sum(self) -> Tensor:
        """Σ_n T_n, (h, h), float64."""
        stacked = self.inverse_factor.reshape(-1, self.inverse_factor.shape[-1])
        return (stacked.T @ stacked).double()

    def variance(self) -> Tensor:
        """diag(T_n), (n, h)."""
        return self.inverse_factor.square().sum(1)

    def log_det(self) -> Tensor:
        """Log det T_n, (n,)."""
        return -2 * self.half_log_det_precision

    def spread(self, dictionary: Tensor) -> Tensor:
        """tr(WᵀW T_n), (n,)."""
        return (self.inverse_factor @ dictionary.T).square().sum((1, 2))

    def rotated_variance(self, matrix: Tensor) -> Tensor:
        """diag(V T_n Vᵀ), (n, h)."""
        return (self.inverse_factor @ matrix.T).square().sum(1)

    def rotated_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nh (V T_n Vᵀ)_hj for weights b (n, h): (h, h)."""
        return _weighted_square(self.inverse_factor @ matrix.T, weight)

    def projected_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nd (W T_n)_dh for W (d, h) and weights b (n, d): (d, h)."""
        return _weighted_product(self.inverse_factor @ matrix.T, self.inverse_factor, weight)

    def multiply(self, right: Tensor) -> Tensor:
        """T_n b_n for b (..., n, h)."""
        half = self.inverse_factor @ right.unsqueeze(-1)
        return (self.inverse_factor.mT @ half).squeeze(-1)


@final
@dataclass(frozen=True)
class Woodbury:
    """T = K⁻¹ − YᵀY with K = diag κ, Y = L⁻¹ W/σ K⁻¹ and L Lᵀ = I + W K⁻¹ Wᵀ/σ²: d×d factors, for d < h."""

    prior_variance: Tensor  # κ⁻¹ (n, h)
    explained: Tensor  # Y (n, d, h)
    half_log_det: Tensor  # Σ log diag L (n,)

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.explained.dtype

    @classmethod
    def of(cls, prior_precision: Tensor, scaled_dictionary: Tensor) -> "Woodbury":
        """Factorise for κ (n, h) and W/σ, (d, h) or (n, d, h)."""
        # κ underflows for codes far from zero. In h×h this is harmless; here T is a difference of terms of size 1/κ.
        floor = 1e-11 * scaled_dictionary.square().sum(-2)
        prior_variance = torch.maximum(prior_precision, floor).reciprocal()
        d = scaled_dictionary.shape[-2]
        half = scaled_dictionary * prior_variance.sqrt().unsqueeze(1)
        eye = torch.eye(d, dtype=half.dtype, device=half.device)
        lower = _lower(half @ half.mT + eye)
        weighted = scaled_dictionary * prior_variance.unsqueeze(1)
        explained = torch.linalg.solve_triangular(lower, weighted, upper=False)
        return cls(prior_variance, explained, lower.diagonal(dim1=1, dim2=2).log().sum(1))

    def covariance(self) -> Tensor:
        """T_n, (n, h, h)."""
        return torch.diag_embed(self.prior_variance) - self.explained.mT @ self.explained

    def covariance_sum(self) -> Tensor:
        """Σ_n T_n, (h, h)."""
        stacked = self.explained.reshape(-1, self.explained.shape[-1])
        return torch.diag(self.prior_variance.sum(0)) - stacked.T @ stacked

    def variance(self) -> Tensor:
        """diag(T_n), (n, h)."""
        # Rounding may leave a code that the data determine with a variance of −1e-20; it stays positive
        tiny = torch.finfo(self.prior_variance.dtype).eps * self.prior_variance
        return torch.maximum(self.prior_variance - self.explained.square().sum(1), tiny)

    def log_det(self) -> Tensor:
        """Log det T_n, (n,)."""
        return self.prior_variance.log().sum(1) - 2 * self.half_log_det

    def spread(self, dictionary: Tensor) -> Tensor:
        """tr(WᵀW T_n), (n,)."""
        own = self.prior_variance @ dictionary.square().sum(0)
        return own - (self.explained @ dictionary.T).square().sum((1, 2))

    def rotated_variance(self, matrix: Tensor) -> Tensor:
        """diag(V T_n Vᵀ), (n, h)."""
        own = self.prior_variance @ matrix.square().T
        return own - (self.explained @ matrix.T).square().sum(1)

    def rotated_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nh (V T_n Vᵀ)_hj for weights b (n, h): (h, h)."""
        own = (matrix * (weight.T @ self.prior_variance)) @ matrix.T
        return own - _weighted_square(self.explained @ matrix.T, weight)

    def projected_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nd (W T_n)_dh for W (d, h) and weights b (n, d): (d, h)."""
        own = (weight.T @ self.prior_variance) * matrix
        return own - _weighted_product(self.explained @ matrix.T, self.explained, weight)

    def multiply(self, right: Tensor) -> Tensor:
        """T_n b_n for b (..., n, h)."""
        shared = self.explained @ right.unsqueeze(-1)
        return self.prior_variance * right - (self.explained.mT @ shared).squeeze(-1)


def _lower(matrix: Tensor) -> Tensor:
    """Cholesky factors; a graphics processor is not made to wait for the news that all are well."""
    return torch.linalg.cholesky_ex(matrix, check_errors=matrix.device.type == "cpu").L


def _invert_factor(matrix: Tensor, out: Tensor) -> None:
    """L⁻¹ of matrix = L Lᵀ (n, h, h), written into `out`, which is zero.

    Halves at a time, which are products of matrices: several times as fast as factors found one after the other.
    """
    h = matrix.shape[-1]
    if h <= BLOCK:
        lower = _lower(matrix)
        eye = torch.eye(h, dtype=matrix.dtype, device=matrix.device).expand_as(lower)
        out.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    begin, end = slice(0, (h + 1) // 2), slice((h + 1) // 2, h)
    first, last = out[:, begin, begin], out[:, end, end]
    _invert_factor(matrix[:, begin, begin], first)
    below = matrix[:, end, begin] @ first.mT  # L₂₁
    _invert_factor(torch.baddbmm(matrix[:, end, end], below, below.mT, alpha=-1), last)
    # (L⁻¹)₂₁ = −L₂₂⁻¹ L₂₁ L₁₁⁻¹
    torch.neg(last @ (below @ first), out=out[:, end, begin])


def _weighted_square(root: Tensor, weight: Tensor) -> Tensor:
    """Σ_n b_nh (R_nᵀ R_n)_hj for R (n, k, h)."""
    return _weighted_product(root, root, weight)


def _weighted_product(left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """Σ_n b_nd (L_nᵀ R_n)_dh for L (n, k, d) and R (n, k, h): one product over all rows of all matrices."""
    return (left * weight[:, None]).reshape(-1, left.shape[2]).T @ right.reshape(-1, right.shape[2])
