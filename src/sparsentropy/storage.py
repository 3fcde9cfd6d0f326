"""Saving arrays and a header in one file, and reading them back without surprises.

A file is a safetensors file: named arrays, and beside them a header in JSON that says what they mean.
Nothing is pickled, so reading a file never runs code. It also carries the SHA-256 of its content, so a
damaged file is refused instead of giving slightly wrong numbers. Writing is all or nothing: the bytes go to
a temporary file in the same folder, reach the disk, and only then take the place of the old file. What the
arrays mean, and whether NaN is allowed in them, is for the caller to say.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from sparsentropy import temporaries
from sparsentropy.visible import word

FORMAT = "sparsentropy"
VERSION = 2
# A header of any model is a few kilobytes. A damaged length must not make the reader reserve gigabytes.
HEADER_LIMIT = 16 * 2**20
# The real-valued types that safetensors and NumPy share.
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
DTYPES = INTEGERS | {"bool", "float16", "float32", "float64"}
NAMES = (
    {"BOOL"} | {f"{letter}{bits}" for letter in "IU" for bits in (8, 16, 32, 64)} | {"F16", "F32", "F64"}
)  # in a file


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
    *,
    kind: str = "model",
) -> None:
    """Write arrays and a header to one file, wholly or not at all.

    Parameters
    ----------
    path : path
        File to write; one that exists is replaced only after the new one is complete.
    arrays : mapping of str to ndarray
        Real-valued arrays of any shape. Their dtype and values are kept bit by bit.
    header : mapping of str to JSON values
        What goes with them: strings, numbers, booleans, None, lists and dictionaries of these. Tuples come
        back as lists.
    kind : str
        What the file holds, for example "model"; :func:`load` asks for it.

    Raises
    ------
    OSError
        When the file cannot be written: the disk is full, the folder is missing or read-only. What was
        there before is unchanged.
    TypeError, ValueError
        When an array or the header is of a kind that cannot be stored.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from sparsentropy.storage import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder) / "model.safetensors", {"dictionary": np.eye(2)}, {"prior": "laplace"})
    ...     arrays, header = load(Path(folder) / "model.safetensors")
    >>> arrays["dictionary"], header
    (array([[1., 0.],
           [0., 1.]]), {'prior': 'laplace'})
    """
    stored = {_name(name): _storable(name, array) for name, array in arrays.items()}
    text = _header_text(header)
    metadata = {"format": FORMAT, "kind": kind, "version": str(VERSION), "header": text}
    metadata["sha256"] = _digest(kind, text, stored)
    content = _ordered(safetensors.numpy.save(stored, metadata))
    if int.from_bytes(content[:8], "little") > HEADER_LIMIT:
        raise ValueError(f"header is larger than {HEADER_LIMIT} bytes; store large data as arrays")
    with replacing(path) as file:
        file.write(content)


def load(path: str | os.PathLike[str], *, kind: str = "model") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    path : path
        The file.
    kind : str
        What it must hold.

    Returns
    -------
    arrays : dict of str to ndarray
        The arrays, writable and bit by bit as they were.
    header : dict
        The header.

    Raises
    ------
    OSError
        When the file is missing, a folder, or may not be read.
    ValueError
        When it is damaged, cut short, of another program or another kind, or of a newer version of the
        format.

    Examples
    --------
    >>> from sparsentropy.storage import load
    >>> load("nowhere.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: nowhere.safetensors cannot be read (No such file or directory); check the path
    """
    path = _path(path)
    try:
        size = _file_size(path)
        with path.open("rb") as file:
            metadata = _read_metadata(path, file, size)
            _check_kind(path, metadata, kind)
            file.seek(0)
            content = file.read()
        return _decode(path, content, metadata)
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror or error}); check the path") from None
    except MemoryError:
        raise ValueError(f"{path} is larger than there is memory for; use a machine with more") from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and vanishes when it fails.

    Parameters
    ----------
    path : path
        File to write. Its folder must exist. A file that is there keeps its permissions, and until the new one is
        complete nobody else can read it. A symbolic link is followed. A hard link is cut: the file's other names
        keep what was there.

    Yields
    ------
    binary file
        Open for writing, in the same folder.

    Raises
    ------
    OSError
        When the file cannot be written; what was there before is unchanged.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sparsentropy.storage import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as file:
    ...         _ = file.write(b"whole")
    ...     (Path(folder) / "note.txt").read_bytes()
    b'whole'
    """
    path, told = _path(path), None
    try:
        target = _target(path)
        mode = stat.S_IMODE(target.stat().st_mode) & 0o777 if target.exists() else None
        temporaries.remove_abandoned(target.parent)
        with temporaries.file(target.parent, mode) as (file, mode):
            try:
                yield file
            except OSError as error:
                told = error if error.errno is None else None  # of another file in the block, in words of its own
                raise
            file.flush()
            os.fsync(file.fileno())
            with suppress(OSError):  # disks without permissions
                os.fchmod(file.fileno(), mode)
            os.replace(file.name, target)
    except OSError as error:
        if error is told:
            raise
        raise type(error)(
            f"{path} cannot be written ({error.strerror or error}); check that its folder exists, may be "
            "written to and has space left. What was there before is unchanged"
        ) from None


def _path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or pathlib.Path, got {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"path must be the name of a file, got {text!r}")
    return Path(text)


def _target(path: Path) -> Path:
    """Return the place to write to, refusing folders and devices, which a rename would remove."""
    target = Path(os.path.realpath(path))
    if target.exists():
        _file_size(target)
    return target


def _file_size(path: Path) -> int:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError("it is a folder, give a file name")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    return status.st_size


def _name(name: Any) -> str:
    if not isinstance(name, str) or name == "__metadata__":
        raise TypeError(f"names of arrays must be strings other than '__metadata__', got {name!r}")
    return name


def _storable(name: str, array: Any) -> np.ndarray:
    """Return ``array`` in native byte order and row-major layout, which safetensors takes for granted."""
    array = np.asarray(array, order="C")
    if array.dtype.name not in DTYPES:
        raise TypeError(f"array {name!r} has dtype {array.dtype}; expected real numbers, convert it")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _header_text(header: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(header), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"header must hold JSON values with string keys ({error})") from None


def _digest(kind: str, text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of everything that :func:`load` gives back."""
    digest = hashlib.sha256()
    shapes = {name: [array.dtype.name, *array.shape] for name, array in arrays.items()}
    digest.update(json.dumps([FORMAT, VERSION, kind, text, shapes], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _ordered(content: bytes) -> bytes:
    """Return a safetensors file with its header sorted, so that the same model gives the same bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _read_metadata(path: Path, file: BinaryIO, size: int) -> dict[str, str]:
    """Return the metadata of an open safetensors file, having checked all lengths that it claims first."""
    length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    if length < 2 or first != b"{" or length > HEADER_LIMIT:
        raise ValueError(f"{path} is not a safetensors file; expected one written by sparsentropy")
    if 8 + length > size:
        raise ValueError(f"{path} is cut short: {size} bytes are too few; copy or save it again")
    try:
        entries = json.loads(first + file.read(length - 1))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: its header is not JSON; copy or save it again") from None
    metadata = entries.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file of another program; expected one written by {FORMAT}")
    try:
        claimed = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        known = all(entry["dtype"] in NAMES for entry in entries.values())
    except (TypeError, ValueError, LookupError, OverflowError):
        claimed, known = 0, False
    if claimed > size:
        raise ValueError(f"{path} is cut short: {size} bytes are too few; copy or save it again")
    if not known or claimed < size:
        raise ValueError(f"{path} is damaged: its content is not what its header says; copy or save it again")
    return metadata


def _check_kind(path: Path, metadata: Mapping[str, Any], kind: str) -> None:
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{path} has format version {word(metadata.get('version'))}, this sparsentropy reads {VERSION}; "
            "upgrade sparsentropy or save it again"
        )
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} holds a {word(metadata.get('kind'))}, expected a {kind}; give another file")


def _decode(path: Path, content: bytes, metadata: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and header of a complete file whose content has the recorded checksum."""
    try:
        # Copies, because arrays that view the bytes of the file are read-only.
        arrays = {name: np.array(array) for name, array in safetensors.numpy.load(content).items()}
        intact = metadata["sha256"] == _digest(metadata["kind"], metadata["header"], arrays)
        header = json.loads(metadata["header"]) if intact else None
    except MemoryError:
        raise
    except Exception as error:  # the decoders raise almost anything when bytes are missing or wrong
        raise ValueError(f"{path} is damaged or cut short ({word(error)}); copy or save it again") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its content has not its checksum; copy or save it again")
    return arrays, header


def check_output(path: Path, kinds: tuple[str, ...]) -> None:
    """Refuse a file that cannot be written before time is spent on what would go there.

    Parameters
    ----------
    path : Path
        File to write.
    kinds : tuple of str
        Endings that its name may have.

    Raises
    ------
    OSError, ValueError
    """
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path} must end in one of {', '.join(kinds)}; give another name")
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a file whose folder does not exist or takes no files, and what is there but is no file.

    Raises
    ------
    OSError
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist; make it first")
    try:
        _target(path)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"its folder, {folder}, may not be written to")
    except OSError as error:
        raise type(error)(f"{path} cannot be written ({error.strerror or error}); give another name") from None
