"""What an image file says besides its pixels: colour profile, resolution, EXIF.

It is read from any file, and goes into another one in the form that this one has for it.
"""

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any, Self, final

from PIL import Image

from sparsentropy.datasets import tags, tiff
from sparsentropy.datasets.tags import Order
from sparsentropy.imaging.exif import PREFIX, Exif

X, Y, UNIT, PROFILE = 282, 283, 296, 34675  # tags of a TIFF file
NO_UNIT, INCH, CENTIMETRE = 1, 2, 3
SPACES = {1: b"GRAY", 3: b"RGB "}  # of profiles, by the number of colours
MOST_IN_JPEG = 65_533  # bytes of EXIF
FINEST = 65_535.0  # pixels per inch that every format can hold
LEAST, MOST = 1e-6, 1e9  # of a resolution that can be meant


@final
@dataclass(frozen=True)
class Metadata:
    """What goes back into a file as it was.

    Parameters
    ----------
    profile : bytes, optional
        What the numbers of colours mean, as ICC defines it.
    resolution : tuple of (float, float, int), optional
        Pixels per unit across and down, and the unit: 1 is unknown, 2 an inch and 3 a centimetre.
    exif : Exif, optional
    """

    profile: bytes | None = None
    resolution: tuple[float, float, int] | None = None
    exif: Exif | None = None

    @classmethod
    def of_picture(cls, picture: Image.Image) -> "Metadata":
        """What Pillow has found in a file."""
        try:
            x, y = (float(value) for value in picture.info.get("dpi", (0, 0)))
        except (TypeError, ValueError, ZeroDivisionError):
            x = y = 0.0
        block = picture.info.get("exif")
        if not isinstance(block, bytes):
            # What older programs put into PNG files; Pillow understands it, and no more than that
            block = picture.getexif().tobytes() if "Raw profile type exif" in picture.info else b""
        return cls(picture.info.get("icc_profile"), _resolution(x, y, INCH), Exif.of(block))

    @classmethod
    def of_page(cls, page: tiff.Page) -> "Metadata":
        """What the tags of a TIFF file say."""
        order, big = page.stored.parent.byteorder, page.stored.parent.is_bigtiff
        with page.path.open("rb") as file:
            found = tags.read(file, order, page.stored.offset, big=big)
            x, y = (_ratio(found.get(tag), order) for tag in (X, Y))
            unit = tags.number(found[UNIT][1], order) if UNIT in found else INCH
            profile = found.get(PROFILE, (0, b""))[1] or None
            return cls(profile, _resolution(x, y, unit), Exif.of_file(file, order, page.stored.offset, big=big))

    def of_image(self, shape: tuple[int, ...], orientation: int) -> Self:
        """What is still true once an image of this shape was turned upright and has its present colours."""
        colours = shape[2] if len(shape) > 2 else 1
        new = replace(self, exif=self.exif and self.exif.sized(*shape[:2]))
        if self.profile is not None and self.profile[16:20] != SPACES.get(colours):
            new = replace(new, profile=None)  # of inks, for example, which have become RGB
        if self.resolution is not None and orientation > 4:
            new = replace(new, resolution=(self.resolution[1], self.resolution[0], self.resolution[2]))
        return new

    @property
    def per_inch(self) -> tuple[float, float] | None:
        """The resolution in pixels per inch."""
        if self.resolution is None or self.resolution[2] == NO_UNIT:
            return None
        factor = 2.54 if self.resolution[2] == CENTIMETRE else 1.0
        x, y = (factor * value for value in self.resolution[:2])
        return (x, y) if max(x, y) <= FINEST else None

    def options(self, name: str) -> dict[str, Any]:
        """What Pillow is told when it saves a file of this format."""
        block = b"" if self.exif is None else PREFIX + self.exif.block
        if name == "JPEG" and len(block) > MOST_IN_JPEG:
            block = b""
        options = {"icc_profile": self.profile, "dpi": self.per_inch, "exif": block}
        return {key: value for key, value in options.items() if value}

    def chunks(self) -> list[tuple[bytes, bytes]]:
        """Parts of a PNG file: their type and content."""
        found = []
        if self.profile is not None:
            found.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(self.profile)))
        if self.per_inch is not None:
            found.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in self.per_inch), 1)))
        if self.exif is not None:
            found.append((b"eXIf", self.exif.block))
        return found


def _ratio(value: tuple[int, bytes] | None, order: Order) -> float:
    if value is None or len(value[1]) != 8:
        return 0.0
    above, below = struct.unpack(order + "II", value[1])
    return above / below if below else 0.0


def _resolution(x: float, y: float, unit: int) -> tuple[float, float, int] | None:
    """The resolution, where the file says one that can be."""
    possible = LEAST < min(x, y) <= max(x, y) < MOST and unit in (NO_UNIT, INCH, CENTIMETRE)
    return (x, y, unit) if possible else None
