"""The settings of torch under which a model computes: exact float32 products, and no more threads than pay.

Both settings belong to the whole process. They are changed when the first computation begins and put back when the last
one ends, so that several threads of a program can use models at the same time.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from joblib import cpu_count
from threadpoolctl import threadpool_limits

# Operations of one product from which on it is shared among threads. After every operation threads wait for one
# another, and while they wait they spin: beside one busy process two threads took 3 to 30 times as long as one for
# products of 10⁶ to 10⁸ operations, and with nothing else on the machine they were no faster.
WORTH_SHARING = 1e10


def n_threads(operations: float) -> int:
    """Return the number of threads for products of a given size.

    Parameters
    ----------
    operations : float
        Multiplications and additions of the largest product that is made again and again.

    Returns
    -------
    int
        1 where threads would cost more than they bring. Otherwise as many as torch may use (`OMP_NUM_THREADS`,
        `torch.set_num_threads`) and the machine grants this process (affinity, quota of a container, Slurm).

    Examples
    --------
    >>> n_threads(1e6)
    1
    """
    if operations < WORTH_SHARING:
        return 1
    granted = cpu_count(only_physical_cores=True)
    if (slurm := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdecimal():
        granted = min(granted, int(slurm))
    return max(1, min(torch.get_num_threads(), granted))


@contextmanager
def computing(operations: float = 0.0) -> Iterator[None]:
    """Compute in this block with all digits of float32 and with as many threads as pay.

    With the ten bits of TF32, rounded to by hand, posteriors of image patches cost 3e-5 nats, but the sums that
    learning needs moved the bound by 17 nats where the noise was tiny, and with the seven bits of bfloat16 by 294.

    Parameters
    ----------
    operations : float
        See `n_threads`.
    """
    before = torch.get_num_threads()
    threads = n_threads(operations)
    _SETTINGS.enter(threads)
    try:
        yield
    finally:
        _SETTINGS.leave(before)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute in this block with one thread, in numpy, scipy and scikit-learn as well as in torch.

    Images are restored by many products of small matrices in all of these. Their libraries are looked up, which takes
    a few milliseconds.
    """
    _LIBRARIES.enter()
    try:
        with computing():
            yield
    finally:
        _LIBRARIES.leave()


@final
class _Libraries:
    """How many blocks keep the libraries of numpy and others at one thread, and what they had before the first."""

    def __init__(self) -> None:
        self.lock, self.running = threading.Lock(), 0
        self.limits: threadpool_limits | None = None

    def enter(self) -> None:
        """Begin a block."""
        with self.lock:
            if self.running == 0:
                self.limits = threadpool_limits(1)
            self.running += 1

    def leave(self) -> None:
        """End it."""
        with self.lock:
            self.running -= 1
            if self.running == 0 and self.limits is not None:
                self.limits.restore_original_limits()
                self.limits = None


@final
class _Settings:
    """How many computations are going on in this process, and the settings that the program had before the first."""

    def __init__(self) -> None:
        self.lock, self.nested = threading.Lock(), threading.local()
        self.running, self.precision, self.threads = 0, "", 0

    def enter(self, threads: int) -> None:
        """Begin a computation in this thread of the program."""
        with self.lock:
            if self.running == 0:
                self.precision, self.threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
                torch.set_float32_matmul_precision("highest")
            self.running += 1
            self.nested.depth = getattr(self.nested, "depth", 0) + 1
            torch.set_num_threads(threads)

    def leave(self, before: int) -> None:
        """End it; `before` is the number of threads that an outer computation, if there is one, had."""
        with self.lock:
            self.running -= 1
            self.nested.depth -= 1
            # A thread of the program that began during another computation inherited the number of threads of that
            torch.set_num_threads(before if self.nested.depth else self.threads)
            if self.running == 0:
                torch.set_float32_matmul_precision(self.precision)


_LIBRARIES, _SETTINGS = _Libraries(), _Settings()
