"""What an experiment has found, and the folder it becomes.

A finding is a title, sentences, metrics, tables and pictures. In the folder the metrics are a JSON file, every picture
is an SVG file, and a page in Markdown holds all of it together. What was timed stands apart from the metrics, since it
is another number on another machine. Files appear whole or not at all.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from sparsentropy import plotting, storage

Metrics = Mapping[str, float | int | list[float]]


@final
@dataclass(frozen=True)
class Picture:
    """Something to look at.

    Parameters
    ----------
    name : str
        Of its file, without ending.
    caption : str
    draw : callable
        Draws on axes of matplotlib.
    width, height : float
        Inches.
    """

    name: str
    caption: str
    draw: Callable[[Any], object]
    width: float = 4.8
    height: float = 3.2


@final
@dataclass(frozen=True)
class Table:
    """Something to read.

    Parameters
    ----------
    caption : str
    columns : tuple of str
    rows : tuple of tuples of str
        As wide as there are columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Finding:
    """The result of an experiment.

    Parameters
    ----------
    title : str
    claim : str
        What the paper says.
    seen : tuple of str
        Sentences about what is seen, with numbers.
    metrics : mapping
        By name, numbers or lists of numbers; the same on every machine.
    pictures : tuple of Picture
    tables : tuple of Table
    times : mapping
        Like `metrics`, in seconds, rows per second and so on: of this machine.
    """

    title: str
    claim: str
    seen: tuple[str, ...]
    metrics: Metrics
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...] = ()
    times: Metrics = field(default_factory=dict)


def write(finding: Finding, folder: Path, *, command: str) -> Path:
    """Write a finding.

    Parameters
    ----------
    finding : Finding
    folder : Path
        Made if it is not there.
    command : str
        That leads to it; stands on the page.

    Returns
    -------
    Path
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for picture in finding.pictures:
        _put(
            folder / f"{picture.name}.svg",
            plotting.to_svg(picture.draw, width=picture.width, height=picture.height) + "\n",
        )
    _put(folder / "metrics.json", json.dumps(dict(finding.metrics), indent=2) + "\n")
    if finding.times:
        _put(folder / "times.json", json.dumps(dict(finding.times), indent=2) + "\n")
    page = folder / "index.md"
    _put(page, _page(finding, command))
    return page


def _put(path: Path, text: str) -> None:
    with storage.replacing(path) as file:
        file.write(text.encode())


def _page(finding: Finding, command: str) -> str:
    pictures = [f"![{p.caption}]({p.name}.svg)\n\n*{p.caption}*" for p in finding.pictures]
    seen = "\n\n".join(finding.seen)
    text = (f"# {finding.title}", f"**The claim.** {finding.claim}", f"**What is seen.** {seen}")
    return "\n\n".join((*text, *map(_in_markdown, finding.tables), *pictures, f"`{command}`")) + "\n"


def _in_markdown(table: Table) -> str:
    rows = (table.columns, ("---",) * len(table.columns), *table.rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n*{table.caption}*"
