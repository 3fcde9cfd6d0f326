"""Diagonal posteriors where every data point misses other entries.

A data point sees its own part of the dictionary, G_n = Aᵀ diag(o_n) A with o_n = 1 where it was observed, so there is
no inverse that all share. The two halves of an iteration are those of `splitting`, in the same units, but

    v = (G_n + ρ)⁻¹ (b_n + ρ (2u − t))

takes an inverse of one's own: by the Woodbury identity that of I + diag(o_n) (A ρ⁻¹ Aᵀ) diag(o_n), rows and columns
of one (d, d) matrix, or with fewer atoms than dimensions that of G_n + ρ itself. It is made once for all iterations.
An atom of which the share g of the squared length was observed has the best scale s = 1/(K + √(K² + g)), between 1 and,
where nothing of it was seen, that of the prior. All is computed in float64: there is one certificate, the duality gap.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import SQRT_2, bell
from sparsentropy.inference.certificate import Certificate
from sparsentropy.inference.polish import SLOPE, code_of, polished
from sparsentropy.inference.problem import units
from sparsentropy.inference.solution import Cost, Solution, default_tolerance, largest_gradient
from sparsentropy.inference.splitting import PENALTY, RELAXATION, SHARE
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal

CHUNK = {"cpu": 2**21, "cuda": 2**26}  # elements of inverses at once
LOOK_EVERY = 10  # iterations between two looks at the gap
FIRST_POLISH = 60  # iterations from which on Newton steps are made before every look, with a factor for each of them
COLD_STEPS, WARM_STEPS = 12, 2  # of Newton's method in a proximal map
CORRECTIONS = 4  # of a dual vector
NOTHING = 1e-30  # in place of a share of zero, with a code that is off its place, where the scale would overflow


@final
@dataclass(frozen=True)
class Masked:
    """The solver at given parameters; the data points may have any entries missing, but not all.

    Examples
    --------
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> solution = Masked.of(parameters)(torch.tensor([[3.0, torch.nan]]))
    >>> solution.posterior.mean.round(decimals=2), solution.cost.converged
    (tensor([[2.9900, 0.0000]]), 1)
    """

    parameters: Parameters  # float64
    unit: Tensor  # σ/|w| (h,)
    steepness: Tensor  # α (h,)
    atoms: Tensor  # A, of unit length (d, h)
    penalty: Tensor  # ρ (h,)
    certificate: Certificate

    @classmethod
    def of(cls, parameters: Parameters) -> "Masked":
        """Prepare for these parameters."""
        p = parameters.to(torch.float64)
        unit, steepness = units(p)
        atoms = p.dictionary * (unit / p.noise_variance.sqrt())
        penalty = PENALTY * steepness * steepness.clamp(min=SHARE)
        return cls(p, unit, steepness, atoms, penalty, Certificate.of(p))

    def __call__(
        self, x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
    ) -> Solution:
        """See `AbstractSolver`."""
        tol = default_tolerance(x.dtype) if tol is None else tol
        mean = torch.empty(len(x), self.parameters.h, dtype=x.dtype, device=x.device)
        q, cost = Diagonal(mean, torch.empty_like(mean)), Cost(0, 0.0, 0, 0)
        for rows in self._chunks(x):
            state = _State.of(self, x[rows].double(), None if start is None else start[rows])
            found, part = self._solved(x[rows], state, max_iter, tol)
            q.mean[rows], q.variance[rows] = found.mean.to(x.dtype), found.variance.to(x.dtype)
            cost += part
        return Solution(q, cost)

    def _chunks(self, x: Tensor) -> Iterator[slice]:
        d, h = self.atoms.shape
        size = max(1, CHUNK[x.device.type] // max(1, d * h))  # there may be no atom that is heard
        return (slice(begin, begin + size) for begin in range(0, len(x), size))

    def _solved(self, x: Tensor, state: "_State", max_iter: int, tol: float) -> tuple[Diagonal, Cost]:
        if tol <= 0:
            for _ in range(max_iter):
                state.step()
            return state.posterior(), Cost(max_iter, float("nan"), 0, len(x))
        done, left, made = state.posterior(), torch.arange(len(x), device=x.device), 0
        while len(left) and made < max_iter:
            steps = min(LOOK_EVERY, max_iter - made)
            for _ in range(steps):
                state.step()
            made = made + steps
            if made >= FIRST_POLISH:
                state.polish()
            q = state.posterior()
            done.mean[left], done.variance[left] = q.mean, q.variance
            still = (~self.certificate.holds(x[left], q, tol, state.nearest)).nonzero().ravel()
            left, state = left[still], state[still]
        gradient = largest_gradient(x.double(), done, self.parameters)
        return done, Cost(made, gradient, len(x) - len(left), len(x))


@final
@dataclass(frozen=True)
class _State:
    """Some data points and where they are; `step` changes u, z, s and t in place."""

    solver: Masked
    observed: Tensor  # o (n, d)
    data: Tensor  # x/σ, zero where it is missing (n, d)
    linear: Tensor  # b (n, h)
    share: Tensor  # g (n, h)
    inverse: Tensor  # of I + o A ρ⁻¹ Aᵀ o (n, d, d), or of G + ρ (n, h, h)
    z: Tensor
    scale: Tensor  # s
    code: Tensor  # u = z s
    target: Tensor  # t

    @classmethod
    def of(cls, solver: Masked, x: Tensor, start: AbstractPosterior | None) -> "_State":
        seen = ~x.isnan()
        observed, A = seen.to(x.dtype), solver.atoms
        data = x.masked_fill(~seen, 0.0) / solver.parameters.noise_variance.sqrt()
        share = observed @ A.square() + NOTHING
        inverse = _inverse(solver, observed)
        z = torch.zeros_like(share) if start is None else start.mean.double() / (SQRT_2 * start.std.double())
        state = cls(
            solver, observed, data, data @ A / SQRT_2, share, inverse, z, *(torch.empty_like(z) for _ in range(3))
        )
        if start is None:
            state.target.copy_(state._solve(state.linear))
        else:
            code = start.mean.double() / (SQRT_2 * solver.unit)
            torch.add(code, torch.erf(z) * state._pull, out=state.target)
        state._prox(COLD_STEPS)
        return state

    def __getitem__(self, rows: Tensor) -> "_State":
        return _State(self.solver, *(getattr(self, f.name)[rows] for f in fields(self)[1:]))

    def step(self) -> None:
        """An iteration."""
        reflected = 2 * self.code - self.target
        self.target.add_(self._solve(self.linear + self.solver.penalty * reflected) - self.code, alpha=RELAXATION)
        self._prox(WARM_STEPS)

    def polish(self) -> None:
        """A few steps of the semismooth Newton method (`polish`), and the t that belongs to where they end."""
        own = self.solver
        z = polished(self.data, own.atoms, own.steepness, own.penalty, self.z, self.observed)
        self._place(z)
        torch.add(self.code, torch.erf(z) * self._pull, out=self.target)

    def posterior(self) -> Diagonal:
        """In the units of the data."""
        return Diagonal(self.code * (SQRT_2 * self.solver.unit), (self.scale * self.solver.unit).square())

    def nearest(self, pull: Tensor) -> Tensor:
        """A vector e of the data space, zero where nothing was observed, with Wᵀe near a given pull (n, h).

        (G + ρ)⁻¹ leaves ρ (G + ρ)⁻¹ of a pull, which is little but where hardly anything can move it.
        """
        own = self.solver
        rest = own.unit * pull
        codes = torch.zeros_like(rest)
        for _ in range(CORRECTIONS):
            step = self._solve(rest)
            codes, rest = codes + step, own.penalty * step
        return (codes @ own.atoms.T) * self.observed / own.parameters.noise_variance.sqrt()

    @property
    def _pull(self) -> Tensor:
        """β = α/(√2 ρ) (h,): most that the prior moves a code by."""
        return self.solver.steepness / (SQRT_2 * self.solver.penalty)

    def _solve(self, right: Tensor) -> Tensor:
        """(G + ρ)⁻¹ times a vector for each data point (n, h)."""
        A, penalty = self.solver.atoms, self.solver.penalty
        if _in_codes(A):
            return torch.bmm(self.inverse, right.unsqueeze(2)).squeeze(2)
        right = right / penalty
        seen = (right @ A.T) * self.observed
        explained = torch.bmm(self.inverse, seen.unsqueeze(2)).squeeze(2) * self.observed
        return right - (explained @ A) / penalty

    def _prox(self, steps: int) -> None:
        """Newton's method for z s(z) + β erf(z) = t, between bounds of z: s(0) ≤ s ≤ 1/√g."""
        size, sign, pull = self.target.abs(), self.target.sign(), self._pull
        low = (size - pull).clamp(min=0) * self.share.sqrt()
        high = size / self._code_of(torch.zeros_like(size))[1]
        z = torch.minimum(torch.maximum(self.z * sign, low), high)
        for _ in range(steps):
            code, _, rate = self._code_of(z)
            z = z - (code + pull * torch.erf(z) - size) / (rate + pull * SLOPE * bell(z))
            z = torch.minimum(torch.maximum(z, low), high)
        self._place(z * sign)

    def _place(self, z: Tensor) -> None:
        """At z, with the u and s that belong to it."""
        self.z.copy_(z)
        code, scale, _ = self._code_of(z)
        self.code.copy_(code)
        self.scale.copy_(scale)

    def _code_of(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return code_of(z, self.solver.steepness, self.share)


def _in_codes(atoms: Tensor) -> bool:
    """Whether the (h, h) matrices are the smaller ones."""
    d, h = atoms.shape
    return h < d


def _inverse(solver: Masked, observed: Tensor) -> Tensor:
    A, penalty = solver.atoms, solver.penalty
    if _in_codes(A):
        matrix = (observed.unsqueeze(2) * A).mT @ A
        matrix.diagonal(dim1=1, dim2=2).add_(penalty)
    else:
        matrix = observed.unsqueeze(2) * ((A / penalty) @ A.T) * observed.unsqueeze(1)
        matrix.diagonal(dim1=1, dim2=2).add_(1.0)
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
