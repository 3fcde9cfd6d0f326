"""What of a fitted estimator goes into a file, and how it comes out again.

Arrays go into the safetensors part, numbers and constructor parameters into the JSON header. The statistics of the
data are kept, so that a model that was loaded can go on learning from a stream. Nothing in such a file is code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from sparsentropy import storage
from sparsentropy.objectives import Statistics
from sparsentropy.schedules import Schedule

ARRAYS = ("components_", "prior_scale_", "lower_bounds_", "held_out_bounds_", "noise_variances_")
NUMBERS = (
    "noise_variance_",
    "lower_bound_",
    "n_iter_",
    "converged_",
    "interrupted_",
    "n_features_in_",
    "data_scale_",
    "n_samples_seen_",
)
ENCODER = "encoder."  # before the names of weights
SCHEDULE = "schedule"  # key under which the weights of one are written


@final
@dataclass(frozen=True)
class Saved:
    """The content of a model file.

    Parameters
    ----------
    parameters : dict
        Constructor parameters.
    fitted : dict
        Fitted attributes by name.
    statistics : Statistics or None
        Of the data that were learned from, if they are kept.
    encoder : dict
        Weights of the encoder by name; empty where there was none.
    """

    parameters: dict[str, Any]
    fitted: dict[str, Any]
    statistics: Statistics | None
    encoder: dict[str, torch.Tensor]


def write(
    path: str | Path,
    parameters: Mapping[str, Any],
    fitted: Mapping[str, Any],
    statistics: Statistics | None,
    encoder: Mapping[str, torch.Tensor],
) -> None:
    """Write a model file.

    Parameters
    ----------
    path : str or Path
    parameters : mapping
        Constructor parameters; those that JSON cannot hold, a callback say, are left out.
    fitted : mapping
        Fitted attributes, of which those named in this module are written.
    statistics : Statistics or None
    encoder : mapping
        Weights by name.
    """
    arrays = {name: np.asarray(fitted[name]) for name in ARRAYS}
    if statistics is not None:
        arrays |= {f"statistics.{f.name}": getattr(statistics, f.name).cpu().numpy() for f in fields(Statistics)}
    arrays |= {ENCODER + name: value.cpu().numpy() for name, value in encoder.items()}
    names = fitted.get("feature_names_in_")
    header = {
        "parameters": _plain(parameters),
        "fitted": {name: fitted[name] for name in NUMBERS},
        "feature_names_in": None if names is None else [str(name) for name in names],
    }
    storage.save(path, arrays, header)


def read(path: str | Path) -> Saved:
    """Read a model file.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not a model file, is damaged, or was written by a newer version.
    """
    arrays, header = storage.load(path)
    try:
        fitted = {name: arrays[name] for name in ARRAYS} | {name: header["fitted"][name] for name in NUMBERS}
        kept = [f.name for f in fields(Statistics)] if "statistics.n" in arrays else []
        tensors = {name: torch.from_numpy(arrays[f"statistics.{name}"]) for name in kept}
        parameters, names = _restored(header["parameters"]), header["feature_names_in"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is a model file without {error}: it was not written by SparseCoding.save.") from None
    if names is not None:
        fitted["feature_names_in_"] = np.array(names, dtype=object)
    weights = {name: torch.from_numpy(value) for name, value in arrays.items() if name.startswith(ENCODER)}
    encoder = {name.removeprefix(ENCODER): value for name, value in weights.items()}
    return Saved(parameters, fitted, Statistics(**tensors) if tensors else None, encoder)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that JSON can hold; a random state object, say, is not saved."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}
    plain = {name: value for name, value in values.items() if value is None or isinstance(value, (str, int, float))}
    return plain | {name: {SCHEDULE: value.weights} for name, value in values.items() if isinstance(value, Schedule)}


def _restored(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What `_plain` was given, as far as it was kept."""
    return {
        name: Schedule(tuple(map(tuple, value[SCHEDULE]))) if isinstance(value, dict) else value
        for name, value in parameters.items()
    }
