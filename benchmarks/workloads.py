"""The data sets that everything is measured on: whitened patches of natural images, and codes drawn from the model."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sparsentropy import datasets

PLACES = (os.environ.get("SPARSENTROPY_BSD68", ""), "../shared/data/bsd68")
ROWS, HELD_OUT = 40_960, 4_096
FIRST_HELD_OUT = 190_000  # of 200,000 patches of all images

PATCH_NOTES = """\
Whitened patches of natural images: the 68 grey test images of the Berkeley segmentation data (BSD68), Olshausen and
Field's filter, float32, pixel variance 0.1, 40,960 to learn from and 4,096 held out."""


class NoDataError(Exception):
    """The images are not on this machine."""


def images_folder() -> Path:
    """Where the 68 grey images of BSD68 are."""
    root = Path(__file__).parents[1]
    folders = [root / place for place in PLACES if place and (root / place).is_dir()]
    if not folders:
        raise NoDataError("set SPARSENTROPY_BSD68 to a folder with the 68 grey images of BSD68")
    return folders[0]


@cache
def patches(size: int, *, quick: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out patches, (n, size²) float32."""
    # Grey levels 0 to 255, as other programs have them: the same rows up to the last digits
    images = [255 * image for image in datasets.load_images(images_folder())]
    rows = datasets.extract_patches(datasets.whiten_images(images), size=size, n=200_000, seed=0)
    return rows[: 4096 if quick else ROWS].copy(), rows[FIRST_HELD_OUT : FIRST_HELD_OUT + HELD_OUT].copy()


@cache
def laplace(d: int, h: int, *, quick: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows drawn from the model: atoms of unit length at random, scales around 1, noise 0.3."""
    draw, n = np.random.default_rng(0), (4096 if quick else ROWS) + HELD_OUT
    atoms = draw.normal(size=(h, d))
    atoms *= np.exp(0.3 * draw.normal(size=(h, 1))) / np.linalg.norm(atoms, axis=1, keepdims=True)
    rows = draw.laplace(size=(n, h)) @ atoms + 0.3 * draw.normal(size=(n, d))
    return rows[:-HELD_OUT].astype(np.float32), rows[-HELD_OUT:].astype(np.float32)


@dataclass(frozen=True)
class Workload:
    """A data set and a number of atoms."""

    name: str
    d: int
    h: int
    load: Callable[..., tuple[np.ndarray, np.ndarray]]
    seconds: float  # that learning may take

    def data(self, *, quick: bool) -> tuple[np.ndarray, np.ndarray]:
        """Training and held-out rows."""
        return self.load(quick=quick)


def _patches(size: int, h: int, seconds: float) -> Workload:
    def load(*, quick: bool) -> tuple[np.ndarray, np.ndarray]:
        return patches(size, quick=quick)

    return Workload("patches", size**2, h, load, seconds)


def _laplace(d: int, h: int, seconds: float) -> Workload:
    def load(*, quick: bool) -> tuple[np.ndarray, np.ndarray]:
        return laplace(d, h, quick=quick)

    return Workload("Laplace codes", d, h, load, seconds)


WORKLOADS = (
    _patches(8, 128, 60),
    _patches(16, 100, 120),
    _patches(16, 512, 120),
    _patches(16, 1024, 150),
    _patches(32, 2048, 240),
    _laplace(64, 64, 30),
)
