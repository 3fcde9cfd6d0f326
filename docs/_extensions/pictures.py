"""The order of the gallery, and a check that every example makes a picture."""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)

ORDER = (
    "bars",
    "photographs",
    "denoise",
    "inpaint",
    "melody",
    "digits",
    "table",
    "surplus",
    "intervals",
    "annealing",
    "encoder",
)
"""From what the library is for to its settings; examples that are not named come last."""


class ReadingOrder:
    """Where an example stands in the gallery.

    Parameters
    ----------
    folder : str
        That the examples are in.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, file: str) -> tuple[int, str]:
        """Sort by `ORDER`, then by name."""
        name = Path(file).stem.removeprefix("plot_")
        return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def check(app: Sphinx) -> None:
    """Look for the first picture of every example, once the gallery has run."""
    source = Path(app.srcdir)
    for example in sorted((source.parent / "examples").glob("plot_*.py")):
        if not (source / "gallery" / "images" / f"sphx_glr_{example.stem}_001.png").exists():
            LOG.warning("%s made no picture", example.name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Check after sphinx-gallery, which has the usual priority of 500."""
    app.connect("builder-inited", check, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
