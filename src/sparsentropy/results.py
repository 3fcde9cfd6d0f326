"""What a run leaves behind, as arrays and numbers that no longer need the model.

`summarise` takes a `Result` from a fitted model and its data; `save` and `load` keep it in one file. All
that is shown of a run (the report, its pictures, ``metrics.json``) is made from this value alone, so it can
be made again at any time.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from sparsentropy import metrics, storage
from sparsentropy.visible import word

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding
    from sparsentropy.rows import AbstractSource

Array = NDArray[Any]

_ROWS = 2000  # data points whose codes are kept for the histogram
_EXAMPLES = 7
_NAMED = ("metrics", "settings")
_FLAGS, _COUNTS = ("converged", "interrupted"), ("atoms_in_use", "n_samples", "n_iter")
_NUMBERS = ("lower_bound", "held_out_bound", "held_out_standard_error", "noise_std", "gini", "seconds")
_SMALL, _LARGE = 1e-20, 1e35  # between these the largest number of an array fits float32, and what matters beside it
_LARGEST = 1e150  # number in a file, whose square still is one


@final
@dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves behind.

    Arrays become float32, as they are stored, unless their unit is so small or so large that float32 cannot hold them:
    what is shown of a run is the same before it is stored and after.

    Parameters
    ----------
    title : str
        What was learned from, in a few words.
    components : ndarray, shape (h, d)
        The atoms, one per row.
    prior_scale : ndarray, shape (h,)
        Mean absolute size of each atom's code, in units of the data.
    lower_bounds : ndarray, shape (sweeps,)
        Bound on the training data after every sweep, in nats per data point.
    noise_std_per_sweep : ndarray, shape (sweeps,)
        Noise standard deviation after every sweep, in units of the data.
    originals, reconstructions : ndarray, shape (m, d)
        A few data points, NaN where a value is missing, and what their codes make of them.
    codes : ndarray, shape (k, h)
        Posterior means of a sample of data points, in units of the data.
    metrics : dict
        Numbers by name: ``lower_bound``, ``held_out_bound``, ``held_out_standard_error``, ``noise_std``, ``n_iter``,
        ``seconds``, ``converged``, ``gini`` and whatever else is worth keeping.
    settings : dict
        What the run was asked to do.
    patch_shape : tuple of int, optional
        (height, width) or (height, width, 3) if a data point is an image patch.
    held_out_bounds : ndarray, shape (sweeps,), optional
        Bound on held-out data after every sweep, in nats per data point.
    feature_names : tuple of str, optional
        What the d entries of a data point are called.

    Raises
    ------
    ValueError
        If the shapes of the arrays do not fit one another.

    Examples
    --------
    >>> one = np.ones((1, 4))
    >>> result = Result("ones", one, np.ones(1), np.zeros(3), np.ones(3), one, one, np.ones((5, 1)), {}, {})
    >>> result.codes.shape
    (5, 1)
    """

    title: str
    components: Array
    prior_scale: Array
    lower_bounds: Array
    noise_std_per_sweep: Array
    originals: Array
    reconstructions: Array
    codes: Array
    metrics: dict[str, Any]
    settings: dict[str, Any]
    patch_shape: tuple[int, ...] | None = None
    held_out_bounds: Array | None = None
    feature_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), np.ndarray):
                object.__setattr__(self, field.name, _compact(value))
        h, d = np.shape(self.components)
        expected = {"prior_scale": (h,), "originals": (len(self.originals), d), "codes": (len(self.codes), h)}
        expected["reconstructions"] = expected["originals"]
        for name, shape in expected.items():
            if np.shape(getattr(self, name)) != shape:
                got = np.shape(getattr(self, name))
                raise ValueError(f"{name} must have shape {shape} to fit components {(h, d)}; got {got}")
        if self.feature_names is not None and len(self.feature_names) != d:
            raise ValueError(f"there must be {d} feature_names to fit components; got {len(self.feature_names)}")


def summarise(
    model: "SparseCoding",
    X: "Array | AbstractSource",
    held_out: Array | None = None,
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
    patch_shape: tuple[int, ...] | None = None,
    seconds: float = math.nan,
) -> Result:
    """Collect what a report needs from a fitted model and its data.

    Parameters
    ----------
    model : SparseCoding
        A fitted model.
    X : ndarray, shape (n, d), or rows.AbstractSource
        The data it learned from.
    held_out : ndarray, shape (m, d), optional
        Data it did not see. If given, the examples and codes of the report come from here.
    title : str
        What was learned from, in a few words.
    settings : mapping, optional
        What the run was asked to do; if None the parameters of the model, without those that name places and devices
        of this machine.
    patch_shape : tuple of int, optional
        (height, width) or (height, width, 3) if a row of `X` is an image patch.
    seconds : float, optional
        How long learning took.

    Returns
    -------
    Result
        Arrays and numbers; nothing in it refers to the model.

    Raises
    ------
    ValueError
        If the data do not fit the model.

    Examples
    --------
    >>> from sparsentropy import SparseCoding
    >>> X = np.random.default_rng(0).laplace(size=(200, 3))
    >>> model = SparseCoding(2, tol=1.0, random_state=0).fit(X)
    >>> summarise(model, X, title="noise").components.shape
    (2, 3)
    """
    shown = _at_hand(X) if held_out is None else held_out
    codes = model.transform(_sample(shown))
    originals = _spread_in_contrast(shown)
    if patch_shape is not None and np.isnan(originals).any():
        originals = model.impute(originals)  # a picture has no gaps; curves have
    std = float(model.noise_variance_) ** 0.5
    swept = len(model.lower_bounds_) > 0  # if it was stopped early, not even once over all data
    result = Result(
        title=title,
        components=np.asarray(model.components_),
        prior_scale=np.asarray(model.prior_scale_),
        lower_bounds=np.asarray(model.lower_bounds_ if swept else [model.lower_bound_]),
        noise_std_per_sweep=np.sqrt(model.noise_variances_ if swept else [model.noise_variance_]),
        originals=originals,
        reconstructions=np.asarray(model.inverse_transform(model.transform(originals))),
        codes=np.asarray(codes),
        metrics={},
        settings=_of_the_model(model) if settings is None else dict(settings),
        patch_shape=patch_shape,
    )
    bound, error = (None, None) if held_out is None else _mean_and_error(model.score_samples(held_out))
    result.metrics.update(
        lower_bound=float(model.lower_bound_),
        held_out_bound=bound,
        held_out_standard_error=error,
        noise_std=std,
        atoms_in_use=int(model.active_atoms_.sum()),
        gini=float(metrics.gini(codes)),
        n_samples=len(X),
        n_iter=int(model.n_iter_),
        converged=bool(model.converged_),
        interrupted=bool(model.interrupted_),
        seconds=seconds,
    )
    return result


def _mean_and_error(bounds: Array) -> tuple[float, float | None]:
    """Return the mean and its standard error, as if rows were independent; one row alone has none."""
    error = float(bounds.std(ddof=1) / math.sqrt(len(bounds))) if len(bounds) > 1 else None
    return float(bounds.mean()), error


def _of_the_model(model: "SparseCoding") -> dict[str, Any]:
    from sparsentropy import inputs  # imported late: a report needs no torch

    return {name: value for name, value in model.get_params().items() if name not in inputs.OF_THE_MACHINE}


def _at_hand(X: "Array | AbstractSource") -> Array:
    """The data, or as many of them as may be held in memory."""
    if isinstance(X, np.ndarray):
        return X
    from sparsentropy import large  # imported late: a report needs no torch

    return large.sample(X)


def save(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a result to one file, wholly or not at all.

    Parameters
    ----------
    result : Result
        The run.
    path : path
        File to write.

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> x = np.eye(4)
    >>> result = Result("four", x, np.ones(4), np.zeros(3), np.ones(3), x, x, x, {"gini": 0.5}, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(result, f"{folder}/run.safetensors")
    ...     load(f"{folder}/run.safetensors").metrics
    {'gini': 0.5}
    """
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    header = {name: jsonable(value) for name, value in values.items() if name not in arrays}
    # As pairs, since a header does not keep the order of names
    header |= {name: [list(pair) for pair in header[name].items()] for name in _NAMED}
    storage.save(path, arrays, header, kind="run")


def load(path: str | os.PathLike[str]) -> Result:
    """Read back what `save` wrote.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Result
        The run.

    Raises
    ------
    OSError, ValueError
        If the file is missing, damaged or of another kind.
    """
    arrays, header = storage.load(path, kind="run")
    try:
        shape, names = header["patch_shape"], header["feature_names"]
        values: dict[str, Any] = {**header, **arrays, "patch_shape": None if shape is None else tuple(shape)}
        values |= {name: _named(name, header[name]) for name in _NAMED}
        values["feature_names"] = None if names is None else tuple(map(str, names))
        _check_arrays(arrays)
        found = Result(**values)
        _check(found)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} does not hold the numbers of a run: {word(error)}") from None
    return found


def _named(name: str, pairs: Any) -> dict[str, Any]:
    """Values by name, in the order in which they were given."""
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise TypeError(f"its {name} are not named")
    if not all(isinstance(key, str) for key, _ in pairs) or len(pairs) != len(named := dict(pairs)):
        raise TypeError(f"its {name} have names that are no words, or the same twice")
    return named


def _check_arrays(arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that no run leaves."""
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64) or np.isinf(array).any():
            raise ValueError(f"its {name} must be floating-point numbers that are not infinite")
        if name != "originals" and not name.endswith("bounds") and np.isnan(array).any():
            raise ValueError(f"its {name} holds NaN")
        if (np.abs(array.astype(np.float64)) > _LARGEST).any():
            raise ValueError(f"its {name} has numbers above {_LARGEST:g}")
        if name in ("prior_scale", "noise_std_per_sweep") and not (array > 0).all():
            raise ValueError(f"its {name} must be above zero")


def _check(found: Result) -> None:
    """Refuse what no run can have left: anybody may have written the file."""
    for field in fields(found):
        value = getattr(found, field.name)
        if value is None and field.default is None:
            continue
        kinds = {"title": str, "metrics": dict, "settings": dict, "patch_shape": tuple, "feature_names": tuple}
        kind = kinds.get(field.name, np.ndarray)
        if not isinstance(value, kind):
            raise TypeError(f"its {field.name} is no {kind.__name__}")
    d, shape = found.components.shape[1], found.patch_shape
    if shape is not None and any(type(side) is not int for side in shape):
        raise TypeError("its patch_shape must be whole numbers")
    if shape is not None and (len(shape) not in (2, 3) or math.prod(shape) != d or min(shape) < 1):
        raise ValueError(f"its patch_shape is {shape}, which does not fit components of {d} numbers")
    if shape is not None and shape[2:] not in ((), (3,)):
        raise ValueError(f"its patch_shape is {shape}; there are three colours, or none")
    if 0 in found.components.shape or 0 in found.lower_bounds.shape or found.lower_bounds.ndim != 1:
        raise ValueError("it has no components or no sweeps")
    if 0 in found.originals.shape or 0 in found.codes.shape or np.isnan(found.originals).all(axis=1).any():
        raise ValueError("it has no data points, or some of which nothing is known")
    if found.noise_std_per_sweep.shape != found.lower_bounds.shape:
        raise ValueError("its noise and its bounds are not of the same sweeps")
    if found.held_out_bounds is not None and found.held_out_bounds.shape != found.lower_bounds.shape:
        raise ValueError("its bounds are not of the same sweeps")
    for name, value in found.metrics.items():
        _check_metric(name, value)


def _check_metric(name: str, value: Any) -> None:
    """Refuse a number that is none, or one that counts and is below zero or beyond all counting."""
    if name in _FLAGS:
        fits = isinstance(value, bool)
    elif name in _COUNTS:
        fits = type(value) is int and 0 <= value < 2**63
    elif name in _NUMBERS:
        fits = value is None or (type(value) in (int, float) and abs(value) <= _LARGEST)
    else:
        fits = value is None or isinstance(value, bool | float | str) or (type(value) is int and abs(value) < 2**63)
    if not fits:
        raise ValueError(f"its metrics say that {name} is {word(value)}")


def _compact(array: Array) -> Array:
    """The same numbers as float32, if that holds them: those far below the largest may vanish."""
    if array.dtype != np.float64:
        return array.astype(np.float32, copy=False)
    largest = np.abs(array[np.isfinite(array)]).max(initial=0.0)
    if largest and not _SMALL <= largest <= _LARGE:
        return array
    with np.errstate(under="ignore"):
        return array.astype(np.float32)


def jsonable(value: Any) -> Any:
    """Bring numbers, text, lists and mappings to what JSON knows; it has no NaN, so that becomes None.

    Parameters
    ----------
    value : object
        Anything; what is of no such kind becomes text.

    Returns
    -------
    dict, list, str, int, float, bool or None
        What ``json.dumps`` takes.

    Examples
    --------
    >>> jsonable({"bound": np.float64("nan"), "shape": (2, np.int64(3))})
    {'bound': None, 'shape': [2, 3]}
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)


def _sample(X: Array) -> Array:
    """Take at most 2,000 rows, evenly spread over the data."""
    return X[np.linspace(0, len(X) - 1, min(len(X), _ROWS)).round().astype(int)]


def _spread_in_contrast(X: Array) -> Array:
    """Take a few rows from middling to high variance: the flattest ones would show only noise."""
    X = _sample(X)
    known = (~np.isnan(X)).sum(axis=1)
    X = X[known >= min(2, known.max())]  # NaN is what is missing
    ranked = np.argsort(np.nanvar(X, axis=1), kind="stable")
    spread = np.linspace(0.5, 0.98, min(len(X), _EXAMPLES)) * (len(X) - 1)
    return X[ranked[spread.round().astype(int)]]
