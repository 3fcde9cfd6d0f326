"""The pages of a TIFF file as arrays in the type of the file: upright, bright where values are large, grey or RGB.

What the samples of a page mean is said by its tags, which tifffile reads. Samples of whole bytes are unpacked by
libtiff, through Pillow, which undoes every usual compression but halves colours of 16 bits and has no mode for most
other types: so it is shown a page of bytes, and what these mean is worked out here. Palettes, YCbCr, JPEG, CCITT and
samples of fewer than 8 bits are left to Pillow as they are. All else is refused.
"""

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin

from . import tags
from .checks import UnsupportedError
from .tags import LONG

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

Array = NDArray[Any]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are those of BigTIFF
AT_ONCE = 2**24  # bytes of strips that are unpacked together
# Numbers of tags, and below of what they can say, from the TIFF 6.0 specification and its supplements
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES = 256, 257, 258, 259, 262, 266, 277
ROWS_PER_STRIP, STRIPS, STRIP_SIZES = 278, 273, 279
ORIENTATION, EXTRA_SAMPLES, COEFFICIENTS, SUBSAMPLING, REFERENCE = 274, 338, 529, 530, 532
MEANINGS = (PHOTOMETRIC, ORIENTATION, EXTRA_SAMPLES, COEFFICIENTS, SUBSAMPLING, REFERENCE)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3}  # samples of a pixel
WHOLE_RANGE = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)  # of YCbCr, as fractions
ASSOCIATED, UNASSOCIATED, COREL = 1, 2, 999
REDUCED, MASK = 1, 4  # bits of the kind of a page
UNCOMPRESSED, LZW, PACKBITS, LZMA, ZSTD, CCITT, JPEG, DEFLATE = 1, 5, 32773, 34925, 50000, (2, 3, 4), (6, 7), (8, 32946)
PREDICTED = (LZW, *DEFLATE, LZMA, ZSTD)  # compressions that a predictor may go with
OF_BYTES = (UNCOMPRESSED, PACKBITS, *PREDICTED)  # compressions that do not care what samples mean
UNSIGNED, SIGNED, FLOAT, ANY = 1, 2, 3, 4
KINDS = {UNSIGNED: "whole numbers", SIGNED: "signed numbers", FLOAT: "floating point numbers"}
TYPES = {(UNSIGNED, bits): f"u{bits // 8}" for bits in (8, 16, 32)}
TYPES |= {(SIGNED, bits): f"i{bits // 8}" for bits in (8, 16, 32)}
TYPES |= {(FLOAT, bits): f"f{bits // 8}" for bits in (16, 32, 64)}

UPRIGHT: Mapping[int, Callable[[Array], Array]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}
"""What turns an image upright, by its orientation as TIFF and EXIF number them; 1 is upright."""

# A library does not decide where messages go: without this, those of tifffile would come to the terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@final
@dataclass(frozen=True, eq=False)
class Raster:
    """An image in the type of its file.

    Parameters
    ----------
    pixels : ndarray, shape (rows, columns) or (rows, columns, 3)
        Grey or RGB.
    alpha : ndarray, shape (rows, columns), optional
        Opacity, in the same type; colours are not multiplied by it.
    """

    pixels: Array
    alpha: Array | None = None

    @classmethod
    def of(cls, array: Array) -> "Raster":
        """The image in an array whose second of two channels, or last of four, is the opacity."""
        if array.ndim == 3 and array.shape[2] in (2, 4):
            colours = array[:, :, 0] if array.shape[2] == 2 else array[:, :, :3]
            return cls(colours, array[:, :, -1])
        return cls(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


@final
@dataclass(frozen=True, eq=False)
class Page:
    """A page of a TIFF file, whose pixels have not been read.

    Parameters
    ----------
    path : Path
    number : int
        Of the page in the file.
    stored : tifffile.TiffPage
        How its samples are stored.
    said : mapping of int to Any
        What the tags say that tell what samples mean.
    """

    path: Path
    number: int
    stored: "TiffPage"
    said: Mapping[int, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the upright image."""
        rows, columns = self.stored.imagelength, self.stored.imagewidth
        return (columns, rows) if self.orientation > 4 else (rows, columns)

    @property
    def orientation(self) -> int:
        """How the page lies in the file; 1 is upright."""
        found = self.said.get(ORIENTATION, 1)
        return int(found) if found in UPRIGHT else 1

    @property
    def photometric(self) -> int:
        """What colours mean.

        Raises
        ------
        ValueError
            If they cannot be made grey or RGB.
        """
        found = self.said.get(PHOTOMETRIC)
        if found is None:
            raise UnsupportedError("it does not say what its samples mean (PhotometricInterpretation); save it again")
        if found not in COLOURS:
            raise UnsupportedError(f"its colours are stored as {_name(found)}; save it as grey or RGB")
        return int(found)

    @property
    def alpha(self) -> int | None:
        """Whether colours were multiplied by the opacity: ASSOCIATED or UNASSOCIATED; None where there is none."""
        if self.stored.samplesperpixel <= COLOURS[self.photometric]:
            return None
        # Before there was a tag for it, the fourth channel was the opacity
        kinds = np.ravel(self.said.get(EXTRA_SAMPLES, UNASSOCIATED if self.photometric == RGB else 0))
        return {ASSOCIATED: ASSOCIATED, UNASSOCIATED: UNASSOCIATED, COREL: UNASSOCIATED}.get(int(kinds[0]))

    @property
    def unknown(self) -> int:
        """How many channels there are of which the file does not say what they mean."""
        return self.stored.samplesperpixel - COLOURS[self.photometric] - (self.alpha is not None)

    def read(self) -> Raster:
        """Read the page; of RGB only these, if there are channels of which nobody knows what they mean.

        Raises
        ------
        OSError, ValueError
            If it is damaged, or of a kind that is not read.
        """
        check_size(*self.shape)
        if self.unknown < 0:
            raise ValueError(f"it has {self.stored.samplesperpixel} samples a pixel, too few for its kind of colours")
        if self.unknown > 0 and self.photometric != RGB:
            raise UnsupportedError(f"it does not say what {self.unknown} of its channels mean; save it without them")
        dtype = self._dtype()
        if dtype is None:
            return self._by_pillow()
        planes = self.stored.samplesperpixel if self.stored.planarconfig == 2 else 1
        samples = [_samples(self.path, self.stored, plane, planes, dtype) for plane in range(planes)]
        turned = UPRIGHT.get(self.orientation, lambda image: image)(np.concatenate(samples, axis=2))
        return self._coloured(np.ascontiguousarray(turned, dtype.newbyteorder("=")))

    def _dtype(self) -> np.dtype | None:
        """The type of samples of whole bytes; None for what is left to Pillow."""
        stored, photometric = self.stored, self.photometric
        kind, bits, compression = stored.sampleformat, stored.bitspersample, stored.compression
        if not isinstance(kind, int) or not isinstance(bits, int):
            raise UnsupportedError("its channels have different types; save them all in one")
        if stored.imagedepth > 1:
            raise UnsupportedError("it is a volume and no image; save every slice as a file of its own")
        if kind in (UNSIGNED, ANY):
            small = bits < 8 or photometric in (PALETTE, YCBCR) or (bits == 12 and photometric == BLACK_IS_ZERO)
            if (compression in JPEG and bits == 8) or compression in CCITT or (compression in OF_BYTES and small):
                return None
        if compression not in OF_BYTES:
            raise UnsupportedError(f"its compression, {_name(compression)}, is not read; save it with LZW, ZIP or none")
        code = TYPES.get((UNSIGNED if kind == ANY else kind, bits))
        if code is None:
            what = KINDS.get(kind, "numbers")
            raise UnsupportedError(f"its samples are {what} of {bits} bits; save it with 8 or 16 bits")
        if photometric in (WHITE_IS_ZERO, INKS) and code[0] != "u":
            raise UnsupportedError(f"it is {_name(self.said[PHOTOMETRIC])} with {KINDS[kind]}; save it as grey or RGB")
        return np.dtype(code).newbyteorder(stored.parent.byteorder)

    def _coloured(self, samples: Array) -> Raster:
        """The image of samples (rows, columns, channels)."""
        photometric, alpha = self.photometric, self.alpha
        count, most = COLOURS[photometric], np.iinfo(samples.dtype).max if samples.dtype.kind in "iu" else 1
        colours, opacity = samples[:, :, :count], None if alpha is None else samples[:, :, count]
        if photometric == WHITE_IS_ZERO:
            colours = most - colours
        if photometric == INKS:
            # What inks look like only a profile knows; this is what Pillow does
            light = (float(most) - colours[:, :, :3]) * (float(most) - colours[:, :, 3:]) / most
            colours = np.rint(light).astype(samples.dtype)
        if alpha == ASSOCIATED and opacity is not None:
            colours = _divided(colours, opacity, most)
        pixels = colours[:, :, 0] if colours.shape[2] == 1 else colours
        return Raster(np.ascontiguousarray(pixels), None if opacity is None else np.ascontiguousarray(opacity))

    def _by_pillow(self) -> Raster:
        """The page as Pillow reads it."""
        if self.photometric == YCBCR and self.stored.compression == UNCOMPRESSED:
            whole = tuple(np.ravel(self.said.get(REFERENCE, WHOLE_RANGE))) == WHOLE_RANGE
            if tuple(self.said.get(SUBSAMPLING, (2, 2))) != (1, 1) or COEFFICIENTS in self.said or not whole:
                raise UnsupportedError("its colours are stored as a kind of YCBCR that is not read; save it as RGB")
        with self.path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's are about other tags
            try:
                picture = TiffImagePlugin.TiffImageFile(file)
                picture.seek(self.number)
            except SyntaxError:  # it knows no such combination of tags
                colours, bits = _name(self.said[PHOTOMETRIC]), self.stored.bitspersample
                raise UnsupportedError(f"{colours} with samples of {bits} bits is not read; save it as RGB") from None
            found = ImageOps.exif_transpose(picture)
        if found.mode == "I;16":  # 12 bits
            return Raster(np.rint(np.asarray(found) * (65_535 / 4095)).astype(np.uint16))
        modes = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "YCbCr": "RGB", "CMYK": "RGB"}
        return Raster.of(np.asarray(found.convert(modes.get(found.mode, found.mode))))


def pages(path: Path) -> list[Page]:
    """The images in a TIFF file, without masks and without small copies of other images.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Page

    Raises
    ------
    OSError, ValueError
        If it is no TIFF file, holds nothing but small copies, or a stack of images on one page.
    """
    from tifffile import TiffFile  # imported late: few images need it

    with TiffFile(path) as file:
        stored = list(_chain(file))
        found = [Page(path, number, page, _meanings(page)) for number, page in enumerate(stored)]
        # A raw file of a camera begins with a small copy, and has the image itself where only its maker finds it
        whole = [page for page in found if not page.stored.subfiletype & REDUCED]
        if not whole:
            raise UnsupportedError("it holds a small copy of an image and no image, as raw files of cameras do")
        if _stacked(file, found):
            raise UnsupportedError("it holds a stack of images on one page; save every image as a file of its own")
    return [page for page in whole if not page.stored.subfiletype & MASK]


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF file does."""
    with path.open("rb") as file:
        return file.read(4) in SIGNATURES


def check_size(rows: int, columns: int) -> None:
    """Ask of an image what Pillow asks of those that it opens: not to have so many pixels that it must be an attack.

    Raises
    ------
    PIL.Image.DecompressionBombError
        Beyond twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Warns
    -----
    PIL.Image.DecompressionBombWarning
        Beyond `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    most, pixels = Image.MAX_IMAGE_PIXELS, rows * columns
    if most is None or pixels <= most:
        return
    text = f"it has {pixels:,} pixels, and with more than {{:,}} it could be an attack (PIL.Image.MAX_IMAGE_PIXELS)"
    if pixels > 2 * most:
        raise Image.DecompressionBombError(text.format(2 * most))
    warnings.warn(text.format(most), Image.DecompressionBombWarning, stacklevel=2)


def _chain(file: "TiffFile") -> Iterator["TiffPage"]:
    """The pages of a file, each of which says where the next one is."""
    seen = set()
    for page in file.pages:
        if page.offset in seen:
            raise ValueError("its pages go round in a circle")
        seen.add(page.offset)
        yield page.aspage()


def _meanings(page: "TiffPage") -> dict[int, Any]:
    """Values of tags; some of them can be read only while the file is open."""
    return {tag.code: tag.value for tag in page.tags if tag.code in MEANINGS}


def _stacked(file: "TiffFile", found: Sequence[Page]) -> bool:
    """Whether the only page is followed by images that no tag speaks of, as in large files of ImageJ."""
    return len(found) == 1 and len(file.series) > 0 and file.series[0].size > found[0].stored.size > 0


def _samples(path: Path, stored: "TiffPage", plane: int, planes: int, dtype: np.dtype) -> Array:
    """Samples of one of the planes of a page as they lie in the file, (rows, columns, channels)."""
    channels = stored.samplesperpixel // planes
    width = stored.tilewidth if stored.is_tiled else stored.imagewidth  # of what was compressed as one
    across = math.ceil(stored.imagewidth / width)
    unpacked = _bytes(path, stored, plane, across * width * channels * dtype.itemsize)
    rows = len(unpacked)
    parts = unpacked.reshape(rows, across, -1)
    predictor = stored.predictor if stored.compression in PREDICTED else 1
    if predictor == 3:
        values = _from_floating_predictor(parts, channels, dtype)
    else:
        values = parts.view(dtype).reshape(rows, across, width, channels)
        if predictor == 2:
            bits = values.view(f"{dtype.str[0]}u{dtype.itemsize}")
            bits = np.cumsum(bits, axis=2, dtype=bits.dtype.newbyteorder("="))
            values = bits.view(dtype.newbyteorder("="))
    return values.reshape(rows, across * width, channels)[:, : stored.imagewidth]


def _bytes(path: Path, stored: "TiffPage", plane: int, width: int) -> Array:
    """Bytes of one plane without compression, (rows, width), with what fills the last tiles to their width."""
    long = stored.tilelength if stored.is_tiled else min(stored.rowsperstrip, stored.imagelength)
    across = math.ceil(stored.imagewidth / stored.tilewidth) if stored.is_tiled else 1
    down = math.ceil(stored.imagelength / long)
    rows = np.full(down * across, long)  # of every tile or strip
    if not stored.is_tiled:
        rows[-1] -= long * down - stored.imagelength
    here = slice(plane * across * down, (plane + 1) * across * down)
    offsets, sizes = np.array(stored.dataoffsets[here]), np.array(stored.databytecounts[here])
    least = rows * (width // across) if stored.compression == UNCOMPRESSED else 1
    if not len(offsets) == len(sizes) == len(rows) or offsets.min() <= 0 or (sizes < least).any():
        raise ValueError("parts of it are missing")
    end = path.stat().st_size
    if (offsets + sizes).max() > end or sizes.sum() > end:  # overlapping, a small file could ask for any memory
        raise ValueError("it is cut short")
    with path.open("rb") as file:
        parts = [(file.seek(offset), file.read(size))[1] for offset, size in zip(offsets, sizes, strict=True)]
    unpacked = _unpacked(parts, rows, width // across, int(stored.compression), int(stored.fillorder))
    if stored.is_tiled:
        tiles = unpacked.reshape(down, across, long, width // across)
        unpacked = tiles.swapaxes(1, 2).reshape(down * long, width)
    return unpacked[: stored.imagelength]


def _unpacked(parts: Sequence[bytes], rows: NDArray[np.intp], width: int, compression: int, order: int) -> Array:
    """Bytes of strips or tiles without compression, one below the other, (sum of rows, width)."""
    if compression == UNCOMPRESSED:
        pairs = zip(parts, rows, strict=True)
        whole = np.concatenate([np.frombuffer(part, np.uint8, count * width) for part, count in pairs])
        if order == 2:
            whole = np.packbits(np.unpackbits(whole, bitorder="little"))
        return whole.reshape(-1, width)
    together = max(1, AT_ONCE // int(rows[0] * width))
    groups = [slice(begin, begin + together) for begin in range(0, len(parts), together)]
    found = [_by_libtiff(parts[group], rows[group], width, compression, order) for group in groups]
    return np.concatenate(found)


def _by_libtiff(parts: Sequence[bytes], rows: NDArray[np.intp], width: int, compression: int, order: int) -> Array:
    """The same of few strips or tiles: the pixels of a page of bytes with these as its strips."""
    # A pixel of several bytes, where it fits, keeps large strips below Pillow's limit of pixels
    unit = next(unit for unit in (4, 3, 1) if width % unit == 0)
    offsets = (8 + np.cumsum([0, *map(len, parts)])).tolist()
    say = {WIDTH: width // unit, LENGTH: int(rows.sum()), COMPRESSION: compression, FILL_ORDER: order, SAMPLES: unit}
    say |= {PHOTOMETRIC: BLACK_IS_ZERO if unit == 1 else RGB, ROWS_PER_STRIP: int(rows[0])}
    say |= {EXTRA_SAMPLES: UNASSOCIATED} if unit == 4 else {}
    found = {tag: (LONG, tags.longs("<", value)) for tag, value in say.items()}
    found |= {BITS: (tags.SHORT, b"\x08\0" * unit), STRIPS: (LONG, tags.longs("<", *offsets[:-1]))}
    found |= {STRIP_SIZES: (LONG, tags.longs("<", *map(len, parts)))}
    begin = offsets[-1] + offsets[-1] % 2
    whole = [b"II*\0", tags.longs("<", begin), *parts, bytes(begin - offsets[-1]), tags.written(found, "<", begin)]
    with TiffImagePlugin.TiffImageFile(io.BytesIO(b"".join(whole))) as picture, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of bytes; pixels were counted before
        return np.array(picture).reshape(-1, width)


def _from_floating_predictor(parts: Array, channels: int, dtype: np.dtype) -> Array:
    """Numbers of which each part of a row (rows, parts, bytes) holds all first bytes, then all second ones, and so on.

    Each byte is stored as its difference to the one before it of the same channel (Adobe's TIFF technical note 3).
    """
    rows, across = parts.shape[:2]
    plain = np.cumsum(parts.reshape(rows, across, -1, channels), axis=2, dtype=np.uint8)
    together = plain.reshape(rows, across, dtype.itemsize, -1).swapaxes(2, 3)
    return np.ascontiguousarray(together).view(dtype.newbyteorder(">")).reshape(rows, across, -1, channels)


def _divided(colours: Array, opacity: Array, most: int) -> Array:
    """Colours that were multiplied by the opacity, as they were before; black where nothing is left of them."""
    share = opacity[:, :, None] / most
    found = np.divide(colours, share, out=np.zeros(colours.shape), where=share > 0)
    return (np.rint(found).clip(0, most) if colours.dtype.kind in "iu" else found).astype(colours.dtype)


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
