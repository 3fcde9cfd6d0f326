"""Who took an image, when and how: EXIF, copied as it is.

EXIF is a small TIFF file without pixels: a directory of tags, and two more for the camera and for the place. Values are
copied byte by byte and not understood, so that no text changes and nothing is lost that only its maker knows. Only tags
are copied that are true of a denoised image, too: its orientation and its thumbnail, for example, are not.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Self, final

from sparsentropy.datasets import tags
from sparsentropy.datasets.tags import LONG, Directory, Order, longs, number

CAMERA, PLACE = 34665, 34853  # tags that say where the other directories are
KEPT = frozenset(
    {270, 271, 272, 305, 306, 315, 316, 33432}  # description, maker, camera, program, date, author, computer, rights
    | {18246, 18249, *range(40091, 40096)}  # rating, and title, comment, author, keywords, subject as Windows has them
)
WIDTH, HEIGHT, INTEROPERABILITY = 40962, 40963, 40965  # in the directory of the camera
PREFIX = b"Exif\0\0"  # of EXIF in other files


@final
@dataclass(frozen=True)
class Exif:
    """What is known of an image.

    Parameters
    ----------
    order : {'<', '>'}
        Of bytes.
    main, camera, place : Directory
    """

    order: Order
    main: Directory
    camera: Directory
    place: Directory

    @classmethod
    def of(cls, block: bytes) -> "Exif | None":
        """What a block of EXIF says that is kept; None where that is nothing."""
        block = block.removeprefix(PREFIX)
        order = tags.HEADS.get(block[:4])
        return None if order is None else cls.of_file(io.BytesIO(block), order, number(block[4:8], order))

    @classmethod
    def of_file(cls, file: BinaryIO, order: Order, offset: int, *, big: bool = False) -> "Exif | None":
        """What a directory in a TIFF file says that is kept; None where that is nothing."""
        main = tags.read(file, order, offset, big=big)
        camera, place = (
            tags.read(file, order, number(main[tag][1], order), big=big) if tag in main else {}
            for tag in (CAMERA, PLACE)
        )
        main = {tag: value for tag, value in main.items() if tag in KEPT}
        camera = {tag: value for tag, value in camera.items() if tag != INTEROPERABILITY}
        return cls(order, main, camera, place) if main or camera or place else None

    @property
    def others(self) -> dict[int, Directory]:
        """The directories beside the main one that are not empty, by the tag that says where they are."""
        return {tag: found for tag, found in ((CAMERA, self.camera), (PLACE, self.place)) if found}

    def sized(self, rows: int, columns: int) -> Self:
        """The same of an image of this size."""
        size = {WIDTH: columns, HEIGHT: rows}
        new = {tag: (LONG, longs(self.order, value)) for tag, value in size.items() if tag in self.camera}
        return type(self)(self.order, self.main, {**self.camera, **new}, self.place)

    @property
    def block(self) -> bytes:
        """All of it, as other files hold it."""
        return tags.head(self.order) + longs(self.order, 8) + laid_out(self.main, self.others, self.order, 8)


def laid_out(main: Directory, others: Mapping[int, Directory], order: Order, at: int) -> bytes:
    """Return a directory, and behind it those that it says the places of, as the bytes of a file from `at` on."""
    whole = {**main, **dict.fromkeys(others, (LONG, bytes(4)))}
    begin, more = at + len(tags.written(whole, order, at)), b""
    for tag, found in others.items():
        whole[tag] = (LONG, longs(order, begin + len(more)))
        more += tags.written(found, order, begin + len(more))
    return tags.written(whole, order, at) + more
