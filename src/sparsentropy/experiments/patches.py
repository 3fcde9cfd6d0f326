"""Does annealing help on natural images? Patches of photographs, learned with every schedule and every posterior.

A model is learned for every number of atoms, kind of inference, schedule and seed, from patches of one part of the
photographs, and is looked at on patches of the other: its bound there, how sparse draws from the posteriors are, the
noise, how many atoms are in use, and how many of them are local and oriented by a fit of Gabor functions.
"""

import base64
import time
import warnings
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import datasets
from sparsentropy.estimator import SparseCoding
from sparsentropy.experiments import patches_shown, photographs
from sparsentropy.experiments.finding import Finding
from sparsentropy.experiments.log import Log
from sparsentropy.gabor import fit_gabors
from sparsentropy.learning import em
from sparsentropy.metrics import gini

EDGE = 480  # columns of every photograph to learn from; the 160 beside them are for held-out patches
PEAK = 127  # of an atom as whole numbers

METHODS: dict[str, dict[str, Any]] = {
    "diagonal": {"posterior": "diagonal"},
    "low-rank": {"posterior": "low-rank"},
    "full": {"posterior": "full"},
    "amortised diagonal": {"posterior": "diagonal", "inference": "amortized"},
    "residual network": {"posterior": "diagonal", "inference": "amortized", "encoder": "residual"},
}


def run(settings: dict[str, Any], log: Log) -> Finding:
    """Run the experiment with these numbers (`patches.toml`)."""
    kinds = [
        (group, method, annealing, seed)
        for seed in settings["seeds"]
        for group, own in settings["groups"].items()
        for method in own["methods"]
        for annealing in settings["annealing"]
    ]
    computes = {
        f"{group}, {method}, {annealing}, seed {seed}": partial(
            _learned, settings, settings["groups"][group], method, annealing, seed
        )
        for group, method, annealing, seed in kinds
    }
    line = "{held_out:.2f} nats held out, Gini {gini:.3f}, {active} atoms, {sweeps} sweeps, {seconds:.0f} s"
    runs: patches_shown.Runs = {}
    for (*kind, _), one in zip(kinds, log.parts(computes, line).values(), strict=True):
        runs.setdefault((kind[0], kind[1], kind[2]), []).append(one)
    return patches_shown.finding(runs, settings)


@cache
def _data(size: int, rows: int, held_out: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Patches to learn from and to look at, of different parts of the same photographs."""
    left, right = photographs.parted(EDGE)
    new = datasets.extract_patches(right, size=size, n=held_out, seed=seed)
    return datasets.extract_patches(left, size=size, n=rows, seed=seed), new


def _learned(settings: dict[str, Any], own: dict[str, Any], method: str, annealing: str, seed: int) -> dict[str, Any]:
    """Everything there is to know of one run."""
    train, new = _data(settings["size"], own["rows"], settings["held_out"], seed)
    curve: list[tuple[float, float]] = []
    model = SparseCoding(
        own["atoms"],
        rank=settings["rank"],
        annealing=None if annealing == "none" else annealing,
        max_iter=own["max_iter"],
        tol=settings["tol"],
        random_state=seed,
        callback=lambda p: (
            curve.append((round(p.seconds, 2), round(p.lower_bound, 4))) if p.rows == len(train) else None
        ),
        **METHODS[method],
    )
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(train)
    seconds = time.perf_counter() - began
    codes = model.infer(new).sample(1, seed)[0].double().cpu().numpy()
    sparsity = gini(codes, axis=1)
    noise = model.noise_variance_**0.5
    return {
        "bound": model.lower_bound_,
        "held_out": model.score(new),
        "gini": float(sparsity.mean()),
        "gini_std": float(sparsity.std()),
        "noise": noise,
        "active": int((model.prior_scale_ > em.NARROW * noise).sum()),
        "sweeps": model.n_iter_,
        "converged": model.converged_,
        "warnings": sum(not issubclass(one.category, ConvergenceWarning) for one in told),
        "seconds": seconds,
        "curve": curve,
        **_fields(
            model,
            settings["size"],
            own["fitted"],
            shown=seed == settings["seeds"][0] and (method, annealing) in patches_shown.with_atoms(own, settings),
        ),
    }


def _fields(model: SparseCoding, size: int, most: int, *, shown: bool) -> dict[str, Any]:
    """Gabor fits of the atoms in use, evenly by scale where there are many; pictures of as many."""
    order = np.argsort(-model.prior_scale_)
    active = order[model.prior_scale_[order] > em.NARROW * model.noise_variance_**0.5]
    chosen = active[np.linspace(0, len(active) - 1, min(most, len(active))).astype(int)]
    fits = fit_gabors(model.components_[chosen], (size, size))
    found = {
        "local": float(fits.local_and_oriented.mean()) if len(chosen) else 0.0,
        "explained": float(np.median(fits.explained)) if len(chosen) else 0.0,
        "frequency": fits.frequency.round(4).tolist(),
        "orientation": fits.orientation.round(1).tolist(),
        "across": fits.across.round(3).tolist(),
        "along": fits.along.round(3).tolist(),
        "gabor": fits.local_and_oriented.tolist(),
    }
    if shown:
        found["atoms"] = packed(model.components_[order[:most]])
    return found


def packed(atoms: NDArray[np.floating]) -> str:
    """Atoms as text, each with 255 levels of grey."""
    peak = np.abs(atoms).max(axis=1, keepdims=True)
    levels = np.round(PEAK * atoms / np.where(peak > 0, peak, 1)).astype(np.int8)
    return base64.b64encode(levels.tobytes()).decode()
