"""A dictionary so wide that no matrix of all pairs of atoms would fit: memory, and the bound at every evaluation."""

import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from child import measured
from sparsentropy import SparseCoding, datasets, memory, rows
from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import em, learn_by_batches, random_starts
from sparsentropy.learning.minibatch import default_batch
from table import Table, progress
from workloads import images_folder

SIZE, ATOMS, ROWS, SECONDS = 64, 16_384, 20_000, 600.0
QUICK = 16, 1024, 3_000, 10.0
NOISE, BLOCK = 10, 1000  # grey levels of 255; rows that are written together
NOTES = f"""\
{ROWS:,} patches of {SIZE} × {SIZE} pixels of the 68 grey images of BSD68, each without its mean, with white noise of
{NOISE} grey levels, float32, in a .npy file that is read as a memory map: (d, h) = ({SIZE**2:,}, {ATOMS:,}). One
matrix of all pairs of atoms would have {8 * ATOMS**2 / 2**30:.0f} GiB. *SparseCoding*: as a user calls it, nothing set
but the number of atoms and `learning="minibatch"`, which is what `"auto"` is at this size; it gives a round each to
a frame of all atoms and to atoms for some and for all dimensions, the others off, and goes on from the best.
*Every atom*: the same learning,
from a frame in which all atoms are in use. Both are stopped after {SECONDS:.0f} s of learning, what comes before the
first evaluation not counted; each is a process of its own. *Memory*: the most that was resident beyond what the process
had with everything imported, and what was said before the run. *In use*: atoms whose scale is at least a tenth of the
noise; of *SparseCoding* at the end."""
Evaluation = tuple[float, float, float, int | None]
COLUMNS = ("learning", "evaluation", "seconds", "bound, nats per row", "noise", "in use", "GiB", "GiB said before")


def run(*, quick: bool) -> Iterator[list[Table]]:
    size, atoms, n, seconds = QUICK if quick else (SIZE, ATOMS, ROWS, SECONDS)
    table = Table("Wide problems", NOTES, COLUMNS).begin()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "rows.npy"
        write(path, size, n)
        for name, learn in (("SparseCoding", fitted), ("every atom", from_frame)):
            found = measured(nothing, learn, str(path), atoms, seconds, limit=seconds + 3000)
            said, history = found.value
            for number, (after, bound, noise, used) in enumerate(history):
                last = number == len(history) - 1
                peak = (f"{found.megabytes / 1024:.1f}", f"{said / 2**30:.1f}") if last else ("", "")
                number_used = "" if used is None else f"{used:,}"
                table.add(name, str(number), f"{after:.0f}", f"{bound:.2f}", f"{noise:.4f}", number_used, *peak)
            yield [table]


def write(path: Path, size: int, n: int) -> None:
    """Patches with noise."""
    draw = np.random.default_rng(0)
    images = [255 * image for image in datasets.load_images(images_folder())]
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, size**2))
    for begin in range(0, n, BLOCK):
        part = file[begin : begin + BLOCK]
        found = datasets.extract_patches(images, size=size, n=len(part), seed=begin)
        part[:] = found - found.mean(1, keepdims=True) + NOISE * draw.normal(size=part.shape)
    file.flush()


def nothing(*options: Any) -> None:
    """There is nothing to prepare: reading the data is a part of what is measured."""
    del options


def fitted(ready: None, path: str, atoms: int, seconds: float) -> tuple[int, list[Evaluation]]:
    """What was said of the memory; seconds, bound, noise and atoms in use of every evaluation."""
    del ready
    x, history, began = np.load(path, mmap_mode="r"), [], 0.0

    def tell(told: Any) -> bool:
        nonlocal began
        began = began or time.perf_counter()
        history.append((time.perf_counter() - began, told.lower_bound, told.noise_variance**0.5, None))
        progress(f"{history[-1]}")
        return history[-1][0] > seconds

    model = SparseCoding(atoms, learning="minibatch", random_state=0, callback=tell)
    said = model.memory_for(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x)
    used = model.prune().n_components
    return said, [*history[:-1], (*history[-1][:3], used)]


def from_frame(ready: None, path: str, atoms: int, seconds: float) -> tuple[int, list[Evaluation]]:
    """The same, with all atoms in use from the beginning."""
    del ready
    source = rows.source_of(np.load(path, mmap_mode="r"))
    survey = rows.Survey.over(rows.pieces(source))
    unit = 2.0 ** round(np.log2(survey.typical_size))
    x = rows.Stored(source, torch.float32, torch.device("cpu"), unit, survey)
    generator = torch.Generator().manual_seed(0)
    frame = random_starts(x, atoms, generator)[:1]
    n, d = x.shape
    said = memory.Plan(n, d, atoms, 4, "minibatch", stored=True).bytes
    options = {"max_iter": 10**6, "tol": 1e-3, "batch_size": default_batch(d), "generator": generator}
    history, began = [], 0.0
    for sweep in learn_by_batches(x, frame, DiagonalSolver(), **options):
        began = began or time.perf_counter()
        p = sweep.parameters
        noise = float(p.noise_variance) ** 0.5
        history.append((time.perf_counter() - began, sweep.lower_bound - d * np.log(unit), noise * unit, em.in_use(p)))
        progress(f"{history[-1]}")
        if history[-1][0] > seconds:
            break
    return said, history
