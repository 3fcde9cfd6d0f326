"""A model for data of many kinds: in each *context* the codes have variances of their own.

The dictionary and the noise are shared. A context says which atoms are used and how strongly, as in a flat region of an
image, at an edge of some direction, or in a texture; every data point is in one of them, but nobody knows in which. So
the prior of the codes is a mixture of Gaussians, p(z) = Σ_c π_c N(z; 0, diag v_c), with heavier tails than a Laplacian,
and with atoms that are switched on and off together. Data have the covariance

    C_c = W diag(v_c) Wᵀ + σ² I

in a context. The likelihood of data is exact. Contexts that are hardly probable for a data point are neglected when its
codes are asked for, and what is left counts as if it were all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

ROWS = 16384  # data points that are worked on at once
LEAST = 1e-3  # probability of a context below which it is neglected


@final
@dataclass(frozen=True)
class Contexts:
    """Gaussian models with the same dictionary and noise, and how often each applies.

    Parameters
    ----------
    dictionary : Tensor, shape (d, h)
        W; its columns are the atoms.
    prior_variance : Tensor, shape (k, h)
        v, of every code in every context, data units squared.
    noise_variance : float
        σ², data units squared.
    share : Tensor, shape (k,)
        π, prior probability of every context.

    Examples
    --------
    >>> import torch
    >>> variances = torch.tensor([[0.01, 0.01], [4.0, 4.0]])  # silence and speech
    >>> contexts = Contexts(torch.eye(2), variances, 0.01, torch.tensor([0.5, 0.5]))
    >>> contexts.log_joint(torch.tensor([[0.1, -0.1], [2.0, 0.0]])).argmax(1)
    tensor([0, 1])
    """

    dictionary: Tensor
    prior_variance: Tensor
    noise_variance: float
    share: Tensor

    def __len__(self) -> int:
        return len(self.share)

    @cached_property
    def models(self) -> tuple["InContext", ...]:
        """What is known of data and codes in every context."""
        return tuple(InContext.of(self.dictionary, v, self.noise_variance) for v in self.prior_variance)

    def with_noise(self, variance: float) -> "Contexts":
        """The same signals under other noise."""
        return replace(self, noise_variance=variance)

    def log_joint(self, x: Tensor) -> Tensor:
        """Log π_c p(x_n | c), (n, k) in nats."""
        scores = x.new_empty(len(x), len(self))
        for context, (model, share) in enumerate(zip(self.models, self.share.log().tolist(), strict=True)):
            torch.add(model.log_prob(x), share, out=scores[:, context])
        return scores

    def members(self, probability: Tensor) -> Iterator[tuple["InContext", Tensor, Tensor]]:
        """Every context's model, the data points that may be in it, and the probability (m, 1) that each is.

        Of the probabilities (n, k) only those above zero are looked at; see `probable`.
        """
        for context, model in enumerate(self.models):
            rows = probability[:, context].nonzero().ravel()
            yield model, rows, probability[rows, context, None]

    def denoised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of Wz (n, d), of what the data would be without noise, and its variance (n,) summed over dimensions."""
        mean, square = torch.zeros_like(x), x.new_zeros(len(x))
        for part, mean_part, square_part in zip(x.split(ROWS), mean.split(ROWS), square.split(ROWS), strict=True):
            for model, rows, weight in self.members(probable(self.log_joint(part))):
                clean = part[rows] @ model.filter
                mean_part.index_add_(0, rows, weight * clean)
                # The variance of a mixture: mean of variances, plus the variance of means
                square_part.index_add_(0, rows, weight[:, 0] * (clean.square().sum(1) + model.clean_variance))
        return mean, (square - mean.square().sum(1)).clamp_(min=0)


def probable(log_joint: Tensor) -> Tensor:
    """Return the probability of each context, (n, k): 0 for those that are hardly probable, and 1 for all together.

    Parameters
    ----------
    log_joint : Tensor, shape (n, k)
        Nats.

    Examples
    --------
    >>> probable(torch.tensor([[0.0, -1.0, -10.0]])).round(decimals=3)
    tensor([[0.7310, 0.2690, 0.0000]])
    """
    probability = torch.softmax(log_joint, 1)
    probability[probability < LEAST] = 0
    return probability / probability.sum(1, keepdim=True)


@final
@dataclass(frozen=True)
class InContext:
    """One Gaussian model: data N(0, C), codes N(P x, T); computed in float64, kept in the dtype of the dictionary.

    Parameters
    ----------
    whitener : Tensor, shape (d, d)
        A with C⁻¹ = A Aᵀ.
    constant : float
        −½ log det 2πC.
    gain : Tensor, shape (h, d)
        P = V Wᵀ C⁻¹.
    covariance : Tensor, shape (h, h)
        T = V − P W V, float64.
    dictionary : Tensor, shape (d, h)
        W.
    """

    whitener: Tensor
    constant: float
    gain: Tensor
    covariance: Tensor
    dictionary: Tensor

    @classmethod
    def of(cls, dictionary: Tensor, prior_variance: Tensor, noise_variance: float) -> "InContext":
        """From W (d, h), v (h,) and σ²."""
        W, v, dtype = dictionary.double(), prior_variance.double(), dictionary.dtype
        eye = torch.eye(W.shape[0], dtype=torch.float64, device=W.device)
        factor = torch.linalg.cholesky((W * v) @ W.T + noise_variance * eye)
        whitener = torch.linalg.solve_triangular(factor, eye, upper=False).T
        seen = W.T @ whitener  # WᵀA
        gain = v[:, None] * (seen @ whitener.T)
        covariance = torch.diag(v) - v[:, None] * (seen @ seen.T) * v
        constant = -float(factor.diagonal().log().sum()) - W.shape[0] / 2 * math.log(2 * math.pi)
        return cls(whitener.to(dtype), constant, gain.to(dtype), covariance, dictionary)

    @cached_property
    def filter(self) -> Tensor:
        """(W P)ᵀ, (d, d): from data to their mean without noise."""
        return (self.dictionary @ self.gain).T

    @cached_property
    def clean_variance(self) -> float:
        """Trace of W T Wᵀ."""
        W = self.dictionary.double()
        return max(0.0, float(((W @ self.covariance) * W).sum()))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log N(x; 0, C), (n,) in nats."""
        return self.constant - torch.cat([(part @ self.whitener).square().sum(1) for part in x.split(ROWS)]) / 2
