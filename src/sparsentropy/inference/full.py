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
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.folded_normal import SQRT_2_OVER_PI, standardised
from sparsentropy.inference.diagonal import DiagonalSolver
from sparsentropy.inference.solution import (
    AbstractSolver,
    Cost,
    Inference,
    Solution,
    default_tolerance,
    gathers,
    largest_gradient,
)
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Full
from sparsentropy.precision import arithmetic, factorised, rows_at_once

MANY = (
    32  # atoms from which on learning with independent posteriors runs ahead: with fewer it would save a second at most
)
DIAGONAL_ITERATIONS = 20  # of the cold start; each costs one product with an (h, h) matrix, no factorisation
FULL_STEP_SLOPE = 0.1  # the Newton step is kept whole while the slope at its end is this much of that at its beginning
BISECTIONS = 12
SOONER = 0.25  # part of the iterations that do as much as those of other solvers, each being one of Newton's
SHORTEST, LONGEST = 0.1, 2.0  # of the steps in κ that are tried first; 1 goes to k/s
SHORTEN, LENGTHEN = 1 / 3, 4.0  # the next step may be this much of the last one after a refusal, and after a success
LOOK_BACK = 16  # iterations in which a data point has to make progress, or it is given up as it is
# Rounding errors in log det T grow with the ratio of the largest to the smallest κ; a κ this far below the curvature
# of its surroundings changes the bound by its square
SMALLEST_PRECISION = 1e-6


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
        return self.at(parameters)(x, start=start, max_iter=max_iter, tol=tol)

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(parameters, _Shared.of(parameters))

    def with_gaps(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(parameters, _Shared.of(parameters), missing=True)

    def forerunner(self, h: int) -> AbstractSolver | None:
        """Independent posteriors, where a factorisation for every data point takes much longer."""
        return DiagonalSolver() if h >= MANY else None


@final
@dataclass(frozen=True)
class _Prepared:
    """The solver at given parameters."""

    parameters: Parameters
    shared: "_Shared"
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
        problem = _Problem.of(x, shared, missing=self.missing)
        if start is None:
            mean, precision = _begin(problem, self.diagonal(x, max_iter=DIAGONAL_ITERATIONS, tol=0.0).posterior)
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
    shared, missing = _Shared.of(parameters).exact(), bool(x.isnan().any())
    problem, gaps = _Problem.of(x, shared, missing=missing), []
    size = rows_at_once(parameters.h, parameters.d, x.device)
    for begin in range(0, x.shape[0], size):
        rows = slice(begin, begin + size)
        state = problem[rows].evaluate(q.mean[rows].double(), q.prior_precision[rows].double())
        gaps.append(_gap(problem[rows], state))
    return torch.cat(gaps) if gaps else x.new_zeros(0, dtype=torch.float64)


@final
@dataclass(frozen=True)
class _State:
    """Posteriors of some data points, and where they are going."""

    mean: Tensor  # ν (n, h)
    precision: Tensor  # κ (n, h)
    variance: Tensor  # diag T (n, h)
    log_det: Tensor  # log det T (n,)
    energy: Tensor  # −bound, up to a constant (n,)
    direction: Tensor  # −T·gradient (n, h); zero where T is not that of the present ν
    pull: Tensor  # k/s − κ when κ was last chosen (n, h)
    move: Tensor  # what κ was then moved by (n, h)
    reach: Tensor  # how much of the way to k/s may be tried next (n,)

    def __getitem__(self, rows: slice | Tensor) -> "_State":
        return self._map(lambda own: own[rows])

    def write(self, rows: slice | Tensor, other: "_State") -> None:
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    def where(self, chosen: Tensor, other: "_State") -> "_State":
        """The chosen rows of this state, the others of the other one."""
        return self._map(lambda own, its: torch.where(chosen[:, None] if own.ndim == 2 else chosen, own, its), other)

    def clone(self) -> "_State":
        return self._map(torch.clone)

    def _map(self, function: Callable[..., Tensor], *others: "_State") -> "_State":
        return _State(**{f.name: function(*(getattr(s, f.name) for s in (self, *others))) for f in fields(self)})

    def posterior(self, problem: "_Problem", dtype: torch.dtype) -> Full:
        return Full(
            self.mean.to(dtype),
            self.precision.to(dtype),
            self.variance.to(dtype),
            self.log_det.to(dtype),
            problem.scaled_dictionary.to(dtype),
            None if problem.seen is None else problem.seen.to(dtype),
        )


@final
@dataclass(frozen=True)
class _Shared:
    """What all data points share, in float64."""

    parameters: Parameters
    scaled_dictionary: Tensor  # W/σ (d, h)
    own_precision: Tensor  # |w|²/σ² (h,)
    arithmetic: torch.dtype  # of the factors

    @classmethod
    def of(cls, parameters: Parameters) -> "_Shared":
        p = parameters.to(torch.float64)
        scaled = p.dictionary / p.noise_variance.sqrt()
        return cls(p, scaled, scaled.square().sum(0), arithmetic(scaled, parameters.dictionary.dtype))

    def exact(self) -> "_Shared":
        """With factors in float64."""
        return replace(self, arithmetic=torch.float64)


@final
@dataclass(frozen=True)
class _Problem:
    """Data in float64, and what they share."""

    x: Tensor  # zero where it is missing
    seen: Tensor | None  # 1 where it is not; None where nothing is missing
    own_precision: Tensor  # Σ_d w_dh²/σ² over what was seen, (h,) or (n, h)
    shared: _Shared

    @classmethod
    def of(cls, x: Tensor, shared: _Shared, *, missing: bool) -> "_Problem":
        if not missing:
            return cls(x.double(), None, shared.own_precision, shared)
        seen = (~x.isnan()).double()
        return cls(x.double().nan_to_num(0.0), seen, seen @ shared.scaled_dictionary.square(), shared)

    @property
    def parameters(self) -> Parameters:
        return self.shared.parameters

    @property
    def scaled_dictionary(self) -> Tensor:
        """W/σ (d, h)."""
        return self.shared.scaled_dictionary

    def __getitem__(self, rows: slice | Tensor) -> "_Problem":
        if self.seen is None:
            return replace(self, x=self.x[rows])
        return replace(self, x=self.x[rows], seen=self.seen[rows], own_precision=self.own_precision[rows])

    def as_seen(self, data: Tensor) -> Tensor:
        """Zero where nothing was seen."""
        return data if self.seen is None else data * self.seen

    def blank(self) -> _State:
        row, code = self.x.new_empty(self.x.shape[0]), self.x.new_empty(self.x.shape[0], self.parameters.h)
        return _State(code, code, code, row, row, code, code, code, row).clone()

    def residual(self, mean: Tensor) -> Tensor:
        """(x − Wν)/σ."""
        return self.as_seen(self.x / self.parameters.noise_variance.sqrt() - mean @ self.scaled_dictionary.T)

    def stationary(self, mean: Tensor, variance: Tensor) -> Tensor:
        """k/s, where κ has to go."""
        return folded_normal.curvature(mean, variance.sqrt()) / self.parameters.prior_scale

    def smallest(self, mean: Tensor) -> Tensor:
        surroundings = 1 / (self.parameters.prior_scale.square() + mean.square())
        surroundings = torch.minimum(surroundings, self.own_precision)
        # The second bound keeps a singular WᵀW/σ² + diag κ invertible; the third serves an atom of length zero
        floor = torch.maximum(SMALLEST_PRECISION * surroundings, 1e-11 * self.own_precision)
        return floor + 1e-100

    def energy(self, mean: Tensor, precision: Tensor, variance: Tensor, log_det: Tensor) -> Tensor:
        """|x − Wν|²/2σ² + tr(WᵀW T)/2σ² + Σ A(ν, s)/λ − ½ log det T, with tr(WᵀW T)/σ² = h − Σ κ T_hh."""
        prior = folded_normal.mean(mean, variance.sqrt()) / self.parameters.prior_scale
        codes = (prior - precision * variance / 2).sum(1)
        return self.residual(mean).square().sum(1) / 2 + mean.shape[1] / 2 + codes - log_det / 2

    def evaluate(self, mean: Tensor, precision: Tensor) -> _State:
        precision = torch.maximum(precision, self.smallest(mean))
        factor = factorised(precision, self.scaled_dictionary, self.shared.arithmetic, self.seen)
        variance, log_det = factor.variance().double(), factor.log_det()
        slope = folded_normal.slopes(mean, variance.sqrt())[0] / self.parameters.prior_scale
        gradient = self.residual(mean) @ self.scaled_dictionary - slope
        direction = factor.multiply(gradient[None].to(factor.dtype))[0].double()
        energy = self.energy(mean, precision, variance, log_det)
        still = torch.zeros_like(mean)
        return _State(mean, precision, variance, log_det, energy, direction, still, still, torch.ones_like(energy))

    def rounding(self, state: _State) -> Tensor:
        """How well the energy is known: rounding grows with its terms and with the condition of what is inverted."""
        largest = self.x.norm(dim=1) * (self.parameters.d / self.parameters.noise_variance).sqrt()
        condition = (state.variance * self.own_precision).sum(1)
        return (
            torch.finfo(torch.float64).eps * 10 * (largest + state.energy.abs() + 1 / SMALLEST_PRECISION)
            + torch.finfo(self.shared.arithmetic).eps * condition
        )


def _begin(problem: _Problem, q: AbstractPosterior) -> tuple[Tensor, Tensor]:
    """First ν and κ from the diagonal solution.

    It has the right mean but too small scales, at which k/s would be far too small for a code that is not zero. The
    curvature erf(z)/(λ ν) of the parabola that touches A at ν is never below k/s.
    """
    mean, std = q.mean.double(), q.std.double()
    parabola = torch.erf(standardised(mean, std)) / (mean * problem.parameters.prior_scale)
    return mean, torch.where(mean.abs() > 1e-6 * std, parabola, problem.stationary(mean, std.square()))


@final
@dataclass(frozen=True)
class _Line:
    """The energy along ν + t·direction at fixed T: one convex function of t per data point."""

    mean: Tensor
    direction: Tensor
    std: Tensor
    prior_scale: Tensor
    linear: Tensor  # slope of the quadratic part at t = 0 (n,)
    quadratic: Tensor  # its curvature (n,)

    @classmethod
    def of(cls, problem: _Problem, state: _State) -> "_Line":
        moved = problem.as_seen(state.direction @ problem.scaled_dictionary.T)
        linear = -(problem.residual(state.mean) * moved).sum(1)
        scale = problem.parameters.prior_scale
        return cls(state.mean, state.direction, state.variance.sqrt(), scale, linear, moved.square().sum(1))

    def __getitem__(self, rows: Tensor) -> "_Line":
        own = {name: getattr(self, name)[rows] for name in ("mean", "direction", "std", "linear", "quadratic")}
        return replace(self, **own)

    def slope(self, t: Tensor) -> Tensor:
        z = standardised(self.mean + t[:, None] * self.direction, self.std)
        return self.linear + t * self.quadratic + (self.direction * torch.erf(z) / self.prior_scale).sum(1)

    def lowest(self) -> Tensor:
        """Largest t in [0, 1] known to have a slope that is not positive."""
        low, high = torch.zeros_like(self.linear), torch.ones_like(self.linear)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            rising = self.slope(middle) > 0
            low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
        return low


def _searched(problem: _Problem, state: _State) -> tuple[Tensor, Tensor]:
    """ν moved along the direction, and the energy there at the present T."""
    line, step = _Line.of(problem, state), torch.ones_like(state.energy)
    whole = problem.energy(state.mean + state.direction, state.precision, state.variance, state.log_det)
    far = line.slope(step) > -FULL_STEP_SLOPE * line.slope(0 * step)
    short = far | (whole > state.energy)
    if gathers(short.device):
        rows = short.nonzero().squeeze(1)
        step[rows] = line[rows].lowest()
    else:
        step = torch.where(short, line.lowest(), step)
    mean = state.mean + step[:, None] * state.direction
    return mean, problem.energy(mean, state.precision, state.variance, state.log_det)


def _length(state: _State, pull: Tensor) -> Tensor:
    """Barzilai and Borwein's step ⟨move, drop⟩/⟨drop, drop⟩ for κ; the pull dropped by so much in the last move."""
    weight = state.variance.square()
    drop = state.pull - pull
    agreement, size = (weight * state.move * drop).sum(1), (weight * drop.square()).sum(1)
    length = torch.where(agreement > 0, agreement / size, LONGEST).clamp(SHORTEST, LONGEST)
    moved = (state.move != 0).any(1)
    return torch.minimum(torch.where(moved, length, 1.0), state.reach)


def _step(problem: _Problem, state: _State) -> _State:
    """One iteration: ν at fixed T, then κ; a κ that lowers the bound is refused, and the next one is nearer."""
    mean, energy = _searched(problem, state)
    pull = problem.stationary(mean, state.variance) - state.precision
    length = _length(state, pull)
    trial = problem.evaluate(mean, state.precision + length[:, None] * pull)
    reach = (LENGTHEN * length).clamp(max=LONGEST)
    trial = replace(trial, pull=pull, move=trial.precision - state.precision, reach=reach)
    still = torch.zeros_like(mean)
    kept = replace(state, mean=mean, energy=energy, direction=still, move=still, reach=SHORTEN * length)
    return trial.where(trial.energy <= energy + problem.rounding(state), kept)


def _gap(problem: _Problem, state: _State) -> Tensor:
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


def _solve(problem: _Problem, state: _State, max_iter: int, tol: float) -> tuple[_State, Cost]:
    """Iterate on a chunk, leaving out every data point as soon as it is certified."""
    n = problem.x.shape[0]
    if tol <= 0:
        for _ in range(max_iter):
            state = _step(problem, state)
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
        state = _step(problem, state)
        iteration += 1
