"""Are all bars found? The bars test of the paper, with more bars, other codes and every kind of posterior.

Images show horizontal and vertical bars, so it is known what should be learned. Every run has its own data and its own
random start; counted is how often every single bar has an atom of its own. The final bound is compared with that of the
true bars, with posteriors of the same kind.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, final

import numpy as np

from sparsentropy import plotting
from sparsentropy.datasets import make_bars
from sparsentropy.experiments import _recovery
from sparsentropy.experiments.finding import Finding, Metrics, Picture, Table
from sparsentropy.experiments.log import Log

MOST_COLUMNS = 8  # atoms side by side
# The paper's own code on data sets made as ours, with full posteriors: all bars were found in so many of so many
AUTHORS = {"found": 4, "runs": 12, "side": 5, "rows": 1000, "noise_std": 0.1, "codes": "laplace"}

COLUMNS = ("codes", "bars", "posterior", "all bars found", "95% interval", "at a lower threshold")
COLUMNS += ("lowest cosine, median", "bound − truth, median", "lowest", "largest noise error", "bars in the span")
COLUMNS += ("atoms in use, median", "sweeps, median", "unfinished")


@final
@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only."""

    codes: str
    side: int
    posterior: str
    runs: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        """Of its metrics."""
        return f"{self.codes}.{2 * self.side}.{self.posterior}"

    def __len__(self) -> int:
        return len(self.runs)

    def of(self, key: str) -> np.ndarray:
        """A number of every run (runs,)."""
        return np.array([run[key] for run in self.runs])

    def surplus(self) -> np.ndarray:
        """Final bound minus that of the true bars (runs,)."""
        return self.of("bound") - self.of("truth")


def run(settings: dict[str, Any], log: Log) -> Finding:
    """Run the experiment with these numbers (`bars.toml`)."""
    cells = _cells(settings, log)
    metrics: dict[str, float | int | list[float]] = {}
    times: dict[str, float | int | list[float]] = {}
    for cell in cells:
        metrics |= {f"{cell.name}.{key}": value for key, value in _metrics(cell, settings).items()}
        times[f"{cell.name}.seconds_median"] = float(np.median(cell.of("seconds")))
        times[f"{cell.name}.seconds_largest"] = float(cell.of("seconds").max())
    return Finding(
        title="Are all bars found?",
        claim="Entropy-based learning finds the bars that images are made of: the paper shows ten, with full "
        "posteriors. How often, also with more of them, other codes and other posteriors?",
        seen=tuple(_seen(cells, settings)),
        metrics=metrics,
        pictures=tuple(_pictures(cells, settings)),
        tables=(_table(cells, settings),),
        times=times,
    )


def _cells(settings: dict[str, Any], log: Log) -> list[Cell]:
    kinds = [
        (codes, side, posterior, range(seeds))
        for side, seeds in zip(settings["sides"], settings["seeds"], strict=True)
        for codes in settings["codes"]
        for posterior in settings["posteriors"]
    ]
    computes = {
        f"{2 * side} bars, {codes}, {posterior}, seed {seed}": partial(_part, settings, codes, side, posterior, seed)
        for codes, side, posterior, seeds in kinds
        for seed in seeds
    }
    line = "lowest cosine {worst:.3f}, bound {bound:.2f} nats, the true bars {truth:.2f}, {sweeps} sweeps"
    runs = iter(log.parts(computes, line).values())
    return [Cell(codes, side, posterior, tuple(islice(runs, len(seeds)))) for codes, side, posterior, seeds in kinds]


def _part(settings: dict[str, Any], codes: Any, side: int, posterior: str, seed: int) -> dict[str, Any]:
    bars = make_bars(settings["rows"], size=side, codes=codes, noise_std=settings["noise_std"], seed=seed)
    model, seconds = _recovery.learned(bars, posterior, seed, settings)
    found, match = _recovery.compared(model, bars)
    fields = match.signs[:, None] * model.components_[match.assignment]
    return found | {
        "bound": model.lower_bound_,
        "truth": _recovery.true_bound(bars, posterior, settings["rank"]),
        "seconds": seconds,
        "bounds": _recovery.rounded(model.lower_bounds_),
        "fields": _recovery.rounded(fields) if seed == 0 else [],
    }


def _found(cell: Cell, threshold: float) -> np.ndarray:
    return cell.of("worst") >= threshold


def _metrics(cell: Cell, settings: dict[str, Any]) -> Metrics:
    found = int(_found(cell, settings["found"]).sum())
    noise_error = np.abs(cell.of("noise") / settings["noise_std"] - 1)
    return {
        "found": found,
        "runs": len(cell),
        "interval": list(_recovery.exact_interval(found, len(cell))),
        "nearly": int(_found(cell, settings["nearly"]).sum()),
        "share_of_bars": float((cell.of("cosines") >= settings["found"]).mean()),
        "worst_cosine_median": float(np.median(cell.of("worst"))),
        "surplus_median": float(np.median(cell.surplus())),
        "surplus_lowest": float(cell.surplus().min()),
        "truth_median": float(np.median(cell.of("truth"))),
        "noise_error_largest": float(noise_error.max()),
        "in_span": int((cell.of("in_span") >= settings["found"]).sum()),
        "atoms_in_use_median": float(np.median(cell.of("used"))),
        "sweeps_median": float(np.median(cell.of("sweeps"))),
        "unfinished": int((~cell.of("converged")).sum()),
    }


def _table(cells: list[Cell], settings: dict[str, Any]) -> Table:
    rows = []
    for cell in cells:
        m: Any = _metrics(cell, settings)
        rows.append(
            (
                cell.codes,
                str(2 * cell.side),
                cell.posterior,
                f"{m['found']} of {m['runs']}",
                _recovery.percent(m["found"], m["runs"]),
                f"{m['nearly']} of {m['runs']}",
                f"{m['worst_cosine_median']:.3f}",
                _signed(m["surplus_median"]),
                _signed(m["surplus_lowest"]),
                f"{100 * m['noise_error_largest']:.1f}%",
                f"{m['in_span']} of {m['runs']}",
                f"{m['atoms_in_use_median']:g}",
                f"{m['sweeps_median']:g}",
                str(m["unfinished"]),
            )
        )
    caption = (
        f"{settings['rows']:,} images, noise {settings['noise_std']}, low-rank posteriors of rank {settings['rank']}. "
        f"Found: every bar has an atom of its own with a cosine of at least {settings['found']}; the lower threshold "
        f"is {settings['nearly']}. Intervals of Clopper and Pearson. Bounds in nats per data point; the truth is the "
        "true dictionary with posteriors of the same kind, λ and σ² refitted. In the span: every bar has a cosine of "
        f"at least {settings['found']} with the space of the atoms in use, which have a prior scale of at least "
        f"{_recovery.IN_USE} of the median. Unfinished: still rising after {settings['max_iter']} sweeps."
    )
    return Table(caption, COLUMNS, tuple(rows))


def _seen(cells: list[Cell], settings: dict[str, Any]) -> Iterable[str]:
    threshold = settings["found"]
    yield _about_dimensions(settings)
    for posterior in settings["posteriors"]:
        own = [cell for cell in cells if cell.posterior == posterior]
        counts = _by_codes(own, partial(_count, threshold))
        yield f"{posterior.capitalize()} posteriors, runs that found all bars: {counts}."
    yield from _about_basis([cell for cell in cells if cell.posterior == "diagonal"], threshold)
    rich = [cell for cell in cells if cell.posterior != "diagonal"]
    yield from _about_gain([cell for cell in rich if _found(cell, threshold).any()], settings)
    yield from _about_missed(rich, threshold)
    yield from _about_authors(cells, settings)


def _by_codes(cells: list[Cell], say: Callable[[Cell], str]) -> str:
    """What there is to say of every cell, in the order of the number of bars."""
    parts = []
    for codes in dict.fromkeys(cell.codes for cell in cells):
        own = [cell for cell in cells if cell.codes == codes]
        bars = _in_words([str(2 * cell.side) for cell in own])
        parts.append(f"{_in_words([say(cell) for cell in own])} ({bars} bars, {codes} codes)")
    return "; ".join(parts)


def _in_words(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _count(threshold: float, cell: Cell) -> str:
    return f"{_found(cell, threshold).sum()} of {len(cell)}"


def _about_dimensions(settings: dict[str, Any]) -> str:
    ranks = [np.linalg.matrix_rank(make_bars(1, size=side).dictionary) for side in settings["sides"]]
    spans = [f"{2 * side} bars span {rank}" for side, rank in zip(settings["sides"], ranks, strict=True)]
    return (
        f"Horizontal and vertical bars have the same sum: {_in_words(spans)} dimensions. There is a direction in which "
        "codes can move without any change of the image, so the codes of an image are dependent, which diagonal "
        "posteriors cannot say. A basis with an atom less has no such direction."
    )


def _about_basis(cells: list[Cell], threshold: float) -> Iterable[str]:
    """What diagonal posteriors find instead of the bars."""
    if not cells:
        return
    fewer, spanned, above, runs = np.sum(
        [
            (
                (cell.of("used") < 2 * cell.side).sum(),
                (cell.of("in_span") >= threshold).sum(),
                (cell.surplus() > 0).sum(),
                len(cell),
            )
            for cell in cells
        ],
        axis=0,
    )
    medians = _by_codes(cells, lambda cell: _signed(float(np.median(cell.surplus()))))
    yield (
        f"Of the {runs} runs with diagonal posteriors, {fewer} ended with fewer atoms in use than there are bars, "
        f"{spanned} with every bar in the span of these atoms, and {above} with a bound above that of the true bars. "
        f"Median of the difference, in nats: {medians}."
    )


def _about_gain(cells: list[Cell], settings: dict[str, Any]) -> Iterable[str]:
    """How far above the truth learning should end, and does; of runs that found it."""
    if not cells:
        return
    gains = []
    for posterior in dict.fromkeys(cell.posterior for cell in cells):
        own = [cell for cell in cells if cell.posterior == posterior]
        said = _by_codes(own, lambda cell: _signed(float(np.median(cell.surplus()[_found(cell, settings["found"])]))))
        gains.append(f"{posterior} posteriors {said}")
    # Atoms have unit length, so each has d − 1 unknowns; half a nat in total is gained by every one of them
    sides = sorted({cell.side for cell in cells})
    expected = [f"{_signed((side**2 - 1) * side / settings['rows'])} for {2 * side} bars" for side in sides]
    yield (
        "A dictionary that is fitted to data suits them better than the true one. From (d − 1)·h unknowns and n images "
        f"a gain of (d − 1)·h/2n nats is expected: {_in_words(expected)}. Seen, as median over the runs that found all "
        f"bars: {'; '.join(gains)}."
    )


def _about_missed(cells: list[Cell], threshold: float) -> Iterable[str]:
    """Whether a missed bar shows in the bound; only where others found all."""
    missed = below = 0
    for cell in cells:
        found = _found(cell, threshold)
        if found.any():
            missed += int((~found).sum())
            below += int((cell.surplus()[~found] < np.median(cell.surplus()[found])).sum())
    if missed:
        yield (
            f"Does the bound tell? Runs with low-rank or full posteriors that missed a bar where others found all: "
            f"{missed}. Of these, {below} ended lower than the median of those others, each relative to the true bars."
        )


def _about_authors(cells: list[Cell], settings: dict[str, Any]) -> Iterable[str]:
    """Only where the data are the same."""
    if any(settings[key] != AUTHORS[key] for key in ("rows", "noise_std")):
        return
    for cell in cells:
        if (cell.side, cell.codes, cell.posterior) == (AUTHORS["side"], AUTHORS["codes"], "full"):
            found, runs = int(AUTHORS["found"]), int(AUTHORS["runs"])
            here = _recovery.percent(int(_found(cell, settings["found"]).sum()), len(cell))
            yield (
                f"The paper's own code found all ten bars in {found} of {runs} such data sets "
                f"({_recovery.percent(found, runs)}); here it is {_count(settings['found'], cell)} ({here})."
            )


def _pictures(cells: list[Cell], settings: dict[str, Any]) -> Iterable[Picture]:
    yield _of_intervals(cells, settings)
    ends = (min(settings["sides"]), max(settings["sides"]))
    for cell in cells:
        if cell.side in ends and cell.posterior == "full":
            yield _of_fields(cell)
            yield _of_bounds(cell, settings)
        elif cell.side == ends[0] and cell.posterior == "diagonal":
            yield _of_fields(cell)


def _of_intervals(cells: list[Cell], settings: dict[str, Any]) -> Picture:
    series: dict[str, list[tuple[float, float, float]]] = {posterior: [] for posterior in settings["posteriors"]}
    ordered = sorted(cells, key=lambda cell: settings["codes"].index(cell.codes))  # and by side, as they come
    names = [f"{cell.codes}\n{2 * cell.side}" for cell in ordered if cell.posterior == settings["posteriors"][0]]
    for cell in ordered:
        found = int(_found(cell, settings["found"]).sum())
        series[cell.posterior].append((found / len(cell), *_recovery.exact_interval(found, len(cell))))
    draw = partial(
        plotting.intervals, names, series, xlabel="codes and number of bars", ylabel="runs with all bars found"
    )
    return Picture("recovery", "Share of runs that found all bars, with 95% intervals.", draw, width=6.4)


def _of_fields(cell: Cell) -> Picture:
    columns = min(cell.side, MOST_COLUMNS)
    draw = partial(plotting.dictionary, cell.runs[0]["fields"], patch_shape=(cell.side, cell.side), columns=columns)
    caption = (
        f"{2 * cell.side} bars, {cell.codes} codes, {cell.posterior} posteriors, seed 0: the atom that is matched with "
        "each bar, first the horizontal ones, with the bar's sign."
    )
    lines = -(-2 * cell.side // columns)
    return Picture(_file("fields", cell), caption, draw, width=3.6, height=3.6 * lines / columns)


def _of_bounds(cell: Cell, settings: dict[str, Any]) -> Picture:
    shown = cell.runs[: settings["shown"]]
    groups: dict[str, list[np.ndarray]] = {"all found": [], "some missed": []}
    for one in shown:
        kind = "all found" if one["worst"] >= settings["found"] else "some missed"
        groups[kind].append(np.array(one["bounds"]) - one["truth"])
    draw = partial(plotting.runs_by_sweep, groups, ylabel="bound − that of the true bars (nats)", level="true bars")
    caption = (
        f"{2 * cell.side} bars, {cell.codes} codes, full posteriors: the bound after every sweep of {len(shown)} runs, "
        "minus that of the true bars in the same data."
    )
    return Picture(_file("bounds", cell), caption, draw)


def _file(what: str, cell: Cell) -> str:
    return f"{what}-{cell.name.replace('.', '-')}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
