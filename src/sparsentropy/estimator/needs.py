"""What a fit will need, read from the parameters of an estimator and the shape of its data.

Nothing is allocated and no number of the data is looked at, so it can be said before a run, and what cannot fit is
refused early. Which way of learning is meant by 'auto' is decided here too, by sizes alone: the same data and
parameters are learned from in the same way on every machine.
"""

from dataclasses import replace
from typing import Any

from sparsentropy import fitting, inputs, memory, rows


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
    (n, d), stored = shape, isinstance(X, rows.Stored) or rows.is_stored(X)
    dtype = str(getattr(X, "dtype", "")) if model.dtype == "auto" else model.dtype
    place, _ = inputs.check_cache(model.cache)
    found = memory.Plan(
        n=n,
        d=d,
        h=model.n_components,
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
        only_sweeps = model.inference == "amortized" or model.annealing is not None or model.checkpoint is not None
        learning = "minibatch" if found.wide and not only_sweeps else "sweeps"
    return replace(found, learning=learning)
