"""What an image file says besides its pixels: colour profile, resolution, EXIF.

Pillow reads it from any file, and writes it into any. Of EXIF only what is true of a denoised image, too, goes back:
its orientation and its thumbnail, for example, do not.
"""

import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, final

from PIL import ExifTags, Image
from tifffile import TiffPage

from sparsentropy.datasets import tiff

X, Y, UNIT, PROFILE = 282, 283, 296, 34675  # tags of a TIFF file
INCHES = {2: 1.0, 3: 2.54}  # pixels per inch, by the unit of a resolution of one
MOST_IN_JPEG = 65_533  # bytes of EXIF
LEAST, MOST = 1e-6, 65_535.0  # pixels per inch that can be meant, and that every format can hold
WINDOWS = range(40091, 40096)  # title, comment, author, keywords, subject
# Description, maker, camera, program, date, author, computer, rights, and two ratings
KEPT = {270, 271, 272, 305, 306, 315, 316, 33432, 18246, 18249, *WINDOWS}


@final
@dataclass(frozen=True)
class Metadata:
    """What goes back into a file as it was.

    Parameters
    ----------
    profile : bytes, optional
        What the numbers of colours mean, as ICC defines it.
    dpi : tuple of (float, float), optional
        Pixels per inch across and down.
    exif : PIL.Image.Exif, optional
        Texts as bytes, if they are no ASCII.
    """

    profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: Image.Exif | None = None

    @classmethod
    def of_picture(cls, picture: Image.Image, shape: tuple[int, ...], orientation: int) -> Self:
        """What Pillow has found in a file whose upright image has this shape, with the opacity as a channel."""
        profile, dpi = picture.info.get("icc_profile"), picture.info.get("dpi", (0, 0))
        return cls._of(picture.getexif(), profile, dpi, shape, orientation)

    @classmethod
    def of_page(cls, page: TiffPage, shape: tuple[int, ...]) -> Self:
        """What the tags of a page of a TIFF file say."""
        exif, parent, dpi = Image.Exif(), page.parent, (0, 0)
        exif.endian, exif.bigtiff = parent.byteorder, parent.is_bigtiff
        with open(parent.filehandle.path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is damaged is left out
            with suppress(struct.error, TypeError):  # Pillow does not know big-endian BigTIFF
                exif.load_from_fp(file, page.offset)
                dpi = [INCHES.get(exif.get(UNIT, 2), 0) * exif.get(tag, 0) for tag in (X, Y)]
            return cls._of(exif, exif.get(PROFILE), dpi, shape, tiff.orientation(page))

    @classmethod
    def _of(cls, exif: Image.Exif, profile: Any, dpi: Any, shape: tuple[int, ...], orientation: int) -> Self:
        """What is still true once an image was turned upright and has its present colours."""
        try:
            x, y = (float(value) for value in (dpi if orientation < 5 else dpi[::-1]))
        except (TypeError, ValueError, ZeroDivisionError):
            x = y = 0
        # One of inks, for example, is none of the RGB that they have become
        fits = isinstance(profile, bytes) and profile[16:20] == (b"RGB " if shape[2:] in ((3,), (4,)) else b"GRAY")
        possible = LEAST < min(x, y) <= max(x, y) <= MOST
        return cls(profile if fits else None, (x, y) if possible else None, _kept(exif, *shape[:2]))

    def options(self, name: str) -> dict[str, Any]:
        """What Pillow is told when it saves a file of this format."""
        options: dict[str, Any] = {"icc_profile": self.profile, "dpi": self.dpi}
        if self.exif is not None and name == "TIFF":
            options["tiffinfo"] = dict(self.exif)  # as EXIF, Pillow would read its texts as ASCII
        elif self.exif is not None and (name != "JPEG" or len(self.exif.tobytes()) <= MOST_IN_JPEG):
            options["exif"] = self.exif
        return {key: value for key, value in options.items() if value is not None}


def _kept(exif: Image.Exif, rows: int, columns: int) -> Image.Exif | None:
    """EXIF of an image of this size; None where nothing is said, or it is too damaged to be written again."""
    new, size = Image.Exif(), {ExifTags.Base.ExifImageWidth: columns, ExifTags.Base.ExifImageHeight: rows}
    try:
        for tag in KEPT & set(exif):
            new[tag] = _written(exif[tag])
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            values = {tag: _written(value) for tag, value in exif.get_ifd(part).items() if tag != ExifTags.IFD.Interop}
            values |= {tag: value for tag, value in size.items() if tag in values}
            if values:
                new[part] = values
        return new if len(new) and new.tobytes() else None
    except Exception:  # Pillow raises almost anything where bytes are missing or wrong
        return None


def _written(value: Any) -> Any:
    """The value that Pillow writes as what it has read: texts are no ASCII, as it takes them for, but often UTF-8."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value
