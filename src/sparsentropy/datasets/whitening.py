"""Whitening: giving every direction of the data the same variance.

Natural images have far more power at low spatial frequencies than at high ones, and a dictionary would
spend its atoms on slow gradients. Two remedies are in use. Olshausen and Field multiply the spectrum of the
whole image by f·exp(−(f/f₀)⁴): the ramp flattens the 1/f spectrum, the roll-off removes the corners where
there is mostly noise. ZCA works on any table of numbers: it rotates to the principal axes, scales each to
variance one and rotates back, which of all whitening maps changes the data least.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from . import checks

VARIANCE = 0.1  # of a pixel of whitened images
SIZES = (1e-145, 1e145)  # of what can be whitened by its covariance: squares, and those of a millionth, are numbers


def whiten_olshausen(image: np.ndarray, *, cutoff: float = 0.4) -> np.ndarray:
    r"""Filter one grey image with Olshausen and Field's whitening filter.

    .. math:: R(f) = f \exp\bigl(-(f / f_0)^4\bigr)

    Parameters
    ----------
    image : array-like of shape (rows, columns)
        A grey image; its mean is removed by the filter, R(0) = 0.
    cutoff : float
        f₀ in cycles per pixel; the default 0.4 is 200 cycles per picture of 512 pixels.

    Returns
    -------
    ndarray of shape (rows, columns)
        The filtered image, float64.

    Raises
    ------
    ValueError
        When the image is not two-dimensional or not finite, or ``cutoff`` is not positive.

    Notes
    -----
    B. A. Olshausen and D. J. Field, "Sparse coding with an overcomplete basis set: a strategy
    employed by V1?", Vision Research 37, 1997, section "Methods".

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.datasets import whiten_olshausen
    >>> wave = np.cos(2 * np.pi * 0.25 * np.arange(64)) * np.ones((64, 1))
    >>> gain = whiten_olshausen(wave)[0, 0] / wave[0, 0]
    >>> round(float(gain), 6), round(float(0.25 * np.exp(-((0.25 / 0.4) ** 4))), 6)
    (0.214621, 0.214621)
    """
    image = grey_image("image", image)
    frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None])
    cutoff = checks.real("cutoff", cutoff, above=0.0)
    gain = frequency * np.exp(-((frequency / cutoff) ** 4))
    return np.real(np.fft.ifft2(np.fft.fft2(image) * gain))


def whiten_images(
    images: np.ndarray | Sequence[np.ndarray], *, variance: float = VARIANCE, cutoff: float = 0.4
) -> list[np.ndarray]:
    """Standardise every image, whiten it, and scale all of them together.

    Parameters
    ----------
    images : array-like of shape (rows, columns), or a sequence of those
        Grey images, possibly of different sizes.
    variance : float
        The mean over the images of their pixel variance afterwards. One common scale is used, so images with
        more fine structure keep more variance than others.
    cutoff : float
        f₀ of :func:`whiten_olshausen`, in cycles per pixel.

    Returns
    -------
    list of ndarray
        The whitened images in the same order and shapes, float64.

    Raises
    ------
    ValueError
        When an image is constant, in colour or not finite.

    Notes
    -----
    The preprocessing of Olshausen and Field (1997), who scale to variance 0.1.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.datasets import load_photographs, whiten_images
    >>> white = whiten_images(load_photographs())
    >>> round(float(np.mean([image.var() for image in white])), 6)
    0.1
    """
    variance = checks.real("variance", variance, above=0.0)
    arrays = checks.image_list(images)
    names = checks.image_names(images, len(arrays))
    standard = [standardise(name, image) for name, image in zip(names, arrays, strict=True)]
    white = [whiten_olshausen(image, cutoff=cutoff) for image in standard]
    scale = np.sqrt(variance / np.mean([image.var() for image in white]))
    return [scale * image for image in white]


def grey_image(name: str, image: Any) -> np.ndarray:
    """Return ``image`` as a finite float64 (rows, columns) array."""
    array = checks.image(name, image).astype(np.float64, copy=False)
    if array.ndim != 2:
        raise ValueError(f"{name} must be grey (rows, columns), got shape {array.shape}; load it with grey=True")
    return array


def standardise(name: str, image: np.ndarray) -> np.ndarray:
    """Return a grey image with mean 0 and variance 1."""
    image = grey_image(name, image)
    if np.ptp(image) == 0:
        raise ValueError(f"{name} is constant and cannot be whitened; remove it from the images")
    return (image - image.mean()) / image.std()


@final
@dataclass(frozen=True)
class ZCA:
    """A whitening map and its inverse, as returned by :func:`zca`.

    Attributes
    ----------
    mean : ndarray of shape (d,)
        Mean of the data the map was made from.
    matrix : ndarray of shape (d, d)
        Symmetric whitening matrix.
    inverse : ndarray of shape (d, d)
        Symmetric matrix that undoes it (its pseudo-inverse where the data has no variance).
    """

    mean: np.ndarray
    matrix: np.ndarray
    inverse: np.ndarray

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Whiten the rows of ``X``.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Rows in the units of the original data.

        Returns
        -------
        ndarray of shape (n, d)
            Whitened rows; for the data the map was made from, with covariance I.
        """
        return (self._rows(X) - self.mean) @ self.matrix

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Bring whitened rows back to the units of the original data.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Whitened rows.

        Returns
        -------
        ndarray of shape (n, d)
            Rows in the units of the original data.
        """
        return self._rows(X) @ self.inverse + self.mean

    @property
    def log_det(self) -> float:
        """Log of the volume that the map gives a unit volume: log p(row) = log p(whitened row) + `log_det`.

        Where the data had no variance in some directions, that within the others.
        """
        scale = np.linalg.eigvalsh(self.matrix)
        return float(np.log(scale[scale > len(scale) * np.finfo(np.float64).eps * scale[-1]]).sum())

    def _rows(self, X: np.ndarray) -> np.ndarray:
        rows = checks.table("X", X)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"X has {rows.shape[1]} columns, but the whitening was made for {len(self.mean)}; "
                "give rows of the same length"
            )
        return rows


def zca(X: np.ndarray, *, epsilon: float = 0.0) -> ZCA:
    r"""Find the symmetric linear map that whitens the rows of ``X``.

    With the covariance :math:`C = U \Lambda U^T` the map is :math:`U (\Lambda + \epsilon)^{-1/2} U^T`.

    Parameters
    ----------
    X : array-like of shape (n, d)
        The data, n ≥ 2.
    epsilon : float
        Added to every eigenvalue, in the units of the data's variance; keeps directions with little variance
        (mostly noise) from being blown up. With 0, directions without any variance are mapped to zero, so the
        covariance of the result is the identity on the others.

    Returns
    -------
    ZCA
        ``mean``, ``matrix`` and ``inverse``, with ``transform`` and ``inverse_transform``.

    Raises
    ------
    ValueError
        When ``X`` is not a finite table of at least two different rows, or ``epsilon`` is negative.

    Notes
    -----
    A. J. Bell and T. J. Sejnowski, "The 'independent components' of natural scenes are edge filters", Vision
    Research 37, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.datasets import zca
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) @ [[2.0, 0.0], [1.0, 0.5]]
    >>> np.allclose(np.cov(zca(X).transform(X).T, bias=True), np.eye(2))
    True
    """
    X = checks.table("X", X).astype(np.float64, copy=False)
    epsilon = checks.real("epsilon", epsilon, least=0.0)
    if not np.ptp(X, axis=0).any():
        raise ValueError(f"X is constant over its {len(X)} rows; whitening needs at least two different rows")
    largest, (least, most) = float(np.abs(X).max()), SIZES
    if not least <= largest <= most:
        raise ValueError(
            f"X has values up to {largest:.3g}, and whitening needs sizes between {least:g} and {most:g}; rescale X"
        )
    mean = X.mean(axis=0)
    variances, axes = np.linalg.eigh((X - mean).T @ (X - mean) / len(X))
    # Rounding leaves eigenvalues of about machine precision where there is no variance at all.
    kept = variances + epsilon > len(mean) * np.finfo(np.float64).eps * (variances[-1] + epsilon)
    deviations, axes = np.sqrt(variances[kept] + epsilon), axes[:, kept]
    return ZCA(mean, (axes / deviations) @ axes.T, (axes * deviations) @ axes.T)


def without_row_means(X: np.ndarray) -> np.ndarray:
    r"""Return coordinates of rows without their own means: one fewer than entries.

    Rows of which the mean was removed lie in d − 1 dimensions. In the last one they have no variance, so a density of
    them in d dimensions does not exist, and the log likelihood of a model grows with how small its noise may become.
    The coordinates here are those in an orthonormal basis of the d − 1 dimensions, so lengths, angles and volumes are
    what they were. The basis is the last d − 1 columns of the reflection that takes the constant row to the first axis,

    .. math:: H = I - 2 v v^T / |v|^2, \quad v = 1 / \sqrt{d} - e_1.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Rows, for example patches, with d ≥ 2.

    Returns
    -------
    ndarray of shape (n, d − 1)
        Coordinates; :func:`with_zero_means` gives the rows without their means.

    Raises
    ------
    ValueError
        When ``X`` is not a finite table of two columns or more.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.datasets import with_zero_means, without_row_means
    >>> with_zero_means(without_row_means(np.array([[1.0, 3.0, 5.0]]))).round(9) + 0.0
    array([[-2.,  0.,  2.]])
    """
    X = checks.table("X", X)
    d = X.shape[1]
    if d < 2:
        raise ValueError("X has 1 column, of which nothing is left without the means of the rows; keep the means")
    root = np.sqrt(d)
    along = (X.sum(axis=1, keepdims=True) / root - X[:, :1]) / (root - 1)  # 2 vᵀx / √d |v|²
    return (X[:, 1:] - along).astype(X.dtype, copy=False)


def with_zero_means(Y: np.ndarray) -> np.ndarray:
    """Return rows with mean 0 from their coordinates, as :func:`without_row_means` gives them.

    Parameters
    ----------
    Y : array-like of shape (n, d − 1)

    Returns
    -------
    ndarray of shape (n, d)

    Raises
    ------
    ValueError
        When ``Y`` is not a finite table.
    """
    Y = checks.table("Y", Y)
    root = np.sqrt(Y.shape[1] + 1)
    total = Y.sum(axis=1, keepdims=True)
    return np.hstack([total / root, Y - total / (root * (root - 1))]).astype(Y.dtype, copy=False)


class CentredPatches(NamedTuple):
    """What :func:`remove_patch_mean` returns.

    Attributes
    ----------
    patches : ndarray of shape (n, d)
        The patches, each with mean 0.
    means : ndarray of shape (n,)
        The means that were removed; ``patches + means[:, None]`` restores the input.
    """

    patches: np.ndarray
    means: np.ndarray


def remove_patch_mean(X: np.ndarray) -> CentredPatches:
    """Subtract from every row its own mean.

    The result has no variance along the constant row; learn from :func:`without_row_means` instead.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Patches, one per row.

    Returns
    -------
    CentredPatches
        ``patches`` (n, d) and the removed ``means`` (n,).

    Raises
    ------
    ValueError
        When ``X`` is not a finite table.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.datasets import remove_patch_mean
    >>> remove_patch_mean(np.array([[1.0, 3.0], [4.0, 4.0]]))
    CentredPatches(patches=array([[-1.,  1.],
           [ 0.,  0.]]), means=array([2., 4.]))
    """
    X = checks.table("X", X)
    means = X.mean(axis=1)
    return CentredPatches(X - means[:, None], means)
