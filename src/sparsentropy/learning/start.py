"""Where learning begins: the best linear model with Gaussian codes, turned at random.

Probabilistic principal component analysis has a closed form (Tipping and Bishop, "Probabilistic Principal Component
Analysis", JRSS B 1999): the noise variance is the mean of the discarded eigenvalues of the data's second moment, and
the dictionary spans the kept ones, up to a rotation that Gaussian codes cannot see. Started there, with a random
rotation, sparse coding has the scale of everything right from the first sweep and need only find the directions; and
no atom begins its life in a place without data, where it would be switched off before it could learn. With as many
atoms as dimensions or more, atoms are drawn from the data's second moment.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from sparsentropy.model import Parameters

OFF = 0.05  # of the largest prior scale: an atom below is off
MISSED = 2.0  # times what sampling alone would show
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
    return _from_second_moment(data.T @ data / data.shape[0], h, generator).to(x.dtype)


def revive(error: Tensor, n: int, parameters: Parameters, generator: torch.Generator) -> Parameters | None:
    """Give atoms that have been switched off a new start where the model still misses something.

    An atom whose scale has become small grows back only as slowly as it shrank, even where it is needed. If noise is
    all that is left, the expected error has the same variance in all directions, up to sampling (the edge of the
    Marchenko-Pastur law); directions beyond that are what the atoms are started from again, in the same way as all
    were at the beginning.

    Parameters
    ----------
    error : Tensor, shape (d, d)
        mean_n E[(x − Wz)(x − Wz)ᵀ], float64.
    n : int
        Data points it was averaged over.
    parameters : Parameters
    generator : torch.Generator

    Returns
    -------
    Parameters or None
        None when no atom is off, or nothing is missing.
    """
    off = torch.nonzero(parameters.prior_scale < OFF * parameters.prior_scale.max()).ravel()
    eigenvalues, eigenvectors = torch.linalg.eigh(error)
    noise = eigenvalues.quantile(0.25)
    edge = noise * (1 + math.sqrt(parameters.d / n)) ** 2
    missed = int((eigenvalues > MISSED * edge).sum())
    if len(off) == 0 or missed == 0:
        return None
    off = off[: min(len(off), missed)]
    fresh = _rotated(eigenvalues[-len(off) :] - noise, eigenvectors[:, -len(off) :], len(off), generator)
    scale, length = torch.full_like(fresh[0], math.sqrt(0.5)), fresh.norm(dim=0)
    dictionary, prior_scale = parameters.dictionary.clone(), parameters.prior_scale.clone()
    dictionary[:, off] = (fresh / length).to(dictionary.dtype)
    prior_scale[off] = (scale * length).to(prior_scale.dtype)
    return replace(parameters, dictionary=dictionary, prior_scale=prior_scale)


def _from_second_moment(moment: Tensor, h: int, generator: torch.Generator) -> Parameters:
    d = moment.shape[0]
    eigenvalues, eigenvectors = torch.linalg.eigh(moment)  # ascending
    discarded = d - h if h < d else max(1, d // 2)
    noise = eigenvalues[:discarded].mean().clamp(min=SMALLEST_NOISE * eigenvalues[-1])
    kept = min(h, d)
    signal = (eigenvalues[-kept:] - noise).clamp(min=0) + 0.01 * noise
    dictionary = _rotated(signal, eigenvectors[:, -kept:], h, generator)
    # A Laplace code of scale λ has variance 2λ²
    scale = torch.full((h,), math.sqrt(0.5), dtype=torch.float64, device=moment.device)
    return Parameters(dictionary, scale, noise).gauged()[0]


def _rotated(signal: Tensor, eigenvectors: Tensor, h: int, generator: torch.Generator) -> Tensor:
    """Atoms (d, h) with W Wᵀ = Σ signal_i v_i v_iᵀ, turned at random."""
    shape = (h, signal.shape[0])
    directions = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device)
    # R Rᵀ = I: a rotation for as many atoms as directions, a random frame for more
    frame = torch.linalg.qr(directions.to(signal.device)).Q.T
    return eigenvectors @ (signal.sqrt()[:, None] * frame)
