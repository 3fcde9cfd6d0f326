"""Numbers as pixels: many small patches become one picture.

Every patch gets a grey scale that is symmetric about zero, so mid-grey always means zero, and the patches are laid
side by side. The result is an array of pixels that any library can show or save.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mosaic(rows: Array, patch_shape: Sequence[int], peak: Array, columns: int) -> NDArray[np.uint8]:
    """Lay patches side by side in one picture.

    Parameters
    ----------
    rows : ndarray, shape (m, d)
        One patch per row.
    patch_shape : (int, int) or (int, int, 3)
        Height, width and, for colour, 3; the product is d.
    peak : ndarray, shape (m,)
        For each patch the value that is drawn white; its negative is black and zero is mid-grey.
    columns : int
        Patches side by side.

    Returns
    -------
    ndarray of uint8, shape (height, width, 4)
        The picture; the gaps between patches are transparent and so take any background.

    Raises
    ------
    ValueError
        If `patch_shape` does not fit the rows.

    Examples
    --------
    >>> picture = mosaic(np.array([[1.0, 0.0], [-2.0, 2.0]]), (1, 2), peak=np.array([1.0, 2.0]), columns=2)
    >>> picture[0, :, 0]
    array([255, 128,   0,   0, 255], dtype=uint8)
    """
    images = _images(rows, patch_shape)
    m, height, width, _ = images.shape
    bright = 0.5 + 0.5 * np.clip(images / np.where(peak == 0, 1, peak).reshape(-1, 1, 1, 1), -1, 1)
    gap = max(1, round(max(height, width) / 10))
    columns = min(columns, m)
    lines = -(-m // columns)
    picture = np.zeros((lines * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for index, image in enumerate(np.rint(255 * bright).astype(np.uint8)):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        picture[y : y + height, x : x + width, :3] = image
        picture[y : y + height, x : x + width, 3] = 255
    return picture


def scales(rows: Array) -> tuple[Array, Array]:
    """Find the middle and the half width of the grey scale of each row.

    Parameters
    ----------
    rows : ndarray, shape (m, d)
        Values to be drawn.

    Returns
    -------
    middle, half : ndarray, shape (m, 1)
        The scale of a row reaches from ``middle - half`` to ``middle + half``. Where there are negative values, all
        rows are drawn about zero.

    Examples
    --------
    >>> [part.tolist() for part in scales(np.array([[0.5, 1.0], [0.0, 1.0]]))]
    [[[0.75], [0.5]], [[0.25], [0.5]]]
    """
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    if low.min() < 0:
        return np.zeros_like(low), np.maximum(np.abs(low), np.abs(high))
    return (low + high) / 2, (high - low) / 2


def join(rows: Array, most: int) -> Array:
    """Join neighbouring columns where there are more than a picture has room for.

    Parameters
    ----------
    rows : ndarray, shape (m, d)
        Values to be drawn.
    most : int
        The largest number of columns.

    Returns
    -------
    ndarray, shape (m, min(d, most))
        Of the columns that are joined, the value farthest from zero.

    Examples
    --------
    >>> join(np.array([[1.0, -3.0, 2.0, 0.0]]), most=2)
    array([[-3.,  2.]])
    """
    d = rows.shape[1]
    if d <= most:
        return rows
    starts = np.linspace(0, d, most, endpoint=False).astype(int)
    high, low = np.maximum.reduceat(rows, starts, axis=1), np.minimum.reduceat(rows, starts, axis=1)
    return np.where(high >= -low, high, low)


def _images(rows: Array, patch_shape: Sequence[int]) -> Array:
    """Rows (m, d) as images (m, height, width, channels)."""
    shape, d = tuple(int(side) for side in patch_shape), rows.shape[1]
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or math.prod(shape) != d:
        raise ValueError(
            f"patch_shape must be (height, width) or (height, width, 3) with a product of {d}, the length of a row; "
            f"got {shape}"
        )
    return rows.reshape(len(rows), shape[0], shape[1], -1)
