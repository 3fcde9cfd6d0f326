"""How wrong the average of overlapping patches is: less than a patch, by as much as the patches disagree.

Let estimates x̂_p of a pixel have the weights w_p, which sum to 1, and the mean x̂. Whatever the truth x is,

    (x̂ − x)² = Σ_p w_p (x̂_p − x)² − Σ_p w_p (x̂_p − x̂)²,

and a patch expects its first term to be its posterior variance (Krogh and Vedelsby, "Neural network ensembles, cross
validation, and active learning", NIPS 1994).
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

from sparsentropy.imaging.overlaps import Average, Grid

Array = NDArray[np.floating]
LEAST = 0.25  # of the variance of a patch: at a single pixel patches may disagree by chance


@final
class Spread:
    """Variance of the pixels of an average, means over channels.

    Parameters
    ----------
    grid : Grid
    reference : ndarray, shape (rows, columns, channels)
        Any image that is not far off, so that squares of small numbers are added.

    Examples
    --------
    >>> grid, flat = Grid((4, 6, 1), size=4, stride=2), np.zeros((4, 6, 1), np.float32)
    >>> average, spread = Average(grid), Spread(grid, flat)
    >>> patches, weight = np.repeat([[1.0], [-1.0]], 16, axis=1), np.ones((2, 16))
    >>> average.add(grid.rows, patches, weight)
    >>> spread.add(grid.rows, patches, np.full((2, 16), 2.0), weight)
    >>> spread.variance(average.image())[0]
    array([2., 2., 1., 1., 2., 2.], dtype=float32)
    """

    def __init__(self, grid: Grid, reference: Array) -> None:
        self.grid, self.reference = grid, reference
        self.own, self.apart = Average(grid, channels=1), Average(grid, channels=1)

    def add(self, band: NDArray[np.intp], patches: Array, variance: Array, weight: Array) -> None:
        """Add the patches of a band (n, size² · channels), their variance (n, size²) and weight (n,) or (n, size²)."""
        apart = np.square(patches - self.grid.patches(self.reference, band))
        self.own.add(band, variance, weight)
        self.apart.add(band, apart.reshape(len(patches), self.grid.size**2, -1).mean(2), weight)

    def variance(self, mean: Array) -> Array:
        """Variance of every pixel (rows, columns), given the average (rows, columns, channels)."""
        own = self.own.image()[:, :, 0]
        disagreement = self.apart.image()[:, :, 0] - np.square(mean - self.reference).mean(2)
        return np.maximum(own - disagreement, LEAST * own)
