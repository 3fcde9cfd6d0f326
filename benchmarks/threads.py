"""Threads: as many as the library chooses, one, and as many as torch would take, alone and beside other programs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from table import Table

REPEATS = 5
CASES = ("fit 10,000 × 64, h 32", "transform 20,000 × 64, h 32", "fit bars, full", "inpaint 96 × 96, half missing")
MODES = ("chosen", "one", "all")
NOTES = f"""\
Every measurement is a process of its own that takes the least of {REPEATS} repetitions where nothing else runs and the
median beside other programs, which are as many endless loops in Python as the machine has cores. *One*: seconds with
one thread. *Chosen*, *all*: how many times as long it takes with the number of threads that the library chooses, and
with all that torch takes by itself. The three are measured one after the other for every case."""
COLUMNS = ("what", "other programs", "one, s", "chosen, × one", "all, × one")


def run(*, quick: bool) -> Iterator[list[Table]]:
    cores = len(os.sched_getaffinity(0))
    table = Table("Threads", NOTES, COLUMNS).begin()
    for case in range(len(CASES)):
        for others in (0, cores):
            with ExitStack() as running:
                for _ in range(others):
                    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    running.callback(busy.wait)
                    running.callback(busy.kill)
                seconds = {mode: _seconds(case, mode, 1 if quick else REPEATS, alone=others == 0) for mode in MODES}
            ratios = (f"{seconds[mode] / seconds['one']:.2f}" for mode in ("chosen", "all"))
            table.add(CASES[case], f"{others}", f"{seconds['one']:.2f}", *ratios)
            yield [table]


def _seconds(case: int, mode: str, repeats: int, *, alone: bool) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"OMP_NUM_THREADS": "1"} if mode == "one" else {}
    call = [sys.executable, __file__, str(case), mode, str(repeats)]
    found = [
        float(word) for word in subprocess.run(call, env=environment, check=True, capture_output=True).stdout.split()
    ]
    return min(found) if alone else float(np.median(found))


def _measure(case: int, mode: str, repeats: int) -> None:
    import time
    import warnings

    import torch

    from sparsentropy import SparseCoding, arithmetic, datasets, imaging

    warnings.simplefilter("ignore")
    if mode == "all":
        arithmetic.n_threads = lambda _: torch.get_num_threads()
        arithmetic._LIBRARIES.enter = arithmetic._LIBRARIES.leave = lambda: None
    draw = np.random.default_rng(0)
    X = draw.laplace(size=(20_000, 32)) @ draw.normal(size=(32, 64)) / 8 + 0.1 * draw.normal(size=(20_000, 64))
    bars = datasets.make_bars(1000, noise_std=0.1, seed=0).data
    model = SparseCoding(32, random_state=0, max_iter=2).fit(X)
    image = datasets.load_photographs()[0][100:196, 200:296] * 255
    missing = draw.random(image.shape) < 0.5
    work: list[Any] = [
        lambda: SparseCoding(32, random_state=0).fit(X[:10_000]),
        lambda: model.transform(X),
        lambda: SparseCoding(10, posterior="full", random_state=0).fit(bars),
        lambda: imaging.inpaint(image, missing),
    ]
    for _ in range(repeats):
        began = time.perf_counter()
        work[case]()
        print(time.perf_counter() - began)


if __name__ == "__main__":
    _measure(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
