"""The E-step for a diagonal posterior: one convex problem per data point, solved by splitting.

For fixed parameters the bound of a data point is a quadratic in the mean ν plus one smooth convex function per code,

    f(ν) = |x − Wν|²/2σ² + Σ_h ψ_h(ν_h),    ψ_h(ν) = min_s A(ν, s)/λ_h + s² |w_h|²/2σ² − log s.

Everything about ψ is explicit in the one number z = ν/(s√2). Codes are measured here in units of √2 σ/|w|, scales in
units of σ/|w|, so that one number α = σ/(λ|w|) is left of each atom: with K = α exp(−z²)/√(2π) the best scale is s =
1/(K + √(K² + 1)), then the code is u = z s, and the slope is ψ'(u) = √2 α erf(z). So a proximal step of ψ is a scalar
Newton step in z, the inverse of ψ' is erf⁻¹, and the conjugate ψ* — hence a duality gap that certifies each data point
— costs nothing more (`certificate`). The two parts are joined by the alternating direction method of multipliers with
one inverse that all data points share (Boyd et al., "Distributed optimization … via ADMM", 2011). The penalty of an
atom lies between the curvature of its prior as a whole, α² in these units, and that at zero, about α.

An iteration is one product with an (h, h) matrix and some thirty passes over an array of codes. The passes are what
costs time unless h is large, so all of them write into arrays that are there already, a chunk at a time that stays in
the cache.
"""

import math
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import LOWEST, SQRT_2, bell
from sparsentropy.inference.certificate import Certificate
from sparsentropy.inference.polish import SLOPE, polished
from sparsentropy.inference.solution import (
    AbstractSolver,
    Cost,
    Solution,
    largest_gradient,
)
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal

RELAXATION = 1.6  # over-relaxation of the splitting; 1.5 to 1.8 is the usual range (Boyd et al. 2011, section 3.4.3)
# Where the noise is small, the first iteration takes the codes to where the data want them: it must not overshoot
PLAIN_STEPS = 2
PENALTY = 0.4  # in units of α²; 0.1 to 0.8 were within a factor of three of the best where λ ≤ σ
SHARE = 0.5  # of α where that is more than α²; 0.3 to 1 were best on patches, bars and for h = 2d
FIRST_POLISH = 30  # data points that are open by then get Newton steps (`polish`) before every further look
SCALE_STEPS = 3  # of the fixed point for s at given means
LOOK_EVERY = 10  # iterations between two looks at the duality gap
CHUNK = {"cpu": 2**17, "cuda": 2**24}  # codes at once
SHORTEST = 1e-6  # atoms count as so long at least, in units of σ/λ, to have a unit at all
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the gap, relative to 1 + the cost of the data point
FLOAT32_ITERATIONS = 60  # data points that float32 has not certified by then go on in float64


@final
@dataclass(frozen=True)
class DiagonalSolver(AbstractSolver):
    """Infers `posteriors.Diagonal`.

    Examples
    --------
    >>> import torch
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> solution = DiagonalSolver()(torch.tensor([[3.0, 0.0]]), parameters)
    >>> solution.posterior.mean.round(decimals=2)  # the data, shrunk by σ²/λ
    tensor([[2.9900, 0.0000]])
    >>> solution.cost.converged
    1
    """

    def __call__(
        self,
        x: Tensor,
        parameters: Parameters,
        start: AbstractPosterior | None = None,
        *,
        max_iter: int = 1000,
        tol: float | None = None,
    ) -> Solution:
        """See `AbstractSolver`."""
        tol = TOLERANCE[x.dtype] if tol is None else tol
        problem = _Problem.of(parameters)
        splitting = _Splitting.of(problem)
        size = max(1, CHUNK[x.device.type] // parameters.h)
        mean = torch.empty(x.shape[0], parameters.h, dtype=x.dtype, device=x.device)
        variance = torch.empty_like(mean)
        cost = Cost(0, 0.0, 0, 0)
        for begin in range(0, x.shape[0], size):
            rows = slice(begin, begin + size)
            z = torch.zeros_like(mean[rows]) if start is None else problem.standardised(start[rows])
            z, chunk_cost = _solve(x[rows], splitting, z, max_iter, tol)
            q = problem.posterior(z)
            mean[rows], variance[rows] = q.mean, q.variance
            cost += chunk_cost
        return Solution(Diagonal(mean, variance), cost)


@final
@dataclass(frozen=True)
class _Problem:
    """What all data points share."""

    parameters: Parameters
    unit: Tensor  # σ/|w| (h,), float64
    steepness: Tensor  # α = σ/(λ|w|) (h,), float64

    @classmethod
    def of(cls, parameters: Parameters) -> "_Problem":
        p = parameters.to(torch.float64)
        noise = p.noise_variance.sqrt()
        length = torch.maximum(p.dictionary.norm(dim=0), SHORTEST * noise / p.prior_scale)
        unit = noise / length
        return cls(parameters, unit, unit / p.prior_scale)

    @property
    def atoms(self) -> Tensor:
        """Atoms of unit length (d, h), float64."""
        p = self.parameters
        return p.dictionary.double() * (self.unit / p.noise_variance.double().sqrt())

    def best_scale(self, z: Tensor) -> Tensor:
        """Best s = 1/(K + √(K² + 1)) with K = α exp(−z²)/√(2π)."""
        bend = bell(z) * (self.steepness / math.sqrt(2 * math.pi)).to(z.dtype)
        return 1 / (bend + torch.sqrt(bend * bend + 1))

    def standardised(self, start: AbstractPosterior) -> Tensor:
        """Z that stands for the means of `start`.

        Its scales belong to other parameters: if they were kept, all means would move with σ, by many σ where λ ≫ σ.
        """
        code = start.mean / (SQRT_2 * self.unit).to(start.mean.dtype)
        z = code / (start.std / self.unit.to(start.mean.dtype))
        for _ in range(SCALE_STEPS):
            z = code / self.best_scale(z)
        return z

    def posterior(self, z: Tensor) -> Diagonal:
        """The posterior that z stands for."""
        scale = self.best_scale(z) * self.unit.to(z.dtype)
        return Diagonal(SQRT_2 * z * scale, scale.square())


@final
@dataclass(frozen=True)
class _Splitting:
    """The constants of an iteration."""

    problem: _Problem
    penalty: Tensor  # ρ (h,), float64
    gain: Tensor  # Wᵀ/(√2 σ) of unit-length atoms times the inverse (d, h)
    pull: Tensor  # diag ρ (WᵀW + diag ρ)⁻¹ (h, h)
    share: Tensor  # b = √2 α/(2ρ) (h,): the prox solves b erf(z) + z s = target
    bend: Tensor  # α/√(2π) (h,): K at z = 0
    near: Tensor  # 1/(1 + 2b/√π) (h,)
    far: Tensor  # 1/s(1) (h,)
    far_offset: Tensor  # b erf(1)/s(1) (h,)

    @classmethod
    def of(cls, problem: _Problem) -> "_Splitting":
        p, dtype, atoms = problem.parameters, problem.parameters.dictionary.dtype, problem.atoms
        noise = p.noise_variance.double().sqrt()
        penalty = PENALTY * problem.steepness * problem.steepness.clamp(min=SHARE)
        # In float64: WᵀW may be singular, and ρ many orders smaller
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(atoms.T @ atoms + torch.diag(penalty)))
        share = problem.steepness / (SQRT_2 * penalty)
        far = 1 / problem.best_scale(torch.ones_like(share))
        return cls(
            problem,
            penalty,
            gain=(atoms @ inverse / (SQRT_2 * noise)).to(dtype),
            pull=(penalty[:, None] * inverse).to(dtype),
            share=share.to(dtype),
            bend=(problem.steepness / math.sqrt(2 * math.pi)).to(dtype),
            near=(1 / (1 + SLOPE * share)).to(dtype),
            far=far.to(dtype),
            far_offset=(math.erf(1) * far * share).to(dtype),
        )


@final
@dataclass(frozen=True)
class _State:
    """Arrays (n, h) in which a chunk of data points is worked on; `step` changes them in place."""

    z: Tensor
    square: Tensor  # z²
    bend: Tensor  # K
    root: Tensor  # √(K² + 1)
    scale: Tensor  # s
    code: Tensor  # u = z s
    multiplier: Tensor  # in units of the penalty
    free: Tensor  # the code that the quadratic part prefers
    target: Tensor  # of the proximal step
    value: Tensor
    slope: Tensor

    @classmethod
    def of(cls, z: Tensor, splitting: _Splitting) -> "_State":
        """At z, with the multiplier that belongs to it."""
        state = cls(z.clone(), *(torch.empty_like(z) for _ in fields(cls)[1:]))
        state._evaluate(splitting)
        torch.erf(z, out=state.multiplier).mul_(splitting.share)
        return state

    def at(self, rows: Tensor, splitting: _Splitting) -> "_State":
        """Only some data points."""
        state = _State.of(self.z[rows], splitting)
        state.multiplier.copy_(self.multiplier[rows])
        return state

    def _evaluate(self, splitting: _Splitting) -> None:
        """K, √(K² + 1), s and u at z."""
        torch.mul(self.z, self.z, out=self.square)
        torch.neg(self.square, out=self.bend).clamp_(min=LOWEST[self.z.dtype]).exp_().mul_(splitting.bend)
        torch.mul(self.bend, self.bend, out=self.root).add_(1).sqrt_()
        torch.add(self.bend, self.root, out=self.scale).reciprocal_()
        torch.mul(self.z, self.scale, out=self.code)

    def step(self, splitting: _Splitting, pulled: Tensor, relaxation: float) -> None:
        """One iteration; afterwards the distance of `free` to `code` is the primal residual."""
        torch.sub(self.code, self.multiplier, out=self.target)
        torch.addmm(pulled, self.target, splitting.pull, out=self.free)
        torch.lerp(self.code, self.free, relaxation, out=self.target).add_(self.multiplier)
        self._prox(splitting)
        if relaxation == 1.0:
            self._prox(splitting)
        torch.sub(self.target, self.code, out=self.multiplier)

    def _prox(self, splitting: _Splitting) -> None:
        """One safeguarded Newton step in z towards b erf(z) + z s = target.

        Where the error function is flat Newton may overshoot, in turns to either side when the sign of the target
        changes. Bounds of |z| hold it: from below since s is at most 1, and erf at most its slope at 0 times z, and at
        most 1; from above since beyond |z| = 1 both s and erf are at least what they are there.
        """
        # value = b erf(z) + u − target
        torch.erf(self.z, out=self.value).mul_(splitting.share).add_(self.code).sub_(self.target)
        # slope = (2b/√π) exp(−z²) + s + z ds/dz, where ds/dz = 2 z K s/√(K² + 1)
        torch.mul(self.square, self.bend, out=self.slope).mul_(self.scale).div_(self.root).mul_(2).add_(self.scale)
        self.slope.addcmul_(self.bend, SLOPE * splitting.share / splitting.bend)
        torch.addcdiv(self.z, self.value, self.slope, value=-1, out=self.z)
        sign, size, floor, ceiling = self.value, self.root, self.slope, self.bend
        torch.sign(self.target, out=sign)
        torch.mul(self.target, sign, out=size)
        torch.mul(size, splitting.far, out=ceiling).sub_(splitting.far_offset).clamp_(min=1)
        torch.mul(size, splitting.near, out=floor)
        torch.maximum(floor, size.sub_(splitting.share), out=floor)
        torch.clamp(self.z.mul_(sign), floor, ceiling, out=self.z).mul_(sign)
        self._evaluate(splitting)


def _solve(x: Tensor, splitting: _Splitting, z: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Cost]:
    """Solve a chunk; what float32 cannot certify is finished in float64."""
    problem = splitting.problem
    if tol <= 0:
        state, pulled = _State.of(z, splitting), x @ splitting.gain
        for iteration in range(max_iter):
            state.step(splitting, pulled, _relaxation(iteration))
        return state.z, Cost(max_iter, float("nan"), 0, x.shape[0])
    switch = FLOAT32_ITERATIONS if x.dtype == torch.float32 else max_iter
    z, active, iterations = _certified(x, splitting, z, min(max_iter, switch), tol)
    if len(active) and iterations < max_iter:
        exact = _Splitting.of(_Problem.of(problem.parameters.to(torch.float64)))
        rest = _certified(x[active].double(), exact, z[active].double(), max_iter - iterations, tol)
        z[active] = rest[0].to(z.dtype)
        active, iterations = active[rest[1]], iterations + rest[2]
    gradient = largest_gradient(x, problem.posterior(z), problem.parameters)
    return z, Cost(iterations, gradient, x.shape[0] - len(active), x.shape[0])


def _relaxation(iteration: int) -> float:
    return 1.0 if iteration < PLAIN_STEPS else RELAXATION


def _certified(x: Tensor, splitting: _Splitting, z: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, int]:
    """Iterate, leaving out what is certified; returns z, the data points left open and the iterations."""
    certificate = Certificate.of(splitting.problem.parameters)
    result, active = z.clone(), torch.arange(x.shape[0], device=x.device)
    state, pulled = _State.of(z, splitting), x @ splitting.gain
    iteration = 0
    while iteration < max_iter and len(active):
        state.step(splitting, pulled, _relaxation(iteration))
        iteration += 1
        if iteration % LOOK_EVERY and iteration < max_iter:
            continue
        if iteration >= FIRST_POLISH:
            state = _State.of(_polished(x[active], splitting, state.z), splitting)
        result[active] = state.z
        holds = certificate.holds(x[active], splitting.problem.posterior(state.z), tol)
        if holds.any():
            left = (~holds).nonzero().ravel()
            active, state, pulled = active[left], state.at(left, splitting), pulled[left]
    return result, active, iteration


def _polished(x: Tensor, splitting: _Splitting, z: Tensor) -> Tensor:
    problem = splitting.problem
    data = x.double() / problem.parameters.noise_variance.double().sqrt()
    return polished(data, problem.atoms, problem.steepness, splitting.penalty, z.double()).to(z.dtype)
