"""Does the standard bound become a sum of three entropies? Theorem 1 of the paper, watched while learning.

Bars and patches of photographs are learned by gradient on the standard bound, which knows nothing of entropies. After
every step the sum of three entropies of the same posteriors and dictionary is computed beside it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from sparsentropy import datasets, plotting
from sparsentropy.experiments import photographs
from sparsentropy.experiments.finding import Finding, Picture
from sparsentropy.experiments.log import Log
from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import baselines, random_starts
from sparsentropy.posteriors import Diagonal

SHOWN = 200  # steps in a picture, spread evenly over the logarithm


def run(settings: dict[str, Any], log: Log) -> Finding:
    """Run the experiment with these numbers (`theorem.toml`)."""
    metrics: dict[str, float | int | list[float]] = {}
    seen, pictures = [], []
    for name, load in (("bars", _bars), ("patches", _patches)):
        own = settings[name]
        curves = [
            np.array(log.part(f"{name}, seed {seed}", partial(_part, load, own, seed), "gap {gap:.2g} nats")["curve"])
            for seed in settings["seeds"]
        ]
        gaps = [curve[:, 1] - curve[:, 0] for curve in curves]
        metrics[f"{name}.bound"] = [float(curve[-1, 0]) for curve in curves]
        metrics[f"{name}.gap_first"] = [float(gap[0]) for gap in gaps]
        metrics[f"{name}.gap_last"] = [float(gap[-1]) for gap in gaps]
        metrics[f"{name}.gap_lowest"] = float(min(gap.min() for gap in gaps))
        largest = max(gap[-1] for gap in gaps)
        seen.append(
            f"{name.capitalize()}: after {own['steps']:,} steps the standard bound is {curves[0][-1, 0]:.2f} nats and "
            f"at most {largest:.2g} below the sum of entropies, from {gaps[0][0]:.3g} at the first step."
        )
        pictures += _pictures(name, curves, gaps)
    return Finding(
        title="The standard bound becomes a sum of three entropies",
        claim="Where λ and σ² are stationary, the lower bound equals H[q] − H[p(z)] − H[p(x|z)] (Theorem 1).",
        seen=tuple(seen),
        metrics=metrics,
        pictures=tuple(pictures),
    )


def _bars(settings: dict[str, Any], seed: int) -> torch.Tensor:
    bars = datasets.make_bars(settings["rows"], noise_std=settings["noise_std"], seed=seed)
    return torch.from_numpy(bars.data)


def _patches(settings: dict[str, Any], seed: int) -> torch.Tensor:
    rows = datasets.extract_patches(photographs.whitened(), size=settings["size"], n=settings["rows"], seed=seed)
    return torch.from_numpy(rows).double() / float(rows.std())


def _part(load: Callable[..., torch.Tensor], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    curve = _learned(load(settings, seed), settings, seed)
    return {"curve": curve.tolist(), "gap": curve[-1, 1] - curve[-1, 0]}


def _learned(x: torch.Tensor, settings: dict[str, Any], seed: int) -> np.ndarray:
    """The bound and the sum of entropies after every step (steps, 2)."""
    start = random_starts(x, settings["atoms"], torch.Generator().manual_seed(seed))[0]
    q = DiagonalSolver()(x, start, max_iter=0, tol=0.0).posterior  # where a Gaussian prior puts them
    assert isinstance(q, Diagonal), "the solver's own family"
    steps = baselines.by_gradient(x, start, q, rate=settings["rate"], steps=settings["steps"])
    return np.array([(step.lower_bound, step.entropy_sum) for step in steps])


def _pictures(name: str, curves: list[np.ndarray], gaps: list[np.ndarray]) -> list[Picture]:
    steps = np.unique(np.geomspace(1, len(curves[0]), SHOWN).astype(int))
    both = {"sum of entropies": curves[0][steps - 1, 1], "standard bound": curves[0][steps - 1, 0]}
    # A difference of two bounds that agree to the last digit is not to be read
    each = {f"seed {k}" if len(gaps) > 1 else "gap": np.maximum(gap[steps - 1], 1e-12) for k, gap in enumerate(gaps)}
    return [
        Picture(
            f"{name}-bounds",
            f"{name.capitalize()}: the standard bound, climbed by gradient, and the sum of three entropies beside it.",
            partial(plotting.by_step, steps, both, ylabel="nats per data point"),
        ),
        Picture(
            f"{name}-gap",
            f"{name.capitalize()}: the difference of the two.",
            partial(plotting.by_step, steps, each, ylabel="gap (nats per data point)", log=True),
        ),
    ]
