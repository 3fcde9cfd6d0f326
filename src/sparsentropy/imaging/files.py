"""Image files that keep what they are: grey or colour, 8 or 16 bits, with or without transparency.

Pillow reads and writes nearly everything; it halves colours of 16 bits, so PNG files that have them go through pypng
and TIFF files through tifffile.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sparsentropy import storage
from sparsentropy.datasets import checks

DEEP = {".png", ".tif", ".tiff", ".npy"}  # files that can hold 16 bits
FLOAT = {".tif", ".tiff", ".npy"}
SHALLOW = {".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".jp2"}
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
        Transparency.
    about : dict
        What goes back into the file as it was: colour profile and resolution.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)


def read(path: Path) -> Picture:
    """Read one image.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or it cannot be read as one image.
    """
    found = checks.file("image", path)
    with checks.reading(found, "an image"):
        kind = found.suffix.lower()
        if kind == ".npy":
            return Picture(np.load(found, allow_pickle=False))
        if kind in (".tif", ".tiff"):
            return _split(_read_tiff(found), {})
        with Image.open(found) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise ValueError("it holds several frames; save them as files of their own")
            if picture.format == "PNG" and (deep := _read_deep_png(found)) is not None:
                return _split(deep, {})
            about = {key: picture.info[key] for key in ("icc_profile", "dpi") if key in picture.info}
            upright = ImageOps.exif_transpose(picture)
            mode = {"1": "L", "P": "RGBA" if "transparency" in picture.info else "RGB", "CMYK": "RGB"}
            return _split(np.asarray(upright.convert(mode.get(upright.mode, upright.mode))), about)


def check_writable(path: Path, like: Picture) -> None:
    """Refuse a file that cannot hold such a picture, before time is spent on what would go there.

    Raises
    ------
    OSError, ValueError
    """
    kind, dtype = path.suffix.lower(), like.pixels.dtype
    fitting = FLOAT if dtype.kind == "f" else DEEP if dtype.itemsize > 1 else DEEP | SHALLOW
    if kind not in fitting:
        raise ValueError(f"{path} cannot hold {dtype} pixels; give a name that ends in {', '.join(sorted(fitting))}")
    storage.check_folder(path)


def write(path: Path, picture: Picture) -> None:
    """Write one image, wholly or not at all.

    Raises
    ------
    OSError, ValueError
        If it cannot be written; what was there before is unchanged.
    """
    check_writable(path, picture)
    kind, content = path.suffix.lower(), io.BytesIO()
    pixels = picture.pixels
    if picture.alpha is not None and kind not in (".jpg", ".jpeg", ".bmp", ".pgm", ".ppm"):
        pixels = np.dstack([pixels, picture.alpha])
    if kind == ".npy":
        np.save(content, pixels)
    elif kind in (".tif", ".tiff"):
        import tifffile  # imported late: few images need it

        colour = pixels.ndim == 3 and pixels.shape[2] > 2
        tifffile.imwrite(
            content,
            pixels,
            photometric="rgb" if colour else "minisblack",
            planarconfig="contig" if pixels.ndim == 3 else None,
            extrasamples=None if picture.alpha is None else ["unassalpha"],
        )
    elif pixels.dtype.itemsize > 1:
        _write_deep_png(content, pixels)
    else:
        name = Image.registered_extensions()[kind]
        Image.fromarray(pixels).save(content, name, **LOSSY.get(name, {}), **picture.about)
    with storage.replacing(path) as file:
        file.write(content.getvalue())


def _split(pixels: NDArray[Any], about: dict[str, Any]) -> Picture:
    """Colours and transparency, which is the second of two channels or the last of four."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        colours = pixels[:, :, 0] if pixels.shape[2] == 2 else pixels[:, :, :3]
        return Picture(colours, pixels[:, :, -1], about)
    return Picture(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels, None, about)


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            raise ValueError("it holds several pages; save them as files of their own")
        pixels = file.asarray()
        planar = pixels.ndim == 3 and file.series[0].axes.startswith("S")
    return np.moveaxis(pixels, 0, -1) if planar else pixels


def _read_deep_png(path: Path) -> NDArray[Any] | None:
    """The pixels of a PNG file with 16 bits, None where it has fewer."""
    import png

    with path.open("rb") as file:
        columns, rows, values, about = png.Reader(file).read()
        if about["bitdepth"] != 16:
            return None
        flat = np.concatenate([np.frombuffer(row, np.uint16) for row in values])
    return flat.reshape(rows, columns, -1)


def _write_deep_png(file: io.BytesIO, pixels: NDArray[Any]) -> None:
    import png

    rows, columns, channels = np.atleast_3d(pixels).shape
    kind = {"greyscale": channels < 3, "alpha": channels in (2, 4), "bitdepth": 16}
    values = np.ascontiguousarray(pixels, np.uint16).reshape(rows, -1)
    png.Writer(columns, rows, **kind).write(file, values)  # pyright: ignore[reportArgumentType]
