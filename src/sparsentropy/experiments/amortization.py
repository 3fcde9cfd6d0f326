"""What does an encoder cost, in nats, and what does it gain, in time? Asked of patches of photographs.

Three encoders are trained at a dictionary that iterative inference has learned, each for diagonal and for low-rank
posteriors, and go on with a few iterations of the E-step. What they say of patches from another part of the photographs
is compared with solved posteriors of the same patches: how many nats are missing, and how long a patch takes. The
default encoder also learns along with a dictionary of its own.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import datasets, plotting
from sparsentropy.diagnostics import amortization_gap
from sparsentropy.estimator import SparseCoding
from sparsentropy.experiments import photographs
from sparsentropy.experiments.finding import Finding, Picture, Table
from sparsentropy.experiments.log import Log
from sparsentropy.inference import AbstractSolver, AmortizedSolver, DiagonalSolver, LowRankSolver, encoders
from sparsentropy.learning import em, gradient
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows

SIZES = ("few", "many")
NETWORKS = ("mlp", "residual", "unrolled")
POSTERIORS = ("diagonal", "low-rank")
DEFAULT = "unrolled"
LONG_ENOUGH = 2.0  # seconds after which no repetition of a measurement is begun
SEEN = 1e-7  # nats; differences of bounds below that are rounding
LARGEST_GAP = {"few": 0.1, "many": 1.0}  # that was asked of the default encoder alone, nats
LARGEST_REFINED_GAP, LEAST_SPEED, REFINED = 0.01, 3.0, 5  # after so many iterations; and times as fast as solving


@final
@dataclass(frozen=True)
class Cell:
    """An encoder, and what it says of held-out patches."""

    network: str
    posterior: str
    training: str  # "bound", "solved" or "along"
    gaps: list[float]  # nats, one for each number of refinement steps
    solved: float  # mean bound of the solved posteriors, nats per patch
    diagonal: float  # the same of diagonal ones on the same patches
    converged: int
    rows: int
    seconds: list[float]  # for each patch
    solved_seconds: float
    training_seconds: float

    @property
    def gap(self) -> float:
        """Of the encoder alone."""
        return self.gaps[0]

    @property
    def name(self) -> str:
        """For tables and metrics."""
        return (
            self.network
            + {"bound": "", "solved": ", taught by solved posteriors", "along": ", learned along"}[self.training]
        )

    def speed(self, index: int) -> float:
        """Times as fast as solving."""
        return self.solved_seconds / self.seconds[index]


@final
@dataclass(frozen=True)
class Learned:
    """A dictionary from a record."""

    parameters: Parameters
    unit: float  # that data are divided by
    sweeps: int
    seconds: float
    active: int

    @classmethod
    def of(cls, part: Mapping[str, Any], dtype: torch.dtype) -> "Learned":
        """As `_dictionary` wrote it."""
        dictionary, scale, noise = (
            torch.tensor(part[name], dtype=dtype) for name in ("dictionary", "prior_scale", "noise_variance")
        )
        parameters = Parameters(dictionary, scale, noise)
        return cls(parameters, part["unit"], part["sweeps"], part["seconds"], part["active"])


@final
@dataclass(frozen=True)
class Studied:
    """All that was found with so many atoms."""

    size: str
    atoms: int
    dictionary: Learned
    cells: list[Cell]

    def cell(self, network: str, posterior: str = "diagonal", training: str = "bound") -> Cell:
        """The one of these."""
        wanted = (network, posterior, training)
        return next(cell for cell in self.cells if (cell.network, cell.posterior, cell.training) == wanted)


def run(settings: dict[str, Any], log: Log) -> Finding:
    """Run the experiment with these numbers (`amortization.toml`)."""
    study = _Study(settings, log)
    found = [study.of(size) for size in SIZES]
    steps = settings["refinements"]
    return Finding(
        title="What an encoder costs and gains",
        claim=(
            "Is the default encoder alone within 0.1 nats of solved posteriors on held-out patches (1 nat with more "
            "atoms than pixels), the dictionary learned along with it, at 3 times their speed, and within 0.01 nats "
            "after 5 iterations? Is a low-rank amortised posterior above the diagonal one?"
        ),
        seen=tuple(sentence for one in found for sentence in _sentences(one, steps, study.new.shape[1])),
        metrics=_metrics(found),
        times=_times(found),
        tables=tuple(table for one in found for table in _tables(one, steps)),
        pictures=tuple(picture for one in found for picture in _pictures(one, steps)),
    )


@final
class _Study:
    """The patches, and what is done with them."""

    def __init__(self, settings: dict[str, Any], log: Log) -> None:
        self.settings, self.log, self.seed = settings, log, settings["seed"]
        self.dtype: torch.dtype = getattr(torch, settings["dtype"])
        left, right = photographs.parted(settings["edge"])
        cut = partial(datasets.extract_patches, size=settings["size"], dtype=settings["dtype"])
        self.x = torch.from_numpy(cut(left, n=settings["rows"], seed=self.seed))
        self.new = torch.from_numpy(cut(right, n=settings["held_out"], seed=self.seed))

    def of(self, size: str) -> Studied:
        """All encoders with so many atoms."""
        own = self.settings[size]
        name, atoms = f"{own['atoms']} atoms", own["atoms"]
        part = self.log.part(f"{name}, dictionary", partial(self._dictionary, own), "{sweeps} sweeps, {active} in use")
        learned = Learned.of(part, self.dtype)
        line = "gap {gaps[0]:.3g} nats, trained for {training_seconds:.0f} s"
        cells = []
        for network, posterior, training in self._kinds():
            compute = partial(self._trained, own, learned, network, posterior, training)
            cells.append(self.log.part(f"{name}, {network}, {posterior}, by {training}", compute, line))
        cells.append(self.log.part(f"{name}, {DEFAULT}, learned along", partial(self._along, own), line))
        return Studied(size, atoms, learned, [Cell(**cell) for cell in cells])

    def _kinds(self) -> Iterator[tuple[str, str, str]]:
        yield from ((network, posterior, "bound") for posterior in POSTERIORS for network in NETWORKS)
        yield self.settings["taught"], "diagonal", "solved"

    def _dictionary(self, own: dict[str, Any]) -> dict[str, Any]:
        model, seconds = self._fitted(own, "iterative")
        p = self._parameters(model)
        return {
            "dictionary": p.dictionary.tolist(),
            "prior_scale": p.prior_scale.tolist(),
            "noise_variance": float(p.noise_variance),
            "unit": model.data_scale_,
            "sweeps": model.n_iter_,
            "seconds": seconds,
            "active": int((p.prior_scale > em.NARROW * p.noise_variance.sqrt()).sum()),
        }

    def _fitted(self, own: dict[str, Any], inference: str) -> tuple[SparseCoding, float]:
        model = SparseCoding(own["atoms"], inference=inference, max_iter=own["max_iter"], random_state=self.seed)
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self.x.numpy())
        return model, time.perf_counter() - began

    def _parameters(self, model: SparseCoding) -> Parameters:
        """Of data divided by their unit."""
        unit = model.data_scale_
        return Parameters(
            torch.tensor(model.components_.T, dtype=self.dtype),
            torch.tensor(model.prior_scale_ / unit, dtype=self.dtype),
            torch.tensor(model.noise_variance_ / unit**2, dtype=self.dtype),
        )

    def _trained(
        self, own: dict[str, Any], learned: Learned, network: str, posterior: str, training: str
    ) -> dict[str, Any]:
        """An encoder at a dictionary that is there."""
        x, p = self.x / learned.unit, learned.parameters
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            rank = self.settings["rank"] if posterior == "low-rank" else 0
            encoder = encoders.build(network, p.d, p.h, rank).to(self.dtype)
        began = time.perf_counter()
        encoder.begin(x, p)
        solved = DiagonalSolver()(x, p).posterior if training == "solved" else None
        generator, passes = torch.Generator().manual_seed(self.seed), own["passes"][network]
        gradient.train(encoder, x, p, generator=generator, passes=passes, solved=solved)
        seconds = time.perf_counter() - began
        return self._judged(encoder.eval(), p, learned.unit, (network, posterior, training), seconds)

    def _along(self, own: dict[str, Any]) -> dict[str, Any]:
        """The default encoder and a dictionary that learn together."""
        model, seconds = self._fitted(own, "amortized")
        kind = (DEFAULT, "diagonal", "along")
        return self._judged(model.encoder_, self._parameters(model), model.data_scale_, kind, seconds)

    def _judged(
        self, encoder: encoders.Encoder, p: Parameters, unit: float, kind: tuple[str, str, str], training_seconds: float
    ) -> dict[str, Any]:
        """Against solved posteriors of the same family."""
        solver: AbstractSolver = DiagonalSolver()
        x, exact = self.new / unit, p.to(torch.float64)
        if kind[1] == "low-rank":
            solver, x = LowRankSolver(self.settings["rank"]), x[: self.settings["held_out_low_rank"]]
        solution = solver(x.double(), exact)
        answers = [AmortizedSolver(encoder, solver, refine).at(p) for refine in self.settings["refinements"]]
        gaps = [amortization_gap(x, answer(x).posterior, p, solution).mean for answer in answers]
        diagonal = DiagonalSolver()(x.double(), exact).posterior
        repeats, shift = self.settings["repeats"], p.d * math.log(unit)  # p(x) = p(x/c) / c^d
        cell = Cell(
            *kind,
            gaps=gaps,
            solved=float(elbo_rows(x.double(), solution.posterior, exact).mean()) - shift,
            diagonal=float(elbo_rows(x.double(), diagonal, exact).mean()) - shift,
            converged=solution.cost.converged,
            rows=len(x),
            seconds=[_seconds(partial(answer, x), repeats) / len(x) for answer in answers],
            solved_seconds=_seconds(partial(solver.at(p), x), repeats) / len(x),
            training_seconds=training_seconds,
        )
        return asdict(cell)


def _seconds(work: Callable[[], object], repeats: int) -> float:
    """The best of a few."""
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < LONG_ENOUGH):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _sentences(found: Studied, steps: list[int], d: int) -> Iterator[str]:
    alone, refined = 0, steps.index(REFINED)
    along, most = found.cell(DEFAULT, training="along"), LARGEST_GAP[found.size]
    yield (
        f"{found.atoms} atoms, {d} pixels ({found.dictionary.active} in use after {found.dictionary.sweeps} sweeps): "
        f"learned along with the dictionary, the {DEFAULT} encoder alone is {along.gap:.2g} nats below solved "
        f"posteriors of {along.rows:,} held-out patches ({_verdict(along.gap <= most)}: at most {most:g}), at "
        f"{along.speed(alone):.1f} times their speed ({_verdict(along.speed(alone) >= LEAST_SPEED)}: at least "
        f"{LEAST_SPEED:g}). After {REFINED} iterations it is {_nats(along.gaps[refined])} below "
        f"({_verdict(along.gaps[refined] <= LARGEST_REFINED_GAP)}: at most {LARGEST_REFINED_GAP:g}), at "
        f"{along.speed(refined):.1f} times their speed."
    )
    for posterior in POSTERIORS:
        each = [found.cell(network, posterior) for network in NETWORKS]
        gaps = ", ".join(f"{cell.network} {cell.gap:,.2g} (then {_nats(cell.gaps[-1])})" for cell in each)
        yield (
            f"Trained at a dictionary that iterating has learned, {posterior} posteriors, gaps in nats of the encoder "
            f"alone and after {steps[-1]} iterations: {gaps}. Held-out patches: {each[0].rows:,}, of which "
            f"{each[0].converged:,} were solved to the tolerance."
        )
    low = found.cell(DEFAULT, "low-rank")
    gain = low.solved - low.gap - low.diagonal
    yield (
        f"The low-rank posteriors of the {DEFAULT} encoder have a held-out bound {abs(gain):.2g} nats "
        f"{'above' if gain > 0 else 'below'} that of solved diagonal ones of the same {low.rows:,} patches; for solved "
        f"low-rank ones the difference is {low.solved - low.diagonal:.2g}."
    )
    taught = next(cell for cell in found.cells if cell.training == "solved")
    by_bound = found.cell(taught.network)
    lower = "lower" if taught.gap < by_bound.gap else "higher"
    yield (
        f"Taught by solved posteriors instead of the bound, the {taught.network} network ends at {taught.gap:,.2g} "
        f"nats, {lower} than {by_bound.gap:,.2g}."
    )


def _verdict(kept: bool) -> str:
    return "as asked" if kept else "not as asked"


def _nats(value: float) -> str:
    return f"{value:,.2g}" if abs(value) >= SEEN else f"less than {SEEN:g}"


def _rate(seconds: float) -> str:
    return f"{1 / seconds:,.{0 if seconds < 0.01 else 1}f}"


def _key(found: Studied, cell: Cell) -> str:
    return ".".join((found.size, cell.network, cell.posterior, cell.training))


def _metrics(found: list[Studied]) -> dict[str, float | int | list[float]]:
    metrics: dict[str, float | int | list[float]] = {}
    for one in found:
        metrics[f"{one.size}.active"] = one.dictionary.active
        metrics[f"{one.size}.sweeps"] = one.dictionary.sweeps
        metrics[f"{one.size}.noise_std"] = float(one.dictionary.parameters.noise_variance) ** 0.5 * one.dictionary.unit
        for cell in one.cells:
            metrics[f"{_key(one, cell)}.gap"] = cell.gaps
            metrics[f"{_key(one, cell)}.solved"] = cell.solved
            metrics[f"{_key(one, cell)}.converged"] = cell.converged
        low = one.cell(DEFAULT, "low-rank")
        metrics[f"{one.size}.low_rank_above_diagonal"] = low.solved - low.gap - low.diagonal
    return metrics


def _times(found: list[Studied]) -> dict[str, float | int | list[float]]:
    times: dict[str, float | int | list[float]] = {"threads": torch.get_num_threads()}
    for one in found:
        times[f"{one.size}.learning_seconds"] = one.dictionary.seconds
        for cell in one.cells:
            times[f"{_key(one, cell)}.rows_per_second"] = [1 / seconds for seconds in cell.seconds]
            times[f"{_key(one, cell)}.solved_rows_per_second"] = 1 / cell.solved_seconds
            times[f"{_key(one, cell)}.training_seconds"] = cell.training_seconds
    return times


def _tables(found: Studied, steps: list[int]) -> Iterator[Table]:
    columns = ("encoder", "posterior", *(str(step) for step in steps))
    yield Table(
        f"{found.atoms} atoms: nats per patch below solved posteriors of the same family, by iterations after the "
        "encoder. Diagonal ones are certified to be the best; a low-rank one may be a local optimum, and less than "
        "zero is above it.",
        (*columns, "solved", "training, s"),
        tuple(
            (
                cell.name,
                cell.posterior,
                *map(_nats, cell.gaps),
                f"{cell.converged:,} of {cell.rows:,}",
                f"{cell.training_seconds:.0f}",
            )
            for cell in found.cells
        ),
    )
    yield Table(
        f"{found.atoms} atoms: patches per second by iterations after the encoder, and how many times that is what "
        "solving does.",
        (*columns, "solving"),
        tuple(
            (
                cell.name,
                cell.posterior,
                *(f"{_rate(seconds)} ({cell.speed(k):,.1f}×)" for k, seconds in enumerate(cell.seconds)),
                _rate(cell.solved_seconds),
            )
            for cell in found.cells
        ),
    )


def _pictures(found: Studied, steps: list[int]) -> Iterator[Picture]:
    def shown(cell: Cell) -> np.ndarray:
        return np.maximum(cell.gaps, SEEN)

    for posterior in POSTERIORS:
        each = {network: found.cell(network, posterior) for network in NETWORKS}
        yield Picture(
            f"{found.size}-{posterior}-steps",
            f"{found.atoms} atoms, {posterior} posteriors: the gap by iterations after the encoder; what is below "
            f"{SEEN:g} is drawn there.",
            partial(
                plotting.against,
                {network: (steps, shown(cell)) for network, cell in each.items()},
                xlabel="iterations after the encoder",
                ylabel="gap (nats per patch)",
            ),
        )
        solving = each[DEFAULT].solved_seconds
        yield Picture(
            f"{found.size}-{posterior}-time",
            f"{found.atoms} atoms, {posterior} posteriors: the gap by the time for a patch; solving took "
            f"{1e6 * solving:,.3g} µs.",
            partial(
                plotting.against,
                {network: (1e6 * np.array(cell.seconds), shown(cell)) for network, cell in each.items()},
                xlabel="time per patch (µs)",
                ylabel="gap (nats per patch)",
                log_x=True,
            ),
        )
