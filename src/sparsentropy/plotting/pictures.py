"""Pictures of atoms and of data points: as patches, or as rows and curves where the data are no patches.

Zero is always the middle of a scale, grey or white, because the sign of an entry means something: an atom adds here and
takes away there.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from . import tiles
from .style import ACCENT, DIVERGING, INK, MUTED, STEPS, key, matrix, quiet

MOST_FEATURES = 600  # as many as fit side by side
MOST_NAMES, LONGEST_NAME = 40, 16  # features that are named, and characters of a name


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
    atoms = matrix(components, "components")
    if order is not None:
        atoms = atoms[np.asarray(order, dtype=int)]
    peak = np.abs(atoms).max(axis=1)
    if columns is None:
        columns = math.ceil(math.sqrt(1.6 * len(atoms)))
    return picture(tiles.mosaic(atoms, patch_shape, peak, columns), ax)


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
    rows = [matrix(originals, "originals"), matrix(reconstructions, "reconstructions")]
    rows.append(matrix(residuals, "residuals"))
    if len({row.shape for row in rows}) > 1:
        shapes = ", ".join(str(row.shape) for row in rows)
        raise ValueError(f"originals, reconstructions and residuals must have the same shape; got {shapes}")
    middle, half = tiles.scales(np.concatenate(rows[:2], axis=1))
    centred = np.concatenate([rows[0] - middle, rows[1] - middle, rows[2]])
    image = tiles.mosaic(centred, patch_shape, np.tile(half[:, 0], 3), columns=len(rows[0]))
    picture(image, ax)
    name_rows(ax, ["original", "reconstruction", "residual"], image.shape[0])
    return ax


def profiles(
    originals: ArrayLike, reconstructions: ArrayLike, ax: Axes, feature_names: Sequence[str] | None = None
) -> Axes:
    """Draw data points that are not patches as curves, one below the other, with their reconstruction on top.

    Parameters
    ----------
    originals, reconstructions : array_like, shape (m, d)
        One data point per row; a curve has gaps where it is NaN, but not everywhere.
    ax : matplotlib.axes.Axes
        Where to draw.
    feature_names : sequence of str, optional
        What the entries of a data point are called; by default they are counted.

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
    data, fits = matrix(originals, "originals"), matrix(reconstructions, "reconstructions")
    if data.shape != fits.shape:
        shapes = f"{data.shape} and {fits.shape}"
        raise ValueError(f"originals and reconstructions must have the same shape; got {shapes}")
    # More points than the picture has room for would only make it large.
    step = -(-data.shape[1] // MOST_FEATURES)
    feature = np.arange(1, data.shape[1] + 1, step)
    # One unit of height per data point, whatever the unit of the data.
    low, high = np.nanmin(data, axis=1), np.nanmax(data, axis=1)
    span = float((high - low).max()) or float(np.nanmax(np.abs(data))) or 1.0  # data points may all be flat
    for row, (point, fit, middle) in enumerate(zip(data, fits, (low + high) / 2, strict=True)):
        ax.plot(feature, (point[::step] - middle) / span - 1.1 * row, color=MUTED, linewidth=2.2, alpha=0.6)
        ax.plot(feature, (fit[::step] - middle) / span - 1.1 * row, color=ACCENT, linewidth=1)
    quiet(ax, "feature", "data points")
    ax.spines["left"].set_visible(False)
    ax.yaxis.set_major_locator(NullLocator())
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS, integer=True))
    _name_features(ax, feature_names)
    ax.margins(x=0.01)
    key(ax, [("original", MUTED), ("reconstruction", ACCENT)], "above")
    return ax


def atom_profile(
    components: ArrayLike,
    ax: Axes,
    *,
    order: ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
) -> Axes:
    """Show atoms that are not patches as a heat map, one atom per row.

    Parameters
    ----------
    components : array_like, shape (h, d)
        One atom per row.
    ax : matplotlib.axes.Axes
        Where to draw.
    order : array_like of int, shape (m,), optional
        Which atoms to show and in which order, from top to bottom; all as they are if None.
    feature_names : sequence of str, optional
        What the entries of an atom are called; by default they are counted.

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
    atoms = matrix(components, "components")
    if order is not None:
        atoms = atoms[np.asarray(order, dtype=int)]
    peak = float(np.abs(atoms).max()) or 1.0
    extent = (0.5, atoms.shape[1] + 0.5, len(atoms) + 0.5, 0.5)  # atoms and features count from one
    image = ax.imshow(
        tiles.join(atoms, MOST_FEATURES),
        cmap=DIVERGING,
        vmin=-peak,
        vmax=peak,
        aspect="auto",
        extent=extent,
        interpolation="none",
    )
    quiet(ax, "feature", "atom")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    _name_features(ax, feature_names)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.02, aspect=40)
    bar.set_label("entry of the atom", color=INK)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(color=MUTED, labelcolor=INK, labelsize=8, length=2)
    return ax


def picture(image: NDArray[np.uint8], ax: Axes) -> Axes:
    """Show pixels without axes."""
    # "none" keeps the pixels of the array as they are, also in SVG and PDF.
    ax.imshow(image, interpolation="none")
    ax.set_frame_on(False)
    ax.tick_params(length=0, labelbottom=False)
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(NullLocator())
    return ax


def name_rows(ax: Axes, names: Sequence[str], height: int) -> None:
    """Write names beside equal parts of a picture."""
    step = height / len(names)
    ax.yaxis.set_major_locator(FixedLocator([step * (row + 0.5) - 0.5 for row in range(len(names))]))
    ax.set_yticklabels(names, color=INK)


def _name_features(ax: Axes, names: Sequence[str] | None) -> None:
    """Write names below features that are counted from one, if there is room for them."""
    if names is None or len(names) > MOST_NAMES:
        return
    plain = ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name) for name in names]
    short = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in plain]
    across = sum(map(len, short)) + 2 * len(short) <= 80
    ax.set_xticks(range(1, len(names) + 1), short, rotation=0 if across else 90, parse_math=False)
    ax.set_xlabel("")
