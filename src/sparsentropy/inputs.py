"""What users hand in, made into numbers the mathematics can use, or refused in one line.

Every refusal says what was wrong, what was expected and what to do about it. Arrays, data frames and tensors are
accepted; integers become floating-point numbers; NaN is what is missing; infinities, words and complex numbers do not
become anything.
"""

import numbers
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array, check_random_state

from sparsentropy import schedules
from sparsentropy.rows import Survey, check_dates, unmasked

FLOATS: Any = [np.float64, np.float32]  # what is neither becomes the first
INFERENCE, ENCODERS = ("iterative", "amortized"), ("unrolled", "residual", "mlp")
LEARNING = ("auto", "sweeps", "minibatch")
CACHES = ("auto", "memory", "disk", "none")
POSTERIORS = ("diagonal", "low-rank", "full")
ANNEALING = {"prior": schedules.prior, "likelihood": schedules.likelihood, "beta": schedules.beta}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
OF_THE_MACHINE = ("cache", "checkpoint", "checkpoint_every", "resume", "distributed", "device", "verbose", "callback")
"""Parameters that say where and how a machine works, and nothing of what is learned: no file holds them."""
ROWS_FOR_MEANS = 20  # fewer may have a mean that large by chance
LEAST_ROOM = 1e-3  # of the largest number whose square a type can hold, for data in units of the noise
QUOTED = re.compile(r"\n(?:array=)?\[[\s\S]*\]\.?|\narray=.*")  # data inside a message of scikit-learn
HINTS = {
    "could not convert string": "remove columns of words or encode them as numbers",
    "must be a string or a real number": "give a two-dimensional array or a data frame of numbers",
    "too large to convert": "rescale the data",
    "inhomogeneous": "give rows of equal length",
    "Found array with dim": "give a two-dimensional array, one row per data point",
    "Found array with 0": "check how the data were selected",
    "Complex data not supported": "give real and imaginary parts as columns of their own",
    "features, but": "give the columns that the model was fitted with",
    "feature names should match": "give the columns that the model was fitted with, in the same order",
    "Input Z contains": "remove these rows or fill the values in first",
}
"""What to do about a complaint of scikit-learn or numpy that does not say so itself."""


def untensored(X: Any) -> Any:
    """A torch tensor as a numpy array; anything else as it is."""
    if not isinstance(X, torch.Tensor):
        return X
    if X.is_sparse or X.layout != torch.strided:
        raise TypeError("X is a sparse tensor, but dense data were expected: use X.to_dense().")
    X = X.detach().cpu()
    return (X.float() if X.dtype in (torch.float16, torch.bfloat16) else X).numpy()


def plain(X: Any) -> Any:
    """Data in a form that scikit-learn checks: no tensor, and NaN where a value is masked.

    Raises
    ------
    TypeError
        If there are dates among them, which numpy would count in nanoseconds.
    """
    check_dates("X", X)
    return unmasked(untensored(X))


def floats(array: np.ndarray) -> np.ndarray:
    """Numbers in one of the types that are computed with, in the order of bytes of this machine."""
    return array if array.dtype in FLOATS else array.astype(FLOATS[0])


def example(names: tuple[Any, ...] | None, d: int) -> Any:
    """One row of d columns, a data frame if they have names: for checks that look at no number."""
    row = np.zeros((1, d))
    if names is None:
        return row
    import pandas as pd  # imported late: it is slow, and only data frames need it

    return pd.DataFrame(row, columns=list(names))


def refusal(error: Exception) -> Exception:
    """A complaint of scikit-learn or numpy in one line, without the data it quotes, and with what to do."""
    message = " ".join(QUOTED.sub("", str(error)).split())
    advice = next((hint for words, hint in HINTS.items() if words in message), None)
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(message if advice is None else f"{message.rstrip('.:')}: {advice}.")


def check_finite(survey: Survey, first: int = 0) -> None:
    """Refuse infinities, naming the first; NaN is what is missing. Rows are counted from `first`."""
    if survey.where is not None:
        row, column = survey.where
        raise ValueError(
            f"X contains infinity (inf) at row {first + row}, column {column} ({survey.infinite} such values in all), "
            "but finite numbers were expected, or NaN where a value is missing: remove these rows or put NaN in their "
            "place."
        )


def check_known(survey: Survey) -> None:
    """Refuse to learn of columns in which nothing is known."""
    if not survey.known.all():
        raise ValueError(
            f"X has {(survey.known == 0).sum()} columns without a single value, all NaN, the first being column "
            f"{int(np.argmin(survey.known))}, but every column needs some to learn from: remove these columns."
        )


def check_centred(survey: Survey, names: Any = None) -> None:
    """Warn of columns whose mean is larger than their standard deviation: the model has no intercept.

    Warns
    -----
    UserWarning
        Names the first of these columns.
    """
    off = np.flatnonzero(np.abs(survey.means) > survey.deviations)
    if survey.rows < ROWS_FOR_MEANS or not len(off):
        return
    first = int(off[0])
    column = f"column {first}" if names is None else f"column {names[first]!r}"
    warnings.warn(
        f"the mean of {len(off)} of {len(survey.means)} columns is larger than their standard deviation ({column}: "
        f"{survey.means[first]:.3g} and {survey.deviations[first]:.3g}), but x = W z + noise has mean zero, and an "
        "offset spoils atoms and noise: unless 0 means none of it, as in counts, subtract from every column its mean "
        "first, for instance with sklearn.preprocessing.StandardScaler(with_std=False).",
        UserWarning,
        stacklevel=2,
    )


def sizes(dtype: np.dtype) -> tuple[float, float]:
    """Between which sizes data are learned from: their squares are numbers, and so are those of a millionth of them.

    A model of less noise than that does not come about (`em.floored`); its variance is kept in float64.

    Examples
    --------
    >>> sizes(np.dtype(np.float64)), sizes(np.dtype(np.float32))
    ((1e-145, 1e+145), (2e-19, 1e+19))
    """
    return (2e-19, 1e19) if dtype == np.float32 else (1e-145, 1e145)


def check_scale(survey: Survey, dtype: np.dtype) -> float:
    """Typical size of the data, or a refusal when there is nothing to learn or nothing to compute with."""
    if not survey.infinite and survey.largest == 0:
        raise ValueError("X is zero everywhere, so there is nothing to learn: give data that vary.")
    least, most = sizes(dtype)
    if survey.infinite or survey.largest > most:
        raise _beyond("up to", np.inf if survey.infinite else survey.largest, dtype)
    if survey.typical_size < least:
        raise _beyond("of about", survey.typical_size, dtype)
    return survey.typical_size


def check_range(survey: Survey, dtype: np.dtype, unit: float, noise: float) -> None:
    """Refuse data divided by `unit` if the square of the largest overflows, or comes near that in units of the noise.

    The standard deviation of the noise is that of a model, in the units of the data that were divided.
    """
    largest = np.inf if survey.infinite else survey.largest  # such numbers were too large for this type
    most = np.finfo(dtype).max ** 0.5
    if not largest < most * min(1.0, LEAST_ROOM * noise):
        raise ValueError(
            f"X has values up to {largest * unit:.3g}, whose squares {dtype} cannot hold: rescale X{_wider(dtype)}."
        )


def _beyond(how: str, size: float, dtype: np.dtype) -> ValueError:
    least, most = sizes(dtype)
    return ValueError(
        f"X has values {how} {size:.3g}, and {dtype} learns from sizes between {least:g} and {most:g}: rescale "
        f"X{_wider(dtype)}."
    )


def _wider(dtype: np.dtype) -> str:
    return ", or compute in float64" if dtype == np.float32 else ""


def check_enough(n: int, h: int) -> None:
    """Refuse to learn more atoms than there are data points."""
    if n < h:
        raise ValueError(
            f"X has n_samples={n} rows, fewer than n_components={h} atoms: "
            f"give more data, or set n_components to at most {n}."
        )


def check_count(name: str, value: Any, least: int = 1, instead: str = "") -> int:
    """An integer of at least `least`; `instead` names what else would have been accepted."""
    expected = f"{name} must be {instead}an integer of at least {least}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{expected}; got {value!r} of type {type(value).__name__}.")
    if value < least:
        raise ValueError(f"{expected}; got {value!r}.")
    return int(value)


def check_batch_size(value: Any) -> int | None:
    """Rows that are handled together; None for 'auto'."""
    if isinstance(value, str) and value == "auto":
        return None
    return check_count("batch_size", value, instead="'auto' or ")


def check_seed(value: Any) -> np.random.RandomState:
    """What random numbers are drawn from."""
    try:
        return check_random_state(value)
    except ValueError:
        raise ValueError(
            f"random_state must be an integer from 0 to 2**32 - 1, a numpy RandomState or None; got {value!r}."
        ) from None


def check_parameters(model: Any) -> str:
    """All that a user may set of an estimator; the kind of posterior."""
    for name in ("rank", "max_iter", "n_init"):
        check_count(name, getattr(model, name))
    if model.n_components is not None:
        check_count("n_components", model.n_components, instead="None or ")
    check_count("verbose", int(model.verbose) if isinstance(model.verbose, bool) else model.verbose, least=0)
    check_tolerance(model.tol)
    check_batch_size(model.batch_size)
    check_fraction("validation_fraction", model.validation_fraction)
    check_flag("low_memory", model.low_memory)
    check_cache(model.cache)
    check_checkpoint(model)
    check_annealing(model.annealing)
    check_seed(model.random_state)
    if model.callback is not None and not callable(model.callback):
        raise TypeError(f"callback must be callable or None; got {model.callback!r}.")
    kind = check_choice("posterior", model.posterior, POSTERIORS)
    if kind == "low-rank" and model.n_components is not None and model.rank > model.n_components:
        raise ValueError(f"rank must be at most n_components={model.n_components}; got rank={model.rank}.")
    encoder = check_choice("encoder", model.encoder, ENCODERS)
    check_count("refine", model.refine, least=0)
    if check_choice("inference", model.inference, INFERENCE) == "amortized":
        check_amortized(kind, encoder)
    if check_choice("learning", model.learning, LEARNING) == "minibatch":
        check_minibatch(model)
    if model.low_memory and kind != "diagonal":
        raise ValueError(f"low_memory=True needs posterior='diagonal'; got posterior={model.posterior!r}.")
    return kind


def check_amortized(kind: str, encoder: str) -> None:
    """Refuse posteriors that an encoder cannot learn along with the dictionary.

    The unrolled encoder is the E-step of a diagonal posterior. With a low-rank head on it the dictionary would still
    be that of diagonal posteriors: −8.95 nats on bars, where solved low-rank posteriors have −8.75 and diagonal −8.94.
    """
    if kind == "full":
        raise ValueError("inference='amortized' needs posterior='diagonal' or 'low-rank'; got posterior='full'.")
    if kind == "low-rank" and encoder == "unrolled":
        raise ValueError(
            "encoder='unrolled' is the E-step of posterior='diagonal' and learns no low-rank posteriors: use "
            "encoder='residual' or 'mlp', or inference='iterative'."
        )


def check_stream(model: Any) -> None:
    """Whether a model can learn from a stream, each batch of which is seen once."""
    if model.inference == "amortized" and model.encoder != "unrolled":
        raise ValueError(f"partial_fit needs encoder='unrolled', which follows the data; got {model.encoder!r}.")
    if model.learning == "minibatch" or getattr(model, "_statistics", model) is None:
        raise ValueError(
            "partial_fit needs sums over all pairs of atoms, which minibatches do without: set learning='sweeps' "
            "for a new model, or give fit all data, which may be a generator or a memory map."
        )


def check_minibatch(model: Any) -> None:
    """Whether all else that is asked for goes with minibatches."""
    others = {"inference": "iterative", "annealing": None}
    for name, expected in others.items():
        if getattr(model, name) != expected:
            raise ValueError(
                f"learning='minibatch' needs {name}={expected!r}; got {name}={getattr(model, name)!r}: "
                "use learning='sweeps' for that."
            )


def check_annealing(value: Any) -> Callable[[int], tuple[float, float]] | None:
    """A schedule, by its name or as a function."""
    schedule: Any = value
    if value is None or callable(value):
        return schedule
    names = ", ".join(map(repr, ANNEALING))
    if not isinstance(value, str) or value not in ANNEALING:
        raise ValueError(f"annealing must be {names}, a function from a step to (γ, δ), or None; got {value!r}.")
    return ANNEALING[value]()


def check_fraction(name: str, value: Any) -> float:
    """A part of the rows, less than all of them."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number from 0 to below 1; got {value!r} of type {type(value).__name__}.")
    if not 0 <= float(value) < 1:
        raise ValueError(f"{name} must be a number from 0 to below 1; got {value!r}.")
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}.")
    return bool(value)


def check_tolerance(value: Any) -> float:
    """A finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"tol must be a number of at least 0; got {value!r} of type {type(value).__name__}.")
    tol = float(value)
    if not 0 <= tol < float("inf"):
        raise ValueError(f"tol must be a finite number of at least 0, in nats per data point; got {value!r}.")
    return tol


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")
    return value


def check_cache(value: Any) -> tuple[str, str | None]:
    """Where posteriors are kept, and in which folder if it is one."""
    if isinstance(value, str) and value in CACHES:
        return value, None
    if isinstance(value, str | os.PathLike) and os.path.isdir(value):
        return "disk", os.fspath(value)
    raise ValueError(f"cache must be one of {', '.join(map(repr, CACHES))}, or a folder that exists; got {value!r}.")


def check_checkpoint(model: Any) -> None:
    """Whether places from which to go on can be kept."""
    check_flag("resume", model.resume)
    every = model.checkpoint_every
    if isinstance(every, bool) or not isinstance(every, numbers.Real) or not 0 <= float(every) < float("inf"):
        raise ValueError(f"checkpoint_every must be a finite number of seconds, at least 0; got {every!r}.")
    if model.checkpoint is None:
        if model.resume:
            raise ValueError("resume=True needs checkpoint=, the folder in which the earlier run kept its checkpoints.")
        return
    if not isinstance(model.checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be the name of a folder or None; got {model.checkpoint!r}.")


def check_space(folder: str | None, needed: int) -> None:
    """Refuse to begin what a disk has no room for."""
    place = folder or tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"the posteriors of all data points need {needed / 2**30:.1f} GiB in {place}, where {free / 2**30:.1f} GiB "
            "are free: set cache= to a folder on a larger disk, halve what is kept with low_memory=True, or keep "
            "nothing with cache='none'."
        )


def resolve_dtype(name: Any, given: np.dtype) -> torch.dtype:
    """'auto' follows the data: float32 stays float32, all else is computed in float64."""
    check_choice("dtype", name, ("auto", *DTYPES))
    return DTYPES["float32" if given == np.float32 else "float64"] if name == "auto" else DTYPES[name]


def resolve_device(name: Any) -> torch.device:
    """'auto' is a CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= (found := torch.cuda.device_count()):
        which = "" if device.index is None else f" number {device.index}"
        raise ValueError(f"no CUDA device{which} found ({found} available): set device='cpu' or device='auto'.")
    return device


def kept_atoms(keep: Any, prior_scale: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Indices of the atoms to keep: so many, these, or those that are active."""
    h = len(prior_scale)
    if keep is None:
        kept = np.flatnonzero(active)
    elif np.ndim(keep) == 0:
        if check_count("keep", keep) > h:
            raise ValueError(f"keep={keep} is more than the {h} atoms that the model has")
        kept = np.sort(np.argsort(-prior_scale, kind="stable")[:keep])
    else:
        kept = np.asarray(keep) if np.size(keep) else np.zeros(0, int)
        if kept.ndim == 1 and kept.dtype == bool and len(kept) == h:
            kept = np.flatnonzero(kept)
        if kept.ndim != 1 or kept.dtype.kind not in "iu" or len(set(kept.tolist())) < len(kept):
            raise ValueError(
                f"keep must be a number of atoms, their indices without repeats, or one bool for each of the {h}; "
                f"got an array of shape {kept.shape} and dtype {kept.dtype}"
            )
        if len(kept) and not 0 <= kept.min() <= kept.max() < h:
            raise ValueError(f"keep names atoms {kept.min()} to {kept.max()}, but the model has atoms 0 to {h - 1}")
    if len(kept) == 0:
        raise ValueError("no atom would be left; keep at least one")
    return kept


def codes(Z: Any, h: int) -> np.ndarray:
    """Codes (n, h) as floating-point numbers."""
    try:
        array: Any = check_array(plain(Z), dtype=FLOATS, input_name="Z")
    except (ValueError, TypeError, OverflowError) as error:
        raise refusal(error) from None
    if array.shape[1] != h:
        raise ValueError(f"Z must have shape (n, {h}), one column per atom; got shape {array.shape}.")
    return array


def tensor(array: np.ndarray) -> torch.Tensor:
    """The array (n, d) as a contiguous tensor; memory is shared unless it is read-only, which torch does not take."""
    array = np.ascontiguousarray(array)
    # Along an axis of length 1 any stride is contiguous to numpy. Torch takes none below zero, and its products go by
    # them and round accordingly
    usual = (array.shape[1] * array.itemsize, array.itemsize)
    return torch.from_numpy(array if array.flags.writeable and array.strides == usual else array.copy())


@contextmanager
def unchanged_on_failure(owner: object) -> Iterator[None]:
    """Leave every attribute of `owner` as it was when the block fails."""
    before = dict(vars(owner))
    try:
        yield
    except BaseException:
        vars(owner).clear()
        vars(owner).update(before)
        raise
