"""Data whose truth is known: the bars test.

An image of size × size pixels shows horizontal and vertical bars. Every bar has a strength of its own,
drawn independently, so a sparse coder that works must find the bars themselves as its atoms. Rows and
columns sum to the same all-ones image, so the 2·size bars span only 2·size − 1 dimensions: the dictionary
is slightly overcomplete, which is what makes the test harder than it looks.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from . import checks


class Bars(NamedTuple):
    """What :func:`make_bars` returns.

    Attributes
    ----------
    data : ndarray of shape (n, d)
        The noisy images, one per row, flattened row by row.
    codes : ndarray of shape (n, h)
        The strength of every bar in every image.
    dictionary : ndarray of shape (d, h)
        The bars as columns: first the horizontal ones from top to bottom, then the vertical ones from left to
        right. ``data = codes @ dictionary.T + noise``.
    """

    data: np.ndarray
    codes: np.ndarray
    dictionary: np.ndarray


def make_bars(
    n: int = 1000,
    *,
    size: int = 5,
    codes: Literal["laplace", "bernoulli"] = "laplace",
    probability: float | None = None,
    noise_std: float = 0.1,
    amplitude: float = 1.0,
    seed: int | np.random.Generator | None = 0,
) -> Bars:
    """Draw images of horizontal and vertical bars with known codes and dictionary.

    Parameters
    ----------
    n : int
        Number of images.
    size : int
        Side of the square images in pixels; d = size² and h = 2·size.
    codes : {"laplace", "bernoulli"}
        "laplace": strengths from Laplace(0, 1), the model's own prior with scale 1. "bernoulli": a bar is
        present (strength 1) with ``probability``, independently of the others, else absent (0).
    probability : float or None
        Probability of a bar for "bernoulli"; None means 2/h, two bars per image on average.
    noise_std : float
        Standard deviation σ of the Gaussian noise on every pixel, in the units of ``amplitude``.
    amplitude : float
        Value of the pixels on a bar.
    seed : int, Generator or None
        Source of randomness.

    Returns
    -------
    Bars
        ``data`` (n, d), ``codes`` (n, h) and ``dictionary`` (d, h), all float64.

    Raises
    ------
    TypeError, ValueError
        When an argument is out of its range.

    Notes
    -----
    The defaults are the data of the bars experiment in Velychko, Damm, Fischer and Lücke, "Learning Sparse
    Codes with Entropy-Based ELBOs", AISTATS 2024. The test goes back to Földiák, "Forming sparse
    representations by local anti-Hebbian learning", Biological Cybernetics 64, 1990.

    Examples
    --------
    >>> from sparsentropy.datasets import make_bars
    >>> bars = make_bars(n=200, size=3, noise_std=0.0)
    >>> bars.data.shape, bars.codes.shape, bars.dictionary.shape
    ((200, 9), (200, 6), (9, 6))
    >>> bars.dictionary[:, 0].reshape(3, 3)
    array([[1., 1., 1.],
           [0., 0., 0.],
           [0., 0., 0.]])
    """
    n, size = checks.count("n", n), checks.count("size", size, least=2)
    noise_std = checks.real("noise_std", noise_std, least=0.0)
    rng = checks.generator(seed)
    dictionary = checks.real("amplitude", amplitude, above=0.0) * bar_images(size)
    strengths = bar_strengths(rng, (n, 2 * size), codes, probability)
    noise = noise_std * rng.standard_normal((n, size * size))
    return Bars(strengths @ dictionary.T + noise, strengths, dictionary)


def bar_images(size: int) -> np.ndarray:
    """Return the (size², 2·size) bars of height 1 as columns."""
    line, across = np.eye(size), np.ones((size, 1))
    return np.hstack([np.kron(line, across), np.kron(across, line)])


def bar_strengths(
    rng: np.random.Generator, shape: tuple[int, int], codes: Any, probability: float | None
) -> np.ndarray:
    """Return codes of the given shape (n, h)."""
    if codes == "bernoulli":
        chance = checks.real("probability", 2 / shape[1] if probability is None else probability, above=0.0)
        if chance > 1:
            raise ValueError(f"probability must be at most 1, got {chance:g}")
        return (rng.random(shape) < chance).astype(np.float64)
    if codes != "laplace":
        raise ValueError(f'codes must be "laplace" or "bernoulli", got {codes!r}')
    if probability is not None:
        raise ValueError(f'probability is only used with codes="bernoulli", got {probability!r}; leave it out')
    return rng.laplace(size=shape)
