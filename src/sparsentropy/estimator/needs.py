"""What a fit will need, read from the parameters of an estimator and the shape of its data.

Nothing is allocated and no number of the data is looked at, so it can be said before a run, and what cannot fit is
refused early. Which way of learning is meant by 'auto' is decided here too, by sizes alone: the same data and
parameters are learned from in the same way on every machine.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from sparsentropy import fitting, inputs, launch, memory, rows
from sparsentropy.estimator import sharing
from sparsentropy.learning import Cache, most_atoms


def plan(model: Any, X: Any, aside: float, learning: str) -> memory.Plan | None:
    """What decides about the memory of a fit.

    Parameters
    ----------
    model : SparseCoding
        Its parameters are checked.
    X : array-like or AbstractRows
    aside : float
        Part of the rows that is set aside.
    learning : {'auto', 'sweeps', 'minibatch'}

    Returns
    -------
    memory.Plan, optional
        None where the shape is not known yet.
    """
    shape = getattr(X, "shape", ())
    if len(shape) != 2:
        return None
    if isinstance(X, rows.AbstractRows):
        n, stored = X.here, isinstance(X, rows.Stored)
    else:
        team, stored = sharing.team_of(model.distributed), rows.is_stored(X)
        n = len(sharing.share(shape[0], team, model.distributed, batch=1))
    dtype = str(getattr(X, "dtype", "")) if model.dtype == "auto" else model.dtype
    place, _ = inputs.check_cache(model.cache)
    found = memory.Plan(
        n=n,
        d=shape[1],
        h=model.n_components or most_atoms(n, shape[1]),
        itemsize=4 if "float32" in dtype else 8,
        posterior=model.posterior,
        rank=model.rank,
        batch_size=inputs.check_batch_size(model.batch_size),
        cache=place,
        low_memory=model.low_memory,
        held_out=fitting.held_out_rows(n, aside),
        stored=stored,
    )
    if place == "auto":
        found = replace(found, cache="disk" if stored and found.posteriors > rows.MEMORY else "memory")
    if learning == "auto":
        only_sweeps = model.inference == "amortized" or model.annealing is not None
        learning = "minibatch" if found.wide and not only_sweeps else "sweeps"
    return replace(found, learning=learning)


def checked(model: Any, X: Any, aside: float, learning: str, before: memory.Plan | None = None) -> memory.Plan | None:
    """The plan, if there is memory enough for it; every process of a team hears if one has too little.

    Where it was found before it stays; all processes of a team come here all the same, since others may not know
    theirs yet.

    Raises
    ------
    MemoryError
        If there is not.
    ValueError, TypeError
        If parameters cannot be used.
    """
    with sharing.team_of(model.distributed).together():
        if before is not None:
            return before
        inputs.check_parameters(model)
        inputs.resolve_dtype(model.dtype, np.dtype(float))
        found = plan(model, X, aside, learning)
        if found is not None:
            memory.check(found, free(model))
    return found


def data_scale(model: Any, survey: rows.Survey, dtype: np.dtype, aside: float) -> float:
    """Return the power of two by which data are divided, near their typical size.

    Raises
    ------
    ValueError
        If such data cannot be learned from.
    """
    inputs.check_enough(survey.rows - fitting.held_out_rows(survey.rows, aside), model.n_components or 1)
    inputs.check_known(survey)
    return rows.power_of_two(inputs.check_scale(survey, dtype))


def free(model: Any) -> int | None:
    """Bytes that this process may take; those of one machine share its memory."""
    device = inputs.resolve_device(model.device)
    found = memory.available(device)
    if found is None or model.distributed is None or device.type != "cpu":
        return found
    return found // launch.local_world_size()


def cache(model: Any, x: rows.AbstractRows, plan: memory.Plan) -> Cache:
    """Where the posteriors are kept between sweeps, if there is room for them."""
    place, folder = inputs.check_cache(model.cache)
    if plan.learning == "minibatch":
        return Cache("none")
    if place == "auto":
        place = "disk" if x.here > x.affordable(plan.kept) else "memory"
    with x.team.together():  # all of them: others may keep theirs in memory
        if place == "disk":  # those before a sweep, and those after it
            inputs.check_space(folder, 2 * x.here * plan.kept * x.dtype.itemsize)
    return Cache(place, folder, plan.low_memory)
