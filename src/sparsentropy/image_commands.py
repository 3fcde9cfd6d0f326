"""Commands that take images and give images: without their noise, and without their gaps.

Several files, or folders of them, go into a folder. One that cannot be read is reported and does not stop the rest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sparsentropy import terminal
from sparsentropy.options import Clean, Images, KnownSigma, Mask, Noisy, Page, PatchModel, Seed, Sigma, in_options

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding
    from sparsentropy.imaging import batch


def denoise(
    images: Images,
    output: Clean,
    sigma: Sigma = None,
    model: PatchModel = None,
    page: Page = None,
    seed: Seed = 0,
) -> None:
    """Remove white noise from photographs; how much there is, is found out.

    Several images, or folders of them, are written into a folder.
    A file that cannot be read does not stop the rest.

    Example: [bold]sparsentropy denoise noisy.png -o clean.png --report page.html[/bold]
    """
    _check(images, None, page, model)
    from sparsentropy.imaging import batch

    _work(batch.jobs(images, output), page, batch.Denoising(sigma, _model(model), seed))


def inpaint(
    images: Images,
    output: Clean,
    mask: Mask = None,
    sigma: KnownSigma = None,
    noisy: Noisy = False,
    model: PatchModel = None,
    page: Page = None,
    seed: Seed = 0,
) -> None:
    """Fill in pixels of photographs that are missing: where a mask is white, or else where the image is transparent.

    The mask is an image of the same size, or a folder with a mask of the same name for every image.
    Several images, or folders of them, are written into a folder.

    Example: [bold]sparsentropy inpaint torn.png --mask gaps.png -o whole.png --report page.html[/bold]
    """
    if noisy and sigma is not None:
        raise ValueError("--noisy means that the noise is to be found out, --sigma tells it; give one of them")
    _check(images, mask, page, model)
    from sparsentropy.imaging import batch

    known = None if noisy else sigma or 0.0
    _work(batch.jobs(images, output, mask), page, batch.Inpainting(mask, known, _model(model), seed))


def _model(path: Path | None) -> "SparseCoding | None":
    from sparsentropy import runs

    return None if path is None else runs.read_patches(path)


def _check(images: Sequence[Path], mask: Path | None, page: Path | None, model: Path | None) -> None:
    """Refuse what is not there, before time is spent on imports; one image of several stops no other."""
    from sparsentropy import columns, folders
    from sparsentropy.datasets import checks

    if not any(path.exists() for path in images):
        checks.path("IMAGES", images[0])
    if mask is not None:
        checks.path("--mask", mask)
    if page is not None:
        columns.check(page, (".html",), [path for path in (*images, mask, model) if path is not None])
    if model is not None:
        folders.model(model)


def _work(jobs: "Sequence[batch.Job]", page: Path | None, act: "batch.Act") -> None:
    """Do it to every image, and write the page."""
    from sparsentropy import progress
    from sparsentropy.imaging import batch

    console, done, stopped = terminal.console(), [], False
    # One console for both, so that lines and bar do not write over each other
    with progress.share(console) as tell:
        try:
            done.extend(batch.run(jobs, act, tell=tell, say=lambda text: terminal.say(in_options(text), to=console)))
        except KeyboardInterrupt:
            stopped = True
    good = [one for one in done if one.failure is None]
    if page is not None and good:
        batch.write_page(page, act, good)
        terminal.give(page)
    if mistake := next((one.failure for one in done if one.unexpected), None):
        raise mistake
    if stopped:
        terminal.say(f"interrupted; {len(good)} of {len(jobs)} images are written")
        raise typer.Exit(130)
    if failed := len(done) - len(good):
        rest = "the others are written" if good else "nothing was written"
        raise ValueError(f"{failed} of {len(done)} images failed (see above); {rest}")
