"""The closed-form M-step: the dictionary, scales and noise that fit the statistics best.

With γ = δ = 1 the bound does not change when an atom is scaled and its codes are scaled back, so the best dictionary
is the least-squares one, W = (Σ xνᵀ)(Σ ννᵀ + T)⁻¹, and unit length is restored afterwards. With annealing weights
this symmetry is gone: the constraint must hold inside the step, and each atom in turn has an exact solution, w_h ∝ Σ
x ν_h − Σ_{j≠h} w_j S_jh. In both cases the prior scales and the noise variance then follow from the same statistics
(Theorem 2 of Velychko et al., AISTATS 2024).
"""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sparsentropy import rows
from sparsentropy.model import Parameters
from sparsentropy.objectives import PLAIN, AbstractStatistics, Statistics, Weights

Array = TypeVar("Array", Tensor, np.ndarray)

NARROW = 0.1  # λ|w|/σ below which an atom may be off
AWAY = 1e3  # σ/(λ|w|) that it is given
JITTERS, LARGEST_JITTER = (1e-12, 1e-9, 1e-6), 1e-3
SHORTEST = 1e-15  # atom that least squares may give; below lies rounding
PASSES = 3
"""Rounds over the atoms in one column-wise update; each round raises the bound."""


def update(statistics: Statistics, parameters: Parameters, weights: Weights = PLAIN) -> tuple[Parameters, Tensor]:
    """Parameters of unit-length atoms that raise the bound of the given posteriors.

    Parameters
    ----------
    statistics : Statistics
    parameters : Parameters
        The present ones, with unit-length atoms.
    weights : Weights

    Returns
    -------
    tuple of Parameters and Tensor (h,)
        The new parameters, and the factors by which codes must be multiplied to go with them (1 under annealing).
    """
    if weights.plain:
        return fit(statistics, parameters, _pointing(statistics, parameters, least_squares(statistics))).gauged()
    dictionary = columnwise(statistics, parameters.dictionary.double())
    return statistics.fit(parameters, dictionary), torch.ones_like(parameters.prior_scale)


def fit(statistics: AbstractStatistics, parameters: Parameters, dictionary: Tensor | None = None) -> Parameters:
    """λ* and σ²*, except that atoms that are off are put out of the way.

    Without codes, λ* is what λ was, whatever that is: s = √(π/2) λ, and then mean E|z| = λ. But the expected error has
    s² |w|² in it, so the bound is the higher the smaller λ. A thousandth of the noise costs less than a millionth of a
    nat, and such an atom no longer takes part in inference.

    Codes that are much smaller than the noise raise the bound by π/4 mean e², with the slope e of the prior at them,
    and s² |w|²/2σ² = π/4 (λ|w|/σ)² is what they cost. So an atom is off when it is narrow and costs more than it
    brings; one that is as narrow and brings more is growing.
    """
    fitted = statistics.fit(parameters, dictionary)
    narrow = (fitted.noise_variance.sqrt() / fitted.dictionary.norm(dim=0)).nan_to_num(posinf=0.0)
    width = fitted.prior_scale / narrow  # λ|w|/σ
    off = (width < NARROW) & (statistics.usage < width.square())
    return replace(fitted, prior_scale=torch.where(off, narrow / AWAY, fitted.prior_scale))


def _pointing(statistics: Statistics, parameters: Parameters, solved: Tensor) -> Tensor:
    """The least-squares atoms, where those of length zero keep the direction that they had.

    The codes of such an atom explain nothing, in a place without data for instance. It is made so short that it is out
    of the way at once (`fit`): with unit length its codes, as wide as the prior, would count as errors.
    """
    away = parameters.noise_variance.double().sqrt() / AWAY  # λ|w| to get to
    length = (away * statistics.n / statistics.prior_statistic).clamp(max=1.0)
    before = torch.nn.functional.normalize(parameters.dictionary.double(), dim=0)
    return torch.where(solved.norm(dim=0) < SHORTEST, length * before, solved)


def least_squares(statistics: Statistics) -> Tensor:
    """W = (Σ xνᵀ)(Σ ννᵀ + T)⁻¹, (d, h) in float64.

    Solved with every code scaled to unit second moment: codes of atoms that are switched off may be many orders
    smaller than the rest.
    """
    return solved(statistics.cross, statistics.second_moment)


def solved(cross: Tensor, second_moment: Tensor) -> Tensor:
    """Σ xνᵀ (d, h) times the inverse of Σ ννᵀ + T (h, h)."""
    factor, scale = correlation_factor(second_moment)
    return torch.cholesky_solve((cross / scale).T, factor).T / scale


def correlation_factor(second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor L of a second moment S scaled to unit diagonal, S = D L Lᵀ D, and the diagonal of D (h,)."""
    diagonal = second_moment.diagonal()
    # After a turn, rounding may leave less than nothing of codes that are hardly there
    scale = torch.where(diagonal > 0, diagonal, torch.finfo(diagonal.dtype).eps * diagonal.max()).sqrt()
    correlation = second_moment / scale / scale[:, None]
    eye = torch.eye(correlation.shape[0], dtype=correlation.dtype, device=correlation.device)
    for jitter in JITTERS:
        factor, failed = torch.linalg.cholesky_ex(correlation + jitter * eye)
        if not bool(failed):
            return factor, scale
    # Codes go together, and float32 has rounded what is between them, beyond what a covariance can be
    beyond = -torch.linalg.eigvalsh(correlation)[0].clamp(max=0.0)
    return torch.linalg.cholesky(correlation + (LARGEST_JITTER + 2 * beyond) * eye), scale


def columnwise(statistics: Statistics, dictionary: Tensor) -> Tensor:
    """Unit-length atoms, each in turn at its exact optimum given the others, (d, h) in float64."""
    W = dictionary.clone()
    S = statistics.second_moment
    for _ in range(PASSES):
        for atom in range(W.shape[1]):
            # Σ x ν_h − Σ_{j≠h} w_j S_jh
            pull = statistics.cross[:, atom] - W @ S[:, atom] + W[:, atom] * S[atom, atom]
            length = pull.norm()
            if length > 0:
                W[:, atom] = pull / length
    return W


def above_noise(prior_scale: Array, noise_variance: Any) -> Array:
    """Return whether each atom of unit length is in use, (h,): whether its codes stand out of the noise.

    Parameters
    ----------
    prior_scale : Tensor or ndarray, shape (h,)
        Data units.
    noise_variance : Tensor or float
        Data units squared.

    Examples
    --------
    >>> above_noise(torch.tensor([2.0, 0.01]), 1.0)
    tensor([ True, False])
    """
    return prior_scale >= NARROW * noise_variance**0.5


def in_use(parameters: Parameters) -> int:
    """Return the number of atoms that are in use."""
    return int(above_noise(parameters.prior_scale, parameters.noise_variance).sum())


def floored(parameters: Parameters, unit: float) -> Parameters:
    """Keep scales and noise away from zero, where the arithmetic ends; `unit` is the typical size of the data.

    An atom that is not needed shrinks by a constant factor at every sweep and would underflow; exactly explained data
    have no noise at all. Both floors lie far below anything that could be seen in the data.
    """
    unit = rows.power_of_two(unit)
    return replace(
        parameters,
        prior_scale=parameters.prior_scale.clamp(min=1e-7 * unit),
        noise_variance=parameters.noise_variance.clamp(min=least_noise(parameters.dictionary.dtype) * unit**2),
    )


def least_noise(dtype: torch.dtype) -> float:
    """Return the noise variance that data of size 1 have at least in this arithmetic."""
    return max(0.1 * torch.finfo(dtype).eps, 1e-12)
