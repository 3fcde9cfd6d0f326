"""What all processes that learn together must have the same, compared before anything depends on it.

Settings are compared when `fit` or `partial_fit` is called, before the first sum over processes: sums whose shapes
differ end in a crash or in endless waiting. Data are compared when they have been read: their kind always, and where
all processes are given the same data every row of them.
"""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsentropy import inputs, rows
from sparsentropy.learning.annealing import weights_of
from sparsentropy.rows import AbstractSource, Between, Survey
from sparsentropy.team import AbstractTeam, MismatchError, different

DECISIVE = (
    "n_components",
    "learning",
    "posterior",
    "rank",
    "inference",
    "encoder",
    "refine",
    "max_iter",
    "tol",
    "batch_size",
    "n_init",
    "validation_fraction",
    "low_memory",
    "dtype",
)
STEPS = 1000  # of an annealing schedule that are looked at


def settings_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """What decides the result of a fit beside the data, as numbers, words, None and lists of these.

    Parameters
    ----------
    parameters : dict
        Of the estimator.

    Returns
    -------
    dict
    """
    seed, annealing = parameters["random_state"], parameters["annealing"]
    return {
        "version": version("sparsentropy"),
        **{name: _plain(parameters[name]) for name in DECISIVE},
        "annealing": _weights(annealing) if callable(annealing) else _plain(annealing),
        "random_state": None if isinstance(seed, np.random.RandomState) else _plain(seed),
        "cache": "none" if _plain(parameters["cache"]) == "none" else "kept",
    }


def require_same_call(model: Any, call: str, team: AbstractTeam) -> None:
    """Compare what was called, with which settings, and which model it is.

    Raises
    ------
    MismatchError
        In all processes, if one has called something else or has other settings.
    """
    if team.size == 1:
        return
    parameters = model.get_params()
    values = {"distributed": _plain(parameters["distributed"])} | settings_of(parameters)
    values |= {"resume": _plain(parameters["resume"])}
    facts = {"call": f"called {call}", "version": f"sparsentropy {values.pop('version')}"}
    facts |= {name: f"{name}={value!r}" for name, value in values.items()}
    if callable(parameters["annealing"]):
        facts["annealing"] = f"an annealing schedule of {values['annealing']}"
    facts["cache"] = "cache='none'" if values["cache"] == "none" else "a cache of posteriors"
    facts["checkpoint"] = "no checkpoint folder" if parameters["checkpoint"] is None else "a checkpoint folder"
    if call == "partial_fit":
        facts["model"] = _model(model)
    team.require_same(facts, f"call {call}")


def looked_at(
    model: Any, given: Tensor | AbstractSource, dtype: torch.dtype, own: range, batch: int, team: AbstractTeam
) -> tuple[Survey, dict[str, Any]]:
    """What the own rows are like, and what has to be the same in all processes.

    Parameters
    ----------
    model : SparseCoding
    given : Tensor or AbstractSource, shape (n, d)
        What was given to this process.
    dtype : torch.dtype
        In which it is learned from.
    own : range
        The rows of this process in it.
    batch : int
        Shares are made of so many rows.
    team : AbstractTeam

    Returns
    -------
    Survey, and dict
        `require_same_data` takes the second one.
    """
    if team.size == 1:
        return _surveyed(given, own), {}
    names = getattr(model, "feature_names_in_", None)
    facts: dict[str, Any] = {
        "kind": f"{given.shape[1]} columns of {str(dtype).removeprefix('torch.')}",
        "device": f"rows on {inputs.resolve_device(model.device).type}",
        "names": None if names is None else [str(name) for name in names],
        "checksums": {},
    }
    if model.distributed != "same":
        return _surveyed(given, own), facts
    facts["rows"] = f"{len(given):,} rows"
    shares = [rows.share_of(len(given), other, team.size, batch) for other in range(team.size)]
    if isinstance(given, Tensor):
        # All of them: it takes about a second per gigabyte
        parts = ((share, given[share.start : share.stop].cpu().numpy()) for share in shares)
        facts["checksums"] = {
            _name(share): hashlib.sha256(rows.bytes_of(part)).hexdigest()[:16] for share, part in parts
        }
        return _surveyed(given, own), facts
    # Of rows on a disk the own ones, which have to be read anyway, and those of the next process: so every row that is
    # learned from is compared with what another process has in its place
    after, kind = shares[(team.rank + 1) % team.size], torch.zeros(0, dtype=dtype).numpy().dtype
    mine, others = hashlib.sha256(), hashlib.sha256()
    survey = _surveyed(given, own, lambda piece: mine.update(_bytes(piece, kind)))
    for piece in rows.pieces(Between(given, after.start, after.stop)):
        others.update(_bytes(piece, kind))
    facts["checksums"] = {_name(own): mine.hexdigest()[:16], _name(after): others.hexdigest()[:16]}
    return survey, facts


def require_same_data(facts: dict[str, Any], team: AbstractTeam) -> None:
    """Compare what `looked_at` has found.

    Raises
    ------
    MismatchError
        In all processes; it names the process that differs from most others, and in what.
    """
    if team.size == 1:
        return
    found = team.told(facts)
    same = "give all processes the same data (with distributed='own' each may have rows of its own)."
    advice = {
        "rows": same,
        "kind": "give all processes rows of the same kind.",
        "device": "let all processes compute on the same kind of device.",
    }
    for name, hint in advice.items():
        if odd := different([one.get(name) for one in found]):
            first, second = (found[rank][name] for rank in odd)
            raise MismatchError(f"X has {first} in process {odd[0]}, but {second} in process {odd[1]}: {hint}")
    if odd := different([one["names"] and tuple(one["names"]) for one in found]):
        first, second = (found[rank]["names"] for rank in odd)
        raise MismatchError(f"{_renamed(first, second, odd)}: give all processes the same columns.")
    for share in dict.fromkeys(share for one in found for share in one["checksums"]):
        ranks = [rank for rank, one in enumerate(found) if share in one["checksums"]]
        if odd := different([found[rank]["checksums"][share] for rank in ranks]):
            first, second = (ranks[number] for number in odd)
            raise MismatchError(f"X has other values in process {first} than in process {second}, in {share}: {same}")


def _renamed(first: list[str] | None, second: list[str] | None, ranks: tuple[int, int]) -> str:
    """How the names of columns differ."""
    if first is None or second is None:
        without, with_names = ranks if first is None else ranks[::-1]
        return f"X has no column names in process {without}, but process {with_names} has some"
    one, other = next(pair for pair in zip(first, second, strict=True) if pair[0] != pair[1])
    return f"X has the column {one!r} in process {ranks[0]} where process {ranks[1]} has {other!r}"


def _surveyed(given: Tensor | AbstractSource, own: range, hear: Callable[[NDArray[Any]], None] | None = None) -> Survey:
    """What the own rows are like; `hear` gets every piece that is read."""
    if isinstance(given, Tensor):
        return Survey.of(given[own.start : own.stop].cpu().numpy())
    if not own:
        return Survey.of(np.empty((0, given.shape[1]), given.dtype))

    def heard(piece: NDArray[Any]) -> NDArray[Any]:
        if hear is not None:
            hear(piece)
        return piece

    return Survey.over(map(heard, rows.pieces(Between(given, own.start, own.stop))))


def _bytes(piece: NDArray[Any], dtype: np.dtype) -> Any:
    """The numbers in the type in which they are learned from."""
    with np.errstate(all="ignore"):  # too large for the type: refused later
        return rows.bytes_of(np.ascontiguousarray(piece, dtype))


def _name(share: range) -> str:
    return f"rows {share.start:,} to {share.stop - 1:,}" if share else "no rows"


def _plain(value: Any) -> Any:
    """A value that can be compared between processes and written into a file."""
    if value is None or isinstance(value, str | bool | np.bool_):
        return bool(value) if isinstance(value, np.bool_) else value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else type(value).__name__


def _weights(annealing: Callable[[int], Any]) -> str:
    """What a schedule comes to."""
    try:
        pairs = [(weights.prior, weights.likelihood) for weights in weights_of(annealing, STEPS)]
    except Exception:  # of a function that a user wrote; learning will say what is wrong with it
        return type(annealing).__name__
    return f"{len(pairs)} steps with the checksum {hashlib.sha256(repr(pairs).encode()).hexdigest()[:8]}"


def _model(model: Any) -> str:
    if not hasattr(model, "components_"):
        return "a new model"
    numbers = (model.components_, model.prior_scale_, np.float64(model.noise_variance_), np.float64(model.data_scale_))
    found = hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in numbers)).hexdigest()[:8]
    return f"a model of {model.n_samples_seen_:,} rows with the checksum {found}"
