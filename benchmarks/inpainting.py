"""Filling in scattered pixels of natural images: by contexts, by smoothness, and by imputers for tables."""

import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import inpaint_biharmonic
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from sparsentropy import datasets, imaging
from sparsentropy.imaging.overlaps import Average, Grid
from sparsentropy.imaging.straight import straight
from sparsentropy.metrics import psnr
from table import Table
from workloads import images_folder

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]
SHARES = (0.5, 0.8)
FIRST, EVERY, IMAGES = 3, 7, 10  # of the 68
SIZE, FITTED_TO = 8, 5000

NOTES = f"""\
{IMAGES} of the 68 grey images of BSD68 (every {EVERY}th from number {FIRST + 1}), of which so many pixels are
missing, chosen at random with a seed of its own for each image. PSNR of the whole image in dB, and seconds for an
image; means over the images. *Imputers*: scikit-learn's, for {SIZE} × {SIZE} patches as rows of a table, fitted to
{FITTED_TO:,} of them; averaged where they overlap (every second pixel; every fourth for neighbours, which are slow).
They take 5 neighbours weighted by distance, or 10 rounds of ridge regression. *Biharmonic*: scikit-image's."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    images = [255 * image for image in datasets.load_images(images_folder())][FIRST::EVERY][:IMAGES]
    if quick:
        images = [image[:96, :96] for image in images[:1]]
    heads = [head for share in SHARES for head in (f"{share:.0%} missing", "seconds")]
    table = Table("Inpainting", NOTES, ("method", *heads))
    table.begin()
    for name, method in METHODS.items():
        cells: list[str] = []
        for share in SHARES:
            masks = [np.random.default_rng(seed).random(image.shape) < share for seed, image in enumerate(images)]
            began, values = time.perf_counter(), []
            for image, mask in zip(images, masks, strict=True):
                filled = method(np.where(mask, np.nan, image), mask)
                values.append(psnr(image, np.where(mask, filled, image), data_range=255))
            cells += [f"{np.mean(values):.2f}", f"{(time.perf_counter() - began) / len(images):.1f}"]
        table.add(name, *cells)
        yield [table]


def by_contexts(given: Image, mask: Mask) -> Image:
    return imaging.inpaint(given, mask)


def by_lines(given: Image, mask: Mask) -> Image:
    return straight(np.nan_to_num(given)[:, :, None], mask)[:, :, 0]


def biharmonic(given: Image, mask: Mask) -> Image:
    return 255 * inpaint_biharmonic(np.nan_to_num(given) / 255, mask)


def by_regression(given: Image, mask: Mask) -> Image:
    return _by_imputer(given, mask, IterativeImputer(max_iter=10, random_state=0), 2)


def by_neighbours(given: Image, mask: Mask) -> Image:
    return _by_imputer(given, mask, KNNImputer(n_neighbors=5, weights="distance"), 4)


def _by_imputer(given: Image, mask: Mask, imputer: Any, stride: int) -> Image:
    grid = Grid((*given.shape, 1), SIZE, stride)
    rows = np.concatenate([grid.patches(given[:, :, None], band) for band in grid.bands()])
    known = ~np.isnan(rows).all(1)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(known))[:FITTED_TO]
    filled, begin = np.full_like(rows, given[~mask].mean()), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten rounds are not always enough
        filled[known] = imputer.fit(rows[chosen]).transform(rows[known])
    average = Average(grid)
    for band in grid.bands():
        end = begin + len(band) * len(grid.columns)
        average.add(band, filled[begin:end], np.ones(end - begin))
        begin = end
    return np.asarray(average.image()[:, :, 0])


METHODS = {
    "sparsentropy": by_contexts,
    "biharmonic": biharmonic,
    "straight lines": by_lines,
    "iterative imputer": by_regression,
    "nearest neighbours": by_neighbours,
}
