"""Up to how much noise are bars found, and are noise and prior scale estimated rightly? A grid of both.

Images of bars are made with every combination of noise σ and prior scale λ, the size of the codes. If the unit of the
data is of no matter, only the ratio σ/λ decides; cells of the grid with the same ratio show whether that is so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np

from sparsentropy import plotting
from sparsentropy.datasets import make_bars
from sparsentropy.experiments import _recovery
from sparsentropy.experiments.finding import Finding, Picture
from sparsentropy.experiments.log import Log

SAME = 1e-12  # ratios that differ by less, relatively, are one
EXACT = 1e-6  # difference of results that is put down to rounding
SWITCHED_OFF = 0.1  # λ̂/λ below which atoms are taken to explain nothing


@final
@dataclass(frozen=True)
class Grid:
    """What one kind of posterior gave: arrays of shape (noise levels, prior scales)."""

    found: np.ndarray  # share of the runs that found all bars
    bars: np.ndarray  # mean share of the bars that were found
    in_span: np.ndarray  # share of the runs with every bar in the span of the atoms in use
    noise: np.ndarray  # median over runs of σ̂/σ
    scale: np.ndarray  # median over runs of the median over atoms of λ̂/λ


def run(settings: dict[str, Any], log: Log) -> Finding:
    """Run the experiment with these numbers (`robustness.toml`)."""
    ratios = np.divide.outer(np.array(settings["noise_std"]), np.array(settings["prior_scale"]))
    done = {posterior: _grid(settings, log, posterior) for posterior in settings["posteriors"]}
    grids = {posterior: grid for posterior, (grid, _) in done.items()}
    metrics: dict[str, float | int | list[float]] = {"ratio": ratios.ravel().tolist()}
    for posterior, grid in grids.items():
        metrics |= {f"{posterior}.{key}": value.ravel().tolist() for key, value in vars(grid).items()}
        metrics[f"{posterior}.spread_at_equal_ratio"] = _spread(grid, ratios)
    times = {f"{posterior}.seconds_median": float(np.median(seconds)) for posterior, (_, seconds) in done.items()}
    return Finding(
        title="Bars under noise",
        claim="Nothing has to be tuned: noise and prior scales are estimated along with the dictionary. From which "
        "ratio of noise to codes on does that fail, and does anything else than the ratio matter?",
        seen=tuple(_seen(grids, ratios, settings)),
        metrics=metrics,
        pictures=tuple(_pictures(grids, ratios, settings)),
        times=times,
    )


def _grid(settings: dict[str, Any], log: Log, posterior: str) -> tuple[Grid, list[float]]:
    """What was found, and the seconds of every run."""
    shape = len(settings["noise_std"]), len(settings["prior_scale"]), settings["seeds"]
    computes = {
        f"{posterior}, σ = {noise_std:g}, λ = {prior_scale:g}, seed {seed}": partial(
            _part, settings, posterior, noise_std, prior_scale, seed
        )
        for noise_std in settings["noise_std"]
        for prior_scale in settings["prior_scale"]
        for seed in range(settings["seeds"])
    }
    line = "lowest cosine {worst:.3f}, σ̂/σ = {noise_ratio:.3f}, λ̂/λ = {scale_ratio:.3f}"
    runs = log.parts(computes, line).values()

    def of(key: str) -> np.ndarray:
        values = np.array([one[key] for one in runs])
        return values.reshape(*shape, *values.shape[1:])

    threshold = settings["found"]
    grid = Grid(
        found=(of("worst") >= threshold).mean(axis=2),
        bars=(of("cosines") >= threshold).mean(axis=(2, 3)),
        in_span=(of("in_span") >= threshold).mean(axis=2),
        noise=np.median(of("noise_ratio"), axis=2),
        scale=np.median(of("scale_ratio"), axis=2),
    )
    return grid, of("seconds").ravel().tolist()


def _part(settings: dict[str, Any], posterior: str, noise_std: float, prior_scale: float, seed: int) -> dict[str, Any]:
    side = settings["side"]
    # Bars of another height are bars with other codes
    bars = make_bars(settings["rows"], size=side, noise_std=noise_std, amplitude=prior_scale, seed=seed)
    model, seconds = _recovery.learned(bars, posterior, seed, settings)
    found, match = _recovery.compared(model, bars)
    # A bar of `side` pixels has length √side; atoms have length 1, so their codes are longer by as much
    true_scale = np.sqrt(side) * prior_scale
    return found | {
        "seconds": seconds,
        "noise_ratio": found["noise"] / noise_std,
        "scale_ratio": float(np.median(model.prior_scale_[match.assignment]) / true_scale),
    }


def _groups(ratios: np.ndarray) -> list[np.ndarray]:
    """Masks of cells with the same ratio, from the smallest ratio to the largest."""
    groups, left = [], np.ones(ratios.shape, dtype=bool)
    while left.any():
        smallest = ratios[left].min()
        group = left & (ratios <= smallest * (1 + SAME))
        groups.append(group)
        left &= ~group
    return groups


def _spread(grid: Grid, ratios: np.ndarray) -> float:
    """By how much cells with the same ratio differ at most, in any of the numbers."""
    return max(float(np.ptp(value[group])) for value in vars(grid).values() for group in _groups(ratios))


def _seen(grids: dict[str, Grid], ratios: np.ndarray, settings: dict[str, Any]) -> Iterable[str]:
    share, tolerance = settings["share"], settings["tolerance"]
    for posterior, grid in grids.items():
        good = {
            f"all bars are found in at least {share:.0%} of the runs": grid.found >= share,
            f"all are in the span of the atoms in use in at least {share:.0%}": grid.in_span >= share,
            # Where atoms are off all is taken for noise, and σ̂ may be near a large σ by chance
            f"atoms are in use and the median of σ̂/σ is within {tolerance:.0%} of 1": (
                (np.abs(grid.noise - 1) <= tolerance) & (grid.scale >= SWITCHED_OFF)
            ),
            f"the median of λ̂/λ is within {tolerance:.0%} of 1": np.abs(grid.scale - 1) <= tolerance,
        }
        said = "; ".join(f"{what}: {_where(holds, ratios)}" for what, holds in good.items())
        yield f"{posterior.capitalize()} posteriors. {said[0].upper()}{said[1:]}."
    yield _about_ratio(grids, ratios)
    yield from _about_silence(grids, ratios)


def _where(holds: np.ndarray, ratios: np.ndarray) -> str:
    """For which ratios something holds; says all of it even if that is not the same as up to a limit."""
    if holds.all():
        return f"in all cells, up to σ/λ = {ratios.max():.3g}"
    if not holds.any():
        return "in no cell"
    largest, smallest = ratios[holds].max(), ratios[~holds].min()
    if largest < smallest:
        return f"up to σ/λ = {largest:.3g}, and no longer from {smallest:.3g} on"
    return f"in {holds.sum()} of {holds.size} cells, the largest σ/λ being {largest:.3g}, but not at {smallest:.3g}"


def _about_ratio(grids: dict[str, Grid], ratios: np.ndarray) -> str:
    shared = [group for group in _groups(ratios) if group.sum() > 1]
    largest = max(_spread(grid, ratios) for grid in grids.values())
    said = f"{len(shared)} ratios σ/λ come in more than one cell, whose data differ by a power of two"
    if largest > EXACT:
        return f"{said}; what was found differs by {largest:.2g} at most."
    digits = f"agrees to {largest:.1g}" if largest else "agrees in every digit"
    return f"{said}; what was found {digits}. So only the ratio matters, and the unit of the data does not."


def _about_silence(grids: dict[str, Grid], ratios: np.ndarray) -> Iterable[str]:
    """What noise is found where nothing else is."""
    silent = {posterior: grid.scale < SWITCHED_OFF for posterior, grid in grids.items()}
    if not any(cells.any() for cells in silent.values()):
        return
    # A pixel is on two bars, whose codes have a variance of 2λ² each
    all_noise = np.sqrt(1 + 4 / ratios**2)
    errors = [np.abs(grids[name].noise / all_noise - 1)[cells] for name, cells in silent.items() if cells.any()]
    first = min(ratios[cells].min() for cells in silent.values() if cells.any())
    worst = max(float(error.max()) for error in errors)
    yield (
        f"From σ/λ = {first:.3g} on there are cells in which λ̂ is less than {SWITCHED_OFF:g} λ: atoms are switched "
        f"off, and σ̂ is within {worst:.1%} of √(σ² + 4λ²), the standard deviation of a pixel, since all is taken for "
        "noise. Where the noise is large that is near σ, so σ̂/σ alone does not show it."
    )


def _pictures(grids: dict[str, Grid], ratios: np.ndarray, settings: dict[str, Any]) -> Iterable[Picture]:
    first = np.array([np.flatnonzero(group)[0] for group in _groups(ratios)])  # cell of every ratio
    for key, label in (
        ("found", "share of runs with all bars found"),
        ("bars", "share of the bars that were found"),
        ("noise", "σ̂/σ, median over runs"),
        ("scale", "λ̂/λ, median over atoms and runs"),
    ):
        ratio = key in ("noise", "scale")
        curves = {posterior: vars(grid)[key].ravel()[first] for posterior, grid in grids.items()}
        draw = partial(
            plotting.by_ratio, ratios.ravel()[first], curves, xlabel="σ/λ", ylabel=label, level=1.0 if ratio else None
        )
        yield Picture(f"{key}-by-ratio", f"By σ/λ: {label}.", draw)
        richest = settings["posteriors"][-1]
        draw = partial(
            plotting.heat_map,
            vars(grids[richest])[key],
            settings["noise_std"],
            settings["prior_scale"],
            xlabel="prior scale λ of the codes",
            ylabel="noise std σ",
            scale="ratio" if ratio else "share",
        )
        yield Picture(f"{key}-{richest}", f"{richest.capitalize()} posteriors: {label}.", draw, height=3.6)
