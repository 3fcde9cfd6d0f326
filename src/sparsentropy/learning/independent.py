"""Turning the dictionary under independent posteriors, which cannot turn with it.

As in `rotation`, W → W V⁻¹ and ν → V ν keep W ν. But a posterior with a diagonal covariance keeps its axes: it is given
new scales s instead, which cost more the less the atoms are at right angles. With s, λ and σ² at their optimum for the
turned means, what changes of the bound is

    J(V) = mean_n Σ_h log s_nh − Σ_h log mean_n A((Vν_n)_h, s_nh) − d/2 log(|x − Wν|² + Σ_h |w_h|² s_nh²)

with the mean over n inside the last logarithm. It is a lower bound of what the next E-step will find, so a turn that
raises it raises the bound. The steps are relative, V = I + E, as those of `rotation`, with the blocks [[a_hj, c_hj],
[c_hj, a_jh]] where a_hj = mean[A_νν ν_j²]/λ_h + g_j and c_hj = g_h + g_j, and g_h = |w_h|² mean[s_h²]/σ².
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.folded_normal import SQRT_2_OVER_PI
from sparsentropy.learning.rotation import AbstractView
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics
from sparsentropy.posteriors import AbstractPosterior, Diagonal

SCALE_STEPS = 3


@final
@dataclass(frozen=True)
class Independent(AbstractView):
    """Independent posteriors after turning their means by V."""

    posteriors: Sequence[AbstractPosterior]
    parameters: Parameters  # before turning
    residual: Tensor  # mean_n |x − Wν|²
    matrix: Tensor  # V (h, h), float64
    dictionary: Tensor  # W V⁻¹ (d, h), float64
    turned: Sequence[AbstractPosterior]  # Diagonal
    prior_scale: Tensor  # λ (h,), float64
    noise_variance: Tensor  # σ², float64
    objective: Tensor  # J(V)

    @classmethod
    def of(
        cls, posteriors: Sequence[AbstractPosterior], statistics: Statistics, parameters: Parameters
    ) -> "Independent":
        """The view at V = I."""
        p = parameters.to(torch.float64)
        own = torch.stack([q.variance.sum(0, dtype=torch.float64) for q in posteriors]).sum(0) / statistics.n
        # A difference, that rounding may leave below zero where data are explained exactly
        residual = (statistics.mean_error(p.dictionary) - (p.dictionary.square().sum(0) * own).sum()).clamp(min=0)
        eye = torch.eye(p.h, dtype=torch.float64, device=own.device)
        return _view(posteriors, parameters, residual, eye, p.prior_scale, p.noise_variance)

    def at(self, matrix: Tensor) -> "Independent":
        """The view at another V."""
        return _view(self.posteriors, self.parameters, self.residual, matrix, self.prior_scale, self.noise_variance)

    def second_moment(self, statistics: Statistics) -> Tensor:
        """V (Σ ννᵀ) Vᵀ + diag Σ s²."""
        means = statistics.second_moment - torch.stack([q.covariance_sum() for q in self.posteriors]).sum(0)
        return self.matrix @ means @ self.matrix.T + torch.stack([q.covariance_sum() for q in self.turned]).sum(0)

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """∂J/∂E and the curvatures a and c, each (h, h)."""
        gram = self.dictionary.T @ self.dictionary
        psi, bent, square, n = torch.zeros_like(gram), torch.zeros_like(gram), torch.zeros_like(gram[0]), 0
        for q in self.turned:
            std = q.std
            slope, k = folded_normal.slopes(q.mean, std)
            psi += (slope.T @ q.mean).double()
            bent += ((k / std).T @ q.mean.square()).double()
            square += q.variance.sum(0, dtype=torch.float64)
            n += len(q)
        spread = square / n / self.noise_variance
        share = gram.diagonal() * spread
        gradient = gram * spread - psi / (n * self.prior_scale[:, None])
        return gradient, bent / (n * self.prior_scale[:, None]) + share, share + share[:, None]


def _view(
    posteriors: Sequence[AbstractPosterior],
    parameters: Parameters,
    residual: Tensor,
    matrix: Tensor,
    prior_scale: Tensor,
    noise_variance: Tensor,
) -> Independent:
    dictionary = torch.linalg.solve(matrix, parameters.dictionary.double(), left=False)
    length = dictionary.square().sum(0)
    turned = [_rescaled(q, matrix, prior_scale, length / noise_variance) for q in posteriors]
    n = sum(len(q) for q in turned)

    def mean(values: list[Tensor]) -> Tensor:
        return torch.stack(values).sum(0) / n

    scale = mean([q.abs_moment().sum(0, dtype=torch.float64) for q in turned])
    square = mean([q.variance.sum(0, dtype=torch.float64) for q in turned])
    entropy = mean([q.variance.log().sum(dtype=torch.float64) / 2 for q in turned])
    noise = (residual + (length * square).sum()) / parameters.d
    objective = entropy - scale.log().sum() - parameters.d / 2 * noise.log()
    return Independent(posteriors, parameters, residual, matrix, dictionary, turned, scale, noise, objective)


def _rescaled(q: AbstractPosterior, matrix: Tensor, prior_scale: Tensor, precision: Tensor) -> Diagonal:
    """Vν, and its best scales s = 2/(k + √(k² + 4|w|²/σ²))."""
    dtype = q.mean.dtype
    mean, std = q.mean @ matrix.to(dtype).T, q.std
    steep, own = (SQRT_2_OVER_PI / prior_scale).to(dtype), (4 * precision).to(dtype)
    for _ in range(SCALE_STEPS):
        k = folded_normal.bell(folded_normal.standardised(mean, std)) * steep
        std = 2 / (k + torch.sqrt(k * k + own))
    return Diagonal(mean, std.square())
