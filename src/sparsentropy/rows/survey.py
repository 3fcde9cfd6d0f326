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
        Largest absolute value; 0 where nothing is known. Sums are of values divided by it, so that they can be neither
        too small nor too large.
    roots : float
        Sum of √|x|.
    nonzero : int
        Entries that are known and not zero.
    known : ndarray of int, shape (d,)
        Entries of every column that are known.
    sums, squares : ndarray, shape (d,)
        Sums of x and of x² in every column.
    infinite : int
        Entries that are infinite.
    where : tuple of int, optional
        Row and column of the first of these.
    """

    rows: int
    largest: float
    roots: float
    nonzero: int
    known: NDArray[np.int64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    infinite: int
    where: tuple[int, int] | None

    @classmethod
    def of(cls, x: NDArray[Any]) -> "Survey":
        """Of an array (n, d).

        Examples
        --------
        >>> survey = Survey.of(np.array([[3.0, np.nan], [-4.0, np.nan]]))
        >>> survey.largest, survey.count, survey.nonzero, survey.known.tolist()
        (4.0, 2, 2, [2, 0])
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
        finite = np.where(infinite | missing, 0, x)
        largest = float(np.abs(finite).max(initial=0))
        with np.errstate(under="ignore"):
            scaled = finite / x.dtype.type(largest or 1)
            roots = float(np.sqrt(np.abs(scaled)).sum(dtype=np.float64))
            squares = np.square(scaled).sum(0, dtype=np.float64)
        row, column = np.argwhere(infinite)[0] if there else (0, 0)
        return cls(
            rows=len(x),
            largest=largest,
            roots=roots,
            nonzero=int(np.count_nonzero(finite)),
            known=(~missing).sum(0),
            sums=scaled.sum(0, dtype=np.float64),
            squares=squares,
            infinite=int(infinite.sum()),
            where=(int(row), int(column)) if there else None,
        )

    def __add__(self, other: "Survey") -> "Survey":
        largest = max(self.largest, other.largest)
        one, two = (part.largest / largest if largest else 0.0 for part in (self, other))
        where = self.where
        if where is None and other.where is not None:
            where = (self.rows + other.where[0], other.where[1])
        return Survey(
            rows=self.rows + other.rows,
            largest=largest,
            roots=math.sqrt(one) * self.roots + math.sqrt(two) * other.roots,
            nonzero=self.nonzero + other.nonzero,
            known=self.known + other.known,
            sums=one * self.sums + two * other.sums,
            squares=one**2 * self.squares + two**2 * other.squares,
            infinite=self.infinite + other.infinite,
            where=where,
        )

    def pooled(self, team: AbstractTeam) -> "Survey":
        """Of the data of all processes, in their order."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: value for name, value in own.items() if isinstance(value, np.ndarray)}
        found = team.told(own | {name: value.tolist() for name, value in arrays.items()})
        parts = [Survey(**told | {name: np.array(told[name], a.dtype) for name, a in arrays.items()}) for told in found]
        total = parts[0]
        for other in parts[1:]:
            total += other
        return replace(total, where=None if total.where is None else (total.where[0], total.where[1]))

    @property
    def count(self) -> int:
        """Entries that are known."""
        return int(self.known.sum())

    @property
    def has_gaps(self) -> bool:
        """Whether anything is missing."""
        return self.count < self.rows * len(self.known)

    @property
    def typical_size(self) -> float:
        """See `typical_size`; infinite values are left out."""
        return self.largest * typical_size(self.roots, self.nonzero)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of every column (d,)."""
        return self.largest * self.sums / np.maximum(self.known, 1)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation of every column (d,); its digits are few where it is far smaller than the mean."""
        count = np.maximum(self.known, 1)
        return self.largest * np.sqrt(np.maximum(self.squares / count - np.square(self.sums / count), 0.0))


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
    >>> round(float(typical_size(np.sqrt(np.abs(x)).sum(), len(x))), 1)
    2.0
    """
    return (roots / nonzero / MEAN_ROOT) ** 2 if nonzero else 0.0


def power_of_two(size: float) -> float:
    """Return the power of two nearest to a size above zero.

    The last digit of a typical size is another for rows in memory than for the same rows in a file, which are summed in
    other pieces. What is computed goes by this instead.

    Examples
    --------
    >>> power_of_two(3.0), power_of_two(0.3)
    (4.0, 0.25)
    """
    return 2.0 ** round(math.log2(size))
