"""Ten times too many atoms: whether the prior scale says which ones are needed."""

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from sparsentropy.metrics import dictionary_match
from table import Table

ATOMS = 100
NOTES = f"""\
The bars of the table above with {ATOMS} atoms for ten bars. *Matched*: the ten atoms assigned to the true bars one to
one; *rest*: the other {ATOMS - 10}. Bars have prior scale √5 ≈ 2.24. The scale says which are which when the smallest
matched one is above the largest of the rest."""


def run(*, quick: bool) -> list[Table]:
    columns = ("posterior", "seed", "worst cosine", "λ matched: smallest", "λ rest: largest", "median")
    columns += ("separates", "noise", "sweeps", "seconds")
    table = Table("Surplus atoms", NOTES, columns).begin()
    for posterior in ("diagonal", "full"):
        for seed in range(1 if quick else 5):
            table.add(posterior, str(seed), *measured(posterior, seed, max_iter=40 if quick else 200))
    return [table]


def measured(posterior: str, seed: int, max_iter: int) -> tuple[str, ...]:
    bars = make_bars(1000, seed=seed)
    model = SparseCoding(ATOMS, posterior=posterior, max_iter=max_iter, random_state=seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(bars.data)
    seconds = time.perf_counter() - began
    match = dictionary_match(model.components_, bars.dictionary.T)
    rest = np.delete(model.prior_scale_, match.assignment)
    matched = model.prior_scale_[match.assignment]
    return (
        f"{match.cosines.min():.3f}",
        f"{matched.min():.3g}",
        f"{rest.max():.3g}",
        f"{np.median(rest):.3g}",
        "yes" if matched.min() > rest.max() else "no",
        f"{model.noise_variance_**0.5:.3f}",
        str(model.n_iter_),
        f"{seconds:.1f}",
    )
