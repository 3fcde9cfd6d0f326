"""Several noise levels at once: energies that are chi-square times one of a few variances.

Each energy is the mean square of some coefficients, as many as it has degrees of freedom. The variances and how often
they occur are found by expectation maximisation, and how many there are is Akaike's choice.
"""

import math

import numpy as np
from numpy.typing import NDArray

MOST, RARE, STEPS = 6, 0.05, 100

Array = NDArray[np.floating]


def smallest(energy: Array, degrees: Array, independent: float) -> float:
    """The smallest variance that is not rare.

    Parameters
    ----------
    energy : ndarray, shape (n,)
        Mean squares.
    degrees : ndarray, shape (n,)
        Of how many coefficients each of them is the mean.
    independent : float
        How many independent ones say as much as these.

    Returns
    -------
    float
    """
    energy = np.maximum(energy, np.finfo(np.float64).tiny)
    fits = [_fit(energy, degrees, k) for k in range(1, MOST + 1)]
    # n log likelihood − unknowns: k variances and k − 1 shares
    variance, share, _ = max(fits, key=lambda fit: fit[2] * independent - (2 * len(fit[0]) - 1))
    return float(variance[share > RARE].min())


def _fit(energy: Array, degrees: Array, k: int) -> tuple[Array, Array, float]:
    """Variances and shares of Σ π Gamma(degrees/2, 2v/degrees) with k terms, and the mean log likelihood.

    The latter without what does not depend on the scales.
    """
    variance, share = np.quantile(energy, np.linspace(0.1, 0.95, k) if k > 1 else [0.5]), np.full(k, 1 / k)
    tiny, likelihood, half = np.finfo(np.float64).tiny, -math.inf, degrees[:, None] / 2
    for _ in range(STEPS):
        # log π − k/2 (log v + e/v)
        score = np.log(share) - half * (np.log(variance) + energy[:, None] / variance)
        largest = score.max(1, keepdims=True)
        weight = np.exp(score - largest)
        total = weight.sum(1, keepdims=True)
        likelihood = float((largest + np.log(total)).mean())
        weight /= total
        share = np.maximum(weight.sum(0), tiny) / len(energy)
        weight *= degrees[:, None]
        variance = np.maximum(weight.T @ energy / np.maximum(weight.sum(0), tiny), tiny)
    return variance, share, likelihood
