"""The one style of all pictures: colours, axes, ticks, and SVG that takes its font from the page.

Ink is for what is fixed beforehand and for text, the accent for what was learned, the muted colour for axes. Curves are
named in a corner that they leave free, in their own colour, instead of in a legend box.
"""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

INK = "#24292f"
MUTED = "#768390"
ACCENT = "#1f6fb5"
SECOND = "#c2571a"  # for the negative half of the heat map, and where there are four curves

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
    "svg.hashsalt": "sparsentropy",  # the same arrays give the same bytes
}
DIVERGING = LinearSegmentedColormap.from_list("accent", [SECOND, "#ffffff", ACCENT])
COLORS = {1: (ACCENT,), 2: (INK, ACCENT), 3: (INK, MUTED, ACCENT), 4: (INK, MUTED, SECOND, ACCENT)}
"""Of so many curves, the last of which is what a picture is about."""
STEPS = (1, 2, 5, 10)
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Array = NDArray[np.float64]
Pairs = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""What is drawn by its name, x and y of each."""


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
    >>> svg = to_svg(lambda ax: ax.set_xlabel("sweep"))
    >>> svg[:4], svg[-6:], ">sweep</text>" in svg
    ('<svg', '</svg>', True)
    """
    text = io.StringIO()
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the font is that of the page
        layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.02)
        figure = Figure(figsize=(width, height), layout=layout)
        draw(figure.subplots())
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].strip()


def matrix(values: ArrayLike, name: str) -> Array:
    """Return values as a matrix of floats that is not empty."""
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be a matrix, one row per item; got an array of shape {matrix.shape}")
    return matrix


def vector(values: ArrayLike, name: str) -> Array:
    """Return values as a list of floats that is not empty."""
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers; got an array of shape {vector.shape}")
    return vector


def pairs_of(series: Pairs) -> dict[str, tuple[Array, Array]]:
    """Return x and y of each as lists of floats of the same length; there are as many as can be told apart."""
    if len(series) not in COLORS:
        raise ValueError(f"series must hold one to four entries, which can be told apart; got {len(series)}")
    pairs = {name: (vector(x, name), vector(y, name)) for name, (x, y) in series.items()}
    for name, (x, y) in pairs.items():
        if len(x) != len(y):
            raise ValueError(
                f"every place must have a value; got series in which {name} has {len(x)} places and {len(y)} values"
            )
    return pairs


def quiet(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes and take away what tells nothing: the frame, long ticks, black."""
    ax.set_xlabel(xlabel, color=INK)
    ax.set_ylabel(ylabel, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=MUTED, linewidth=0.8)
    ax.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8, length=3, width=0.8)


def log_axis(ax: Axes, values: Array) -> None:
    """Make the vertical axis logarithmic, from one round number to another, with few numbers beside it."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    few = high / low < 100
    ax.set_ylim(rounded(low / 1.15, math.floor, few), rounded(high * 1.15, math.ceil, few))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    ax.yaxis.set_major_formatter(FuncFormatter(decimal))
    ax.yaxis.set_minor_locator(NullLocator())


def log_places(ax: Axes, *, few: bool = False) -> None:
    """Make the horizontal axis logarithmic, with plain numbers below it; `few` powers of ten leave room for more."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    ax.xaxis.set_major_formatter(FuncFormatter(decimal))
    ax.xaxis.set_minor_locator(NullLocator())


def rounded(value: float, direction: Callable[[float], int], few: bool) -> float:
    """Round to a power of ten or, where the axis spans few of them, to 1, 2 or 5 times one."""
    if not few:
        return 10.0 ** direction(math.log10(value))
    thirds = direction(3 * math.log10(value))
    return (1.0, 2.0, 5.0)[thirds % 3] * 10.0 ** (thirds // 3)


def decimal(value: float, _position: int | None = None) -> str:
    """Plain digits where they are short, else a power of ten in Unicode (SVG text cannot hold formulas)."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10.0**exponent)
    return ("" if factor == 1 else f"{factor}·") + "10" + str(exponent).translate(SUPERSCRIPT)


def key(ax: Axes, entries: Sequence[tuple[str, str]], where: Literal["top", "bottom", "above"] = "top") -> None:
    """Name curves in their own colours, at the right: quieter than a legend box, and never across a curve."""
    for row, (text, color) in enumerate(entries):
        left = len(entries) - 1 - row
        x, y = {
            "top": (1.0, 0.99 - 0.09 * row),
            "bottom": (0.94, 0.02 + 0.09 * left),
            "above": (1.0 - 0.24 * left, 1.01),
        }[where]
        va = "top" if where == "top" else "bottom"
        ax.text(x, y, text, transform=ax.transAxes, ha="right", va=va, color=color, fontsize=8)
