"""What an experiment has found, and the folder it becomes.

A finding is a title, sentences, metrics and pictures. In the folder the metrics are a JSON file, every picture is an
SVG file, and a page in Markdown holds all of it together. Files appear whole or not at all.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """

    name: str
    caption: str
    draw: Callable[[Any], object]


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
        By name, numbers or lists of numbers.
    pictures : tuple of Picture
    """

    title: str
    claim: str
    seen: tuple[str, ...]
    metrics: Metrics
    pictures: tuple[Picture, ...]


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
        _put(folder / f"{picture.name}.svg", plotting.to_svg(picture.draw, width=4.8, height=3.2) + "\n")
    _put(folder / "metrics.json", json.dumps(dict(finding.metrics), indent=2) + "\n")
    page = folder / "index.md"
    _put(page, _page(finding, command))
    return page


def _put(path: Path, text: str) -> None:
    with storage.replacing(path) as file:
        file.write(text.encode())


def _page(finding: Finding, command: str) -> str:
    pictures = "\n\n".join(f"![{p.caption}]({p.name}.svg)\n\n*{p.caption}*" for p in finding.pictures)
    seen = "\n\n".join(finding.seen)
    text = (f"# {finding.title}", f"**The claim.** {finding.claim}", f"**What is seen.** {seen}", pictures)
    return "\n\n".join((*text, f"`{command}`")) + "\n"
