"""A first guess of missing pixels: straight lines from neighbour to neighbour.

Between three known pixels around it a missing one gets the plane through them (Delaunay triangulation); outside all
such triangles, what the nearest known pixel has.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.spatial import QhullError

Array = NDArray[np.floating]
AT_ONCE, MARGIN = 2**18, 32  # pixels that are triangulated at once, and rows around them


def straight(image: Array, missing: NDArray[np.bool_]) -> Array:
    """The image (rows, columns, channels) with guesses where pixels are missing (rows, columns).

    Examples
    --------
    >>> image = np.add.outer(np.arange(5.0), np.arange(5.0))[:, :, None]
    >>> missing = np.zeros((5, 5), bool)
    >>> missing[1:4, 2] = True
    >>> bool(np.allclose(straight(np.where(missing[:, :, None], 0, image), missing), image))
    True
    """
    nearest: Any = distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled = image[tuple(nearest)]
    near: Any = binary_dilation(missing, np.ones((3, 3)), iterations=2)
    rim = near & ~missing  # all that triangles with gaps end at
    step = max(1, AT_ONCE // image.shape[1])
    for begin in range(0, len(image), step):
        low, high = max(0, begin - MARGIN), begin + step + MARGIN
        known, gaps = np.argwhere(rim[low:high]), np.argwhere(missing[begin : begin + step])
        if len(gaps) == 0:
            continue
        try:
            guess = LinearNDInterpolator(known, image[low:high][tuple(known.T)])(gaps + np.array([begin - low, 0]))
        except (QhullError, ValueError):  # fewer than three pixels, or all on one line
            continue
        inside = np.isfinite(guess).all(1)
        rows, columns = gaps[inside].T
        filled[begin + rows, columns] = guess[inside]
    return filled
