"""The folder a run leaves behind, and the model in it.

Such a folder holds ``model.safetensors`` (the model), ``preparation.safetensors`` (how data became rows),
``run.safetensors`` (the arrays of the report), ``metrics.json`` and ``report.html``. The model comes first:
whatever fails afterwards, what was learned is kept.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from sparsentropy import preparation as preparations
from sparsentropy import report, results
from sparsentropy.preparation import Preparation
from sparsentropy.results import Result

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

FILES = ("model.safetensors", "preparation.safetensors", "run.safetensors", "metrics.json", "report.html")


def check(folder: Path, *, force: bool) -> None:
    """Make sure that a run may be written into a folder, before time is spent on learning.

    Parameters
    ----------
    folder : Path
        The folder; it need not be there.
    force : bool
        Whether it may hold other files, which stay as they are.

    Raises
    ------
    OSError
        If it is a file, or nothing can be written there.
    ValueError
        If it holds files that are not of a run and `force` is false.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check(Path(folder) / "new", force=False)
    """
    above = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, so {folder} cannot be made; give another name")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{above} may not be written to; give another folder")
    others = [] if above != folder else sorted(file.name for file in folder.iterdir() if _is_other(file))
    if others and not force:
        some = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise ValueError(f"{folder} holds other files ({some}); give another folder, or --force")


def _is_other(file: Path) -> bool:
    return file.name not in FILES and not file.name.startswith(".")


def write(folder: Path, model: "SparseCoding", preparation: Preparation, result: Result) -> Path:
    """Write a run folder.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    model : SparseCoding
        The fitted model.
    preparation : Preparation
        How data became rows.
    result : Result
        What the report shows.

    Returns
    -------
    Path
        Where ``report.html`` is.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        # Rows made in another way would be taken without a word, so the two are replaced together
        with preparations.saving(preparation, folder / "preparation.safetensors"):
            model.save(folder / "model.safetensors")
        results.save(result, folder / "run.safetensors")
        return report.write_report(result, folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other run writes into the folder, so that its files are all of one: of the one that ends last."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def rewrite_report(folder: Path) -> Path:
    """Write ``report.html`` and ``metrics.json`` anew from ``run.safetensors``.

    Parameters
    ----------
    folder : Path
        A run folder.

    Returns
    -------
    Path
        Where ``report.html`` is.

    Raises
    ------
    OSError, ValueError
        If ``run.safetensors`` is missing or damaged, or the folder cannot be written.
    """
    return report.write_report(results.load(_member(folder, "run.safetensors")), folder)


def read(path: Path) -> tuple["SparseCoding", Preparation]:
    """Read a model and how its data were prepared.

    Parameters
    ----------
    path : Path
        A run folder, or a model file in it. A model file on its own takes tables as they are.

    Returns
    -------
    SparseCoding, Preparation
        The model and the steps from data to rows.

    Raises
    ------
    OSError, ValueError
        If a file is missing or damaged.
    """
    from sparsentropy.estimator import SparseCoding  # imported late: a report needs no torch

    file = path if path.is_file() else _member(path, "model.safetensors")
    beside = file.with_name("preparation.safetensors")
    return SparseCoding.load(file), preparations.load(beside) if beside.exists() else Preparation()


def read_patches(path: Path) -> "SparseCoding":
    """Read a model whose atoms are patches of images as they are.

    Parameters
    ----------
    path : Path
        A run folder, or a model file in it.

    Returns
    -------
    SparseCoding
        Its atoms have an entry for every pixel, also where the model learned from patches without their mean.

    Raises
    ------
    OSError, ValueError
        If a file is missing or damaged, or the images were whitened.
    """
    model, preparation = read(path)
    if preparation.whiten not in (None, "none"):
        raise ValueError(f"{path} was learned from whitened images; learn with --whiten none --remove-mean")
    patches = copy(model)
    patches.components_ = preparation.restored(model.components_)
    patches.n_features_in_ = patches.components_.shape[1]
    return patches


def _member(folder: Path, name: str) -> Path:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; check the spelling")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} holds no {name}; give a folder written by fit or demo")
    return folder / name
