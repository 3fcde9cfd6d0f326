"""One run of the bars test, as several experiments need it: learn from data whose truth is known, and compare."""

import time
import warnings
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import diagnostics
from sparsentropy.datasets import Bars
from sparsentropy.estimator import SparseCoding
from sparsentropy.inference import AbstractSolver, DiagonalSolver, FullSolver, LowRankSolver
from sparsentropy.metrics import DictionaryMatch, dictionary_match

# Part of the median prior scale. All bars have the same; atoms that were not needed had at most 0.2 of it, others at
# least 0.8
IN_USE = 0.5
CONFIDENCE = 0.95
DIGITS = 5  # of bounds and fields, which are only drawn


def learned(bars: Bars, posterior: str, seed: int, settings: dict[str, Any]) -> tuple[SparseCoding, float]:
    """A model with as many atoms as there are bars, and the seconds it took."""
    model = SparseCoding(
        bars.dictionary.shape[1],
        posterior=posterior,
        rank=settings["rank"],
        max_iter=settings["max_iter"],
        random_state=seed,
    )
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is counted
        model.fit(bars.data)
    return model, time.perf_counter() - began


def compared(model: SparseCoding, bars: Bars) -> tuple[dict[str, Any], DictionaryMatch]:
    """What was found of the truth."""
    match = dictionary_match(model.components_, bars.dictionary.T)
    used = model.prior_scale_ > IN_USE * np.median(model.prior_scale_)
    return {
        "cosines": rounded(match.cosines),
        "worst": float(match.cosines.min()),
        "in_span": span_cosine(model.components_[used], bars.dictionary.T),
        "used": int(used.sum()),
        "noise": model.noise_variance_**0.5,
        "sweeps": model.n_iter_,
        "converged": model.converged_,
    }, match


def true_bound(bars: Bars, posterior: str, rank: int) -> float:
    """Bound of the true dictionary with posteriors of the same kind, λ and σ² refitted to the data."""
    x, dictionary = torch.from_numpy(bars.data), torch.from_numpy(bars.dictionary)
    return diagnostics.refit(x, dictionary, _solver(posterior, rank)).lower_bound


def span_cosine(atoms: np.ndarray, targets: np.ndarray) -> float:
    """The smallest cosine between one of the targets (m, d) and the space that atoms (h, d) span."""
    if len(atoms) == 0:
        return 0.0
    _, sizes, directions = np.linalg.svd(atoms, full_matrices=False)
    basis = directions[sizes > 1e-6 * sizes[0]]
    return float((np.linalg.norm(targets @ basis.T, axis=1) / np.linalg.norm(targets, axis=1)).min())


def exact_interval(found: int, runs: int) -> tuple[float, float]:
    """What the share may be, given so many of so many: the interval of Clopper and Pearson (Biometrika 26, 1934)."""
    interval = binomtest(found, runs).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def percent(found: int, runs: int) -> str:
    """The interval as text."""
    low, high = exact_interval(found, runs)
    return f"{100 * low:.0f}–{100 * high:.0f}%"


def rounded(values: np.ndarray) -> list[Any]:
    """Numbers that are short to keep."""
    return np.round(values, DIGITS).tolist()


def _solver(posterior: str, rank: int) -> AbstractSolver:
    return {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(rank), "full": FullSolver()}[posterior]
