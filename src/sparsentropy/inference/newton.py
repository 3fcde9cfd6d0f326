"""An iteration of the E-step for a full covariance: ν by Newton's method at fixed T, then κ by a natural-gradient step.

The state of a data point is (ν, κ), its covariance T the inverse of WᵀW/σ² + diag κ, in which rows of W that belong to
missing entries do not count. What moves the state, and why the bound rises with every step, stands in `full`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.folded_normal import standardised
from sparsentropy.inference.solution import gathers
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Full
from sparsentropy.precision import arithmetic, factorised

FULL_STEP_SLOPE = 0.1  # the Newton step is kept whole while the slope at its end is this much of that at its beginning
BISECTIONS = 12
SHORTEST, LONGEST = 0.1, 2.0  # of the steps in κ that are tried first; 1 goes to k/s
SHORTEN, LENGTHEN = 1 / 3, 4.0  # the next step may be this much of the last one after a refusal, and after a success
# Rounding errors in log det T grow with the ratio of the largest to the smallest κ; a κ this far below the curvature
# of its surroundings changes the bound by its square
SMALLEST_PRECISION = 1e-6


@final
@dataclass(frozen=True)
class State:
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

    def __getitem__(self, rows: slice | Tensor) -> "State":
        return self._map(lambda own: own[rows])

    def write(self, rows: slice | Tensor, other: "State") -> None:
        """Put the data points of the other one into these rows."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    def where(self, chosen: Tensor, other: "State") -> "State":
        """The chosen rows of this state, the others of the other one."""
        return self._map(lambda own, its: torch.where(chosen[:, None] if own.ndim == 2 else chosen, own, its), other)

    def clone(self) -> "State":
        """With arrays of its own."""
        return self._map(torch.clone)

    def _map(self, function: Callable[..., Tensor], *others: "State") -> "State":
        return State(**{f.name: function(*(getattr(s, f.name) for s in (self, *others))) for f in fields(self)})

    def posterior(self, problem: "Problem", dtype: torch.dtype) -> Full:
        """As a posterior in this dtype."""
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
class Shared:
    """What all data points share, in float64."""

    parameters: Parameters
    scaled_dictionary: Tensor  # W/σ (d, h)
    own_precision: Tensor  # |w|²/σ² (h,)
    arithmetic: torch.dtype  # of the factors

    @classmethod
    def of(cls, parameters: Parameters) -> "Shared":
        """At these parameters, with factors as exact as data of their dtype ask for."""
        p = parameters.to(torch.float64)
        scaled = p.dictionary / p.noise_variance.sqrt()
        return cls(p, scaled, scaled.square().sum(0), arithmetic(scaled, parameters.dictionary.dtype))

    def exact(self) -> "Shared":
        """With factors in float64."""
        return replace(self, arithmetic=torch.float64)


@final
@dataclass(frozen=True)
class Problem:
    """Data in float64, and what they share."""

    x: Tensor  # zero where it is missing
    seen: Tensor | None  # 1 where it is not; None where nothing is missing
    own_precision: Tensor  # Σ_d w_dh²/σ² over what was seen, (h,) or (n, h)
    shared: Shared

    @classmethod
    def of(cls, x: Tensor, shared: Shared, *, missing: bool) -> "Problem":
        """Of these data, `missing` some entries (NaN) or not."""
        if not missing:
            return cls(x.double(), None, shared.own_precision, shared)
        seen = (~x.isnan()).double()
        return cls(x.double().nan_to_num(0.0), seen, seen @ shared.scaled_dictionary.square(), shared)

    @property
    def parameters(self) -> Parameters:
        """In float64."""
        return self.shared.parameters

    @property
    def scaled_dictionary(self) -> Tensor:
        """W/σ (d, h)."""
        return self.shared.scaled_dictionary

    def __getitem__(self, rows: slice | Tensor) -> "Problem":
        if self.seen is None:
            return replace(self, x=self.x[rows])
        return replace(self, x=self.x[rows], seen=self.seen[rows], own_precision=self.own_precision[rows])

    def as_seen(self, data: Tensor) -> Tensor:
        """Zero where nothing was seen."""
        return data if self.seen is None else data * self.seen

    def blank(self) -> State:
        """Room for the states of all data points."""
        row, code = self.x.new_empty(self.x.shape[0]), self.x.new_empty(self.x.shape[0], self.parameters.h)
        return State(code, code, code, row, row, code, code, code, row).clone()

    def residual(self, mean: Tensor) -> Tensor:
        """(x − Wν)/σ."""
        return self.as_seen(self.x / self.parameters.noise_variance.sqrt() - mean @ self.scaled_dictionary.T)

    def stationary(self, mean: Tensor, variance: Tensor) -> Tensor:
        """k/s, where κ has to go."""
        return folded_normal.curvature(mean, variance.sqrt()) / self.parameters.prior_scale

    def smallest(self, mean: Tensor) -> Tensor:
        """Lower bound of κ (n, h)."""
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

    def evaluate(self, mean: Tensor, precision: Tensor) -> State:
        """The state at ν and κ."""
        precision = torch.maximum(precision, self.smallest(mean))
        factor = factorised(precision, self.scaled_dictionary, self.shared.arithmetic, self.seen)
        variance, log_det = factor.variance().double(), factor.log_det()
        slope = folded_normal.slopes(mean, variance.sqrt())[0] / self.parameters.prior_scale
        gradient = self.residual(mean) @ self.scaled_dictionary - slope
        direction = factor.multiply(gradient[None].to(factor.dtype))[0].double()
        energy = self.energy(mean, precision, variance, log_det)
        still = torch.zeros_like(mean)
        return State(mean, precision, variance, log_det, energy, direction, still, still, torch.ones_like(energy))

    def rounding(self, state: "State") -> Tensor:
        """How well the energy is known: rounding grows with its terms and with the condition of what is inverted."""
        largest = self.x.norm(dim=1) * (self.parameters.d / self.parameters.noise_variance).sqrt()
        condition = (state.variance * self.own_precision).sum(1)
        return (
            torch.finfo(torch.float64).eps * 10 * (largest + state.energy.abs() + 1 / SMALLEST_PRECISION)
            + torch.finfo(self.shared.arithmetic).eps * condition
        )


def first(problem: Problem, q: AbstractPosterior) -> tuple[Tensor, Tensor]:
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
    def of(cls, problem: Problem, state: "State") -> "_Line":
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


def _searched(problem: Problem, state: "State") -> tuple[Tensor, Tensor]:
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


def _length(state: State, pull: Tensor) -> Tensor:
    """Barzilai and Borwein's step ⟨move, drop⟩/⟨drop, drop⟩ for κ; the pull dropped by so much in the last move."""
    weight = state.variance.square()
    drop = state.pull - pull
    agreement, size = (weight * state.move * drop).sum(1), (weight * drop.square()).sum(1)
    length = torch.where(agreement > 0, agreement / size, LONGEST).clamp(SHORTEST, LONGEST)
    moved = (state.move != 0).any(1)
    return torch.minimum(torch.where(moved, length, 1.0), state.reach)


def step(problem: Problem, state: "State") -> State:
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
