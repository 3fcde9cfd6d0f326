"""Image files that keep what they are: grey or colour, 8 or 16 bits, with or without transparency.

Pillow reads and writes nearly everything; it halves colours of 16 bits, so files that have them go other ways
(`deep`, `datasets.tiff`). Colour profile, resolution and EXIF go back into the file (`metadata`); other descriptions,
such as XMP and IPTC, do not.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from sparsentropy import storage
from sparsentropy.datasets import checks, tiff
from sparsentropy.imaging import deep
from sparsentropy.imaging.metadata import Metadata

SHALLOW = {".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".jp2"}  # files that hold 8 bits alone
PNM = {".pgm", ".ppm", ".pnm"}
TIFF = {".tif", ".tiff"}
OPAQUE = {".jpg", ".jpeg", ".bmp"} | PNM
TYPES = {ending: {"uint8"} for ending in SHALLOW} | {ending: {"uint8", "uint16"} for ending in {".png"} | PNM}
TYPES |= {ending: set(tiff.TYPES) for ending in TIFF}
MOST_COLOURS = 3  # of all files but .npy
# JPEG files usually halve the resolution of colours, which costs more than all else
LOSSY = {"WEBP": {"quality": 95}, "JPEG": {"quality": 95, "subsampling": 0}}


@final
@dataclass(frozen=True, eq=False)
class Picture:
    """The pixels of a file.

    Parameters
    ----------
    pixels : ndarray, shape (rows, columns) or (rows, columns, 3)
        In the type of the file.
    alpha : ndarray, shape (rows, columns), optional
        Opacity.
    metadata : Metadata
        What goes back into the file as it was: colour profile, resolution and EXIF.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    metadata: Metadata = field(default_factory=Metadata)

    @classmethod
    def of(cls, array: NDArray[Any], metadata: Metadata | None = None) -> Self:
        """The picture in an array whose second of two channels, or last of four, is the opacity."""
        channels = array.shape[2] if array.ndim == 3 else 0
        pixels = array[:, :, 0] if channels in (1, 2) else array[:, :, :3] if channels == 4 else array
        return cls(pixels, array[:, :, -1] if channels in (2, 4) else None, metadata or Metadata())


def read(path: Path) -> Picture:
    """Read one image, upright.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or it cannot be read as one image.
    """
    found = checks.file("image", path)
    with checks.reading(found, "an image"):
        if found.suffix.lower() == ".npy":
            return _read_npy(found)
        if tiff.is_tiff(found):
            return _read_tiff(found)
        with Image.open(found) as picture:
            # Phones put depth maps and second views behind the photograph
            if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                raise checks.UnsupportedError("it holds several frames; save them as files of their own")
            if picture.mode in ("RGB", "RGBA") and deep.loses_bits(found, picture.format):
                raise checks.UnsupportedError("its colours have more than 8 bits; save it as TIFF or PNG")
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            orientation = orientation if orientation in range(1, 9) else 1
            array = _array(found, picture, orientation)
            return Picture.of(array, Metadata.of_picture(picture, array.shape, orientation))


def check_writable(path: Path, like: Picture) -> None:
    """Refuse a file that cannot hold such a picture, before time is spent on what would go there.

    Raises
    ------
    OSError, ValueError
    """
    kind, dtype, channels = path.suffix.lower(), like.pixels.dtype.name, like.pixels.shape[2:]
    fitting = {".npy", *(ending for ending, types in TYPES.items() if dtype in types)}
    what = f"{dtype} pixels"
    if channels and channels[0] > MOST_COLOURS:
        fitting, what = {".npy"}, f"{channels[0]} channels"
    elif channels and kind == ".pgm" and kind in fitting:
        fitting, what = fitting - {".pgm"}, "colours"
    if kind not in fitting:
        raise ValueError(f"{path} cannot hold {what}; give a name that ends in {', '.join(sorted(fitting))}")
    storage.check_folder(path)


def write(path: Path, picture: Picture) -> None:
    """Write one image, wholly or not at all.

    Raises
    ------
    OSError, ValueError
        If it cannot be written; what was there before is unchanged.
    """
    check_writable(path, picture)
    kind, content, pixels = path.suffix.lower(), io.BytesIO(), picture.pixels
    if picture.alpha is not None and kind not in OPAQUE:
        pixels = np.dstack([pixels, picture.alpha])
    if kind == ".npy":
        np.save(content, pixels)
    elif kind in TIFF:
        deep.write_tiff(content, pixels, picture.metadata, alpha=picture.alpha is not None)
    elif pixels.dtype.itemsize == 1:
        name = Image.registered_extensions()[kind]
        options = LOSSY.get(name, {}) | picture.metadata.options(name)
        Image.fromarray(pixels).save(content, name, **options)
    elif kind == ".png":
        deep.write_png(content, pixels, picture.metadata)
    else:
        deep.write_pnm(content, pixels)
    with storage.replacing(path) as file:
        file.write(content.getbuffer())


def drops_transparency(path: Path, picture: Picture) -> bool:
    """Whether a file of this name cannot hold the transparency of a picture."""
    return picture.alpha is not None and path.suffix.lower() in OPAQUE


def _read_npy(path: Path) -> Picture:
    # A damaged or hostile header can claim any size: mapping compares it with the file before memory is taken
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.ndim > 1:
        tiff.check_size(*mapped.shape[:2])
    return Picture.of(np.array(mapped, mapped.dtype.newbyteorder("="), order="C"))


def _read_tiff(path: Path) -> Picture:
    pages = tiff.pages(path)
    if len(pages) > 1:
        raise checks.UnsupportedError("it holds several pages; save them as files of their own")
    unknown = tiff.unknown(pages[0])
    if unknown > 0:
        raise checks.UnsupportedError(f"it does not say what {unknown} of its channels mean; save it without them")
    array = tiff.read(pages[0])
    return Picture.of(array, Metadata.of_page(pages[0], array.shape))


def _array(path: Path, picture: Image.Image, orientation: int) -> NDArray[Any]:
    """Upright pixels in as many bits as the file has, with the opacity as last channel."""
    transparent, array = "transparency" in picture.info, None
    if picture.format == "PNG":
        array = deep.read_png(path, transparent=transparent)
    if picture.format == "PPM":
        array = deep.read_pnm(path)
    if array is not None:
        return np.ascontiguousarray(tiff.upright(array, orientation))
    found = ImageOps.exif_transpose(picture)
    modes = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
    modes |= dict.fromkeys(("CMYK", "YCbCr", "RGBX"), "RGB")
    modes |= {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"} if transparent else {}
    return np.asarray(found.convert(modes.get(found.mode, found.mode)))
