"""Learning with correlated posteriors: what is gained by independent ones that run ahead."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from child import measured
from learning import Data, unit_of
from sparsentropy import diagnostics
from sparsentropy.inference import AbstractSolver, FullSolver, LowRankSolver
from sparsentropy.inference.solution import Inference
from sparsentropy.learning import learn, random_starts
from sparsentropy.model import Parameters
from table import Table
from workloads import PATCH_NOTES, patches

SIZE, H, ROWS, SWEEPS = 16, 100, 2048, 30
QUICK = 8, 32, 512, 6
SOLVERS: dict[str, AbstractSolver] = {"low-rank, 4": LowRankSolver(4), "full": FullSolver()}

NOTES = f"""\
{PATCH_NOTES} Of these {ROWS:,} are learned from; d = {SIZE**2}, h = {H}, at most {SWEEPS} sweeps, tolerance 0.02 nats.
*Ahead*: diagonal posteriors make half of the sweeps, and the others go on from there, which is what the library does
with so many atoms. *× time*: of learning without, to the bound at which it ends on the training rows."""


@dataclass(frozen=True)
class Alone(AbstractSolver):
    """A solver nothing runs ahead of."""

    solver: AbstractSolver

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return self.solver.at(parameters)


@dataclass(frozen=True)
class Learned:
    """Seconds and training bounds after every sweep, and the bound on new rows."""

    curve: list[tuple[float, float]]
    held_out: float


def run(*, quick: bool) -> Iterator[list[Table]]:
    columns = ("posterior", "ahead", "× time", "training bound", "held-out bound", "seconds", "sweeps")
    table = Table("Running ahead", NOTES, columns).begin()
    for posterior in SOLVERS:
        alone, ahead = (measured(load, learned, posterior, own, quick).value for own in (True, False))
        bound = alone.curve[-1][1]
        sooner = next((seconds for seconds, reached in ahead.curve if reached >= bound), float("inf"))
        add(table, posterior, "nothing", "1", alone)
        add(table, posterior, "diagonal", f"{sooner / alone.curve[-1][0]:.2f}", ahead)
    yield [table]


def add(table: Table, posterior: str, ahead: str, ratio: str, found: Learned) -> None:
    seconds, bound = found.curve[-1]
    table.add(posterior, ahead, ratio, f"{bound:.2f}", f"{found.held_out:.2f}", f"{seconds:.0f}", str(len(found.curve)))


def load(_posterior: str, _alone: bool, quick: bool) -> Data:
    size, _, rows, _ = QUICK if quick else (SIZE, H, ROWS, SWEEPS)
    train, test = patches(size, quick=quick)
    return train[:rows], test[:ROWS]


def learned(data: Data, posterior: str, alone: bool, quick: bool) -> Learned:
    train, test = (torch.from_numpy(rows) for rows in data)
    unit, solver, generator = unit_of(data), SOLVERS[posterior], torch.Generator().manual_seed(0)
    shift = train.shape[1] * float(torch.tensor(unit).log())
    _, h, _, sweeps = QUICK if quick else (SIZE, H, ROWS, SWEEPS)
    options: dict[str, Any] = {"max_iter": sweeps, "tol": 0.02, "batch_size": 1024}
    x, curve, sweep, began = train / unit, [], None, time.perf_counter()
    starts = random_starts(x, h, generator)
    for sweep in learn(x, starts, Alone(solver) if alone else solver, generator=generator, **options):
        if sweep.rows == len(x):
            curve.append((time.perf_counter() - began, sweep.lower_bound - shift))
    assert sweep is not None
    return Learned(curve, diagnostics.held_out_bound(test / unit, sweep.parameters, solver) - shift)
