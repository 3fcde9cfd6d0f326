"""Runs that are killed at random moments, and what they come to when they go on."""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from table import Table

RUNS, KILLS = 50, 4  # of each run
SCRIPT = """
import sys, time, warnings
import numpy as np
from sparsentropy import SparseCoding
warnings.simplefilter("ignore")
X, folder, out = np.load(sys.argv[1]), sys.argv[2], sys.argv[3]
model = SparseCoding(10, max_iter=8, tol=1e-2, random_state=int(sys.argv[4]), checkpoint=folder, checkpoint_every=0.0,
                     resume=True)
model.fit(X).save(out)
"""
NOTES = f"""\
{RUNS} runs of `fit` on 9,000 images of bars with seeds of their own, a checkpoint after every sweep. Each is killed
(SIGKILL) {KILLS} times after a random time, up to what a whole run takes, while it reads, learns, writes a checkpoint
or saves its model over an earlier one; then it is left to finish. *Readable*: after a kill the model file is whole, and
a run that begins again finds a checkpoint that is whole, or none. *Same bits*: the arrays of the model at the end are
bit by bit those of a run that was never stopped."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    table = Table("Killed runs", NOTES, ("runs", "kills", "readable", "same bits", "seconds of a whole run"))
    table.begin()
    draw, runs = random.Random(0), 1 if quick else RUNS
    kills = readable = same = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.save(folder / "x.npy", make_bars(9000, noise_std=0.1, seed=0).data)
        took = 0.0
        for seed in range(runs):
            began = time.perf_counter()
            finish(folder, "whole", seed)
            took = time.perf_counter() - began
            out = folder / "killed.safetensors"
            out.write_bytes((folder / "whole.safetensors").read_bytes())  # what the user had
            for _ in range(KILLS):
                kills += 1
                readable += killed(folder, seed, draw.uniform(0, took)) and whole(out)
            finish(folder, "killed", seed)
            same += equal(out, folder / "whole.safetensors")
    table.add(f"{runs}", f"{kills}", f"{readable}", f"{same}", f"{took:.1f}")
    yield [table]


def command(folder: Path, name: str, seed: int) -> list[str]:
    paths = (folder / "x.npy", folder / f"{name}-{seed}", folder / f"{name}.safetensors")
    return [sys.executable, "-c", SCRIPT, *map(str, paths), str(seed)]


def finish(folder: Path, name: str, seed: int) -> None:
    """A run that is left alone."""
    subprocess.run(command(folder, name, seed), check=True, stdout=subprocess.DEVNULL)


def killed(folder: Path, seed: int, after: float) -> bool:
    """A run that is killed so many seconds after it has begun; whether it had not failed by itself."""
    with subprocess.Popen(command(folder, "killed", seed), stdout=subprocess.DEVNULL) as process:
        time.sleep(after)
        process.kill()
    return process.returncode in (0, -signal.SIGKILL)


def whole(path: Path) -> bool:
    """Whether a model can be read."""
    try:
        SparseCoding.load(path)
    except (OSError, ValueError):
        return False
    return True


def equal(one: Path, other: Path) -> bool:
    """Whether the arrays of two models are the same."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)
