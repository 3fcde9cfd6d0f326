"""The step along which the fit does not change: turn the dictionary and the codes against each other.

When the noise is small, posteriors are tight and plain EM hardly turns the dictionary. But for any invertible V the
change W → W V⁻¹, ν → V ν, T → V T Vᵀ keeps W ν and tr(WᵀW T), so only

    J(V) = log|det V| − Σ_h log mean_n A((Vν_n)_h, √(V T_n Vᵀ)_hh)

changes: the likelihood of an independent component analysis of the posteriors. It is maximised by relative
quasi-Newton steps V = I + E with 2×2 blocks of curvature (as in Ablin, Cardoso and Gramfort, "Faster ICA by
preconditioning with Hessian approximations", IEEE TSP 2018), capped, and with a line search on J itself. No E-step is
needed in between. For a full posterior J is exact; for others only the marginal variances are rotated, and the next
E-step repairs what was lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics
from sparsentropy.posteriors import AbstractPosterior

CAP = 0.3  # largest entry of E in one step
SMALLEST_CURVATURE = 1e-2
HALVINGS = 8


def rotate(
    posteriors: Sequence[AbstractPosterior], statistics: Statistics, steps: int
) -> tuple[Tensor, Sequence[AbstractPosterior]]:
    """V with J(V) ≥ J(I), from a few quasi-Newton steps, and the posteriors turned by it.

    Parameters
    ----------
    posteriors : sequence of AbstractPosterior
        The posteriors of all data points, batch by batch.
    statistics : Statistics
        Their statistics.
    steps : int
        Most steps taken; fewer when no step raises J any more.

    Returns
    -------
    tuple of Tensor (h, h), float64, and sequence of AbstractPosterior
    """
    eye = torch.eye(statistics.second_moment.shape[0], dtype=torch.float64, device=statistics.cross.device)
    view = _View.of(posteriors, eye)
    for _ in range(steps):
        found = _line_search(posteriors, view, eye, _direction(posteriors, view))
        if found is None:
            break
        view = found
    return view.matrix, view.turned


def turn(matrix: Tensor, statistics: Statistics, parameters: Parameters) -> tuple[Statistics, Parameters]:
    """W V⁻¹ and the sums of the turned codes; prior sums are left for the next E-step, which needs only W, λ and σ²."""
    inverse = torch.linalg.inv(matrix)
    turned = replace(
        statistics,
        cross=statistics.cross @ matrix.T,
        second_moment=matrix @ statistics.second_moment @ matrix.T,
        entropy=statistics.entropy + statistics.n * torch.linalg.slogdet(matrix).logabsdet,
    )
    dictionary = (parameters.dictionary.double() @ inverse).to(parameters.dictionary.dtype)
    return turned, replace(parameters, dictionary=dictionary)


@final
@dataclass(frozen=True)
class _View:
    """The posteriors as seen after turning by V."""

    matrix: Tensor  # V (h, h), float64
    turned: Sequence[AbstractPosterior]
    scale: Tensor  # λ_h = mean_n A (h,)
    objective: Tensor  # J(V)

    @classmethod
    def of(cls, posteriors: Sequence[AbstractPosterior], matrix: Tensor) -> "_View":
        turned = [q.rotated(matrix.to(q.mean.dtype)) for q in posteriors]
        n = sum(len(q) for q in turned)
        scale = torch.stack([q.abs_moment().sum(0, dtype=torch.float64) for q in turned]).sum(0) / n
        return cls(matrix, turned, scale, torch.linalg.slogdet(matrix).logabsdet - scale.log().sum())


def _direction(posteriors: Sequence[AbstractPosterior], view: _View) -> Tensor:
    """Quasi-Newton direction E from the 2×2 blocks [[a_hj, 1], [1, a_jh]], capped."""
    gradient, curvature = _gradient_and_curvature(posteriors, view)
    a, b = curvature, curvature.T
    # Keep the blocks positive: their smaller eigenvalue is (a + b)/2 − √(((a − b)/2)² + 1)
    smallest = (a + b) / 2 - (((a - b) / 2).square() + 1).sqrt()
    lift = (SMALLEST_CURVATURE - smallest).clamp(min=0)
    a, b = a + lift, b + lift
    direction = (b * gradient - gradient.T) / (a * b - 1)
    direction.diagonal().copy_(gradient.diagonal() / (1 + curvature.diagonal()))
    return direction * (CAP / direction.abs().max().clamp(min=CAP))


def _gradient_and_curvature(posteriors: Sequence[AbstractPosterior], view: _View) -> tuple[Tensor, Tensor]:
    """I − Ψ and a, both (h, h), for relative changes of V."""
    eye = torch.eye(view.scale.shape[0], dtype=torch.float64, device=view.scale.device)
    psi, a, n = torch.zeros_like(eye), torch.zeros_like(eye), 0
    for q, turned in zip(posteriors, view.turned, strict=True):
        slope = folded_normal.slopes(turned.mean, turned.std)[0]
        bend = folded_normal.curvature(turned.mean, turned.std)
        n += len(q)
        # Ψ_hj = mean[erf(ν_h/(s_h√2)) ν_j + A_νν T_hj]/λ_h
        psi += slope.T.double() @ turned.mean.double()
        psi += q.rotated_covariance_sum(view.matrix.to(bend.dtype), bend).double()
        # a_hj = mean[A_νν (ν_j² + T_jj)]/λ_h
        a += (bend.T @ (turned.mean.square() + turned.variance)).double()
    scale = n * view.scale[:, None]
    return eye - psi / scale, a / scale


def _line_search(posteriors: Sequence[AbstractPosterior], view: _View, eye: Tensor, direction: Tensor) -> _View | None:
    """Halve the step until J rises; None when it never does."""
    step = 1.0
    for _ in range(HALVINGS):
        new = _View.of(posteriors, (eye + step * direction) @ view.matrix)
        if new.objective > view.objective:
            return new
        step /= 2
    return None
