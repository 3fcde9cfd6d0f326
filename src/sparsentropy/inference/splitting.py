"""Diagonal posteriors by splitting: the data term and the prior take turns.

The two parts of the cost (`problem`) are joined by the alternating direction method of multipliers (Boyd et al.,
"Distributed optimization … via ADMM", 2011) with one inverse that all data points share. In the form of Douglas and
Rachford its whole state is one array t, the argument of the prior's proximal map: with u = prox(t),

    t ← t + r (v − u),    v = (G + ρ)⁻¹ (b + ρ (2u − t)),

which is one product with an (h, h) matrix, or two with the atoms where these are many (`turn`). It is computed around
the codes a = (G + κ)⁻¹ b that a Gaussian prior with the precision κ would lead to, which has about the size of the true
one,

    v − a = ρ (G + ρ)⁻¹ (κ/ρ a + 2u − t − a),

since codes may be ten thousand times as large as their uncertainty, and a product of large numbers in float32 would
lose what the prior does to them. Only a itself then asks for float64, where codes are that large.

The proximal map solves β erf(z) + z s = t, β = α/(√2 ρ), by a Newton step in z from where it was. Its slope lies near
1 + (slope at zero − 1) exp(−z²) unless an atom is steep; then the exact slope is taken. Bounds of |z| hold what may
overshoot: a lower one where the slope falls much, an upper one where an atom is steep. Everything else are passes over
arrays of codes, as costly as a product with two hundred atoms, so all of them write into arrays that are there already,
a chunk at a time that stays in the cache.

Where codes are told apart well ρ is 1, and t begins at (1 + κ) a, which would be the solution if G were the identity:
b − (G − 1) a, what the data ask of a code if the others are as in a. From there on the gap shrinks thirtyfold with each
iteration. Elsewhere the first codes are a, with the pull of the true prior, and the gap shrinks two- to fourfold.

Where no two codes can be traded against each other, μ being the smallest eigenvalue of G, the distance to the optimum
is at most |g|²/μ with g = G (u − a) − κ a + ψ'/2, which costs as much as another iteration and is good in float32.
"""

import math
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import LOG2_E, SQRT_2
from sparsentropy.inference.problem import Problem
from sparsentropy.inference.turn import AbstractTurn, ridge, turn
from sparsentropy.posteriors import Diagonal

APART = 0.2  # μ from which on codes count as told apart well
# There G is near the identity, and with a penalty of 1 and a relaxation near 2 every iteration is nearly a solution.
# Elsewhere the penalty is so much of α times the larger of α and SHARE, since the curvature of a prior as a whole is
# α², and at zero α; half as much or twice as much takes up to twice as many iterations. The first codes then come from
# other parameters or from another prior and may be far off: until they are where the data want them, no overshooting.
PENALTY, SHARE = 0.4, 0.5
RELAXATION, RELAXATION_APART = 1.6, 1.95
RIDGE, RIDGE_APART = 1.0, 0.6  # κ in units of α²/2, with which codes have the same variance
PLAIN_STEPS = 2
SOONER = 0.35  # part of the iterations that are enough where codes are told apart well
STEEP, CURVED = 10.0, 2.0  # steepness, and slope of the proximal map at zero, from which on Newton steps are held
MOST_EIGENVALUES = 1024  # of a matrix of this size they are all computed; larger ones are bounded
# Units in the last place of a, by how it was computed, that may be wrong; and the cost of that, in nats per data point,
# from which on a is computed in float64
ROUNDING, ROUNDING_WIDE = 8.0, 1.0
MOST_ROUNDING = 1e-6
SLOPE = 2 / math.sqrt(math.pi)  # of the error function at zero


@final
@dataclass(frozen=True)
class Splitting:
    """The constants of an iteration, in the dtype of the data unless said otherwise."""

    problem: Problem
    penalty: Tensor  # ρ (h',), float64
    relaxation: float  # r
    weakest: float  # lower bound of μ; 0 where nothing is known
    rounding: float  # of a, relative
    anchor: Tensor  # x to a (d, h'), may be float64
    gram: Tensor | None  # G (h', h') where h' ≤ d
    turn: AbstractTurn  # r ρ (G + ρ)⁻¹ − r/2
    precision: Tensor  # κ (h',)
    relative: Tensor  # κ/ρ (h',)
    steepness: Tensor  # α (h',)
    share: Tensor  # β (h',)
    log_bend: Tensor  # log₂ K at z = 0 (h',)
    rise: Tensor  # (slope of the proximal map at zero − 1)/K at z = 0 (h',)
    sharp: Tensor  # slope of β erf(z) at zero/K at z = 0 (h',)
    steep: Tensor  # slope of β erf(z) in u at zero (h',)
    first: Tensor  # 1 − 1/slope of the proximal map at zero (h',)
    one: Tensor
    floor: Tensor | None  # 1 − 1/(1 + 2β/√π) where an atom bends the map much (h',)
    ceiling: "_Ceiling | None"  # where an atom is steep

    @classmethod
    def of(cls, problem: Problem) -> "Splitting":
        """For this problem."""
        alpha, atoms, dtype = problem.steepness, problem.atoms, problem.parameters.dictionary.dtype
        gram = atoms.T @ atoms if atoms.shape[1] <= atoms.shape[0] else None
        weakest = 0.0 if gram is None else _weakest(gram)
        apart = weakest >= APART
        penalty = torch.ones_like(alpha) if apart else PENALTY * alpha * alpha.clamp(min=SHARE)
        relaxation = RELAXATION_APART if apart else RELAXATION
        # In float64: G may be singular, and ρ many orders smaller
        precision = (RIDGE_APART if apart else RIDGE) * alpha.square() / 2
        anchor = problem.view.T @ ridge(atoms, precision) / SQRT_2
        # Codes are as large as λ, which is 1/(√2 α) here
        wide = float((ROUNDING * torch.finfo(dtype).eps / alpha).square().sum()) > MOST_ROUNDING
        share, scale = alpha / (SQRT_2 * penalty), problem.best_scale(torch.zeros_like(alpha))
        slope, steep = SLOPE * share + scale, bool((alpha > STEEP).any())
        bend = alpha / math.sqrt(2 * math.pi)
        return cls(
            problem,
            penalty,
            relaxation,
            weakest,
            rounding=(ROUNDING_WIDE if wide else ROUNDING) * torch.finfo(dtype).eps,
            anchor=anchor if wide else anchor.to(dtype),
            gram=None if gram is None else gram.to(dtype),
            turn=turn(atoms, penalty, relaxation, dtype),
            precision=precision.to(dtype),
            relative=(precision / penalty).to(dtype),
            steepness=alpha.to(dtype),
            share=share.to(dtype),
            log_bend=bend.log2().to(dtype),
            rise=((slope - 1) / bend).to(dtype),
            sharp=(SLOPE * share / bend).to(dtype),
            steep=(SLOPE * share / scale).to(dtype),
            first=(1 - 1 / slope).to(dtype),
            one=torch.ones((), dtype=dtype, device=atoms.device),
            floor=(1 - 1 / (1 + SLOPE * share)).to(dtype) if steep or bool((slope > CURVED).any()) else None,
            ceiling=_Ceiling.of(problem, share, dtype) if steep else None,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the data."""
        return self.one.dtype

    @property
    def quick(self) -> bool:
        """Whether gaps can be certified without float64."""
        return self.weakest >= APART

    def iterations(self, most: int) -> int:
        """So many do as much as `most` do where codes are hard to tell apart."""
        return math.ceil(most * SOONER) if self.quick else most


def _weakest(gram: Tensor) -> float:
    """The smallest eigenvalue, or a lower bound of it: 1/max Σ|G⁻¹|; 0 where G cannot be inverted."""
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info) or not len(gram):
        return 0.0
    if len(gram) <= MOST_EIGENVALUES:
        return max(float(torch.linalg.eigvalsh(gram)[0]), 0.0)
    return 1 / float(torch.cholesky_inverse(factor).abs().sum(1).max())


@final
@dataclass(frozen=True)
class _Ceiling:
    """Upper bound of |z| at the root: beyond |z| = 1 both s and erf are at least what they are there."""

    slope: Tensor  # 1/s(1) (h',)
    offset: Tensor  # β erf(1)/s(1) (h',)

    @classmethod
    def of(cls, problem: Problem, share: Tensor, dtype: torch.dtype) -> "_Ceiling":
        slope = 1 / problem.best_scale(torch.ones_like(share))
        return cls(slope.to(dtype), (math.erf(1) * slope * share).to(dtype))


@final
@dataclass(frozen=True)
class State:
    """Arrays (n, h') in which a chunk of data points is worked on; `step` changes them in place."""

    splitting: Splitting
    anchor: Tensor  # a
    drift: Tensor  # r/2 a + r (κ/ρ a) ρ (G + ρ)⁻¹
    z: Tensor
    bend: Tensor  # K
    scale: Tensor  # s
    code: Tensor  # u = z s
    target: Tensor  # t
    work: Tensor
    slope: Tensor

    @classmethod
    def of(cls, splitting: Splitting, x: Tensor, start: tuple[Tensor, Tensor] | None) -> "State":
        """At u and z of a warm start, or at the codes of a Gaussian prior."""
        anchor = (x.to(splitting.anchor.dtype) @ splitting.anchor).to(splitting.dtype)
        # With y = κ/ρ a, of the size of its uncertainty, what becomes of y is still r/2 y short
        drift, small = torch.empty_like(anchor), anchor * splitting.relative
        torch.add(anchor, small, out=drift)
        splitting.turn.add_to(drift, small, beta=splitting.relaxation / 2)
        state = cls(splitting, anchor, drift, *(torch.empty_like(anchor) for _ in fields(cls)[3:]))
        if start is None:
            state._begin()
        else:
            state._resume(*start)
        return state

    def __getitem__(self, rows: Tensor) -> "State":
        """Only some data points."""
        return State(self.splitting, *(getattr(self, f.name)[rows] for f in fields(self)[1:]))

    def step(self, number: int) -> None:
        """An iteration; they are numbered from 1."""
        own = self.splitting
        plain = number <= PLAIN_STEPS and not own.quick
        if plain:
            self.slope.copy_(self.target)
        torch.lerp(self.target, self.code, 2.0, out=self.work).sub_(self.anchor)
        # t + r (v − u), with u = (2u − t)/2 + t/2
        own.turn.add_to(self.target, self.work, beta=1 - own.relaxation / 2)
        self.target.add_(self.drift)
        if plain:
            torch.lerp(self.slope, self.target, 1 / own.relaxation, out=self.target)
            self._prox()
        self._prox()

    def gradient(self) -> Tensor:
        """Half the slope of the cost, G (u − a) − κ a + α erf(z)/√2 (n, h')."""
        own = self.splitting
        assert own.gram is not None, "codes are told apart only where h' ≤ d"
        torch.erf(self.z, out=self.slope).mul_(own.steepness / SQRT_2).addcmul_(self.anchor, own.precision, value=-1)
        return self.slope.addmm_(torch.sub(self.code, self.anchor, out=self.work), own.gram)

    def certified(self, x: Tensor, tol: float) -> tuple[Tensor, float]:
        """Which gaps are at most `tol` times 1 + the cost, (n,), and the largest gradient of these in units of 1/λ."""
        own, gradient = self.splitting, self.gradient()
        gap = gradient.square().sum(1, dtype=torch.float64) / own.weakest
        if own.problem.silent is not None:
            gap += own.problem.silent.idle(own.problem.silent.codes(x, self.code))
        # Of codes as large as u not more is known, which costs its square
        rounding = own.rounding**2 * self.code.square().sum(1, dtype=torch.float64)
        # The cost of a code, A/λ + s²/2 − log s, is at least 1/2
        holds = gap <= tol * (1 + own.problem.parameters.h / 2) + rounding
        largest = gradient[holds].div_(own.steepness / SQRT_2).abs()
        return holds, float(largest.max()) if len(largest) else 0.0

    def posterior(self, x: Tensor, out: Diagonal | None = None) -> Diagonal:
        """The posteriors of all atoms, written into `out` where that is given."""
        return self.splitting.problem.posterior(x, self.code, self.scale, out)

    def place(self, z: Tensor) -> None:
        """Go on from z, with the t that belongs to it."""
        self.z.copy_(z)
        self._evaluate()
        torch.erf(z, out=self.target).mul_(self.splitting.share).add_(self.code)

    def _begin(self) -> None:
        """Where the codes of a Gaussian prior point to, or at these codes with the pull of the true prior."""
        own = self.splitting
        if own.quick:
            torch.addcmul(self.anchor, self.anchor, own.precision, out=self.target)
        else:
            # t = u + β erf(z), where erf(z) is at most 1, and at most its slope at zero times u
            torch.mul(self.anchor, own.steep, out=self.work)
            torch.add(self.anchor, torch.clamp(self.work, -own.share, own.share, out=self.work), out=self.target)
        # z from the slope at zero for a small t, from β beyond for a large one
        torch.clamp(self.target * own.first, -own.share, own.share, out=self.work)
        torch.sub(self.target, self.work, out=self.z)
        self._evaluate()

    def _resume(self, code: Tensor, z: Tensor) -> None:
        """The scales belonged to other parameters, the codes are kept."""
        torch.erf(z, out=self.target).mul_(self.splitting.share).add_(code)
        self.z.copy_(z)
        self._evaluate()
        self._prox()

    def _prox(self) -> None:
        """One Newton step in z towards β erf(z) + z s = t, and no further than the bounds of its root."""
        own = self.splitting
        torch.erf(self.z, out=self.work)
        torch.addcmul(self.code, self.work, own.share, out=self.work).sub_(self.target)
        if own.ceiling is None:
            torch.addcmul(own.one, self.bend, own.rise, out=self.slope)
        else:
            self._exact_slope()
        self.z.addcdiv_(self.work, self.slope, value=-1)
        if own.floor is not None:
            self._bound(own.floor, own.ceiling)
        self._evaluate()

    def _exact_slope(self) -> None:
        """(2β/√π) exp(−z²) + s + z ds/dz, with z ds/dz = 2 z² K s/(K + s)."""
        torch.add(self.bend, self.scale, out=self.slope)
        torch.div(self.bend, self.slope, out=self.slope).mul_(self.scale).mul_(self.z).mul_(self.z)
        torch.add(self.scale, self.slope, alpha=2, out=self.slope).addcmul_(self.bend, self.splitting.sharp)

    def _bound(self, floor: Tensor, ceiling: _Ceiling | None) -> None:
        """Z has the sign of t. It is at least |t| − β, and |t|/(1 + 2β/√π), since s is at most 1."""
        size, least = self.slope, self.work
        torch.abs(self.target, out=size)
        torch.mul(size, floor, out=least)
        torch.sub(size, torch.minimum(least, self.splitting.share, out=least), out=least)
        if ceiling is None:
            self.z.mul_(torch.sign(self.target, out=self.slope))
            torch.maximum(self.z, least, out=self.z)
        else:
            most = size.mul_(ceiling.slope).sub_(ceiling.offset).clamp_(min=1)
            torch.sign(self.target, out=self.bend)
            torch.clamp(self.z.mul_(self.bend), least, most, out=self.z)
        self.z.mul_(self.slope if ceiling is None else self.bend)

    def _evaluate(self) -> None:
        """K, s and u at z."""
        torch.addcmul(self.splitting.log_bend, self.z, self.z, value=-LOG2_E, out=self.bend).exp2_()
        torch.addcmul(self.splitting.one, self.bend, self.bend, out=self.scale).sqrt_().add_(self.bend).reciprocal_()
        torch.mul(self.z, self.scale, out=self.code)
