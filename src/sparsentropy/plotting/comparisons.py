"""Pictures that compare many runs: grids with a number in every cell, shares with intervals, curves of many seeds.

All take plain numbers and draw on axes that are given. What is known beforehand, such as the truth that runs are
compared with, is a line in ink; what is compared has at most three colours.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike

from .style import ACCENT, COLORS, DIVERGING, INK, MUTED, STEPS, key, log_places, matrix, quiet, vector

SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", ACCENT])
DARK = 0.6  # part of the way from white to a colour beyond which numbers on it are white
SMALLEST = 0.01  # ratio that is written with two decimals
SPREAD = 0.18  # between what stands side by side, in units of the distance of groups


def heat_map(
    values: ArrayLike,
    rows: Sequence[float | str],
    columns: Sequence[float | str],
    ax: Axes,
    *,
    xlabel: str,
    ylabel: str,
    scale: Literal["share", "ratio"] = "share",
) -> Axes:
    """Draw a grid of cells, each with its number.

    Parameters
    ----------
    values : array_like, shape (m, k)
        One number per cell; NaN leaves a cell empty.
    rows, columns : sequences of m and of k numbers or texts
        What stands beside the rows, from top to bottom, and below the columns.
    ax : matplotlib.axes.Axes
        Where to draw.
    xlabel, ylabel : str
        What columns and rows are, with the unit.
    scale : {'share', 'ratio'}
        Colours for numbers from 0 (white) to 1, or for positive numbers about 1 (white): those from 2 on have the full
        accent colour, those up to 1/2 its opposite.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `values` is not a matrix, or there are not as many names as rows and columns.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = heat_map([[1, 0.5], [0.25, 0]], [0.1, 0.2], ["few", "many"], Figure().subplots(), xlabel="", ylabel="σ")
    >>> [text.get_text() for text in ax.texts], [label.get_text() for label in ax.get_yticklabels()]
    (['1', '0.5', '0.25', '0'], ['0.1', '0.2'])
    """
    cells = matrix(values, "values")
    if cells.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must have {len(rows)} rows and {len(columns)} columns, as many as names; got shape {cells.shape}"
        )
    if scale == "share":
        depth, colours = np.clip(cells, 0, 1), SHARES(np.clip(cells, 0, 1))
    else:
        with np.errstate(divide="ignore"):
            octaves = np.clip(np.log2(cells), -1, 1)
        depth, colours = np.abs(octaves), DIVERGING((1 + octaves) / 2)
    colours = np.where(np.isnan(cells)[..., None], 0.0, colours)
    ax.imshow(colours, aspect="auto", interpolation="none")
    for (y, x), value in np.ndenumerate(cells):
        text = "" if np.isnan(value) else f"{value:.2g}" if scale == "share" else _ratio(value)
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if depth[y, x] > DARK else INK)
    quiet(ax, xlabel, ylabel)
    ax.set_frame_on(False)
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        axis.set_major_locator(FixedLocator(range(len(names))))
        axis.set_ticklabels([name if isinstance(name, str) else f"{name:g}" for name in names])
    ax.tick_params(length=0)
    return ax


def intervals(names: Sequence[str], series: Mapping[str, ArrayLike], ax: Axes, *, xlabel: str, ylabel: str) -> Axes:
    """Draw numbers between 0 and 1 with their intervals, several for every name side by side.

    Parameters
    ----------
    names : sequence of m str
        Below the axis.
    series : mapping of str to array_like, each of shape (m, 3)
        Value, lower and upper end of the interval; at most three.
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
        If there are more than three series, or one does not have three numbers for every name.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> shares = {"found": [[0.9, 0.7, 1.0], [0.5, 0.3, 0.7]]}
    >>> ax = intervals(["few", "many"], shares, Figure().subplots(), xlabel="images", ylabel="share")
    >>> [label.get_text() for label in ax.get_xticklabels()], [text.get_text() for text in ax.texts]
    (['few', 'many'], ['found'])
    """
    colours = _colours(series)
    for k, (name, numbers) in enumerate(series.items()):
        ends = matrix(numbers, name)
        if ends.shape != (len(names), 3):
            raise ValueError(f"{name} must have shape {(len(names), 3)}, three numbers per name; got {ends.shape}")
        x = np.arange(len(names)) + SPREAD * (k - (len(series) - 1) / 2)
        ax.vlines(x, ends[:, 1], ends[:, 2], color=colours[k], linewidth=1.2)
        ax.plot(x, ends[:, 0], color=colours[k], marker="o", markersize=5, linestyle="none", clip_on=False)
    quiet(ax, xlabel, ylabel)
    ax.xaxis.set_major_locator(FixedLocator(range(len(names))))
    ax.xaxis.set_ticklabels(list(names))
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(0, 1.06)  # what stands at 1 stays clear of the key
    key(ax, list(zip(series, colours, strict=True)), "above")
    return ax


def runs_by_sweep(groups: Mapping[str, Sequence[ArrayLike]], ax: Axes, *, ylabel: str, level: str) -> Axes:
    """Draw a thin curve for every run, by sweep: how far it is above or below what it is compared with.

    Parameters
    ----------
    groups : mapping of str to sequences of array_like, each of shape (sweeps,)
        Differences of runs of at most two kinds; lengths may differ, and a kind may have no runs.
    ax : matplotlib.axes.Axes
        Where to draw.
    ylabel : str
        With the unit.
    level : str
        Name of the horizontal line at 0.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If there are more than two groups, or a run has no sweeps.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> groups = {"found": [[-3.0, 0.1], [-2.0, -0.1, 0.2]], "missed": []}
    >>> ax = runs_by_sweep(groups, Figure().subplots(), ylabel="nats", level="truth")
    >>> len(ax.lines), [text.get_text() for text in ax.texts]
    (3, ['truth', 'found: 2', 'missed: 0'])
    """
    if len(groups) > 2:
        raise ValueError(f"groups must hold at most two kinds of runs; got {len(groups)}")
    ax.axhline(0, color=INK, linewidth=1)
    entries = [(level, INK)]
    for (kind, curves), colour in zip(groups.items(), (ACCENT, MUTED), strict=False):
        for values in curves:
            differences = vector(values, kind)
            ax.plot(np.arange(1, len(differences) + 1), differences, color=colour, linewidth=0.8)
        entries.append((f"{kind}: {len(curves)}", colour))
    quiet(ax, "sweep", ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    key(ax, entries, "above")
    return ax


def by_ratio(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    ax: Axes,
    *,
    xlabel: str,
    ylabel: str,
    level: float | None = None,
) -> Axes:
    """Draw numbers against a positive one, on a logarithmic axis, as points that are joined.

    Parameters
    ----------
    x : array_like, shape (m,)
        Positive, increasing.
    series : mapping of str to array_like, each of shape (m,)
        At most three curves.
    ax : matplotlib.axes.Axes
        Where to draw; the vertical axis begins at 0.
    xlabel, ylabel : str
        With the unit.
    level : float, optional
        Height of a horizontal line: what the numbers should be.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If a curve is not as long as `x`, or there are more than three.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = by_ratio([0.1, 1, 10], {"found": [1, 1, 0]}, Figure().subplots(), xlabel="noise", ylabel="share", level=1)
    >>> ax.get_xscale(), ax.get_xlabel(), len(ax.lines)
    ('log', 'noise', 2)
    """
    at, colours = vector(x, "x"), _colours(series)
    curves = {name: vector(values, name) for name, values in series.items()}
    if level is not None:
        ax.axhline(level, color=MUTED, linewidth=0.8)
    for (name, values), colour in zip(curves.items(), colours, strict=True):
        if len(values) != len(at):
            raise ValueError(f"{name} must have {len(at)} entries, one per number of x; got {len(values)}")
        ax.plot(at, values, color=colour, linewidth=1.2, marker="o", markersize=3, markeredgewidth=0, clip_on=False)
    quiet(ax, xlabel, ylabel)
    log_places(ax)
    ax.set_ylim(0, 1.08 * max(1.0 if level is None else level, *(float(np.nanmax(c)) for c in curves.values())))
    key(ax, list(zip(curves, colours, strict=True)), "above")
    return ax


def _colours(series: Mapping[str, ArrayLike]) -> tuple[str, ...]:
    """One for each; the last one has the accent."""
    if len(series) > 3:
        raise ValueError(f"series must hold at most three curves, which can be told apart; got {len(series)}")
    return COLORS[len(series)] if series else ()


def _ratio(value: float) -> str:
    if value < SMALLEST:
        return f"<{SMALLEST:g}"
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"
