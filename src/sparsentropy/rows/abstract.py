"""What rows can be asked for, and how some of them are drawn.

A row is a data point, NaN is what is missing, and the order of rows never changes, so that what was found out about a
batch can be kept for the next time it comes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

LISTED = 2**24  # rows whose numbers are shuffled as a whole


class AbstractRows(ABC):
    """n data points of d entries."""

    dtype: torch.dtype
    device: torch.device

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    @property
    @abstractmethod
    def has_gaps(self) -> bool:
        """Whether any entry is missing (NaN)."""

    @abstractmethod
    def root_mean_square(self) -> float:
        """Of all entries that are known."""

    @abstractmethod
    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in batches of so many, some of them smaller; the same ones each time."""

    @abstractmethod
    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """All rows in batches of so many, in another order each time."""

    @abstractmethod
    def take(self, index: Tensor) -> Tensor:
        """The rows of these numbers, in the order of the numbers, in memory."""

    @abstractmethod
    def without(self, index: Tensor) -> "AbstractRows":
        """All other rows, in their order."""

    @abstractmethod
    def affordable(self, numbers: int) -> int:
        """Rows that may be held in memory with so many numbers for each."""

    def __len__(self) -> int:
        return self.shape[0]

    def first(self, size: int) -> Tensor:
        """The first batch of `split`."""
        return next(self.split(size))


def drawn(n: int, most: int, generator: torch.Generator) -> Tensor:
    """Numbers of rows below n, in random order and without repeats, `most` at most."""
    if n <= LISTED:
        return torch.randperm(n, generator=generator, device=generator.device)[:most]
    found = torch.zeros(0, dtype=torch.int64, device=generator.device)
    while len(found) < most:
        more = torch.randint(n, (most,), generator=generator, device=generator.device)
        found = torch.cat([found, more]).unique()
    return found[torch.randperm(len(found), generator=generator, device=generator.device)][:most]
