"""The share of one process in rows that several pass over together.

The rows of all processes, one after the other, have one numbering, and of those that are asked for by number each
process gets a share. Where all of them can read all rows, shares are made of whole batches, so that the same data
points are looked at together in every sweep, however many processes there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy.rows.abstract import AbstractRows
from sparsentropy.rows.in_memory import InMemory
from sparsentropy.rows.stored import Stored, affordable
from sparsentropy.team import AbstractTeam


@final
@dataclass(frozen=True, eq=False)
class Shared(AbstractRows):
    """Rows of this process among those of all.

    Parameters
    ----------
    own : AbstractRows
    processes : AbstractTeam
    n : int
        Rows of all processes.
    places : range or Tensor of int
        Numbers of the own rows among all, ascending.
    typical : float
        `typical_size` of all entries of all processes.
    gaps : bool
        Whether any entry of any process is missing.
    everything : AbstractRows, optional
        The rows of all processes, where this one can read them.
    batch : int
        Shares are then made of so many rows.
    stored : bool
        Whether the own rows of any process stay on a disk: all go the same way then.
    """

    own: AbstractRows
    processes: AbstractTeam
    n: int
    places: range | Tensor
    typical: float
    gaps: bool
    everything: AbstractRows | None = None
    batch: int = 1
    stored: bool = False

    @classmethod
    def joined(cls, own: AbstractRows, team: AbstractTeam, typical: float, *, gaps: bool) -> "Shared":
        """The rows of one process, after those of the processes before it."""
        told = team.told([len(own), isinstance(own, Stored)])
        counts = [count for count, _ in told]
        begin = sum(counts[: team.rank])
        places = range(begin, begin + len(own))
        return cls(own, team, sum(counts), places, typical, gaps, stored=any(stored for _, stored in told))

    @property
    def team(self) -> AbstractTeam:
        """See `AbstractRows`."""
        return self.processes

    @property
    def dtype(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the own rows."""
        return self.own.dtype

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the own rows."""
        return self.own.device

    @property
    def shape(self) -> tuple[int, int]:
        """See `AbstractRows`."""
        return self.n, self.own.shape[1]

    @property
    def here(self) -> int:
        """See `AbstractRows`."""
        return len(self.own)

    @property
    def has_gaps(self) -> bool:
        """See `AbstractRows`."""
        return self.gaps

    def typical_size(self) -> float:
        """See `AbstractRows`."""
        return self.typical

    def split(self, size: int) -> Iterator[Tensor]:
        """See `AbstractRows`."""
        return self.own.split(size) if self.here else iter([self._nothing()])

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """See `AbstractRows`; of each batch the own rows, perhaps none.

        Rows that are not in memory are shuffled within each process, since a disk reads in long runs.
        """
        if self.stored:
            return self._shuffled_apart(size, generator)
        order = torch.randperm(self.n, generator=generator, device=generator.device)
        return (self._own(index) for index in order.split(size))

    def _shuffled_apart(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """As many batches in all processes."""
        steps = -(-self.n // size)
        batches = self.own.shuffled(max(1, -(-self.here // steps)), generator) if self.here else iter(())
        for _ in range(steps):
            yield next(batches, self._nothing())

    def take(self, index: Tensor) -> Tensor:
        """See `AbstractRows`; the share of this process."""
        if self.everything is None:
            return self._own(index)
        own = share(len(index), self.team, self.batch)
        return self.everything.take(index[own.start : own.stop]) if own else self._nothing()

    def part(self, index: Tensor) -> "Shared":
        """See `AbstractRows`."""
        places = (
            share(len(index), self.team, self.batch) if self.everything else self._found(index)[1].nonzero().ravel()
        )
        own = InMemory(self.take(index))
        return replace(self, own=own, n=len(index), places=places, everything=None, stored=False)

    def without(self, index: Tensor) -> "Shared":
        """See `AbstractRows`."""
        if self.everything is None:
            number, own = self._found(index)
            return Shared.joined(self.own.without(number[own]), self.team, self.typical, gaps=self.gaps)
        rest = self.everything.without(index)
        places = share(len(rest), self.team, self.batch)
        own = rest.between(places.start, places.stop)
        if isinstance(self.own, InMemory):
            own = InMemory(torch.cat([self._nothing(), *own.split(self.batch)]))
        return replace(self, own=own, n=len(rest), places=places, everything=rest)

    def between(self, begin: int, end: int) -> "Shared":
        """See `AbstractRows`."""
        return self.part(torch.arange(begin, end))

    def affordable(self, numbers: int) -> int:
        """See `AbstractRows`; of stored rows as many as one process could hold, which decides what is learned from."""
        return affordable(numbers, self.dtype) if self.stored else self.n

    def first(self, size: int) -> Tensor:
        """See `AbstractRows`; perhaps none."""
        places = self.places
        if isinstance(places, range):
            count = max(0, min(places.stop, size) - places.start)
        else:
            count = int((places < size).sum())
        return next(self.split(size))[:count]

    def _nothing(self) -> Tensor:
        return torch.zeros(0, self.shape[1], dtype=self.dtype, device=self.device)

    def _own(self, index: Tensor) -> Tensor:
        number, own = self._found(index)
        return self.own.take(number[own])

    def _found(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """For these numbers of rows those among the own rows, and which of them are own rows."""
        if isinstance(self.places, range):
            number = index - self.places.start
            return number, (number >= 0) & (number < len(self.places))
        places = self.places.to(index.device)
        number = torch.searchsorted(places, index).clamp(max=max(len(places) - 1, 0))
        return number, places[number] == index if len(places) else torch.zeros_like(index, dtype=torch.bool)


def share(n: int, team: AbstractTeam, batch: int = 1) -> range:
    """Which of n rows, in whole batches, a process takes where all are given the same.

    Examples
    --------
    >>> from sparsentropy.team import ALONE
    >>> share(10, ALONE)
    range(0, 10)
    """
    return share_of(n, team.rank, team.size, batch)


def share_of(n: int, rank: int, size: int, batch: int = 1) -> range:
    """The same for any of `size` processes.

    Examples
    --------
    >>> [share_of(10, rank, 3) for rank in range(3)]
    [range(0, 3), range(3, 6), range(6, 10)]
    """
    batches = -(-n // batch)
    begin, end = (number * batches // size * batch for number in (rank, rank + 1))
    return range(min(begin, n), min(end, n))
