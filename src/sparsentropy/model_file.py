"""What of a fitted estimator goes into a file, and how it comes out again.

Arrays go into the safetensors part, numbers and constructor parameters into the JSON header. The statistics of the
data are kept, so that a model that was loaded can go on learning from a stream. Nothing in such a file is code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from sparsentropy import inputs, storage
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
COUNTS, FLAGS = ("n_iter_", "n_features_in_", "n_samples_seen_"), ("converged_", "interrupted_")
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
        If it is not a model file, is damaged, or was written by a newer version; or if what it holds is no model,
        though it is what was written.
    """
    arrays, header = storage.load(path)
    try:
        _check(arrays, header)
        fitted = {name: arrays[name] for name in ARRAYS} | {name: header["fitted"][name] for name in NUMBERS}
        kept = [f.name for f in fields(Statistics)] if "statistics.n" in arrays else []
        tensors = {name: torch.from_numpy(arrays[f"statistics.{name}"]) for name in kept}
        parameters, names = _restored(header["parameters"]), header["feature_names_in"]
    except KeyError as error:
        raise ValueError(f"{path} is a model file without {error}: it was not written by SparseCoding.save.") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} was not written by SparseCoding.save: {storage.word(error)}.") from None
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
    """What `_plain` was given, as far as it was kept; a folder for posteriors is of the machine that had it."""
    values = {
        name: Schedule(tuple(map(tuple, value[SCHEDULE]))) if isinstance(value, dict) else value
        for name, value in parameters.items()
    }
    return values if values.get("cache", "auto") in inputs.CACHES else values | {"cache": "auto"}


def _check(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Refuse what is no model: anybody may have written the file, and given it the right checksum."""
    components, fitted, names = arrays["components_"], header["fitted"], header["feature_names_in"]
    if components.ndim != 2 or 0 in components.shape:
        raise ValueError(f"its components_ have shape {components.shape}, expected (h, d)")
    h, d = components.shape
    shapes = {"components_": (h, d), "prior_scale_": (h,)} | {name: (arrays[name].size,) for name in ARRAYS[2:]}
    sums = {"cross": (d, h), "second_moment": (h, h), "prior_statistic": (h,), "slope_square": (h,), "slope_code": (h,)}
    if any(name.startswith("statistics.") for name in arrays):  # models of minibatches have none
        shapes |= {f"statistics.{f.name}": sums.get(f.name, ()) for f in fields(Statistics)}
    shapes |= {name: array.shape for name, array in arrays.items() if name.startswith(ENCODER)}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype not in (np.float32, np.float64):
            raise ValueError(f"its {name} has shape {array.shape} and dtype {array.dtype}, expected floats {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"its {name} holds NaN or infinity")
    if np.linalg.norm(components.astype(float), axis=1).max() > 1.001:
        raise ValueError("its components_ are longer than 1")
    for name in NUMBERS:
        kind = bool if name in FLAGS else int if name in COUNTS else float
        if type(fitted[name]) is not kind:
            raise TypeError(f"its {name} is {storage.word(fitted[name])}, expected {kind.__name__}")
    positive = [*arrays["prior_scale_"].tolist(), fitted["noise_variance_"], fitted["data_scale_"]]
    if not all(0 < value < math.inf for value in positive) or min(fitted[name] for name in COUNTS) < 0:
        raise ValueError("its scales and its noise must be above zero, and what it counts not below")
    if fitted["n_features_in_"] != d or (names is not None and len(names) != d):
        raise ValueError(f"its components_ are of {d} features, and its header names others")
    if not isinstance(header["parameters"], dict):
        raise TypeError("its parameters are not named")
