"""Directories of tags, as TIFF files and EXIF have them, read and written byte by byte.

A directory has a type and some bytes for every tag; what these mean is for the caller to say.
"""

import io
import struct
from collections.abc import Mapping
from typing import BinaryIO, Literal

Order = Literal["<", ">"]
Directory = Mapping[int, tuple[int, bytes]]
"""Type and bytes of every value, by its tag."""

HEADS: Mapping[bytes, Order] = {b"II*\0": "<", b"MM\0*": ">"}  # with which a file begins
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value, by its type
TEXT, SHORT, LONG, RATIONAL = 2, 3, 4, 5
MOST = 4096  # tags of a directory that are looked at


def read(file: BinaryIO, order: Order, offset: int, *, big: bool = False) -> Directory:
    r"""Read a directory; what is damaged is left out.

    Parameters
    ----------
    file : binary file
    order : {'<', '>'}
        Of bytes.
    offset : int
        Where it begins.
    big : bool, default=False
        Whether the file is a BigTIFF.

    Returns
    -------
    Directory

    Examples
    --------
    >>> found = {315: (TEXT, b"Ada Lovelace"), 262: (SHORT, b"\1\0")}
    >>> read(io.BytesIO(written(found, "<", 0) + bytes(1)), "<", 0) == found
    True
    """
    end = file.seek(0, io.SEEK_END)
    if not 0 <= offset < end:
        return {}
    file.seek(offset)
    head, form, room = (8, order + "HHQ8s", 8) if big else (2, order + "HHI4s", 4)
    size = struct.calcsize(form)
    content = file.read(min(number(file.read(head), order), MOST) * size)
    found: dict[int, tuple[int, bytes]] = {}
    for begin in range(0, len(content) - size + 1, size):
        tag, kind, many, value = struct.unpack(form, content[begin : begin + size])
        length = SIZES.get(kind, 0) * many
        if length > room:
            place = number(value, order)
            if place + length > end:
                continue
            file.seek(place)
            value = file.read(length)
        if length:
            found[tag] = kind, value[:length]
    return found


def written(found: Directory, order: Order, at: int) -> bytes:
    """Return a directory as the bytes of a TIFF file from `at` on, an even number."""
    entries, values = b"", b""
    begin = at + 2 + 12 * len(found) + 4
    for tag, (kind, value) in sorted(found.items()):
        entry = value.ljust(4, b"\0")
        if len(value) > 4:
            entry = longs(order, begin + len(values))
            values += value + b"\0" * (len(value) % 2)
        entries += struct.pack(order + "HHI", tag, kind, len(value) // SIZES[kind]) + entry
    return struct.pack(order + "H", len(found)) + entries + bytes(4) + values


def head(order: Order) -> bytes:
    """Return what a file begins with."""
    return next(found for found, its in HEADS.items() if its == order)


def longs(order: Order, *values: int) -> bytes:
    """Return whole numbers as 32 bits each."""
    return struct.pack(f"{order}{len(values)}I", *values)


def number(value: bytes, order: Order) -> int:
    """Return the whole number in these bytes."""
    return int.from_bytes(value, "little" if order == "<" else "big")
