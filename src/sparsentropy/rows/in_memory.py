"""Rows that are a tensor. Nothing is copied until some of them are taken."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.rows.abstract import AbstractRows
from sparsentropy.rows.survey import typical_size

TOGETHER = 8192  # rows that are looked at together: no copy of all is made


@final
@dataclass(frozen=True, eq=False)
class InMemory(AbstractRows):
    """A tensor (n, d) on its device.

    Examples
    --------
    >>> [len(batch) for batch in InMemory(torch.zeros(5, 2)).split(2)]
    [2, 2, 1]
    """

    x: Tensor

    @property
    def dtype(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the tensor."""
        return self.x.dtype

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the tensor."""
        return self.x.device

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractRows`."""
        return self.x.shape[0], self.x.shape[1]

    @property
    def has_gaps(self) -> bool:
        """See `AbstractRows`."""
        return any(bool(part.isnan().any()) for part in self.x.split(TOGETHER))

    def typical_size(self) -> float:
        """See `AbstractRows`."""
        parts = self.x.split(TOGETHER)
        roots = sum(float(part.abs().sqrt().nansum(dtype=torch.float64)) for part in parts)
        return typical_size(roots, sum(int(((part != 0) & ~part.isnan()).sum()) for part in parts))

    def split(self, size: int) -> Iterator[Tensor]:
        """See `AbstractRows`."""
        return iter(self.x.split(size))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """See `AbstractRows`."""
        order = torch.randperm(len(self.x), generator=generator, device=generator.device)
        return (self.x[index.to(self.x.device)] for index in order.split(size))

    def take(self, index: Tensor) -> Tensor:
        """See `AbstractRows`."""
        return self.x[index.to(self.x.device)]

    def part(self, index: Tensor) -> "InMemory":
        """See `AbstractRows`."""
        return InMemory(self.take(index))

    def without(self, index: Tensor) -> "InMemory":
        """See `AbstractRows`."""
        kept = torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        kept[index.to(self.x.device)] = False
        return InMemory(self.x[kept])

    def between(self, begin: int, end: int) -> "InMemory":
        """See `AbstractRows`."""
        return InMemory(self.x[begin:end])

    def affordable(self, numbers: int) -> int:
        """See `AbstractRows`; what holds all of them holds these."""
        del numbers
        return len(self.x)


def of(x: Tensor | AbstractRows) -> AbstractRows:
    """Rows as they are, or those of a tensor."""
    return x if isinstance(x, AbstractRows) else InMemory(x)
