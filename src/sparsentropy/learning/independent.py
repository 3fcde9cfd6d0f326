"""Turning the dictionary under independent posteriors, which cannot turn with it.

As in `rotation`, W → W V⁻¹ and ν → V ν keep W ν. But a posterior with a diagonal covariance keeps its axes: it is given
new scales s instead, which cost more the less the atoms are at right angles. With s, λ and σ² at their optimum for the
turned means, what changes of the bound is

    J(V) = mean_n Σ_h log s_nh − Σ_h log mean_n A((Vν_n)_h, s_nh) − d/2 log(|x − Wν|² + Σ_h |w_h|² s_nh²)

with the mean over n inside the last logarithm. It is a lower bound of what the next E-step will find, so a turn that
raises it raises the bound. The steps are relative, V = I + E, as those of `rotation`, with the blocks [[a_hj, c_hj],
[c_hj, a_jh]] where a_hj = mean[A_νν ν_j²]/λ_h + g_j and c_hj = g_h + g_j, and g_h = |w_h|² mean[s_h²]/σ².
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import LOG2_E, SQRT_2
from sparsentropy.learning.rotation import AbstractView
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics
from sparsentropy.posteriors import AbstractPosterior, Diagonal
from sparsentropy.team import ALONE, AbstractTeam

SCALE_STEPS = 3
TOGETHER = 64  # batches whose sums are added together
LEAST_USAGE = 1e-3  # atoms whose codes have less are left where they are


@final
@dataclass(frozen=True)
class Independent(AbstractView):
    """Independent posteriors after turning their means by V; nothing of the size of the data is kept."""

    posteriors: Sequence[AbstractPosterior]
    team: AbstractTeam
    parameters: Parameters  # before turning
    used: Tensor  # atoms that are turned
    d: Tensor  # observed entries of a data point, on average
    residual: Tensor  # mean_n |x − Wν|² + Σ |w_h|² s_nh² of the other atoms
    matrix: Tensor  # V (h', h'), float64
    dictionary: Tensor  # W V⁻¹ (d, h'), float64
    prior_scale: Tensor  # λ (h',), float64
    noise_variance: Tensor  # σ², float64
    objective: Tensor  # J(V)
    scaling: "_Scaling"
    sums: "_Sums"

    @classmethod
    def of(
        cls,
        posteriors: Sequence[AbstractPosterior],
        statistics: Statistics,
        parameters: Parameters,
        team: AbstractTeam = ALONE,
    ) -> "Independent":
        """The view at V = I."""
        p = parameters.to(torch.float64)
        used = (statistics.usage >= LEAST_USAGE).nonzero().ravel()
        (own,) = team.sum(_variances(posteriors)[used] / statistics.n)
        # A difference, that rounding may leave below zero where data are explained exactly
        spread = (p.dictionary[:, used].square().sum(0) * own).sum()
        residual = (statistics.mean_error(p.dictionary) - spread).clamp(min=0)
        eye = torch.eye(len(used), dtype=torch.float64, device=own.device)
        d = statistics.d
        return _view(posteriors, team, parameters, used, d, residual, eye, p.prior_scale[used], p.noise_variance)

    def at(self, matrix: Tensor) -> "Independent":
        """The view at another V."""
        p, scale, noise = self.parameters, self.prior_scale, self.noise_variance
        return _view(self.posteriors, self.team, p, self.used, self.d, self.residual, matrix, scale, noise)

    def turned(self, index: int) -> AbstractPosterior:
        """Means turned by V, and the best scales for them."""
        q = self.posteriors[index]
        code, scale = self.scaling.applied(q, self.used)
        mean, std = code * self.scaling.unit * SQRT_2, scale * self.scaling.unit
        if len(self.used) == q.mean.shape[1]:
            return Diagonal(mean, std.square())
        return Diagonal(q.mean.index_copy(1, self.used, mean), q.variance.index_copy(1, self.used, std.square()))

    def second_moment(self, statistics: Statistics) -> Tensor:
        """V (Σ ννᵀ) Vᵀ + diag Σ s²."""
        matrix = self.whole(self.parameters.h)
        (spread,) = self.team.sum(_variances(self.posteriors))
        means = matrix @ (statistics.second_moment - torch.diag(spread)) @ matrix.T
        return means + torch.diag(spread.index_copy(0, self.used, self.sums.square))

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """∂J/∂E and the curvatures a and c, each (h', h')."""
        gram, weight = self.dictionary.T @ self.dictionary, self.sums.n * self.prior_scale[:, None]
        spread = self.sums.square / self.sums.n / self.noise_variance
        share = gram.diagonal() * spread
        gradient = gram * spread - self.sums.slope_code / weight
        return gradient, self.sums.bend_square / weight + share, share + share[:, None]


@final
@dataclass(frozen=True)
class _Sums:
    """Over the data, float64."""

    n: Tensor
    log_scale: Tensor  # Σ log s
    absolute: Tensor  # Σ A (h',)
    square: Tensor  # Σ s² (h',)
    slope_code: Tensor  # Σ A_ν ν_j (h', h')
    bend_square: Tensor  # Σ A_νν ν_j² (h', h')


@final
@dataclass(frozen=True)
class _Scaling:
    """Codes in units of √2 σ/|w|, their scales in units of σ/|w|, as in `inference.problem`."""

    turn: Tensor  # ν to u (h', h')
    unit: Tensor  # σ/|w| (h',)
    bend: Tensor  # K at zero (h',)
    one: Tensor

    @classmethod
    def of(cls, matrix: Tensor, unit: Tensor, prior_scale: Tensor, dtype: torch.dtype) -> "_Scaling":
        bend = unit / prior_scale / math.sqrt(2 * math.pi)
        turn = matrix.T / (SQRT_2 * unit)
        return cls(turn.to(dtype), unit.to(dtype), bend.to(dtype), torch.ones((), dtype=dtype, device=unit.device))

    def applied(self, q: AbstractPosterior, used: Tensor) -> tuple[Tensor, Tensor]:
        """U and s of the turned means, each (n, h')."""
        mean, variance = q.mean, q.variance
        if len(used) < mean.shape[1]:
            mean, variance = mean.index_select(1, used), variance.index_select(1, used)
        code, scale = mean @ self.turn, variance.sqrt().div_(self.unit)
        work = torch.empty_like(code)
        for _ in range(SCALE_STEPS):
            # s = 1/(K + √(K² + 1))
            torch.div(code, scale, out=work).square_().mul_(-LOG2_E).exp2_().mul_(self.bend)
            torch.addcmul(self.one, work, work, out=scale).sqrt_().add_(work).reciprocal_()
        return code, scale

    def sums(self, q: AbstractPosterior, used: Tensor) -> tuple[Tensor, ...]:
        """Sums over these data, in the order of `_Sums`."""
        code, scale = self.applied(q, used)
        unit = self.unit.double()
        z = code / scale
        slope, bell = torch.erf(z), z.square_().mul_(-LOG2_E).exp2_()
        own = (code * slope).sum(0, dtype=torch.float64) * SQRT_2 + (scale * bell).sum(
            0, dtype=torch.float64
        ) * math.sqrt(2 / math.pi)
        log_scale = scale.log().sum(dtype=torch.float64) + len(code) * unit.log().sum()
        slope_code = (slope.T @ code).double() * (SQRT_2 * unit)
        square = scale.square().sum(0, dtype=torch.float64) * unit.square()
        bend_square = (bell.div_(scale).T @ code.square_()).double() * (2 * unit.square())
        bend_square *= math.sqrt(2 / math.pi) / unit[:, None]
        return log_scale, own * unit, square, slope_code, bend_square


def _variances(posteriors: Sequence[AbstractPosterior]) -> Tensor:
    """Σ s² (h,), float64."""
    return torch.stack([q.variance.sum(0, dtype=torch.float64) for q in posteriors]).sum(0)


def _totals(posteriors: Sequence[AbstractPosterior], scaling: _Scaling, used: Tensor, team: AbstractTeam) -> _Sums:
    """Over all batches; of very many only a few have their matrices in memory at once."""
    n, batches, totals = 0, iter(posteriors), None
    while group := [(len(q), scaling.sums(q, used)) for q in itertools.islice(batches, TOGETHER)]:
        n += sum(count for count, _ in group)
        parts = [torch.stack(part).sum(0) for part in zip(*(sums for _, sums in group), strict=True)]
        totals = parts if totals is None else [total + part for total, part in zip(totals, parts, strict=True)]
    assert totals is not None, "there are posteriors"
    return _Sums(*team.sum(scaling.unit.new_tensor(float(n), dtype=torch.float64), *totals))


def _view(
    posteriors: Sequence[AbstractPosterior],
    team: AbstractTeam,
    parameters: Parameters,
    used: Tensor,
    d: Tensor,
    residual: Tensor,
    matrix: Tensor,
    prior_scale: Tensor,
    noise_variance: Tensor,
) -> Independent:
    (matrix,) = team.agreed(matrix)
    dictionary = torch.linalg.solve(matrix, parameters.dictionary.double()[:, used], left=False)
    unit = noise_variance.sqrt() / dictionary.norm(dim=0)
    scaling = _Scaling.of(matrix, unit, prior_scale, parameters.dictionary.dtype)
    sums = _totals(posteriors, scaling, used, team)
    n = sums.n
    scale, length = sums.absolute / n, dictionary.square().sum(0)
    noise = (residual + (length * sums.square).sum() / n) / d
    (objective,) = team.agreed(sums.log_scale / n - scale.log().sum() - d / 2 * noise.log())
    return Independent(
        posteriors, team, parameters, used, d, residual, matrix, dictionary, scale, noise, objective, scaling, sums
    )
