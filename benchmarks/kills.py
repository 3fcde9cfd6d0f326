"""Runs that are killed at random moments, and what they come to when they go on."""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from table import Table

KILLS = 4  # of each run
WAYS = {  # runs and options
    "sweeps": (20, {}),
    "sweeps, annealed": (10, {"annealing": "beta"}),
    "minibatches": (15, {"learning": "minibatch"}),
    "perceptron": (5, {"inference": "amortized", "encoder": "mlp", "max_iter": 4}),
}
SCRIPT = """
import json, sys, warnings
import numpy as np
from sparsentropy import SparseCoding
warnings.simplefilter("ignore")
X, folder, out, options = np.load(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
model = SparseCoding(10, tol=1e-2, checkpoint=folder, checkpoint_every=0.0, resume=True)
model.set_params(**{"max_iter": 8} | options).fit(X).save(out)
"""
NOTES = f"""\
Runs of `fit` on 9,000 images of bars with seeds of their own, learned in several ways, a checkpoint after every
sweep, round of minibatches or pass of a perceptron. Each is killed
(SIGKILL) {KILLS} times after a random time, up to what a whole run takes, while it reads, learns, writes a checkpoint
or saves its model over an earlier one; then it is left to finish. *Readable*: after a kill the model file is whole, and
a run that begins again finds a checkpoint that is whole, or none. *Same bits*: the arrays of the model at the end are
bit by bit those of a run that was never stopped."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    columns = ("learned by", "runs", "kills", "readable", "same bits", "seconds of a whole run")
    table = Table("Killed runs", NOTES, columns)
    table.begin()
    draw = random.Random(0)
    for way, (number, options) in WAYS.items():
        runs = 1 if quick else number
        found = [stopped_often(options | {"random_state": seed}, draw) for seed in range(runs)]
        readable, same, took = map(sum, zip(*found, strict=True))
        table.add(way, f"{runs}", f"{runs * KILLS}", f"{readable}", f"{same}", f"{took / runs:.1f}")
        yield [table]


def stopped_often(options: dict[str, Any], draw: random.Random) -> tuple[int, bool, float]:
    """After how many kills all could be read, whether the end has the same bits, and how long a whole run takes."""
    with tempfile.TemporaryDirectory() as place:
        folder, text = Path(place), json.dumps(options)
        np.save(folder / "x.npy", make_bars(9000, noise_std=0.1, seed=0).data)
        began = time.perf_counter()
        finish(folder, "whole", text)
        took = time.perf_counter() - began
        out = folder / "killed.safetensors"
        out.write_bytes((folder / "whole.safetensors").read_bytes())  # what the user had
        readable = sum(killed(folder, text, draw.uniform(0, took)) and whole(out) for _ in range(KILLS))
        finish(folder, "killed", text)
        return readable, equal(out, folder / "whole.safetensors"), took


def command(folder: Path, name: str, options: str) -> list[str]:
    paths = (folder / "x.npy", folder / f"{name} ckpt", folder / f"{name}.safetensors")
    return [sys.executable, "-c", SCRIPT, *map(str, paths), options]


def finish(folder: Path, name: str, options: str) -> None:
    """A run that is left alone."""
    subprocess.run(command(folder, name, options), check=True, stdout=subprocess.DEVNULL)


def killed(folder: Path, options: str, after: float) -> bool:
    """A run that is killed so many seconds after it has begun; whether it had not failed by itself."""
    with subprocess.Popen(command(folder, "killed", options), stdout=subprocess.DEVNULL) as process:
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
