"""What `fit` and `demo` have in common: learn from rows with progress shown, and write the run folder.

Of several processes that learn together all learn, and the first one speaks and writes for all.
"""

import contextlib
import os
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import typer

from sparsentropy import terminal
from sparsentropy.options import in_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from sparsentropy.estimator import SparseCoding
    from sparsentropy.preparation import Preparation
    from sparsentropy.results import Result
    from sparsentropy.team import AbstractTeam


@final
@dataclass(frozen=True, eq=False)
class Data:
    """What to learn from.

    Parameters
    ----------
    rows : ndarray, shape (n, d), or rows.AbstractSource
    title : str
        What that is, in a few words.
    names : tuple of str, optional
        Of the columns.
    """

    rows: Any
    title: str
    names: tuple[str, ...] | None = None


@contextlib.contextmanager
def started(
    start: "Callable[[], AbstractTeam]", out: Path, *, force: bool, check: "Callable[[], object]"
) -> "Iterator[AbstractTeam]":
    """Refuse what cannot be used, make the run folder, and start the team: in this order, unless others wait for it.

    The folder is taken away again if no run comes into it.
    """
    from sparsentropy import folders, launch

    with contextlib.ExitStack() as stack:

        def begin() -> None:
            check()
            if launch.rank() == 0:
                stack.enter_context(folders.reserved(out, force=force))

        if launch.world_size() == 1:
            begin()
        team = start()
        if team.size > 1:
            with team.together():
                begin()
        yield team


def learn_and_report(
    data: Data,
    preparation: "Preparation",
    out: Path,
    wish: dict[str, Any],
    team: "AbstractTeam",
    *,
    held_out: float,
) -> None:
    """Fit; write the run folder and say where the report is, which the first process does for all."""
    import numpy as np

    from sparsentropy import folders, runs
    from sparsentropy.estimator import SparseCoding
    from sparsentropy.report import headline
    from sparsentropy.results import summarise

    with team.together():
        train, test = _split(data.rows, held_out, wish["random_state"])
        preparation = replace(preparation.fit(train), columns=data.names)
        train = preparation.whitened(train)
        test = None if test is None else preparation.whitened(test)
        model = SparseCoding(**{name: value for name, value in wish.items() if value is not None})
    if team.rank == 0 and (earlier := folders.written(out)):
        terminal.say(f"replacing the run of {earlier:%Y-%m-%d %H:%M:%S} in {out}")
    seconds = _fit(model, train, team)
    if team.rank > 0:
        raise typer.Exit(130 if model.interrupted_ else 0)
    result = summarise(
        model,
        train,
        test,
        title=os.fsencode(data.title).decode(errors="replace"),  # it may be the name of a file in any encoding
        settings=_settings(model, preparation) | {"held_out": held_out},
        patch_shape=preparation.patch_shape(train.shape[1] + preparation.remove_mean),
        seconds=seconds,
    )
    result = _in_space_of_data(result, preparation)
    if data.names is not None and not preparation.remove_mean:
        model.feature_names_in_ = np.array(data.names, dtype=object)
    terminal.give(runs.write(out, model, preparation, result))
    terminal.say(headline(result))
    if result.metrics["interrupted"]:
        raise typer.Exit(130)


def _in_space_of_data(result: "Result", preparation: "Preparation") -> "Result":
    """Return a result with atoms that have an entry for every column or pixel, and with bounds of the data."""
    changed = {"lower_bound", "held_out_bound"}
    found = {name: value for name, value in result.metrics.items() if name in changed and value is not None}
    bounds = {name: value + preparation.log_det for name, value in found.items()}
    components = preparation.restored(result.components)
    return replace(
        result,
        components=components,
        originals=preparation.restored(result.originals),
        reconstructions=preparation.restored(result.reconstructions),
        lower_bounds=result.lower_bounds + preparation.log_det,
        metrics=result.metrics | bounds | {"space": preparation.space},
        patch_shape=preparation.patch_shape(components.shape[1]),
        feature_names=preparation.columns,
    )


def _split(rows: Any, share: float, seed: int) -> "tuple[Any, NDArray[Any] | None]":
    """Keep a random share of the rows for testing; none if there are too few."""
    import numpy as np

    from sparsentropy import large
    from sparsentropy.rows import AbstractSource

    if isinstance(rows, AbstractSource):
        return large.apart(rows, share, seed)
    held_out = round(share * len(rows))
    if held_out == 0:
        return rows, None
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[order[held_out:]], rows[order[:held_out]]


def _fit(model: "SparseCoding", rows: Any, team: "AbstractTeam") -> float:
    """Fit with progress shown and warnings as notes of one line; return how many seconds it took."""
    from sparsentropy import memory, progress
    from sparsentropy.estimator import needs

    began, first = time.perf_counter(), team.rank == 0
    model.set_params(distributed="same" if team.size > 1 else None)
    with team.together():
        needed = memory.statement(model.memory_for(rows), needs.free(model))
    with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as shown:
        warnings.simplefilter("default")
        if first:
            among = f", {team.size} processes" if team.size > 1 else ""
            atoms = "" if model.n_components is None else f", {model.n_components:,} atoms"
            what = f"{len(rows):,} data points with {rows.shape[1]:,} features{atoms}{among}"
            terminal.say(f"{what}; {needed}")
            model.set_params(callback=shown.enter_context(progress.shown(terminal.console(), len(rows))))
        model.fit(rows)
    # What comes after has nothing to go on from, and is done by one process
    model.set_params(callback=None, checkpoint=None, resume=False, distributed=None)
    if not first:
        return time.perf_counter() - began
    if model.interrupted_:
        terminal.say("interrupted; saving the best state so far")
    for warning in caught:
        terminal.say(f"note: {terminal.one_line(in_options(str(warning.message)))}")
    return time.perf_counter() - began


def _settings(model: "SparseCoding", preparation: "Preparation") -> dict[str, Any]:
    """Collect what was asked for: the model first, then the data, then the rest."""
    first = {"n_components": len(model.components_), "posterior": model.posterior}
    steps = {name: value for name, value in vars(preparation).items() if name not in ("zca", "columns")}
    hidden = {*first, "callback", "verbose", "cache", "checkpoint", "checkpoint_every", "resume", "distributed"}
    hidden |= set() if model.posterior == "low-rank" else {"rank"}
    hidden |= set() if model.inference == "amortized" else {"encoder", "refine"}
    return first | steps | {name: value for name, value in model.get_params().items() if name not in hidden}
