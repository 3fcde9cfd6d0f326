"""How noisy an image is, told by its quietest parts.

In the finest cosines of a patch there is little signal, and how much depends on where the patch is: next to nothing in
a smooth region, more in a texture. So the mean square of these coefficients is σ² times a chi-square, or a larger
variance times a chi-square: a mixture with a few scales (`scales`), of which the smallest one that is not rare belongs
to the noise alone. Where hardly a patch is free of gaps, what smooth cosines leave of the known pixels takes the place
of the finest cosines (`ragged`). Noise that meets the end of the range of pixels is not white; where enough patches are
free of that, only these are looked at.
"""

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from sparsentropy import arithmetic
from sparsentropy.imaging import pixels, ragged, scales
from sparsentropy.imaging.cosines import fine_cosines

SIZE, SHARE = 12, 0.3  # of a patch, and of its cosines
INDEPENDENT = 12  # pixels for each patch that counts as independent; 8 to 30 serve about as well
MOST_PATCHES, ENOUGH = 100_000, 200
MOST_RAGGED = 8_000
WHOLE = 0.1  # share of patches without a gap from which on these alone are looked at
LEAST = 24  # side of an image

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


@arithmetic.single_threaded()
def estimate_noise(image: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Estimate the standard deviation of white noise in an image.

    Parameters
    ----------
    image : array-like, shape (rows, columns) or (rows, columns, channels)
        Any numeric type. All channels are taken to have the same noise.
    mask : array-like, shape (rows, columns), optional
        True, or not 0, where pixels are missing, in all channels.

    Returns
    -------
    float
        σ, in the units of the image; 0 where smooth parts have no noise at all, and never more than the standard
        deviation of the pixels.

    Raises
    ------
    TypeError, ValueError
        If it is no image, known pixels are not finite, or it is smaller than 24 × 24 pixels, or has too few known ones.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(scale=10, size=(64, 64))
    >>> round(estimate_noise(128 + noise))
    10
    """
    values, missing = (pixels.checked(image), None) if mask is None else pixels.checked_with_gaps(image, mask)
    k = pixels.exponent(values)
    return math.ldexp(of_pixels(np.ldexp(values, -k), missing), k)


def of_pixels(values: Array, missing: Mask | None = None) -> float:
    """The same of pixels that were checked, (rows, columns, channels), the largest about 1."""
    if min(values.shape[:2]) < LEAST:
        raise ValueError(
            f"image has {values.shape[0]} × {values.shape[1]} pixels, too few to tell noise from signal; "
            f"give the noise level as sigma=, or an image of at least {LEAST} × {LEAST}"
        )
    values = pixels.distinct(values)
    known = np.ones(values.shape[:2], bool) if missing is None else ~missing
    energy, degrees = _energies(values, known)
    if not len(energy):
        raise ValueError("too few pixels are known to tell noise from signal; give the noise level as sigma=")
    # What rounding leaves of a patch of one colour
    rounding = 16 * float(np.finfo(values.dtype).eps) * float(np.abs(values[known]).max())
    if float(np.quantile(energy, scales.RARE)) <= rounding**2:
        return 0.0
    # Of a large image only some patches are looked at
    independent = min(len(energy), known.sum() * values.shape[2] / INDEPENDENT)
    found = math.sqrt(scales.smallest(energy, degrees, independent))
    # An image of nothing but fine structure looks louder than it is
    return min(found, math.sqrt(float(values[known].var(0).mean(dtype=np.float64))))


def _energies(values: Array, known: Mask) -> tuple[Array, Array]:
    """How rough patches are, and with how many degrees of freedom: of those without gaps, if they are not too few."""
    rows, columns, channels = values.shape
    stride = max(2, math.ceil(math.sqrt(rows * columns * channels / MOST_PATCHES)))
    seen = _patches(known, stride)
    whole = seen.all(1)
    if whole.mean() >= WHOLE and whole.sum() * channels >= ENOUGH:
        patches, _ = _in_range(values, known, stride, np.flatnonzero(whole))
        basis = fine_cosines(SIZE, SHARE).T
        energy = np.concatenate([np.square(part @ basis).mean(1) for part in patches])
        return energy, np.full(len(energy), basis.shape[1])
    useful = np.random.default_rng(0).permutation(np.flatnonzero(seen.sum(1) >= ragged.LEAST))
    patches, which = _in_range(values, known, stride, useful[: math.ceil(MOST_RAGGED / channels)])
    return ragged.roughness(np.concatenate(patches), seen[np.concatenate(which)], SIZE)


def _patches(image: NDArray[Any], stride: int) -> NDArray[Any]:
    """Patches as rows."""
    return sliding_window_view(image, (SIZE, SIZE))[::stride, ::stride].reshape(-1, SIZE**2)


def _in_range(
    values: Array, known: Mask, stride: int, chosen: NDArray[np.intp]
) -> tuple[list[Array], list[NDArray[np.intp]]]:
    """Chosen patches of every channel, and which they are, if possible without those that met the end of the range."""
    parts, free = [], []
    seen = _patches(known, stride)[chosen]
    for channel in np.moveaxis(values, 2, 0):
        least, most = channel[known].min(), channel[known].max()
        patches = _patches(channel, stride)[chosen]
        inside = (((patches > least) & (patches < most)) | ~seen).all(1)
        parts.append((patches, chosen))
        free.append((patches[inside], chosen[inside]))
    taken = free if sum(len(patches) for patches, _ in free) >= ENOUGH else parts
    return [patches for patches, _ in taken], [which for _, which in taken]
