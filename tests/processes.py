"""What a process does in `test_processes`: torchrun starts it several times, or a test once."""

import atexit
import gc
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding, rendezvous
from sparsentropy.datasets import make_bars
from sparsentropy.learning import gradient

BARS = make_bars(600, noise_std=0.1, seed=0).data
SHARED = {"distributed": "same" if "RANK" in os.environ else None, "random_state": 0}
RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
QUICK = {"inference": "amortized", "max_iter": 1, "n_components": 4, "batch_size": 64}
FITS = {
    "full": {"posterior": "full", "tol": 0.0, "max_iter": 20, "batch_size": 64},
    "minibatch": {"learning": "minibatch", "batch_size": 64, "max_iter": 6},
    "mlp": QUICK | {"encoder": "mlp"},
    "low-rank head": QUICK | {"encoder": "mlp", "posterior": "low-rank", "rank": 2},
}


def numbers(model):
    found = {"dictionary": model.components_, "scale": model.prior_scale_, "noise": model.noise_variance_}
    found |= {"bound": model.lower_bound_, "bounds": model.lower_bounds_}
    if hasattr(model, "encoder_"):
        weights = [p.detach().double().ravel() for p in model.encoder_.parameters()]
        found["encoder"] = torch.cat(weights).numpy()
    return found


def fits(folder, *names):
    """Several models; each process keeps its own."""
    for name in names or FITS:
        model = SparseCoding(**{"n_components": 10} | SHARED | FITS[name]).fit(BARS)
        np.savez(folder / f"{name} {RANK}.npz", **numbers(model))


def full(folder):
    """Only the quickest of these, if many share few cores."""
    fits(folder, "full")


def unrolled(folder):
    """An encoder that follows the dictionary."""
    model = SparseCoding(**SHARED | QUICK | {"n_components": 10, "max_iter": 3}).fit(BARS)
    np.savez(folder / f"unrolled {RANK}.npz", **numbers(model))


def interrupted(folder):
    """Ctrl-C in the last process alone."""

    def press(progress):
        if progress.sweep == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGINT)

    model = SparseCoding(10, callback=press, **SHARED).fit(BARS)
    np.savez(folder / f"interrupted {RANK}.npz", stopped=model.interrupted_, **numbers(model))


def killed(folder):
    """The last process is killed the first time, between two sweeps."""
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    sweeps = []

    def shoot(progress):
        sweeps.append(progress.sweep)
        if first and progress.sweep == 4 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    options = {"max_iter": 8, "tol": 0.0, "batch_size": 64, "checkpoint": folder / "c", "checkpoint_every": 0}
    model = SparseCoding(10, callback=shoot, resume=True, **options, **SHARED).fit(BARS)
    np.savez(folder / f"killed {RANK}.npz", sweeps=sweeps, **numbers(model))


def never_killed(folder):
    """The same without an accident."""
    model = SparseCoding(10, max_iter=8, tol=0.0, batch_size=64, **SHARED).fit(BARS)
    np.savez(folder / f"never killed {RANK}.npz", **numbers(model))


def wrong(folder):
    """The second process has words instead of numbers."""
    x = [["a", "b"]] * 20 if RANK == 1 else BARS
    try:
        SparseCoding(2, distributed="own").fit(x)
    except Exception as error:
        (folder / f"wrong {RANK}.json").write_text(json.dumps([type(error).__name__, str(error)]))


def mismatched(folder):
    """What differs in the last process is told by all; it also comes late, and then all goes well."""
    odd = RANK == SIZE - 1
    said, messages = [], []
    for other in ({"posterior": "full"}, {"n_components": 9}, {"tol": 0.5}, {"checkpoint": folder / "c"}):
        try:
            SparseCoding(**{"n_components": 10, "distributed": "same"} | (other if odd else {})).fit(BARS)
        except ValueError as error:
            said.append(str(error))
    try:
        SparseCoding(10, distributed="same").fit(BARS + 1e-12 if odd else BARS)
    except ValueError as error:
        said.append(str(error))
    rendezvous.NOTICE = 0.2
    rendezvous.logger.addFilter(lambda record: messages.append(record.getMessage()))
    time.sleep(1 if odd else 0)
    fits(folder, "full")
    (folder / f"mismatched {RANK}.json").write_text(json.dumps([said, messages[:1]]))


def connected(folder):
    """By the program itself, which also lets go of the others."""
    dist.init_process_group("gloo")
    unrolled(folder)
    dist.destroy_process_group()


def threads(folder):
    """Those that are left in the end, where the system tells."""
    names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")]
    (folder / f"threads {RANK}.json").write_text(json.dumps(names))


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.disable()  # the end itself has to collect
    atexit.register(threads, Path(sys.argv[1]))  # after all that is registered later
    gradient.WARM_UP, gradient.STEPS, gradient.PASSES = 20, 10, 2  # enough to see that all go the same way
    warnings.simplefilter("ignore", ConvergenceWarning)
    for work in sys.argv[2:]:
        globals()[work](Path(sys.argv[1]))
