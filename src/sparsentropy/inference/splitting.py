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

The proximal map takes a Newton step from where it was (`proximal`). Everything else are passes over arrays of codes, as
costly as a product with two hundred atoms, so all of them write into arrays that are there already, a chunk at a time
that stays in the cache.

Where codes are told apart well ρ is 1, and t begins at (1 + κ) a, which would be the solution if G were the identity:
b − (G − 1) a, what the data ask of a code if the others are as in a. From there on the gap shrinks thirtyfold with each
iteration. Elsewhere the first codes are a, with the pull of the true prior, and the gap shrinks two- to fourfold.

Where no two codes can be traded against each other, μ being the smallest eigenvalue of G, the distance to the optimum
is at most |g|²/μ with g = G (u − a) − κ a + ψ'/2, which costs as much as another iteration and is good in float32.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import LOG2_E, SQRT_2
from sparsentropy.inference.problem import Problem
from sparsentropy.inference.proximal import Ceiling, Proximal
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
SMALLEST_RIDGE = 1e3 * torch.finfo(torch.float64).eps  # κ, times atoms: with less, G + κ may be singular to rounding
PLAIN_STEPS = 2
SOONER = 0.35  # part of the iterations that are enough where codes are told apart well
MOST_EIGENVALUES = 1024  # of a matrix of this size they are all computed; larger ones are bounded
# Units in the last place of a, by how it was computed, that may be wrong; and the cost of that, in nats per data point,
# from which on a is computed in float64
ROUNDING, ROUNDING_WIDE = 8.0, 1.0
MOST_ROUNDING = 1e-6


@final
@dataclass(frozen=True)
class Gains:
    """Factors on the constants of an iteration that an encoder has learned (`encoders`); all are 1 otherwise."""

    start: Tensor  # on the way from a to the first t (h,)
    threshold: Tensor  # on β (h,)
    steps: tuple[float, ...]  # on the change of t, iteration by iteration


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
    start: Tensor | None  # gain of the first t (h',)
    steps: tuple[float, ...]  # gains of the iterations
    relative: Tensor  # κ/ρ (h',)
    steepness: Tensor  # α (h',)
    proximal: Proximal

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
        precision = ((RIDGE_APART if apart else RIDGE) * alpha.square() / 2).clamp(min=SMALLEST_RIDGE * len(alpha))
        # Codes are as large as λ, which is 1/(√2 α) here
        wide = float((ROUNDING * torch.finfo(dtype).eps / alpha).square().sum()) > MOST_ROUNDING
        anchor = problem.from_data(ridge(atoms, precision, torch.float64 if wide else dtype)) / SQRT_2
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
            start=None,
            steps=(),
            relative=(precision / penalty).to(dtype),
            steepness=alpha.to(dtype),
            proximal=Proximal.of(problem, penalty),
        )

    def with_gains(self, gains: Gains) -> "Splitting":
        """With factors that were learned; its fixed point is no longer the optimum."""
        heard = self.problem.heard
        proximal = Proximal.of(self.problem, self.penalty, gains.threshold.to(self.penalty)[heard])
        problem = replace(self.problem, silent=self.problem.silent and self.problem.silent.at(self.anchor))
        start = gains.start.to(self.dtype)[heard]
        return replace(self, problem=problem, start=start, steps=gains.steps, proximal=proximal)

    @property
    def dtype(self) -> torch.dtype:
        """Of the data."""
        return self.precision.dtype

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
    def of(cls, splitting: Splitting, x: Tensor, start: tuple[Tensor, Tensor] | None, *, steps: bool = True) -> "State":
        """At u and z of a warm start, or at the codes of a Gaussian prior; without `steps` only to be looked at."""
        anchor = (x.to(splitting.anchor.dtype) @ splitting.anchor).to(splitting.dtype)
        drift = torch.empty_like(anchor)
        if steps:
            # With y = κ/ρ a, of the size of its uncertainty, what becomes of y is still r/2 y short
            small = anchor * splitting.relative
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
        gain = (own.steps[number - 1] if number <= len(own.steps) else 1.0) / (own.relaxation if plain else 1.0)
        if gain != 1.0:
            self.slope.copy_(self.target)
        torch.lerp(self.target, self.code, 2.0, out=self.work).sub_(self.anchor)
        # t + r (v − u), with u = (2u − t)/2 + t/2
        own.turn.add_to(self.target, self.work, beta=1 - own.relaxation / 2)
        self.target.add_(self.drift)
        if gain != 1.0:
            torch.lerp(self.slope, self.target, gain, out=self.target)
        if plain:
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
        torch.erf(z, out=self.target).mul_(self.splitting.proximal.share).add_(self.code)

    def _begin(self) -> None:
        """Where the codes of a Gaussian prior point to, or at these codes with the pull of the true prior."""
        own = self.splitting
        if own.quick:
            torch.mul(self.anchor, own.precision, out=self.work)
        else:
            torch.mul(self.anchor, own.proximal.steep, out=self.work)
            torch.clamp(self.work, -own.proximal.share, own.proximal.share, out=self.work)
        if own.start is not None:
            self.work.mul_(own.start)
        torch.add(self.anchor, self.work, out=self.target)
        torch.mul(self.target, own.proximal.first, out=self.work)
        torch.clamp(self.work, -own.proximal.share, own.proximal.share, out=self.work)
        torch.sub(self.target, self.work, out=self.z)
        self._evaluate()

    def _resume(self, code: Tensor, z: Tensor) -> None:
        """The scales belonged to other parameters, the codes are kept."""
        torch.erf(z, out=self.target).mul_(self.splitting.proximal.share).add_(code)
        self.z.copy_(z)
        self._evaluate()
        self._prox()

    def _prox(self) -> None:
        """`Proximal.newton`, in place."""
        own = self.splitting.proximal
        torch.erf(self.z, out=self.work)
        torch.addcmul(self.code, self.work, own.share, out=self.work).sub_(self.target)
        if own.ceiling is None:
            torch.addcmul(own.one, self.bend, own.rise, out=self.slope)
        else:
            # (2β/√π) exp(−z²) + s + z ds/dz, with z ds/dz = 2 z² K s/(K + s)
            torch.add(self.bend, self.scale, out=self.slope)
            torch.div(self.bend, self.slope, out=self.slope).mul_(self.scale).mul_(self.z).mul_(self.z)
            torch.add(self.scale, self.slope, alpha=2, out=self.slope).addcmul_(self.bend, own.sharp)
        self.z.addcdiv_(self.work, self.slope, value=-1)
        if own.floor is not None:
            self._bound(own.floor, own.share, own.ceiling)
        self._evaluate()

    def _bound(self, floor: Tensor, share: Tensor, ceiling: Ceiling | None) -> None:
        """Z has the sign of t. It is at least |t| − β, and |t|/(1 + 2β/√π), since s is at most 1."""
        size, least = self.slope, self.work
        torch.abs(self.target, out=size)
        torch.mul(size, floor, out=least)
        torch.sub(size, torch.minimum(least, share, out=least), out=least)
        torch.sign(self.target, out=self.bend)
        torch.maximum(self.z.mul_(self.bend), least, out=self.z)
        if ceiling is not None:
            torch.minimum(self.z, size.mul_(ceiling.slope).sub_(ceiling.offset).clamp_(min=1), out=self.z)
        self.z.mul_(self.bend)

    def _evaluate(self) -> None:
        """K, s and u at z."""
        own = self.splitting.proximal
        torch.addcmul(own.log_bend, self.z, self.z, value=-LOG2_E, out=self.bend).exp2_()
        torch.addcmul(own.one, self.bend, self.bend, out=self.scale).sqrt_().add_(self.bend).reciprocal_()
        torch.mul(self.z, self.scale, out=self.code)
