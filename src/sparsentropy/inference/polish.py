"""Newton's method for the data points that a splitting certifies last.

At the optimum the gradient of the quadratic part, P u − Wᵀx in suitable units, is −ψ'(u). Written in the argument t of
the proximal map, t = u + ψ'(u)/ρ, both u and ψ' are monotone functions of t with slopes w and ρ(1 − w) between 0 and
ρ, so the equation has no flat and no steep places, and Newton's method crosses the kinks of the prior in one step where
a line search in u would stop at every code that changes its state. Near the optimum, once it is clear which codes are
away from zero, it converges quadratically. Far from it a step may be too long; it is shortened until the bound does
not fall, so that the splitting may always go on from what was reached.

The same idea, for the lasso, is the semismooth Newton method of Li, Sun and Toh, "A highly efficient semismooth Newton
augmented Lagrangian method for solving lasso problems" (SIAM J. Optim. 2018).
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal, precision

STEPS = 8
SHORTEST = 1e-7  # step in t, which is in units of the uncertainty, after which a data point needs no other
SHORTER, SHORTENINGS = 0.3, 8  # of a step that would raise f
ROUNDING = 4.0  # units in the last place of |x|²/σ² by which f may seem to rise
BISECTIONS = 40  # at most, of the proximal map; Newton needs a few
LEAST, MOST = 1e-9, 1e18  # ψ'' beside a curvature of 2 of the data term: a code without prior, and one that is pinned
SLOPE = 2 / math.sqrt(math.pi)  # of the error function at zero


def polished(
    data: Tensor, atoms: Tensor, steepness: Tensor, penalty: Tensor, z: Tensor, observed: Tensor | None = None
) -> Tensor:
    """A few Newton steps from z.

    Parameters
    ----------
    data : Tensor, shape (n, d), float64
        x/σ, zero where it is missing.
    atoms : Tensor, shape (d, h), float64
        Of unit length.
    steepness, penalty : Tensor, shape (h,), float64
        α = σ/(λ|w|) and ρ, see `inference.diagonal`.
    z : Tensor, shape (n, h), float64
    observed : Tensor, shape (n, d), optional
        1 where x was observed, 0 where it is missing.

    Returns
    -------
    Tensor, shape (n, h)
        z = ν/(s√2).
    """
    problem = _Problem.of(data, atoms, steepness, penalty, observed)
    z, left = z.clone(), torch.arange(len(z), device=z.device)
    for _ in range(STEPS):
        own = problem[left]
        direction = _direction(z[left], own)
        z[left] = _line_search(z[left], direction, own)
        # A Newton step so short leaves an error of its square
        left = left[direction.abs().amax(1) > SHORTEST]
        if not len(left):
            break
    return z


@final
@dataclass(frozen=True)
class _Problem:
    data: Tensor  # x/σ (n, d)
    dictionary: Tensor  # √2 times atoms of unit length (d, h)
    share: Tensor  # b = √2 α/ρ (h,)
    penalty: Tensor  # ρ (h,)
    steepness: Tensor  # α (h,)
    observed: Tensor | None  # o (n, d); None where nothing is missing
    seen: Tensor  # g, the share of |w|² that was observed, (n, h); 1 where nothing is missing

    @classmethod
    def of(
        cls, data: Tensor, atoms: Tensor, steepness: Tensor, penalty: Tensor, observed: Tensor | None = None
    ) -> "_Problem":
        seen = data.new_ones(()) if observed is None else observed @ atoms.square()
        share, root = math.sqrt(2) * steepness / (2 * penalty), math.sqrt(2)
        return cls(data, root * atoms, share, 2 * penalty, steepness, observed, seen)

    def __getitem__(self, rows: Tensor) -> "_Problem":
        if self.observed is None:
            return replace(self, data=self.data[rows])
        return replace(self, data=self.data[rows], observed=self.observed[rows], seen=self.seen[rows])

    def projected(self, code: Tensor) -> Tensor:
        """W u where x was observed (n, d)."""
        product = code @ self.dictionary.T
        return product if self.observed is None else product * self.observed

    def code_of(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `code_of`."""
        return code_of(z, self.steepness, self.seen)


def _line_search(z: Tensor, direction: Tensor, problem: _Problem) -> Tensor:
    """Shorten the step in t until f does not rise; a data point where it always does stays at z."""
    start = problem.code_of(z)[0] + problem.share * torch.erf(z)
    # Where the data leave a direction open and the prior is straight, a Newton step has no end
    reach = start.abs().amax(1, keepdim=True) + 1
    direction = direction * (reach / direction.abs().amax(1, keepdim=True)).clamp(max=1.0)
    energy, best = _energy(z, problem), z
    rounding = ROUNDING * torch.finfo(z.dtype).eps * (energy.abs() + problem.data.square().sum(1))
    left, step = torch.ones_like(energy, dtype=torch.bool), 1.0
    for _ in range(SHORTENINGS):
        trial = _prox(start + step * direction, z, problem)
        better = left & (_energy(trial, problem) <= energy + rounding)
        best, left = torch.where(better[:, None], trial, best), left & ~better
        if not left.any():
            break
        step *= SHORTER
    return best


def _energy(z: Tensor, problem: _Problem) -> Tensor:
    """f(u), up to a constant (n,)."""
    code, scale, _ = problem.code_of(z)
    residual = problem.data - problem.projected(code)
    expected = folded_normal.mean(math.sqrt(2) * code, scale) * problem.steepness
    return residual.square().sum(1) / 2 + (expected + problem.seen * scale.square() / 2 - scale.log()).sum(1)


def _direction(z: Tensor, problem: _Problem) -> Tensor:
    """δt of a Newton step (n, h)."""
    dictionary, weight = problem.dictionary, problem.penalty
    code, _, rate = problem.code_of(z)
    gradient = (problem.projected(code) - problem.data) @ dictionary + weight * problem.share * torch.erf(z)
    bend = problem.share * SLOPE * folded_normal.bell(z)
    # With w = du/dt: ψ'' = ρ (1 − w)/w
    w = rate / (rate + bend)
    curvature = (weight * bend / rate).clamp(LEAST, MOST)
    factors = precision.factors(curvature, dictionary, observed=problem.observed)
    move = torch.cat([factor.multiply(-gradient[rows]) for rows, factor in factors])
    # δt = δu/w, or from the equation itself where that is 0/0
    pinned = -(gradient + problem.projected(move) @ dictionary) / (weight * (1 - w))
    return torch.where(w > 0.5, move / w, pinned)


def code_of(z: Tensor, steepness: Tensor, seen: Tensor | float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Code u = z s, scale s and slope du/dz at z (n, h) for the steepness α (h,) and the share g of |w|² (n, h)."""
    bend = folded_normal.bell(z) * steepness / math.sqrt(2 * math.pi)
    root = torch.sqrt(bend * bend + seen)
    scale = 1 / (bend + root)
    return z * scale, scale, scale + 2 * z * z * bend * scale / root


def _prox(target: Tensor, z: Tensor, problem: _Problem) -> Tensor:
    """The root z of b erf(z) + u(z) = target, by Newton's method between bounds that close in."""
    share, widest = problem.share, problem.seen.rsqrt()  # s is at most 1/√g
    sign, size = target.sign(), target.abs()
    low = torch.maximum(size / (widest + SLOPE * share), (size - share) / widest)
    at_one, _, _ = problem.code_of(torch.ones_like(share))
    high = ((size - math.erf(1) * share) / at_one).clamp(min=1.0)
    z = torch.clamp(z * sign, low, high)
    for _ in range(BISECTIONS):
        code, _, rate = problem.code_of(z)
        value = share * torch.erf(z) + code - size
        low, high = torch.where(value < 0, z, low), torch.where(value > 0, z, high)
        new = z - value / (share * SLOPE * folded_normal.bell(z) + rate)
        new = torch.where((new >= low) & (new <= high), new, (low + high) / 2)
        done = bool(((new - z).abs() <= 4 * torch.finfo(z.dtype).eps * new).all())
        z = new
        if done:
            break
    return z * sign
