"""When does a curve reach a bound, and by what factor is another one later? Curves are those of learning.

A curve is known at some steps only and is taken to be straight in between, so an arrival is no whole number of steps.
What has not arrived when its run ends has at least taken as long as the run, and a factor with it is a lower limit. The
settings with which a method arrives soonest need not be those with which it gets highest, so it may have both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Across = Literal["steps", "seconds"]


@final
@dataclass(frozen=True)
class Curve:
    """The bound while learning.

    Parameters
    ----------
    steps, seconds, bounds : ndarray, shape (m,)
        Steps made, the time they took, and nats per data point.

    Examples
    --------
    >>> curve = Curve(np.array([10.0, 20.0]), np.array([1.0, 2.0]), np.array([-9.0, -8.0]))
    >>> curve.reaching(-8.5), curve.reaching(-7.0)
    ((15.0, 1.5), (inf, inf))
    """

    steps: Array
    seconds: Array
    bounds: Array

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> "Curve":
        """From lists of these names."""
        return cls(*(np.array(part[name], dtype=float) for name in ("steps", "seconds", "bounds")))

    @property
    def end(self) -> float:
        """The last bound; lower than any other if learning has diverged."""
        return float(self.bounds[-1]) if np.isfinite(self.bounds[-1]) else -float("inf")

    def at(self, step: float) -> float:
        """The bound after so many steps."""
        return float(np.interp(step, self.steps, self.bounds))

    def reaching(self, target: float) -> tuple[float, float]:
        """Steps and seconds until the bound is first as high as the target; infinite if it never is."""
        above = self.bounds >= target
        if not above.any():
            return float("inf"), float("inf")
        after = int(above.argmax())
        if after == 0:
            return float(self.steps[0]), float(self.seconds[0])
        low, high = self.bounds[after - 1], self.bounds[after]
        share = (target - low) / (high - low) if np.isfinite(low) else 1.0
        steps, seconds = (v[after - 1] + share * (v[after] - v[after - 1]) for v in (self.steps, self.seconds))
        return float(steps), float(seconds)


def envelope(curves: Sequence[Curve], across: Across) -> tuple[Array, Array]:
    """The highest bound that any curve has had so far, by step or by second.

    Examples
    --------
    >>> slow, fast = (Curve(np.array([1.0, 9.0]), np.array([1.0, 9.0]) * s, np.array([0.0, 8.0])) for s in (2, 1))
    >>> envelope([slow, fast], "seconds")
    (array([ 1.,  2.,  9., 18.]), array([0., 0., 8., 8.]))
    """
    where = np.concatenate([getattr(curve, across) for curve in curves])
    order = np.argsort(where, kind="stable")
    bounds = np.concatenate([curve.bounds for curve in curves])[order]
    return where[order], np.fmax.accumulate(bounds)  # of bounds that are no numbers nothing is taken


@final
@dataclass(frozen=True)
class Arrivals:
    """When a method has reached its target, on every seed.

    Parameters
    ----------
    steps, seconds : ndarray, shape (seeds,)
        Infinite where it has not.
    all_steps, all_seconds : ndarray, shape (seeds,)
        Of the longest run of a seed.
    """

    steps: Array
    seconds: Array
    all_steps: Array
    all_seconds: Array

    @classmethod
    def of(cls, curves: Sequence[Sequence[Curve]], targets: Sequence[float]) -> "Arrivals":
        """Of the quickest of the curves of every seed, each seed with a target of its own.

        Examples
        --------
        >>> slow, fast = (Curve(np.array([1.0, 9.0]), np.array([s, 9 * s]), np.array([0.0, 8.0])) for s in (2.0, 1.0))
        >>> Arrivals.of([[slow, fast]], [4.0]).seconds.tolist()
        [5.0]
        """
        reached = [[curve.reaching(target) for curve in own] for own, target in zip(curves, targets, strict=True)]
        return cls(
            np.array([min(steps for steps, _ in own) for own in reached]),
            np.array([min(seconds for _, seconds in own) for own in reached]),
            np.array([max(curve.steps[-1] for curve in own) for own in curves]),
            np.array([max(curve.seconds[-1] for curve in own) for own in curves]),
        )

    @property
    def reached(self) -> int:
        """Seeds on which it has arrived."""
        return int(np.isfinite(self.seconds).sum())

    def later(self, first: "Arrivals", *, steps: bool = False) -> "Factor":
        """By what factor it takes longer than another method, over the seeds on which that one has arrived."""
        own, everything = (self.steps, self.all_steps) if steps else (self.seconds, self.all_seconds)
        other = first.steps if steps else first.seconds
        there = np.isfinite(other)
        return Factor(own[there] / other[there], np.where(np.isfinite(own), own, everything)[there] / other[there])


@final
@dataclass(frozen=True)
class Factor:
    """Ratios over seeds.

    Parameters
    ----------
    values : ndarray
        Infinite where one is not known.
    limits : ndarray
        The same, with lower limits in these places.

    Examples
    --------
    >>> str(Factor(np.array([2.0, 3.0, np.inf]), np.array([2.0, 3.0, 2.5])))
    '3.0'
    >>> str(Factor(np.array([2.0, np.inf, np.inf]), np.array([2.0, 3.0, 4.0])))
    '> 3.0'
    """

    values: Array
    limits: Array

    @property
    def known(self) -> bool:
        """Whether the median is more than a lower limit."""
        return bool(len(self.values) and np.isfinite(np.median(self.values)))

    @property
    def median(self) -> float:
        """Over seeds; a lower limit where it is not known."""
        if not len(self.values):
            return float("nan")
        return float(np.median(self.values if self.known else self.limits))

    def __str__(self) -> str:
        """The median with two digits, marked where it is a lower limit."""
        if not len(self.values):
            return "–"
        digits = 2 if self.median < 0.995 else 1 if self.median < 9.95 else 0
        return f"{'' if self.known else '> '}{self.median:.{digits}f}"


@final
@dataclass(frozen=True)
class Run:
    """How an objective is climbed.

    Parameters
    ----------
    steps : int
    rate : float
        Of the first step.
    """

    steps: int
    rate: float


def chosen(tried: Mapping[str, Mapping[Run, Curve]], common: str, margin: float) -> dict[str, list[Run]]:
    """The runs of every objective that are worth repeating on other data.

    Parameters
    ----------
    tried : mapping of str to mappings of Run to Curve
        What has been tried, by objective.
    common : str
        The objective that sets the bound which others should reach soon.
    margin : float
        By which that bound may be missed, nats.

    Returns
    -------
    dict of str to lists of Run
        The run that reaches the bound soonest, where there is one, and at last the one that ends highest, of those with
        the most steps; one if these are the same.

    Examples
    --------
    >>> early, late = (Curve(np.array([1.0, 9.0]), np.array([1.0, 9.0]), np.array([0.0, end])) for end in (8.0, 9.0))
    >>> chosen({"a": {Run(9, 0.1): early, Run(9, 0.2): late}}, "a", 2.0)
    {'a': [Run(steps=9, rate=0.2)]}
    """
    highest = {}
    for key, runs in tried.items():
        longest = max(run.steps for run in runs)
        highest[key] = max((run for run in runs if run.steps == longest), key=lambda run: runs[run].end)
    target = tried[common][highest[common]].end - margin
    both = {}
    for key, runs in tried.items():
        arrivals = {run: curve.reaching(target)[0] for run, curve in runs.items()}
        soonest = min(arrivals, key=arrivals.__getitem__)
        first = [soonest] if np.isfinite(arrivals[soonest]) and soonest != highest[key] else []
        both[key] = [*first, highest[key]]
    return both
