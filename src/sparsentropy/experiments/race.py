"""What the objectives have done on one kind of data, as sentences, numbers, tables and pictures.

Three bounds are asked for on every seed. At the *early* one learning from a few samples is after half of its steps, at
the *common* one when it ends, and the *best* one is the highest that any objective has led to; the last two may be
missed by a margin. The time to a bound is that of an objective's quickest run, and where no run has reached it, the
longest one says how long it takes at least. Runs were chosen in two ways, for an early arrival and for a high end, and
much depends on that: factors are told as well for the runs to the highest end alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, final

import numpy as np

from sparsentropy import plotting
from sparsentropy.experiments.arrival import Across, Arrivals, Curve, Run, envelope
from sparsentropy.experiments.finding import Metrics, Picture, Table

NEAREST = 0.02  # nats below the best bound: less is not drawn

Part = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Race:
    """All that was measured on one kind of data.

    Parameters
    ----------
    name : str
        Of the data.
    objectives : tuple of str
        Climbed by gradient; the first one is what the others are compared with.
    common : str
        The objective of these that sets the common bound.
    runs : mapping of str to lists of Run
        Of every objective; the last one is that to the highest end.
    climbs : mapping of str to lists of lists of parts
        Of every objective, every seed and every run.
    library : list of parts
        The library's own learning, every seed.
    others : mapping of str to lists of parts
        Dictionaries that were found otherwise and have been refitted, every seed.
    likelihoods : list of float
        Exact log likelihood of held-out data under Gaussian codes, every seed; nats per data point.
    noises : part
        How noisy gradients are: `after` so many steps, `sampled` (points, k), `analytic` and `entropies` (points).
    counts : list of int
        The k of the sampled ones.
    margin : float
        Nats by which a bound may be missed.
    """

    name: str
    objectives: tuple[str, ...]
    common: str
    runs: Mapping[str, Sequence[Run]]
    climbs: Mapping[str, Sequence[Sequence[Part]]]
    library: Sequence[Part]
    others: Mapping[str, Sequence[Part]]
    likelihoods: Sequence[float]
    noises: Part
    counts: Sequence[int]
    margin: float

    @cached_property
    def curves(self) -> dict[str, list[list[Curve]]]:
        """By method and seed."""
        climbed = {key: [[Curve.of(part) for part in own] for own in self.climbs[key]] for key in self.objectives}
        return {**climbed, "library": [[Curve.of(part)] for part in self.library]}

    @cached_property
    def last(self) -> dict[str, list[Part]]:
        """The run to the highest end, of every method and seed."""
        climbed = {key: [own[-1] for own in self.climbs[key]] for key in self.objectives}
        return {**climbed, "library": list(self.library), **{key: list(parts) for key, parts in self.others.items()}}

    @cached_property
    def targets(self) -> dict[str, list[float]]:
        """By kind and seed, nats per data point."""
        ends = {key: np.array([part["bounds"][-1] for part in self.last[key]]) for key in self.objectives}
        early = [own[-1].at(own[-1].steps[-1] / 2) for own in self.curves[self.common]]
        common, best = ends[self.common] - self.margin, np.max(list(ends.values()), axis=0) - self.margin
        return {"early": early, "common": common.tolist(), "best": best.tolist()}

    def arrivals(self, kind: str, method: str, *, highest: bool = False) -> Arrivals:
        """When a method reaches the early, the common or the best bound, by any run or by that to the highest end."""
        runs = [own[-1:] if highest else own for own in self.curves[method]]
        return Arrivals.of(runs, self.targets[kind])

    # --- Numbers

    def metrics(self) -> dict[str, float | int | list[float]]:
        """What is the same on every machine."""
        found: dict[str, float | int | list[float]] = {}
        for method, parts in self.last.items():
            found[f"{method}.bound"] = [part["bounds"][-1] for part in parts]
            found[f"{method}.held_out"] = [part["held_out"] for part in parts]
        found["gaussian.log_likelihood"] = list(self.likelihoods)
        for method in self.curves:
            for kind in self.targets:
                steps = self.arrivals(kind, method).steps
                found[f"{method}.reached_{kind}"] = int(np.isfinite(steps).sum())
                found[f"{method}.steps_to_{kind}"] = [float(value) for value in steps if np.isfinite(value)]
        for key, runs in self.runs.items():
            found[f"{key}.rates"], found[f"{key}.runs"] = [run.rate for run in runs], [run.steps for run in runs]
        for after, sampled, analytic, entropies in self._points():
            found[f"noise_after_{after}.sampled"] = list(sampled)
            found[f"noise_after_{after}.analytic"], found[f"noise_after_{after}.entropies"] = analytic, entropies
        return {f"{self.name}.{_plain(key)}": value for key, value in found.items()}

    def times(self) -> Metrics:
        """What was timed, in seconds of processor time, and factors of such."""
        found: dict[str, float | int | list[float]] = {}
        for method, parts in self.last.items():
            found[f"{method}.seconds"] = [part["seconds"][-1] for part in parts]
        for method in self.curves:
            for kind in self.targets:
                own = self.arrivals(kind, method)
                found[f"{method}.seconds_to_{kind}"] = [float(value) for value in own.seconds if np.isfinite(value)]
                factor = own.later(self.arrivals(kind, self.objectives[0]))
                found[f"{method}.times_as_long_to_{kind}"] = [float(value) for value in factor.limits]
                factor = self.arrivals(kind, method, highest=True).later(
                    self.arrivals(kind, self.objectives[0], highest=True)
                )
                found[f"{method}.times_as_long_to_{kind}_by_highest"] = [float(value) for value in factor.limits]
        return {f"{self.name}.{_plain(key)}": value for key, value in found.items()}

    def _points(self) -> list[tuple[int, list[float], float, float]]:
        n = self.noises
        return list(zip(n["after"], n["sampled"], n["analytic"], n["entropies"], strict=True))

    # --- Sentences

    def sentences(self) -> tuple[str, ...]:
        """What is seen."""
        first, place = self.objectives[0], self.name.capitalize()
        early, common, best = (self._compared(kind, self.common) for kind in self.targets)
        most = self.runs[self.common][-1].steps
        return (
            f"{place}, to the bound that learning from {self.common} ends at after {most:,} steps, less "
            f"{self.margin:g} nats: the standard bound from {self.common} takes {common}, compared with the {first}; "
            f"in analytic form it takes {self._compared('common', 'analytic')}. To where learning from {self.common} "
            f"is after half of these steps it takes {early}. Each has its quickest run, chosen on other data.",
            f"{place}, if each has only the run that ends highest, one rate and number of steps for all bounds: from "
            f"{self.common} {self._compared('common', self.common, highest=True)} to the end, and "
            f"{self._compared('early', self.common, highest=True)} half way; in analytic form "
            f"{self._compared('common', 'analytic', highest=True)} to the end.",
            f"{place}, to the highest bound that any objective led to, less {self.margin:g} nats: from {self.common} "
            f"the standard bound takes {best}, and in analytic form {self._compared('best', 'analytic')}.",
            f"{place}, held out: {self._ends((first, 'analytic', self.common, 'library'))}; "
            f"{self._best_of_others()}; Gaussian codes, whose log likelihood is exact, "
            f"{_spread(self.likelihoods)} nats.",
            self._noise(),
        )

    def _compared(self, kind: str, method: str, *, highest: bool = False) -> str:
        own, first = (self.arrivals(kind, key, highest=highest) for key in (method, self.objectives[0]))
        seconds, steps = own.later(first), own.later(first, steps=True)
        seeds, notes = len(own.seconds), []
        if len(seconds.values) > 1:
            most = "more than " * (not np.isfinite(seconds.values).all())
            notes.append(f"medians; time {seconds.limits.min():.1f} to {most}{seconds.limits.max():.1f}")
        missed = {method: seeds - own.reached, self.objectives[0]: seeds - first.reached}
        notes += [f"{name} missed it on {count} of {seeds} seeds" for name, count in missed.items() if count]
        text = f"{seconds} times as long and {steps} times the steps"
        return f"{text} ({'; '.join(notes)})" if notes else text

    def _ends(self, methods: Sequence[str]) -> str:
        texts = (f"{method} {_spread([part['held_out'] for part in self.last[method]])}" for method in methods)
        return ", ".join(texts) + " nats"

    def _best_of_others(self) -> str:
        means = {key: float(np.mean([part["held_out"] for part in parts])) for key, parts in self.others.items()}
        best = max(means, key=means.__getitem__)
        return f"the best of the dictionaries that were found otherwise ({best}) {means[best]:.2f} nats"

    def _noise(self) -> str:
        exact = max(max(self.noises["analytic"]), max(self.noises["entropies"]))
        (start, few, *_), *_, (after, many, *_) = self._points()
        at_start, later = (", ".join(f"{value:.2g}" for value in values) for values in (few, many))
        counts = ", ".join(f"{k}" for k in self.counts)
        return (
            f"{self.name.capitalize()}, gradients: E|g − ∇L|²/|∇L|² with k = {counts} samples is {at_start} after "
            f"{start} steps and {later} after {after:,}. Analytic gradients have no variance given the data: for two "
            f"evaluations at the same place |g − g′|²/|g|² is at most {exact:.2g}."
        )

    # --- Tables

    def tables(self) -> tuple[Table, ...]:
        """Where all end, and the way there."""
        return self._table_of_ends(), *map(self._table_of_arrivals, self.targets)

    def _table_of_ends(self) -> Table:
        rows = []
        for method, parts in self.last.items():
            runs = self.runs.get(method, ())
            steps, rates = (f"{runs[-1].steps:,}", f"{runs[-1].rate:g}") if runs else ("", "")
            numbers = ([part[key] if key == "held_out" else part[key][-1] for part in parts] for key in _ENDS)
            rows.append((method, rates, steps, *(_spread(list(values)) for values in numbers)))
        rows.append(("Gaussian codes, log likelihood", "", "", "", "", _spread(self.likelihoods)))
        return Table(
            f"{self.name.capitalize()}: where learning ends, mean ± standard deviation over "
            f"{len(self.library)} seed{'s' * (len(self.library) > 1)}, nats per data point. Bounds are those of "
            "diagonal posteriors; the rate is that of the first step and falls to zero.",
            ("method", "rate", "steps", "seconds", "bound", "held-out bound"),
            tuple(rows),
        )

    def _table_of_arrivals(self, kind: str) -> Table:
        rows, first = [], self.arrivals(kind, self.objectives[0])
        for method, curves in self.curves.items():
            own = self.arrivals(kind, method)
            pace = np.median([1e3 * runs[-1].seconds[-1] / runs[-1].steps[-1] for runs in curves])
            runs = ", ".join(f"{run.rate:g} in {run.steps:,}" for run in self.runs.get(method, ()))
            rows.append((
                method, runs, f"{pace:.3g}", _arrival(own.steps, "{:.0f}"), _arrival(own.seconds, "{:.2f}"),
                str(own.later(first, steps=True)), str(own.later(first)),
            ))  # fmt: skip
        most, less = self.runs[self.common][-1].steps, f"less {self.margin:g} nats"
        target = {
            "early": f"the bound at which learning from {self.common} is after half of its {most:,} steps",
            "common": f"the bound that learning from {self.common} ends at after {most:,} steps, {less}",
            "best": f"the highest bound that any objective led to, {less}",
        }[kind]
        return Table(
            f"{self.name.capitalize()}: the way to {target}. Medians over the seeds that reached it; "
            f"factors are those to the {self.objectives[0]}. A step of the library is a sweep.",
            ("method", "rates in steps", "ms per step", "steps", "seconds", "× steps", "× time"),
            tuple(rows),
        )

    # --- Pictures

    def pictures(self) -> tuple[Picture, ...]:
        """The bound by step and by second, and the noise of gradients."""
        first, most = self.objectives[0], self.objectives[-1]
        by_step = dict.fromkeys((self.objectives[2], self.common, "analytic", first))
        by_second = dict.fromkeys((most, self.common, "library", first))
        place, text = self.name.capitalize(), "nats below the best bound"
        noise = {f"after {after:,}": (self.counts, sampled) for after, sampled, *_ in self._points()}
        return (
            Picture(
                f"{self.name}-steps",
                f"{place}: how far below the best bound of all the analytic bound is, by step, on the first seed. The "
                "curve of an objective is that of whichever of its runs is ahead.",
                partial(plotting.against, self._below(by_step, "steps"), xlabel="step", ylabel=text, log_x=True),
            ),
            Picture(
                f"{self.name}-seconds",
                f"{place}: the same by processor time.",
                partial(plotting.against, self._below(by_second, "seconds"), xlabel="seconds", ylabel=text, log_x=True),
            ),
            Picture(
                f"{self.name}-noise",
                f"{place}: E|g − ∇L|²/|∇L|² of gradients from k samples, after so many steps on the entropy objective. "
                "That of the analytic objectives is zero.",
                partial(plotting.against, noise, xlabel="samples", ylabel="noise of the gradient", log_x=True),
            ),
        )

    def _below(self, methods: Mapping[str, object], across: Across) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        best = max(curve.bounds.max() for own in self.curves.values() for curve in own[0])
        shown = {method: envelope(self.curves[method][0], across) for method in methods}
        return {method: (where, np.maximum(best - bounds, NEAREST)) for method, (where, bounds) in shown.items()}


_ENDS = ("seconds", "bounds", "held_out")


def _plain(name: str) -> str:
    """Without spaces and signs."""
    return re.sub(r"[^\w.]+", "_", name)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def _arrival(values: np.ndarray, form: str) -> str:
    there = np.isfinite(values)
    if not there.any():
        return "–"
    missed = "" if there.all() else f" ({there.sum()} of {len(values)})"
    return form.format(np.median(values[there])) + missed
