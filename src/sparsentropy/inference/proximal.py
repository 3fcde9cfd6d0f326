"""The proximal map of the prior: from t to the code u with u + ψ'(u)/2ρ = t, by way of z.

Written in z = u/s everything is explicit: u = z s(z) and ψ' = √2 α erf(z), so z is the root of β erf(z) + z s(z) = t
with β = α/(√2 ρ), for which a Newton step or two are enough. Its slope lies near 1 + (slope at zero − 1) exp(−z²)
unless an atom is steep; then the exact slope is taken. Bounds of |z| hold what may overshoot: a lower one where the
slope falls much, an upper one where an atom is steep.

The functions here make new arrays and can be differentiated; `splitting` does the same in place.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import LOG2_E, SQRT_2
from sparsentropy.inference.problem import Problem

STEEP, CURVED = 10.0, 2.0  # steepness, and slope of the proximal map at zero, from which on Newton steps are held
SLOPE = 2 / math.sqrt(math.pi)  # of the error function at zero


@final
@dataclass(frozen=True)
class Proximal:
    """Constants of the map, in the dtype of the data."""

    share: Tensor  # β (h',)
    log_bend: Tensor  # log₂ K at z = 0 (h',)
    rise: Tensor  # (slope of the map's inverse at zero − 1)/K at z = 0 (h',)
    sharp: Tensor  # slope of β erf(z) at zero/K at z = 0 (h',)
    steep: Tensor  # slope of β erf(z) in u at zero (h',)
    first: Tensor  # 1 − 1/slope of the map's inverse at zero (h',)
    one: Tensor
    floor: Tensor | None  # 1 − 1/(1 + 2β/√π) where an atom bends the map much (h',)
    ceiling: "Ceiling | None"  # where an atom is steep

    @classmethod
    def of(cls, problem: Problem, penalty: Tensor, threshold: Tensor | None = None) -> "Proximal":
        """For penalties ρ (h',), in float64; `threshold` (h',) is a factor on β that an encoder has learned."""
        alpha, dtype = problem.steepness, problem.parameters.dictionary.dtype
        share, scale = alpha / (SQRT_2 * penalty), problem.best_scale(torch.zeros_like(alpha))
        share = share if threshold is None else share * threshold
        slope, bend = SLOPE * share + scale, alpha / math.sqrt(2 * math.pi)
        steep = bool((alpha > STEEP).any())
        return cls(
            share=share.to(dtype),
            log_bend=bend.log2().to(dtype),
            rise=((slope - 1) / bend).to(dtype),
            sharp=(SLOPE * share / bend).to(dtype),
            steep=(SLOPE * share / scale).to(dtype),
            first=(1 - 1 / slope).to(dtype),
            one=torch.ones((), dtype=dtype, device=alpha.device),
            floor=(1 - 1 / (1 + SLOPE * share)).to(dtype) if steep or bool((slope > CURVED).any()) else None,
            ceiling=Ceiling.of(problem, share, dtype) if steep else None,
        )

    def pulled(self, code: Tensor) -> Tensor:
        """β erf(z) where the prior has the code u, roughly: at most β, and at most its slope at zero times u."""
        return torch.clamp(code * self.steep, -self.share, self.share)

    def first_root(self, target: Tensor) -> Tensor:
        """Z from the slope at zero for a small t, from β beyond for a large one."""
        return target - torch.clamp(target * self.first, -self.share, self.share)

    def scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """K and s at z."""
        bend = torch.exp2(self.log_bend - LOG2_E * z * z)
        return bend, 1 / (bend + torch.sqrt(bend * bend + 1))

    def newton(self, z: Tensor, target: Tensor) -> Tensor:
        """Z after one Newton step towards the root, and no further than its bounds."""
        bend, scale = self.scale(z)
        error = self.share * torch.erf(z) + z * scale - target
        if self.ceiling is None:
            slope = 1 + bend * self.rise
        else:
            slope = scale + 2 * z * z * scale * bend / (bend + scale) + bend * self.sharp
        z = z - error / slope
        if self.floor is None:
            return z
        size, sign = target.abs(), target.sign()
        least = size - torch.minimum(size * self.floor, self.share)
        z = torch.maximum(z * sign, least)
        return sign * (z if self.ceiling is None else torch.minimum(z, self.ceiling.over(size)))


@final
@dataclass(frozen=True)
class Ceiling:
    """Upper bound of |z| at the root: beyond |z| = 1 both s and erf are at least what they are there."""

    slope: Tensor  # 1/s(1) (h',)
    offset: Tensor  # β erf(1)/s(1) (h',)

    @classmethod
    def of(cls, problem: Problem, share: Tensor, dtype: torch.dtype) -> "Ceiling":
        """For β in float64."""
        slope = 1 / problem.best_scale(torch.ones_like(share))
        return cls(slope.to(dtype), (math.erf(1) * slope * share).to(dtype))

    def over(self, size: Tensor) -> Tensor:
        """The bound for |t|."""
        return (size * self.slope - self.offset).clamp(min=1)
