"""PNG and PNM files with more than 8 bits, read and written.

Pillow would halve their colours.
"""

import io
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sparsentropy.datasets.tiff import check_size

SIGNATURE, HEADER = 8, 25  # bytes a PNG file begins with, and of the part after them
PNM = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
LARGEST = 65_535
JPEG_2000 = b"\xff\x4f\xff\x51"  # with which what is compressed begins


def read_png(path: Path) -> NDArray[np.uint16] | None:
    """Pixels of a PNG file with 16 bits, (rows, columns, channels); None where it has fewer.

    Raises
    ------
    OSError, ValueError
        If it is damaged.
    """
    import png

    if png_bits(path) != 16:
        return None
    with path.open("rb") as file:
        reader = png.Reader(file)
        reader.preamble()
        check_size(reader.height, reader.width)
        file.seek(0)
        _check_length(file, reader.height, reader.width * 2 * reader.planes, interlaced=bool(reader.interlace))
        file.seek(0)
        columns, rows, values, _ = png.Reader(file).read()
        flat = np.concatenate([np.frombuffer(row, np.uint16) for row in values])
    return flat.reshape(rows, columns, -1)


def png_bits(path: Path) -> int:
    """How many bits a sample of a PNG file has."""
    with path.open("rb") as file:
        return file.read(SIGNATURE + HEADER)[24]


def loses_bits(path: Path, file_format: str | None) -> bool:
    """Whether a colour file of JPEG 2000 or AVIF has more than the 8 bits that Pillow would keep."""
    if file_format == "JPEG2000":
        content = path.read_bytes()
        begin = content.find(JPEG_2000)
        return begin >= 0 and content[begin + 42 : begin + 43] > b"\x07"  # one less than the bits of a sample
    if file_format == "AVIF":
        _, found, rest = path.read_bytes().partition(b"av1C")
        return bool(found) and rest[2] & 0x40 > 0  # high bit depth
    return False


def write_png(file: BinaryIO, pixels: NDArray[Any], chunks: list[tuple[bytes, bytes]]) -> None:
    """Write a PNG file with 16 bits, and with these parts besides."""
    import png

    rows, columns, channels = np.atleast_3d(pixels).shape
    kind = {"greyscale": channels < 3, "alpha": channels in (2, 4), "bitdepth": 16}
    values, content = np.ascontiguousarray(pixels, np.uint16).reshape(rows, -1), io.BytesIO()
    png.Writer(columns, rows, **kind).write(content, values)  # pyright: ignore[reportArgumentType]
    whole = content.getvalue()
    file.write(whole[: SIGNATURE + HEADER])
    for name, data in chunks:
        png.write_chunk(file, name, data)
    file.write(whole[SIGNATURE + HEADER :])


def read_pnm(path: Path) -> NDArray[np.uint16] | None:
    """Pixels of a PGM or PPM file with more than 8 bits; None where it has fewer.

    As Pillow does, they are scaled to the whole range of 16 bits.

    Raises
    ------
    OSError, ValueError
        If it is damaged.
    """
    content = path.read_bytes()
    head = PNM.match(content)
    if head is None or not 255 < (most := int(head[4])) <= LARGEST:
        return None
    columns, rows, channels = int(head[2]), int(head[3]), 3 if head[1] in b"36" else 1
    check_size(rows, columns)
    body, count = content[head.end() :], rows * columns * channels
    if head[1] in b"56":
        values = np.frombuffer(body, ">u2", count=min(count, len(body) // 2))
    else:
        values = np.array(re.sub(rb"#[^\n]*", b" ", body).split()[:count], np.int64)
    if len(values) < count or values.max(initial=0) > most:
        raise ValueError("it ends too early, or has larger values than it says")
    scaled = np.rint(values * (LARGEST / most)).astype(np.uint16)
    return scaled.reshape((rows, columns, 3) if channels == 3 else (rows, columns))


def write_pnm(file: BinaryIO, pixels: NDArray[Any]) -> None:
    """Write a PGM or PPM file with 16 bits."""
    kind = "P6" if pixels.ndim == 3 else "P5"
    file.write(f"{kind} {pixels.shape[1]} {pixels.shape[0]} {LARGEST}\n".encode())
    file.write(pixels.astype(">u2").tobytes())


def _check_length(file: BinaryIO, rows: int, width: int, *, interlaced: bool) -> None:
    """Refuse a PNG file that holds more than its pixels: unpacked, it could fill the memory."""
    import png

    most = rows * (width + 1) + (8 * (rows + 8) if interlaced else 0)  # with the filter of every row
    unpacker, found = zlib.decompressobj(), 0
    for name, data in png.Reader(file).chunks():
        if name == b"IDAT":
            found += len(unpacker.decompress(data, most + 1 - found))
            if found > most:
                raise ValueError("it holds more than its pixels")
