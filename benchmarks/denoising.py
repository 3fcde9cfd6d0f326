"""Denoising of natural images whose noise is known to us: blind, and by peers that are told it."""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bm3d
import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means, denoise_wavelet, estimate_sigma
from sklearn.decomposition import MiniBatchDictionaryLearning

from sparsentropy import datasets, imaging
from sparsentropy.imaging.overlaps import Average, Grid
from sparsentropy.metrics import psnr
from table import Table
from workloads import images_folder

Image = NDArray[np.float64]
SIGMAS = (15, 25, 50)
FIRST, EVERY, IMAGES = 3, 7, 10  # of the 68
DRAWS = 2  # of the noise of each image
GONE = (0.2, 0.5, 0.8)  # shares of pixels, where the noise of images with gaps is estimated
SIZE, ATOMS, LEARNED_FROM = 8, 100, 20_000
PENALTIES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("omp", {"transform_n_nonzero_coefs": atoms}) for atoms in (1, 2, 4)),
    *(("lasso_cd", {"transform_alpha": per_noise}) for per_noise in (1.5, 3.0)),
)

NOTES = f"""\
{IMAGES} of the 68 grey images of BSD68 (every {EVERY}th from number {FIRST + 1}), {DRAWS} draws of white Gaussian noise
for each, neither rounded nor clipped. PSNR in dB and seconds, means over all. *sparsentropy*: nothing is told. *The
others* are told σ. *Dictionary learning*: scikit-learn's MiniBatchDictionaryLearning with {ATOMS} atoms on {SIZE} ×
{SIZE} patches without their mean, patches at every second pixel averaged; coded by OMP with 1, 2 or 4 atoms, or by the
lasso with a penalty of 1.5 or 3 σ, for each image whatever leads to the highest PSNR (which only an oracle knows; the
seconds are those of all five). *Non-local means* and *wavelets* (scikit-image): the best of h = 0.4, 0.6, 0.8 σ, and of
BayesShrink and VisuShrink. *BM3D*: the `bm3d` package with its defaults."""
NOISE_NOTES = """\
The same images: means of |σ̂/σ − 1|, and of σ̂/σ − 1, by `imaging.estimate_noise` and by scikit-image's
`estimate_sigma`; and by `estimate_noise` where a part of the pixels is missing, which scikit-image has nothing for."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    images = [255 * image for image in datasets.load_images(images_folder())][FIRST::EVERY][:IMAGES]
    if quick:
        images = [image[:96, :96] for image in images[:1]]
    table = Table("Denoising", NOTES, ("method", *(f"σ = {sigma}" for sigma in SIGMAS), "seconds"))
    noise = Table("Noise level", NOISE_NOTES, ("method", *(f"σ = {sigma}" for sigma in SIGMAS)))
    images = [image for image in images for _ in range(DRAWS)]
    given = {sigma: [noisy(image, sigma, seed) for seed, image in enumerate(images)] for sigma in SIGMAS}
    noise.begin()
    for name, estimate in ESTIMATES.items():
        errors = [np.array([estimate(y) for y in given[sigma]]) / sigma - 1 for sigma in SIGMAS]
        noise.add(name, *(f"{np.abs(error).mean():.2%} ({error.mean():+.2%})" for error in errors))
    table.begin()
    for name, method in METHODS.items():
        began, cells = time.perf_counter(), []
        for sigma in SIGMAS:
            values = [psnr(x, method(x, y, sigma), data_range=255) for x, y in zip(images, given[sigma], strict=True)]
            cells.append(f"{np.mean(values):.2f}")
        seconds = (time.perf_counter() - began) / len(images) / len(SIGMAS)
        table.add(name, *cells, f"{seconds:.1f}")
        yield [noise, table]


def noisy(image: Image, sigma: float, seed: int) -> Image:
    return image + np.random.default_rng(seed).normal(scale=sigma, size=image.shape)


def with_gaps(given: Image, gone: float) -> float:
    """The noise level, where this share of the pixels is missing."""
    return imaging.estimate_noise(given, np.random.default_rng(0).random(given.shape) < gone)


def blind(image: Image, given: Image, sigma: float) -> Image:
    del image, sigma
    return imaging.denoise(given)


def best(image: Image, candidates: list[Image]) -> Image:
    """What an oracle would choose."""
    return max(candidates, key=lambda one: psnr(image, one, data_range=255))


def by_dictionary(image: Image, given: Image, sigma: float) -> Image:
    grid = Grid((*given.shape, 1), SIZE, 2)
    rows = np.concatenate([grid.patches(given[:, :, None], band) for band in grid.bands()])
    mean = rows.mean(1, keepdims=True)
    model = MiniBatchDictionaryLearning(ATOMS, alpha=1.0, batch_size=256, max_iter=10, random_state=0)
    chosen = np.random.default_rng(0).permutation(len(rows))[:LEARNED_FROM]
    candidates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OMP on flat patches, and the lasso where it is slow
        model.fit((rows - mean)[chosen] / sigma)
        for algorithm, options in PENALTIES:
            model.set_params(transform_algorithm=algorithm, **options)
            clean = sigma * model.transform((rows - mean) / sigma) @ model.components_ + mean
            average, begin = Average(grid), 0
            for band in grid.bands():
                end = begin + len(band) * len(grid.columns)
                average.add(band, clean[begin:end], np.ones(end - begin))
                begin = end
            candidates.append(average.image()[:, :, 0])
    return best(image, candidates)


def by_similar_patches(image: Image, given: Image, sigma: float) -> Image:
    options: dict[str, Any] = {"patch_size": 5, "patch_distance": 6, "sigma": sigma, "fast_mode": True}
    return best(image, [denoise_nl_means(given, h=share * sigma, **options) for share in (0.4, 0.6, 0.8)])


def by_wavelets(image: Image, given: Image, sigma: float) -> Image:
    kinds = ("BayesShrink", "VisuShrink")
    found = [denoise_wavelet(given / 255, sigma=sigma / 255, method=kind, rescale_sigma=True) for kind in kinds]
    return best(image, [255 * one for one in found])


def by_blocks(image: Image, given: Image, sigma: float) -> Image:
    del image
    return np.asarray(bm3d.bm3d(given, sigma))


ESTIMATES: dict[str, Callable[[Image], float]] = {
    "sparsentropy": imaging.estimate_noise,
    "scikit-image": estimate_sigma,
    **{f"sparsentropy, {gone:.0%} missing": partial(with_gaps, gone=gone) for gone in GONE},
}
METHODS = {
    "noisy": lambda image, given, sigma: given,  # noqa: ARG005
    "sparsentropy, blind": blind,
    "BM3D": by_blocks,
    "non-local means, best h": by_similar_patches,
    "wavelets, best rule": by_wavelets,
    "dictionary learning, best penalty": by_dictionary,
}
