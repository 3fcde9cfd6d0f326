"""What the experiment `patches` has found, as sentences, tables and pictures.

Differences to learning without annealing are taken seed by seed, at the same data and start, so what the data
contribute to both drops out. An effect is called one only if it has the same sign for every seed.
"""

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsentropy import plotting
from sparsentropy.experiments.finding import Finding, Picture, Table

Runs = dict[tuple[str, str, str], list[dict[str, Any]]]
"""Group of atoms, method and schedule to the runs of all seeds."""

NUMBERS = ("bound", "held_out", "gini", "gini_std", "noise", "active", "local", "sweeps")
CURVES = 4  # schedules in a picture


def finding(runs: Runs, settings: Mapping[str, Any]) -> Finding:
    """All runs together."""
    metrics: dict[str, float | int | list[float]] = {}
    times: dict[str, float | int | list[float]] = {}
    for key, each in runs.items():
        for name in NUMBERS:
            metrics[".".join((*key, name)).replace(" ", "-")] = [one[name] for one in each]
        times[".".join((*key, "seconds")).replace(" ", "-")] = [one["seconds"] for one in each]
    seen = [sentence for group in settings["groups"] for sentence in _seen(runs, group)]
    return Finding(
        title="Natural images: does annealing help?",
        claim="Annealing the entropies one by one, the prior's above all, improves learning and makes codes sparser.",
        seen=tuple(seen),
        metrics=metrics,
        tables=tuple(_table(runs, group, own) for group, own in settings["groups"].items()),
        pictures=tuple(picture for group in settings["groups"] for picture in _pictures(runs, group, settings)),
        times=times,
    )


def with_atoms(own: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Methods and schedules whose atoms are shown."""
    first = [(own["methods"][0], annealing) for annealing in settings["annealing"][:2]]
    return [*first, *((("full", "none"),) if "full" in own["methods"] else ())]


def _values(each: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([one[name] for one in each], dtype=float)


def _change(runs: Runs, key: tuple[str, str, str], name: str) -> NDArray[np.float64]:
    """By how much more than without annealing, seed by seed."""
    group, method, _ = key
    return _values(runs[key], name) - _values(runs[group, method, "none"], name)


def _annealed(runs: Runs, group: str) -> list[tuple[str, str, str]]:
    return [key for key in runs if key[0] == group and key[2] != "none"]


def _seen(runs: Runs, group: str) -> list[str]:
    """What annealing did to the bound, to sparsity and to the number of sweeps; then which posterior was best."""
    sentences = []
    asked = (
        ("held_out", "held-out bound", "{:+.2f} nats"),
        ("gini", "Gini coefficient", "{:+.4f}"),
        ("sweeps", "number of sweeps", "{:+.0f}"),
    )
    for name, noun, form in asked:
        changes = {key: _change(runs, key, name) for key in _annealed(runs, group)}
        if not changes:
            continue
        higher, lower = (sorted(key for key, value in changes.items() if (sign * value > 0).all()) for sign in (1, -1))
        every = np.concatenate(list(changes.values()))
        sentences.append(
            f"{group}: with annealing the {noun} was higher for every seed in {len(higher)} and lower in {len(lower)} "
            f"of {len(changes)} combinations of method and schedule; the change was {form.format(every.mean())} on "
            f"average, from {form.format(every.min())} to {form.format(every.max())}."
        )
    plain = {key[1]: _values(each, "held_out") for key, each in runs.items() if key[0] == group and key[2] == "none"}
    ranked = sorted(plain, key=lambda method: -plain[method].mean())
    listed = ", ".join(f"{method} {plain[method].mean():.2f}" for method in ranked)
    sentences.append(f"{group}: held-out bounds without annealing, from the highest: {listed} nats.")
    return sentences


def _table(runs: Runs, group: str, own: Mapping[str, Any]) -> Table:
    columns = (
        "posterior",
        "annealing",
        "held-out bound, nats",
        "change",
        "Gini of draws",
        "σ",
        "in use",
        "local, oriented",
    )
    rows = []
    for key, each in runs.items():
        if key[0] != group:
            continue
        change = "–" if key[2] == "none" else _spread(_change(runs, key, "held_out"), "+.2f")
        gini = f"{_values(each, 'gini').mean():.3f} ± {_values(each, 'gini_std').mean():.3f}"
        rows.append(
            (
                *key[1:],
                _spread(_values(each, "held_out"), ".2f"),
                change,
                gini,
                f"{_values(each, 'noise').mean():.4f}",
                f"{_values(each, 'active').mean():.0f}",
                f"{_values(each, 'local').mean():.0%}",
                _spread(_values(each, "sweeps"), ".0f") + ("" if all(one["converged"] for one in each) else " (limit)"),
                f"{_values(each, 'seconds').mean():.0f}",
            )
        )
    caption = (
        f"{group}: {own['atoms']} atoms, {own['rows']:,} patches; mean ± standard deviation over seeds, that of Gini "
        "coefficients over patches. *Change*: to learning without annealing, seed by seed. *Limit*: not converged for "
        "some seed when the sweeps were used up."
    )
    return Table(caption, (*columns, "sweeps", "s"), tuple(rows))


def _spread(values: NDArray[np.float64], form: str) -> str:
    return f"{values.mean():{form}}" + (f" ± {values.std(ddof=1):{form.lstrip('+')}}" if len(values) > 1 else "")


def _pictures(runs: Runs, group: str, settings: Mapping[str, Any]) -> list[Picture]:
    own = settings["groups"][group]
    slug = group.replace(" ", "-")
    keys = _annealed(runs, group)
    pictures = []
    for name, noun in (("held_out", "held-out bound (nats)"), ("gini", "Gini coefficient")):
        rows = {
            f"{method}, {annealing}": _change(runs, (group, method, annealing), name) for _, method, annealing in keys
        }
        caption = (
            f"{group}: change of the {noun.split(' (')[0]} by annealing, a grey dot for each seed, their mean in blue."
        )
        draw = partial(plotting.by_row, rows, xlabel=f"change of the {noun}")
        pictures.append(Picture(f"{slug}-{name.replace('_', '-')}", caption, draw, 5.6, 0.8 + 0.2 * len(rows)))
    method = own["methods"][0]
    curves = {annealing: _curve(runs[group, method, annealing][0]) for annealing in settings["annealing"][:CURVES]}
    pictures += [
        Picture(
            f"{slug}-curves",
            f"{group}, {method}: the training bound by time, sweeps over all patches.",
            partial(plotting.against, curves, xlabel="seconds", ylabel="nats per data point", log_y=False),
        ),
        Picture(
            f"{slug}-gabors",
            f"{group}: windows of the local, oriented atoms in periods of their gratings; blobs are near the origin.",
            partial(plotting.clouds, _windows(runs, group, own["methods"]), xlabel="σ f across", ylabel="σ f along"),
        ),
    ]
    return pictures + [_atoms(runs, (group, *key), settings) for key in with_atoms(own, settings)]


def _curve(one: dict[str, Any]) -> tuple[list[float], list[float]]:
    seconds, bounds = zip(*one["curve"], strict=True)
    return list(seconds), list(bounds)


def _windows(runs: Runs, group: str, methods: list[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Gratings under their windows, without annealing, for the methods that can be told apart."""
    found = {}
    for method in methods[:3]:
        each = [one for one in runs[group, method, "none"] if any(one["gabor"])]
        across, along = (
            [
                f * width
                for one in each
                for f, width, fits in zip(one["frequency"], one[name], one["gabor"], strict=True)
                if fits
            ]
            for name in ("across", "along")
        )
        if each:
            found[method] = (across, along)
    return found or {"none": ([0.0], [0.0])}


def _atoms(runs: Runs, key: tuple[str, str, str], settings: Mapping[str, Any]) -> Picture:
    size = settings["size"]
    levels = np.frombuffer(base64.b64decode(runs[key][0]["atoms"]), dtype=np.int8)
    atoms = levels.reshape(-1, size**2).astype(float)
    return Picture(
        f"{'-'.join(key)}-atoms".replace(" ", "-"),
        f"{key[0]}, {key[1]}, annealing {key[2]}: the atoms with the {len(atoms)} largest scales, in that order.",
        partial(plotting.dictionary, atoms, patch_shape=(size, size)),
        6.4,
        4.2,
    )
