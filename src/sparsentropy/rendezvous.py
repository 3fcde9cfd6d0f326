"""How processes find each other, and what is said while one of them has not come.

torch waits half an hour for a process that is late, without a word. Here the first of those that have come says for
which it waits, as a warning of the logger of this module, after half a minute and then again and again; Ctrl-C ends
the waiting at any time.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, final

import torch.distributed as dist

from sparsentropy import launch

NOTICE = 30.0  # seconds until a process says for whom it waits, and from one time to the next
LONGEST = 1800.0  # seconds until it gives up: what torch waits by default
CONNECT = 5.0  # seconds for one try to reach the first process
ANSWER = timedelta(minutes=5)  # for the store to answer, once it has been reached

logger = logging.getLogger(__name__)


@final
class Attendance:
    """Which processes have come how far: each counts the places at which all have to meet.

    Parameters
    ----------
    store : torch.distributed.Store
        That all of them share.
    rank, size : int
        Which process this is, of how many.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size, self.count = store, rank, size, 0
        self._keys = [f"process {number}" for number in range(size)]

    def come(self) -> None:
        """Tell the others that this process has come to the next place."""
        self.store.set(self._keys[self.rank], str(self.count))
        self.count += 1

    def all_started(self) -> bool:
        """Whether every process has come to the first place."""
        return self.store.check(self._keys)

    def missing(self) -> list[int]:
        """Those that have not come to the place at which this process is."""
        return [number for number, key in enumerate(self._keys) if not self._is_here(key)]

    def _is_here(self, key: str) -> bool:
        return self.store.check([key]) and int(self.store.get(key)) >= self.count - 1

    def say(self, seconds: float, place: str) -> None:
        """Say for whom this process waits, if it is the first of those that have come."""
        missing = self.missing()
        if missing and not any(number not in missing for number in range(self.rank)):
            logger.warning(
                "process %d of %d has waited %.0f s for %s to %s",
                self.rank, self.size, seconds, listed(missing), place,
            )  # fmt: skip


def listed(ranks: Sequence[int]) -> str:
    """Processes by their numbers.

    Examples
    --------
    >>> listed([3]), listed([0, 2, 3]), listed(range(1, 100))
    ('process 3', 'processes 0, 2 and 3', 'processes 1, 2, 3, 4, 5, 6, 7 and 92 others')
    """
    if len(ranks) == 1:
        return f"process {ranks[0]}"
    shown, rest = (list(ranks[:-1]), str(ranks[-1])) if len(ranks) < 10 else (ranks[:7], f"{len(ranks) - 7} others")
    return f"processes {', '.join(map(str, shown))} and {rest}"


def wait(is_done: Callable[[], bool], say: Callable[[float], None]) -> bool:
    """Wait until something is done.

    Parameters
    ----------
    is_done : callable
        Asked again and again.
    say : callable
        Called with the seconds since the beginning, every `NOTICE` seconds.

    Returns
    -------
    bool
        False if it was not done within `LONGEST` seconds.
    """
    began = said = time.monotonic()
    pause = 1e-4
    while not is_done():
        now = time.monotonic()
        if now - began > LONGEST:
            return False
        if now - said > NOTICE:
            said = now
            say(now - began)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return True


def meet() -> Attendance:
    """Find all processes that the environment tells of.

    Raises
    ------
    ValueError
        If what the environment says makes no sense.
    ConnectionError
        If one of them does not come.
    """
    rank, size, (host, port) = launch.rank(), launch.world_size(), launch.address()
    # The agent of torchrun keeps the store for its processes; without one the first process does
    is_first = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    reason = ""

    def is_reachable() -> bool:
        nonlocal reason
        try:
            socket.create_connection((host, port), CONNECT).close()
        except OSError as error:
            reason = error.strerror or str(error)
            return False
        return True

    def say_unreachable(seconds: float) -> None:
        where = f"{host}:{port}, where the first one should be ({reason})"
        logger.warning("process %d of %d has waited %.0f s to reach %s", rank, size, seconds, where)

    if not is_first and not wait(is_reachable, say_unreachable):
        raise ConnectionError(_given_up(rank, size, f"process 0 at {host}:{port}"))
    store: Any = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        host, port, is_master=is_first, timeout=ANSWER, wait_for_workers=False, multi_tenant=True
    )
    # After a restart the addresses of processes that are gone may still lie where the new ones look for each other
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {size}"
    store = dist.PrefixStore(attempt, store)  # pyright: ignore[reportPrivateImportUsage]
    attendance = Attendance(store, rank, size)
    attendance.come()
    if not wait(attendance.all_started, lambda seconds: attendance.say(seconds, "start")):
        raise ConnectionError(_given_up(rank, size, listed(attendance.missing())))
    return attendance


def _given_up(rank: int, size: int, whom: str) -> str:
    return (
        f"process {rank} of {size} has waited {LONGEST / 60:.0f} minutes for {whom}; check that all were started, and "
        "that MASTER_ADDR and MASTER_PORT can be reached from there"
    )
