"""Codes that vary together in a few directions, those of a data point being its own.

The covariance is a diagonal plus a matrix of rank r, h (r + 2) numbers for a data point; its inverse and determinant
follow from r×r matrices, and the (h, h) matrix is never built.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from .abstract import AbstractPosterior, gaussian_entropy, gaussian_log_prob, normal


@final
@dataclass(frozen=True)
class LowRank(AbstractPosterior):
    """q_n(z) = N(z; ν_n, diag(v_n) + V_n V_nᵀ), V_n of shape (h, r).

    Parameters
    ----------
    mean : Tensor, shape (n, h)
    diagonal : Tensor, shape (n, h)
        v, positive, code units squared.
    factor : Tensor, shape (n, h, r)
        V, code units.

    Examples
    --------
    >>> import torch
    >>> q = LowRank(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3, 1))
    >>> q.variance
    tensor([[2., 2., 2.]])
    """

    mean: Tensor
    diagonal: Tensor
    factor: Tensor

    @property
    def variance(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """V + Σ_r V_hr², (n, h)."""
        return self.diagonal + self.factor.square().sum(2)

    def covariance(self) -> Tensor:
        """diag(v_n) + V_n V_nᵀ, (n, h, h)."""
        return torch.diag_embed(self.diagonal) + self.factor @ self.factor.mT

    def covariance_sum(self) -> Tensor:
        """diag(Σ_n v_n) + Σ_n V_n V_nᵀ as one product of an (h, n r) matrix with itself."""
        wide = self.factor.transpose(0, 1).reshape(self.factor.shape[1], -1).double()
        return torch.diag(self.diagonal.sum(0, dtype=torch.float64)) + wide @ wide.T

    def entropy(self) -> Tensor:
        """½ [h log 2πe + Σ_h log v_h + log det(I + Vᵀ D⁻¹ V)], (n,)."""
        return gaussian_entropy(self._log_det(), self.mean.shape[1])

    def _capacitance(self) -> Tensor:
        """Cholesky factor of I + Vᵀ D⁻¹ V, (n, r, r), in float64: a v that V makes superfluous is tiny."""
        scaled = self.factor.double() / self.diagonal.double().sqrt().unsqueeze(2)
        inner = scaled.mT @ scaled
        eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        lower, failed = torch.linalg.cholesky_ex(inner + eye)
        if bool(failed.any()):
            # I is lost beside the rest, but not in [S; I] = QR, where RᵀR = I + SᵀS
            lost = failed > 0
            stacked = torch.cat([scaled[lost], eye.expand(int(lost.sum()), -1, -1)], 1)
            upper = torch.linalg.qr(stacked, mode="r").R
            lower[lost] = (upper * upper.diagonal(dim1=1, dim2=2).sign().unsqueeze(2)).mT
        return lower

    def _log_det(self) -> Tensor:
        # Matrix determinant lemma: det(D + VVᵀ) = det(D) det(I + VᵀD⁻¹V)
        inner = self._capacitance().diagonal(dim1=1, dim2=2).log().sum(1)
        return (self.diagonal.double().log().sum(1) + 2 * inner).to(self.mean.dtype)

    def spread(self, dictionary: Tensor) -> Tensor:
        """Σ_h |w_h|² v_nh + |W V_n|², (n,)."""
        own = self.diagonal @ dictionary.square().sum(0)
        return own + (dictionary @ self.factor).square().sum((1, 2))

    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """Σ_h W_dh² v_nh + |(W V_n)_d|², (n, d)."""
        return self.diagonal @ dictionary.square().T + (dictionary @ self.factor).square().sum(2)

    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """(Σ_n b_nd v_nh) W_dh + Σ_nr b_nd (W V_n)_dr V_nhr."""
        own = (weight.T @ self.diagonal).double() * dictionary.double()
        d, h = dictionary.shape
        left = ((dictionary @ self.factor) * weight.unsqueeze(2)).transpose(0, 1).reshape(d, -1)
        return own + (left @ self.factor.mT.reshape(-1, h)).double()

    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """√v ε + V ε', (k, n, h)."""
        own = self.diagonal.sqrt() * normal((k, *self.mean.shape), self.mean, generator)
        n, _, r = self.factor.shape
        common = normal((k, n, r, 1), self.mean, generator)
        return own + (self.factor @ common).squeeze(-1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Normal log density by the Woodbury identity, (k, n)."""
        offset = (codes - self.mean).double()
        weighted = offset / self.diagonal.double()
        inner = (self.factor.double().mT @ weighted.unsqueeze(-1)).squeeze(-1)  # Vᵀ D⁻¹ (z − ν)
        half = torch.linalg.solve_triangular(self._capacitance(), inner.unsqueeze(-1), upper=False)
        distance = (offset * weighted).sum(-1) - half.square().sum((-1, -2))
        return gaussian_log_prob(distance.to(codes.dtype), self._log_det(), self.mean.shape[1])

    def rotated(self, matrix: Tensor) -> "LowRank":
        """Factor V F exactly; the rotated diagonal keeps its marginals."""
        return LowRank(self.mean @ matrix.T, self.diagonal @ matrix.square().T, matrix @ self.factor)

    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """The diagonal part, and Σ_nr b_nh (V F)_nhr (V F)_njr."""
        own = (weight.T @ self.diagonal * matrix) @ matrix.T
        turned = matrix @ self.factor
        left = (turned * weight.unsqueeze(2)).transpose(0, 1).reshape(matrix.shape[0], -1)
        return own + left @ turned.transpose(0, 1).reshape(matrix.shape[0], -1).T

    def scaled(self, factor: Tensor) -> "LowRank":
        """C ν, c² v and c V."""
        return LowRank(self.mean * factor, self.diagonal * factor.square(), self.factor * factor.unsqueeze(1))

    def __getitem__(self, rows: slice | Tensor) -> "LowRank":
        return LowRank(self.mean[rows], self.diagonal[rows], self.factor[rows])
