"""Overlapping patches of an image: cut out, a band of rows at a time, and averaged where they overlap.

So memory is that of a few images, however many patches there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.floating]
BAND = 2**15  # patches at a time, about


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Where patches lie: every few pixels, and at the last ones.

    Parameters
    ----------
    shape : tuple of int
        Of the image: rows, columns, channels.
    size : int
        Side of a patch.
    stride : int
        Distance of neighbours, at most `size`.

    Examples
    --------
    >>> image = np.arange(30, dtype=np.float32).reshape(5, 6, 1)
    >>> grid = Grid(image.shape, size=4, stride=2)
    >>> average = Average(grid)
    >>> for band in grid.bands():
    ...     patches = grid.patches(image, band)
    ...     average.add(band, patches, np.ones(len(patches), np.float32))
    >>> bool(np.allclose(average.image(), image))
    True
    """

    shape: tuple[int, int, int]
    size: int
    stride: int

    @property
    def rows(self) -> NDArray[np.intp]:
        """First rows of the patches."""
        return _positions(self.shape[0], self.size, self.stride)

    @property
    def columns(self) -> NDArray[np.intp]:
        """First columns of the patches."""
        return _positions(self.shape[1], self.size, self.stride)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def bands(self) -> Iterator[NDArray[np.intp]]:
        """First rows of the patches, as many at a time as belong to about `BAND` patches."""
        rows = self.rows
        step = max(1, BAND // len(self.columns))
        return (rows[begin : begin + step] for begin in range(0, len(rows), step))

    def patches(self, image: Array, band: NDArray[np.intp]) -> Array:
        """The patches of a band, one per row, flattened with their channels last."""
        windows = sliding_window_view(image, (self.size, self.size), axis=(0, 1))  # type: ignore[call-overload]
        chosen = np.moveaxis(windows[band][:, self.columns], 2, -1)
        return np.ascontiguousarray(chosen).reshape(len(band) * len(self.columns), -1)


@final
class Average:
    """An image made of patches: their weighted mean at every pixel."""

    def __init__(self, grid: Grid, channels: int | None = None) -> None:
        rows, columns, own = grid.shape
        self.grid = grid
        self.total = np.zeros((rows, columns, own if channels is None else channels), np.float32)
        self.weight = np.zeros((rows, columns, 1), np.float32)

    def add(self, band: NDArray[np.intp], patches: Array, weight: Array) -> None:
        """Add the patches of a band (n, size² · channels), each with a weight (n,), or one a pixel (n, size²)."""
        size, columns = self.grid.size, self.grid.columns
        shape = (len(band), len(columns), size, size, -1)
        if weight.ndim == 1:
            weight = np.broadcast_to(weight[:, None], (len(weight), size**2))
        weights, windows = weight.reshape(shape), patches.reshape(shape)
        for i in range(size):
            for j in range(size):
                here = np.ix_(band + i, columns + j)
                self.total[here] += weights[:, :, i, j] * windows[:, :, i, j]
                self.weight[here] += weights[:, :, i, j]

    def image(self) -> Array:
        """The mean; 0 where nothing was added."""
        return np.divide(self.total, self.weight, out=np.zeros_like(self.total), where=self.weight > 0)


def _positions(length: int, size: int, stride: int) -> NDArray[np.intp]:
    return np.unique(np.append(np.arange(0, length - size + 1, stride), length - size))
