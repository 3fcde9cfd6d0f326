"""Filling in pixels that are missing, from the rest of the image alone.

The image is cut into overlapping patches. Contexts (`gaps`) are learned from what was seen of them, starting from
neighbours joined by straight lines; then every patch gets the mean of its missing pixels given the seen ones, and
where patches overlap they are averaged, each pixel weighted by its precision. Into wide holes this goes from the rim:
what a pass has filled in counts for the next one as seen, with the noise that its uncertainty makes of it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sparsentropy import arithmetic
from sparsentropy.contexts import probable
from sparsentropy.gaps import BlockContexts, Seen
from sparsentropy.imaging import pixels
from sparsentropy.imaging.blocks import Blocks
from sparsentropy.imaging.noise import of_pixels
from sparsentropy.imaging.overlaps import Average, Grid
from sparsentropy.imaging.straight import straight
from sparsentropy.learning import in_contexts, with_gaps

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

Array = NDArray[np.floating]
STRIDES = {2: 4_000_000, 3: math.inf}  # pixels between patches, for images of so many values at most
LEARNED_FROM = 2**20  # pixels of patches, about
SWEEPS = 6
QUIET = 0.03  # noise that is reckoned with where there is none, in standard deviations of the image
PART = 0.25  # of what the patch with a gap that was seen best has seen, from which on a patch is filled
LEAST = 1e-2  # variance, so that no patch counts for all
PASSED = 1.1  # time that a patch takes in a pass, in that of a patch in a sweep, for the progress that is told


@overload
def inpaint(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    sigma: float | None = 0.0,
    model: "SparseCoding | None" = None,
    return_std: Literal[False] = False,
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> NDArray[Any]: ...
@overload
def inpaint(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    sigma: float | None = 0.0,
    model: "SparseCoding | None" = None,
    return_std: Literal[True],
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> tuple[NDArray[Any], NDArray[np.float64]]: ...
@arithmetic.single_threaded()
def inpaint(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    sigma: float | None = 0.0,
    model: "SparseCoding | None" = None,
    return_std: bool = False,
    random_state: int = 0,
    callback: Callable[[float], None] | None = None,
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[np.float64]]:
    """Fill in missing pixels of an image.

    Parameters
    ----------
    image : array-like, shape (rows, columns) or (rows, columns, channels)
        Any numeric type, any size. What it holds where pixels are missing does not matter.
    mask : array-like, shape (rows, columns)
        True, or not 0, where pixels are missing, in all channels.
    sigma : float or None, default=0
        Standard deviation of the noise of known pixels, in the units of the image. If there is any, it is removed; with
        None, it is estimated first (`estimate_noise`).
    model : SparseCoding, optional
        Fitted to patches of other images without their mean; its dictionary is used instead of cosines. Its patches
        must be square, with as many channels as the image.
    return_std : bool, default=False
        Return the standard deviation of every pixel, too, (rows, columns), in the units of the image; 0 where pixels
        are known.
    random_state : int, default=0
        Seed: which patches are learned from.
    callback : callable, optional
        Called with the share of the work that is done, between 0 and 1.

    Returns
    -------
    ndarray, or tuple of two ndarray
        The image in its own shape, type and range; known pixels as they were, unless they are said to be noisy.

    Raises
    ------
    TypeError, ValueError
        If it is no image, known pixels are not finite or too few to estimate their noise, the mask does not fit or
        leaves nothing, or the model does not fit.

    Examples
    --------
    >>> image = np.add.outer(np.arange(32.0), 3 * np.arange(32.0))
    >>> mask = np.random.default_rng(0).random(image.shape) < 0.5
    >>> filled = inpaint(np.where(mask, np.nan, image), mask)
    >>> bool(np.abs(filled - image).max() < 2)
    True
    """
    tell = callback or (lambda _: None)
    tell(0.0)
    values, missing = pixels.checked_with_gaps(image, mask)
    k = pixels.exponent(values)
    values = np.ldexp(values, -k)
    sigma = of_pixels(values, missing) if sigma is None else pixels.in_unit(pixels.checked_sigma(sigma), k)
    level, spread = values[~missing].mean(0), float(values[~missing].std())
    guess = straight(values, missing)
    std = np.zeros(missing.shape)
    # Not even a difference of colours that was computed with the precision of the pixels
    if spread > 16 * float(np.finfo(values.dtype).eps) * float(np.abs(values[~missing]).max()):
        unit = max(sigma, QUIET * spread)
        blocks = Blocks.of(values.shape[2], model)
        filler = _Filler.of((guess - level) / unit, missing, blocks, random_state, tell, denoises=sigma > 0)
        clean, variance = filler.run()
        clean, found = clean * unit + level, np.sqrt(variance) * unit
        guess[missing], std[missing] = clean[missing], found[missing]
        if sigma > 0:
            # Of noise that is below what is reckoned with only its share is taken out
            share = min(1.0, sigma / unit)
            guess[~missing] += share**2 * (clean - values)[~missing]
            std[~missing] = share * found[~missing]
    tell(1.0)
    found = pixels.like(np.ldexp(guess, k), image)
    return (found, np.ldexp(std, k)) if return_std else found


@final
class _Steps:
    """Tells how far a part of the work is, which has so many steps; it is called after each of them."""

    def __init__(self, tell: Callable[[float], None], begin: float, end: float, steps: int) -> None:
        self.tell, self.begin, self.end, self.steps, self.made = tell, begin, end, steps, 0

    def __call__(self) -> None:
        self.made += 1
        self.tell(self.begin + (self.end - self.begin) * min(1.0, self.made / self.steps))


@final
@dataclass(frozen=True, eq=False)
class _Filler:
    """An image with guesses in its gaps, in units of the noise that is reckoned with."""

    guess: Array  # (rows, columns, channels), at least as large as a patch
    missing: NDArray[np.bool_]  # (rows, columns)
    shape: tuple[int, ...]  # without what was added to make it so large
    grid: Grid
    blocks: Blocks
    seed: int
    tell: Callable[[float], None]
    denoises: bool  # known pixels as well

    @classmethod
    def of(
        cls,
        guess: Array,
        missing: NDArray[np.bool_],
        blocks: Blocks,
        seed: int,
        tell: Callable[[float], None],
        *,
        denoises: bool,
    ) -> "_Filler":
        large, gaps = (pixels.extended(values, blocks.size) for values in (guess.astype(np.float32), missing))
        stride = next(stride for stride, most in STRIDES.items() if guess.size <= most)
        grid = Grid((*large.shape[:2], guess.shape[2]), blocks.size, min(blocks.size - 1, stride))
        return cls(large, gaps, missing.shape, grid, blocks, seed, tell, denoises)

    def run(self) -> tuple[Array, Array]:
        """The image (rows, columns, channels), and the variance of its pixels (rows, columns)."""
        given, noise = self.guess.copy(), np.where(self.missing, np.inf, 1).astype(np.float32)
        result, variance = self.guess.copy(), np.zeros_like(noise)
        wanted = self.missing | self.denoises
        sample = self.sample(noise)
        learning, passing = SWEEPS * sample.sum(), PASSED * self.chosen(noise, wanted).sum()
        done = float(learning / (learning + passing))
        contexts = self.learned(noise, sample, done)
        while wanted.any():
            # Nobody knows how many passes there will be: each gets nine tenths of what is left
            bands = sum(1 for _ in self.bands(self.chosen(noise, wanted)))
            step = _Steps(self.tell, done, done := 1 - 0.1 * (1 - done), 3 * bands * len(contexts))
            mean, spread, reached = self.passed(given, noise, wanted, contexts, step)
            new, gap = wanted & reached, wanted & reached & self.missing
            result[new], variance[new] = mean[new], spread[new]
            given[gap], noise[gap] = mean[gap], 1 + spread[gap]
            wanted = wanted & ~reached
        rows, columns = self.shape
        return result[:rows, :columns], variance[:rows, :columns]

    def counts(self, which: NDArray[np.bool_]) -> NDArray[np.intp]:
        """How many of these pixels are in every patch, (rows of patches, columns of patches)."""
        total = np.pad(which.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        top, left = self.grid.rows, self.grid.columns
        bottom, right = top + self.grid.size, left + self.grid.size
        above = total[np.ix_(top, right)] - total[np.ix_(top, left)]
        return total[np.ix_(bottom, right)] - total[np.ix_(bottom, left)] - above

    def chosen(self, noise: Array, wanted: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Patches of which enough is known, (rows of patches, columns of patches), and that hold wanted pixels."""
        known = self.counts(np.isfinite(noise))
        useful = known > 0 if wanted is None else (known > 0) & (self.counts(wanted) > 0)
        return useful & (known >= PART * known[useful].max(initial=0))

    def sample(self, noise: Array) -> NDArray[np.bool_]:
        """Patches to learn from, (rows of patches, columns of patches)."""
        random = np.random.default_rng(self.seed)
        most = LEARNED_FROM // (self.grid.size**2 * self.grid.shape[2])
        enough = self.chosen(noise)
        sample = np.zeros(enough.shape, bool)
        sample.flat[random.permutation(np.flatnonzero(enough))[:most]] = True
        return sample

    def learned(self, noise: Array, sample: NDArray[np.bool_], share: float) -> BlockContexts:
        """The model of this image, learned from some patches; it takes this share of the time."""
        parts = [self.seen(self.guess, noise, band, here) for band, here in self.bands(sample)]
        data = Seen(torch.cat([part.x for part in parts]), torch.cat([part.noise_variance for part in parts]))
        contexts = self.blocks.started(data.x, in_contexts.enough(len(data)), self.seed)
        step = _Steps(self.tell, 0.0, share, (1 + 2 * SWEEPS) * len(contexts))
        for sweep in with_gaps.learn(data, contexts, max_iter=SWEEPS, step=step):
            contexts = sweep.contexts
        self.tell(share)
        return contexts

    def bands(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Bands of the grid that hold chosen patches, and which of its patches these are."""
        begin = 0
        for band in self.grid.bands():
            here = np.flatnonzero(chosen[begin : begin + len(band)])
            begin += len(band)
            if len(here):
                yield band, here

    def seen(self, image: Array, noise: Array, band: NDArray[np.intp], here: NDArray[np.intp]) -> Seen:
        """Some patches of a band."""
        patches = self.grid.patches(image, band)[here]
        variance = self.grid.patches(noise[:, :, None], band)[here]
        return self.blocks.seen(torch.as_tensor(patches), torch.as_tensor(variance))

    def passed(
        self,
        image: Array,
        noise: Array,
        wanted: NDArray[np.bool_],
        contexts: BlockContexts,
        step: Callable[[], object],
    ) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Mean and variance of all pixels that patches with wanted ones reach, and which these are."""
        average, spread = Average(self.grid), Average(self.grid, channels=1)
        each = self.grid.size**2
        for band, here in self.bands(self.chosen(noise, wanted)):
            data = self.seen(image, noise, band, here)
            joint = contexts.log_joint(data, with_gaps.likely(data, contexts, step), step)
            x, variance = contexts.filled(data, probable(joint), step)
            n = len(band) * len(self.grid.columns)
            patches, weight, own = (np.zeros((n, k), np.float32) for k in (each * self.grid.shape[2], each, each))
            patches[here] = self.blocks.joined(x).numpy()
            own[here] = self.blocks.per_pixel(variance).numpy()
            weight[here] = 1 / (own[here] + LEAST)
            average.add(band, patches, weight)
            spread.add(band, own, weight)
        return average.image(), spread.image()[:, :, 0], spread.weight[:, :, 0] > 0
