"""One look at all data before anything is learned: what is missing, what is infinite, and how large they are.

What is found out adds up over pieces, so data on a disk are read once for it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sparsentropy.team import AbstractTeam

MEAN_ROOT = 2**0.25 * math.gamma(0.75) / math.sqrt(math.pi)  # E √|x| of a standard normal x
ROWS = 65_536  # that are looked at together: no copy of all data is made


@final
@dataclass(frozen=True, eq=False)
class Survey:
    """What data are like.

    Parameters
    ----------
    rows : int
    largest : float
        Largest absolute value; 0 where nothing is known.
    roots : float
        Sum of the square roots √(|x| / largest), which can be neither too small nor too large.
    nonzero : int
        Entries that are known and not zero.
    count : int
        Entries that are known.
    known : ndarray of bool, shape (d,)
        Columns in which anything is known.
    infinite : int
        Entries that are infinite.
    where : tuple of int, optional
        Row and column of the first of these.
    """

    rows: int
    largest: float
    roots: float
    nonzero: int
    count: int
    known: NDArray[np.bool_]
    infinite: int
    where: tuple[int, int] | None

    @classmethod
    def of(cls, x: NDArray[Any]) -> "Survey":
        """Of an array (n, d).

        Examples
        --------
        >>> survey = Survey.of(np.array([[3.0, np.nan], [-4.0, np.nan]]))
        >>> survey.largest, survey.count, survey.nonzero, survey.known.tolist()
        (4.0, 2, 2, [True, False])
        """
        return cls.over(x[begin : begin + ROWS] for begin in range(0, max(len(x), 1), ROWS))

    @classmethod
    def over(cls, pieces: Iterable[NDArray[Any]]) -> "Survey":
        """Of pieces, one after the other."""
        found = None
        for piece in pieces:
            one = cls._of_piece(piece)
            found = one if found is None else found + one
        if found is None:
            raise ValueError("there are no pieces to survey")
        return found

    @classmethod
    def _of_piece(cls, x: NDArray[Any]) -> "Survey":
        if x.dtype.kind != "f" or x.dtype.itemsize < 4:
            x = x.astype(np.float64)
        missing, infinite = np.isnan(x), np.isinf(x)
        there = bool(infinite.any())
        finite = np.where(infinite, 0, x) if there else x
        largest = float(
            np.fmax(np.fmax.reduce(finite, axis=None, initial=0), -np.fmin.reduce(finite, axis=None, initial=0))
        )
        with np.errstate(under="ignore"):
            roots = (
                float(np.nansum(np.sqrt(np.abs(finite / x.dtype.type(largest))), dtype=np.float64)) if largest else 0.0
            )
        row, column = np.argwhere(infinite)[0] if there else (0, 0)
        where = (int(row), int(column)) if there else None
        count = x.size - int(missing.sum())
        nonzero = int(np.count_nonzero(finite)) - int(missing.sum())  # NaN is not zero
        known = np.asarray(~missing.all(0))
        return cls(len(x), largest, roots, nonzero, count, known, int(infinite.sum()), where)

    def __add__(self, other: "Survey") -> "Survey":
        largest = max(self.largest, other.largest)
        roots = math.fsum(part.roots * math.sqrt(part.largest / largest) for part in (self, other)) if largest else 0.0
        where = self.where
        if where is None and other.where is not None:
            where = (self.rows + other.where[0], other.where[1])
        return Survey(
            self.rows + other.rows,
            largest,
            roots,
            self.nonzero + other.nonzero,
            self.count + other.count,
            self.known | other.known,
            self.infinite + other.infinite,
            where,
        )

    def pooled(self, team: AbstractTeam) -> "Survey":
        """Of the data of all processes, in their order."""
        own = {f.name: getattr(self, f.name) for f in fields(self)} | {"known": self.known.tolist()}
        found = [Survey(**told | {"known": np.array(told["known"], bool)}) for told in team.told(own)]
        total = found[0]
        for other in found[1:]:
            total += other
        return replace(total, where=None if total.where is None else (total.where[0], total.where[1]))

    @property
    def has_gaps(self) -> bool:
        """Whether anything is missing."""
        return self.count < self.rows * len(self.known)

    @property
    def typical_size(self) -> float:
        """See `typical_size`; infinite values are left out."""
        return self.largest * typical_size(self.roots, self.nonzero)


def typical_size(roots: float, nonzero: float) -> float:
    """Return the typical size of values that are not zero, from Σ √|x| and their number.

    Parameters
    ----------
    roots : float
        Sum of the square roots of their absolute values.
    nonzero : float
        How many they are.

    Returns
    -------
    float
        The standard deviation of a normal distribution with the same mean √|x|; 0 where there are no such values.
        Unlike the root mean square it says what most values are like: one cell of 10⁶ among a thousand of size 1
        raises it to 3.6, and the root mean square to 30,000. Values that are zero do not count, however many.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(scale=2.0, size=10_000)
    >>> round(typical_size(np.sqrt(np.abs(x)).sum(), len(x)), 1)
    2.0
    """
    return (roots / nonzero / MEAN_ROOT) ** 2 if nonzero else 0.0
