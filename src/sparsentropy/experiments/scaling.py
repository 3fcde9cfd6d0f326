"""Does it grow? Time, memory and rounding from 64 dimensions to thousands.

Rows are drawn from a model with twice as many atoms as dimensions, and learning begins beside it. Every size is
measured in a process of its own: the E-step, a whole sweep, and the memory of it; the closed forms of λ and σ² and the
bound in float32 against sums over rows in float64; and the sampled bound, which needs noise where the entropies need
none.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sparsentropy import plotting
from sparsentropy.experiments.finding import Finding, Picture, Table
from sparsentropy.experiments.log import Log
from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import baselines, em
from sparsentropy.learning.loop import COLD_ITERATIONS
from sparsentropy.learning.task import WARM_ITERATIONS
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo
from sparsentropy.posteriors import Diagonal

MIB = 2**20
REPEATS = 2  # of a gradient that is timed
LEAST_ERROR = 1e-12  # that is drawn


@final
@dataclass(frozen=True)
class Cell:
    """What was measured of one size."""

    d: int
    h: int
    rows: int
    bounds: list[float]  # after every E-step, nats per row
    prepare_seconds: float  # what an E-step does once, whatever the number of rows
    e_step_seconds: float  # with posteriors to start from, without that
    statistics_seconds: float
    m_step_seconds: float
    mebibytes: float  # that the sweeps needed beyond data and model
    prior_scale_error: float  # largest relative error of λ*, float32
    noise_error: float  # relative error of σ²*
    bound_error: float  # relative, at the same posteriors
    solved_error: float  # nats per row, each arithmetic at the posteriors it has found itself
    prior_slope: float  # largest |∂L/∂log λ| at λ*, nats; float64
    noise_slope: float  # |∂L/∂log σ²| at σ²* in units of its two parts, d/2; float64
    sampled_error: float  # standard error of the sampled bound, nats per row
    sampled_seconds: float  # of its gradient
    analytic_seconds: float  # of that of the analytic bound

    @property
    def size(self) -> int:
        """Entries of the dictionary."""
        return self.d * self.h

    @property
    def sweep_seconds(self) -> float:
        """All of it."""
        return self.prepare_seconds + self.e_step_seconds + self.statistics_seconds + self.m_step_seconds

    @property
    def models(self) -> float:
        """Memory in units of the dictionary."""
        return self.mebibytes * MIB / (4 * self.size)

    @property
    def rise(self) -> float:
        """Smallest gain of a sweep, nats per row."""
        return min(after - before for before, after in zip(self.bounds, self.bounds[1:], strict=False))


def run(settings: dict[str, Any], log: Log) -> Finding:
    """Run the experiment with these numbers (`scaling.toml`)."""
    cells = [_part(size, settings, log) for size in settings["sizes"]]
    return Finding(
        title="From 64 dimensions to thousands",
        claim=(
            "Are time, memory and stability good enough for thousands of dimensions and atoms, and are the closed "
            "forms of λ and σ² still exact there? What does the sampled bound cost instead?"
        ),
        seen=tuple(_sentences(cells, settings)),
        metrics=_metrics(cells),
        times=_times(cells),
        tables=_tables(cells),
        pictures=_pictures(cells),
    )


def _part(size: Mapping[str, int], settings: Mapping[str, Any], log: Log) -> Cell:
    name = f"d = {size['d']:,}, h = {size['h']:,}"
    line = "{e_step_seconds:.3g} s for the E-step of {rows} rows, {mebibytes:.0f} MiB"
    return Cell(**log.part(name, partial(_alone, size, settings), line))


def _alone(size: Mapping[str, int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Measured in a new process, whose memory is nobody else's."""
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, threads) as pool:
        return asdict(pool.submit(measure, size, settings).result())


def measure(size: Mapping[str, int], settings: Mapping[str, Any]) -> Cell:
    """Everything about one size.

    Parameters
    ----------
    size : mapping
        Dimensions `d`, atoms `h`, `rows` and `sweeps`.
    settings : mapping
        Those of the experiment.
    """
    x, start = _drawn(size, settings)
    before = _memory("VmRSS")
    swept = _Swept(x, start, size["sweeps"])
    mebibytes = (_memory("VmHWM") - before) / MIB
    return Cell(
        size["d"],
        size["h"],
        len(x),
        bounds=swept.bounds,
        **{f"{name}_seconds": min(times) for name, times in swept.seconds.items()},
        mebibytes=mebibytes,
        **_rounding(swept),
        **_slopes(swept),
        **_sampled(swept, settings),
    )


def _drawn(size: Mapping[str, int], settings: Mapping[str, Any]) -> tuple[Tensor, Parameters]:
    """Rows from a model with atoms at random, and a model beside it to start from."""
    d, h, generator = size["d"], size["h"], torch.Generator().manual_seed(settings["seed"])
    W = torch.randn(d, h, generator=generator) / d**0.5
    noise = torch.tensor(settings["noise_std"]).square()
    truth = Parameters(W / W.norm(dim=0), torch.ones(h), noise)
    x = truth.sample(size["rows"], settings["seed"] + 1)[0]  # with the same seed rows would know of the atoms
    W += settings["distance"] * torch.randn(d, h, generator=generator) / d**0.5
    return x, replace(truth, dictionary=W / W.norm(dim=0), noise_variance=4 * noise)


@final
class _Swept:
    """A few sweeps of EM, and where they led: parameters, and the posteriors and statistics under them."""

    def __init__(self, x: Tensor, parameters: Parameters, sweeps: int) -> None:
        self.x, self.parameters, start = x, parameters, None
        self.bounds: list[float] = []
        self.seconds: dict[str, list[float]] = {"prepare": [], "e_step": [], "statistics": [], "m_step": []}
        for sweep in range(sweeps):
            if sweep:
                with self._timed("m_step"):
                    self.parameters, factor = em.update(self.statistics, self.parameters)
                start = self.posterior.scaled(factor.to(x.dtype))
            self._expect(start)
            self.bounds.append(float(entropy_elbo(self.statistics, self.parameters)))

    def _expect(self, start: Diagonal | None) -> None:
        self.inference = DiagonalSolver().at(self.parameters)
        with self._timed("prepare"):  # the first call does
            self.inference(self.x[:1], max_iter=0, tol=0.0)
        iterations = COLD_ITERATIONS if start is None else WARM_ITERATIONS
        with self._timed("e_step"):
            q = self.inference(self.x, start=start, max_iter=iterations, tol=0.0).posterior
        assert isinstance(q, Diagonal), "the solver's own family"
        self.posterior = q
        with self._timed("statistics"):
            self.statistics = Statistics.of(self.x, q, self.parameters)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - began)


def _memory(name: str) -> float:
    """Bytes, from the status of this process: `VmRSS` now, `VmHWM` at most; Linux only, NaN elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))


def _rounding(swept: _Swept) -> dict[str, float]:
    """Closed forms and bound in float32, from statistics, beside the same from rows in float64."""
    x, p, q = swept.x, swept.parameters, swept.posterior
    fitted, exact = swept.statistics.fit(p), _by_rows(x, q, p)
    bound = _sum_of_entropies(q, exact)
    cold = [
        infer(data, max_iter=COLD_ITERATIONS, tol=0.0).posterior
        for infer, data in ((swept.inference, x), (DiagonalSolver().at(p.to(torch.float64)), x.double()))
    ]
    alone = [_sum_of_entropies(found, _by_rows(x, found, p)) for found in cold if isinstance(found, Diagonal)]
    return {
        "prior_scale_error": float((fitted.prior_scale / exact.prior_scale - 1).abs().max()),
        "noise_error": abs(float(fitted.noise_variance / exact.noise_variance - 1)),
        "bound_error": abs(swept.bounds[-1] / bound - 1),
        "solved_error": abs(alone[0] - alone[1]),
    }


def _by_rows(x: Tensor, q: Diagonal, parameters: Parameters) -> Parameters:
    """λ* = mean_n E|z| and σ²* = mean_n E|x − Wz|²/d, in float64 and without statistics."""
    p, q = parameters.to(torch.float64), _double(q)
    error = (x.double() - q.mean @ p.dictionary.T).square().sum(1) + q.spread(p.dictionary)
    return replace(p, prior_scale=q.abs_moment().mean(0), noise_variance=error.mean() / p.d)


def _sum_of_entropies(q: Diagonal, best: Parameters) -> float:
    """L_H = mean_n H[q_n] − Σ_h log 2eλ_h − d/2 log 2πeσ², in float64."""
    prior, noise = best.prior.entropy(best.prior_scale), best.likelihood.entropy(best.noise_variance, best.d)
    return float(_double(q).entropy().mean() - prior - noise)


def _double(q: Diagonal) -> Diagonal:
    return Diagonal(q.mean.double(), q.variance.double())


def _slopes(swept: _Swept) -> dict[str, float]:
    """Derivatives of the standard bound at λ* and σ²*, by automatic differentiation in float64: they are zero."""
    x, p, q = swept.x.double(), swept.parameters.to(torch.float64), _double(swept.posterior)
    best = Statistics.of(x, q, p).fit(p)
    free = [best.prior_scale.log().requires_grad_(), best.noise_variance.log().requires_grad_()]
    model = replace(best, prior_scale=free[0].exp(), noise_variance=free[1].exp())
    scale, noise = torch.autograd.grad(elbo_rows(x, q, model).mean(), free)
    return {"prior_slope": float(scale.abs().max()), "noise_slope": abs(float(noise)) / (p.d / 2)}


def _sampled(swept: _Swept, settings: Mapping[str, Any]) -> dict[str, float]:
    """What the bound costs that everybody else uses, at the same posteriors and the λ and σ² that suit them best."""
    x, q = swept.x, swept.posterior
    p = swept.statistics.fit(swept.parameters)
    bound = baselines.sampled(settings["samples"], torch.Generator().manual_seed(settings["seed"] + 2))
    with torch.no_grad():
        # From row to row, since rows are drawn independently of each other
        error = torch.stack([bound(x, q, p) for _ in range(settings["draws"])]) - elbo_rows(x, q, p)
    return {
        "sampled_error": math.sqrt(float(error.double().square().mean()) / len(x)),
        "sampled_seconds": _gradient_seconds(x, q, p, bound),
        "analytic_seconds": _gradient_seconds(x, q, p, elbo_rows),
    }


def _gradient_seconds(x: Tensor, q: Diagonal, p: Parameters, bound: baselines.Bound) -> float:
    """Of a gradient for means, standard deviations, dictionary and noise: what a step of the baseline needs."""
    free = [value.clone().requires_grad_() for value in (q.mean, q.std.log(), p.dictionary, p.noise_variance.log())]
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        mean, log_std, dictionary, log_noise = free
        model = replace(p, dictionary=dictionary, noise_variance=log_noise.exp())
        torch.autograd.grad(bound(x, Diagonal(mean, (2 * log_std).exp()), model).mean(), free)
        times.append(time.perf_counter() - began)
    return min(times)


def _sentences(cells: list[Cell], settings: Mapping[str, Any]) -> Iterator[str]:
    first, last = cells[0], cells[-1]
    growth = last.size / first.size
    slower = last.e_step_seconds / last.rows / (first.e_step_seconds / first.rows)
    yield (
        f"From d = {first.d:,}, h = {first.h:,} to d = {last.d:,}, h = {last.h:,} the dictionary has {growth:,.0f} "
        f"times as many entries. An E-step of {WARM_ITERATIONS} iterations takes "
        f"{_time(first.e_step_seconds / first.rows)} and {_time(last.e_step_seconds / last.rows)} for a row, "
        f"{slower:,.0f} times as long; what it prepares once, {_time(first.prepare_seconds)} and "
        f"{_time(last.prepare_seconds)}; the statistics and the M-step after it, "
        f"{_time(first.statistics_seconds + first.m_step_seconds)} and "
        f"{_time(last.statistics_seconds + last.m_step_seconds)}. Sweeps over {last.rows:,} rows of the last size "
        f"needed {last.mebibytes:,.0f} MiB beyond data and model, {last.models:.0f} times the dictionary."
    )
    finite = all(math.isfinite(bound) for cell in cells for bound in cell.bounds)
    rises, steps = min(cell.rise for cell in cells), sum(len(cell.bounds) - 1 for cell in cells)
    yield (
        f"{'Every' if finite else 'Not every'} bound is finite. In {steps} sweeps of EM the bound "
        f"{'rose every time' if rises > 0 else 'did not rise every time'}, by {rises:.3g} nats per row at least."
    )

    def largest(name: str) -> str:
        return f"{max(getattr(cell, name) for cell in cells):.1g}"

    yield (
        "In float32 the closed forms are those of float64 up to a relative error of "
        f"{largest('prior_scale_error')} for λ*, {largest('noise_error')} for σ²* and {largest('bound_error')} for the "
        f"bound; with posteriors found in float32, too, the bound differs by {largest('solved_error')} nats per row at "
        f"most. In float64 the derivatives of the standard bound at λ* and σ²* are zero up to {largest('prior_slope')} "
        f"and {largest('noise_slope')} of the terms that they are made of."
    )
    k, analytic = settings["samples"], [cell.sampled_seconds / cell.analytic_seconds for cell in cells]
    yield (
        f"With {k} samples a gradient of the sampled bound takes {_range(analytic)} times as long as that of the "
        f"analytic one, and {_range([cell.sampled_seconds / cell.e_step_seconds for cell in cells])} times as long as "
        f"the E-step, on the same rows; a whole sweep, fixed costs included, takes "
        f"{_range([cell.sweep_seconds / cell.sampled_seconds for cell in cells])} times as long as such a gradient, of "
        f"which learning needs many. Its estimate of the bound has a standard error of {first.sampled_error:.2g} "
        f"nats per row with {first.rows:,} rows and {first.d:,} dimensions, and of {last.sampled_error:.2g} with "
        f"{last.rows:,} and {last.d:,}; that of the sum of entropies is zero."
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.2g} to {max(values):.2g}"


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"


EXACT = (
    "bounds",
    "prior_scale_error",
    "noise_error",
    "bound_error",
    "solved_error",
    "prior_slope",
    "noise_slope",
    "sampled_error",
)
TIMED = (
    "prepare_seconds",
    "e_step_seconds",
    "statistics_seconds",
    "m_step_seconds",
    "sweep_seconds",
    "sampled_seconds",
    "analytic_seconds",
    "mebibytes",
)


def _metrics(cells: list[Cell]) -> dict[str, float | int | list[float]]:
    return {f"{cell.d}x{cell.h}.{name}": getattr(cell, name) for cell in cells for name in EXACT}


def _times(cells: list[Cell]) -> dict[str, float | int | list[float]]:
    times: dict[str, float | int | list[float]] = {"threads": torch.get_num_threads()}
    return times | {f"{cell.d}x{cell.h}.{name}": getattr(cell, name) for cell in cells for name in TIMED}


def _tables(cells: list[Cell]) -> tuple[Table, ...]:
    costs = Table(
        "What a sweep takes, and beside it a gradient of the sampled and of the analytic bound on the same rows. "
        f"The E-step makes {WARM_ITERATIONS} iterations from the posteriors of the sweep before; it prepares once what "
        "does not depend on the rows. Memory: beyond data and model.",
        ("d", "h", "rows", "prepare", "E-step", "statistics", "M-step", "memory, MiB", "sampled", "analytic"),
        tuple(
            (
                f"{cell.d:,}",
                f"{cell.h:,}",
                f"{cell.rows:,}",
                _time(cell.prepare_seconds),
                _time(cell.e_step_seconds),
                _time(cell.statistics_seconds),
                _time(cell.m_step_seconds),
                f"{cell.mebibytes:,.0f}",
                _time(cell.sampled_seconds),
                _time(cell.analytic_seconds),
            )
            for cell in cells
        ),
    )
    exact = Table(
        "Relative errors of float32; nats per row between posteriors found in float32 and in float64; derivatives of "
        "the standard bound at λ* and σ²* in float64; and the standard error of the sampled bound in nats per row.",
        ("d", "h", "bound", "λ*", "σ²*", "L", "E-step", "∂ log λ", "∂ log σ²", "sampled"),
        tuple(
            (
                f"{cell.d:,}",
                f"{cell.h:,}",
                f"{cell.bounds[-1]:,.2f}",
                *(f"{getattr(cell, name):.1g}" for name in EXACT[1:]),
            )
            for cell in cells
        ),
    )
    return costs, exact


def _pictures(cells: list[Cell]) -> tuple[Picture, ...]:
    sizes = [cell.size for cell in cells]
    seconds = {
        "sampled gradient": [cell.sampled_seconds / cell.rows for cell in cells],
        "whole sweep": [cell.sweep_seconds / cell.rows for cell in cells],
        "E-step": [cell.e_step_seconds / cell.rows for cell in cells],
    }
    errors = {
        "bound": [cell.bound_error for cell in cells],
        "noise": [cell.noise_error for cell in cells],
        "prior scales": [cell.prior_scale_error for cell in cells],
    }

    def drawn(series: Mapping[str, list[float]], least: float, ylabel: str) -> Callable[[Any], object]:
        floored = {name: (sizes, [max(value, least) for value in values]) for name, values in series.items()}
        return partial(plotting.against, floored, xlabel="entries of the dictionary, d h", ylabel=ylabel, log_x=True)

    return (
        Picture(
            "seconds",
            "Seconds for a row by the size of the dictionary, rows as in the table; a whole sweep has fixed costs that "
            "more rows would share.",
            drawn(seconds, 0.0, "seconds per row"),
        ),
        Picture(
            "errors",
            "Closed forms and bound in float32: relative errors by the size of the dictionary; what is below "
            f"{LEAST_ERROR:g} is drawn there.",
            drawn(errors, LEAST_ERROR, "relative error of float32"),
        ),
    )
