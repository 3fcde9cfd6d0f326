"""Groups: several runs in one picture, differences between them, and one number against another.

Up to four things that are to be told apart have a colour each, and are named in it.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from .style import ACCENT, COLORS, INK, MUTED, Pairs, key, log_axis, log_places, pairs_of, quiet, vector

FEW = 25  # points that a curve shows one by one


def against(series: Pairs, ax: Axes, *, xlabel: str, ylabel: str, log_x: bool = False, log_y: bool = True) -> Axes:
    """Draw points joined by lines, each curve against numbers of its own.

    The points themselves are shown where there are few of them.

    Parameters
    ----------
    series : mapping of str to (x, y), each array_like of shape (m,)
        Up to four curves; the last one is what it is about.
    ax : matplotlib.axes.Axes
        Where to draw.
    xlabel, ylabel : str
        With the units.
    log_x, log_y : bool
        Whether an axis is logarithmic; then all numbers along `x` must be positive, and those along `y` should be.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If there are none or more than four curves, or x and y differ in length.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> points = {"gap": ([0, 1, 5], [0.1, 0.01, 0.001])}
    >>> ax = against(points, Figure().subplots(), xlabel="iterations", ylabel="gap (nats)")
    >>> ax.get_xscale(), ax.get_yscale()
    ('linear', 'log')
    """
    pairs = pairs_of(series)
    colors = COLORS[len(pairs)]
    for (x, y), color in zip(pairs.values(), colors, strict=True):
        ax.plot(x, y, color=color, linewidth=1.5, marker="o" if len(x) <= FEW else "", markersize=4, markeredgewidth=0)
    quiet(ax, xlabel, ylabel)
    if log_x:
        places = np.concatenate([x for x, _ in pairs.values()])
        log_places(ax, few=places.max() / places.min() < 100)
    if log_y:
        log_axis(ax, np.concatenate([y for _, y in pairs.values()]))
    key(ax, list(zip(pairs, colors, strict=True)), "above")
    return ax


def clouds(series: Pairs, ax: Axes, *, xlabel: str, ylabel: str) -> Axes:
    """Draw one number against another, a dot for each item of up to four groups.

    Parameters
    ----------
    series : mapping of str to (x, y), each array_like of shape (m,)
    ax : matplotlib.axes.Axes
        Where to draw.
    xlabel, ylabel : str
        With the unit.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If there are none or more than four groups, or x and y differ in length.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = clouds({"atoms": ([0.1, 0.2], [1.0, 2.0])}, Figure().subplots(), xlabel="f", ylabel="aspect")
    >>> ax.get_xlabel()
    'f'
    """
    pairs = pairs_of(series)
    colors = COLORS[len(pairs)]
    for (x, y), color in zip(pairs.values(), colors, strict=True):
        ax.plot(x, y, color=color, marker="o", markersize=3.5, markeredgewidth=0, linestyle="none", alpha=0.6)
    quiet(ax, xlabel, ylabel)
    key(ax, list(zip(pairs, colors, strict=True)), "top")
    return ax


def by_row(rows: Mapping[str, ArrayLike], ax: Axes, *, xlabel: str, zero: bool = True) -> Axes:
    """Draw a few numbers in a row of their own, a dot each, and their mean as a larger one.

    Parameters
    ----------
    rows : mapping of str to array_like, shape (m,)
        From top to bottom.
    ax : matplotlib.axes.Axes
        Where to draw.
    xlabel : str
        With the unit.
    zero : bool
        Whether a line marks zero, as for differences.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If there are no rows, or one of them is empty.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = by_row({"prior": [0.1, 0.3], "beta": [-0.1, 0.0]}, Figure().subplots(), xlabel="nats")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['prior', 'beta']
    """
    if not rows:
        raise ValueError("rows must hold at least one row")
    for place, (name, values) in enumerate(rows.items()):
        numbers = vector(values, name)
        ax.plot(numbers, np.full(len(numbers), place), color=MUTED, marker="o", markersize=3, linestyle="none")
        ax.plot(numbers.mean(), place, color=ACCENT, marker="o", markersize=6, markeredgewidth=0)
    if zero:
        ax.axvline(0, color=INK, linewidth=0.8, zorder=0)
    quiet(ax, xlabel, "")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    return ax
