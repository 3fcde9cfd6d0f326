"""Commands that take images and give images: without their noise, and without their gaps.

Several files, or folders of them, go into a folder. One that cannot be read is reported and does not stop the rest.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparsentropy import terminal
from sparsentropy.options import Clean, Images, KnownSigma, Mask, Noisy, Page, PatchModel, Seed, Sigma

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
    from sparsentropy.imaging import batch

    _work(images, output, page, batch.Denoising(sigma, _model(model), seed))


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
    from sparsentropy.imaging import batch

    if noisy and sigma is not None:
        raise ValueError("--noisy means that the noise is to be found out, --sigma tells it; give one of them")
    known = None if noisy else sigma or 0.0
    _work(images, output, page, batch.Inpainting(mask, known, _model(model), seed))


def _model(path: Path | None) -> "SparseCoding | None":
    from sparsentropy import runs

    return None if path is None else runs.read_patches(path)


def _work(images: Sequence[Path], output: Path, page: Path | None, act: "batch.Act") -> None:
    """Do it to every image, and write the page."""
    from sparsentropy import progress, storage
    from sparsentropy.imaging import batch

    jobs = batch.jobs(images, output)
    if page is not None:
        storage.check_output(page, (".html",))
    console = terminal.console()  # one for both, so that lines and bar do not write over each other
    with progress.share(console) as tell:
        done = batch.run(jobs, act, tell=tell, say=partial(terminal.say, to=console))
    if page is not None:
        batch.write_page(page, act, [one for one in done if one.failure is None])
        print(page)
    if failed := sum(one.failure is not None for one in done):
        raise ValueError(f"{failed} of {len(done)} images failed, as said above; the others are written")
