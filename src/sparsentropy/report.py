"""One page about one run: what was learned, how learning went, and how to read each picture.

`write_report` turns a `Result` into ``report.html``, one file that loads nothing from elsewhere, and
``metrics.json``, the same numbers for programs. The page follows the reader's choice of light or dark and can
be printed. Both files appear whole or not at all.
"""

import json
import math
import os
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sparsentropy import plotting, storage
from sparsentropy.results import Result, jsonable

Array = NDArray[Any]

# Codes beyond so many prior scales are large; a Laplace variable is beyond them once in 148 times.
_LARGE = 5.0
# What is drawn of a large dictionary: enough to see it, and the page stays small.
_MOST_ENTRIES, _MOST_ROWS = 270_000, 300


def headline(result: Result) -> str:
    """Say in plain words what the run found.

    Parameters
    ----------
    result : Result
        The run.

    Returns
    -------
    str
        Two or three short sentences.

    Examples
    --------
    >>> x = np.zeros((1, 4))
    >>> numbers = {"n_samples": 40_000, "noise_std": 0.0821, "atoms_in_use": 1}
    >>> print(headline(Result("", x, np.ones(1), x[0], x[0], x, x, np.ones((1, 1)), numbers, {}, (2, 2))))
    1 atom learned from 40,000 patches of 2 × 2 pixels. The noise standard deviation, 0.0821, and the scale of
    every atom were found by the method, not set. 1 atom is in use.
    """
    h, d = result.components.shape
    shape = result.patch_shape
    points = f"data points with {d:,} features"
    if shape is not None:
        points = f"patches of {shape[0]} × {shape[1]} pixels"
    n, std, used = (result.metrics.get(name) for name in ("n_samples", "noise_std", "atoms_in_use"))
    found = "" if std is None else f", {_number(std)},"
    sentences = [
        f"{h:,} {'atom' if h == 1 else 'atoms'} learned from {'' if n is None else f'{n:,} '}{points}.",
        f"The noise standard deviation{found} and the scale of every atom were found by the method, not set.",
    ]
    if used is not None:
        sentences.append(f"{used:,} {'atom is' if used == 1 else 'atoms are'} in use.")
    return " ".join(sentences)


def write_report(result: Result, folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` and ``metrics.json`` into a folder.

    Parameters
    ----------
    result : Result
        The run.
    folder : path
        Made if it is not there; files of these two names in it are replaced.

    Returns
    -------
    Path
        Where ``report.html`` is.

    Raises
    ------
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> x = np.eye(4)
    >>> result = Result("four", x, np.ones(4), np.arange(3.0), np.ones(3), x, x, x, {}, {}, (2, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(result, folder)
    ...     sorted(file.name for file in page.parent.iterdir())
    ['metrics.json', 'report.html']
    """
    folder = Path(folder)
    # Both are made before the first is written, so that a failure leaves an earlier report as it was.
    files = {"metrics.json": _json(result), "report.html": render(result)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with storage.replacing(folder / name) as file:
            file.write(text.encode())
    return folder / "report.html"


def render(result: Result) -> str:
    """Make the page.

    Parameters
    ----------
    result : Result
        The run.

    Returns
    -------
    str
        HTML that needs no other file.

    Examples
    --------
    >>> x = np.eye(4)
    >>> page = render(Result("a < b", x, np.ones(4), np.arange(3.0), np.ones(3), x, x, x, {}, {}, (2, 2)))
    >>> page[:15], "<h1>a &lt; b</h1>" in page
    ('<!doctype html>', True)
    """
    return template("report.html.j2").render(
        result=result,
        headline=headline(result),
        notice=_notice(result),
        tiles=_tiles(result),
        settings={name.replace("_", " "): _plain_text(value) for name, value in result.settings.items()},
        shown=len(_shown(result)),
        excess=_excess_of_large_codes(result),
        prepared=_is_prepared(result),
        version=version("sparsentropy"),
        **_figures(result),
    )


def template(name: str) -> jinja2.Template:
    """A page with gaps, from the folder `templates`; what is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsentropy"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _figures(result: Result) -> dict[str, Markup]:
    held_out = result.held_out_bounds
    if held_out is None:
        held_out = result.metrics.get("held_out_bound")
    draw = plotting.lower_bound
    return {
        "dictionary": _dictionary(result),
        "examples": _examples(result),
        "bound": _svg("bound", "The bound by sweep", lambda ax: draw(result.lower_bounds, ax, held_out)),
        "noise": _svg("noise", "Noise by sweep", lambda ax: plotting.noise(result.noise_std_per_sweep, ax)),
        "scales": _svg("scales", "Prior scales", lambda ax: plotting.prior_scales(result.prior_scale, ax)),
        "sparsity": _svg(
            "sparsity",
            "Histogram of the codes beside the Laplace density",
            lambda ax: plotting.sparsity(result.codes, ax, prior_scale=result.prior_scale),
        ),
    }


def _dictionary(result: Result) -> Markup:
    atoms, shape, order = result.components, result.patch_shape, _shown(result)
    if shape is None:
        height = min(6.0, 1.2 + 0.12 * len(order))
        return _svg(
            "dictionary",
            "Atoms by row",
            lambda ax: plotting.atom_profile(atoms, ax, order=order, feature_names=result.feature_names),
            7.5,
            height,
        )
    columns = _columns(len(order))
    width = 7.5 * min(columns, len(order)) / columns
    height = 7.5 / columns * math.ceil(len(order) / columns) * shape[0] / shape[1]
    return _svg(
        "dictionary",
        "All atoms as small images",
        lambda ax: plotting.dictionary(atoms, ax, patch_shape=shape, order=order, columns=columns),
        width,
        height,
    )


def _columns(atoms: int) -> int:
    """Atoms in a row: neither posters nor postage stamps, and the last row as full as can be."""
    wanted = min(30, max(10, math.ceil(math.sqrt(2.5 * atoms))))
    nearby = range(max(10, round(0.8 * wanted)), round(1.25 * wanted) + 1)
    return min(nearby, key=lambda columns: (-atoms % columns, abs(columns - wanted)))


def _examples(result: Result) -> Markup:
    originals, fits, shape = result.originals, result.reconstructions, result.patch_shape
    label = "Data points and their reconstructions"
    if shape is None:
        height = 1.0 + 0.55 * len(originals)
        names = result.feature_names
        return _svg("examples", label, lambda ax: plotting.profiles(originals, fits, ax, names), 7.5, height)
    residuals = originals - fits
    side = 0.71
    width, height = 1.0 + side * len(originals), 3 * side * shape[0] / shape[1]
    return _svg("examples", label, lambda ax: plotting.examples(originals, fits, residuals, shape, ax), width, height)


def _shown(result: Result) -> Array:
    """Find which atoms are drawn: those with the largest scales, in this order."""
    fit = _MOST_ENTRIES // result.components.shape[1] if result.patch_shape else _MOST_ROWS
    most = max(1, min(1024, fit))
    return np.argsort(-result.prior_scale, kind="stable")[:most]


def _excess_of_large_codes(result: Result) -> float | None:
    """Find how many times as many codes are large as the Laplace prior expects, if that is more than by chance."""
    scale = result.prior_scale
    # P(|z| > t λ) = exp(−t); the count of large codes scatters by the square root of what is expected
    expected = len(result.codes) * int((scale > 0).sum()) * math.exp(-_LARGE)
    large = int((np.abs(result.codes) > _LARGE * scale)[:, scale > 0].sum())
    return large / expected if large > 1.5 * expected + 3 * math.sqrt(expected) else None


def _is_prepared(result: Result) -> bool:
    """Whether what the model takes is not the data as they were given."""
    settings = result.settings
    whitened = settings.get("whiten") not in (None, "none")
    return whitened or result.patch_shape is not None or bool(settings.get("remove_mean"))


def _svg(name: str, label: str, draw: Callable[[Any], object], width: float = 3.6, height: float = 2.6) -> Markup:
    """Draw as an SVG element whose colours follow the page and whose identifiers are its own."""
    svg = plotting.to_svg(draw, width=width, height=height)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for color, variable in (
        (plotting.INK, "currentColor"),
        (plotting.ACCENT, "var(--accent)"),
        (plotting.MUTED, "var(--muted)"),
    ):
        svg = svg.replace(color, variable)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def _tiles(result: Result) -> list[tuple[str, str, str]]:
    """Choose the numbers at the top of the page: name, value, unit."""
    get = result.metrics.get
    unit = "nats per data point" + (f", of {get('space')}" if get("space") else "")
    whiten = result.settings.get("whiten")
    tiles = [
        ("Held-out bound", get("held_out_bound"), _plus_or_minus(get("held_out_standard_error")) + unit),
        ("Training bound", get("lower_bound"), unit),
        ("Noise std", get("noise_std"), "data units" if whiten in (None, "none") else "units of the whitened data"),
        ("Atoms in use", get("atoms_in_use"), f"of {len(result.components):,}"),
        ("Gini of the codes", get("gini"), "0 dense, 1 sparse"),
        ("Sweeps", get("n_iter"), _duration(get("seconds"))),
    ]
    return [(name, _number(value), unit) for name, value, unit in tiles if value is not None]


def _plus_or_minus(error: float | None) -> str:
    return "" if error is None else f"± {error:.2g} (standard error), "


def _notice(result: Result) -> str:
    if result.metrics.get("interrupted"):
        return "Learning was interrupted. The best state reached until then is kept and shown here."
    if result.metrics.get("converged") is False:
        return "Learning ended at the largest number of sweeps before the bound settled. More may raise it."
    return ""


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return ""
    return f"in {seconds:.1f} s" if seconds < 60 else f"in {seconds // 60:.0f} min {seconds % 60:.0f} s"


def _number(value: float) -> str:
    return (f"{value:,}" if isinstance(value, int) else f"{value:.4g}").replace("-", "−")


def _plain_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else str(value)


def _json(result: Result) -> str:
    content = {"title": result.title, **result.metrics, "settings": result.settings}
    return json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
