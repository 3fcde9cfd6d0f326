"""What every posterior answers, and what all Gaussians share.

An objective, a learning step or a user asks these questions and never which kind of posterior it was given. All answers
are about n data points at once, the first axis being the data point.
"""

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from sparsentropy import folded_normal


class AbstractPosterior(ABC):
    """n Gaussians over codes of h atoms."""

    mean: Tensor
    """ν, (n, h), code units."""
    variance: Tensor
    """diag(T_n), (n, h), code units squared."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """T_n, (n, h, h), dense; ask for it only if it fits into memory."""

    @abstractmethod
    def covariance_sum(self) -> Tensor:
        """Σ_n T_n, (h, h), in float64: tr(WᵀW Σ_n T_n) may be far smaller than Σ_n T_n itself."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """H[q_n] = ½ log det(2πe T_n) in nats, (n,)."""

    @abstractmethod
    def spread(self, dictionary: Tensor) -> Tensor:
        """tr(WᵀW T_n), (n,): the part of the expected squared error that comes from not knowing the codes."""

    @abstractmethod
    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """diag(W T_n Wᵀ), (n, d): how well each entry of W z is known, data units squared."""

    @abstractmethod
    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nd (W T_n)_dh for weights b (n, d): (d, h), in float64."""

    @abstractmethod
    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """K draws of z − ν, (k, n, h)."""

    @abstractmethod
    def log_prob(self, codes: Tensor) -> Tensor:
        """Log q_n(z) in nats of codes (k, n, h): (k, n)."""

    @abstractmethod
    def rotated(self, matrix: Tensor) -> "AbstractPosterior":
        """A posterior with mean V ν and the marginal variances of V T Vᵀ, to start the next E-step from."""

    @abstractmethod
    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nh (V T_n Vᵀ)_hj for weights b (n, h): (h, h)."""

    @abstractmethod
    def scaled(self, factor: Tensor) -> Self:
        """The posterior of the codes times `factor` (h,)."""

    @abstractmethod
    def __getitem__(self, rows: slice | Tensor) -> Self:
        """The posteriors of some data points."""

    def __len__(self) -> int:
        return self.mean.shape[0]

    @property
    def std(self) -> Tensor:
        """Marginal standard deviations s, (n, h)."""
        return self.variance.sqrt()

    def abs_moment(self) -> Tensor:
        """E|z|, (n, h): all that a Laplace prior asks for."""
        return folded_normal.mean(self.mean, self.std)

    def second_moment_sum(self) -> Tensor:
        """Σ_n ν_n ν_nᵀ + T_n, (h, h), in float64."""
        return self.mean.T @ self.mean + self.covariance_sum()

    def sample(self, k: int, seed: int | torch.Generator = 0) -> Tensor:
        """Draw codes.

        Parameters
        ----------
        k : int
            Draws for every data point.
        seed : int or torch.Generator
            Seed, or a generator on the device of the posterior.

        Returns
        -------
        Tensor, shape (k, n, h)
        """
        generator = seed
        if not isinstance(generator, torch.Generator):
            generator = torch.Generator(self.mean.device).manual_seed(generator)
        return self.mean + self.noise(k, generator)

    def interval(self, p: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central credible interval of every code.

        Parameters
        ----------
        p : float
            Probability inside, 0 < p < 1.

        Returns
        -------
        tuple of Tensor, each (n, h)
            Lower and upper end, code units.

        Raises
        ------
        ValueError
            If p is not between 0 and 1.
        """
        if not 0 < p < 1:
            raise ValueError(f"interval: p must lie between 0 and 1, exclusive; got {p=}.")
        # P(|z − ν| < t s) = erf(t/√2)
        half_width = folded_normal.SQRT_2 * torch.erfinv(torch.tensor(p, dtype=torch.float64)).item() * self.std
        return self.mean - half_width, self.mean + half_width


def gaussian_entropy(log_det: Tensor, h: int) -> Tensor:
    """½ [log det T + h log 2πe] in nats."""
    return 0.5 * (log_det + h * math.log(2 * math.pi * math.e))


def gaussian_log_prob(distance: Tensor, log_det: Tensor, h: int) -> Tensor:
    """−½ [(z − ν)ᵀT⁻¹(z − ν) + log det T + h log 2π]."""
    return -0.5 * (distance + log_det + h * math.log(2 * math.pi))


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the dtype and on the device of another tensor."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
