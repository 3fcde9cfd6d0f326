"""Images that do not fit into memory, and patches that do not: cut image by image into a temporary file.

The patches are those that are cut from images in memory, in the same order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, overload

import numpy as np
from numpy.typing import NDArray

from sparsentropy import datasets, rows
from sparsentropy.datasets import images, patches
from sparsentropy.datasets.whitening import VARIANCE, standardise
from sparsentropy.rows import AbstractSource, File, Mapped, Scratch

PIXEL, NUMBER = 8, 4  # bytes of a pixel in memory, and of a number of a patch
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
    shapes : tuple of (int, int)
        Rows and columns of each.
    grey : bool
    """

    places: tuple[tuple[Path, int], ...]
    shapes: tuple[tuple[int, int], ...]
    grey: bool

    @classmethod
    def of(cls, path: Path, *, grey: bool) -> "Images":
        """The images in a file or a folder."""
        found = [(file, images.image_shapes(file)) for file in images.image_files(path)]
        places = tuple((file, number) for file, shapes in found for number in range(len(shapes)))
        return cls(places, tuple(shape for _, shapes in found for shape in shapes), grey)

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
            return Images(self.places[index], self.shapes[index], self.grey)
        file, number = self.places[index]
        return images.read_image(file, grey=self.grey)[number]


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
    file, variances = Scratch(None, "the patches of all images"), []

    def each() -> Iterator[tuple[int, Image]]:
        for number, image in enumerate(found):
            white = datasets.whiten_olshausen(standardise(f"images[{number}]", image)) if whiten else image
            variances.append(white.var())
            yield number, white

    count, d = _beside(each(), size, file) if n is None else _drawn(each(), _shapes(found), size, n, seed, file)
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
    shapes: Sequence[tuple[int, ...]],
    size: int,
    n: int,
    seed: int,
    file: Scratch,
) -> tuple[int, int]:
    """Random patches, each written where it belongs in their order; how many, and of how many numbers."""
    extents = [(shape[0] - size + 1, shape[1] - size + 1) for shape in shapes]
    which, y, x = patches.random_places(
        [(max(height, 1), max(width, 1)) for height, width in extents], n, np.random.default_rng(seed)
    )
    order, d = np.argsort(which, kind="stable"), 0
    bounds = np.searchsorted(which[order], np.arange(len(shapes) + 1))
    for number, image in each:
        view = patches.window_view(f"images[{number}]", image, (size, size))
        d = view[0, 0].size
        for row in order[bounds[number] : bounds[number + 1]]:
            patch = np.ascontiguousarray(view[y[row], x[row]], np.float32)
            file.put(rows.bytes_of(patch), int(row) * d * NUMBER)
    return n, d


def _shapes(found: Sequence[Image]) -> Sequence[tuple[int, ...]]:
    return found.shapes if isinstance(found, Images) else [image.shape for image in found]


def _times(factor: float) -> Callable[[Image], Image]:
    return lambda part: part * np.float32(factor)
