"""Places of a run on the disk, from which it goes on as if nothing had happened.

A checkpoint is two files. The large one has the posteriors, batch after batch; the small one has all else, and how
long the large one is and what it adds up to. The large one is written first, each under another name until it has
reached the disk, so a checkpoint is there as a whole or not at all. The last few are kept. Of several processes that
learn together each has files of its own with the same number, in one folder or in folders of their own, and all go on
from the last number that each of them has.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import reprlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import torch

from sparsentropy import storage
from sparsentropy.learning.course import AbstractCourse
from sparsentropy.learning.shelf import OnDemand
from sparsentropy.packing import KINDS, LEFT_OUT, packed, unpacked
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.rows import bytes_of, read_at
from sparsentropy.team import ALONE, AbstractTeam
from sparsentropy.visible import word

KEPT = 2
KIND = "checkpoint"
PROCESSES = "number of processes"  # in the identity of a run
NAME = re.compile(r"checkpoint-(\d{8})(?:\.(\d+))?\.safetensors")


@final
@dataclass(frozen=True)
class Place:
    """Where a run is.

    Parameters
    ----------
    course : AbstractCourse
        Where learning is.
    done : dict
        What the run has told so far: numbers, words, tensors, frozen values, and lists of these.
    """

    course: AbstractCourse
    done: dict[str, Any] = field(default_factory=dict)


@final
class Checkpoints:
    """The checkpoints in a folder, which is this run's alone as long as it is open.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    every : float
        Seconds between two checkpoints, at least.
    identity : dict
        What has to be the same in a run that goes on from here: numbers and words by name.
    team : AbstractTeam
        The processes of the run, all of which do here what one of them does.

    Raises
    ------
    OSError
        If the folder cannot be made or written to, or another run is using it.
    """

    def __init__(self, folder: Path, every: float, identity: dict[str, Any], team: AbstractTeam = ALONE) -> None:
        self.folder, self.every, self.identity, self.team = folder, every, identity, team
        self.last = time.monotonic()
        with team.together():
            self.lock = self._locked()

    def _locked(self) -> int:
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / f".lock{self._suffix}", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise type(error)(f"{folder} cannot take checkpoints ({error.strerror}); give another folder") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise BlockingIOError(
                f"{folder} has the checkpoints of a run that is going on; give another folder"
            ) from None
        return lock

    @property
    def _suffix(self) -> str:
        """In the names of files of this process."""
        return f".{self.team.rank}" if self.team.rank else ""

    def listed(self) -> list[Path]:
        """Those of this process, oldest first."""
        return [path for path in listed(self.folder) if int(_parts(path)[2] or 0) == self.team.rank]

    def close(self) -> None:
        """Leave the folder to others."""
        os.close(self.lock)

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self.team.told(time.monotonic() - self.last >= self.every)[0]

    def write(self, place: Place) -> Path:
        """Write a checkpoint, and take away those that are too many.

        Raises
        ------
        OSError
            If the disk is full; the checkpoints before stay.
        """
        number = max(self.team.told(_newest(self.listed()))) + 1
        path = self.folder / f"checkpoint-{number:08d}{self._suffix}.safetensors"
        with self.team.together():
            self._write(path, place)
        for old in self.listed()[:-KEPT]:
            _remove(old)
        self.last = time.monotonic()
        return path

    def _write(self, path: Path, place: Place) -> None:
        arrays: dict[str, np.ndarray] = {}
        with storage.replacing(_posteriors(path)) as file:
            index, digest = _written(place.course.posteriors, file)
            size = file.tell()
        arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
        done = {name: packed(value, arrays) for name, value in place.done.items()}
        header = {"course": packed(place.course, arrays), "done": done, "identity": self.identity}
        storage.save(path, arrays, header | {"posteriors": {"size": size, "sha256": digest}}, kind=KIND)

    def newest(self, device: torch.device) -> Place | None:
        """The place to go on from; None if there is none.

        Raises
        ------
        OSError, ValueError
            If the newest checkpoint is damaged, or is one of another run.
        """
        with self.team.together():
            self._check_writers()
        numbers = self.team.told(_newest(self.listed()))
        number = min(numbers)
        if number == 0 and max(numbers) > 1:
            raise ValueError(
                f"process {numbers.index(0)} of {self.team.size} finds no checkpoints of its own in {self.folder}, but "
                "others do: each process needs those that it wrote"
            )
        with self.team.together():
            place = self._read(number, device) if number else None
        # Some may have written one more before all were stopped
        for path in self.listed():
            if int(_parts(path)[1]) > number:
                _remove(path)
        return place

    def _check_writers(self) -> None:
        """Refuse checkpoints of more or fewer processes."""
        size, found = self.team.size, None
        for path in self.listed()[-1:]:
            with suppress(OSError, ValueError):  # a damaged one is told of when it is read
                identity = storage.load(path, kind=KIND)[1].get("identity")
                found = identity.get(PROCESSES) if isinstance(identity, dict) else None
        least = max((int(_parts(path)[2] or 0) + 1 for path in listed(self.folder)), default=0)
        written = found if type(found) is int and found != size else least if least > size else size
        if written != size:
            one, other = ("1 process" if count == 1 else f"{count} processes" for count in (written, size))
            raise ValueError(
                f"the checkpoints in {self.folder} were written by {one}, and this run has {other}: start as many as "
                "before, or give another folder"
            )

    def _read(self, number: int, device: torch.device) -> Place:
        found = [path for path in self.listed() if int(_parts(path)[1]) <= number]
        if not found or int(_parts(found[-1])[1]) != number:
            raise ValueError(
                f"{self.folder} has no checkpoint {number} of process {self.team.rank}, but one of every other process"
            )
        try:
            return read(found[-1], self.identity, device)
        except ValueError as error:
            before = found[-2] if len(found) > 1 and self._is_whole(found[-2], device) else None
            hint = f"; to go on from the one before it, {before.name}, remove {found[-1].name}" if before else ""
            raise ValueError(f"{error}{hint}") from None

    def _is_whole(self, path: Path, device: torch.device) -> bool:
        try:
            read(path, self.identity, device)
        except (ValueError, OSError):
            return False
        return True


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; of several processes the first one's come first."""
    found = (path for path in folder.iterdir() if NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: (int(_parts(path)[2] or 0), path.name))


def _parts(path: Path) -> re.Match[str]:
    """The number of a checkpoint, and of the process that it is of."""
    found = NAME.fullmatch(path.name)
    assert found is not None, "listed as a checkpoint"
    return found


def _newest(found: list[Path]) -> int:
    """The largest number of these; 0 if there are none."""
    return int(_parts(found[-1])[1]) if found else 0


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)  # first, so that none is without its posteriors
    _posteriors(path).unlink(missing_ok=True)


def read(path: Path, identity: dict[str, Any], device: torch.device) -> Place:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
    identity : dict
        Of the run that goes on.
    device : torch.device
        Where its tensors go.

    Raises
    ------
    OSError, ValueError
        If it is missing, damaged, or one of another run.
    """
    arrays, header = storage.load(path, kind=KIND)
    theirs = header.get("identity", {})
    theirs = theirs if isinstance(theirs, dict) else {}
    others = [name for name in identity if theirs.get(name) != identity[name]]
    if others:
        name = others[0]
        raise ValueError(
            f"{path} is of another run: its {name} is {reprlib.repr(theirs.get(name))}, and here it is "
            f"{identity[name]!r}; "
            "go on with the same data and settings, or give another folder"
        )
    try:
        course = unpacked(header["course"], arrays, device)
        done = {name: unpacked(value, arrays, device) for name, value in header["done"].items()}
        index = json.loads(arrays["index"].tobytes())
        _check(course, index, header["posteriors"]["size"], header["posteriors"]["sha256"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of this version ({word(repr(error))})") from None
    posteriors = _opened(_posteriors(path), index, header["posteriors"], device)
    return Place(course.with_posteriors(posteriors), done)


def _check(course: Any, index: Any, size: Any, digest: Any) -> None:
    """Refuse what no run has written: anybody may have, and given it the right checksum.

    Nothing is taken for granted that memory is set aside for, or that would be a silent error.
    """
    if not isinstance(course, AbstractCourse):
        raise ValueError("no place")
    p = course.parameters
    numbers = (p.dictionary, p.prior_scale, p.noise_variance)
    if not all(isinstance(value, torch.Tensor) and bool(value.isfinite().all()) for value in numbers):
        raise ValueError("no model")
    if p.dictionary.shape != (p.d, p.h) or p.prior_scale.shape != (p.h,) or p.noise_variance.shape != ():
        raise ValueError("a model of odd shape")
    if course.random.dtype != torch.uint8 or course.random.shape != torch.Generator().get_state().shape:
        raise ValueError("no state of a generator")
    course.check()
    if type(size) is not int or not isinstance(digest, str):
        raise ValueError("no checksum")
    for kind, places, rest in index:
        if not issubclass(KINDS[kind], AbstractPosterior) or not isinstance(rest, dict) or any(rest.values()):
            raise ValueError("no posteriors")
        for begin, dtype, *shape in places.values():
            sound = dtype in storage.DTYPES and all(type(value) is int and value >= 0 for value in (begin, *shape))
            if not sound or begin + math.prod(shape) * np.dtype(dtype).itemsize > size:
                raise ValueError("posteriors beyond the end of their file")


def _posteriors(path: Path) -> Path:
    return path.with_suffix(".posteriors")


def _written(posteriors: Sequence[AbstractPosterior], file: BinaryIO) -> tuple[list[Any], str]:
    """For each batch its kind and where its tensors are, and the checksum of the file.

    Of posteriors that a run finds anew whenever it needs them only the number is kept.
    """
    index, digest, position = [], hashlib.sha256(), 0
    if isinstance(posteriors, OnDemand) and posteriors.costly:
        return [["Diagonal", {}, {"mean": None, "variance": None}]] * len(posteriors), digest.hexdigest()
    for q in posteriors:
        places, rest = {}, {}
        for name in (f.name for f in fields(q) if f.name not in LEFT_OUT):  # pyright: ignore[reportArgumentType]
            value = getattr(q, name)
            if not isinstance(value, torch.Tensor):
                rest[name] = value
                continue
            array = np.ascontiguousarray(value.cpu().numpy())
            places[name] = [position, array.dtype.name, *array.shape]
            file.write(bytes_of(array))
            digest.update(bytes_of(array))
            position += array.nbytes
        index.append([type(q).__name__, places, rest])
    return index, digest.hexdigest()


def _opened(path: Path, index: list[Any], expected: dict[str, Any], device: torch.device) -> OnDemand:
    """The posteriors in a file, read when they are asked for."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}), which belongs to a checkpoint") from None
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        if (size, digest) != (expected["size"], expected["sha256"]):
            raise ValueError(f"{path} is damaged or cut short: it has not its checksum")
        descriptor = os.dup(file.fileno())
    return OnDemand(len(index), _Batches(descriptor, index, device))


@final
class _Batches:
    """Finds a batch; the file is closed with this object."""

    def __init__(self, descriptor: int, index: list[Any], device: torch.device) -> None:
        self.descriptor, self.index, self.device = descriptor, index, device

    def __call__(self, number: int) -> AbstractPosterior:
        kind, places, rest = self.index[number]
        values = {}
        for name, (begin, dtype, *shape) in places.items():
            array = read_at(self.descriptor, begin, tuple(shape), np.dtype(dtype))
            values[name] = torch.from_numpy(array).to(self.device)
        return KINDS[kind](**values, **rest)

    def __del__(self) -> None:
        os.close(self.descriptor)
