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
MOST_SCALES, RARE, STEPS = 6, 0.05, 100
INDEPENDENT = 12  # pixels for each patch that counts as independent; 8 to 30 serve about as well
MOST_PATCHES, ENOUGH = 100_000, 200
LEAST = 24  # side of an image

Array = NDArray[np.floating]


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
    return of_pixels(pixels.checked(image))


def of_pixels(values: Array) -> float:
    """The same of pixels that were checked, (rows, columns, channels)."""
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
    independent = min(len(energy), values.size / INDEPENDENT)  # of a large image only some patches are looked at
    return math.sqrt(_smallest_scale(energy, basis.shape[1], independent))


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


def _smallest_scale(energy: NDArray[np.floating], degrees: int, independent: float) -> float:
    """Variance of the smallest scale that holds more than a few patches.

    Overlapping patches say less than so many independent ones would; the number of scales is Akaike's choice for those.
    """
    energy = np.maximum(energy, np.finfo(np.float64).tiny)
    fits = [_scales(energy, degrees, k) for k in range(1, MOST_SCALES + 1)]
    # n log likelihood − unknowns: k variances and k − 1 shares
    variance, share, _ = max(fits, key=lambda fit: fit[2] * independent - (2 * len(fit[0]) - 1))
    return float(variance[share > RARE].min())


def _scales(energy: NDArray[np.floating], degrees: int, k: int) -> tuple[Array, Array, float]:
    """Variances and shares of Σ π Gamma(degrees/2, 2v/degrees) with k terms, and the mean log likelihood.

    The latter without what does not depend on the scales.
    """
    variance, share = np.quantile(energy, np.linspace(0.1, 0.95, k) if k > 1 else [0.5]), np.full(k, 1 / k)
    tiny, likelihood = np.finfo(np.float64).tiny, -math.inf
    for _ in range(STEPS):
        # log π − k/2 (log v + e/v)
        score = np.log(share) - degrees / 2 * (np.log(variance) + energy[:, None] / variance)
        largest = score.max(1, keepdims=True)
        weight = np.exp(score - largest)
        total = weight.sum(1, keepdims=True)
        likelihood = float((largest + np.log(total)).mean())
        weight /= total
        count = np.maximum(weight.sum(0), tiny)
        share, variance = count / len(energy), np.maximum(weight.T @ energy / count, tiny)
    return variance, share, likelihood
