"""The E-step for a full covariance: Newton's method, in which the covariance is the inverse Hessian.

At the optimum the precision of a data point is known up to one number per code,

    T⁻¹ = WᵀW/σ² + diag(κ),    κ_h = k_h/s_h,    k_h = √(2/π) exp(−ν_h²/2s_h²)/λ_h,    s_h = √T_hh.

So the state is (ν, κ), and one factorisation per iteration gives everything: the marginal variances, log det T, and
the Newton direction −T·gradient in ν, since T⁻¹ is the Hessian in ν. An iteration searches along that direction with
T held fixed, which needs no factorisation, and then moves κ towards k/s, which is a natural-gradient step. Its length
is Barzilai and Borwein's ("Two-point step size gradient methods", 1988), the one that the last change of the gradient
asks for. The move is taken only if the bound rises and is shortened otherwise, so the bound of every data point rises
with every iteration.

The bound is concave in ν and a triangular root of T, so there is one optimum, and Fenchel duality tells how far it is.
A(ν, s) is homogeneous, hence A(ν, s)/λ ≥ y ν + k s for every slope |y| ≤ 1/λ with k = √(2/π) exp(−z²)/λ, z =
erf⁻¹(λ y); and k s ≤ (κ s² + k²/κ)/2 turns the rest into log det(WᵀW/σ² + diag κ), which is convex in log κ and lies
above its tangent. With y = Wᵀu, m_h = κ_h T_hh and ρ = k s/m, the distance to the optimum is at most

    |x − Wν − σ²u|²/2σ² + Σ_h [A(ν_h, s_h)/λ_h − y_h ν_h − k_h s_h] + Σ_h m_h (ρ_h − 1 − log ρ_h),

three terms that are never negative and all vanish at the optimum. For a code far from zero both κ and k are zero up to
rounding and their ratio means nothing; `_mismatch` treats these apart.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.folded_normal import SQRT_2_OVER_PI
from sparsentropy.inference.diagonal import DiagonalSolver
from sparsentropy.inference.newton import Problem, Shared, State, first, step
from sparsentropy.inference.solution import (
    AbstractSolver,
    Cost,
    Inference,
    Solution,
    default_tolerance,
    largest_gradient,
)
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Full
from sparsentropy.precision import rows_at_once

MANY = 32  # atoms from which on independent posteriors run ahead in learning: with fewer they would save a second
DIAGONAL_ITERATIONS = 20  # of the cold start; each costs one product with an (h, h) matrix, no factorisation
SOONER = 0.25  # part of the iterations that do as much as those of other solvers, each being one of Newton's
LOOK_BACK = 16  # iterations in which a data point has to make progress, or it is given up as it is


@final
@dataclass(frozen=True)
class FullSolver(AbstractSolver):
    """Infers `posteriors.Full`; in float64 whatever the dtype of the data, but for factors that do not need it.

    Examples
    --------
    >>> import torch
    >>> dictionary = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    >>> parameters = Parameters(dictionary, torch.ones(2), torch.tensor(0.01))
    >>> solution = FullSolver()(torch.tensor([[3.0, 1.0]]), parameters)
    >>> solution.posterior.covariance()  # atoms that look alike leave their codes anticorrelated
    tensor([[[ 0.0156, -0.0094],
             [-0.0094,  0.0156]]])
    >>> solution.cost.converged
    1
    """

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(parameters, Shared.of(parameters))

    def with_gaps(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(parameters, Shared.of(parameters), missing=True)

    def forerunner(self, h: int) -> AbstractSolver | None:
        """Independent posteriors, where a factorisation for every data point takes much longer."""
        return DiagonalSolver() if h >= MANY else None


@final
@dataclass(frozen=True)
class _Prepared:
    """The solver at given parameters."""

    parameters: Parameters
    shared: Shared
    missing: bool = False  # whether data have missing entries

    @cached_property
    def diagonal(self) -> Inference:
        """For a cold start."""
        solver = DiagonalSolver()
        return solver.with_gaps(self.parameters) if self.missing else solver.at(self.parameters)

    def __call__(
        self, x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
    ) -> Solution:
        tol = default_tolerance(x.dtype) if tol is None else tol
        max_iter = max_iter if tol > 0 else math.ceil(SOONER * max_iter)
        shared = self.shared.exact() if self.missing or 0 < tol < default_tolerance(torch.float32) else self.shared
        problem = Problem.of(x, shared, missing=self.missing)
        if start is None:
            mean, precision = first(problem, self.diagonal(x, max_iter=DIAGONAL_ITERATIONS, tol=0.0).posterior)
        else:
            mean, variance = start.mean.double(), start.variance.double()
            precision = problem.stationary(mean, variance)
        result, cost = problem.blank(), Cost(0, 0.0, 0, 0)
        size = rows_at_once(shared.parameters.h, shared.parameters.d, x.device)
        for begin in range(0, x.shape[0], size):
            rows = slice(begin, begin + size)
            chunk = problem[rows]
            state, chunk_cost = _solve(chunk, chunk.evaluate(mean[rows], precision[rows]), max_iter, tol)
            result.write(rows, state)
            cost += chunk_cost
        posterior = result.posterior(problem, x.dtype)
        gradient = largest_gradient(x, posterior, self.parameters) if tol > 0 else float("nan")
        return Solution(posterior, replace(cost, largest_gradient=gradient))


def full_duality_gap(x: Tensor, q: Full, parameters: Parameters) -> Tensor:
    """Upper bound on (best Gaussian bound − bound of q) for each data point.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        NaN is what is missing.
    q : Full
        Its mean and κ are used; T is taken at the dictionary and noise of `parameters`.
    parameters : Parameters

    Returns
    -------
    Tensor, shape (n,), float64
        Gap in nats; zero up to rounding at the optimum.

    Examples
    --------
    >>> import torch
    >>> parameters = Parameters(torch.eye(1), torch.ones(1), torch.tensor(0.01))
    >>> poor = Full.from_precision(torch.tensor([[1.0]]), torch.ones(1, 1), 10 * torch.eye(1))
    >>> bool(full_duality_gap(torch.tensor([[3.0]]), poor, parameters) > 10)
    True
    """
    shared, missing = Shared.of(parameters).exact(), bool(x.isnan().any())
    problem, gaps = Problem.of(x, shared, missing=missing), []
    size = rows_at_once(parameters.h, parameters.d, x.device)
    for begin in range(0, x.shape[0], size):
        rows = slice(begin, begin + size)
        state = problem[rows].evaluate(q.mean[rows].double(), q.prior_precision[rows].double())
        gaps.append(_gap(problem[rows], state))
    return torch.cat(gaps) if gaps else x.new_zeros(0, dtype=torch.float64)


def _gap(problem: Problem, state: State) -> Tensor:
    """The certificate of the module's docstring, at u = the residual after the Newton step."""
    scale, std = problem.parameters.prior_scale, state.variance.sqrt()
    residual = problem.residual(state.mean)
    dual = problem.residual(state.mean + state.direction)  # σ u
    slope = dual @ problem.scaled_dictionary * scale  # λ y, must lie in [−1, 1]
    shrink = (1 / slope.abs().amax(1, keepdim=True)).clamp(max=1.0)
    dual, slope = dual * shrink, slope * shrink
    # At ±1 z is infinite: stop at the last number below 1
    z = torch.erfinv(slope.clamp(-1 + 1e-15, 1 - 1e-15))
    k = SQRT_2_OVER_PI * folded_normal.bell(z) / scale
    fenchel = (folded_normal.mean(state.mean, std) - slope * state.mean) / scale - k * std
    return (residual - dual).square().sum(1) / 2 + fenchel.sum(1) + _mismatch(state.precision * state.variance, k * std)


def _mismatch(m: Tensor, wanted: Tensor) -> Tensor:
    """Bound on what κ ≠ k/s costs, (n,), from m = κ T_hh and k s.

    Σ m (ρ − 1 − log ρ) with ρ = k s/m by the tangent of log det in log κ. For codes whose m is tiny the tangent is
    taken at k/s instead of κ if that is smaller. With e = Σ m − k s over these idle codes log det then falls by at most
    −log(1 − e), since Π (1 − e_i) ≥ 1 − Σ e_i for the eigenvalues e_i of √δ T √δ, where δ is what κ was lowered by, and
    no T_hh grows by more than the factor 1/(1 − e).
    """
    log_ratio = (wanted / m).log()
    idle = (log_ratio < 0) & (m < 0.1 / m.shape[1])
    lowered = torch.where(idle, m - wanted, 0.0).sum(1, keepdim=True)
    growth = lowered / (1 - lowered)
    own_tangent = wanted - m - m * log_ratio + growth * m * (log_ratio.abs() + growth)
    idle_tangent = (wanted - m + wanted * growth.square()) / 2
    return torch.where(idle, idle_tangent, own_tangent).sum(1) - torch.log1p(-lowered).squeeze(1) / 2


def _solve(problem: Problem, state: State, max_iter: int, tol: float) -> tuple[State, Cost]:
    """Iterate on a chunk, leaving out every data point as soon as it is certified."""
    n = problem.x.shape[0]
    if tol <= 0:
        for _ in range(max_iter):
            state = step(problem, state)
        return state, Cost(max_iter, 0.0, 0, n)
    result = state.clone()
    active, before = torch.arange(n, device=problem.x.device), state.energy
    iteration = converged = 0
    while True:
        goal = tol * (1 + state.energy.abs())
        going = _gap(problem, state) > goal
        converged += len(going) - int(going.sum())
        if iteration and iteration % LOOK_BACK == 0:
            going &= before - state.energy > 1e-3 * goal
            before = state.energy
        if iteration == max_iter or not going.all():
            result.write(active, state)
            active, problem, state, before = active[going], problem[going], state[going], before[going]
        if iteration == max_iter or not len(active):
            return result, Cost(iteration, 0.0, converged, n)
        state = step(problem, state)
        iteration += 1
