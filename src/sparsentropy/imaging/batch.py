"""Many image files, one after the other, and a page that shows what was done to them.

A file that fails is reported and left out; the others are written. Where each result goes is settled before the first
one is computed.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final

import numpy as np
from numpy.typing import NDArray

from sparsentropy import storage, terminal
from sparsentropy.datasets.images import folder_files
from sparsentropy.imaging import files, views
from sparsentropy.imaging.denoising import denoise
from sparsentropy.imaging.inpainting import inpaint
from sparsentropy.imaging.noise import estimate_noise

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

# What the content of a file may lead to; anything else is a mistake in the program
EXPECTED = (OSError, ValueError, TypeError, MemoryError, ArithmeticError, RuntimeError)


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
    said: str = ""
    seconds: float = 0.0
    shape: tuple[int, ...] = ()
    pictures: tuple[views.View, ...] = ()
    failure: Exception | None = None

    @property
    def unexpected(self) -> bool:
        """Whether it failed by a mistake in the program."""
        return self.failure is not None and not isinstance(self.failure, EXPECTED)


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a picture, what is said of it in a few words, and small pictures of it."""

    picture: files.Picture
    said: str
    shown: tuple[views.View, ...]


class Act(Protocol):
    """Something that is done to one picture after the other."""

    lead: ClassVar[str]
    legend: ClassVar[str]

    def __call__(self, job: Job, picture: files.Picture, tell: Callable[[float], None]) -> Outcome:
        """Do it; `tell` hears the share that is done."""
        ...


@final
@dataclass(frozen=True)
class Denoising:
    """Takes out white noise; parameters as in `imaging.denoise`."""

    lead: ClassVar[str] = "Images without their noise."
    legend: ClassVar[str] = (
        "What was taken out should look like featureless noise; where it shows edges, some of the image was taken for "
        "noise."
    )
    sigma: float | None
    model: "SparseCoding | None"
    random_state: int

    def __call__(self, job: Job, picture: files.Picture, tell: Callable[[float], None]) -> Outcome:
        """See `Act`."""
        del job
        clean, sigma, std = denoise(
            picture.pixels,
            sigma=self.sigma,
            model=self.model,
            return_sigma=True,
            return_std=True,
            random_state=self.random_state,
            callback=tell,
        )
        shown = views.before_and_after(picture.pixels, clean, std, taken_out=True)
        return Outcome(replace(picture, pixels=clean), f"noise of {sigma:.4g}", shown)


@final
@dataclass(frozen=True)
class Inpainting:
    """Fills in what is white in a mask, or else what is transparent; other parameters as in `imaging.inpaint`.

    Parameters
    ----------
    mask : Path, optional
        An image, or a folder with one of the same name for every image.
    sigma : float, optional
        Noise of known pixels; it is found out if it is not told.
    """

    lead: ClassVar[str] = "Images without their gaps."
    legend: ClassVar[str] = "Missing pixels are white in the picture before."
    mask: Path | None
    sigma: float | None
    model: "SparseCoding | None"
    random_state: int

    def __call__(self, job: Job, picture: files.Picture, tell: Callable[[float], None]) -> Outcome:
        """See `Act`."""
        missing = self.missing(job, picture)
        sigma = estimate_noise(picture.pixels, missing) if self.sigma is None else self.sigma
        whole, std = inpaint(
            picture.pixels,
            missing,
            sigma=sigma,
            model=self.model,
            return_std=True,
            random_state=self.random_state,
            callback=tell,
        )
        before = picture.pixels.copy()
        before[missing] = np.iinfo(before.dtype).max if before.dtype.kind in "iu" else whole.max()
        shown = views.before_and_after(before, whole, std, taken_out=False)
        noise = f", noise of {sigma:.4g} removed" if sigma > 0 else ""
        pixels = "pixel" if missing.sum() == 1 else "pixels"
        said = f"{missing.sum():,} missing {pixels} ({missing.mean():.1%}) filled in{noise}"
        return Outcome(replace(picture, pixels=whole, alpha=_opaque(picture.alpha, missing)), said, shown)

    def missing(self, job: Job, picture: files.Picture) -> NDArray[np.bool_]:
        """Which pixels are missing, (rows, columns)."""
        if self.mask is None:
            if picture.alpha is None:
                raise ValueError("it has no transparent pixels, which would be the missing ones; give --mask")
            return picture.alpha == 0
        path = self.mask / job.source.name if self.mask.is_dir() else self.mask
        found = files.read(path).pixels
        grey = found if found.ndim == 2 else found.max(2)
        if grey.shape != picture.pixels.shape[:2]:
            raise ValueError(
                f"the mask {path} has {grey.shape[1]} × {grey.shape[0]} pixels, the image "
                f"{picture.pixels.shape[1]} × {picture.pixels.shape[0]}; they must be the same"
            )
        # Half-way, so that a mask may have been saved with losses
        return grey > grey.max() / 2


def jobs(sources: Sequence[Path], output: Path, mask: Path | None = None) -> list[Job]:
    """What is to be done: one file into a file, anything else into a folder, in which folders keep their shape.

    Parameters
    ----------
    sources : sequence of Path
        Images, and folders of them.
    output : Path
    mask : Path, optional
        A file or a folder that is read, too.

    Returns
    -------
    list of Job

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
    masks = [] if mask is None else [mask] if mask.is_file() else [mask / job.source.name for job in found]
    taken, read = set(), {_identity(path) for path in [*masks, *(job.source for job in found)]}
    for job in found:
        target = job.target.resolve()
        if _identity(target) in read:
            raise ValueError(f"{job.target} is one of the images to read; give another name for the result")
        if target in taken:
            raise ValueError(f"two results would be written to {job.target}; give images of different names")
        taken.add(target)
    return found


def _identity(path: Path) -> tuple[int, int] | Path:
    """What tells whether two names are of one file."""
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino


def _opaque(alpha: NDArray[Any] | None, where: NDArray[np.bool_]) -> NDArray[Any] | None:
    """Transparency without that of some pixels; None where nothing is left of it."""
    if alpha is None:
        return None
    most = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    left = np.where(where, np.array(most, alpha.dtype), alpha)
    return left if (left < most).any() else None


def run(
    todo: Sequence[Job], act: Act, *, tell: Callable[[str, float], None], say: Callable[[str], None]
) -> Iterator[Done]:
    """Do it to one file after the other.

    Parameters
    ----------
    todo : sequence of Job
    act : Act
        What is done.
    tell : callable
        Hears the name of the present file and the share of the work on it that is done.
    say : callable
        Hears a line about every file.

    Yields
    ------
    Done
    """
    return (_done(job, act, tell, say) for job in todo)


def _done(job: Job, act: Act, tell: Callable[[str, float], None], say: Callable[[str], None]) -> Done:
    """Do it to one file. Whatever is wrong with it, the next one has its turn; only Ctrl-C ends all."""

    def about(text: str) -> str:
        return terminal.one_line(text if str(job.source) in text else f"{job.source}: {text}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            done = _finished(job, act, lambda share: tell(job.source.name, share))
        except Exception as error:
            done = Done(job, failure=error)
    for warning in caught:
        say(f"note: {about(str(warning.message))}")
    if done.failure is None:
        say(f"{job.source}: {done.said}, written to {job.target}")
    else:
        kind = f"{type(done.failure).__name__}: " if done.unexpected or not str(done.failure) else ""
        say(f"failed: {about(f'{kind}{done.failure}')}")
    return done


def _finished(job: Job, act: Act, tell: Callable[[float], None]) -> Done:
    tell(0.0)
    began = time.monotonic()
    picture = files.read(job.source)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    files.check_writable(job.target, picture)
    outcome = act(job, picture, tell)
    files.write(job.target, outcome.picture)
    shape, said = np.shape(outcome.picture.pixels), outcome.said
    if files.drops_transparency(job.target, outcome.picture):
        said += f", without its transparency, which a {job.target.suffix} file cannot hold"
    return Done(job, said, time.monotonic() - began, shape, outcome.shown)


def write_page(path: Path, act: Act, done: Sequence[Done]) -> None:
    """Write one page about all of them.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with storage.replacing(path) as file:
        file.write(
            views.page(done, act.lead, act.legend).encode(errors="replace")
        )  # names of files may be in any encoding
