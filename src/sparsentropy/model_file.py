"""What of a fitted estimator goes into a file, and how it comes out again.

Arrays go into the safetensors part, numbers and constructor parameters into the JSON header. The statistics of the
data are kept, so that a model that was loaded can go on learning from a stream. Nothing in such a file is code, and it
names no folder and no device: these are of the machine that wrote it, and whoever makes a file up could choose them.

A file may be made up and still have the right checksum. What it says is therefore held against what learning can end
at, so that all formulas hold for a model that was read.
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
from sparsentropy.visible import word

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
BOUNDS = ("lower_bounds_", "held_out_bounds_")
ENCODER, STATISTICS = "encoder.", "statistics."  # before the names of weights and of sums
SCHEDULE = "schedule"  # key under which the weights of one are written
MOST = 2**53  # that is counted: whole numbers beyond are none as floats
NARROWEST, QUIETEST = 1e-12, 1e-8  # scale of an atom and noise, of the size of the data; see `learning.em` for theirs
WIDEST = 1e14  # scale of an atom in units of the noise; float64 has 16 digits
SUMS = 1e150  # largest sum, whose square still is a number
TURNED = 1e3  # what turning atoms against each other may add to sums that are not turned
ROUNDED, UNEVEN = 1.001, 1e-3  # what rounding may add to sums, and to the eigenvalues of one, of the largest


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
        Constructor parameters. Left out are those of the machine and those that JSON cannot hold, a random state say.
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
        raise ValueError(f"{path} was not written by SparseCoding.save: {word(error)}.") from None
    if names is not None:
        fitted["feature_names_in_"] = np.array(names, dtype=object)
    weights = {name: torch.from_numpy(value) for name, value in arrays.items() if name.startswith(ENCODER)}
    encoder = {name.removeprefix(ENCODER): value for name, value in weights.items()}
    return Saved(parameters, fitted, Statistics(**tensors) if tensors else None, encoder)


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are of the model and that JSON can hold; a random state object, say, is not saved."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}
    values = {name: value for name, value in values.items() if name not in inputs.OF_THE_MACHINE}
    plain = {name: value for name, value in values.items() if value is None or isinstance(value, (str, int, float))}
    return plain | {name: {SCHEDULE: value.weights} for name, value in values.items() if isinstance(value, Schedule)}


def _restored(parameters: Any) -> dict[str, Any]:
    """What `_plain` made, as far as it was kept."""
    if not isinstance(parameters, dict):
        raise TypeError("its parameters are not named")
    if foreign := [name for name in inputs.OF_THE_MACHINE if name in parameters]:
        raise ValueError(f"its parameters name {foreign[0]}, which is of a machine and not of a model")
    for name, value in parameters.items():
        if type(value) is int and abs(value) > MOST:
            raise ValueError(f"its {word(name)} is {word(value)}, which is more than can be counted")
        if isinstance(value, list) or (isinstance(value, dict) and list(value) != [SCHEDULE]):
            raise TypeError(f"its {word(name)} is {word(value)}, expected a number or a word")
    return {
        name: Schedule(tuple(map(tuple, value[SCHEDULE]))) if isinstance(value, dict) else value
        for name, value in parameters.items()
    }


def _check(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Refuse what is no model: anybody may have written the file, and given it the right checksum."""
    _check_shapes(arrays)
    d = arrays["components_"].shape[1]
    fitted, names = header["fitted"], header["feature_names_in"]
    for name in NUMBERS:
        kind = bool if name in FLAGS else int if name in COUNTS else float
        if type(fitted[name]) is not kind:
            raise TypeError(f"its {name} is {word(fitted[name])}, expected {kind.__name__}")
    if not all(0 <= fitted[name] <= MOST for name in COUNTS):
        raise ValueError(f"its {', '.join(COUNTS)} must be 0 or more, and can be counted")
    if fitted["n_features_in_"] != d:
        raise ValueError(f"its components_ are of {d} features, and its header names others")
    if names is not None and not (
        isinstance(names, list) and len(names) == d and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"its components_ are of {d} features, and its header names others")
    swept = fitted["n_iter_"]
    if not arrays["lower_bounds_"].size == arrays["noise_variances_"].size == swept >= arrays["held_out_bounds_"].size:
        raise ValueError(f"its bounds and noise variances are not of n_iter_ = {swept} sweeps")
    _check_sizes(arrays, fitted)
    if "statistics.n" in arrays:
        _check_statistics(arrays, fitted)


def _check_shapes(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that do not go together, and numbers that are none."""
    components = arrays["components_"]
    if components.ndim != 2 or 0 in components.shape:
        raise ValueError(f"its components_ have shape {components.shape}, expected (h, d)")
    h, d = components.shape
    shapes = {"components_": (h, d), "prior_scale_": (h,)} | {name: (arrays[name].size,) for name in ARRAYS[2:]}
    sums = {"cross": (d, h), "second_moment": (h, h), "prior_statistic": (h,), "slope_square": (h,), "slope_code": (h,)}
    if any(name.startswith(STATISTICS) for name in arrays):  # models of minibatches have none
        shapes |= {STATISTICS + f.name: sums.get(f.name, ()) for f in fields(Statistics)}
    shapes |= {name: array.shape for name, array in arrays.items() if name.startswith(ENCODER)}
    for name, shape in shapes.items():
        array = arrays[name]
        own = name in ARRAYS[:2] or name.startswith(ENCODER)  # computed in by the model; the rest is float64
        dtypes = {np.dtype(np.float32), np.dtype(np.float64)} & ({components.dtype} if own else {np.dtype(float)})
        if array.shape != shape or array.dtype not in dtypes:
            expected = "floats" if own else "float64"
            raise ValueError(f"its {name} has shape {array.shape} and dtype {array.dtype}, expected {expected} {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"its {name} holds NaN or infinity")
    lengths = np.linalg.norm(components.astype(float), axis=1)
    if not (~components.any(axis=1) | (abs(lengths - 1) < 1e-3)).all():
        raise ValueError("its components_ must have length 1")


def _check_sizes(arrays: Mapping[str, np.ndarray], fitted: Mapping[str, Any]) -> None:
    """Refuse a unit, scales and noise that no data have that can be learned from."""
    dtype, unit = arrays["components_"].dtype, fitted["data_scale_"]
    least, largest = inputs.sizes(dtype)
    if not least / 2 <= unit <= 2 * largest or math.frexp(unit)[0] != 0.5:
        raise ValueError(f"its data_scale_ is {unit:g}, expected a power of two between {least:g} and {largest:g}")
    # In units of the data; squares of what is between are numbers in this arithmetic
    most = min(float(np.finfo(dtype).max) ** 0.5, 1e3 * largest / unit)
    scale, noise = arrays["prior_scale_"].astype(float) / unit, fitted["noise_variance_"]
    if not (scale >= NARROWEST).all() or not (scale <= most).all():
        raise ValueError(f"its prior_scale_ in units of data_scale_ must lie between {NARROWEST:g} and {most:g}")
    for name, variances in (("noise_variance_", np.array([noise])), ("noise_variances_", arrays["noise_variances_"])):
        stds = np.sqrt(np.where(variances > 0, variances, 0.0)) / unit
        if not (stds >= QUIETEST).all() or not (stds <= most).all():
            raise ValueError(f"its {name} in units of data_scale_² must lie between {QUIETEST**2:g} and {most**2:g}")
    if (scale > WIDEST * np.sqrt(noise) / unit).any():
        raise ValueError(f"its prior_scale_ must not be above {WIDEST:g} times the noise")
    bound = fitted["lower_bound_"]  # which is not known of a model that was pruned
    if not (math.isnan(bound) or abs(bound) <= SUMS) or any((abs(arrays[name]) > SUMS).any() for name in BOUNDS):
        raise ValueError(f"its bounds must lie between -{SUMS:g} and {SUMS:g}")


def _check_statistics(arrays: Mapping[str, np.ndarray], fitted: Mapping[str, Any]) -> None:
    """Refuse sums that are of no data points and no codes."""
    s = {f.name: arrays[STATISTICS + f.name] for f in fields(Statistics)}
    n, d = float(s["n"]), arrays["components_"].shape[1]
    if any((abs(value) > SUMS).any() for value in s.values()):
        raise ValueError(f"its statistics must not be above {SUMS:g}")
    if not 0 <= n <= fitted["n_samples_seen_"] * ROUNDED or not 0 <= s["observed"] <= n * d * ROUNDED:
        raise ValueError(f"its statistics.n and statistics.observed are {n:g} and {float(s['observed']):g}")
    if n == 0:  # of a model that was pruned
        if any(value.any() for value in s.values()):
            raise ValueError("its statistics are of no data points, and not zero")
        return
    if n < 1 or s["observed"] < 1:
        raise ValueError("its statistics are of less than one number")
    if s["square"] <= 0 or (s["prior_statistic"] <= 0).any():
        raise ValueError("its statistics.square and statistics.prior_statistic must be above zero")
    if (s["slope_square"] < 0).any() or (s["slope_square"] > n * ROUNDED).any():
        raise ValueError(f"its statistics.slope_square must lie between 0 and {n:g}, the number of data points")
    moment = s["second_moment"]
    largest = moment.diagonal().max()
    if largest <= 0 or (abs(moment - moment.T) > UNEVEN * largest).any():
        raise ValueError("its statistics.second_moment is not symmetric, or not above zero")
    # By the inequality of Cauchy and Schwarz
    for name, other in (("prior_statistic", n), ("slope_code", n), ("cross", float(s["square"]))):
        if abs(s[name]).max() > TURNED * math.sqrt(other) * math.sqrt(largest):
            raise ValueError(f"its statistics.{name} is too large for its statistics.second_moment")
    eye = torch.eye(len(moment), dtype=torch.float64)
    if int(torch.linalg.cholesky_ex(torch.from_numpy(moment / largest) + UNEVEN * eye).info):
        raise ValueError("its statistics.second_moment has negative eigenvalues")
