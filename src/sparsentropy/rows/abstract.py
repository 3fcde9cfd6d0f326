"""What rows can be asked for, and how some of them are drawn.

A row is a data point, NaN is what is missing, and the order of rows never changes, so that what was found out about a
batch can be kept for the next time it comes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from sparsentropy.team import ALONE, AbstractTeam

LISTED = 2**24  # rows whose numbers are shuffled as a whole


class AbstractRows(ABC):
    """n data points of d entries, all of them or the share of one process."""

    dtype: torch.dtype
    device: torch.device

    @property
    def team(self) -> AbstractTeam:
        """Who passes over the rows, each process over its own."""
        return ALONE

    @property
    def here(self) -> int:
        """How many this process passes over."""
        return len(self)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, d), of all processes together."""

    @property
    @abstractmethod
    def has_gaps(self) -> bool:
        """Whether any entry is missing (NaN)."""

    @abstractmethod
    def typical_size(self) -> float:
        """Return the size that most values have, outliers and zeros aside; see `survey.typical_size`."""

    @abstractmethod
    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in batches of so many, some of them smaller, at least one; the same ones each time."""

    @abstractmethod
    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """All rows in batches of so many, in another order each time."""

    @abstractmethod
    def take(self, index: Tensor) -> Tensor:
        """The rows of these numbers, in the order of the numbers, in memory."""

    @abstractmethod
    def part(self, index: Tensor) -> "AbstractRows":
        """The same, as rows."""

    @abstractmethod
    def without(self, index: Tensor) -> "AbstractRows":
        """All other rows, in their order."""

    @abstractmethod
    def between(self, begin: int, end: int) -> "AbstractRows":
        """The rows from one number up to another."""

    @abstractmethod
    def affordable(self, numbers: int) -> int:
        """Rows that may be held in memory with so many numbers for each, even if there are fewer."""

    def __len__(self) -> int:
        return self.shape[0]

    def first(self, size: int) -> Tensor:
        """The first rows of all, at most a batch of `split`; another process may have some of them."""
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
