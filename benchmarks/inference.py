"""How many data points per second get a posterior, against scikit-learn's lasso for the same model."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso
from torch.utils.flop_counter import FlopCounterMode

from child import Memory, measured
from learning import Data, load, unit_of
from rate import product_rate
from sparsentropy.inference import DiagonalSolver, Solution, duality_gap
from sparsentropy.learning import learn, random_starts
from sparsentropy.model import Parameters
from table import Table
from workloads import PATCH_NOTES, WORKLOADS

GAP = 1e-3
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
TRIED = ", ".join(f"{tol:g}" for tol in TOLERANCES)
LADDER = (0, 1, 2, 4, 6, 8, 10, 12, 16, 20, 30, 40, 60, 80, 120, 200)
REPEATS = 5
LASSO_ITERATIONS = 10_000
LASSO_ROWS, LARS_ROWS, GAP_ROWS = 1024, 64, 4096
LARGE = 1000  # atoms, from which on an eighth of the rows is enough for least angles
LEARNING_SECONDS = 45.0

NOTES = f"""\
{PATCH_NOTES} Dictionary: sparsentropy's after {LEARNING_SECONDS:g} s of learning; cold start. *Gap*: duality gap,
an upper bound on the distance to the solver's own optimum, in nats, computed in float64 outside the time. The lasso
is the most probable code of the same model, min |x − Wz|²/2 + Σ (σ²/λ_h)|z_h| (codes divided by λ, so that one
`alpha` = σ² serves all atoms), its gap divided by σ²; it gets float64: `sparse_encode` asks its coordinate descent
for a relative gap of 1e-8, which float32 cannot reach, and took longer there. Since that tolerance cannot be
changed, the same solver is also called as `Lasso` with the first of the tolerances {TRIED} that gets the mean gap
to {GAP:g}. sparsentropy works in float32. "To a mean gap": the fewest iterations that reach it, found beforehand;
with none a single proximal map is left.
"Certified": the default call, which finds out for every row when to stop. *Of the product rate*: arithmetic of its
matrix products per second of the whole call, over that of a product of two 1024 × 1024 matrices, both measured in
turn; the median of {REPEATS} pairs. All rows that were learned from, the gap on {GAP_ROWS:,} of them; {GAP_ROWS:,}
where certified, {LASSO_ROWS:,} for the lasso, {LARS_ROWS} for least angles, all of which take the same time for any
row. Rows/s: the best of {REPEATS} repeats.
*MiB*: growth of the process during the first call, its result included."""


Work = Callable[[], Any]
Gap = Callable[[Any], np.ndarray]


def in_place(_: torch.Size, left: torch.Size, right: torch.Size, **__: object) -> int:
    """Arithmetic of `addmm_`, which torch's counter does not know."""
    return 2 * left[0] * left[1] * right[1]


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of the fastest call, and the median over calls of seconds times the rate of products just before."""
    times, products = [], []
    for _ in range(repeats):
        rate = product_rate(repeats=3) * 1e9
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
        products.append(times[-1] * rate)
    return min(times), float(np.median(products))


def dictionary(data: Data, index: int, quick: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """W, λ and σ² after a while of learning."""
    x, generator, h = torch.from_numpy(data[0]), torch.Generator().manual_seed(0), WORKLOADS[index].h
    unit = unit_of(data)
    x, began, p = x / unit, time.perf_counter(), None
    for sweep in learn(
        x,
        random_starts(x, h, generator),
        DiagonalSolver(),
        max_iter=1000,
        tol=1e-3,
        batch_size=1024,
        generator=generator,
    ):
        p = sweep.parameters
        if time.perf_counter() - began > (3 if quick else LEARNING_SECONDS):
            break
    assert p is not None
    return p.dictionary.numpy(), (p.prior_scale * unit).numpy(), float(p.noise_variance) * unit**2


def run(*, quick: bool) -> Iterator[list[Table]]:
    columns = ("data", "d, h", "solver", "× sparse_encode", "× Lasso, same gap", "rows/s", "of the product rate")
    table = Table("Inference", NOTES, (*columns, "MiB", "iterations", "mean gap", "largest gap")).begin()
    for index in (1,) if quick else range(len(WORKLOADS)):
        compare(table, index, quick=quick)
        yield [table]


def compare(table: Table, index: int, *, quick: bool) -> None:
    workload = WORKLOADS[index]
    W, scale, noise = measured(load, dictionary, index, quick).value
    x = torch.from_numpy(workload.data(quick=quick)[0])
    sample = x[:GAP_ROWS]
    parameters = Parameters(torch.from_numpy(W), torch.from_numpy(scale), torch.tensor(noise, dtype=torch.float32))
    problem = LassoProblem.of(x[: 128 if quick else LASSO_ROWS], parameters)
    size = f"{workload.d}, {workload.h}"
    rates: list[float] = []

    def row(name: str, work: Work, n: int, iterations: str, gap_of: Gap, *, repeats: int = REPEATS) -> None:
        with Memory() as memory:
            result = work()
        gap = gap_of(result)
        seconds, possible = timed(work, repeats)
        rates.append(n / seconds)
        ratios = [f"{rates[-1] / rate:.1f}" for rate in rates[:2]]
        share = "–"
        if "Diagonal" in name:
            with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
                work()
            share = f"{counter.get_total_flops() / possible:.0%}"
        ratios += ["–"] * (2 - len(ratios))
        cells = (
            f"{rates[-1]:,.0f}",
            share,
            f"{memory.peak / 2**20:.0f}",
            iterations,
            f"{gap.mean():.1e}",
            f"{gap.max():.1e}",
        )
        table.add(workload.name, size, name, *ratios, *cells)

    n = len(problem.rows)
    row("sparse_encode, lasso_cd", problem.encoded, n, "–", problem.gap, repeats=2)
    tolerance = next((tol for tol in TOLERANCES if problem.gap(problem.fitted(tol)).mean() <= GAP), TOLERANCES[-1])
    row(f"Lasso, tol = {tolerance:g}", partial(problem.fitted, tolerance), n, "–", problem.gap)
    few = LassoProblem(
        problem.rows[: LARS_ROWS if workload.h < LARGE else LARS_ROWS // 8], problem.dictionary, problem.alpha
    )
    row("sparse_encode, lasso_lars", few.by_least_angles, len(few.rows), "–", few.gap, repeats=1)

    def gap(solution: Solution) -> np.ndarray:
        return duality_gap(sample, solution.posterior[:GAP_ROWS], parameters).numpy()

    solver = DiagonalSolver()
    for most in LADDER:
        solution = solver(sample, parameters, max_iter=most, tol=0.0)
        there = gap(solution).mean() <= GAP
        if there or most == LADDER[-1]:
            name = f"DiagonalSolver, to a mean gap ≤ {GAP:g}" if there else "DiagonalSolver, not there yet"
            work = partial(solver, x, parameters, max_iter=most, tol=0.0)
            row(name, work, len(x), str(solution.cost.iterations), gap)
            break
    solution = solver(sample, parameters)
    work = partial(solver, sample, parameters)
    row("DiagonalSolver, certified", work, len(sample), str(solution.cost.iterations), gap, repeats=2)


@dataclass(frozen=True)
class LassoProblem:
    """Most probable codes in units of λ: min |x − D z|²/2 + σ² |z|₁ with D = W diag(λ)."""

    rows: np.ndarray  # (n, d)
    dictionary: np.ndarray  # Dᵀ (h, d)
    alpha: float  # σ²

    @classmethod
    def of(cls, x: torch.Tensor, parameters: Parameters) -> "LassoProblem":
        """The problem of the same data and parameters."""
        p = parameters.to(torch.float64)
        return cls(x.double().numpy(), (p.dictionary * p.prior_scale).T.numpy().copy(), float(p.noise_variance))

    def encoded(self) -> np.ndarray:
        """Codes by scikit-learn's own function."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return sparse_encode(
                self.rows, self.dictionary, algorithm="lasso_cd", alpha=self.alpha, max_iter=LASSO_ITERATIONS, n_jobs=1
            )

    def by_least_angles(self) -> np.ndarray:
        """Codes by scikit-learn's homotopy method."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sparse_encode(
                self.rows,
                self.dictionary,
                algorithm="lasso_lars",
                alpha=self.alpha,
                max_iter=LASSO_ITERATIONS,
                n_jobs=1,
            )

    def fitted(self, tolerance: float) -> np.ndarray:
        """Codes by the solver behind it, to a tolerance."""
        # As sparse_encode does it, with Lasso's own scaling of alpha
        model = Lasso(
            self.alpha / self.rows.shape[1],
            fit_intercept=False,
            precompute=self.dictionary @ self.dictionary.T,
            max_iter=LASSO_ITERATIONS,
            tol=tolerance,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(self.dictionary.T, self.rows.T, check_input=False).coef_

    def gap(self, codes: np.ndarray) -> np.ndarray:
        """Duality gap of every row, divided by σ²: nats."""
        residual = self.rows - codes @ self.dictionary
        primal = np.square(residual).sum(1) / 2 + self.alpha * np.abs(codes).sum(1)
        pull = np.abs(residual @ self.dictionary.T).max(1, keepdims=True)
        dual = residual * np.minimum(1, self.alpha / pull)
        bound = (np.square(self.rows).sum(1) - np.square(self.rows - dual).sum(1)) / 2
        return (primal - bound) / self.alpha
