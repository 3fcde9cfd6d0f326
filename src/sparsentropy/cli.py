"""The command line: learn from a file, look at the report, apply the model to other files.

Every command reads its options, calls the library and writes whole files. Input that cannot be used ends in
one line on the error stream and exit code 2. Numbers and the paths of reports go to standard output, all else
to the error stream. What takes long to import is imported by the command that needs it: help comes at once.
"""

import io
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer
from typer.core import TyperGroup

from sparsentropy import image_commands, launch, table_commands, terminal
from sparsentropy.options import (
    Annealing,
    AnnealingKind,
    BatchSize,
    CacheIn,
    CheckpointIn,
    Colour,
    Components,
    ComponentsOrNone,
    Data,
    Device,
    Dtype,
    Encoder,
    EncoderKind,
    Every,
    Force,
    HeldOut,
    Inference,
    InferenceKind,
    Key,
    Learning,
    LearningKind,
    MaxIter,
    NInit,
    Out,
    Patches,
    PatchSize,
    Posterior,
    PosteriorKind,
    Precision,
    Rank,
    Refine,
    RemoveMean,
    Resume,
    Run,
    Seed,
    Tol,
    Whiten,
    Whitening,
    argument,
    in_options,
    option,
    seconds,
)

if TYPE_CHECKING:
    from sparsentropy.preparation import Preparation
    from sparsentropy.team import AbstractTeam

# typer carries its own copy of click in newer versions; this is the base of all usage errors in each of them.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_TOGETHER = {"fit", "demo"}  # what several processes do together
_OWN = {"data", "out", "force", "cache", "checkpoint", "every", "device"}  # what each may have of its own
_BAD_INPUT = (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError, ArithmeticError)


@final
class _OneLineErrors(TyperGroup):
    """A group of commands in which every failure is one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files go to other programs as they are
            sys.stdout.reconfigure(errors="surrogateescape")
        try:
            code = super().main(*args, **extra)
        except _UsageError as error:
            text = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
            code = terminal.fail(text) if text else 2  # without a command there is only help
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            with terminal.warnings_as_notes(usual=True):
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):  # both are RuntimeErrors, and no failures
            raise
        except KeyboardInterrupt as error:
            terminal.say(str(error) or "interrupted before the result was written")
            raise typer.Exit(130) from None
        except _BAD_INPUT as error:
            raise typer.Exit(terminal.fail(in_options(str(error))) if _for_this_process(error) else 2) from error


def _rank() -> int:
    """Which one this is of the processes that torchrun has started; one that works alone is the first."""
    return launch.rank() if launch.is_complete() else 0


def _for_this_process(error: BaseException) -> bool:
    """Whether no other process of this run tells of it."""
    try:
        first = _rank() == 0
    except ValueError:  # which is what this error is about
        return True
    others = () if first else ("ConnectionError", "MismatchError")
    return type(error).__name__ not in ("ElsewhereError", *others)


def _team(context: typer.Context) -> "AbstractTeam":
    """All processes that learn together, started with the same options."""
    from sparsentropy.team import started

    team, command = started(), context.command
    facts = {"command": f"the command {context.info_name}"}
    for one in command.params:
        value, name = context.params.get(one.name or ""), one.opts[-1]
        if one.name not in _OWN:
            shown = name if value is True else f"{name} {getattr(value, 'value', value)}"
            facts[name] = f"no {name}" if value is None or value is False else shown
    team.require_same(facts, f"start {context.info_name}")
    return team


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sparsentropy {version('sparsentropy')}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    show_version: Annotated[bool, option("Print the version.", "--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Sparse codes with uncertainty, and with no penalty to tune.

    Start with [bold]sparsentropy demo[/bold], then give your own data to [bold]sparsentropy fit[/bold].
    """
    del show_version  # told before
    if _rank() > 0 and context.invoked_subcommand not in _TOGETHER:
        raise typer.Exit  # the first process does it alone


@app.command()
def demo(
    context: typer.Context,
    out: Out = Path("sparsentropy-demo"),
    components: Components = 100,
    patches: Patches = 40_000,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Learn from two photographs that need no download, and write a report.

    Takes less than a minute on two cores.
    The atoms become the small oriented edges known from visual cortex.

    Example: [bold]sparsentropy demo --out demo-run[/bold]
    """
    from sparsentropy.fit_command import Data, learn_and_report, started

    with started(lambda: _team(context), out, force=force, check=lambda: None) as team:
        from sparsentropy import datasets
        from sparsentropy.preparation import Preparation

        with team.together():
            preparation = Preparation(patch_size=16, whiten="olshausen")
            rows = preparation.rows(datasets.load_photographs(), n=patches, seed=seed)
        wish = {"n_components": components, "tol": 0.02, "random_state": seed}
        learn_and_report(Data(rows, "Natural image patches"), preparation, out, wish, team, held_out=0.1)


@app.command()
def fit(
    context: typer.Context,
    data: Data,
    out: Out,
    patch_size: PatchSize = None,
    patches: Patches = 40_000,
    colour: Colour = False,
    whiten: Whiten = None,
    remove_mean: RemoveMean = False,
    key: Key = None,
    held_out: HeldOut = 0.1,
    components: ComponentsOrNone = None,
    posterior: PosteriorKind = Posterior.DIAGONAL,
    rank: Rank = 8,
    inference: InferenceKind = Inference.ITERATIVE,
    encoder: EncoderKind = Encoder.UNROLLED,
    refine: Refine = 0,
    annealing: AnnealingKind = Annealing.NONE,
    learning: LearningKind = Learning.AUTO,
    max_iter: MaxIter = None,
    tol: Tol = None,
    batch_size: BatchSize = None,
    cache: CacheIn = None,
    checkpoint: CheckpointIn = None,
    every: Every = "60s",
    resume: Resume = False,
    n_init: NInit = 1,
    seed: Seed = 0,
    dtype: Precision = Dtype.AUTO,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Learn a dictionary from images or from a table of numbers, and write a run folder.

    Images are cut into patches; of a table every row is a data point, and its columns keep their names.
    Large .npy, .csv and .parquet files, folders of these and arrays of zarr are never held in memory as a whole.
    The noise level and the scale of every atom are found from the data.
    Ctrl-C ends learning early and keeps the best state.
    Several processes that torchrun has started share the rows.

    Example: [bold]sparsentropy fit photos/ --out runs/photos --components 200[/bold]

    Example: [bold]sparsentropy fit table.csv --out runs/table --components 20 --posterior full[/bold]

    Example: [bold]sparsentropy fit rows.npy --out runs/rows --checkpoint ckpt --every 10m --resume[/bold]
    """
    from sparsentropy.fit_command import Data as Given
    from sparsentropy.fit_command import learn_and_report, started

    wish = {"n_components": components, "posterior": posterior.value, "rank": rank, "max_iter": max_iter}
    wish |= {"inference": inference.value, "encoder": encoder.value, "refine": refine}
    wish |= {"tol": tol, "batch_size": batch_size, "cache": cache, "n_init": n_init, "random_state": seed}
    wish |= {"dtype": dtype.value, "device": device}
    wish |= {"checkpoint": checkpoint, "checkpoint_every": seconds(every), "resume": resume}
    wish |= {"learning": learning.value, "annealing": None if annealing is Annealing.NONE else annealing.value}
    with started(lambda: _team(context), out, force=force, check=lambda: _check_inputs(data, checkpoint)) as team:
        from sparsentropy import datasets
        from sparsentropy.preparation import Preparation, is_images

        with team.together(), terminal.warnings_as_notes(shown=team.rank == 0):
            preparation = Preparation(patch_size=patch_size, colour=colour, remove_mean=remove_mean)
            columns = datasets.columns_of(data)
            found = preparation.read(data, key=key, errors="warn")
            preparation = _complete(preparation, whiten, images=is_images(found))
            table_commands.check_stack(data, found, preparation.patch_size)
            rows = preparation.rows(found, n=patches, seed=seed)
        given = Given(rows, data.resolve().name, None if columns is None else columns.names)
        learn_and_report(given, preparation, out, wish, team, held_out=held_out)


def _check_inputs(data: Path, checkpoint: Path | None) -> None:
    from sparsentropy.datasets import checks

    checks.path("DATA", data)
    if checkpoint is not None and checkpoint.exists() and not checkpoint.is_dir():
        raise NotADirectoryError(f"--checkpoint {checkpoint} is a file; give a folder")


@app.command()
def reproduce(
    name: Annotated[str, argument("NAME", "theorem, bars, objectives, patches, robustness, scaling or amortization.")],
    out: Annotated[Path | None, option("Folder to write.", "--out", "-o", show_default="NAME")] = None,
    quick: Annotated[bool, option("A small version that takes seconds.", "--quick")] = False,
    jobs: Annotated[
        int | None,
        option(
            "Processes that share the runs of bars, patches and robustness.", "-j", min=1, show_default="one per core"
        ),
    ] = None,
) -> None:
    """Run an experiment of the paper, and write its figures, its numbers and a page.

    Example: [bold]sparsentropy reproduce theorem --quick[/bold]
    """
    import torch

    from sparsentropy import experiments

    jobs = jobs or torch.get_num_threads()
    terminal.give(experiments.reproduce(name, out or Path(name), quick=quick, jobs=jobs, tell=terminal.say))


app.command()(table_commands.encode)
app.command()(table_commands.impute)
app.command()(table_commands.score)
app.command()(image_commands.denoise)
app.command()(image_commands.inpaint)


@app.command()
def report(run_folder: Run) -> None:
    """Write the report of a run folder anew, from the arrays and numbers that lie there.

    Nothing is learned again. Use it after an update of sparsentropy, or when the page was lost.

    Example: [bold]sparsentropy report runs/photos[/bold]
    """
    from sparsentropy import runs

    terminal.give(runs.rewrite_report(run_folder))


def _complete(preparation: "Preparation", whiten: Whitening | None, *, images: bool) -> "Preparation":
    """Fill in what the options left open, which depends on whether the data are images."""
    if whiten is Whitening.OLSHAUSEN and not images:
        raise ValueError("olshausen whitening is a filter for images; whiten a table with --whiten zca")
    if whiten is None:
        whiten = Whitening.OLSHAUSEN if images and not preparation.colour else Whitening.NONE
    size = preparation.patch_size or (16 if images else None)
    return replace(preparation, whiten=whiten.value, patch_size=size)
