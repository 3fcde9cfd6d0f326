"""The pages of a TIFF file as arrays in the type of the file: upright, bright where values are large, grey or RGB.

tifffile reads the tags and, with the codecs of imagecodecs, the samples; what these mean is worked out here. YCbCr,
JPEG and CCITT are left to Pillow, whose libtiff knows their variants. All else is refused.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage

from .checks import UnsupportedError

Array = NDArray[Any]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are those of BigTIFF
COLOURS = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3, PHOTOMETRIC.SEPARATED: 4}  # samples of a pixel
COLOURS |= dict.fromkeys((PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE), 1)
CMYK = 1  # of sets of inks
ALPHA = {*EXTRASAMPLE, 999} - {EXTRASAMPLE.UNSPECIFIED}  # 999 is how Corel says that colours were not multiplied by it
CCITT, JPEG = (2, 3, 4), (COMPRESSION.JPEG, COMPRESSION.OJPEG)
# A predictor may go with these
PREDICTED = {COMPRESSION[name] for name in ("LZW", "ADOBE_DEFLATE", "DEFLATE", "LZMA", "ZSTD")}
TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")

# A library does not decide where messages go: without this, those of tifffile would come to the terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF file does."""
    with path.open("rb") as file:
        return file.read(4) in SIGNATURES


def pages(path: Path) -> list[TiffPage]:
    """The images in a TIFF file, without masks and without small copies of other images.

    Raises
    ------
    OSError, ValueError
        If it is no TIFF file, holds nothing but small copies, or a stack of images on one page.
    """
    with TiffFile(path) as file:
        found = list(_chain(file))
        # A raw file of a camera begins with a small copy, and has the image itself where only its maker finds it
        whole = [page for page in found if not page.is_reduced]
        if not whole:
            raise UnsupportedError("it holds a small copy of an image and no image, as raw files of cameras do")
        # Large files of ImageJ have images behind the only page of which no tag speaks
        if len(found) == 1 and len(file.series) > 0 and file.series[0].size > found[0].size > 0:
            raise UnsupportedError("it holds a stack of images on one page; save every image as a file of its own")
    return [page for page in whole if not page.is_mask]


def shape(page: TiffPage) -> tuple[int, int]:
    """Rows and columns of the upright image."""
    rows, columns = page.imagelength, page.imagewidth
    return (columns, rows) if orientation(page) > 4 else (rows, columns)


def orientation(page: TiffPage) -> int:
    """How a page lies in the file; 1 is upright."""
    found = page.tags.valueof("Orientation")
    return int(found) if found in range(1, 9) else 1


def unknown(page: TiffPage) -> int:
    """How many channels there are of which the file does not say what they mean."""
    return page.samplesperpixel - COLOURS[_photometric(page)] - (_alpha(page) is not None)


def read(page: TiffPage) -> Array:
    """Read a page; of RGB only these, if there are channels of which nobody knows what they mean.

    Returns
    -------
    ndarray, shape (rows, columns, channels)
        Grey or RGB. The second of two channels and the last of four is the opacity; colours are not multiplied by it.

    Raises
    ------
    OSError, ValueError
        If it is damaged, or of a kind that is not read.
    """
    check_size(*shape(page))
    _check_kind(page)
    handle = page.parent.filehandle
    handle.open()
    with closing(handle):
        if _left_to_pillow(page):
            return _by_pillow(page)
        return np.ascontiguousarray(upright(_coloured(page, _samples(page)), orientation(page)))


def upright(image: Array, orientation: int) -> Array:
    """An image turned upright, by its orientation as TIFF and EXIF number them."""
    image = image.swapaxes(0, 1) if orientation > 4 else image
    image = image[::-1] if orientation in (3, 4, 7, 8) else image
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image


def check_size(rows: int, columns: int) -> None:
    """Ask of an image what Pillow asks of those that it opens: not to have so many pixels that it must be an attack.

    Raises
    ------
    PIL.Image.DecompressionBombError
        Beyond twice `PIL.Image.MAX_IMAGE_PIXELS`; beyond once there is a `PIL.Image.DecompressionBombWarning`.
    """
    most, pixels = Image.MAX_IMAGE_PIXELS or math.inf, rows * columns
    text = f"it has {pixels:,} pixels, and with more than {most:,} it could be an attack (PIL.Image.MAX_IMAGE_PIXELS)"
    if pixels > 2 * most:
        raise Image.DecompressionBombError(text)
    if pixels > most:
        warnings.warn(text, Image.DecompressionBombWarning, stacklevel=2)


def _chain(file: TiffFile) -> Iterator[TiffPage]:
    """The pages of a file, each of which says where the next one is."""
    seen = set()
    for page in file.pages:
        if page.offset in seen:
            raise ValueError("its pages go round in a circle")
        seen.add(page.offset)
        yield page.aspage()


def _photometric(page: TiffPage) -> PHOTOMETRIC:
    """What colours mean."""
    found = page.tags.valueof("PhotometricInterpretation")
    if found is None:
        raise UnsupportedError("it does not say what its samples mean (PhotometricInterpretation); save it again")
    if found not in COLOURS or (found == PHOTOMETRIC.SEPARATED and page.tags.valueof("InkSet", CMYK) != CMYK):
        raise UnsupportedError(f"its colours are stored as {_name(found)}; save it as grey or RGB")
    return found


def _alpha(page: TiffPage) -> int | None:
    """Whether colours were multiplied by the opacity, as the file says it; None where there is none."""
    photometric = _photometric(page)
    if page.samplesperpixel <= COLOURS[photometric]:
        return None
    # Before there was a tag for it, the fourth channel was the opacity
    default = EXTRASAMPLE.UNASSALPHA if photometric == PHOTOMETRIC.RGB else EXTRASAMPLE.UNSPECIFIED
    found = int(np.ravel(page.tags.valueof("ExtraSamples", default))[0])
    return found if found in ALPHA else None


def _left_to_pillow(page: TiffPage) -> bool:
    of_bytes = page.compression in JPEG and page.bitspersample == 8
    return of_bytes or page.compression in CCITT or _photometric(page) == PHOTOMETRIC.YCBCR


def _check_kind(page: TiffPage) -> None:
    """Refuse what is not read."""
    photometric, bits, compression, dtype = _photometric(page), page.bitspersample, page.compression, str(page.dtype)
    if unknown(page) < 0:
        raise ValueError(f"it has {page.samplesperpixel} samples a pixel, too few for its kind of colours")
    if unknown(page) > 0 and photometric != PHOTOMETRIC.RGB:
        raise UnsupportedError(f"it does not say what {unknown(page)} of its channels mean; save it without them")
    if page.imagedepth > 1:
        raise UnsupportedError("it is a volume and no image; save every slice as a file of its own")
    if photometric == PHOTOMETRIC.YCBCR and compression == COMPRESSION.NONE:  # which Pillow gets wrong
        raise UnsupportedError("its colours are stored as YCBCR without compression; save it as RGB")
    if _left_to_pillow(page):
        return
    if compression not in (COMPRESSION.NONE, COMPRESSION.PACKBITS, *PREDICTED):
        raise UnsupportedError(f"its compression, {_name(compression)}, is not read; save it with LZW, ZIP or none")
    signed, large = (
        dtype.startswith(("int", "float")),
        photometric == PHOTOMETRIC.PALETTE and dtype not in ("uint8", "bool"),
    )
    whole = photometric in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.PALETTE, PHOTOMETRIC.SEPARATED)
    if not isinstance(bits, int) or dtype not in (*TYPES, "bool") or large or (whole and signed):
        kind = f"{_name(photometric)} with samples of {bits} bits ({dtype})"
        raise UnsupportedError(f"{kind} is not read; save it as grey or RGB with 8 or 16 bits")


def _samples(page: TiffPage) -> Array:
    """Samples as they lie in the file, (rows, columns, channels)."""
    offsets, sizes = np.array(page.dataoffsets), np.array(page.databytecounts)
    least = page.size * page.bitspersample // 8 if page.compression == COMPRESSION.NONE else 1
    # What is missing tifffile would fill up
    if not len(offsets) == len(sizes) == math.prod(page.chunked) or not (offsets.all() and sizes.all()):
        raise ValueError("parts of it are missing")
    # Overlapping, a small file could ask for any memory
    if sizes.sum() < least or max((offsets + sizes).max(), sizes.sum()) > page.parent.filehandle.size:
        raise ValueError("it is cut short")
    if page.compression not in PREDICTED:
        page.predictor = 1  # libtiff, and so nearly everyone, knows no predictor here
    planes = page.asarray(squeeze=False)[:, 0]
    found = np.moveaxis(planes, 0, 2).reshape(*planes.shape[1:3], -1)
    return found.astype(np.uint8) if found.dtype == bool else found


def _coloured(page: TiffPage, samples: Array) -> Array:
    """The image of samples."""
    photometric, alpha, dtype = _photometric(page), _alpha(page), samples.dtype
    count, most = COLOURS[photometric], np.iinfo(dtype).max if dtype.kind in "iu" else 1
    colours, opacity = samples[:, :, :count], samples[:, :, count : count + (alpha is not None)]
    if dtype.kind == "u" and page.bitspersample != 8 * dtype.itemsize:
        scale = most / (2**page.bitspersample - 1)
        opacity = np.rint(opacity * scale).astype(dtype)
        colours = colours if photometric == PHOTOMETRIC.PALETTE else np.rint(colours * scale).astype(dtype)
    if photometric == PHOTOMETRIC.PALETTE:
        palette = page.colormap
        if palette is None or palette.shape != (3, 2**page.bitspersample):
            raise ValueError("it has no palette, or one of another size")
        # Some programs write 8 bits where 16 are expected
        colours = (palette >> (8 if palette.max() > 255 else 0)).astype(np.uint8).T[colours[:, :, 0]]
    if photometric == PHOTOMETRIC.MINISWHITE:
        colours = most - colours
    if photometric == PHOTOMETRIC.SEPARATED:
        # What inks look like only a profile knows; this is what Pillow does
        light = (float(most) - colours[:, :, :3]) * (float(most) - colours[:, :, 3:]) / most
        colours = np.rint(light).astype(dtype)
    if alpha == EXTRASAMPLE.ASSOCALPHA:
        share = opacity / most
        # Black where nothing is left of a colour
        found = np.divide(colours, share, out=np.zeros(colours.shape), where=share > 0)
        colours = (np.rint(found).clip(0, most) if dtype.kind in "iu" else found).astype(dtype)
    return np.concatenate([colours, opacity], axis=2)


def _by_pillow(page: TiffPage) -> Array:
    """The upright image as Pillow reads it."""
    with open(page.parent.filehandle.path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's are about other tags
        try:
            picture = TiffImagePlugin.TiffImageFile(file)
            picture.seek(page.index)
        except SyntaxError:  # it knows no such combination of tags
            kind = f"{_name(_photometric(page))} with samples of {page.bitspersample} bits"
            raise UnsupportedError(f"{kind} is not read; save it as RGB") from None
        modes = {"1": "L", "YCbCr": "RGB", "CMYK": "RGB"}
        found = ImageOps.exif_transpose(picture)
        return np.atleast_3d(np.asarray(found.convert(modes.get(found.mode, found.mode))))


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
