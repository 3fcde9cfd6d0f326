"""TIFF files with any type of pixels and with all that is known of an image.

The pixels come first and without compression, the tags after them.
"""

from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sparsentropy.datasets import tags, tiff
from sparsentropy.datasets.tags import LONG, RATIONAL, SHORT, Order, longs
from sparsentropy.imaging.exif import Exif, laid_out
from sparsentropy.imaging.metadata import NO_UNIT, PROFILE, UNIT, Metadata, X, Y

CONFIGURATION, FORMAT = 284, 339  # tags: channels side by side or apart, and the kind of numbers
KINDS = {"u": tiff.UNSIGNED, "i": tiff.SIGNED, "f": tiff.FLOAT}
BYTES = 7  # the type of what only its reader understands
LARGEST = 2**32 - 2**24  # bytes that leave room for tags, whose places have 32 bits


def write(file: BinaryIO, pixels: NDArray[Any], metadata: Metadata, *, alpha: bool) -> None:
    """Write an image.

    Parameters
    ----------
    file : binary file
        At its beginning.
    pixels : ndarray, shape (rows, columns) or (rows, columns, channels)
    metadata : Metadata
    alpha : bool
        Whether the last channel is the opacity.

    Raises
    ------
    ValueError
        If it is larger than the 4 GiB that such a file can have.
    """
    if pixels.nbytes > LARGEST:
        raise ValueError("the image is larger than the 4 GiB of a TIFF file; give a name that ends in .npy")
    exif = metadata.exif or Exif("<", {}, {}, {})
    order = exif.order
    rows, columns, channels = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(order)).tobytes()
    x, y, unit = metadata.resolution or (1.0, 1.0, NO_UNIT)

    def short(*values: int) -> tuple[int, bytes]:
        return SHORT, b"".join(value.to_bytes(2, "little" if order == "<" else "big") for value in values)

    found = {
        **exif.main,
        tiff.WIDTH: (LONG, longs(order, columns)),
        tiff.LENGTH: (LONG, longs(order, rows)),
        tiff.BITS: short(*[8 * pixels.dtype.itemsize] * channels),
        tiff.COMPRESSION: short(tiff.UNCOMPRESSED),
        tiff.PHOTOMETRIC: short(tiff.RGB if channels > 2 else tiff.BLACK_IS_ZERO),
        tiff.STRIPS: (LONG, longs(order, 8)),
        tiff.SAMPLES: short(channels),
        tiff.ROWS_PER_STRIP: (LONG, longs(order, rows)),
        tiff.STRIP_SIZES: (LONG, longs(order, len(data))),
        X: _ratio(x, order),
        Y: _ratio(y, order),
        CONFIGURATION: short(1),
        UNIT: short(unit),
        FORMAT: short(*[KINDS[pixels.dtype.kind]] * channels),
    }
    found |= {tiff.EXTRA_SAMPLES: short(tiff.UNASSOCIATED)} if alpha else {}
    found |= {} if metadata.profile is None else {PROFILE: (BYTES, metadata.profile)}
    at = 8 + len(data) + len(data) % 2
    file.write(b"".join([tags.head(order), longs(order, at), data, bytes(len(data) % 2)]))
    file.write(laid_out(found, exif.others, order, at))


def _ratio(value: float, order: Order) -> tuple[int, bytes]:
    found = Fraction(value).limit_denominator(round(LARGEST / max(value, 1000)))  # both are numbers of 32 bits
    return RATIONAL, longs(order, found.numerator, found.denominator)
