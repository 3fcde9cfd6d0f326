"""Images that do not fit into memory, and patches that do not: cut image by image into a temporary file.

The patches are those that are cut from images in memory, in the same order.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, overload

import numpy as np
import torch
from numpy.typing import NDArray

from sparsentropy import datasets, memory, rows
from sparsentropy.datasets import checks, images, patches
from sparsentropy.datasets.whitening import VARIANCE, standardise
from sparsentropy.rows import AbstractSource, File, Mapped, Scratch

PIXEL, NUMBER = 8, 4  # bytes of a pixel in memory, and of a number of a patch
PLACE = 128  # bytes of memory that it takes to draw a patch and to know its place
TOGETHER = 4  # times the memory for rows, for images

Image = NDArray[Any]


@final
@dataclass(frozen=True)
class Images(Sequence[Image]):
    """Images in files, each read when it is asked for.

    Parameters
    ----------
    places : tuple of (Path, int)
        For each image its file, and its number in that file.
    names : tuple of str
        For messages.
    shapes : tuple of (int, int)
        Rows and columns of each.
    grey : bool
    errors : {'raise', 'warn'}
        Whether files that cannot be read are left out with a warning.
    """

    places: tuple[tuple[Path, int], ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    grey: bool
    errors: images.Errors = "raise"

    @classmethod
    def of(cls, path: Path, *, grey: bool, errors: images.Errors = "raise") -> "Images":
        """The images in a file or a folder."""
        found = images.of_files(path, images.image_shapes, errors)
        places = tuple((file, number) for file, shapes in found for number in range(len(shapes)))
        names = tuple(name for file, shapes in found for name in images.image_names(file, len(shapes)))
        return cls(places, names, tuple(shape for _, shapes in found for shape in shapes), grey, errors)

    @property
    def large(self) -> bool:
        """Whether they are too many to be held in memory."""
        pixels = sum(height * width for height, width in self.shapes)
        return pixels * PIXEL * (1 if self.grey else 3) > TOGETHER * rows.MEMORY

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | Sequence[Image]:
        if isinstance(index, slice):
            return Images(self.places[index], self.names[index], self.shapes[index], self.grey, self.errors)
        file, number = self.places[index]
        return images.read_image(file, grey=self.grey, number=number)[0]

    def readable(self) -> "Images":
        """Those whose pixels can be read; of each of the others there is a warning."""
        failed = {}
        for index in range(len(self)):
            try:
                self[index]
            except (OSError, ValueError) as error:
                failed[index] = error
        if len(failed) == len(self):
            raise failed[0]
        for error in failed.values():
            warnings.warn(f"left out: {error}", stacklevel=2)
        left = [index for index in range(len(self)) if index not in failed]
        return Images(
            tuple(self.places[index] for index in left),
            tuple(self.names[index] for index in left),
            tuple(self.shapes[index] for index in left),
            self.grey,
        )


def too_many(found: Sequence[Image], size: int, n: int | None) -> bool:
    """Whether so many patches, or these images, are too large for memory."""
    if isinstance(found, Images):
        return True
    channels = found[0].shape[2] if found and found[0].ndim == 3 else 1
    return (n or 0) * size * size * channels * NUMBER > rows.MEMORY


def cut(found: Sequence[Image], size: int, n: int | None, seed: int, *, whiten: bool) -> AbstractSource:
    """Patches of images in a temporary file.

    Parameters
    ----------
    found : sequence of ndarray
    size : int
        Height and width of a patch.
    n : int, optional
        Random ones; without it all that lie side by side.
    seed : int
    whiten : bool
        Whether images are whitened first, as by `datasets.whiten_images`.

    Returns
    -------
    rows.AbstractSource

    Raises
    ------
    OSError
        If there is no room for the temporary file.
    TypeError, ValueError
        As `datasets.extract_patches` and `datasets.whiten_images`.
    """
    if n is not None:
        _check_number(n, size, found)
    try:
        return _cut(found, size, n, seed, whiten=whiten)
    except (OSError, ValueError):
        if not isinstance(found, Images) or found.errors == "raise":
            raise
    # Which images can be read shows only when they are; to ask it beforehand would take as long again every time
    return _cut(found.readable(), size, n, seed, whiten=whiten)


def _cut(found: Sequence[Image], size: int, n: int | None, seed: int, *, whiten: bool) -> AbstractSource:
    file, variances = Scratch(None, "the patches of all images"), []
    names = checks.image_names(found, len(found))

    def each() -> Iterator[tuple[int, Image]]:
        for number, image in enumerate(found):
            white = datasets.whiten_olshausen(standardise(names[number], image)) if whiten else image
            variances.append(white.var())
            yield number, white

    count, d = _beside(each(), size, file) if n is None else _drawn(each(), found, size, n, seed, file)
    source = File("the temporary file of patches", file.descriptor(), 0, (count, d), np.dtype(np.float32))
    return Mapped(source, _times(np.sqrt(VARIANCE / np.mean(variances)))) if whiten else source


def _beside(each: Iterator[tuple[int, Image]], size: int, file: Scratch) -> tuple[int, int]:
    """Neighbouring patches in reading order; how many, and of how many numbers."""
    count, d = 0, 0
    for _, image in each:
        found = datasets.extract_patches([image], size=size, stride=size)
        file.append(found)
        count, d = count + len(found), found.shape[1]
    return count, d


def _drawn(
    each: Iterator[tuple[int, Image]],
    found: Sequence[Image],
    size: int,
    n: int,
    seed: int,
    file: Scratch,
) -> tuple[int, int]:
    """Random patches, each written where it belongs in their order; how many, and of how many numbers."""
    shapes, names = _shapes(found), checks.image_names(found, len(found))
    extents = [(shape[0] - size + 1, shape[1] - size + 1) for shape in shapes]
    which, y, x = patches.random_places(
        [(max(height, 1), max(width, 1)) for height, width in extents], n, np.random.default_rng(seed)
    )
    order, d = np.argsort(which, kind="stable"), 0
    bounds = np.searchsorted(which[order], np.arange(len(shapes) + 1))
    for number, image in each:
        view = patches.window_view(names[number], image, (size, size))
        d = view[0, 0].size
        for row in order[bounds[number] : bounds[number + 1]]:
            patch = np.ascontiguousarray(view[y[row], x[row]], np.float32)
            file.put(rows.bytes_of(patch), int(row) * d * NUMBER)
    return n, d


def check_sizes(found: Sequence[Image], size: int) -> None:
    """Refuse images that are smaller than a patch.

    Raises
    ------
    ValueError
        It names the first of them.
    """
    for name, shape in zip(checks.image_names(found, len(found)), _shapes(found), strict=True):
        if min(shape[:2]) < size:
            raise ValueError(
                f"{name} has {shape[0]} × {shape[1]} pixels, smaller than a patch of {size} × {size}; "
                "give a smaller patch_size=, or larger images"
            )


def _check_number(n: int, size: int, found: Sequence[Image]) -> None:
    """Refuse more patches than the disk and the memory have room for, before any is cut."""
    channels = 1 if _grey(found) else 3
    folder, free = tempfile.gettempdir(), memory.available(torch.device("cpu"))
    rooms = [shutil.disk_usage(folder).free // (size * size * channels * NUMBER)]
    rooms += [] if free is None else [free // PLACE]
    if n > min(rooms):
        raise ValueError(
            f"{n:,} patches of {size} × {size} pixels are too many: at most {min(rooms):,} fit into the memory and "
            f"into {folder}, where they are kept; give a smaller n="
        )


def _grey(found: Sequence[Image]) -> bool:
    return found.grey if isinstance(found, Images) else found[0].ndim == 2


def _shapes(found: Sequence[Image]) -> Sequence[tuple[int, ...]]:
    return found.shapes if isinstance(found, Images) else [image.shape for image in found]


def _times(factor: float) -> Callable[[Image], Image]:
    return lambda part: part * np.float32(factor)
