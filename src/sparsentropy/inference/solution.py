"""What an E-step returns: the posteriors, and what they cost.

Inference is a convex problem for every data point, so "converged" is something that can be known. A solver says how
many iterations it took, how many data points it has certified, and how large the largest remaining gradient is; it
never raises because it ran out of iterations, since a posterior that is not yet optimal still gives a valid lower
bound.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior


@final
@dataclass(frozen=True)
class Cost:
    """What a solve took.

    Parameters
    ----------
    iterations : int
        Largest number of iterations spent on any data point.
    largest_gradient : float
        Largest |∂bound/∂ν| over all codes, in units of the prior's largest slope 1/λ: 0 at the optimum, scale-free.
        NaN where nobody looked.
    converged : int
        Data points whose gap to the optimum was at most the tolerance when last looked at.
    rows : int
        Data points.
    """

    iterations: int
    largest_gradient: float
    converged: int
    rows: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            max(self.iterations, other.iterations),
            max(self.largest_gradient, other.largest_gradient, key=lambda gradient: (math.isnan(gradient), gradient)),
            self.converged + other.converged,
            self.rows + other.rows,
        )


@final
@dataclass(frozen=True)
class Solution:
    """Posteriors of n data points, and what they cost."""

    posterior: AbstractPosterior
    cost: Cost


class AbstractSolver(ABC):
    """Finds q for given data and parameters; a frozen value that holds the family and its constants.

    A solver serves annealing unchanged: hand it `weights.apply(parameters)` (theory, section 4).
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
        """Infer the posteriors of x.

        Parameters
        ----------
        x : Tensor, shape (n, d)
        parameters : Parameters
            In the dtype and on the device of `x`.
        start : AbstractPosterior, optional
            Warm start; only its mean and variance (and the factor of a low-rank one) are used.
        max_iter : int
            Most iterations for any data point.
        tol : float, optional
            Largest gap to the optimum of a data point, relative to 1 + the size of its own bound in nats; by default
            about what the arithmetic can tell from zero. With 0 nothing is certified and as many iterations are made
            as do what `max_iter` do on a hard problem: what learning uses between its parameter steps.

        Returns
        -------
        Solution
        """
        return self.at(parameters)(x, start=start, max_iter=max_iter, tol=tol)

    @abstractmethod
    def at(self, parameters: Parameters) -> "Inference":
        """The solver with these parameters: what depends on them alone is prepared once for many calls."""

    def with_gaps(self, parameters: Parameters) -> "Inference":
        """The solver with these parameters for data of which entries are missing (NaN), each time others.

        Raises
        ------
        ValueError
            If it needs complete data.
        """
        del parameters
        raise ValueError(
            f"{type(self).__name__} needs complete data, but entries of X are missing (NaN): "
            "use inference='iterative', or fill them in first."
        )

    def forerunner(self, h: int) -> "AbstractSolver | None":
        """A faster solver of simpler posteriors, with which learning may come near its end; None if there is none.

        It has not come near if it has found no use for some of the h atoms: these are what simpler posteriors avoid
        because of correlations that they cannot have.
        """
        del h
        return None


class Inference(Protocol):
    """A solver whose parameters are given; otherwise called as `AbstractSolver` is."""

    def __call__(
        self, x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
    ) -> Solution:
        """Infer the posteriors of x."""
        ...


def default_tolerance(dtype: torch.dtype) -> float:
    """Gap relative to 1 + the size of a bound in nats that rounding still lets a Newton step reach."""
    return 2e-9 if dtype == torch.float64 else 1e-6


def gathers(device: torch.device) -> bool:
    """Whether work that only some data points need is done on these alone.

    A graphics processor would have to tell the host how many they are, and would wait for it: there all data points do
    the work, and those that do not need it drop the result.
    """
    return device.type == "cpu"


def largest_gradient(x: Tensor, posterior: AbstractPosterior, parameters: Parameters) -> float:
    """Largest |∂bound/∂ν| in units of 1/λ: |λ wᵀ(x − Wν)/σ² − ∂E|z|/∂ν|; x may have missing entries (NaN)."""
    if len(posterior) == 0:
        return 0.0
    p = parameters
    residual = (x - posterior.mean @ p.dictionary.T).nan_to_num(0.0)
    pull = residual @ p.dictionary * (p.prior_scale / p.noise_variance)
    return float((pull - p.prior.slopes(posterior.mean, posterior.std)[0]).abs().max())
