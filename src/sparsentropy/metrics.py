"""Measures of a result: arrays in, a number out.

How sparse are the codes (Gini coefficient)? Were the true atoms found (matched cosines, Amari distance)?
How close is a restored image (peak signal-to-noise ratio), and how much of the data is explained? Nothing
here knows of models, so the same measures serve any method in a comparison. Dictionaries are given as rows,
one atom per row, as scikit-learn's ``components_``.
"""

from typing import Any, NamedTuple, overload

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtri


class DictionaryMatch(NamedTuple):
    """What :func:`dictionary_match` returns; one entry per true atom.

    Attributes
    ----------
    cosines : ndarray of shape (h',)
        |cos| of the angle between each true atom and the learned one assigned to it, between 0 and 1.
    assignment : ndarray of shape (h',)
        Index of that learned atom; −1 where none is left, because fewer atoms were learned.
    signs : ndarray of shape (h',)
        1.0 or −1.0, the sign of the cosine; ``signs[:, None] * learned[assignment]`` looks like the truth.
    """

    cosines: np.ndarray
    assignment: np.ndarray
    signs: np.ndarray


@overload
def gini(codes: np.ndarray, axis: None = None) -> float: ...
@overload
def gini(codes: np.ndarray, axis: int) -> np.ndarray: ...
def gini(codes: np.ndarray, axis: int | None = None) -> float | np.ndarray:
    r"""Measure sparsity: the Gini coefficient of the magnitudes |codes|.

    With the magnitudes sorted, :math:`c_{(1)} \le \cdots \le c_{(N)}`, it is

    .. math:: G = 1 - 2 \sum_{k=1}^N \frac{c_{(k)}}{\sum_j c_j} \, \frac{N - k + 1/2}{N}.

    Parameters
    ----------
    codes : array-like
        Codes of any shape, usually (n, h).
    axis : int or None
        None takes all entries together. An axis gives one coefficient per remaining index: with codes (n,
        h) ``gini(codes, axis=1).mean()`` is the mean sparsity of a data point, ``gini(codes, axis=0)`` the
        lifetime sparsity of every atom.

    Returns
    -------
    float, or ndarray without that axis
        0 when all magnitudes are equal (and, by convention, when all are zero), 1 − 1/N when all but one are
        zero. Scaling the codes does not change it.

    Raises
    ------
    ValueError
        When ``codes`` is empty, not numeric or not finite, or has no such axis.

    Notes
    -----
    N. Hurley and S. Rickard, "Comparing measures of sparsity", IEEE Transactions on Information Theory 55,
    2009.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import gini
    >>> gini(np.array([0.0, 0.0, 0.0, -2.0]))
    0.75
    >>> gini(np.array([[1.0, 1.0], [0.0, 3.0]]), axis=1)
    array([0. , 0.5])
    """
    magnitudes = np.abs(_numbers("codes", codes))
    if axis is None:
        return float(gini(magnitudes.ravel(), 0))
    if not -magnitudes.ndim <= axis < magnitudes.ndim:
        raise ValueError(f"codes has {magnitudes.ndim} axes, so there is no axis {axis}")
    ordered = np.sort(np.moveaxis(magnitudes, axis, -1), axis=-1)
    size = ordered.shape[-1]
    totals = ordered.sum(axis=-1)
    ranks = (size - np.arange(1, size + 1) + 0.5) / size
    return np.where(totals > 0, 1 - 2 * (ordered @ ranks) / np.where(totals > 0, totals, 1), 0.0)


def dictionary_match(learned: np.ndarray, true: np.ndarray) -> DictionaryMatch:
    """Assign to every true atom a learned one, one to one, so that the sum of the |cosines| is largest.

    Parameters
    ----------
    learned : array-like of shape (h, d)
        Learned atoms as rows; lengths and signs do not matter. An atom of length zero matches nothing.
    true : array-like of shape (h', d)
        True atoms as rows.

    Returns
    -------
    DictionaryMatch
        ``cosines``, ``assignment`` and ``signs``, each of shape (h',). ``cosines.min()`` says whether every
        atom was found.

    Raises
    ------
    ValueError
        When the arguments are not finite tables with the same number of columns.

    Notes
    -----
    The assignment problem is solved exactly (:func:`scipy.optimize.linear_sum_assignment`); taking the best
    match for each atom on its own would count one learned atom twice.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import dictionary_match
    >>> match = dictionary_match(np.array([[0.0, -2.0], [3.0, 0.0]]), np.eye(2))
    >>> match.cosines, match.assignment, match.signs
    (array([1., 1.]), array([1, 0]), array([ 1., -1.]))
    """
    learned, true = _numbers("learned", learned, ndim=2), _numbers("true", true, ndim=2)
    if learned.shape[1] != true.shape[1]:
        raise ValueError(
            f"learned and true must have the same number of columns, got {learned.shape} and {true.shape}; "
            "give atoms as rows"
        )
    cosines = _unit_rows(true) @ _unit_rows(learned).T
    rows, columns = linear_sum_assignment(np.abs(cosines), maximize=True)
    assignment, matched = np.full(len(true), -1), np.zeros(len(true))
    assignment[rows], matched[rows] = columns, cosines[rows, columns]
    return DictionaryMatch(np.minimum(np.abs(matched), 1.0), assignment, np.where(matched < 0, -1.0, 1.0))


def amari_distance(learned: np.ndarray, true: np.ndarray) -> float:
    r"""Measure how far ``learned`` is from ``true`` up to order, sign and length of the atoms.

    With :math:`P` such that learned = P · true, and h atoms,

    .. math:: \frac{1}{2h(h-1)} \Bigl[\sum_i \Bigl(\sum_j \frac{|p_{ij}|}{\max_k |p_{ik}|} - 1\Bigr)
              + \sum_j \Bigl(\sum_i \frac{|p_{ij}|}{\max_k |p_{kj}|} - 1\Bigr)\Bigr].

    Parameters
    ----------
    learned : array-like of shape (h, h)
        Learned atoms as rows, h ≥ 2.
    true : array-like of shape (h, h)
        True atoms as rows.

    Returns
    -------
    float
        0 when the atoms agree up to order, sign and length; at most 1.

    Raises
    ------
    ValueError
        When the arguments are not finite, square, of the same size and invertible.

    Notes
    -----
    S. Amari, A. Cichocki and H. H. Yang, "A new learning algorithm for blind signal separation", NIPS 8,
    1996, here divided by its largest value.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import amari_distance
    >>> true = np.array([[1.0, 2.0], [0.0, 1.0]])
    >>> amari_distance(np.array([[0.0, -3.0], [1.0, 2.0]]), true)
    0.0
    """
    learned, true = _invertible("learned", learned), _invertible("true", true)
    if learned.shape != true.shape:
        raise ValueError(f"learned and true must have the same shape, got {learned.shape} and {true.shape}")
    mixing = np.abs(np.linalg.solve(true.T, learned.T).T)
    across = (mixing / mixing.max(axis=1, keepdims=True)).sum() - len(mixing)
    down = (mixing / mixing.max(axis=0)).sum() - len(mixing)
    return float((across + down) / (2 * len(mixing) * (len(mixing) - 1)))


def psnr(clean: np.ndarray, other: np.ndarray, *, data_range: float) -> float:
    r"""Return the peak signal-to-noise ratio :math:`10 \log_{10}(R^2 / \mathrm{MSE})` in decibels.

    Parameters
    ----------
    clean : array-like
        The true image or images, of any shape.
    other : array-like
        The restored or noisy ones, of the same shape.
    data_range : float
        R, the difference between the largest and the smallest possible value: 1.0 or 255 for images.

    Returns
    -------
    float
        Decibels; infinite when the two are equal.

    Raises
    ------
    ValueError
        When the shapes differ, values are not finite, or ``data_range`` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import psnr
    >>> round(psnr(np.zeros((4, 4)), np.full((4, 4), 0.1), data_range=1.0), 6)
    20.0
    """
    clean, other = _pair("clean", clean, "other", other)
    if not isinstance(data_range, int | float | np.number) or not 0 < data_range < np.inf:
        raise ValueError(f"data_range must be a positive number, 1.0 or 255 for images; got {data_range!r}")
    error = np.mean(np.square(clean - other))
    return float(10 * np.log10(data_range**2 / error)) if error > 0 else np.inf


def interval(mean: np.ndarray, std: np.ndarray, p: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Central interval of a Gaussian: of a code, of data without noise, of a value that was missing, or of a pixel.

    Parameters
    ----------
    mean, std : array-like of the same shape
    p : float
        Probability inside, between 0 and 1.

    Returns
    -------
    tuple of two ndarray
        Lower and upper end.

    Raises
    ------
    ValueError
        When the shapes differ, a number is not finite, a standard deviation is negative, or p is no probability.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import interval
    >>> low, high = interval(np.array([0.0, 5.0]), np.array([1.0, 2.0]), 0.95)
    >>> low.round(2), high.round(2)
    (array([-1.96,  1.08]), array([1.96, 8.92]))
    """
    mean, std = _pair("mean", mean, "std", std)
    if not 0 < p < 1:
        raise ValueError(f"p must lie between 0 and 1, exclusive, got {p}")
    if (std < 0).any():
        raise ValueError("std must not be negative; give standard deviations")
    half = ndtri((1 + p) / 2) * std
    return mean - half, mean + half


def coverage(truth: np.ndarray, mean: np.ndarray, std: np.ndarray, p: float = 0.9) -> float:
    """Share of true values in their intervals; `p` if these say what they should.

    Parameters
    ----------
    truth, mean, std : array-like of the same shape
        Values that are known for certain, with a standard deviation of 0, are not counted.
    p : float
        Probability that an interval claims.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As :func:`interval`, and when nothing is uncertain.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import coverage
    >>> coverage(np.array([0.5, 3.0, 7.0]), np.array([0.0, 0.0, 7.0]), np.array([1.0, 1.0, 0.0]))
    0.5
    """
    low, high = interval(mean, std, p)
    truth, low = _pair("truth", truth, "mean", low)
    counted = np.asarray(std) > 0
    if not counted.any():
        raise ValueError("every standard deviation is 0; there is no interval to judge")
    return float(((low <= truth) & (truth <= high))[counted].mean())


def explained_variance(data: np.ndarray, reconstruction: np.ndarray) -> float:
    r"""Return the share of the data's variance that a reconstruction explains.

    .. math:: 1 - \frac{\sum_n |x_n - \hat x_n|^2}{\sum_n |x_n - \bar x|^2}

    Parameters
    ----------
    data : array-like of shape (n, d)
        The data.
    reconstruction : array-like of shape (n, d)
        Its reconstruction.

    Returns
    -------
    float
        1 for a perfect reconstruction, 0 for one no better than the mean, negative for a worse one.

    Raises
    ------
    ValueError
        When the shapes differ, values are not finite, or the data is constant.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsentropy.metrics import explained_variance
    >>> explained_variance(np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([[0.0, 2.0], [1.0, 1.0]]))
    0.5
    """
    data, reconstruction = _pair("data", data, "reconstruction", reconstruction, ndim=2)
    if not np.ptp(data, axis=0).any():
        raise ValueError(f"data is constant over its {len(data)} rows, so there is no variance to explain")
    total = np.square(data - data.mean(axis=0)).sum()
    return float(1 - np.square(data - reconstruction).sum() / total)


def _numbers(name: str, values: Any, ndim: int | None = None) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be rectangular; its rows have different lengths") from None
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype} and shape {array.shape}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; remove or fill those values first")
    return array.astype(np.float64, copy=False)


def _pair(first: str, a: Any, second: str, b: Any, ndim: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    a, b = _numbers(first, a, ndim), _numbers(second, b, ndim)
    if a.shape != b.shape:
        raise ValueError(f"{first} and {second} must have the same shape, got {a.shape} and {b.shape}")
    return a, b


def _unit_rows(atoms: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / np.where(lengths > 0, lengths, 1)


def _invertible(name: str, values: Any) -> np.ndarray:
    atoms = _numbers(name, values, ndim=2)
    if atoms.shape[0] != atoms.shape[1] or len(atoms) < 2:
        raise ValueError(f"{name} must be square with at least 2 atoms, got {atoms.shape}; use dictionary_match")
    if np.linalg.matrix_rank(atoms) < len(atoms):
        raise ValueError(f"{name} is singular; the Amari distance needs independent atoms, use dictionary_match")
    return atoms
