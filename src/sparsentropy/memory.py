"""How much memory learning will need, said before it begins, and how much there is.

What counts is a handful of arrays: matrices of all pairs of atoms, arrays of the size of the dictionary, posteriors,
and the data. How many of each are alive at once is counted here; measured peaks were between a third of what this says
and all of it. What would not fit is refused before anything large is allocated, with the first setting that would fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from sparsentropy.inference.diagonal import chunk_rows
from sparsentropy.learning.minibatch import Round, default_batch
from sparsentropy.learning.quasi_newton import PAIRS
from sparsentropy.rows import MEMORY

BASE = 2**26  # bytes for threads and libraries once they are used, and for small things
WIDE = 2**32  # bytes of matrices and dictionaries from which on learning is by minibatches unless told otherwise
SWEEP_ROWS = 1024  # of a batch of the full sweep: then its arrays stay in a processor cache
# Arrays of eight bytes that are alive at once: (h, h) in statistics, metric and rotation; (d, h) in statistics, steps
# and what is prepared for inference; (d, d) in the start and for inference
PAIRS_ALIVE, ATOMS_ALIVE, SQUARES_ALIVE = 12, 16, 6
PREPARED, MOVING = 6, 8  # (d, h) of eight bytes for inference, and in the type of the data for steps of minibatches
CODES_ALIVE = 8  # (batch, h) while posteriors become statistics
STATES = 12  # (chunk, h) in an iteration
LIMITS = (  # of a control group, version 2 and 1: what it may have, and what it has
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@final
@dataclass(frozen=True)
class Plan:
    """What decides how much memory a fit needs.

    Parameters
    ----------
    n, d, h : int
        Data points, their entries, and atoms.
    itemsize : int
        Bytes of a number of the data, as they are computed with.
    learning : {'sweeps', 'minibatch'}
    posterior : {'diagonal', 'low-rank', 'full'}
    rank : int
    batch_size : int, optional
        None for the default.
    cache : {'memory', 'disk', 'none'}
    low_memory : bool
    held_out : int
        Rows that are set aside.
    stored : bool
        Whether the data stay where they are and are read a part at a time.

    Examples
    --------
    >>> sweeps = Plan(100_000, 4096, 16_384, 4, "sweeps")
    >>> shown(sweeps.bytes), shown(replace(sweeps, learning="minibatch", stored=True).bytes)
    ('71.5 GiB', '7.1 GiB')
    """

    n: int
    d: int
    h: int
    itemsize: int
    learning: str = "sweeps"
    posterior: str = "diagonal"
    rank: int = 8
    batch_size: int | None = None
    cache: str = "memory"
    low_memory: bool = False
    held_out: int = 0
    stored: bool = False

    @property
    def bytes(self) -> int:
        """Needed beyond the program and the data that were given, at most, about."""
        fixed = self.of_pairs if self.learning == "sweeps" else self.of_atoms
        return BASE + fixed + self.of_rows

    @property
    def of_pairs(self) -> int:
        """Of full sweeps, however many data points there are."""
        pairs, atoms = self.h**2, self.d * self.h
        return 8 * (PAIRS_ALIVE * pairs + (2 * PAIRS + ATOMS_ALIVE) * atoms + SQUARES_ALIVE * self.d**2)

    @property
    def of_atoms(self) -> int:
        """Of minibatches, however many data points there are."""
        return self.d * self.h * (8 * PREPARED + MOVING * self.itemsize) + 8 * SQUARES_ALIVE * self.d**2

    @property
    def of_rows(self) -> int:
        """Of data, posteriors, and work on some of them."""
        size, row = self.itemsize, self.numbers
        batch = self.batch_size or (SWEEP_ROWS if self.learning == "sweeps" else default_batch(self.d))
        chunk = chunk_rows(self.h, torch.device("cpu"))
        work = min(self.n, batch) * (CODES_ALIVE * self.h + 4 * self.d) + min(self.n, chunk) * STATES * self.h
        if self.posterior == "full":
            work += 2 * chunk * self.h * min(self.h, self.d)
        held = min(self.n * self.d * size, 2 * MEMORY) if self.stored else self.n * self.d * size
        kept = self.held_out * row * size
        if self.learning == "minibatch":
            kept += Round.of(self.n, self.h, batch).evaluated * self.d * size
        elif self.cache == "memory":
            kept += 2 * self.posteriors  # before and after a sweep
        return held + size * work + kept

    @property
    def numbers(self) -> int:
        """Of the posterior of a data point."""
        return {"diagonal": 2 * self.h, "low-rank": (2 + self.rank) * self.h, "full": 3 * self.h + 1}[self.posterior]

    @property
    def kept(self) -> int:
        """Numbers of a data point that a full sweep leaves to the next one."""
        return self.h if self.low_memory else self.numbers

    @property
    def posteriors(self) -> int:
        """Of all data points, after one sweep."""
        return self.n * self.kept * self.itemsize

    @property
    def wide(self) -> bool:
        """Whether matrices of all pairs of atoms are so large that minibatches are the better way to learn."""
        return self.of_pairs > WIDE

    def smaller(self) -> Iterator[tuple[str, "Plan"]]:
        """Settings that need less, by their names, those first that cost least."""
        if self.learning == "sweeps" and not self.low_memory and self.posterior == "diagonal":
            yield "low_memory=True", replace(self, low_memory=True)
        if self.learning == "sweeps" and self.cache == "memory":
            yield "cache='disk'", replace(self, cache="disk")
        if self.learning == "sweeps":
            yield "learning='minibatch'", replace(self, learning="minibatch")
        if self.itemsize == 8:
            yield "dtype='float32'", replace(self, itemsize=4)
            yield (
                "learning='minibatch' and dtype='float32'",
                replace(self, learning="minibatch", itemsize=4),
            )
        if self.posterior != "diagonal":
            yield "posterior='diagonal'", replace(self, posterior="diagonal")
        least = replace(self, learning="minibatch", itemsize=4, posterior="diagonal")
        if not self.stored:
            yield "a memory map for X, learning='minibatch' and dtype='float32'", replace(least, stored=True)
        yield (
            "learning='minibatch', dtype='float32' and batch_size=128",
            replace(least, batch_size=128, stored=self.stored),
        )
        h = least.h // 2
        while h:
            yield f"learning='minibatch', dtype='float32' and n_components={h}", replace(least, h=h)
            h //= 2


def shown(size: float) -> str:
    """Bytes as people read them.

    Examples
    --------
    >>> shown(2**20), shown(5.04e9)
    ('1 MiB', '4.7 GiB')
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def statement(needed: int, free: int | None) -> str:
    """What is said before a run.

    Examples
    --------
    >>> statement(2**29, 2**34)
    'about 512 MiB of memory needed, 16.0 GiB free'
    """
    return f"about {shown(needed)} of memory needed" + ("" if free is None else f", {shown(free)} free")


def available(device: torch.device) -> int | None:
    """Bytes that a process may still take, on this device; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_of_system(), *(_of_group(Path(limit), Path(used)) for limit, used in LIMITS)]
    return min((size for size in found if size is not None), default=None)


def _of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _of_group(limit: Path, used: Path) -> int | None:
    """What is left to a control group; None where it has no limit."""
    try:
        return max(0, int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii")))
    except (OSError, ValueError):  # "max" is no number
        return None


def check(plan: Plan, free: int | None) -> None:
    """Refuse to begin what there is no memory for.

    Parameters
    ----------
    plan : Plan
    free : int or None
        Bytes; None where nobody knows.

    Raises
    ------
    MemoryError
        It names a setting that would fit, if there is any.
    """
    if free is None or plan.bytes <= free:
        return
    fits = ((name, other.bytes) for name, other in plan.smaller() if other.bytes <= free)
    name, size = next(fits, ("a machine with more memory", None))
    advice = f"use {name}" if size is None else f"{name} would need {shown(size)}"
    raise MemoryError(
        f"to learn {plan.h:,} atoms from {plan.n:,} rows of {plan.d:,} needs about {shown(plan.bytes)} of memory "
        f"beyond the data given, and {shown(free)} are free: {advice}."
    )
