"""The bars test: whether all ten bars are found, and how good the bound is."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding, diagnostics
from sparsentropy.datasets import make_bars
from sparsentropy.inference import DiagonalSolver, FullSolver
from sparsentropy.metrics import dictionary_match
from table import Table, progress

NOISE = 0.1
SCALE = np.sqrt(5)  # of a bar's code, once a bar of five pixels has unit length
FOUND = 0.95
CASES = (("laplace", "full", 50), ("laplace", "diagonal", 20), ("bernoulli", "full", 20))
SOLVERS = {"full": FullSolver(), "diagonal": DiagonalSolver()}

NOTES = f"""\
5 × 5 images, ten bars, 1,000 images, noise {NOISE}, default settings, one start; the seed of the data is also that of
the start. *Found*: the worst of the ten matched cosines is at least {FOUND}. *Bound − truth*: final bound minus the
bound of the true dictionary with λ and σ² refitted and the same kind of posterior, on the same data, nats per data
point. Errors are relative to the values the data were made with (noise standard deviation; √5 for the median prior
scale of Laplace codes), the largest over all seeds. *Unfinished*: still rising at `max_iter`."""


@dataclass(frozen=True)
class Run:
    """One data seed."""

    worst_cosine: float
    advantage: float
    noise_error: float
    scale_error: float
    seconds: float
    converged: bool


def run_once(codes: str, posterior: str, seed: int) -> Run:
    bars = make_bars(1000, codes=codes, noise_std=NOISE, seed=seed)  # type: ignore[arg-type]
    model = SparseCoding(10, posterior=posterior, random_state=seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(bars.data)
    seconds = time.perf_counter() - began
    true_bound = diagnostics.refit(
        torch.from_numpy(bars.data), torch.from_numpy(bars.dictionary), SOLVERS[posterior]
    ).lower_bound
    return Run(
        worst_cosine=float(dictionary_match(model.components_, bars.dictionary.T).cosines.min()),
        advantage=model.lower_bound_ - true_bound,
        noise_error=abs(model.noise_variance_**0.5 / NOISE - 1),
        scale_error=abs(float(np.median(model.prior_scale_)) / SCALE - 1),
        seconds=seconds,
        converged=model.converged_,
    )


def run(*, quick: bool) -> Iterator[list[Table]]:
    columns = ("codes", "posterior", "found", "lowest cosine", "bound − truth: lowest", "median")
    columns += ("noise error", "median scale error", "seconds: median", "longest", "unfinished")
    table = Table("Bars", NOTES, columns).begin()
    for codes, posterior, seeds in CASES:
        runs = []
        for seed in range(2 if quick else seeds):
            runs.append(run_once(codes, posterior, seed))
            last = runs[-1]
            progress(
                f"{codes}, {posterior}, seed {seed}: cosine {last.worst_cosine:.3f}, "
                f"bound − truth {last.advantage:+.3f}, {last.seconds:.2f} s"
            )
        table.add(codes, posterior, *summary(runs, laplace=codes == "laplace"))
    yield [table]


def summary(runs: list[Run], *, laplace: bool) -> tuple[str, ...]:
    cosines = [run.worst_cosine for run in runs]
    advantages = [run.advantage for run in runs]
    seconds = [run.seconds for run in runs]
    return (
        f"{sum(cosine >= FOUND for cosine in cosines)} of {len(runs)}",
        f"{min(cosines):.3f}",
        f"{min(advantages):+.3f}",
        f"{np.median(advantages):+.3f}",
        f"{max(run.noise_error for run in runs):.1%}",
        f"{max(run.scale_error for run in runs):.1%}" if laplace else "–",
        f"{np.median(seconds):.2f}",
        f"{max(seconds):.2f}",
        str(sum(not run.converged for run in runs)),
    )
