"""What a code looks like before any data is seen.

A prior is a few formulas without state. It asks a posterior for one named moment (for Laplace: E|z|), and from the
average of that moment over the data it finds its own scale in closed form. At that scale the expected log prior is
minus the prior's entropy, which is half of the reason why the objective is a sum of entropies (Theorem 2 and 3 of
Velychko et al., AISTATS 2024). To add a prior, write one class here and give the posteriors the moment it asks for.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from sparsentropy import folded_normal


class HasAbsMoment(Protocol):
    """Anything that knows E|z|."""

    def abs_moment(self) -> Tensor:
        """E|z|, (n, h)."""
        ...


class AbstractPrior(ABC):
    """A factorised prior over codes with one free scale λ_h for every atom."""

    @abstractmethod
    def statistic(self, posterior: HasAbsMoment) -> Tensor:
        """Expected sufficient statistic of every code, (n, h)."""

    @abstractmethod
    def slopes(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of the statistic in the posterior mean ν and standard deviation s."""

    @abstractmethod
    def statistic_and_slope(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """The statistic and its slope in the posterior mean, which have most of their arithmetic in common."""

    @abstractmethod
    def fit(self, mean_statistic: Tensor) -> Tensor:
        """Scale λ* (h,) that maximises the expected log prior, from the mean statistic (h,)."""

    @abstractmethod
    def entropy(self, scale: Tensor) -> Tensor:
        """H[p(z; λ)] in nats, summed over the atoms: a scalar."""

    @abstractmethod
    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """E log p(z; λ) in nats from the expected statistic (..., h), summed over the atoms: (...)."""

    @abstractmethod
    def log_prob(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Log p(z; λ) in nats of codes (..., h), summed over the atoms: (...)."""

    @abstractmethod
    def sample(self, n: int, scale: Tensor, generator: torch.Generator) -> Tensor:
        """Draw (n, h) codes."""


@final
@dataclass(frozen=True)
class Laplace(AbstractPrior):
    """p(z; λ) = Π_h exp(−|z_h|/λ_h) / (2 λ_h), the sparse prior of the paper (section 2).

    Examples
    --------
    >>> import torch
    >>> Laplace().fit(torch.tensor([0.5, 2.0]))
    tensor([0.5000, 2.0000])
    >>> round(float(Laplace().entropy(torch.tensor([0.5]))), 4)  # log(2e · 0.5)
    1.0
    """

    def statistic(self, posterior: HasAbsMoment) -> Tensor:
        """E|z_h|, (n, h)."""
        return posterior.abs_moment()

    def slopes(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """∂E|z|/∂ν and ∂E|z|/∂s."""
        return folded_normal.slopes(mean, std)

    def statistic_and_slope(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """E|z| = ν ∂E|z|/∂ν + s ∂E|z|/∂s, since it is homogeneous, and ∂E|z|/∂ν."""
        slope, in_std = folded_normal.slopes(mean, std)
        return torch.addcmul(mean * slope, std, in_std), slope

    def fit(self, mean_statistic: Tensor) -> Tensor:
        """λ_h* = mean_n E|z_nh| (Theorem 2)."""
        return mean_statistic

    def entropy(self, scale: Tensor) -> Tensor:
        """Σ_h log(2e λ_h)."""
        return torch.log(2 * math.e * scale).sum()

    def expected_log_prob(self, statistic: Tensor, scale: Tensor) -> Tensor:
        """−Σ_h [log 2λ_h + E|z_h|/λ_h]."""
        return -(torch.log(2 * scale) + statistic / scale).sum(-1)

    def log_prob(self, codes: Tensor, scale: Tensor) -> Tensor:
        """−Σ_h [log 2λ_h + |z_h|/λ_h]."""
        return self.expected_log_prob(codes.abs(), scale)

    def sample(self, n: int, scale: Tensor, generator: torch.Generator) -> Tensor:
        """Draw codes as the difference of two exponentials with mean λ."""
        shape = (2, n, scale.shape[0])
        exponential = torch.empty(shape, dtype=scale.dtype, device=scale.device).exponential_(generator=generator)
        return scale * (exponential[0] - exponential[1])
