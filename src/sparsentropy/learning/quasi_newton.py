"""The accelerated step: the bound as a function of the dictionary alone.

With every posterior, scale and noise variance at its optimum the bound is a function F(W). By the envelope theorem
its gradient is that of the ELBO at fixed posteriors, ((Σ xνᵀ) − W Σ(ννᵀ + T))/(n σ²), so one E-step over the data
gives the value and the slope. F is maximised by limited-memory BFGS (Liu and Nocedal, 1989). What makes it fast is
the metric it starts from. While at most d atoms are in use, dictionaries change in two ways that have nothing to do
with each other: inside the span of these atoms, W → W(I + E), where the curvature is that of an independent component
analysis of noisy data — the Fisher information, 2×2 blocks for the pairs (E_hj, E_jh) made of the moments E[y_h²],
E[ν_j²] and E[y_h ν_h] of the pulls y = Wᵀ(x − Wν)/σ² — and out of their span, where it is that of least squares. With
more atoms in use there is nothing outside the span and the blocks over-count, so least squares, the metric of EM, is
used for all.

Independent posteriors make the dictionary stiffer, for they pay wherever two atoms are not at right angles. They lose
−½ log det of the correlations that a full posterior would have, which for two atoms of unit length is ½ g_h g_j
(w_h·w_j)², with g_h = s_h²/σ² the share of the data in what is known of a code; and by the closed forms of s and λ
that share is E[y_h ν_h] on average. A change by E_hj and E_jh changes w_h·w_j by their sum, so g_h g_j is added to
all four entries of the block.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.learning.em import correlation_factor
from sparsentropy.learning.start import OFF
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics

PAIRS = 12
"""Steps that are remembered."""

DAMPING = 0.1  # of the Fisher blocks; relative, since their scale is 1


def gradient(statistics: Statistics, parameters: Parameters, noise_variance: Tensor | None = None) -> Tensor:
    """∂F/∂W (d, h) in nats per data point and code unit, float64, at the best noise variance or a given one."""
    W = parameters.dictionary.double()
    noise = best_noise_variance(statistics, parameters) if noise_variance is None else noise_variance
    return (statistics.cross - W @ statistics.second_moment) / (statistics.n * noise)


def best_noise_variance(statistics: Statistics, parameters: Parameters) -> Tensor:
    """σ² that fits the dictionary of `parameters` best, float64."""
    return parameters.likelihood.fit(statistics.mean_error(parameters.dictionary), statistics.d)


@final
@dataclass(frozen=True)
class Metric:
    """An approximate inverse of −∂²F/∂W², from statistics."""

    least_squares: tuple[Tensor, Tensor, Tensor]  # Cholesky factor and scale of Σννᵀ+T, and n σ²
    blocks: "_Blocks | None"

    @classmethod
    def of(cls, statistics: Statistics, parameters: Parameters, *, independent: bool) -> "Metric":
        """The metric at the dictionary of `parameters`, of unit length; `independent` posteriors make it stiffer."""
        factor, scale = correlation_factor(statistics.second_moment)
        used = (statistics.usage >= OFF).nonzero().squeeze(1)
        blocks = None
        if 0 < len(used) <= parameters.d:
            blocks = _Blocks.of(statistics, parameters, used, independent=independent)
        return cls((factor, scale, statistics.n * best_noise_variance(statistics, parameters)), blocks)

    def __call__(self, gradient: Tensor) -> Tensor:
        """Direction (d, h) for a gradient (d, h); symmetric and positive definite."""
        factor, scale, weight = self.least_squares
        plain = weight * torch.cholesky_solve((gradient / scale).T, factor).T / scale
        if self.blocks is None:
            return plain
        return plain.index_add(1, self.blocks.used, self.blocks.correction(gradient, plain))


@final
@dataclass(frozen=True)
class _Blocks:
    """Fisher information of relative changes: [[a_hj, c_hj], [c_hj, a_jh]] for the pair (E_hj, E_jh)."""

    used: Tensor  # atoms that are not off
    dictionary: Tensor  # these atoms (d, h')
    own: Tensor  # a_hj = E[y_h²] E[ν_j² + T_jj], and c_hj again for independent posteriors (h', h')
    cross: Tensor  # c_hj = E[y_h ν_h] E[y_j ν_j], twice for independent posteriors, without a diagonal (h', h')
    basis: Tensor  # orthonormal basis of their span (d, h')

    @classmethod
    def of(cls, statistics: Statistics, parameters: Parameters, used: Tensor, *, independent: bool) -> "_Blocks":
        # At the optimum of the E-step the pull y equals the slope of the prior, ∂A/∂ν / λ
        scale = parameters.prior.fit(statistics.prior_statistic / statistics.n)
        pull_square = (statistics.usage / scale.square())[used]
        pull_code = (statistics.slope_code / statistics.n / scale)[used]
        code_square = statistics.second_moment.diagonal()[used] / statistics.n
        own = (1 + DAMPING) * pull_square[:, None] * code_square + DAMPING
        cross = pull_code[:, None] * pull_code
        cross = cross - torch.diag(cross.diagonal())
        if independent:
            own, cross = own + cross, 2 * cross
        dictionary = parameters.dictionary.double()[:, used]
        return cls(used, dictionary, own, cross, torch.linalg.qr(dictionary).Q)

    def correction(self, gradient: Tensor, plain: Tensor) -> Tensor:
        """What replaces the plain direction inside the span."""
        relative = self.dictionary.T @ gradient[:, self.used]
        determinant = self.own * self.own.T - self.cross.square()
        inside = self.dictionary @ ((self.own.T * relative - self.cross * relative.T) / determinant)
        return inside - self.basis @ (self.basis.T @ plain[:, self.used])


@final
@dataclass(frozen=True)
class Memory:
    """The last steps s and the changes y of −∂F/∂W along them."""

    steps: tuple[Tensor, ...] = ()
    changes: tuple[Tensor, ...] = ()

    def direction(self, gradient: Tensor, metric: Metric) -> Tensor:
        """Ascent direction by the two-loop recursion, started from the metric scaled to the last step."""
        remainder, weights = gradient.clone(), []
        for s, y in zip(reversed(self.steps), reversed(self.changes), strict=True):
            weight = (s * remainder).sum() / (s * y).sum()
            remainder -= weight * y
            weights.append(weight)
        result = metric(remainder) * self._scale(metric)
        for s, y, weight in zip(self.steps, self.changes, reversed(weights), strict=True):
            result += s * (weight - (y * result).sum() / (s * y).sum())
        return result

    def _scale(self, metric: Metric) -> Tensor | float:
        if not self.steps:
            return 1.0
        s, y = self.steps[-1], self.changes[-1]
        return ((s * y).sum() / (y * metric(y)).sum()).clamp(0.05, 20.0)

    def extended(self, step: Tensor, change: Tensor) -> "Memory":
        """With one more pair, if it bends the right way."""
        if (step * change).sum() <= 1e-10 * step.norm() * change.norm():
            return self
        return Memory((*self.steps, step)[-PAIRS:], (*self.changes, change)[-PAIRS:])

    def rescaled(self, factor: Tensor) -> "Memory":
        """The same pairs after codes were multiplied by `factor` and atoms divided by it."""
        return Memory(tuple(s / factor for s in self.steps), tuple(y * factor for y in self.changes))
