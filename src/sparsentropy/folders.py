"""The folder of a run: its files are replaced together, and all are of one run whenever the program is killed.

New files are written into a folder of their own within that folder. Once they are complete, that folder is given the
name `NEXT`: with this one step the new files are the valid ones, and whoever comes next moves them to their places if
their writer could not. Until then they are read where they lie. So neither a reader nor a kill sees files of two runs.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sparsentropy import temporaries

FILES = ("model.safetensors", "preparation.safetensors", "run.safetensors", "metrics.json", "report.html")
NEXT = ".sparsentropy-next"
PATIENCE = 100  # times that files are read again because they were replaced in the meantime

Found = TypeVar("Found")
State = list[tuple[Path, tuple[int, ...] | None]]


def check(folder: Path, *, force: bool) -> None:
    """Make sure that a run may be written into a folder, before time is spent on learning.

    Parameters
    ----------
    folder : Path
        The folder; it need not be there.
    force : bool
        Whether it may hold other files, which stay as they are.

    Raises
    ------
    OSError
        If it is a file, or nothing can be written there.
    ValueError
        If it holds files that are not of a run and `force` is false.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check(Path(folder) / "new", force=False)
    """
    try:
        above = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        inside = sorted(os.listdir(folder)) if above == folder and above.is_dir() else []
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder that may not be looked into, a loop
        raise OSError(f"{folder} cannot be written to ({_why(error)}); give another folder") from None
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, so {folder} cannot be made; give another name")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{above} may not be written to; give another folder")
    others = [name for name in inside if name not in FILES and not name.startswith(".")]
    if others and not force:
        some = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise ValueError(f"{folder} holds other files ({some}); give another folder, or --force")
    if inside:
        _check_places(folder)


@contextmanager
def reserved(folder: Path, *, force: bool) -> Iterator[None]:
    """Make the folder of a run, and see that it takes files, before time is spent; it is taken away if no run comes.

    Parameters
    ----------
    folder : Path
    force : bool
        See `check`.

    Raises
    ------
    OSError, ValueError
        See `check`.
    KeyboardInterrupt
        If that happened in the block, with words about what was written.
    """
    check(folder, force=force)
    made = [path for path in (folder, *folder.resolve().parents) if not path.exists()]
    before = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                finish(folder)
                temporaries.remove_abandoned(folder)
            with temporaries.file(folder) as (file, _):
                file.write(bytes(4096))
                file.flush()
        except OSError as error:
            raise type(error)(
                f"{folder} cannot be written to ({error.strerror or error}); give another folder"
            ) from None
        before = _state(folder)
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_after_interrupt(folder, before)) from None
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _after_interrupt(folder: Path, before: State | None) -> str:
    if before is not None and _state(folder) != before:
        return f"interrupted; the run in {folder} is complete"
    if before is None or all(identity is None for _, identity in before):
        return "interrupted; nothing was written"
    return f"interrupted; the earlier run in {folder} is as it was"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check_places(folder: Path) -> None:
    """Refuse a folder in which other things have the names of files that are to be written."""
    for path in (folder / name for name in FILES):
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(f"{path} is a folder, and a file of this name has to be written; move it away")
    if os.path.lexists(folder / NEXT) and not _is_waiting(folder):
        raise NotADirectoryError(f"{folder / NEXT} is no folder of sparsentropy; remove it")


def written(folder: Path) -> datetime | None:
    """When the run in a folder was written, in local time; None if there is none.

    Parameters
    ----------
    folder : Path
    """
    times = [file.stat().st_mtime for file in (folder / name for name in FILES) if file.exists()]
    return datetime.fromtimestamp(max(times)) if times else None


def member(folder: Path, name: str) -> Path:
    """The valid file of this name in a run folder.

    Parameters
    ----------
    folder : Path
    name : str
        One of `FILES`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found = _place(_existing(folder), name)
    if not found.is_file():
        raise FileNotFoundError(f"{folder} holds no {name}; give a folder written by fit or demo")
    return found


def model(path: Path) -> Path:
    """The valid file of a model.

    Parameters
    ----------
    path : Path
        A run folder, or a model file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if path.is_dir():
        return member(path, "model.safetensors")
    return member(path.parent, path.name) if path.name in FILES and _is_waiting(path.parent) else _existing(path)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the spelling")
    return path


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Replace files of a folder together when the block ends, or none of them when it fails.

    Others who do the same wait.

    Parameters
    ----------
    folder : Path
        Made if it is not there. Links in it are replaced by files.

    Yields
    ------
    Path
        A folder for the new files, under the same names.

    Raises
    ------
    OSError
        If a file cannot be written; what was there before is unchanged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with replacing(Path(place)) as new:
    ...         _ = (new / "metrics.json").write_text("{}"), (new / "report.html").write_text("")
    ...     sorted(path.name for path in Path(place).iterdir())
    ['metrics.json', 'report.html']
    """
    new = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            finish(folder)
            temporaries.remove_abandoned(folder)
            with temporaries.folder(folder) as new:
                yield new
                _keep_permissions(new, folder)
                _commit(new, folder)
    except OSError as error:
        if new is None:
            raise type(error)(f"{folder} cannot be written to ({_why(error)})") from None
        if str(new) in str(error):  # whose name tells nobody anything
            raise type(error)(str(error).replace(str(new), str(folder))) from None
        raise


def reading(folder: Path, read: Callable[[Mapping[str, Path]], Found]) -> Found:
    """Read files that belong together, although they may be replaced at the same time.

    Parameters
    ----------
    folder : Path
    read : callable
        Is given the place of each file by its name, and called again if they were replaced in the meantime.

    Returns
    -------
    object
        What `read` returned.

    Raises
    ------
    OSError
        If they are replaced again and again.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "metrics.json").write_text("{}")
    ...     reading(Path(place), lambda places: places["metrics.json"].read_text())
    '{}'
    """
    for _ in range(PATIENCE):
        if _is_waiting(folder):
            with suppress(OSError), _alone(folder, wait=False):
                finish(folder)
        before = _state(folder)
        try:
            found = read({name: _place(folder, name) for name in FILES})
        except (OSError, ValueError):
            if _state(folder) == before:
                raise
            continue
        if _state(folder) == before:
            return found
    raise OSError(f"the files in {folder} are being replaced again and again; try again later")


def finish(folder: Path) -> None:
    """Move files to their places that are valid already, but whose writer was stopped before it could do so.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If it cannot be done.
    """
    if not _is_waiting(folder):
        return
    waiting = folder / NEXT
    for name in os.listdir(waiting):
        with suppress(FileNotFoundError):  # another process does the same
            if name in FILES:
                os.replace(waiting / name, folder / name)
            else:
                (waiting / name).unlink()
    _reach_disk(folder)
    with suppress(FileNotFoundError):
        waiting.rmdir()


def _commit(new: Path, folder: Path) -> None:
    """Make the new files the valid ones, and move them to their places."""
    _check_places(folder)
    _reach_disk(new)
    try:
        _rename(new, folder)
        _reach_disk(folder)
        finish(folder)
    except KeyboardInterrupt:
        finish(folder)  # if it came too late to stop it
        raise


def _rename(new: Path, folder: Path) -> None:
    for _ in range(PATIENCE):
        try:
            new.rename(folder / NEXT)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finish(folder)  # of a writer on a machine that sees no locks of this one
    raise OSError(f"{folder / NEXT} is in the way; remove it")


def _keep_permissions(new: Path, folder: Path) -> None:
    """Give new files the permissions of those they replace, and all who may enter the folder a way to them."""
    for file in new.iterdir():
        with suppress(OSError):
            file.chmod(stat.S_IMODE((folder / file.name).stat().st_mode) & 0o777)
    with suppress(OSError):
        new.chmod(stat.S_IMODE(folder.stat().st_mode) & 0o777)


@contextmanager
def _alone(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep others from replacing files of a folder; without `wait`, fail if somebody does."""
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # no locks on this disk; two writers help each other to finish
            pass
        yield
    finally:
        os.close(lock)


def _is_waiting(folder: Path) -> bool:
    """Whether there are files that are valid but not in their places; a link would lead to files of others."""
    try:
        return stat.S_ISDIR((folder / NEXT).lstat().st_mode)
    except OSError:
        return False


def _place(folder: Path, name: str) -> Path:
    """Where the valid file of this name is."""
    waiting = folder / NEXT / name
    return waiting if _is_waiting(folder) and waiting.is_file() else folder / name


def _state(folder: Path) -> State:
    """What changes when files are replaced or moved."""
    return [(place, _identity(place)) for place in (_place(folder, name) for name in FILES)]


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _reach_disk(folder: Path) -> None:
    """Wait until the names of files in a folder have reached the disk, where that can be asked for."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
