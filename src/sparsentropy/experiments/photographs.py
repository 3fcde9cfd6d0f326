"""The photographs that experiments learn from, whitened once, and the part of them that is held out.

Patches to learn from and patches to look at come from different columns, so that none of the latter overlaps with one
that was learned from.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sparsentropy import datasets

Image = NDArray[np.float64]


@cache
def whitened() -> tuple[Image, ...]:
    """The photographs of `datasets.load_photographs` by Olshausen and Field's filter."""
    return tuple(datasets.whiten_images(datasets.load_photographs()))


def parted(edge: int) -> tuple[list[Image], list[Image]]:
    """What is left of this column, to learn from, and what is right of it, which no patch to learn from has seen."""
    return [image[:, :edge] for image in whitened()], [image[:, edge:] for image in whitened()]
