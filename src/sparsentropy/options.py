"""What can be typed after a command: choices by name, and every option with its type, its limits and its help.

Nothing here computes or imports what takes long. A word that is no choice, or a number out of its limits, is refused
before a command begins.
"""

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Posterior(StrEnum):
    """Shape of the covariance of a posterior."""

    DIAGONAL = "diagonal"
    LOW_RANK = "low-rank"
    FULL = "full"


class Inference(StrEnum):
    """How posteriors are found: solved for, or by an encoder that learns along with the dictionary."""

    ITERATIVE = "iterative"
    AMORTIZED = "amortized"


class Encoder(StrEnum):
    """The E-step broken off early, the network of the paper, or a plain one."""

    UNROLLED = "unrolled"
    RESIDUAL = "residual"
    MLP = "mlp"


class Learning(StrEnum):
    """Steps after sweeps over all data, or after every batch; auto: batches where sweeps need much memory."""

    AUTO = "auto"
    SWEEPS = "sweeps"
    MINIBATCH = "minibatch"


class Annealing(StrEnum):
    """Weights on the entropies during the first sweeps, as in the paper."""

    NONE = "none"
    PRIOR = "prior"
    LIKELIHOOD = "likelihood"
    BETA = "beta"


class Whitening(StrEnum):
    """How data are whitened before learning."""

    OLSHAUSEN = "olshausen"
    ZCA = "zca"
    NONE = "none"


class Dtype(StrEnum):
    """Precision of the computation."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


def option(text: str, *names: str, panel: str | None = None, **more: Any) -> Any:
    """An option with its help and, with a panel, its place in it."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def noise(value: float | None) -> float | None:
    """A noise level that was typed.

    Raises
    ------
    typer.BadParameter
        If it is none.
    """
    if value is not None and not 0 <= value < math.inf:
        raise typer.BadParameter(f"noise is a standard deviation in the units of the pixels, 0 or more; got {value:g}")
    return value


def device(text: str) -> str:
    """The name of a device that was typed.

    Raises
    ------
    typer.BadParameter
        If it is none.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", text) is None:
        raise typer.BadParameter(f"the device must be auto, cpu, cuda or cuda:N; got {text!r}")
    return text


def number(text: str, panel: str, least: float, default: str | None = None, **more: Any) -> Any:
    """An option that is a number of at least `least`; `default` says in words what it is where nobody sets it."""
    return option(text, panel=panel, metavar="N", min=least, show_default=default or True, **more)


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A time as people write it, in seconds.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> seconds("90"), seconds("1.5m"), seconds("2h")
    (90.0, 90.0, 7200.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh]?)", text.strip())
    if found is None:
        raise ValueError(f"--every must be a time such as 60s, 10m or 1.5h; got {text!r}")
    return float(found[1]) * UNITS[found[2] or "s"]


PARAMETERS = {
    "checkpoint_every": "every",
    "n": "patches",
    "n_components": "components",
    "random_state": "seed",
    "size": "patch-size",
    "validation_fraction": "held-out",
}
"""Parameters in Python whose options are called otherwise."""
_LONG = "n_components|random_state|checkpoint_every|validation_fraction|max_iter|batch_size|patch_size|n_init"
_SHORT = (
    "n|size|key|sigma|cache|checkpoint|resume|rank|tol|dtype|device|posterior|inference|encoder|refine|learning|"
    "annealing"
)
_PARAMETER = re.compile(rf"(?<![\w./-])(?:({_LONG})(?![\w]|\.\w)(=[\w.']*)?|({_SHORT})=([\w.']*))")


def in_options(text: str) -> str:
    """A message of the library, with the options of the command line for the parameters of functions.

    Examples
    --------
    >>> in_options("it holds 'a', 'b'; say which with key=, or set n_components to at most 45")
    "it holds 'a', 'b'; say which with --key, or set --components to at most 45"
    >>> in_options("try dtype='float64'")
    'try --dtype float64'
    """

    def option_of(found: re.Match[str]) -> str:
        name, value = found[1] or found[3], (found[2] or found[4] or "").strip("='")
        end = "." if value.endswith(".") else ""  # of the sentence
        value = value.rstrip(".'")
        option = PARAMETERS.get(name, name).replace("_", "-")
        return f"--{option}" + (f" {value}" if value and value != "True" else "") + end

    return _PARAMETER.sub(option_of, text)


def argument(name: str, text: str) -> Any:
    """What has to be given."""
    return typer.Argument(metavar=name, help=text)


DATA, LEARNING, MACHINE = "What to learn from", "How to learn", "Where to compute"
Data = Annotated[Path, argument("DATA", "Image, folder of images, .npy, .npz, .mat, .csv or .parquet.")]
Model = Annotated[Path, argument("MODEL", "A run folder, or the model.safetensors in it.")]
Run = Annotated[Path, argument("FOLDER", "A folder written by fit or demo.")]
Out = Annotated[Path, option("Run folder to write.", "--out", "-o")]
Output = Annotated[Path, option("File to write: .npy, .npz or .csv.", "--output", "-o")]
RowOutput = Annotated[Path | None, option("File for --per-row: .npy, .npz or .csv.", "--output", "-o")]
Key = Annotated[str | None, option("Which array, if a .npz or .mat file holds several.")]
Force = Annotated[bool, option("Write into the folder even if it holds other files.", "--force")]
Std = Annotated[bool, option("Add posterior standard deviations (.npz or .csv).", "--std")]
PerRow = Annotated[bool, option("One bound per data point, not the mean.", "--per-row")]

PatchSize = Annotated[
    int | None, number("Side of a patch in pixels; with a table, of its rows.", DATA, 2, "16 for images")
]
Patches = Annotated[int, number("Random patches taken from images.", DATA, 2)]
Colour = Annotated[bool, option("Learn from colour, not grey.", "--colour", panel=DATA)]
Whiten = Annotated[
    Whitening | None, option("Whitening beforehand.", panel=DATA, show_default="olshausen for grey images")
]
RemoveMean = Annotated[bool, option("Subtract from every row its own mean.", "--remove-mean/--keep-mean", panel=DATA)]
HeldOut = Annotated[float, number("Share of the rows kept for testing.", DATA, 0, max=0.9)]

Components = Annotated[int, number("Number of atoms.", LEARNING, 1)]
ComponentsOrNone = Annotated[
    int | None, number("Number of atoms.", LEARNING, 1, "a number that suits the data, at most 100")
]
PosteriorKind = Annotated[Posterior, option("What dependence between codes a posterior can express.", panel=LEARNING)]
Rank = Annotated[int, number("Rank of a low-rank posterior.", LEARNING, 1)]
InferenceKind = Annotated[
    Inference, option("Solve for posteriors, or let an encoder learn to answer.", "--inference", panel=LEARNING)
]
EncoderKind = Annotated[Encoder, option("Which encoder amortised inference uses.", "--encoder", panel=LEARNING)]
Refine = Annotated[int, number("Iterations after the encoder.", LEARNING, 0)]
AnnealingKind = Annotated[
    Annealing, option("Weights on the entropies during the first sweeps.", "--annealing", panel=LEARNING)
]
LearningKind = Annotated[
    Learning,
    option("Steps after sweeps over all data, or after every batch, in less memory.", "--learning", panel=LEARNING),
]
MaxIter = Annotated[
    int | None, number("Largest number of sweeps over the data, or rounds of batches.", LEARNING, 1, "automatic")
]
Tol = Annotated[float | None, number("Stop when a sweep gains less.", LEARNING, 0, "automatic")]
BatchSize = Annotated[int | None, number("Rows per batch.", LEARNING, 1, "automatic")]
CacheIn = Annotated[
    str | None,
    option(
        "Where posteriors are kept between sweeps: memory, disk, none, or a folder.",
        "--cache",
        panel=MACHINE,
        show_default="automatic",
    ),
]
CheckpointIn = Annotated[
    Path | None,
    option("Folder for checkpoints, from which a run that was stopped goes on.", "--checkpoint", panel=MACHINE),
]
Every = Annotated[str, option("Time between checkpoints: 60s, 10m, 1.5h.", "--every", panel=MACHINE, metavar="TIME")]
Resume = Annotated[bool, option("Go on from the newest checkpoint, if there is any.", "--resume", panel=MACHINE)]
NInit = Annotated[int, number("Random starts, of which the best is kept.", LEARNING, 1)]
Seed = Annotated[int, number("Seed: the same seed gives the same result.", LEARNING, 0)]
Precision = Annotated[Dtype, option("Precision.", panel=MACHINE)]
Device = Annotated[str, option("auto, cpu, cuda, cuda:1, …", panel=MACHINE, callback=device)]

Images = Annotated[list[Path], argument("IMAGES...", "Images, or folders of them.")]
Clean = Annotated[Path, option("File to write, or a folder for several.", "--output", "-o")]
Sigma = Annotated[
    float | None,
    option("Noise standard deviation in the units of the pixels.", callback=noise, show_default="found out"),
]
KnownSigma = Annotated[
    float | None,
    option("Noise of known pixels, in their units; it is removed, too.", "--sigma", callback=noise, show_default="0"),
]
Noisy = Annotated[bool, option("Known pixels are noisy, too: find out how much, and remove it.", "--noisy")]
Mask = Annotated[
    Path | None,
    option("Image that is white where pixels are missing, or a folder.", "--mask", show_default="transparent pixels"),
]
PatchModel = Annotated[
    Path | None, option("A run folder of fit --whiten none --remove-mean, to use its atoms.", "--model")
]
Page = Annotated[Path | None, option("A page to write: before and after.", "--report")]
