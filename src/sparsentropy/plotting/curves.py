"""Curves: the bound and the noise by sweep, the prior scales, and how sparse the codes are.

All take plain numbers and draw on axes that are given. What belongs to the model beforehand is drawn in ink, what was
learned in the accent colour.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from .style import ACCENT, COLORS, INK, STEPS, Array, key, log_axis, matrix, quiet, vector


def lower_bound(values: ArrayLike, ax: Axes, held_out: ArrayLike | None = None) -> Axes:
    """Draw the lower bound after every sweep.

    Parameters
    ----------
    values : array_like, shape (sweeps,)
        Bound on the training data after each sweep, in nats per data point.
    ax : matplotlib.axes.Axes
        Where to draw.
    held_out : float or array_like, shape (sweeps,), optional
        Bound on held-out data: one value per sweep, or only that of the final model.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `values` is not a non-empty list of numbers.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> lower_bound([1.0, 2.0, 2.5], Figure().subplots(), held_out=2.4).get_ylabel()
    'lower bound (nats per data point)'
    """
    bounds = vector(values, "values")
    per_sweep(ax, len(bounds), "lower bound (nats per data point)")
    curve(ax, bounds, ACCENT)
    entries = [(f"training {number(bounds[-1])}", ACCENT)]
    if held_out is not None:
        held = vector(np.atleast_1d(np.asarray(held_out, dtype=float)), "held_out")
        curve(ax, held, INK, last=len(bounds))
        entries.insert(0, (f"held out {number(held[-1])}", INK))
    # A bound rises, so this corner is free but for the dot of what was held out.
    key(ax, entries, "bottom")
    ax.margins(y=0.12)
    return ax


def noise(std: ArrayLike, ax: Axes) -> Axes:
    """Draw the noise standard deviation after every sweep.

    Parameters
    ----------
    std : array_like, shape (sweeps,)
        Noise standard deviation after each sweep, in units of the data.
    ax : matplotlib.axes.Axes
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `std` is not a non-empty list of numbers.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> noise([0.3, 0.2, 0.15], Figure().subplots()).get_ylabel()
    'noise std (data units)'
    """
    values = vector(std, "std")
    per_sweep(ax, len(values), "noise std (data units)")
    curve(ax, values, ACCENT)
    key(ax, [(f"at the end {number(values[-1])}", ACCENT)])
    ax.set_ylim(0, 1.2 * np.nanmax(values) or 1)
    return ax


def prior_scales(scales: ArrayLike, ax: Axes) -> Axes:
    """Draw the prior scale of every atom, from the largest to the smallest, on a logarithmic axis.

    Parameters
    ----------
    scales : array_like, shape (h,)
        Prior scale of each atom (the mean absolute size of its code), in units of the data; any order.
    ax : matplotlib.axes.Axes
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `scales` is not a non-empty list of numbers.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = prior_scales([0.1, 0.4, 0.2], Figure().subplots())
    >>> ax.lines[0].get_ydata().tolist(), ax.get_yscale()
    ([0.4, 0.2, 0.1], 'log')
    """
    ranked = np.sort(vector(scales, "scales"))[::-1]
    rank = np.arange(1, len(ranked) + 1)
    points = {"marker": "o", "markersize": 3, "markeredgewidth": 0, "linestyle": "none"}
    ax.plot(rank, ranked, color=ACCENT, **(points if len(ranked) <= 200 else {}))
    quiet(ax, "atom, by decreasing scale", "prior scale (data units)")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    log_axis(ax, ranked)
    return ax


def sparsity(codes: ArrayLike, ax: Axes, *, prior_scale: ArrayLike = 1.0) -> Axes:
    """Draw how often a code takes which value, in units of its prior scale, beside the Laplace density.

    Parameters
    ----------
    codes : array_like, shape (m, h)
        Codes of m data points.
    ax : matplotlib.axes.Axes
        Where to draw; the density axis is logarithmic, so the Laplace density is a tent of straight lines.
    prior_scale : array_like, shape (h,), optional
        What to divide the codes by; leave it out if they are divided already.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `codes` is not a matrix or `prior_scale` does not fit it.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> codes = np.random.default_rng(0).laplace(scale=2.0, size=(100, 3))
    >>> sparsity(codes, Figure().subplots(), prior_scale=[2.0, 2.0, 2.0]).get_yscale()
    'log'
    """
    units = in_units(matrix(codes, "codes"), np.asarray(prior_scale, dtype=float))
    reach = float(np.clip(np.ceil(np.quantile(np.abs(units), 0.9995)), 6, 15))
    half = int(np.clip(np.sqrt(units.size) / 2, 10, 40))
    edges = np.linspace(-reach, reach, 2 * half + 2)  # an odd number of bins: one of them is centred on zero
    share = np.histogram(units, edges)[0] / units.size
    density = share / np.diff(edges)
    ax.stairs(density, edges, fill=True, color=ACCENT, alpha=0.25, linewidth=0)
    ax.stairs(density, edges, color=ACCENT, linewidth=1.2)
    grid = np.array([-reach, 0, reach])
    ax.plot(grid, 0.5 * np.exp(-np.abs(grid)), color=INK, linewidth=1)
    quiet(ax, "code / prior scale of its atom", "density")
    log_axis(ax, np.append(density, 0.5))
    ax.set_xlim(-reach, reach)
    key(ax, [("codes", ACCENT), ("Laplace prior", INK)])
    return ax


def by_step(steps: ArrayLike, series: Mapping[str, ArrayLike], ax: Axes, *, ylabel: str, log: bool = False) -> Axes:
    """Draw numbers by step, the steps on a logarithmic axis.

    Parameters
    ----------
    steps : array_like, shape (m,)
        From 1.
    series : mapping of str to array_like, each of shape (m,)
        One curve each; the last one is what it is about.
    ax : matplotlib.axes.Axes
        Where to draw.
    ylabel : str
        With the unit.
    log : bool
        Whether the vertical axis is logarithmic as well; then all numbers must be positive.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If a curve is not as long as `steps`, or there are more than three.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = by_step([1, 2, 4], {"bound": [1.0, 2.0, 2.5]}, Figure().subplots(), ylabel="nats")
    >>> ax.get_xscale(), ax.get_ylabel()
    ('log', 'nats')
    """
    x = vector(steps, "steps")
    if not 1 <= len(series) <= 3:
        raise ValueError(f"series must hold one to three curves, which can be told apart; got {len(series)}")
    colors = COLORS[len(series)]
    curves = {name: vector(values, name) for name, values in series.items()}
    for (name, values), color in zip(curves.items(), colors, strict=True):
        if len(values) != len(x):
            raise ValueError(f"{name} must have {len(x)} entries, one per step; got {len(values)}")
        ax.plot(x, values, color=color, linewidth=1.5)
    quiet(ax, "step", ylabel)
    ax.set_xscale("log")
    if log:
        log_axis(ax, np.concatenate(list(curves.values())))
    key(ax, list(zip(curves, colors, strict=True)), "top" if log else "bottom")
    return ax


def in_units(codes: Array, prior_scale: Array) -> Array:
    """Divide every column of codes by its prior scale."""
    h = codes.shape[1]
    if prior_scale.shape not in ((), (h,)):
        raise ValueError(f"prior_scale must have {h} entries, one per column; got shape {prior_scale.shape}")
    # An atom that is out of use has codes and scale near zero alike.
    return codes / np.maximum(prior_scale, np.finfo(float).tiny)


def per_sweep(ax: Axes, sweeps: int, ylabel: str) -> None:
    """Prepare axes on which a number is drawn by sweep."""
    quiet(ax, "sweep", ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    ax.set_xlim(0 if sweeps > 1 else 0.5, sweeps + 0.02 * sweeps if sweeps > 1 else 1.5)


def curve(ax: Axes, values: Array, color: str, last: int | None = None) -> None:
    """Draw values that end at sweep `last`, with a dot at the end."""
    last = len(values) if last is None else last
    sweeps = np.arange(last - len(values) + 1, last + 1)
    ax.plot(sweeps, values, color=color, linewidth=1.5)
    ax.plot(sweeps[-1:], values[-1:], color=color, marker="o", markersize=4, markeredgewidth=0, clip_on=False)


def number(value: float) -> str:
    """Four significant digits, with the minus sign of the axes."""
    return f"{value:.4g}".replace("-", "−")
