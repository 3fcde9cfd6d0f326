"""Rows that stay on a disk: a few megabytes of them are read at a time.

They come in the type and the units of learning. Batches are the same each time, and another order is one of the
pieces that are read, each shuffled with its neighbour in that order, so that a disk reads in long runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsentropy.rows.abstract import AbstractRows
from sparsentropy.rows.in_memory import InMemory
from sparsentropy.rows.sources import AbstractSource, Between, Without, piece_rows
from sparsentropy.rows.survey import Survey

MEMORY = 2**28  # bytes of rows, and of what learning keeps of them, that are held at once


@final
@dataclass(frozen=True, eq=False)
class Stored(AbstractRows):
    """Rows of a source.

    Parameters
    ----------
    source : AbstractSource
    dtype : torch.dtype
        That they get.
    device : torch.device
        Where they go.
    unit : float
        What they are divided by.
    survey : Survey
        Of the source, or of a larger one, before this division.
    """

    source: AbstractSource
    dtype: torch.dtype
    device: torch.device
    unit: float
    survey: Survey

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractRows`."""
        return self.source.shape

    @property
    def has_gaps(self) -> bool:
        """See `AbstractRows`."""
        return self.survey.has_gaps

    def typical_size(self) -> float:
        """See `AbstractRows`."""
        return self.survey.typical_size / self.unit

    def split(self, size: int) -> Iterator[Tensor]:
        """See `AbstractRows`."""
        for begin, end in self._pieces(size):
            yield from self._read(begin, end).split(size)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """See `AbstractRows`."""
        pieces = self._pieces(size)
        order = torch.randperm(len(pieces), generator=generator, device=generator.device).tolist()
        for pair in (order[i : i + 2] for i in range(0, len(order), 2)):
            rows = torch.cat([self._read(*pieces[number]) for number in pair])
            index = torch.randperm(len(rows), generator=generator, device=generator.device).to(rows.device)
            yield from rows[index].split(size)

    def take(self, index: Tensor) -> Tensor:
        """See `AbstractRows`."""
        wanted = index.cpu().numpy()
        order = np.argsort(wanted, kind="stable")
        found = np.empty((len(order), self.source.shape[1]), self.source.dtype)
        found[order] = self.source.pick(wanted[order])
        return self._tensor(found)

    def part(self, index: Tensor) -> InMemory:
        """See `AbstractRows`."""
        return InMemory(self.take(index))

    def without(self, index: Tensor) -> "Stored":
        """See `AbstractRows`."""
        return replace(self, source=Without(self.source, np.sort(index.cpu().numpy())))

    def between(self, begin: int, end: int) -> "Stored":
        """See `AbstractRows`."""
        return replace(self, source=Between(self.source, begin, end))

    def affordable(self, numbers: int) -> int:
        """See `AbstractRows`."""
        return affordable(numbers, self.dtype)

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        """Of the source, each but the last a whole number of batches."""
        step = max(1, piece_rows(self.source) // size) * size
        n = self.source.shape[0]
        return [(begin, min(begin + step, n)) for begin in range(0, n, step)]

    def _read(self, begin: int, end: int) -> Tensor:
        return self._tensor(self.source.read(begin, end))

    def _tensor(self, rows: NDArray[Any]) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(rows, rows.dtype.newbyteorder("=")))
        found = found.to(self.device, self.dtype)
        return found if self.unit == 1.0 else found.div_(self.unit)


def affordable(numbers: int, dtype: torch.dtype) -> int:
    """How many rows can be held, each of which takes so many numbers.

    Examples
    --------
    >>> affordable(64, torch.float64)
    524288
    """
    return MEMORY // (max(1, numbers) * dtype.itemsize)
