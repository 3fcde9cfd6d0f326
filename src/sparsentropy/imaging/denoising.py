"""Denoising without being told the noise.

The image is cut into overlapping patches; a dictionary is learned from them that starts at cosines, and in every
context (`contexts`) variances of its own. Each patch is replaced by its posterior mean, and where patches overlap they
are averaged, each weighted by its precision. The average has less noise than any patch knew of, so the same is done
again with what the model makes of an image that is nearly clean: patches of x are denoised as if their noise were
σ²/β, and x becomes the mean of the noisy image and β times their average,

    x = (y + β x̂)/(1 + β),

with β growing (Zoran and Weiss, "From learning models of natural image patches to whole image restoration", ICCV 2011;
Sulam and Elad, "Expected patch log likelihood with a sparse prior", EMMCVPR 2015).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sparsentropy import arithmetic
from sparsentropy.contexts import Contexts
from sparsentropy.imaging import dictionaries, pixels
from sparsentropy.imaging.cosines import cosines
from sparsentropy.imaging.noise import of_pixels as noise_of_pixels
from sparsentropy.imaging.overlaps import Average, Grid
from sparsentropy.imaging.spread import Spread
from sparsentropy.learning import in_contexts

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

Array = NDArray[np.floating]
SIZE = 8  # of a patch
SHARPNESS = (1.0, 4.0, 8.0, 16.0)  # β, pass by pass
STRIDES = {1: 400_000, 2: 4_000_000, 3: math.inf}  # pixels between patches, for images of so many values at most
LEARNED_FROM = 2**20  # coefficients, about
SWEEPS, TOL = 40, 3e-3
PASSED = 0.6  # time that a patch takes in a pass, in that of a patch in a sweep, for the progress that is told
# In units of the range of the image: measured, ten times what float32 changes in an image with hardly any noise
FINEST = 2.0**-18


@overload
def denoise(
    image: ArrayLike,
    *,
    sigma: float | None = None,
    model: "SparseCoding | None" = None,
    return_sigma: Literal[False] = False,
    return_std: Literal[False] = False,
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> NDArray[Any]: ...
@overload
def denoise(
    image: ArrayLike,
    *,
    sigma: float | None = None,
    model: "SparseCoding | None" = None,
    return_sigma: Literal[True],
    return_std: bool = False,
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> tuple[Any, ...]: ...
@overload
def denoise(
    image: ArrayLike,
    *,
    sigma: float | None = None,
    model: "SparseCoding | None" = None,
    return_sigma: bool = False,
    return_std: Literal[True],
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> tuple[Any, ...]: ...
@arithmetic.single_threaded()
def denoise(
    image: ArrayLike,
    *,
    sigma: float | None = None,
    model: "SparseCoding | None" = None,
    return_sigma: bool = False,
    return_std: bool = False,
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> NDArray[Any] | tuple[Any, ...]:
    """Remove white noise from an image.

    Parameters
    ----------
    image : array-like, shape (rows, columns) or (rows, columns, channels)
        Any numeric type, any size.
    sigma : float, optional
        Standard deviation of the noise in the units of the image, where it is known; otherwise it is estimated.
    model : SparseCoding, optional
        Fitted to patches of other images without their mean; learning starts from its dictionary. Its patches must be
        square, with as many channels as the image.
    return_sigma : bool, default=False
        Return the standard deviation of the noise, too.
    return_std : bool, default=False
        Return the standard deviation of every pixel, too, (rows, columns), in the units of the image: what patches
        expect there, less by what they disagree (`imaging.spread`), before the image is denoised again.
    random_state : int, default=0
        Seed: which patches are learned from.
    callback : callable, optional
        Called with the share of the work that is done, between 0 and 1.

    Returns
    -------
    ndarray, or tuple of ndarray, float, ndarray
        The image in its own shape, type and range; then what else was asked for.

    Raises
    ------
    TypeError, ValueError
        If it is no image, is not finite, is too small to estimate its noise, or does not fit the model.

    Notes
    -----
    Noise below 2⁻¹⁸ (4·10⁻⁶) of the range of the image is left, since patches are float32. A grey image that is stored
    as equal colours is treated as the grey image that it is.

    Examples
    --------
    >>> edge = np.kron([[0.0, 100.0], [100.0, 0.0]], np.ones((32, 32)))
    >>> noisy = edge + np.random.default_rng(0).normal(scale=10, size=edge.shape)
    >>> clean, sigma = denoise(noisy, return_sigma=True)
    >>> bool(np.std(clean - edge) < 0.4 * np.std(noisy - edge)), round(sigma)
    (True, 10)
    """
    tell = callback or (lambda _: None)
    tell(0.0)
    values = pixels.checked(image)
    k = pixels.exponent(values)
    values = np.ldexp(values, -k)
    noise = noise_of_pixels(values) if sigma is None else pixels.in_unit(pixels.checked_sigma(sigma), k)
    clean, std = values, np.zeros(values.shape[:2])
    if noise > FINEST * float(np.ptp(values)):
        different = pixels.distinct(values) if model is None else values
        denoiser = _Denoiser.of(different, noise, model, random_state, tell)
        clean, std = denoiser.run()
        clean = np.broadcast_to(clean, values.shape)
    tell(1.0)
    found = pixels.like(np.ldexp(clean, k), image)
    told = math.ldexp(noise, k) if sigma is None else float(sigma)
    more = ([told] if return_sigma else []) + ([np.ldexp(std.astype(np.float64), k)] if return_std else [])
    return (found, *more) if more else found


@final
@dataclass(frozen=True, eq=False)
class _Denoiser:
    """An image in units of its noise, and the way its patches are seen."""

    noisy: Array  # (rows, columns, channels), at least as large as a patch, and about zero
    shape: tuple[int, ...]  # of the image without what was added to make it so large
    level: NDArray[np.floating]  # of every channel, in the units of the image
    noise: float
    grid: Grid
    basis: torch.Tensor  # (d, pixels of a patch)
    start: torch.Tensor  # dictionary (d, h)
    seed: int
    tell: Callable[[float], None]

    @classmethod
    def of(
        cls,
        values: NDArray[np.floating],
        noise: float,
        model: "SparseCoding | None",
        seed: int,
        tell: Callable[[float], None],
    ) -> "_Denoiser":
        channels = values.shape[2]
        size = SIZE if model is None else dictionaries.patch_size(model, channels)
        basis = cosines(size, channels)
        start = np.eye(len(basis)) if model is None else dictionaries.dictionary(model, basis)
        level = values.mean((0, 1), dtype=np.float64).astype(values.dtype)
        noisy = pixels.extended(((values - level) / noise).astype(np.float32), size)
        stride = next(stride for stride, most in STRIDES.items() if values.size <= most)
        grid = Grid((*noisy.shape[:2], channels), size, min(size, stride))
        basis, start = (torch.as_tensor(array, dtype=torch.float32) for array in (basis, start))
        return cls(noisy, values.shape, level, noise, grid, basis, start, seed, tell)

    def run(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """The clean image and the standard deviation of its pixels."""
        sample = self.sample()
        share = SWEEPS * len(sample) / (SWEEPS * len(sample) + PASSED * len(SHARPNESS) * len(self.grid))
        contexts = self.learned(sample, share)
        x = clean = self.noisy
        variance = np.zeros(self.noisy.shape[:2])
        for number, beta in enumerate(SHARPNESS):
            # That of the first pass: later ones take too little noise for granted
            spread = None if number else Spread(self.grid, self.noisy)
            begin = share + (1 - share) * number / len(SHARPNESS)
            clean = self.passed(x, contexts.with_noise(1 / beta), begin, (1 - share) / len(SHARPNESS), spread)
            variance = variance if spread is None else spread.variance(clean)
            x = (self.noisy + beta * clean) / (1 + beta)
        rows, columns = self.shape[:2]
        clean = clean[:rows, :columns].astype(self.level.dtype) * self.noise + self.level
        return clean, np.sqrt(variance[:rows, :columns]) * self.noise

    def coefficients(self, patches: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (n, pixels) in the coordinates of the basis (n, d), and what these leave out: their means."""
        whole = torch.as_tensor(patches)
        fine = whole @ self.basis.T
        return fine, whole - fine @ self.basis

    def learned(self, x: torch.Tensor, share: float) -> Contexts:
        """The model of patches (n, d) for noise of variance 1; it takes this share of the time."""
        contexts = in_contexts.started(x, self.start, 1.0, in_contexts.enough(len(x)), self.seed)
        for number, sweep in enumerate(in_contexts.learn(x, contexts, max_iter=SWEEPS, tol=TOL), 1):
            contexts = sweep.contexts
            self.tell(share * number / SWEEPS)
        return contexts

    def sample(self) -> torch.Tensor:
        """Patches to learn from (n, d), spread over the image at random."""
        random = np.random.default_rng(self.seed)
        share = min(1.0, LEARNED_FROM / len(self.basis) / len(self.grid))
        parts = []
        for band in self.grid.bands():
            patches = self.grid.patches(self.noisy, band)
            chosen = np.sort(random.permutation(len(patches))[: math.ceil(share * len(patches))])
            parts.append(self.coefficients(patches[chosen])[0])
        return torch.cat(parts)

    def passed(self, x: Array, contexts: Contexts, begin: float, share: float, spread: Spread | None) -> Array:
        """Average of the denoised patches of x; how they vary goes into `spread`.

        What is done before, and the share of the work that this is, are for the progress.
        """
        average = Average(self.grid)
        for band in self.grid.bands():
            fine, mean = self.coefficients(self.grid.patches(x, band))
            clean, variance = contexts.denoised(fine)
            # The means of a patch have the noise of one pixel of each channel, all together
            variance = (variance + contexts.noise_variance * self.grid.shape[2]).numpy()
            patches = (clean @ self.basis + mean).numpy()
            average.add(band, patches, 1 / variance)
            if spread is not None:
                each = np.broadcast_to(variance[:, None] / patches.shape[1], (len(patches), self.grid.size**2))
                spread.add(band, patches, each, 1 / variance)
            self.tell(begin + share * float(band[-1] + self.grid.size) / len(self.noisy))
        return average.image()
