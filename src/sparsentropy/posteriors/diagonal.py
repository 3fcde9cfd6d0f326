"""Codes that are independent given the data point.

Everything is elementwise: a mean and a variance for each code, 2h numbers for a data point.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .abstract import AbstractPosterior, gaussian_entropy, gaussian_log_prob, normal


@final
@dataclass(frozen=True)
class Diagonal(AbstractPosterior):
    """q_n(z) = N(z; ν_n, diag(v_n)): codes are independent given the data point.

    Parameters
    ----------
    mean, variance : Tensor, shape (n, h)
        Code units, and code units squared.

    Examples
    --------
    >>> import torch
    >>> q = Diagonal(torch.zeros(1, 2), torch.ones(1, 2))
    >>> q.entropy()  # log(2πe)
    tensor([2.8379])
    """

    mean: Tensor
    variance: Tensor

    def covariance(self) -> Tensor:
        """diag(v_n), (n, h, h)."""
        return torch.diag_embed(self.variance)

    def covariance_sum(self) -> Tensor:
        """diag(Σ_n v_n), (h, h)."""
        return torch.diag(self.variance.sum(0, dtype=torch.float64))

    def entropy(self) -> Tensor:
        """½ Σ_h log(2πe v_nh), (n,)."""
        return gaussian_entropy(self.variance.log().sum(1), self.mean.shape[1])

    def spread(self, dictionary: Tensor) -> Tensor:
        """Σ_h |w_h|² v_nh, (n,)."""
        return self.variance @ dictionary.square().sum(0)

    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """Σ_h W_dh² v_nh, (n, d)."""
        return self.variance @ dictionary.square().T

    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """(Σ_n b_nd v_nh) W_dh."""
        return (weight.T @ self.variance).double() * dictionary.double()

    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """S ε, (k, n, h)."""
        return self.std * normal((k, *self.mean.shape), self.mean, generator)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Sum of h normal log densities, (k, n)."""
        distance = ((codes - self.mean).square() / self.variance).sum(-1)
        return gaussian_log_prob(distance, self.variance.log().sum(1), self.mean.shape[1])

    def rotated(self, matrix: Tensor) -> "Diagonal":
        """Mean V ν, variance Σ_j V_hj² v_j."""
        return Diagonal(self.mean @ matrix.T, self.variance @ matrix.square().T)

    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_a V_ha (Σ_n b_nh v_na) V_ja."""
        return (weight.T @ self.variance * matrix) @ matrix.T

    def scaled(self, factor: Tensor) -> "Diagonal":
        """C ν and c² v."""
        return Diagonal(self.mean * factor, self.variance * factor.square())

    def __getitem__(self, rows: slice | Tensor) -> "Diagonal":
        return Diagonal(self.mean[rows], self.variance[rows])
