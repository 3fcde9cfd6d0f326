"""Files with more than 8 bits, which Pillow would halve in colour.

imagecodecs reads and writes PNG, tifffile writes TIFF; of PNM, which none of them knows, the few lines are here.
"""

import re
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from sparsentropy.imaging.metadata import PROFILE, WINDOWS, Metadata

BITS, HEADER = 24, 33  # of a PNG file: where the bits of a sample are, and bytes before the parts that describe it
PNM = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
LARGEST = 65_535
# Headers of files with more than 8 bits: of JPEG 2000 one less than their number, of AVIF a bit that says so
MORE_BITS = {
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51.{38}[\x08-\xff]", re.DOTALL),
    "AVIF": re.compile(rb"av1C..[\x40-\x7f\xc0-\xff]", re.DOTALL),
}
KNOWN_TO_PILLOW = ("uint8", "uint16", "float32")  # types of which it writes TIFF files, but for uint8 only grey ones


def read_png(path: Path, *, transparent: bool) -> NDArray[Any] | None:
    """Pixels of a PNG file that has 16 bits or, as told, a transparent colour, which becomes opacity; else None."""
    content = path.read_bytes()
    return imagecodecs.png_decode(content) if transparent or content[BITS] > 8 else None


def loses_bits(path: Path, file_format: str | None) -> bool:
    """Whether a colour file has more than the 8 bits that Pillow would keep, and is read by nothing else."""
    return file_format in MORE_BITS and MORE_BITS[file_format].search(path.read_bytes()) is not None


def write_png(file: BinaryIO, pixels: NDArray[Any], metadata: Metadata) -> None:
    """Write a PNG file with 16 bits."""
    whole = imagecodecs.png_encode(np.ascontiguousarray(pixels, np.uint16))
    file.write(whole[:HEADER])
    for name, data, _ in PngImagePlugin.getchunks(Image.new("L", (1, 1)), **metadata.options("PNG")):
        if name in (b"iCCP", b"pHYs", b"eXIf"):
            PngImagePlugin.putchunk(file, name, data)
    file.write(whole[HEADER:])


def read_pnm(path: Path) -> NDArray[np.uint16] | None:
    """Pixels of a PGM or PPM file with more than 8 bits, scaled to 16 as Pillow does; None where it has fewer."""
    content = path.read_bytes()
    head = PNM.match(content)
    if head is None or int(head[4]) < 256:
        return None
    columns, rows, most = (int(number) for number in head.groups()[1:])
    count, body = rows * columns * (3 if head[1] in b"36" else 1), content[head.end() :]
    if head[1] in b"56":
        values = np.frombuffer(body, ">u2", count)
    else:
        values = np.array(re.sub(rb"#[^\n]*", b" ", body).split()[:count], np.int64)
    if most > LARGEST or values.max(initial=0) > most:
        raise ValueError("it has larger values than it says, or than such a file can have")
    return np.rint(values.reshape(rows, columns, -1) * (LARGEST / most)).astype(np.uint16)


def write_pnm(file: BinaryIO, pixels: NDArray[Any]) -> None:
    """Write a PGM or PPM file with 16 bits."""
    kind = "P6" if pixels.ndim == 3 else "P5"
    file.write(f"{kind} {pixels.shape[1]} {pixels.shape[0]} {LARGEST}\n".encode())
    file.write(pixels.astype(">u2").tobytes())


def write_tiff(file: BinaryIO, pixels: NDArray[Any], metadata: Metadata, *, alpha: bool) -> None:
    """Write a TIFF file with any type of pixels, the last channel of which may be the opacity.

    Only Pillow can write what EXIF says of camera and place.
    """
    if pixels.dtype.name == "uint8" or (pixels.ndim == 2 and pixels.dtype.name in KNOWN_TO_PILLOW):
        Image.fromarray(pixels).save(file, "TIFF", **metadata.options("TIFF"))
        return
    texts = {tag: value for tag, value in (metadata.exif or {}).items() if isinstance(value, str | bytes)}
    tags = [(tag, "B" if tag in WINDOWS else "s", 0, value, True) for tag, value in texts.items()]
    tags += [] if metadata.profile is None else [(PROFILE, tifffile.DATATYPE.UNDEFINED, 0, metadata.profile, True)]
    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb" if pixels.ndim == 3 and pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.ndim == 3 else None,
        extrasamples=["unassalpha"] if alpha else None,
        resolution=metadata.dpi,
        resolutionunit=None if metadata.dpi is None else "inch",
        extratags=tags,
        metadata=None,
        software=False,
    )
