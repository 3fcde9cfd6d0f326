"""Codes that depend on each other in any way a Gaussian allows, in 3h numbers for a data point.

For a Laplace prior the best Gaussian has the precision WᵀW/σ² + diag(κ), in which only κ is a data point's own; what is
asked of its inverse comes from factors that are made anew, a chunk of data points at a time (`precision`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import precision

from .abstract import AbstractPosterior, gaussian_entropy, gaussian_log_prob, normal
from .diagonal import Diagonal


@final
@dataclass(frozen=True)
class Full(AbstractPosterior):
    """q_n(z) = N(z; ν_n, T_n) with T_n⁻¹ = WᵀW/σ² + diag(κ_n): a full covariance in 2h numbers.

    Use `Full.from_precision`, which finds the variances and the determinant; the constructor only keeps them.

    Parameters
    ----------
    mean, prior_precision, variance : Tensor, shape (n, h)
        ν, κ and diag(T).
    log_det : Tensor, shape (n,)
        log det T_n.
    scaled_dictionary : Tensor, shape (d, h)
        W/σ, shared by all data points.
    observed : Tensor, shape (n, d), optional
        1 where an entry of the data was observed and 0 where it is missing, which leaves its row of W out of T⁻¹.
    factors : optional
        See `remembering`.
    """

    mean: Tensor
    prior_precision: Tensor
    variance: Tensor
    log_det: Tensor
    scaled_dictionary: Tensor
    observed: Tensor | None = None
    factors: "tuple[tuple[slice, precision.Cholesky | precision.Woodbury], ...] | None" = field(
        default=None, repr=False, compare=False
    )

    @classmethod
    def from_precision(
        cls, mean: Tensor, prior_precision: Tensor, scaled_dictionary: Tensor, observed: Tensor | None = None
    ) -> "Full":
        """Build the posterior from ν (n, h), κ (n, h) > 0, W/σ (d, h) and what was observed (n, d).

        Examples
        --------
        >>> import torch
        >>> q = Full.from_precision(torch.zeros(1, 2), torch.ones(1, 2), torch.eye(2))
        >>> q.variance  # (1 + 1)⁻¹
        tensor([[0.5000, 0.5000]])
        """
        variance, log_det = torch.empty_like(mean), torch.empty_like(mean[:, 0])
        dtype = precision.arithmetic(scaled_dictionary, mean.dtype, observed)
        for rows, factor in precision.factors(prior_precision, scaled_dictionary, dtype, observed):
            variance[rows], log_det[rows] = factor.variance(), factor.log_det()
        return cls(mean, prior_precision, variance, log_det, scaled_dictionary, observed)

    def covariance(self) -> Tensor:
        """T_n, (n, h, h)."""
        return torch.cat([factor.covariance() for _, factor in self._chunks()]).to(self.mean.dtype)

    def covariance_sum(self) -> Tensor:
        """Σ_n T_n, (h, h), a chunk of data points at a time."""
        h = self.mean.shape[1]
        total = torch.zeros(h, h, dtype=torch.float64, device=self.mean.device)
        for _, factor in self._chunks():
            total += factor.covariance_sum()
        return total

    def entropy(self) -> Tensor:
        """½ [h log 2πe + log det T_n], (n,)."""
        return gaussian_entropy(self.log_det, self.mean.shape[1])

    def spread(self, dictionary: Tensor) -> Tensor:
        """tr(WᵀW T_n), (n,)."""
        parts = [factor.spread(dictionary.to(factor.dtype)) for _, factor in self._chunks()]
        return torch.cat(parts).to(self.mean.dtype)

    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """diag(W T_n Wᵀ), (n, d), a chunk of data points at a time."""
        parts = [factor.rotated_variance(dictionary.to(factor.dtype)) for _, factor in self._chunks()]
        return torch.cat(parts).to(self.mean.dtype)

    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nd (W T_n)_dh, a chunk of data points at a time."""
        total = torch.zeros_like(dictionary, dtype=torch.float64)
        for rows, factor in self._chunks():
            total += factor.projected_sum(dictionary.to(factor.dtype), weight[rows].to(factor.dtype))
        return total

    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """T (Wᵀε/σ + √κ ε'): its covariance is T (WᵀW/σ² + diag κ) T = T, (k, n, h)."""
        n = len(self)
        data_part = self._seen(normal((k, n, self.scaled_dictionary.shape[0]), self.mean, generator))
        prior_part = normal((k, *self.mean.shape), self.mean, generator)
        return self._multiply(data_part @ self.scaled_dictionary + self.prior_precision.sqrt() * prior_part)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Normal log density from the precision, (k, n)."""
        offset = codes - self.mean
        distance = self._seen(offset @ self.scaled_dictionary.T).square().sum(-1)
        distance = distance + (offset.square() * self.prior_precision).sum(-1)
        return gaussian_log_prob(distance, self.log_det, self.mean.shape[1])

    def rotated(self, matrix: Tensor) -> Diagonal:
        """Mean V ν with the exact marginal variances diag(V T Vᵀ)."""
        variance = torch.cat([factor.rotated_variance(matrix.to(factor.dtype)) for _, factor in self._chunks()])
        return Diagonal(self.mean @ matrix.T, variance.to(self.mean.dtype))

    def multiply(self, right: Tensor) -> Tensor:
        """T_n b_n for b (n, h)."""
        return self._multiply(right[None])[0]

    def _multiply(self, right: Tensor) -> Tensor:
        """T_n b_n for b (k, n, h)."""
        products = [factor.multiply(right[:, rows].to(factor.dtype)) for rows, factor in self._chunks()]
        return torch.cat(products, dim=1).to(self.mean.dtype)

    def _chunks(self) -> "Iterable[tuple[slice, precision.Cholesky | precision.Woodbury]]":
        if self.factors is not None:
            return self.factors
        dtype = precision.arithmetic(self.scaled_dictionary, self.mean.dtype, self.observed)
        return precision.factors(self.prior_precision, self.scaled_dictionary, dtype, self.observed)

    def _seen(self, data: Tensor) -> Tensor:
        return data if self.observed is None else data * self.observed

    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nh (V T_n Vᵀ)_hj, a chunk of data points at a time."""
        total = torch.zeros_like(matrix, dtype=torch.float64)
        for rows, factor in self._chunks():
            total += factor.rotated_sum(matrix.to(factor.dtype), weight[rows].to(factor.dtype))
        return total.to(self.mean.dtype)

    def remembering(self) -> "Full":
        """The same, keeping its factors: (n, h, h) numbers, for a while and where these are few."""
        return replace(self, factors=tuple(self._chunks()))

    def scaled(self, factor: Tensor) -> "Full":
        """C ν, κ/c², c² diag(T) and W/(c σ)."""
        square = factor.square()
        return Full(
            self.mean * factor,
            self.prior_precision / square,
            self.variance * square,
            self.log_det + square.log().sum(),
            self.scaled_dictionary / factor,
            self.observed,
        )

    def __getitem__(self, rows: slice | Tensor) -> "Full":
        return Full(
            self.mean[rows],
            self.prior_precision[rows],
            self.variance[rows],
            self.log_det[rows],
            self.scaled_dictionary,
            None if self.observed is None else self.observed[rows],
        )
