"""Where learning is after a sweep: all that is needed to go on from there, and to end at the same numbers.

Learning draws its random numbers in the same order each time. So it begins as before, with the same seed, draws what it
needs to know of the data, and continues from the place with the state that the generator had there. Each way of
learning has places of its own: sweeps, rounds of minibatches, and passes with an encoder that learns as well.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, final

from torch import Tensor

from sparsentropy.learning.annealing import Detour
from sparsentropy.learning.task import State, Sweep
from sparsentropy.model import Parameters
from sparsentropy.objectives import Marginals, Statistics
from sparsentropy.posteriors import AbstractPosterior


class AbstractCourse(ABC):
    """A place of some way of learning."""

    random: Tensor
    """State of the generator."""

    @property
    @abstractmethod
    def parameters(self) -> Parameters:
        """Those that learning has come to."""

    @property
    def posteriors(self) -> Sequence[AbstractPosterior]:
        """Those that the next sweep begins with."""
        return ()

    def with_posteriors(self, posteriors: Sequence[AbstractPosterior]) -> Self:
        """The same place with these."""
        del posteriors
        return self

    @abstractmethod
    def check(self) -> None:
        """Look at what may have been read from a file.

        Raises
        ------
        ValueError, AttributeError, TypeError
            If learning cannot have been here.
        """


@final
@dataclass(frozen=True)
class Course(AbstractCourse):
    """A place between two sweeps.

    Parameters
    ----------
    state : State
        Parameters, posteriors of the present part, and what the next sweep wants to know.
    random : Tensor
        State of the generator.
    bounds : tuple of float
        Of all sweeps over the present part.
    early : bool
        Whether turning the dictionary still pays.
    settling : int
        Number of the sweep since when the step is that of the end.
    over : bool
        Whether the present part has no more to teach.
    converged : bool
        Whether no more was to be expected of it, either.
    detour : Detour, optional
        Where the place is in a detour.
    sizes : tuple of int
        Of the parts that are left, the present one first.
    first : bool
        Whether the present part is the first of all.
    left : int
        Sweeps over all data that are left, those of the present part among them.
    behind : int or None
        Where simpler posteriors run ahead: sweeps that are left for those that were asked for.
    """

    state: State
    random: Tensor
    bounds: tuple[float, ...]
    early: bool = False
    settling: int = 0
    over: bool = False
    converged: bool = False
    detour: Detour | None = None
    sizes: tuple[int, ...] = field(default=())
    first: bool = False
    left: int = 0
    behind: int | None = None

    @property
    def parameters(self) -> Parameters:
        """See `AbstractCourse`."""
        return self.state.parameters

    @property
    def posteriors(self) -> Sequence[AbstractPosterior]:
        """See `AbstractCourse`."""
        return self.state.posteriors

    def with_posteriors(self, posteriors: Sequence[AbstractPosterior]) -> "Course":
        """See `AbstractCourse`."""
        return replace(self, state=replace(self.state, posteriors=posteriors))

    def check(self) -> None:
        """See `AbstractCourse`."""
        if not isinstance(self.state, State) or not isinstance(self.detour, Detour | None):
            raise ValueError("no place of sweeps")


@final
@dataclass(frozen=True)
class BatchCourse(AbstractCourse):
    """A place between two rounds of minibatches.

    Parameters
    ----------
    best : Sweep
        What the next round begins with.
    random : Tensor
        State of the generator when the present pass over the data began.
    taken : int
        Batches of that pass that were taken.
    sums : Marginals
        Of the last batches.
    curvature : Tensor, shape (d, d)
        Mean of u uᵀ.
    rows : float
        Data points that it is a mean of.
    steps : int
    first_rate, rate : float
        Parts of a Newton step that a batch was given at first, and is given now.
    rounds : int
        That were made.
    starts : int
        Of so many it is the best so far.
    """

    best: Sweep
    random: Tensor
    taken: int
    sums: Marginals
    curvature: Tensor
    rows: float
    steps: int
    first_rate: float
    rate: float
    rounds: int
    starts: int

    @property
    def parameters(self) -> Parameters:
        """See `AbstractCourse`."""
        return self.best.parameters

    def check(self) -> None:
        """See `AbstractCourse`."""
        p = self.parameters
        counts = (self.taken, self.rounds, self.starts)
        if not isinstance(self.sums, Marginals) or not isinstance(self.best, Sweep) or {*map(type, counts)} != {int}:
            raise ValueError("no place of minibatches")
        if self.curvature.shape != (p.d, p.d) or self.sums.code_square.shape != (p.h,):
            raise ValueError("a curvature of odd shape")
        if not bool(self.curvature.isfinite().all()) or not (0 < self.rate <= self.first_rate < math.inf):
            raise ValueError("a curvature that is none")


@final
@dataclass(frozen=True)
class EncoderCourse(AbstractCourse):
    """A place between two passes in which an encoder learns along with the parameters.

    Parameters
    ----------
    reached : Parameters
    random : Tensor
        State of the generator.
    weights : list of Tensor
        What the encoder has learned.
    moments : list of list of Tensor
        What the optimiser remembers of each.
    past : Statistics
        Of the last batches.
    seen : int
        Data points that these stand for.
    number : int
        Passes that were made.
    best : float
        Highest bound so far.
    waited : int
        Passes since then.
    halvings : int
        Of the rate.
    """

    reached: Parameters
    random: Tensor
    weights: list[Tensor]
    moments: list[list[Tensor]]
    past: Statistics
    seen: int
    number: int
    best: float
    waited: int
    halvings: int

    @property
    def parameters(self) -> Parameters:
        """See `AbstractCourse`."""
        return self.reached

    def check(self) -> None:
        """See `AbstractCourse`."""
        counts = (self.seen, self.number, self.waited, self.halvings)
        tensors = (*self.weights, *(moment for moments in self.moments for moment in moments))
        if not isinstance(self.past, Statistics) or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("no place of an encoder")
        if not all(isinstance(tensor, Tensor) and bool(tensor.isfinite().all()) for tensor in tensors):
            raise ValueError("weights that are none")


Mark = Callable[[Course], None]
"""Hears of every place between sweeps, once the caller has dealt with the sweep that led there."""


def nowhere(course: AbstractCourse) -> None:
    """Do not look at it."""
    del course


def among(mark: Mark, sizes: Sequence[int], left: int, *, first: bool) -> Mark:
    """Hears of places in a part of the data, and tells which part it is."""
    return lambda course: mark(replace(course, sizes=tuple(sizes), left=left, first=first))


def ahead(mark: Mark, left: Callable[[], int]) -> Mark:
    """Hears of places of simpler posteriors, and tells that they are those."""
    return lambda course: mark(replace(course, behind=left()))
