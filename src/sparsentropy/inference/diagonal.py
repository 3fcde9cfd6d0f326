"""The E-step for a diagonal posterior: one convex problem per data point, solved by splitting.

For fixed parameters the bound of a data point is a quadratic in the mean ν plus one smooth convex function per code,

    f(ν) = |x − Wν|²/2σ² + Σ_h ψ_h(ν_h),    ψ_h(ν) = min_s A(ν, s)/λ_h + s² |w_h|²/2σ² − log s.

Everything about ψ is explicit in the one number z = ν/(s√2): with k = √(2/π) exp(−z²)/λ the best scale is s = 2/(k +
√(k² + 4|w|²/σ²)), then ν = √2 z s, and the slope is ψ'(ν) = erf(z)/λ. So a proximal step of ψ is a scalar Newton step
in z, the inverse of ψ' is erf⁻¹, and the conjugate ψ* — hence a duality gap that certifies each data point — costs
nothing more (`certificate`). The two parts are joined by the alternating direction method of multipliers with one
inverse that all data points share (Boyd et al., "Distributed optimization … via ADMM", 2011). The penalty of an atom
lies between the curvature of its prior as a whole, 1/λ², and that at zero, about |w|/(λσ).
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import SQRT_2, SQRT_2_OVER_PI, standardised
from sparsentropy.inference.certificate import Certificate
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
PENALTY = 0.4  # in units of 1/λ²; 0.1 to 0.8 were within a factor of three of the best where λ ≤ σ
SHARE = 0.5  # of |w|/(λσ) where that is more than 1/λ²; 0.3 to 1 were best on patches, bars and for h = 2d
# What suits most data points may not suit the few that are left: those get penalties balanced between the primal and
# the dual residual (Boyd et al. 2011, section 3.4.1), less and less often: the splitting converges only if they settle
FIRST_RESCUE = 30
RESCUE_GROWTH = 1.2
ROUNDING = 10.0  # residuals below this many rounding errors of a code as large as λ do not count
SCALE_STEPS = 3  # of the fixed point for s at given means
LOOK_EVERY = 10  # iterations between two looks at the duality gap
CHUNK_ROWS = 1024
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
        problem = _Problem.of(parameters, certify=tol > 0)
        splitting = _Splitting.of(problem, problem.penalty())
        mean = torch.empty(x.shape[0], parameters.h, dtype=x.dtype, device=x.device)
        variance = torch.empty_like(mean)
        cost = Cost(0, 0.0, 0, 0)
        for begin in range(0, x.shape[0], CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
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
    precision: Tensor  # WᵀW/σ² (h, h), in float64: it may be singular, and ρ many orders smaller
    own_precision: Tensor  # its diagonal g/σ² (h,)
    certificate: Certificate | None

    @classmethod
    def of(cls, parameters: Parameters, *, certify: bool) -> "_Problem":
        wide = parameters.dictionary.double()
        precision = wide.T @ wide / parameters.noise_variance.double()
        own = precision.diagonal().to(parameters.dictionary.dtype)
        return cls(parameters, precision, own, Certificate.of(parameters) if certify else None)

    def penalty(self) -> Tensor:
        """ρ (h,)."""
        scale = self.parameters.prior_scale
        return PENALTY / scale * torch.maximum(1 / scale, SHARE * self.own_precision.sqrt())

    def best_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(s, k): the root of s² g/σ² + s k = 1 with k = √(2/π) exp(−z²)/λ."""
        k = torch.exp(-z * z) * (SQRT_2_OVER_PI / self.parameters.prior_scale)
        return 2 / (k + torch.sqrt(k * k + 4 * self.own_precision)), k

    def standardised(self, start: AbstractPosterior) -> Tensor:
        """Z that stands for the means of `start`.

        Its scales belong to other parameters: if they were kept, all means would move with σ, by many σ where λ ≫ σ.
        """
        z = standardised(start.mean, start.std)
        for _ in range(SCALE_STEPS):
            z = standardised(start.mean, self.best_scale(z)[0])
        return z

    def posterior(self, z: Tensor) -> Diagonal:
        scale = self.best_scale(z)[0]
        return Diagonal(SQRT_2 * z * scale, scale.square())


@final
@dataclass(frozen=True)
class _Splitting:
    """The constants of an iteration for one choice of penalties ρ (h,)."""

    problem: _Problem
    penalty: Tensor
    inverse: Tensor  # (WᵀW/σ² + diag ρ)⁻¹ (h, h)
    gain: Tensor  # its product with Wᵀ/σ² (h, d)
    near: Tensor  # lower bounds on the root of the proximal step, see `prox`
    far_slope: Tensor
    far_offset: Tensor

    @classmethod
    def of(cls, problem: _Problem, penalty: Tensor) -> "_Splitting":
        shifted = problem.precision + torch.diag(penalty.double())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
        gain = inverse @ problem.parameters.dictionary.T.double() / problem.parameters.noise_variance.double()
        largest = problem.own_precision.rsqrt()  # s ≤ σ/|w|
        steepest = SQRT_2_OVER_PI / problem.parameters.prior_scale
        return cls(
            problem,
            penalty,
            inverse.to(penalty.dtype),
            gain.to(penalty.dtype),
            near=penalty / (SQRT_2 * (steepest + penalty * largest)),
            far_slope=1 / (SQRT_2 * largest),
            far_offset=1 / (SQRT_2 * largest * problem.parameters.prior_scale * penalty),
        )

    def prox(self, target: Tensor, z: Tensor) -> Tensor:
        """One safeguarded Newton step towards ψ'(ν) + ρ(ν − target) = 0, in z = ν/(s√2).

        From the right Newton may overshoot to the left of the root, where the error function is flat. Two lower
        bounds hold it: ψ' is at most its slope at 0 times ν, and at most 1/λ.
        """
        sign, size = target.sign(), target.abs()
        floor = torch.maximum(size * self.near, size * self.far_slope - self.far_offset)
        z = torch.maximum(z * sign, floor)
        s, k = self.problem.best_scale(z)
        # ds/dz = 2 z k s / (2 s g/σ² + k), from the equation of s
        ds = 2 * z * k * s / (2 * s * self.problem.own_precision + k)
        value = torch.erf(z) / self.problem.parameters.prior_scale + self.penalty * (SQRT_2 * z * s - size)
        slope = SQRT_2 * (k + self.penalty * (s + z * ds))
        return torch.maximum(z - value / slope, floor) * sign


@final
@dataclass(frozen=True)
class _State:
    """z, the code v it stands for, and the multiplier y = ψ'(v) of a chunk of data points."""

    z: Tensor
    code: Tensor
    multiplier: Tensor

    @classmethod
    def of(cls, z: Tensor, problem: _Problem) -> "_State":
        code = SQRT_2 * z * problem.best_scale(z)[0]
        return cls(z, code, torch.erf(z) / problem.parameters.prior_scale)

    def __getitem__(self, rows: Tensor) -> "_State":
        return _State(self.z[rows], self.code[rows], self.multiplier[rows])


def _step(splitting: _Splitting, pulled: Tensor, state: _State, relaxation: float) -> tuple[_State, Tensor]:
    """One iteration; also returns the quadratic part's own code, whose distance to `code` is the primal residual."""
    rho = splitting.penalty
    free = pulled + (rho * state.code - state.multiplier) @ splitting.inverse
    target = relaxation * free + (1 - relaxation) * state.code + state.multiplier / rho
    z = splitting.prox(target, state.z)
    code = SQRT_2 * z * splitting.problem.best_scale(z)[0]
    return _State(z, code, rho * (target - code)), free


def _balanced(splitting: _Splitting, free: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Raise the penalty of an atom whose two codes disagree more than they move, lower it in the opposite case.

    What is below the rounding of a code of the prior's size says nothing.
    """
    scale = splitting.problem.parameters.prior_scale
    noise = new.shape[0] * (ROUNDING * torch.finfo(new.dtype).eps * scale).square()
    disagreement = (free - new).square().sum(0)
    movement = (new - old).square().sum(0)
    ratio = ((disagreement + noise) / (movement + noise)).sqrt()
    return splitting.penalty * ratio.clamp(0.1, 10.0)


def _solve(x: Tensor, splitting: _Splitting, z: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Cost]:
    """Solve a chunk; what float32 cannot certify is finished in float64."""
    problem = splitting.problem
    switch = FLOAT32_ITERATIONS if x.dtype == torch.float32 and tol > 0 else max_iter
    z, penalty, active, iterations = _iterate(x, splitting, z, min(max_iter, switch), tol)
    if len(active) and iterations < max_iter:
        exact = _Splitting.of(_Problem.of(problem.parameters.to(torch.float64), certify=True), penalty.double())
        rest = _iterate(x[active].double(), exact, z[active].double(), max_iter - iterations, tol)
        z[active] = rest[0].to(z.dtype)
        active, iterations = active[rest[2]], iterations + rest[3]
    if tol <= 0:
        return z, Cost(iterations, float("nan"), 0, x.shape[0])
    gradient = largest_gradient(x, problem.posterior(z), problem.parameters)
    return z, Cost(iterations, gradient, x.shape[0] - len(active), x.shape[0])


def _iterate(
    x: Tensor, splitting: _Splitting, z: Tensor, max_iter: int, tol: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Iterate, leaving out what is certified; returns z, ρ, the data points left open and the iterations."""
    problem, certificate = splitting.problem, splitting.problem.certificate
    result, active = z.clone(), torch.arange(x.shape[0], device=x.device)
    state, pulled = _State.of(z, problem), x @ splitting.gain.T
    iteration, rescue = 0, FIRST_RESCUE
    while iteration < max_iter and len(active):
        old = state
        state, free = _step(splitting, pulled, old, 1.0 if iteration < PLAIN_STEPS else RELAXATION)
        iteration += 1
        if iteration == rescue:
            rescue = int(RESCUE_GROWTH * rescue)
            splitting = _Splitting.of(problem, _balanced(splitting, free, state.code, old.code))
            pulled = x[active] @ splitting.gain.T
        if certificate is not None and (iteration % LOOK_EVERY == 0 or iteration == max_iter):
            gap, size = certificate.gap_and_cost(x[active], problem.posterior(state.z))
            open_rows = gap > tol * (1 + size.abs())
            result[active] = state.z
            active, state, pulled = active[open_rows], state[open_rows], pulled[open_rows]
    result[active] = state.z
    return result, splitting.penalty, active, iteration
