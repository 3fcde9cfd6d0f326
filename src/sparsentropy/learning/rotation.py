"""The step along which the fit does not change: turn the dictionary and the codes against each other.

When the noise is small, posteriors are tight and plain EM hardly turns the dictionary. But for any invertible V the
change W → W V⁻¹, ν → V ν, T → V T Vᵀ keeps W ν and tr(WᵀW T), so only

    J(V) = log|det V| − Σ_h log mean_n A((Vν_n)_h, √(V T_n Vᵀ)_hh)

changes: the likelihood of an independent component analysis of the posteriors. It is maximised by relative
quasi-Newton steps V = I + E with 2×2 blocks of curvature (as in Ablin, Cardoso and Gramfort, "Faster ICA by
preconditioning with Hessian approximations", IEEE TSP 2018), capped, and with a line search on J itself. No E-step is
needed in between. For a full posterior J is exact, and nearly so for one of low rank; an independent posterior cannot
turn with the codes and has a J of its own (`independent`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.learning.shelf import OnDemand
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics
from sparsentropy.posteriors import AbstractPosterior, Full
from sparsentropy.team import ALONE, AbstractTeam

REMEMBERED = 2**22  # elements that the factors of full posteriors may have to be kept during a turn
CAP = 0.3  # largest entry of E in one step
SMALLEST_CURVATURE = 1e-2
HALVINGS = 8
ENOUGH = 0.2  # of the largest gain of a step: with less, an E-step is due


class AbstractView(ABC):
    """All posteriors as seen after turning the codes of some atoms by V."""

    used: Tensor  # these atoms (h',)
    matrix: Tensor  # V (h', h'), float64
    objective: Tensor  # J(V)

    def whole(self, h: int) -> Tensor:
        """V of all atoms (h, h), float64."""
        if len(self.used) == h:
            return self.matrix
        whole = torch.eye(h, dtype=self.matrix.dtype, device=self.matrix.device)
        whole[self.used[:, None], self.used] = self.matrix
        return whole

    @abstractmethod
    def turned(self, index: int) -> AbstractPosterior:
        """The turned posteriors of a batch."""

    @abstractmethod
    def at(self, matrix: Tensor) -> Self:
        """The view at another V."""

    @abstractmethod
    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """∂J/∂E, a and c (h', h'): the curvature of −J for the pair (E_hj, E_jh) is [[a_hj, c_hj], [c_hj, a_jh]]."""

    @abstractmethod
    def second_moment(self, statistics: Statistics) -> Tensor:
        """Σ ννᵀ + T of the turned posteriors (h, h), from the statistics of those before."""


def rotate(view: AbstractView, steps: int) -> AbstractView:
    """The view after a few quasi-Newton steps, with J no lower than before.

    Parameters
    ----------
    view : AbstractView
        At V = I.
    steps : int
        Most steps taken; fewer when they raise J by little.

    Returns
    -------
    AbstractView
    """
    eye = torch.eye(len(view.matrix), dtype=torch.float64, device=view.matrix.device)
    largest = 0.0
    for _ in range(steps if len(eye) else 0):
        found = _line_search(view, eye, _direction(*view.slopes()))
        if found is None:
            break
        gain, view = float(found.objective - view.objective), found
        largest = max(largest, gain)
        if gain < ENOUGH * largest:
            break
    return view


def turn(view: AbstractView, statistics: Statistics, parameters: Parameters) -> tuple[Statistics, Parameters]:
    """W V⁻¹ and the moments of the turned codes.

    Entropy and prior sums are left as they were: an M-step for W asks for moments alone, and an E-step follows.
    """
    matrix = view.whole(parameters.h)
    cross = statistics.cross @ matrix.T
    turned = replace(statistics, cross=cross, second_moment=view.second_moment(statistics))
    dictionary = torch.linalg.solve(matrix, parameters.dictionary.double(), left=False)
    return turned, replace(parameters, dictionary=dictionary.to(parameters.dictionary.dtype))


@final
@dataclass(frozen=True)
class Joint(AbstractView):
    """Posteriors whose covariances turn with the codes: T → V T Vᵀ."""

    posteriors: Sequence[AbstractPosterior]
    used: Tensor
    matrix: Tensor
    after: Sequence[AbstractPosterior]
    scale: Tensor  # λ_h = mean_n A (h,)
    objective: Tensor
    team: AbstractTeam

    @classmethod
    def of(cls, posteriors: Sequence[AbstractPosterior], matrix: Tensor, team: AbstractTeam = ALONE) -> "Joint":
        """The view at V, with the factors of full posteriors at hand if they need little memory."""
        here = not isinstance(posteriors, OnDemand)
        if here and sum(q.mean.numel() for q in posteriors) * len(matrix) <= REMEMBERED:
            posteriors = [q.remembering() if isinstance(q, Full) else q for q in posteriors]
        return cls._of(posteriors, matrix, team)

    @classmethod
    def _of(cls, posteriors: Sequence[AbstractPosterior], matrix: Tensor, team: AbstractTeam) -> "Joint":
        (matrix,) = team.agreed(matrix)

        def rotated(q: AbstractPosterior) -> AbstractPosterior:
            return q.rotated(matrix.to(q.mean.dtype))

        after = posteriors.mapped(rotated) if isinstance(posteriors, OnDemand) else [rotated(q) for q in posteriors]
        sums, counts = zip(*((q.abs_moment().sum(0, dtype=torch.float64), len(q)) for q in after), strict=True)
        total, n = team.sum(torch.stack(sums).sum(0), matrix.new_tensor(float(sum(counts))))
        scale, used = total / n, torch.arange(len(matrix), device=matrix.device)
        (objective,) = team.agreed(torch.linalg.slogdet(matrix).logabsdet - scale.log().sum())
        return cls(posteriors, used, matrix, after, scale, objective, team)

    def at(self, matrix: Tensor) -> "Joint":
        """The view at another V."""
        return Joint._of(self.posteriors, matrix, self.team)

    def turned(self, index: int) -> AbstractPosterior:
        """Means and covariances turned by V."""
        return self.after[index]

    def slopes(self) -> tuple[Tensor, Tensor, Tensor]:
        """I − Ψ, a and 1."""
        eye = torch.eye(len(self.scale), dtype=torch.float64, device=self.scale.device)
        psi, a, n = torch.zeros_like(eye), torch.zeros_like(eye), eye.new_zeros(())
        for q, turned in zip(self.posteriors, self.after, strict=True):
            slope = folded_normal.slopes(turned.mean, turned.std)[0]
            bend = folded_normal.curvature(turned.mean, turned.std)
            n += len(q)
            # Ψ_hj = mean[erf(ν_h/(s_h√2)) ν_j + A_νν T_hj]/λ_h
            psi += slope.T.double() @ turned.mean.double()
            psi += q.rotated_covariance_sum(self.matrix.to(bend.dtype), bend).double()
            # a_hj = mean[A_νν (ν_j² + T_jj)]/λ_h
            a += (bend.T @ (turned.mean.square() + turned.variance)).double()
        psi, a, n = self.team.sum(psi, a, n)
        scale = n * self.scale[:, None]
        return eye - psi / scale, a / scale, torch.ones_like(a)

    def second_moment(self, statistics: Statistics) -> Tensor:
        """V (Σ ννᵀ + T) Vᵀ."""
        return self.matrix @ statistics.second_moment @ self.matrix.T


def _direction(gradient: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """Quasi-Newton direction E from the 2×2 blocks, capped."""
    b = a.T
    # Keep the blocks positive: their smaller eigenvalue is (a + b)/2 − √(((a − b)/2)² + c²)
    smallest = (a + b) / 2 - (((a - b) / 2).square() + c.square()).sqrt()
    lift = (SMALLEST_CURVATURE - smallest).clamp(min=0)
    diagonal = gradient.diagonal() / (1 + a.diagonal())
    a, b = a + lift, b + lift
    direction = (b * gradient - c * gradient.T) / (a * b - c.square())
    direction.diagonal().copy_(diagonal)
    return direction * (CAP / direction.abs().max().clamp(min=CAP))


def _line_search(view: AbstractView, eye: Tensor, direction: Tensor) -> AbstractView | None:
    """Halve the step until J rises; None when it never does."""
    step = 1.0
    for _ in range(HALVINGS):
        new = view.at((eye + step * direction) @ view.matrix)
        if new.objective > view.objective:
            return new
        step /= 2
    return None
