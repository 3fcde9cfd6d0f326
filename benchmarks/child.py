"""One measurement in a process of its own: what it returned, how long it took, and how much memory it needed."""

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
LOOK_EVERY = 0.005  # seconds between two looks at the memory


@dataclass(frozen=True)
class Measured:
    """What came back; `value` is None when the time was up."""

    value: Any
    seconds: float
    megabytes: float  # peak beyond what was there at the beginning


def measured(prepare: Callable[..., Any], work: Callable[..., Any], *options: Any, limit: float = 3600) -> Measured:
    """Run `work(prepare(*options), *options)` in a new process; only `work` is measured."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_run, args=(sender, prepare, work, options))
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return Measured(None, limit, float("nan"))
        answer = receiver.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__}{options}: the process died, perhaps for want of memory") from None
    finally:
        child.kill()
        child.join()
    if isinstance(answer, str):
        raise RuntimeError(f"{work.__name__}{options}:\n{answer}")
    return answer


def _run(sender: Connection, prepare: Callable[..., Any], work: Callable[..., Any], options: tuple[Any, ...]) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            ready = prepare(*options)
            with Memory() as memory:
                began = time.perf_counter()
                value = work(ready, *options)
                seconds = time.perf_counter() - began
        sender.send(Measured(value, seconds, memory.peak / 2**20))
    except Exception:
        sender.send(traceback.format_exc())


class Memory:
    """The resident memory of this process, watched by a thread; Linux only, NaN elsewhere."""

    def __enter__(self) -> "Memory":
        self.begin = self._now()
        self.largest, self.done = self.begin, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def peak(self) -> float:
        """Bytes beyond those at the beginning."""
        return self.largest - self.begin

    def _watch(self) -> None:
        while not self.done.wait(LOOK_EVERY):
            self.largest = max(self.largest, self._now())

    @staticmethod
    def _now() -> float:
        try:
            return float(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
        except OSError:
            return float("nan")
