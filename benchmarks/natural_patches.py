"""Whitened patches of natural images: the bound of data that were not learned from."""

import os
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import Progress, SparseCoding, datasets
from table import Table, progress

PLACES = (os.environ.get("SPARSENTROPY_BSD68", ""), "../shared/data/bsd68")
TRAIN, HELD_OUT = slice(0, 40_960), slice(190_000, 194_096)

NOTES = """\
The 68 grey test images of the Berkeley segmentation data (BSD68), whitened with Olshausen and Field's filter; 16 × 16
patches (d = 256, float32, pixel variance 0.1), 40,960 to learn from and 4,096 held out. Default settings, one start.
*Held-out bound*: `model.score`, nats per data point. *In use*: atoms whose code is larger than the noise in at least
one of the held-out patches."""


class NoDataError(Exception):
    """The images are not on this machine."""


@cache
def patches() -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, (n, 256) float32."""
    root = Path(__file__).parents[1]
    folders = [root / place for place in PLACES if place and (root / place).is_dir()]
    if not folders:
        raise NoDataError("set SPARSENTROPY_BSD68 to a folder with the 68 grey images of BSD68")
    # Grey levels 0 to 255, as other programs have them: the same rows up to the last digits
    images = [255 * image for image in datasets.load_images(folders[0])]
    rows = datasets.extract_patches(datasets.whiten_images(images), size=16, n=200_000, seed=0)
    return rows[TRAIN].copy(), rows[HELD_OUT].copy()


@cache
def learned(h: int, *, quick: bool) -> tuple[SparseCoding, float]:
    """A fitted model and the seconds that took; made once for all tables of a run."""
    train, _ = patches()

    def tell(now: Progress) -> None:
        if now.sweep % 10 == 0:
            progress(f"h = {h}: sweep {now.sweep}, {now.rows:,} rows, {now.lower_bound:.2f} nats, {now.seconds:.0f} s")

    model = SparseCoding(h, random_state=0, callback=tell)
    if quick:
        model.set_params(max_iter=10)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train[:4096] if quick else train)
    return model, time.perf_counter() - began


def run(*, quick: bool) -> list[Table]:
    columns = (
        "h",
        "held-out bound",
        "training bound",
        "seconds",
        "sweeps over all data",
        "converged",
        "noise",
        "in use",
    )
    table = Table("Natural image patches", NOTES, columns).begin()
    _, test = patches()
    for h in (100,) if quick else (100, 512):
        model, seconds = learned(h, quick=quick)
        in_use = int((np.abs(model.transform(test)) > model.noise_variance_**0.5).any(0).sum())
        table.add(
            str(h),
            f"{model.score(test):.2f}",
            f"{model.lower_bound_:.2f}",
            f"{seconds:.0f}",
            str(model.n_iter_),
            "yes" if model.converged_ else "no",
            f"{model.noise_variance_**0.5:.4f}",
            f"{in_use} of {h}",
        )
    return [table]
