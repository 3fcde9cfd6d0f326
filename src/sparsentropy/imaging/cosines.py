"""Cosines: the coordinates in which patches of images are sparse before anything has been learned.

The type-two discrete cosine transform in both directions of a patch, and across its colours, so that the first channel
is lightness. It is orthonormal: white noise stays white.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

Array = NDArray[np.floating]


def transform(n: int) -> Array:
    """Orthonormal cosines of 0, 1, 2, … half waves over n points, as rows."""
    return np.asarray(dct(np.eye(n), axis=0, norm="ortho"))


def cosines(size: int, channels: int = 1) -> Array:
    """All cosines of a patch but those that are constant in each channel.

    Parameters
    ----------
    size : int
        Side of the patch in pixels.
    channels : int

    Returns
    -------
    ndarray, shape (channels · (size² − 1), size² · channels)
        Orthonormal rows, for patches flattened with their channels last.

    Examples
    --------
    >>> basis = cosines(8, 3)
    >>> basis.shape
    (189, 192)
    >>> bool(np.allclose(basis @ basis.T, np.eye(189)))
    True
    """
    each = transform(size)
    return np.kron(np.kron(each, each), transform(channels))[channels:]


def fine_cosines(size: int, share: float) -> Array:
    """The share of the cosines of a grey patch that wave most, (k, size²)."""
    waves = np.add.outer(np.arange(size), np.arange(size)).ravel()[1:]
    finest = np.argsort(-waves, kind="stable")[: round(share * size**2)]
    return cosines(size)[finest]
