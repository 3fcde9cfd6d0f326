"""Small windows cut from images: the rows a sparse coder learns from.

Either a number of patches is drawn at random, every image equally likely and every position within it equally
likely, or all overlapping patches are taken in reading order. A patch of a colour image is flattened with its
channels last, so ``row.reshape(height, width, channels)`` is the window again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks
from .images import load_photographs
from .whitening import whiten_images


def extract_patches(
    images: np.ndarray | Sequence[np.ndarray],
    *,
    size: int | tuple[int, int] = 16,
    n: int | None = None,
    stride: int = 1,
    seed: int | np.random.Generator | None = 0,
    dtype: npt.DTypeLike = np.float32,
) -> np.ndarray:
    """Cut patches from images: ``n`` random ones, or all of them.

    Parameters
    ----------
    images : ndarray of shape (rows, columns), or a sequence of images
        Grey (rows, columns) or colour (rows, columns, channels) images, possibly of different sizes. The
        first axis of a three-dimensional array counts grey images; give one colour image as ``[image]``.
    size : int or (int, int)
        Height and width of a patch in pixels; one number means a square.
    n : int or None
        Number of random patches, drawn with replacement; None takes all patches on a grid.
    stride : int
        Distance of neighbouring patches on that grid in pixels, in both directions; only with ``n=None``.
    seed : int, Generator or None
        Source of randomness; only used with ``n``.
    dtype : dtype
        float32 (default) or float64.

    Returns
    -------
    ndarray of shape (n, height·width·channels)
        One patch per row. With ``n=None`` image by image and in reading order.

    Raises
    ------
    TypeError, ValueError
        When an image is smaller than a patch, not finite or not an image, or an argument is out of its range.
    MemoryError
        When so many patches do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.datasets import extract_patches
    >>> extract_patches(np.arange(9.0).reshape(3, 3), size=2)
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]], dtype=float32)
    >>> extract_patches(np.arange(9.0).reshape(3, 3), size=2, n=1000).shape
    (1000, 4)
    """
    arrays = checks.image_list(images)
    names = checks.image_names(images, len(arrays))
    windows = [window_view(name, image, patch_shape(size)) for name, image in zip(names, arrays, strict=True)]
    if len({view.shape[2:] for view in windows}) > 1:
        raise ValueError("images must all be grey or all have the same number of channels; convert them first")
    kind = float_type(dtype)
    stride = checks.count("stride", stride)
    if n is None:
        return np.concatenate([flatten(view[::stride, ::stride]) for view in windows]).astype(kind, copy=False)
    if stride != 1:
        raise ValueError(f"stride is only used when n is None, got stride={stride} and n={n}; leave one out")
    try:
        return random_patches(windows, checks.count("n", n), checks.generator(seed), kind)
    except MemoryError:
        needed = n * windows[0][0, 0].size * kind.itemsize
        raise MemoryError(f"{n:,} patches need {needed:.3g} bytes of memory; give a smaller n=") from None


def patch_shape(size: Any) -> tuple[int, int]:
    """Return ``size`` as (height, width)."""
    height, width = size if isinstance(size, Sequence) and len(size) == 2 else (size, size)
    return checks.count("size", height), checks.count("size", width)


def float_type(dtype: Any) -> np.dtype:
    """Return ``dtype`` if it is float32 or float64."""
    if dtype not in (np.float32, np.float64, "float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    return np.dtype(dtype)


def window_view(name: str, image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return every window of an image, without copying: (y, x, height, width[, channels])."""
    if image.shape[0] < shape[0] or image.shape[1] < shape[1]:
        raise ValueError(
            f"{name} has {image.shape[0]} × {image.shape[1]} pixels, smaller than a patch of "
            f"{shape[0]} × {shape[1]}; give a smaller size=, larger images, or one colour image as [image]"
        )
    view = np.lib.stride_tricks.sliding_window_view(image, shape, axis=(0, 1))
    return view if image.ndim == 2 else np.moveaxis(view, 2, -1)


def flatten(windows: np.ndarray) -> np.ndarray:
    """Return windows (y, x, …) as rows in reading order."""
    return windows.reshape(windows.shape[0] * windows.shape[1], -1)


def random_patches(windows: Sequence[np.ndarray], n: int, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """Return ``n`` windows drawn uniformly over images and positions, as rows."""
    which, y, x = random_places([view.shape[:2] for view in windows], n, rng)
    patches = np.empty((n, windows[0][0, 0].size), dtype)
    for i, view in enumerate(windows):
        rows = np.flatnonzero(which == i)
        patches[rows] = view[y[rows], x[rows]].reshape(len(rows), -1)
    return patches


def random_places(
    extents: Sequence[tuple[int, ...]], n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images of ``n`` windows and their places there, given how many places each image has."""
    words = rng.integers(2**32, size=(n, 3), dtype=np.uint64)
    which = below(len(extents), words[:, 0])
    extent = np.array(extents)[which]
    return which, below(extent[:, 0], words[:, 1]), below(extent[:, 1], words[:, 2])


def below(bound: int | np.ndarray, words: np.ndarray) -> np.ndarray:
    """Map uniform 32-bit words to whole numbers 0 ≤ k < bound by multiply and shift (Lemire 2019).

    It is what ``Generator.integers`` does one number at a time, here for bounds that depend on the image
    drawn before; the rejection step is left out, a bias below bound / 2³².
    """
    return (words * np.asarray(bound, np.uint64) >> np.uint64(32)).astype(np.intp)


def natural_patches(
    n: int,
    *,
    size: int | tuple[int, int] = 16,
    images: np.ndarray | Sequence[np.ndarray] | None = None,
    seed: int | np.random.Generator | None = 0,
) -> np.ndarray:
    """Return random patches of whitened photographs: the usual data of sparse coding.

    Parameters
    ----------
    n : int
        Number of patches.
    size : int or (int, int)
        Height and width of a patch in pixels.
    images : sequence of ndarray of shape (rows, columns), or None
        Grey images to use; None takes those of :func:`load_photographs`.
    seed : int, Generator or None
        Source of randomness.

    Returns
    -------
    ndarray of shape (n, height·width)
        float32 patches, with no mean removed; the variance of a pixel is about 0.1.

    Raises
    ------
    TypeError, ValueError
        As :func:`whiten_images` and :func:`extract_patches`.

    Notes
    -----
    Olshausen and Field's preprocessing (:func:`whiten_images`), then :func:`extract_patches`.

    Examples
    --------
    >>> from sparsentropy.datasets import natural_patches
    >>> natural_patches(100, size=8).shape
    (100, 64)
    """
    white = whiten_images(load_photographs() if images is None else images)
    return extract_patches(white, size=size, n=checks.count("n", n), seed=seed)
