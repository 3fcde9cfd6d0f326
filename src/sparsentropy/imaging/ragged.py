"""What the smoothest cosines leave of patches with gaps.

Where pixels are missing, cosines are no longer orthogonal and fine ones cannot be read off. So the smooth ones are
fitted to the known pixels by least squares, fewer of them where less is known, and what is left over is rough.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sparsentropy.imaging.cosines import transform

FITTED = 0.5  # cosines for each known pixel, at most
LEAST = 8  # known pixels
TOGETHER = 512

Array = NDArray[np.floating]


def roughness(patches: Array, known: NDArray[np.bool_], size: int) -> tuple[Array, Array]:
    """Mean square of what is left of each patch.

    Parameters
    ----------
    patches : ndarray, shape (n, size²)
        Anything finite where pixels are not known.
    known : ndarray of bool, shape (n, size²)
    size : int

    Returns
    -------
    energy, degrees : ndarray, shape (k,)
        For patches with at least 8 known pixels: squares divided by degrees of freedom, and these.
    """
    smooth, count = _smoothest_first(size), known.sum(1)
    energies, degrees = [], []
    fitted = np.array([_triangular(FITTED * m) if m >= LEAST else 0 for m in range(size**2 + 1)])[count]
    for q in np.unique(fitted[fitted > 0]):
        which = np.flatnonzero(fitted == q)
        for part in np.array_split(which, math.ceil(len(which) / TOGETHER)):
            seen = known[part]
            direction, _ = np.linalg.qr(seen[:, :, None] * smooth[:, :q])
            x = np.where(seen, patches[part], 0).astype(np.float64)
            rest = x - (direction @ (x[:, None, :] @ direction).swapaxes(1, 2))[:, :, 0]
            degrees.append(count[part] - q)
            energies.append(np.square(rest).sum(1) / degrees[-1])
    return np.concatenate(energies or [np.zeros(0)]), np.concatenate(degrees or [np.zeros(0)])


def _smoothest_first(size: int) -> Array:
    """All cosines of a patch as columns, (size², size²), ordered by the half waves of both directions together."""
    each = transform(size)
    waves = np.add.outer(np.arange(size), np.arange(size)).ravel()
    return np.kron(each, each)[np.argsort(waves, kind="stable")].T


def _triangular(most: float) -> int:
    """The largest 1 + 2 + … + n that is no larger: all cosines of fewer than n half waves."""
    n = int((math.sqrt(8 * most + 1) - 1) / 2)
    return n * (n + 1) // 2
