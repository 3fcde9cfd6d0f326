"""Small pictures of an image before and after, and the page that they go on.

Large images are scaled down; a detail is shown at its own size, where there is most to see.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsentropy.imaging.pixels import exponent
from sparsentropy.report import template

WIDEST, DETAIL = 720, 160  # pixels
TAKEN_OUT = 4.0  # by which differences are enlarged
STEP = 8  # between places that are tried for the detail, and pixels that are looked at there


@final
@dataclass(frozen=True)
class View:
    """A picture as an address that holds it, and what it is."""

    caption: str
    address: str


class Shown(Protocol):
    """What the page says of one image."""

    @property
    def pictures(self) -> tuple[View, ...]:
        """Its pictures."""
        ...


def before_and_after(
    before: NDArray[Any], after: NDArray[Any], std: NDArray[Any], *, taken_out: bool
) -> tuple[View, ...]:
    """Pictures of an image, what became of it, what was taken out if that is wanted, and how sure each pixel is."""
    k = max(exponent(image.astype(np.float64)) for image in (before, after))
    first, second = (np.ldexp(image.astype(np.float64), -k) for image in (before, after))
    low, high = _range(before, second, k)
    one, two = ((image - low) / (high - low) for image in (first, second))
    here = _busiest(two if two.ndim == 2 else two.mean(2))
    largest = max(float(std.max()), np.finfo(np.float64).tiny)
    difference = View(f"what was taken out, {TAKEN_OUT:g} times as strong", _address(0.5 + TAKEN_OUT * (one - two)))
    return (
        View("before", _address(one)),
        View("after", _address(two)),
        View("before, a detail", _address(one[here])),
        View("after, the same detail", _address(two[here])),
        *([difference] if taken_out else []),
        View(f"uncertainty of each pixel, from black, 0, to white, {largest:.3g}", _address(std / largest)),
    )


def page(shown: Sequence[Shown], lead: str, legend: str) -> str:
    """One page, which needs no other file: what all of it is, the pictures, and how to read them."""
    about = {"lead": lead, "legend": legend, "version": version("sparsentropy")}
    return template("images.html.j2").render(shown=shown, **about)


def _range(image: NDArray[Any], clean: NDArray[np.float64], k: int) -> tuple[float, float]:
    """What is shown as black and as white, in units of 2ᵏ: the ends of an integer type, else of the clean image."""
    if image.dtype.kind in "iu" and image.dtype.itemsize < 4:
        limits = np.iinfo(image.dtype)
        return math.ldexp(limits.min, -k), math.ldexp(limits.max, -k)
    low, high = float(clean.min()), float(clean.max())
    return low, high if high > low else low + 1


def _busiest(image: NDArray[np.float64]) -> tuple[slice, slice]:
    """Where a window has the largest variance."""
    size = tuple(min(DETAIL, length) for length in image.shape)
    windows = np.lib.stride_tricks.sliding_window_view(image, size)[::STEP, ::STEP, ::STEP, ::STEP]
    place = np.unravel_index(int(windows.var((2, 3)).argmax()), windows.shape[:2])
    rows, columns = (slice(STEP * int(at), STEP * int(at) + length) for at, length in zip(place, size, strict=True))
    return rows, columns


def _address(image: NDArray[np.float64]) -> str:
    """A picture of values between 0 and 1 as a data address."""
    pixels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    picture, content = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((WIDEST, WIDEST))
    picture.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
