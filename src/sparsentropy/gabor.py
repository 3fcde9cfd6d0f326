"""Are atoms local and oriented? Gabor functions, fitted to every one of them.

A Gabor function is a grating under a Gaussian window, with its stripes along one axis of the window:

    g(u, v) = exp(−u²/2σ_u² − v²/2σ_v²) (a cos 2πfu + b sin 2πfu),

where u runs across the stripes and v along them, both from the centre. Receptive fields of simple cells in visual
cortex look like this, and so do atoms learned from natural images. The fits tell frequency, orientation, place and
shape, and how much of an atom is explained by them.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]

PADDED = 64  # points of the spectrum in which the first frequency is looked for, per axis
EVALUATIONS = 60  # of a fit
NARROWEST = 0.4  # standard deviation of a window, pixels: a single pixel is a fit, too
EXPLAINED, SIDE_LOBES = 0.7, 0.2  # of an atom that counts as a Gabor function, and σ f of one with stripes


class _Start(NamedTuple):
    """Centre, window widths and wave vector."""

    x: float
    y: float
    across: float
    along: float
    fx: float
    fy: float


@final
@dataclass(frozen=True)
class Gabors:
    """Gabor functions, one for each atom.

    Parameters
    ----------
    frequency : ndarray, shape (h,)
        f, cycles per pixel.
    orientation : ndarray, shape (h,)
        Of the stripes, degrees from 0 (horizontal) to 180, counted anticlockwise as the image is looked at.
    across, along : ndarray, shape (h,)
        σ_u and σ_v, pixels.
    row, column : ndarray, shape (h,)
        The centre, pixels from the middle of the first one.
    explained : ndarray, shape (h,)
        Part of an atom's squares that the fit accounts for, at most 1.
    patch_shape : (int, int)
    """

    frequency: Array
    orientation: Array
    across: Array
    along: Array
    row: Array
    column: Array
    explained: Array
    patch_shape: tuple[int, int]

    @property
    def aspect(self) -> Array:
        """σ_v / σ_u: above 1 for windows that are longer than wide."""
        return self.along / self.across

    @property
    def local_and_oriented(self) -> NDArray[np.bool_]:
        """Which atoms are well explained, smaller than the patch, and have stripes or are drawn out.

        Explained: at least 70 %. Local: centre inside the patch, the narrower σ at most a quarter of its side.
        Stripes: σ_u f ≥ 0.2, below which the window holds no more than a blob; drawn out: an aspect beyond 1.5.
        """
        height, width = self.patch_shape
        inside = (abs(self.row - (height - 1) / 2) <= height / 2) & (abs(self.column - (width - 1) / 2) <= width / 2)
        local = inside & (np.minimum(self.across, self.along) <= min(height, width) / 4)
        stripes = self.across * self.frequency >= SIDE_LOBES
        drawn_out = np.abs(np.log(self.aspect)) >= np.log(1.5)
        return (self.explained >= EXPLAINED) & local & (stripes | drawn_out)


def fit_gabors(components: ArrayLike, patch_shape: tuple[int, int]) -> Gabors:
    """Fit a Gabor function to every atom by least squares.

    Parameters
    ----------
    components : array-like, shape (h, d)
        One atom per row; their lengths do not matter.
    patch_shape : (int, int)
        Height and width, whose product is d.

    Returns
    -------
    Gabors

    Raises
    ------
    ValueError
        If the atoms are no finite table, or do not fit the shape.

    Notes
    -----
    a and b are solved for at every step (variable projection), and six numbers are searched for by SciPy's
    trust-region method, from the peak of the spectrum and two first windows. The measure σ_u f is that of D. Ringach,
    "Spatial structure and symmetry of simple-cell receptive fields in macaque primary visual cortex", Journal of
    Neurophysiology 88, 2002.

    Examples
    --------
    >>> y, x = np.mgrid[:12, :12] - 5.5
    >>> atom = np.exp(-(x**2 + y**2 / 4) / 8) * np.cos(2 * np.pi * 0.2 * x)
    >>> fits = fit_gabors(atom.reshape(1, -1), (12, 12))
    >>> fits.frequency.round(2), fits.orientation.round(), fits.aspect.round(1)
    (array([0.2]), array([90.]), array([2.]))
    """
    atoms = np.asarray(components, dtype=float)
    height, width = patch_shape
    if atoms.ndim != 2 or atoms.shape[1] != height * width or not np.isfinite(atoms).all():
        raise ValueError(
            f"components must be a finite table with one atom of {height} × {width} pixels per row; "
            f"got shape {atoms.shape}."
        )
    found = [_best(atom.reshape(height, width)) for atom in atoms]
    values = np.array([fit for fit, _ in found]).reshape(len(atoms), len(_Start._fields))
    x, y, across, along, fx, fy = values.T
    return Gabors(
        frequency=np.hypot(fx, fy),
        # Stripes stand at right angles to the wave vector; rows count downwards
        orientation=np.degrees(np.arctan2(fx, fy)) % 180,
        across=across,
        along=along,
        row=y,
        column=x,
        explained=np.array([explained for _, explained in found]),
        patch_shape=(height, width),
    )


def _best(atom: Array) -> tuple[Array, float]:
    """The better one of the fits from all starts, and what it explains."""
    total = float(np.square(atom).sum())
    fits = [_fitted(atom, start) for start in _starts(atom)]
    values, left = min(fits, key=lambda fit: fit[1])
    return values, 1 - left / total if total > 0 else 0.0


def _starts(atom: Array) -> list[_Start]:
    """The peak of the spectrum, under a window of the atom's own size and under a round one."""
    height, width = atom.shape
    y, x = np.mgrid[:height, :width]
    energy = np.square(atom)
    energy = energy / max(energy.sum(), np.finfo(float).tiny)
    cx, cy = float((energy * x).sum()), float((energy * y).sum())
    spectrum = np.abs(np.fft.rfft2(atom, (PADDED, PADDED)))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    fx, fy = np.fft.rfftfreq(PADDED)[column], np.fft.fftfreq(PADDED)[row]
    f = max(np.hypot(fx, fy), 1e-9)
    u, v = ((x - cx) * fx + (y - cy) * fy) / f, ((y - cy) * fx - (x - cx) * fy) / f
    # The square of a window is √2 times as narrow
    across, along = (max(1.0, float(np.sqrt(2 * (energy * axis**2).sum()))) for axis in (u, v))
    round_one = min(height, width) / 8
    return [_Start(cx, cy, across, along, fx, fy), _Start(cx, cy, round_one, round_one, fx, fy)]


def _fitted(atom: Array, start: _Start) -> tuple[Array, float]:
    """The fit from a start, and the sum of squares that is left."""
    height, width = atom.shape
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:height, :width])
    data, side = atom.ravel(), max(height, width)
    low = np.array([-width / 2, -height / 2, NARROWEST, NARROWEST, -0.5, -0.5])
    high = np.array([1.5 * width, 1.5 * height, 2 * side, 2 * side, 0.5, 0.5])
    first = np.clip(start, low + 1e-6, high - 1e-6)

    def left(values: Array) -> Array:
        return _residual(values, x, y, data)

    scale = np.array([1.0, 1.0, 1.0, 1.0, 1 / side, 1 / side])
    # Lengths of atoms do not matter, so neither may they to the tolerances
    found = least_squares(left, first, bounds=(low, high), x_scale=scale, max_nfev=EVALUATIONS, ftol=1e-6, xtol=1e-6)
    return found.x, 2 * float(found.cost)


def _residual(values: Array, x: Array, y: Array, data: Array) -> Array:
    """What the best a and b leave of the data."""
    cx, cy, across, along, fx, fy = values
    f = max(float(np.hypot(fx, fy)), 1e-9)
    u, v = ((x - cx) * fx + (y - cy) * fy) / f, ((y - cy) * fx - (x - cx) * fy) / f
    window = np.exp(-0.5 * (u / across) ** 2 - 0.5 * (v / along) ** 2)
    waves = np.stack([window * np.cos(2 * np.pi * f * u), window * np.sin(2 * np.pi * f * u)])
    gram = waves @ waves.T
    # A grating without stripes has no sine; a hair on the diagonal leaves it out
    gram[[0, 1], [0, 1]] += 1e-9 * np.trace(gram) + np.finfo(float).tiny
    return data - np.linalg.solve(gram, waves @ data) @ waves
