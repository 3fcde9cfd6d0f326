"""Several processes with one thread each beside one process with as many threads, and what they have to say."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stored import ATOMS, D, write
from table import Table

ROWS, WHOLE, ROUNDS, TOL = 100_000, 3, 3, 0.05
SETUPS = ((1, 1), (1, 2), (2, 1))  # processes, and threads of each
NOTES = f"""\
{ROWS:,} rows of {D} float64 numbers, drawn from the model with {ATOMS} atoms, learned with as many by
`SparseCoding(tol={TOL})` from a memory map until {WHOLE} sweeps over all rows are done; processes are started by
torchrun and talk by gloo on one machine. The setups take turns, {ROUNDS} times; medians. *Rows/s*: of these sweeps.
*Sums*, *kB* and *share*: how often the processes add up or agree on something in such a sweep, how many bytes that
are, and its share of the time, with what one of them waits for the other."""
COLUMNS = ("processes", "threads each", "rows/s", "of two threads", "sums", "kB", "share", "bound")


def run(*, quick: bool) -> Iterator[list[Table]]:
    n, rounds = (20_000, 1) if quick else (ROWS, ROUNDS)
    table = Table("Several processes", NOTES, COLUMNS).begin()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "rows.npy"
        write(path, n, np.float64)
        found: dict[tuple[int, int], list[dict[str, float]]] = {setup: [] for setup in SETUPS}
        for _ in range(rounds):
            for setup in SETUPS:
                found[setup].append(_started(path, n, *setup))
        middle = {setup: statistics.median(one["rate"] for one in some) for setup, some in found.items()}
        for setup, some in found.items():
            one = some[-1]
            ratio = f"{middle[setup] / middle[1, 2]:.2f}"
            said = (f"{one['sums']:.0f}", f"{one['bytes'] / 1e3:,.0f}", f"{one['share']:.1%}")
            table.add(*map(str, setup), f"{middle[setup]:,.0f}", ratio, *said, f"{one['bound']:.9f}")
        yield [table]


def _started(path: Path, n: int, processes: int, threads: int) -> dict[str, float]:
    call = [sys.executable, __file__, str(path), str(n)]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        call = [sys.executable, *launch, *call[1:]]
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    return json.loads(subprocess.run(call, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


class _Counted:
    """A collective call that is counted."""

    calls, size, seconds = 0, 0, 0.0

    def __init__(self, call: Any) -> None:
        self.call = call

    def __call__(self, first: Any, *others: Any) -> Any:
        began = time.perf_counter()
        result = self.call(first, *others)
        _Counted.seconds += time.perf_counter() - began
        _Counted.calls += 1
        _Counted.size += getattr(others[0] if others and hasattr(others[0], "nbytes") else first, "nbytes", 0)
        return result


def _learned(path: str, n: int) -> dict[str, float]:
    import torch.distributed as dist
    from sklearn.exceptions import ConvergenceWarning

    from sparsentropy import SparseCoding

    for name in ("all_reduce", "broadcast", "all_gather"):
        setattr(dist, name, _Counted(getattr(dist, name)))
    whole, last, said = [], time.perf_counter(), (0, 0, 0.0)
    before = said

    def tell(progress: Any) -> bool:
        nonlocal last, before, said
        now = time.perf_counter()
        if progress.rows == n:
            whole.append(now - last)
            said = tuple(total + new - old for total, new, old in zip(said, _now(), before, strict=True))
        last, before = now, _now()
        return len(whole) == WHOLE

    together = "same" if "RANK" in os.environ else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        x = np.load(path, mmap_mode="r")
        model = SparseCoding(ATOMS, tol=TOL, random_state=0, distributed=together, callback=tell).fit(x)
    sums, size, seconds = said
    told = {"rate": len(whole) * n / sum(whole), "bound": model.lower_bound_}
    return told | {"sums": sums / len(whole), "bytes": size / len(whole), "share": seconds / sum(whole)}


def _now() -> tuple[int, int, float]:
    return _Counted.calls, _Counted.size, _Counted.seconds


if __name__ == "__main__":
    answer = _learned(sys.argv[1], int(sys.argv[2]))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(answer))
