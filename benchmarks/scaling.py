"""How time and memory grow with the data and the atoms, and how long a program takes to start."""

import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from child import measured
from rate import product_rate
from sparsentropy import SparseCoding
from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning.task import WARM_ITERATIONS, Task
from sparsentropy.model import Parameters
from table import Table
from workloads import laplace

SIZES = (10_000, 31_623, 100_000, 316_228, 1_000_000)
SWEEPS = 10
ATOMS = (256, 512, 1024, 2048, 4096)
STREAM = (10, 100)  # batches
BATCH = 10_000
FIRST = 1000  # rows of a fit before the one that is measured
REPEATS = 5

BY_ROWS = f"""\
Laplace codes, d = h = 64, float32, default settings, {SWEEPS} sweeps over all data. *s per pass*: median time in which
the posteriors of all data are brought up to date from those of the sweep before, with {WARM_ITERATIONS} steps, and
their statistics are taken; sweeps that need more iterations, or a second try, are made of longer or of more such
passes. *Memory*: peak of `fit` beyond the data that were handed in, in units of the posteriors' own size, two float32
numbers per code; a fit of {FIRST:,} rows comes before, so that code which is read from disk does not count. The
slope of log time over log n should be 1."""
BY_ATOMS = """\
DiagonalSolver on rows drawn from the model, atoms at random, noise 0.1, eight iterations' worth. *Relative to d h*:
time of a row and iteration over h, that of 4,096 atoms being 1; with more than 2d atoms an iteration does 4dh
operations, where a product with an (h, h) matrix would do 2h²."""
BY_STREAM = f"""\
`partial_fit` on batches of {BATCH:,} rows, d = h = 64. *MiB*: peak memory beyond that before the first batch, one
batch being {BATCH * 64 * 4 / 2**20:.1f} MiB; it must not depend on how many there are."""
STARTING = "Fresh processes, best of five. The import of torch is most of what there is."


def run(*, quick: bool) -> Iterator[list[Table]]:
    tables = []
    for part in (rows, atoms, stream):
        tables.append(part(quick=quick))
        yield tables
    yield [*tables, starting()]


def large(n: int, *_: Any) -> np.ndarray:
    """Rows like those of `laplace`, repeated with new noise: nobody looks at the result."""
    some, draw = laplace(64, 64)[0], np.random.default_rng(1)
    data = np.empty((n, 64), np.float32)
    for begin in range(0, n, len(some)):
        part = data[begin : begin + len(some)]
        part[:] = some[: len(part)] + 0.1 * draw.standard_normal(part.shape, np.float32)
    return data


def with_code_loaded(n: int, *_: Any) -> np.ndarray:
    passes(large(FIRST), FIRST)
    return large(n)


def passes(data: np.ndarray, n: int) -> float:
    """Median seconds of a pass over all data."""
    times: list[float] = []
    expect = Task.expect

    def timed(task: Any, parameters: Parameters, start: Any, iterations: int) -> Any:
        began = time.perf_counter()
        state = expect(task, parameters, start, iterations)
        if len(task.x) == n and start is not None and iterations == WARM_ITERATIONS:
            times.append(time.perf_counter() - began)
        return state

    with warnings.catch_warnings(), mock.patch.object(Task, "expect", timed):
        warnings.simplefilter("ignore")
        SparseCoding(64, random_state=0, max_iter=SWEEPS).fit(data)
    return float(np.median(times))


def rows(*, quick: bool) -> Table:
    table = Table("Time and memory over rows", BY_ROWS, ("rows", "s per pass", "µs per row", "memory")).begin()
    sizes, seconds = SIZES[:2] if quick else SIZES, []
    for n in sizes:
        found = measured(with_code_loaded, passes, n)
        seconds.append(found.value)
        own = 2 * n * 64 * 4 / 2**20
        table.add(f"{n:,}", f"{found.value:.3f}", f"{found.value / n * 1e6:.1f}", f"{found.megabytes / own:.2f}")
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    table.add("slope", f"{slope:.3f}", "", "")
    return table


def atoms(*, quick: bool) -> Table:
    columns = ("d, h", "µs per row", "relative to d h", "of the product rate", "preparation, s")
    table = Table("Time of the E-step over atoms", BY_ATOMS, columns).begin()
    rate, found = product_rate() * 1e9, []
    for h in ATOMS[:2] if quick else ATOMS:
        generator = torch.Generator().manual_seed(0)
        W = torch.randn(64, h, generator=generator)
        parameters = Parameters(W / W.norm(dim=0), torch.ones(h), torch.tensor(0.01))
        x = parameters.sample(max(512, 2**20 // h), 0)[0]
        began = time.perf_counter()
        work = partial(DiagonalSolver().at(parameters), x, max_iter=8, tol=0.0)
        iterations = work().cost.iterations
        first, times = time.perf_counter() - began, []
        for _ in range(REPEATS):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        flops = (iterations + 2) * 4 * 64 * h * len(x)
        found.append((h, min(times) / len(x), iterations, flops / min(times) / rate, first - min(times)))
    last = found[-1][1] / found[-1][2] / found[-1][0]
    for h, seconds, iterations, share, first in found:
        relative = seconds / iterations / h / last
        table.add(f"64, {h}", f"{seconds * 1e6:.1f}", f"{relative:.2f}", f"{share:.0%}", f"{first:.2f}")
    return table


def batches(model: SparseCoding, count: int) -> None:
    """A stream that is made as it goes."""
    some, draw = laplace(64, 64)[0][:BATCH], np.random.default_rng(2)
    for _ in range(count):
        model.partial_fit(some + 0.1 * draw.standard_normal(some.shape, np.float32))


def begun(_: int) -> SparseCoding:
    return SparseCoding(64, random_state=0).partial_fit(laplace(64, 64)[0][:BATCH])


def stream(*, quick: bool) -> Table:
    table = Table("Memory of a stream", BY_STREAM, ("batches", "rows", "rows/s", "MiB")).begin()
    for count in STREAM[:1] if quick else STREAM:
        found = measured(begun, batches, count)
        n = count * BATCH
        table.add(f"{count}", f"{n:,}", f"{n / found.seconds:,.0f}", f"{found.megabytes:.0f}")
    return table


def starting() -> Table:
    table = Table("Starting", STARTING, ("command", "seconds", "× import torch")).begin()
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "from sparsentropy import SparseCoding": [sys.executable, "-c", "from sparsentropy import SparseCoding"],
        "import sparsentropy": [sys.executable, "-c", "import sparsentropy"],
        "sparsentropy --help": [sys.executable, "-m", "sparsentropy", "--help"],
    }
    seconds: dict[str, float] = {}
    for name, command in commands.items():
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        seconds[name] = min(times)
        table.add(f"`{name}`", f"{seconds[name]:.2f}", f"{seconds[name] / seconds['import torch']:.2f}")
    return table
