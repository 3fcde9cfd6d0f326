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
FOUND = 0.8
NOTES = f"""\
The bars of the table above with {ATOMS} atoms for ten bars. *Found*: bars with an atom of their own whose cosine is at
least {FOUND}; *rest*: all other atoms. Bars have prior scale √5 ≈ 2.24. The scale says which are which if the smallest
one that found a bar is above the largest of the rest. Ten bars span nine dimensions, and diagonal posteriors prefer a
basis of nine."""


def run(*, quick: bool) -> list[Table]:
    columns = ("posterior", "seed", "found", "λ found: smallest", "λ rest: largest", "median")
    columns += ("separates", "noise", "sweeps", "seconds")
    table = Table("Surplus atoms", NOTES, columns).begin()
    for posterior, seeds in (("diagonal", 5), ("full", 2)):
        for seed in range(1 if quick else seeds):
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
    found = match.assignment[match.cosines >= FOUND]
    scales, rest = model.prior_scale_[found], np.delete(model.prior_scale_, found)
    return (
        f"{len(found)} of 10",
        f"{scales.min():.3g}",
        f"{rest.max():.3g}",
        f"{np.median(rest):.3g}",
        "yes" if scales.min() > rest.max() else "no",
        f"{model.noise_variance_**0.5:.3f}",
        str(model.n_iter_),
        f"{seconds:.1f}",
    )
