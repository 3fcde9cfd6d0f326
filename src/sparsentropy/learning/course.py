"""Where learning is after a sweep: all that is needed to go on from there, and to end at the same numbers.

Learning draws its random numbers in the same order each time. So it begins as before, with the same seed, draws what it
needs to know of the data, and continues from the place with the state that the generator had there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor

from sparsentropy.learning.task import State


@final
@dataclass(frozen=True)
class Course:
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
    sizes: tuple[int, ...] = field(default=())
    first: bool = False
    left: int = 0
    behind: int | None = None


Mark = Callable[[Course], None]
"""Hears of every place that can be come back to, once the caller has dealt with the sweep that led there."""


def nowhere(course: Course) -> None:
    """Do not look at it."""
    del course


def among(mark: Mark, sizes: Sequence[int], left: int, *, first: bool) -> Mark:
    """Hears of places in a part of the data, and tells which part it is."""
    return lambda course: mark(replace(course, sizes=tuple(sizes), left=left, first=first))


def ahead(mark: Mark, left: Callable[[], int]) -> Mark:
    """Hears of places of simpler posteriors, and tells that they are those."""
    return lambda course: mark(replace(course, behind=left()))
