"""Where posteriors are kept from one sweep to the next.

An E-step that begins where the last one ended is much shorter than one from nothing, so the posteriors of all data
points are kept: in memory, or in a temporary file, or nowhere, in which case those that are asked for are found anew.
Whoever learns sees a sequence of posteriors, one for each batch.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, final, overload

import torch
from torch import Tensor

from sparsentropy.inference import Means, completed
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal
from sparsentropy.rows import Scratch

SHARED = ("scaled_dictionary", "factors")  # of all data points, or not worth keeping


@final
@dataclass(frozen=True)
class Cache:
    """Where posteriors are kept.

    Parameters
    ----------
    place : {'memory', 'disk', 'none'}
    folder : path, optional
        On which disk; by default where the system keeps temporary files.
    lean : bool
        Whether of diagonal posteriors only the means are kept.
    """

    place: str = "memory"
    folder: str | os.PathLike[str] | None = None
    lean: bool = False

    @property
    def keeps(self) -> bool:
        """Whether an E-step may begin where the last one ended."""
        return self.place != "none"

    def shelf(self, n: int, again: Callable[[int], AbstractPosterior]) -> "AbstractShelf":
        """An empty one for the posteriors of n data points, or for those of a batch that are found again."""
        if self.place == "disk":
            return _OnDisk(self.folder, lean=self.lean)
        return _InMemory(n, lean=self.lean) if self.keeps else _Nowhere(again)


IN_MEMORY = Cache()


@final
@dataclass(frozen=True)
class OnDemand(Sequence[AbstractPosterior]):
    """Posteriors of so many batches, each made when it is asked for."""

    batches: int
    find: Callable[[int], AbstractPosterior]
    costly: bool = False  # whether they are found by inference

    def __len__(self) -> int:
        return self.batches

    @overload
    def __getitem__(self, index: int) -> AbstractPosterior: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AbstractPosterior]: ...
    def __getitem__(self, index: int | slice) -> AbstractPosterior | Sequence[AbstractPosterior]:
        if isinstance(index, slice):
            numbers = range(self.batches)[index]
            return OnDemand(len(numbers), lambda i: self.find(numbers[i]))
        return self.find(range(self.batches)[index])

    def mapped(self, change: Callable[[AbstractPosterior], AbstractPosterior]) -> "OnDemand":
        """The same after a change, which is made when they are asked for, too."""
        return OnDemand(self.batches, lambda i: change(self.find(i)))


class AbstractShelf(ABC):
    """Takes the posteriors of one batch after the other."""

    @abstractmethod
    def put(self, posterior: AbstractPosterior) -> None:
        """Keep the posteriors of the next batch."""

    @abstractmethod
    def kept(self, parameters: Parameters) -> Sequence[AbstractPosterior]:
        """All of them; found at these parameters."""


@final
class _InMemory(AbstractShelf):
    """Diagonal ones are copied into arrays for all data points.

    Small arrays, made between those that are needed for a moment only, would leave gaps in memory that are as large as
    they are.
    """

    def __init__(self, n: int, *, lean: bool) -> None:
        self.n, self.lean, self.filled = n, lean, 0
        self.posteriors: list[AbstractPosterior] = []
        self.means: list[Tensor] = []
        self.rooms: list[Tensor] = []

    def put(self, posterior: AbstractPosterior) -> None:
        """See `AbstractShelf`."""
        if not isinstance(posterior, Diagonal):
            self.posteriors.append(posterior)
            return
        self.means.append(self._copied(0, posterior.mean))
        if not self.lean:
            self.posteriors.append(Diagonal(self.means[-1], self._copied(1, posterior.variance)))
        self.filled += len(posterior)

    def _copied(self, room: int, value: Tensor) -> Tensor:
        if len(self.rooms) == room:
            self.rooms.append(value.new_empty(self.n, value.shape[1]))
        return self.rooms[room][self.filled : self.filled + len(value)].copy_(value)

    def kept(self, parameters: Parameters) -> Sequence[AbstractPosterior]:
        """See `AbstractShelf`."""
        return Means(parameters, self.means) if self.lean else self.posteriors


@final
class _OnDisk(AbstractShelf):
    """One batch after the other in a file; what is not of a data point stays in memory."""

    def __init__(self, folder: str | os.PathLike[str] | None, *, lean: bool) -> None:
        self.lean, self.batches = lean, []
        self.file = Scratch(folder, "the posteriors of all data points")

    def put(self, posterior: AbstractPosterior) -> None:
        """See `AbstractShelf`."""
        mean = posterior.mean
        values = {f.name: getattr(posterior, f.name) for f in fields(posterior)}  # pyright: ignore[reportArgumentType]
        if self.lean:
            values = {"mean": mean}
        places = {
            name: (self.file.append(value.cpu().numpy()), tuple(value.shape), value.dtype)
            for name, value in values.items()
            if isinstance(value, Tensor) and name not in SHARED
        }
        rest = {name: value for name, value in values.items() if name not in places and name != "factors"}
        self.batches.append((type(posterior), places, rest, mean.device))

    def kept(self, parameters: Parameters) -> Sequence[AbstractPosterior]:
        """See `AbstractShelf`."""

        def find(index: int) -> AbstractPosterior:
            kind, places, rest, device = self.batches[index]
            values = {name: self._read(*place).to(device) for name, place in places.items()}
            return completed(values["mean"], parameters) if self.lean else kind(**values, **rest)

        return OnDemand(len(self.batches), find)

    def _read(self, begin: int, shape: tuple[int, ...], dtype: Any) -> Tensor:
        return torch.from_numpy(self.file.read(begin, shape, torch.zeros(0, dtype=dtype).numpy().dtype))


@final
class _Nowhere(AbstractShelf):
    """They are found again where they are asked for."""

    def __init__(self, again: Callable[[int], AbstractPosterior]) -> None:
        self.again, self.count = again, 0

    def put(self, posterior: AbstractPosterior) -> None:
        """See `AbstractShelf`."""
        del posterior
        self.count += 1

    def kept(self, parameters: Parameters) -> Sequence[AbstractPosterior]:
        """See `AbstractShelf`."""
        del parameters
        return OnDemand(self.count, self.again, costly=True)
