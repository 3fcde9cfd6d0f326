"""The simplest of the models to compare with: Gaussian codes, for which everything is known in closed form.

This is probabilistic principal component analysis (Tipping and Bishop, "Probabilistic Principal Component Analysis",
JRSS B 1999). Its log likelihood is exact, where sparse codes have a lower bound, and its atoms are any basis of the
subspace that it has found: Gaussian codes cannot see a rotation.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class LinearGaussian:
    """x = W z + noise with z from a standard normal distribution.

    Parameters
    ----------
    dictionary : Tensor, shape (d, h)
        W, data units; its columns are orthogonal where it was fitted.
    noise_variance : Tensor, shape ()
        σ², data units squared.

    Examples
    --------
    >>> truth = LinearGaussian(torch.tensor([[2.0], [0.0], [0.0]]), torch.tensor(0.25))
    >>> generator = torch.Generator().manual_seed(0)
    >>> codes, noise = torch.randn(5000, 1, generator=generator), torch.randn(5000, 3, generator=generator)
    >>> found = LinearGaussian.fitted(codes @ truth.dictionary.T + 0.5 * noise, 1)
    >>> round(float(found.dictionary.norm()), 1), round(float(found.noise_variance) ** 0.5, 1)
    (2.0, 0.5)
    """

    dictionary: Tensor
    noise_variance: Tensor

    @classmethod
    def fitted(cls, x: Tensor, h: int) -> "LinearGaussian":
        """The parameters of highest likelihood.

        Parameters
        ----------
        x : Tensor, shape (n, d)
            Their mean is taken to be zero, as in sparse coding.
        h : int
            Atoms, fewer than there are dimensions.

        Returns
        -------
        LinearGaussian
            In float64.

        Raises
        ------
        ValueError
            If h is not between 1 and d − 1.
        """
        n, d = x.shape
        if not 1 <= h < d:
            raise ValueError(f"LinearGaussian.fitted: h must lie between 1 and {d - 1}; got {h}.")
        eigenvalues, directions = torch.linalg.eigh(x.double().T @ x.double() / n)  # ascending
        noise = eigenvalues[:-h].mean()  # σ² is the mean of the discarded ones (equation 8)
        signal = (eigenvalues[-h:] - noise).clamp(min=0).flip(0)
        return cls(directions[:, -h:].flip(1) * signal.sqrt(), noise)  # W = U (Λ − σ²)^½ (equation 7)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log p(x_n), exact.

        Parameters
        ----------
        x : Tensor, shape (n, d)

        Returns
        -------
        Tensor, shape (n,)
            Nats, float64.
        """
        W = self.dictionary.double()
        eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
        covariance = W @ W.T + self.noise_variance.double() * eye  # of x, codes integrated out
        return torch.distributions.MultivariateNormal(torch.zeros_like(W[:, 0]), covariance).log_prob(x.double())
