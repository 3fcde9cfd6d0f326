"""What counts as an image, and how it gets its own type and range back.

Everything in between is floating point, with channels on the last of three axes.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_CHANNELS = 16  # a third axis that is longer is no axis of colours
BEYOND = 20  # powers of two above all pixels, from where on noise leaves nothing of an image


def checked(image: ArrayLike) -> NDArray[np.floating]:
    """The pixels as (rows, columns, channels), float32, or float64 where they are float64.

    Raises
    ------
    TypeError, ValueError
        If it is no image, empty or not finite.
    """
    values = np.asarray(image)
    if values.dtype.kind not in "uif":
        raise TypeError(f"image must hold integers or floating point numbers, got dtype {values.dtype}")
    if values.ndim not in (2, 3) or values.size == 0 or (values.ndim == 3 and values.shape[2] > MOST_CHANNELS):
        raise ValueError(
            f"image must have shape (rows, columns) or (rows, columns, channels), got {values.shape}; "
            "give one image at a time"
        )
    values = values.astype(np.float64 if values.dtype.itemsize >= 4 else np.float32)
    if not np.isfinite(values).all():
        raise ValueError("image must be finite, but it holds NaN or infinite values; fill these in first")
    return values if values.ndim == 3 else values[:, :, None]


def checked_with_gaps(image: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """The pixels (rows, columns, channels), and which are missing (rows, columns).

    Raises
    ------
    TypeError, ValueError
        If it is no image, known pixels are not finite, or the mask does not fit or leaves nothing.
    """
    array, gaps = np.asarray(image), np.asarray(mask)
    if gaps.dtype.kind not in "biuf":
        raise TypeError(f"mask must be boolean, True where pixels are missing; got dtype {gaps.dtype}")
    if array.ndim not in (2, 3) or gaps.shape != array.shape[:2]:
        raise ValueError(
            f"mask must have one value for every pixel, shape (rows, columns); got {gaps.shape} for an image of shape "
            f"{array.shape}"
        )
    missing = gaps != 0
    if missing.all():
        raise ValueError("mask says that every pixel is missing; it must be 0 where pixels are known")
    where = missing if array.ndim == 2 else missing[:, :, None]
    return checked(np.where(where, np.zeros((), array.dtype), array)), missing


def exponent(values: NDArray[np.floating]) -> int:
    """The k for which the largest of all pixels divided by 2ᵏ is between ½ and 1; 0 for an image of zeros.

    Squares of pixels in such a unit are neither too large nor too small for their type, and nothing is rounded.
    """
    return int(np.frexp(np.abs(values).max())[1])


def in_unit(sigma: float, k: int) -> float:
    """A standard deviation in units of 2ᵏ; what is far beyond all pixels is as if it were infinite."""
    fraction, own = math.frexp(sigma)
    return math.ldexp(fraction, min(own - k, BEYOND))


def distinct(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """One channel of an image whose channels are all the same, as of a grey image stored in colour; else the image.

    Three times the same noise would be taken for three times as much evidence, and for noise of another kind.
    """
    return values[:, :, :1] if (values == values[:, :, :1]).all() else values


def extended(values: NDArray[Any], size: int) -> NDArray[Any]:
    """An image of at least size × size pixels, mirrored at its last row and column where it is smaller."""
    missing = [(0, max(0, size - length)) for length in values.shape[:2]]
    return np.pad(values, missing + [(0, 0)] * (values.ndim - 2), mode="symmetric")


def like(values: NDArray[np.floating], image: ArrayLike) -> NDArray[np.generic]:
    """The pixels in shape and type of the image; integers are rounded, and kept within their range."""
    original = np.asarray(image)
    values = values.reshape(original.shape)
    if original.dtype.kind == "f":
        return values.astype(original.dtype)
    range_ = np.iinfo(original.dtype)
    most = float(range_.max)
    # The largest numbers of 64 bits are no floating point numbers: the next one would not fit
    most = most if int(most) <= range_.max else math.nextafter(most, 0)
    return np.clip(np.rint(values), range_.min, most).astype(original.dtype)


def checked_sigma(sigma: float) -> float:
    """A standard deviation of noise.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not (isinstance(sigma, int | float | np.number) and 0 <= sigma < math.inf):
        raise ValueError(f"sigma must be a finite number ≥ 0, in the units of the image; got {sigma!r}")
    return float(sigma)
