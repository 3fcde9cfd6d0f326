"""How data arise from codes: a linear map and noise.

A likelihood owns the product W z and what is expected of it under a Gaussian posterior. Only the mean squared error
enters, the noise variance that fits it best has a closed form, and at that variance the expected log likelihood is
minus the entropy of the noise (Theorem 1 and 2 of Velychko et al., AISTATS 2024).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


class AbstractLikelihood(ABC):
    """Noise with one free scale around the linear map x ≈ W z; d is the number of entries that were observed."""

    @abstractmethod
    def fit(self, mean_error: Tensor, d: int | Tensor) -> Tensor:
        """Noise variance σ²* from the mean expected squared error of a data point."""

    @abstractmethod
    def entropy(self, noise_variance: Tensor, d: int | Tensor) -> Tensor:
        """H[p(x|z; σ²)] in nats: a scalar."""

    @abstractmethod
    def expected_log_prob(self, error: Tensor, noise_variance: Tensor, d: int | Tensor) -> Tensor:
        """E log p(x|z; σ²) in nats from the expected squared error of each data point."""

    @abstractmethod
    def log_prob(self, x: Tensor, codes: Tensor, dictionary: Tensor, noise_variance: Tensor) -> Tensor:
        """Log p(x|z) in nats for data (n, d) and codes (..., n, h), (..., n); entries that are NaN are left out."""

    @abstractmethod
    def sample(self, codes: Tensor, dictionary: Tensor, noise_variance: Tensor, generator: torch.Generator) -> Tensor:
        """Draw data (n, d) for codes (n, h)."""


@final
@dataclass(frozen=True)
class Gaussian(AbstractLikelihood):
    """p(x|z) = N(x; W z, σ² I), the likelihood of the paper (section 2).

    Examples
    --------
    >>> import torch
    >>> Gaussian().fit(torch.tensor(6.0), d=3)
    tensor(2.)
    """

    def fit(self, mean_error: Tensor, d: int | Tensor) -> Tensor:
        """σ²* = mean_n E|x_n − W z_n|² / d (Theorem 2)."""
        return mean_error / d

    def entropy(self, noise_variance: Tensor, d: int | Tensor) -> Tensor:
        """d/2 log(2πe σ²)."""
        return d / 2 * torch.log(2 * math.pi * math.e * noise_variance)

    def expected_log_prob(self, error: Tensor, noise_variance: Tensor, d: int | Tensor) -> Tensor:
        """−d/2 log(2πσ²) − E|x − W z|²/2σ²."""
        return -d / 2 * torch.log(2 * math.pi * noise_variance) - error / (2 * noise_variance)

    def log_prob(self, x: Tensor, codes: Tensor, dictionary: Tensor, noise_variance: Tensor) -> Tensor:
        """Log N(x; W z, σ² I)."""
        error = (x - codes @ dictionary.T).square().nansum(-1)
        return self.expected_log_prob(error, noise_variance, (~x.isnan()).sum(-1).to(x.dtype))

    def sample(self, codes: Tensor, dictionary: Tensor, noise_variance: Tensor, generator: torch.Generator) -> Tensor:
        """W z plus noise."""
        clean = codes @ dictionary.T
        noise = torch.empty_like(clean).normal_(generator=generator)
        return clean + noise_variance.sqrt() * noise
