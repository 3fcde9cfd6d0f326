"""The questions every data function asks before it starts.

Is this a count, a finite number, a table, an image, a file that exists? Each check returns the value in the
one form the rest of the package works with, or raises an error that says in one line what was wrong, what
was expected and what to do.
"""

import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsIndex, cast

import numpy as np

LONGEST = 40  # characters of a name or a cell in a message


class UnsupportedError(ValueError):
    """What a file holds is of a kind that is not read, though nothing is wrong with it."""


def count(name: str, value: Any, *, least: int = 1) -> int:
    """Return ``value`` as an int that is at least ``least``."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}; give an int >= {least}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def real(name: str, value: Any, *, above: float = -np.inf, least: float = -np.inf) -> float:
    """Return ``value`` as a finite float that is > ``above`` and >= ``least``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not np.isfinite(number) or number <= above or number < least:
        bound = f" > {above:g}" if above > -np.inf else f" >= {least:g}" if least > -np.inf else ""
        raise ValueError(f"{name} must be a finite number{bound}, got {number:g}")
    return number


def generator(seed: Any) -> np.random.Generator:
    """Return a random generator; an existing one is used as it is."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be a non-negative int, None or a numpy.random.Generator, got {seed!r}") from None


def floats(name: str, values: Any, *, gaps: bool = False) -> np.ndarray:
    """Return ``values`` as an array of finite floats (float32 is kept, everything else becomes float64).

    With `gaps` some may be NaN, which stands for a missing value, as what is masked does.
    """
    if np.ma.is_masked(values) and values.dtype.kind in "biuf":
        values = values.astype(np.float32 if values.dtype == np.float32 else np.float64).filled(np.nan)
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be rectangular; its rows have different lengths") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}; convert it to floats first")
    array = array if array.dtype == np.float32 else array.astype(np.float64, copy=False)
    if gaps and np.isinf(array).any():
        raise ValueError(f"{name} contains infinity; remove those values, or leave them empty (NaN)")
    if not gaps and not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; remove or fill those values first")
    return array


def table(name: str, values: Any, *, gaps: bool = False) -> np.ndarray:
    """Return ``values`` as an (n, d) array with n and d at least 1; finite, or with `gaps` that are NaN."""
    array = floats(name, values, gaps=gaps)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (n, d) with n, d >= 1, got {array.shape}")
    return array


def image(name: str, values: Any) -> np.ndarray:
    """Return ``values`` as a finite image: (rows, columns) or (rows, columns, channels)."""
    array = floats(name, values)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"{name} must be (rows, columns) or (rows, columns, channels), got shape {array.shape}")
    return array


def image_list(images: Any) -> list[np.ndarray]:
    """Return ``images`` as a non-empty list of images; one 2-D array is one image."""
    if isinstance(images, str | os.PathLike):
        raise TypeError(f"images must be arrays, got the path {os.fspath(images)!r}; use load_images(path) first")
    if isinstance(images, np.ndarray) and images.ndim < 3:
        images = [images]
    try:
        images = list(images)
    except TypeError:
        raise TypeError(f"images must be an array or a list of arrays, got {type(images).__name__}") from None
    if not images:
        raise ValueError("images is empty; give at least one image")
    return [image(f"images[{i}]", values) for i, values in enumerate(images)]


def image_names(images: Any, count: int) -> list[str]:
    """Return what so many images are called in messages: by names of their own, or else by their places."""
    names = getattr(images, "names", None)
    return [f"images[{i}]" for i in range(count)] if names is None else list(names)


def path(name: str, value: Any) -> Path:
    """Return ``value`` as a Path that exists."""
    if not isinstance(value, str | os.PathLike) or isinstance(value, bytes):
        raise TypeError(f"{name} must be a path (str or pathlib.Path), got {type(value).__name__}")
    if not os.fspath(value):
        raise ValueError(f"{name} is an empty string; give a file name")
    found = Path(value)
    try:
        found.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{found} does not exist; check the spelling and the folder") from None
    except (OSError, ValueError) as error:
        raise OSError(f"{found} cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    return found


def file(name: str, value: Any) -> Path:
    """Return ``value`` as the Path of a file that is there and not empty."""
    found = path(name, value)
    if found.is_dir():
        raise IsADirectoryError(f"{found} is a folder; give a file")
    if found.stat().st_size == 0:
        raise ValueError(f"{found} is empty (0 bytes); copy or download it again")
    return found


def quoted(text: str) -> str:
    """A name or a cell of a file, fit for a message: in quotes, short, and without characters that a terminal obeys."""
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def listed(texts: Iterable[str], most: int = 6) -> str:
    """Some of them in a row, as `quoted` but without quotes, and how many more there are."""
    every = list(texts)
    more = [f"… ({len(every):,} in all)"] if len(every) > most else []
    return ", ".join([quoted(text)[1:-1] for text in every[:most]] + more)


def new_names(found: Path, names: Iterable[str], more: Iterable[str]) -> None:
    """Refuse columns with standard deviations if a table has columns of their names."""
    if taken := sorted(set(names) & set(more)):
        raise ValueError(
            f"{found} has columns of the names that standard deviations would get ({listed(taken)}); rename them, or "
            "leave out the standard deviations"
        )


@contextmanager
def utf_8(found: Path, encoding: str) -> Iterator[None]:
    """Turn the complaint of a decoder into one error that names the line."""
    try:
        yield
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise ValueError(f"{found} is damaged: it is in {encoding}, but not all of it; save it as UTF-8") from None
        with found.open("rb") as stream:
            number, line = next((n, line) for n, line in enumerate(stream, 1) if not _decodes(line))
        text = quoted(line.decode("latin-1").strip())
        raise ValueError(f"{found} is not in UTF-8: see line {number}, {text}; save it as UTF-8") from None


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def reading(found: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into one error that names the file."""
    try:
        yield
    except PermissionError:
        raise PermissionError(f"{found} cannot be opened (permission denied); allow reading it") from None
    except UnsupportedError as error:
        raise UnsupportedError(f"{found} cannot be read as {kind}: {error}") from None
    except Exception as error:  # decoders raise almost anything when bytes are missing or wrong
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{found} cannot be read as {kind} ({type(error).__name__}: {reason}); the file may be damaged, "
            "cut short or of another kind"
        ) from None
