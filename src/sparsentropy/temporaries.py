"""Temporary files and folders that do not stay for ever where their writer was killed.

A writer locks what it writes to (flock) for as long as it lives. Whoever can take that lock knows that the writer is
gone, and may remove what it left. Locks are believed only on the machine that set them, and only since it was last
started, for which there is a mark in the names; what other machines left in a shared folder stays.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def file(folder: Path, mode: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """Open a temporary file, which is gone after the block unless it was renamed.

    Parameters
    ----------
    folder : Path
        Where.
    mode : int, optional
        Permissions that the file shall get once it is complete; what the umask leaves of 0o666 by default.

    Yields
    ------
    file, mode : binary file, int
        The file, locked and readable by nobody else, and the permissions that it shall get.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    first = 0o666 if mode is None else 0o600  # what the umask leaves is seen at the file, which is empty yet
    while True:
        path = folder / _name()
        with open(path, "w+b", opener=lambda name, _: os.open(name, flags, first)) as opened:
            try:
                final = stat.S_IMODE(os.fstat(opened.fileno()).st_mode) if mode is None else mode
                with suppress(OSError):
                    os.fchmod(opened.fileno(), 0o600)
                if not _lock(opened.fileno(), path):
                    continue
                yield opened, final
                return
            finally:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


@contextmanager
def folder(within: Path) -> Iterator[Path]:
    """Make a temporary folder, which is gone after the block unless it was renamed.

    Parameters
    ----------
    within : Path
        The folder it is in.

    Yields
    ------
    Path
        The temporary folder, which nobody else may enter.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    while True:
        path = within / _name()
        path.mkdir(mode=0o700)
        descriptor = None
        try:
            with suppress(FileNotFoundError):  # taken for that of a writer who is gone before it could be locked
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if descriptor is None or not _lock(descriptor, path):
                continue
            yield path
            return
        finally:
            shutil.rmtree(path, ignore_errors=True)
            if descriptor is not None:
                os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and folders of writers that are gone.

    Parameters
    ----------
    folder : Path
        Where to look; what cannot be removed stays.
    """
    name = re.compile(rf"\.sparsentropy-{_machine()}-[0-9a-f]{{16}}\.tmp")
    with suppress(OSError), os.scandir(folder) as entries:
        for found in [entry.name for entry in entries if name.fullmatch(entry.name)]:
            with suppress(OSError):
                _remove_if_abandoned(folder / found)


def _remove_if_abandoned(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock what was just made; false if it was taken for that of a writer who is gone, and removed, before that."""
    with suppress(OSError):  # where there are no locks, others cannot lock it either, and leave it
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _name() -> str:
    return f".sparsentropy-{_machine()}-{secrets.token_hex(8)}.tmp"


@cache
def _machine() -> str:
    """Eight letters for this machine since its last start, within which a lock of another process is seen."""
    try:
        mark = BOOT.read_text()
    except OSError:
        mark = os.uname().nodename
    return hashlib.sha256(mark.encode()).hexdigest()[:8]
