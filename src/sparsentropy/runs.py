"""The folder a run leaves behind, and the model in it.

Such a folder holds ``model.safetensors`` (the model), ``preparation.safetensors`` (how data became rows),
``run.safetensors`` (the arrays of the report), ``metrics.json`` and ``report.html``. They are replaced together, once
the last of them is there.
"""

import json
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from sparsentropy import folders, report, results
from sparsentropy import preparation as preparations
from sparsentropy.preparation import Preparation
from sparsentropy.results import Result

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding

FILES = folders.FILES
PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>No report</title><p>{word}</p></html>'


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
        If a file cannot be written; an earlier run in the folder is unchanged.
    RuntimeError
        If the report cannot be made; what was learned is written all the same, with a word instead of the report.
    """
    failure = None
    with folders.replacing(folder) as new:
        model.save(new / "model.safetensors")
        preparations.save(preparation, new / "preparation.safetensors")
        results.save(result, new / "run.safetensors")
        try:
            report.write_report(result, new)
        except Exception as error:  # hours of learning are not lost to a picture, nor left under an earlier report
            failure = error
            word = "The report of this run could not be made; try the command sparsentropy report."
            for name, text in (("metrics.json", json.dumps({"error": word})), ("report.html", PAGE.format(word=word))):
                (new / name).write_text(text + "\n")
    if failure is not None:
        why = getattr(failure.__context__, "strerror", None) or f"{type(failure).__name__}: {failure}"
        raise RuntimeError(
            f"the model is written to {folder}, but its report could not be made ({why}); once that is mended, make it "
            f"with: sparsentropy report {folder}"
        ) from failure
    return folder / "report.html"


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
    folders.member(folder, "run.safetensors")  # before anything is made in a folder that may be another one
    with folders.replacing(folder) as new:
        result = results.load(folders.member(folder, "run.safetensors"))
        return folder / report.write_report(result, new).name


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

    def both(places: Mapping[str, Path]) -> tuple[SparseCoding, Preparation]:
        beside = places["preparation.safetensors"]
        return SparseCoding.load(folders.model(path)), preparations.load(beside) if beside.exists() else Preparation()

    return folders.reading(path if path.is_dir() else path.parent, both)


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
