"""How noisy an image is, told by its quietest parts.

In the finest cosines of a patch there is little signal, and how much depends on where the patch is: next to nothing in
a smooth region, more in a texture. So the mean square of these coefficients is σ² times a chi-square, or a larger
variance times a chi-square: a mixture with a few scales, which are found by expectation maximisation. The smallest one
that is not rare belongs to the noise alone. Noise that meets the end of the range of pixels is not white; where enough
patches are free of that, only these are looked at.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from sparsentropy.imaging import pixels
from sparsentropy.imaging.cosines import fine_cosines

SIZE, SHARE = 12, 0.3  # of a patch, and of its cosines
SCALES, RARE, STEPS = 5, 0.05, 100
ALIKE = 0.05  # relative difference of standard deviations up to which a scale is one that was split in two
MOST_PATCHES, ENOUGH = 100_000, 200
LEAST = 24  # side of an image


def estimate_noise(image: ArrayLike) -> float:
    """Estimate the standard deviation of white noise in an image.

    Parameters
    ----------
    image : array-like, shape (rows, columns) or (rows, columns, channels)
        Any numeric type. All channels are taken to have the same noise.

    Returns
    -------
    float
        σ, in the units of the image; 0 where smooth parts have no noise at all.

    Raises
    ------
    TypeError, ValueError
        If it is no image, is not finite, or is smaller than 24 × 24 pixels.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(scale=10, size=(64, 64))
    >>> round(estimate_noise(128 + noise))
    10
    """
    values = pixels.checked(image)
    if min(values.shape[:2]) < LEAST:
        raise ValueError(
            f"image has {values.shape[0]} × {values.shape[1]} pixels, too few to tell noise from signal; "
            f"give the noise level as sigma=, or an image of at least {LEAST} × {LEAST}"
        )
    basis = fine_cosines(SIZE, SHARE).T
    energy = np.concatenate([np.square(part @ basis).mean(1) for part in _patches(values)])
    # What rounding leaves of a patch of one colour
    rounding = 16 * float(np.finfo(values.dtype).eps) * float(np.abs(values).max())
    if float(np.quantile(energy, RARE)) <= rounding**2:
        return 0.0
    return math.sqrt(_smallest_scale(energy, basis.shape[1]))


def _patches(image: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Patches of every channel, evenly spread, without those in which pixels have met the end of their range."""
    rows, columns, channels = image.shape
    stride = max(2, math.ceil(math.sqrt(rows * columns * channels / MOST_PATCHES)))
    parts, free = [], []
    for channel in np.moveaxis(image, 2, 0):
        windows = sliding_window_view(channel, (SIZE, SIZE))[::stride, ::stride].reshape(-1, SIZE**2)
        parts.append(windows)
        free.append(windows[(windows.min(1) > channel.min()) & (windows.max(1) < channel.max())])
    return free if sum(map(len, free)) >= ENOUGH else parts


def _smallest_scale(energy: NDArray[np.floating], degrees: int) -> float:
    """Variance of the smallest component of Σ π Gamma(degrees/2, 2v/degrees) that holds more than a few patches."""
    energy = np.maximum(energy, np.finfo(np.float64).tiny)
    variance = np.quantile(energy, np.linspace(0.1, 0.95, SCALES))
    share = np.full(SCALES, 1 / SCALES)
    for _ in range(STEPS):
        # log π − k/2 (log v + e/v), the terms that depend on the component
        score = np.log(share) - degrees / 2 * (np.log(variance) + energy[:, None] / variance)
        weight = np.exp(score - score.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        total = np.maximum(weight.sum(0), np.finfo(np.float64).tiny)
        share, variance = np.maximum(total / len(energy), 1e-300), np.maximum(weight.T @ energy / total, 1e-300)
    smallest = float(variance[share > RARE].min())
    same = (variance >= smallest) & (variance <= smallest * (1 + ALIKE) ** 2)
    return float((share * variance)[same].sum() / share[same].sum())
