"""Dictionaries of other images, brought into the coordinates in which patches are looked at.

What their atoms do not span is added, so that nothing of an image gets lost.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

Array = NDArray[np.floating]


def patch_size(model: "SparseCoding", channels: int) -> int:
    """Side of the patches that a model was learned from.

    Raises
    ------
    ValueError
        If they are not square or have other channels.
    """
    d = model.n_features_in_
    size = math.isqrt(d // channels)
    if size < 2 or size**2 * channels != d:
        raise ValueError(
            f"model was learned from {d} features, which are no square patch with {channels} channels; "
            "learn from patches of such images"
        )
    return size


def dictionary(model: "SparseCoding", basis: Array) -> Array:
    """Its atoms in the coordinates of the basis, but for mere constants, and what they do not span, (d, h)."""
    atoms = basis @ model.components_.T
    length = np.linalg.norm(atoms, axis=0)
    kept = length > 0.1  # of atoms that had unit length; what is left of a constant has no shape
    atoms = atoms[:, kept] / length[kept]
    left, size, _ = np.linalg.svd(atoms)
    rank = int((size > 1e-6 * size.max(initial=0)).sum())
    return np.hstack([atoms, left[:, rank:]])
