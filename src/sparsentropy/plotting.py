"""Pictures of what was learned: every function takes arrays and an axes, draws, and gives the axes back.

One style for all: white or no background, ink for what is fixed beforehand, a single accent colour for what
was learned, axis labels that name the unit. Nothing here opens a window or touches matplotlib's global state,
so the functions work on a server, in a notebook and inside a figure of your own. `to_svg` turns one of them
into SVG text that can stand in a web page. This is the only module that imports matplotlib.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

INK = "#24292f"
MUTED = "#768390"
ACCENT = "#1f6fb5"
_SECOND = "#c2571a"  # used once, for the negative half of the heat map

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
    "svg.hashsalt": "sparsentropy",  # the same arrays give the same bytes
}
_DIVERGING = LinearSegmentedColormap.from_list("accent", [_SECOND, "#ffffff", ACCENT])
_MOST_FEATURES = 600
_STEPS = (1, 2, 5, 10)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Array = NDArray[np.float64]


def to_svg(draw: Callable[[Axes], object], *, width: float = 3.6, height: float = 2.6) -> str:
    """Draw on a fresh figure without background and return it as SVG text.

    Parameters
    ----------
    draw : callable
        Takes the axes of the new figure and draws on it.
    width, height : float
        Size of the figure in inches.

    Returns
    -------
    str
        One ``<svg>`` element, ready to stand inside an HTML page.

    Examples
    --------
    >>> svg = to_svg(lambda ax: lower_bound([1.0, 2.0, 2.5], ax))
    >>> svg[:4], "lower bound (nats per data point)" in svg
    ('<svg', True)
    """
    text = io.StringIO()
    with mpl.rc_context(_RC):
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
        figure = Figure(figsize=(width, height), layout=layout)
        draw(figure.subplots())
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].strip()


def dictionary(
    components: ArrayLike,
    ax: Axes,
    *,
    patch_shape: Sequence[int],
    order: ArrayLike | None = None,
    columns: int | None = None,
) -> Axes:
    """Show all atoms as small images in one tiled picture.

    Each atom has its own grey scale, symmetric about zero: mid-grey is 0, white the largest absolute entry of
    that atom, black its negative. Colour patches follow the same rule, with one scale for the three channels.

    Parameters
    ----------
    components : array_like, shape (h, d)
        One atom per row.
    ax : matplotlib.axes.Axes
        Where to draw.
    patch_shape : (int, int) or (int, int, 3)
        Height, width and, for colour, 3; the product is d.
    order : array_like of int, shape (m,), optional
        Which atoms to show, in which order, such as ``np.argsort(-prior_scale)``; all as they are if None.
    columns : int, optional
        Atoms per row; if None the picture becomes somewhat wider than high.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `components` is not a matrix or `patch_shape` does not fit its rows.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = dictionary(np.eye(9), Figure().subplots(), patch_shape=(3, 3), columns=9)
    >>> ax.images[0].get_array().shape  # nine atoms of three pixels and the gaps between them; RGBA
    (3, 35, 4)
    """
    atoms = _matrix(components, "components")
    if order is not None:
        atoms = atoms[np.asarray(order, dtype=int)]
    patches = _patches(atoms, patch_shape, "components")
    peak = np.abs(atoms).max(axis=1).reshape(-1, 1, 1, 1)
    if columns is None:
        columns = math.ceil(math.sqrt(1.6 * len(atoms)))
    return _picture(_tile(_grey(patches, peak), columns), ax)


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
    bounds = _vector(values, "values")
    _per_sweep(ax, len(bounds), "lower bound (nats per data point)")
    _curve(ax, bounds, ACCENT)
    if held_out is None:
        _name_end(ax, bounds, f"{_number(bounds[-1])}", ACCENT, above=True)
    else:
        held = _vector(np.atleast_1d(np.asarray(held_out, dtype=float)), "held_out")
        _curve(ax, held, INK, last=len(bounds))
        held_is_higher = bool(held[-1] > bounds[-1])
        _name_end(ax, bounds, f"training {_number(bounds[-1])}", ACCENT, above=not held_is_higher)
        _name_end(ax, held, f"held out {_number(held[-1])}", INK, above=held_is_higher, last=len(bounds))
    ax.margins(y=0.16)
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
    values = _vector(std, "std")
    _per_sweep(ax, len(values), "noise std (data units)")
    _curve(ax, values, ACCENT)
    _name_end(ax, values, _number(values[-1]), ACCENT, above=True)
    ax.set_ylim(0, 1.1 * np.nanmax(values) or 1)
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
    ranked = np.sort(_vector(scales, "scales"))[::-1]
    rank = np.arange(1, len(ranked) + 1)
    points = {"marker": "o", "markersize": 3, "markeredgewidth": 0, "linestyle": "none"}
    ax.plot(rank, ranked, color=ACCENT, **(points if len(ranked) <= 200 else {}))
    _quiet(ax, "atom, by decreasing scale", "prior scale (data units)")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True))
    _log_axis(ax, ranked)
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
    units = _in_units(_matrix(codes, "codes"), np.asarray(prior_scale, dtype=float))
    reach = float(np.clip(np.ceil(np.quantile(np.abs(units), 0.9995)), 6, 15))
    edges = np.linspace(-reach, reach, 82)  # an odd number of bins: one of them is centred on zero
    share = np.histogram(units, edges)[0] / units.size
    density = share / np.diff(edges)
    ax.stairs(density, edges, fill=True, color=ACCENT, alpha=0.25, linewidth=0)
    ax.stairs(density, edges, color=ACCENT, linewidth=1.2)
    grid = np.array([-reach, 0, reach])
    ax.plot(grid, 0.5 * np.exp(-np.abs(grid)), color=INK, linewidth=1)
    _quiet(ax, "code / prior scale of its atom", "density")
    _log_axis(ax, np.append(density, 0.5))
    ax.set_xlim(-reach, reach)
    _key(ax, [("codes", ACCENT), ("Laplace prior", INK)])
    return ax


def examples(
    originals: ArrayLike,
    reconstructions: ArrayLike,
    residuals: ArrayLike,
    patch_shape: Sequence[int],
    ax: Axes,
) -> Axes:
    """Show patches in three rows: original, reconstruction, and what the reconstruction left.

    The three pictures of a column share one grey scale, so a residual that looks flat is small beside its
    original; the scale differs from column to column. Residuals are drawn about mid-grey.

    Parameters
    ----------
    originals, reconstructions, residuals : array_like, shape (m, d)
        One patch per row.
    patch_shape : (int, int) or (int, int, 3)
        Height, width and, for colour, 3; the product is d.
    ax : matplotlib.axes.Axes
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If the three do not have the same shape, or `patch_shape` does not fit their rows.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> x = np.random.default_rng(0).normal(size=(5, 16))
    >>> ax = examples(x, 0.9 * x, 0.1 * x, (4, 4), Figure().subplots())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['original', 'reconstruction', 'residual']
    """
    rows = [_matrix(originals, "originals"), _matrix(reconstructions, "reconstructions")]
    rows.append(_matrix(residuals, "residuals"))
    if len({row.shape for row in rows}) > 1:
        shapes = ", ".join(str(row.shape) for row in rows)
        raise ValueError(f"originals, reconstructions and residuals must have the same shape; got {shapes}")
    middle, half = _shared_ranges(np.concatenate(rows[:2], axis=1))
    centred = np.concatenate([rows[0] - middle, rows[1] - middle, rows[2]])
    peak = np.tile(half, (3, 1)).reshape(-1, 1, 1, 1)
    image = _tile(_grey(_patches(centred, patch_shape, "originals"), peak), columns=len(rows[0]))
    _picture(image, ax)
    _name_rows(ax, ["original", "reconstruction", "residual"], image.shape[0])
    return ax


def profiles(originals: ArrayLike, reconstructions: ArrayLike, ax: Axes) -> Axes:
    """Draw data points that are not patches as curves, one below the other, with their reconstruction on top.

    Parameters
    ----------
    originals, reconstructions : array_like, shape (m, d)
        One data point per row.
    ax : matplotlib.axes.Axes
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If the two do not have the same shape.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> x = np.random.default_rng(0).normal(size=(3, 20))
    >>> len(profiles(x, 0.9 * x, Figure().subplots()).lines)
    6
    """
    data, fits = _matrix(originals, "originals"), _matrix(reconstructions, "reconstructions")
    if data.shape != fits.shape:
        shapes = f"{data.shape} and {fits.shape}"
        raise ValueError(f"originals and reconstructions must have the same shape; got {shapes}")
    # More points than the picture has room for would only make it large.
    step = -(-data.shape[1] // _MOST_FEATURES)
    feature = np.arange(1, data.shape[1] + 1, step)
    # One unit of height per data point, whatever the unit of the data.
    span = max(float(np.ptp(data, axis=1).max()), np.finfo(float).tiny)
    for row, (point, fit) in enumerate(zip(data, fits, strict=True)):
        middle = (point.max() + point.min()) / 2
        ax.plot(feature, (point[::step] - middle) / span - 1.1 * row, color=MUTED, linewidth=2.2, alpha=0.6)
        ax.plot(feature, (fit[::step] - middle) / span - 1.1 * row, color=ACCENT, linewidth=1)
    _quiet(ax, "feature", "data points")
    ax.spines["left"].set_visible(False)
    ax.yaxis.set_major_locator(NullLocator())
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=_STEPS, integer=True))
    ax.margins(x=0.01)
    _key(ax, [("original", MUTED), ("reconstruction", ACCENT)], above=True)
    return ax


def atom_profile(components: ArrayLike, ax: Axes, *, order: ArrayLike | None = None) -> Axes:
    """Show atoms that are not patches as a heat map, one atom per row.

    Parameters
    ----------
    components : array_like, shape (h, d)
        One atom per row.
    ax : matplotlib.axes.Axes
        Where to draw.
    order : array_like of int, shape (m,), optional
        Which atoms to show and in which order, from top to bottom; all as they are if None.

    Returns
    -------
    matplotlib.axes.Axes
        The same `ax`.

    Raises
    ------
    ValueError
        If `components` is not a matrix.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> atom_profile(np.eye(4), Figure().subplots()).get_ylabel()
    'atom'
    """
    atoms = _matrix(components, "components")
    if order is not None:
        atoms = atoms[np.asarray(order, dtype=int)]
    peak = float(np.abs(atoms).max()) or 1.0
    extent = (0.5, atoms.shape[1] + 0.5, len(atoms) + 0.5, 0.5)  # atoms and features count from one
    image = ax.imshow(
        _peaks(atoms), cmap=_DIVERGING, vmin=-peak, vmax=peak, aspect="auto", extent=extent, interpolation="none"
    )
    _quiet(ax, "feature", "atom")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True))
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.02, aspect=40)
    bar.set_label("entry of the atom", color=INK)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(color=MUTED, labelcolor=INK, labelsize=8, length=2)
    return ax


def _matrix(values: ArrayLike, name: str) -> Array:
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be a matrix, one row per item; got an array of shape {matrix.shape}")
    return matrix


def _vector(values: ArrayLike, name: str) -> Array:
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers; got an array of shape {vector.shape}")
    return vector


def _patches(rows: Array, patch_shape: Sequence[int], name: str) -> Array:
    """Rows (m, d) as images (m, height, width, channels)."""
    shape = tuple(int(side) for side in patch_shape)
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or math.prod(shape) != rows.shape[1]:
        raise ValueError(
            f"patch_shape must be (height, width) or (height, width, 3) with product {rows.shape[1]}, "
            f"the length of a row of {name}; got {shape}"
        )
    return rows.reshape(len(rows), shape[0], shape[1], -1)


def _peaks(atoms: Array) -> Array:
    """Join neighbouring features where there are more than a picture has room for; the largest of each stays."""
    d = atoms.shape[1]
    if d <= _MOST_FEATURES:
        return atoms
    starts = np.linspace(0, d, _MOST_FEATURES, endpoint=False).astype(int)
    high, low = np.maximum.reduceat(atoms, starts, axis=1), np.minimum.reduceat(atoms, starts, axis=1)
    return np.where(high >= -low, high, low)


def _grey(values: Array, peak: Array) -> Array:
    """Values from −peak to peak as brightness from 0 to 1."""
    return 0.5 + 0.5 * np.clip(values / np.where(np.equal(peak, 0), 1, peak), -1, 1)


def _tile(images: Array, columns: int) -> NDArray[np.uint8]:
    """Images (m, height, width, channels) in one RGBA picture; the gaps are transparent."""
    m, height, width, _ = images.shape
    gap = max(1, round(max(height, width) / 10))
    columns = min(columns, m)
    rows = -(-m // columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for index, image in enumerate(np.rint(255 * images).astype(np.uint8)):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[y : y + height, x : x + width, :3] = image
        canvas[y : y + height, x : x + width, 3] = 255
    return canvas


def _picture(image: NDArray[np.uint8], ax: Axes) -> Axes:
    # "none" keeps the pixels of the array as they are, also in SVG and PDF.
    ax.imshow(image, interpolation="none")
    ax.set_frame_on(False)
    ax.tick_params(length=0, labelbottom=False)
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(NullLocator())
    return ax


def _name_rows(ax: Axes, names: Sequence[str], height: int) -> None:
    step = height / len(names)
    ax.yaxis.set_major_locator(FixedLocator([step * (row + 0.5) - 0.5 for row in range(len(names))]))
    ax.set_yticklabels(names, color=INK)


def _shared_ranges(rows: Array) -> tuple[Array, Array]:
    """Middle and half width (m, 1) of a scale for each row; data with both signs are drawn about zero."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    if low.min() < 0:
        return np.zeros_like(low), np.maximum(np.abs(low), np.abs(high))
    return (low + high) / 2, (high - low) / 2


def _in_units(codes: Array, prior_scale: Array) -> Array:
    h = codes.shape[1]
    if prior_scale.shape not in ((), (h,)):
        raise ValueError(f"prior_scale must have {h} entries, one per column; got shape {prior_scale.shape}")
    # An atom that is out of use has codes and scale near zero alike.
    return codes / np.maximum(prior_scale, np.finfo(float).tiny)


def _quiet(ax: Axes, xlabel: str, ylabel: str) -> None:
    ax.set_xlabel(xlabel, color=INK)
    ax.set_ylabel(ylabel, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=MUTED, linewidth=0.8)
    ax.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8, length=3, width=0.8)


def _per_sweep(ax: Axes, sweeps: int, ylabel: str) -> None:
    _quiet(ax, "sweep", ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    ax.set_xlim(0 if sweeps > 1 else 0.5, sweeps + 0.02 * sweeps if sweeps > 1 else 1.5)


def _curve(ax: Axes, values: Array, color: str, last: int | None = None) -> None:
    last = len(values) if last is None else last
    sweeps = np.arange(last - len(values) + 1, last + 1)
    ax.plot(sweeps, values, color=color, linewidth=1.5)
    ax.plot(sweeps[-1:], values[-1:], color=color, marker="o", markersize=4, markeredgewidth=0, clip_on=False)


def _name_end(ax: Axes, values: Array, text: str, color: str, *, above: bool, last: int | None = None) -> None:
    """Write `text` just above or below the last point of a curve."""
    end = (len(values) if last is None else last, values[-1])
    offset, side = ((2, 5), "bottom") if above else ((2, -6), "top")
    ax.annotate(text, end, offset, textcoords="offset points", ha="right", va=side, color=color, fontsize=8)


def _number(value: float) -> str:
    """Four significant digits, without an exponent where one can do without."""
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"


def _log_axis(ax: Axes, values: Array) -> None:
    """Make the vertical axis logarithmic, from one round number to another, with few numbers beside it."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    few = high / low < 100
    ax.set_ylim(_round(low / 1.15, math.floor, few), _round(high * 1.15, math.ceil, few))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    ax.yaxis.set_major_formatter(FuncFormatter(_decimal))
    ax.yaxis.set_minor_locator(NullLocator())


def _round(value: float, direction: Callable[[float], int], few: bool) -> float:
    """Round to a power of ten or, where the axis spans few of them, to 1, 2 or 5 times one."""
    if not few:
        return 10.0 ** direction(math.log10(value))
    thirds = direction(3 * math.log10(value))
    return (1.0, 2.0, 5.0)[thirds % 3] * 10.0 ** (thirds // 3)


def _decimal(value: float, _position: int | None = None) -> str:
    """Plain digits where they are short, else a power of ten in Unicode (SVG text cannot hold formulas)."""
    if 1e-3 <= value <= 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10.0**exponent)
    return ("" if factor == 1 else f"{factor}·") + "10" + str(exponent).translate(_SUPERSCRIPT)


def _key(ax: Axes, entries: Sequence[tuple[str, str]], *, above: bool = False) -> None:
    """Name the curves in their own colours, at the upper right: quieter than a legend box."""
    for row, (text, color) in enumerate(entries):
        x, y = (1.0 - 0.24 * (len(entries) - 1 - row), 1.01) if above else (1.0, 0.98 - 0.09 * row)
        va = "bottom" if above else "top"
        ax.text(x, y, text, transform=ax.transAxes, ha="right", va=va, color=color, fontsize=8)
