"""The experiments of the paper, each as one command: `sparsentropy reproduce NAME`.

An experiment is a module with a function `run` and a TOML file beside it that holds every number and seed, once in full
and once in a small version that takes seconds. What it finds is written into a folder: metrics as JSON, pictures, and a
page that says what is seen. None of it is used by the rest of the library.
"""

import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsentropy.experiments.finding import Finding, write
from sparsentropy.experiments.log import Log

NAMES = ("theorem", "bars", "objectives", "patches", "robustness", "scaling", "amortization")

__all__ = ["NAMES", "Finding", "Log", "reproduce", "settings"]


def settings(name: str, *, quick: bool) -> dict[str, Any]:
    """The numbers of an experiment.

    Parameters
    ----------
    name : str
    quick : bool
        The small version.

    Raises
    ------
    ValueError
        If there is no such experiment.

    Examples
    --------
    >>> settings("theorem", quick=True)["seeds"]
    [0]
    """
    if name not in NAMES:
        raise ValueError(f"There is no experiment {name!r}: choose from {', '.join(NAMES)}.")
    text = files("sparsentropy.experiments").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["quick" if quick else "full"]


def reproduce(name: str, folder: Path, *, quick: bool, jobs: int = 1, tell: Callable[[str], object] = print) -> Path:
    """Run an experiment and write what it found; go on where it was stopped, if it was.

    Parameters
    ----------
    name : str
    folder : Path
        Made if it is not there.
    quick : bool
        The small version.
    jobs : int
        Processes that share the runs of bars, patches and robustness. The other experiments measure times, or have few
        runs, and use one. A script that asks for more must be guarded by ``if __name__ == "__main__"``.
    tell : callable
        Hears a line whenever a part is done.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        If there is no such experiment, or `jobs` is not positive.
    OSError
        If the folder cannot be written.
    """
    numbers = settings(name, quick=quick)
    if jobs < 1:
        raise ValueError(f"An experiment needs one process at least; got jobs = {jobs}.")
    log = Log(tell, folder, {"name": name, "version": version("sparsentropy"), **numbers}, jobs)
    finding: Finding = import_module(f"sparsentropy.experiments.{name}").run(numbers, log)
    page = write(finding, folder, command=f"sparsentropy reproduce {name}{' --quick' if quick else ''}")
    log.close()
    return page
