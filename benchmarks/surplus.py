"""Ten times too many atoms: whether the prior scale says which ones are needed."""

import time
import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from sparsentropy.metrics import dictionary_match
from table import Table

ATOMS = 100
FOUND = 0.8
NEEDED = {"diagonal": 9, "full": 10}
NOTES = f"""\
The bars of the table above with {ATOMS} atoms for ten bars; bars have prior scale √5 ≈ 2.24. *Needed*: ten bars span
nine dimensions, and independent posteriors prefer a basis of nine atoms; full ones can have all ten. The atoms are
sorted by prior scale, and so many of the first are taken to be the real ones. *λ, last real* and *first surplus*: the
scale says which are which if these two differ. *Bars in their span*: the smallest cosine between a bar and the span of
the real atoms. *Found*: bars that have a real atom of their own, with a cosine of at least {FOUND}."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    columns = ("posterior", "seed", "needed", "λ: last real", "first surplus", "median surplus", "bars in their span")
    columns += ("found", "noise", "sweeps", "seconds")
    table = Table("Surplus atoms", NOTES, columns).begin()
    for posterior, seeds in (("diagonal", 5), ("full", 2)):
        for seed in range(1 if quick else seeds):
            table.add(posterior, str(seed), *measured(posterior, seed, max_iter=40 if quick else 200))
    yield [table]


def measured(posterior: str, seed: int, max_iter: int) -> tuple[str, ...]:
    bars = make_bars(1000, seed=seed)
    model = SparseCoding(ATOMS, posterior=posterior, max_iter=max_iter, random_state=seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(bars.data)
    seconds = time.perf_counter() - began
    k = NEEDED[posterior]
    order = np.argsort(-model.prior_scale_)
    scales, real = model.prior_scale_[order], model.components_[order[:k]]
    basis = np.linalg.qr(real.T)[0]
    inside = np.linalg.norm(basis.T @ bars.dictionary, axis=0) / np.linalg.norm(bars.dictionary, axis=0)
    found = dictionary_match(real, bars.dictionary.T).cosines >= FOUND
    return (
        f"{k}",
        f"{scales[k - 1]:.3g}",
        f"{scales[k]:.3g}",
        f"{np.median(scales[k:]):.3g}",
        f"{inside.min():.3f}",
        f"{found.sum()} of 10",
        f"{model.noise_variance_**0.5:.3f}",
        str(model.n_iter_),
        f"{seconds:.1f}",
    )
