"""Many image files, one after the other, and a page that shows what was done to them.

A file that fails is reported and left out; the others are written. Where each result goes is settled before the first
one is computed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from sparsentropy import storage
from sparsentropy.datasets.images import folder_files
from sparsentropy.imaging import files, views
from sparsentropy.imaging.denoising import denoise as denoise_one

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

FAILURES = (OSError, ValueError, TypeError, MemoryError)


@final
@dataclass(frozen=True)
class Job:
    """A file to read, and where the result goes."""

    source: Path
    target: Path


@final
@dataclass(frozen=True)
class Done:
    """What came of a job: small pictures for a page, or why it failed."""

    job: Job
    sigma: float = 0.0
    seconds: float = 0.0
    shape: tuple[int, ...] = ()
    pictures: tuple[views.View, ...] = ()
    failure: str | None = None


def jobs(sources: Sequence[Path], output: Path) -> list[Job]:
    """What is to be done: one file into a file, anything else into a folder, in which folders keep their shape.

    Raises
    ------
    OSError, ValueError
        If there is nothing to do, if two results would have the same name, or if a file would be replaced by its own.
    """
    if len(sources) == 1 and not sources[0].is_dir() and output.suffix and not output.is_dir():
        found = [Job(sources[0], output)]
    else:
        if output.is_file():
            raise NotADirectoryError(f"{output} is a file; give a folder for the results of several images")
        found = [
            Job(file, output / (file.relative_to(source) if source.is_dir() else file.name))
            for source in sources
            for file in (folder_files(source) if source.is_dir() else [source])
        ]
    taken, read = set(), {job.source.resolve() for job in found}
    for job in found:
        target = job.target.resolve()
        if target in read:
            raise ValueError(f"{job.target} is one of the images to read; give another name for the result")
        if target in taken:
            raise ValueError(f"two results would be written to {job.target}; give images of different names")
        taken.add(target)
    return found


def denoise(
    todo: Sequence[Job],
    *,
    sigma: float | None = None,
    model: "SparseCoding | None" = None,
    random_state: int = 0,
    tell: Callable[[str, float], None],
    say: Callable[[str], None],
) -> list[Done]:
    """Denoise files.

    Parameters
    ----------
    todo : sequence of Job
    sigma, model, random_state
        As in `imaging.denoise`.
    tell : callable
        Hears the name of the present file and the share of the work on it that is done.
    say : callable
        Hears a line about every file.

    Returns
    -------
    list of Done
    """
    done = []
    for job in todo:
        try:
            one = _denoised(job, sigma, model, random_state, tell)
            say(f"{job.source}: noise of {one.sigma:.4g}, written to {job.target}")
        except FAILURES as error:
            one = Done(job, failure=str(error))
            text = str(error) if str(job.source) in str(error) else f"{job.source}: {error}"
            say(f"failed: {' '.join(text.split())}")
        done.append(one)
    return done


def _denoised(
    job: Job,
    sigma: float | None,
    model: "SparseCoding | None",
    random_state: int,
    tell: Callable[[str, float], None],
) -> Done:
    began = time.monotonic()
    picture = files.read(job.source)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    files.check_writable(job.target, picture)
    results: Any = denoise_one(
        picture.pixels,
        sigma=sigma,
        model=model,
        return_sigma=True,
        return_std=True,
        random_state=random_state,
        callback=lambda share: tell(job.source.name, share),
    )
    clean, noise, std = results
    files.write(job.target, replace(picture, pixels=clean))
    shown = views.before_and_after(picture.pixels, clean, std)
    return Done(job, noise, time.monotonic() - began, np.shape(clean), shown)


def write_page(path: Path, done: Sequence[Done]) -> None:
    """Write one page about all of them.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with storage.replacing(path) as file:
        file.write(views.page(done).encode())
