"""Where learning begins: the best linear model with Gaussian codes, turned at random.

Probabilistic principal component analysis has a closed form (Tipping and Bishop, "Probabilistic Principal Component
Analysis", JRSS B 1999): the noise variance is the mean of the discarded eigenvalues of the data's second moment, and
the dictionary spans the kept ones, up to a rotation that Gaussian codes cannot see. Started there, with a random
rotation, sparse coding has the scale of everything right from the first sweep and need only find the directions; and
no atom begins its life in a place without data, where it would be switched off before it could learn. With as many
atoms as dimensions or more, atoms are drawn from the data's second moment.
"""

import math

import torch
from torch import Tensor

from sparsentropy.model import Parameters

SMALLEST_NOISE = 1e-6  # of the largest eigenvalue; data may lie in a subspace exactly


def random_start(x: Tensor, h: int, generator: torch.Generator) -> Parameters:
    """Parameters to start from, in the dtype of `x`.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    h : int
        Atoms.
    generator : torch.Generator
        Draws the rotation.

    Returns
    -------
    model : Parameters
        With unit-length atoms and prior scales such that the model has the second moment of the data.
    """
    data = x.double()
    d = data.shape[1]
    eigenvalues, eigenvectors = torch.linalg.eigh(data.T @ data / data.shape[0])  # ascending
    discarded = d - h if h < d else max(1, d // 2)
    noise = eigenvalues[:discarded].mean().clamp(min=SMALLEST_NOISE * eigenvalues[-1])
    kept = eigenvalues[-min(h, d) :]
    signal = (kept - noise).clamp(min=0) + 0.01 * noise
    directions = torch.randn(kept.shape[0], h, dtype=torch.float64, generator=generator, device=generator.device)
    rotation = _rotation(directions.to(x.device))
    dictionary = eigenvectors[:, -kept.shape[0] :] @ (signal.sqrt()[:, None] * rotation)
    # A Laplace code of scale λ has variance 2λ²
    scale = torch.full((h,), math.sqrt(0.5), dtype=torch.float64, device=x.device)
    return Parameters(dictionary, scale, noise).gauged()[0].to(x.dtype)


def _rotation(directions: Tensor) -> Tensor:
    """Random (k, h) matrix R with R Rᵀ = I: orthogonal for h = k, a random frame for h > k."""
    return torch.linalg.qr(directions.T).Q.T
