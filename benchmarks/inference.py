"""How many data points per second get a posterior, against scikit-learn's lasso for the same model."""

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import sparse_encode

from natural_patches import learned, patches
from sparsentropy.inference import DiagonalSolver, duality_gap
from sparsentropy.model import Parameters
from table import Table

GAP = 1e-3
LADDER = (5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)
REPEATS = 3

NOTES = f"""\
Patches and dictionary of "Natural image patches" (float32), held-out rows, cold start, one process. *Gap*: mean
duality gap, an upper bound on the distance to the best diagonal posterior in nats, in float64 and not part of the
time. "To a mean gap ≤ {GAP:g}": the fewest iterations that reach it, found beforehand. "Certified": the default call,
which proves its tolerance for every row. scikit-learn's `sparse_encode` with coordinate descent solves
min |x − Wz|²/2 + Σ (σ²/λ_h)|z_h|, the most probable code of the same model, to its own tolerance; codes are divided
by λ so that one `alpha` = σ² serves all atoms. Best of {REPEATS} repeats (scikit-learn: of one); rates are
rows per second."""


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def run(*, quick: bool) -> list[Table]:
    columns = ("d, h", "solver", "rows/s", "against lasso_cd", "iterations", "mean gap", "largest gap")
    table = Table("Inference", NOTES, columns).begin()
    for h in (100,) if quick else (100, 512):
        compare(table, h, quick=quick)
    return [table]


def compare(table: Table, h: int, *, quick: bool) -> None:
    model, _ = learned(h, quick=quick)
    test = patches()[1] / np.float32(model.data_scale_)
    parameters = Parameters(
        torch.from_numpy(np.array(model.components_.T)),
        torch.from_numpy(model.prior_scale_ / model.data_scale_).float(),
        torch.tensor(model.noise_variance_ / model.data_scale_**2, dtype=torch.float32),
    )
    rows = test[: 128 if quick else 1024]
    lasso = len(rows) / best_seconds(lambda: encoded(rows, parameters), 1)
    size = f"256, {h}"
    table.add(size, "sparse_encode, lasso_cd", f"{lasso:,.0f}", "1", "–", "–", "–")
    x, solver = torch.from_numpy(test), DiagonalSolver()

    def row(name: str, work: Callable[[], object], iterations: int, gap: torch.Tensor) -> None:
        rate = len(x) / best_seconds(work, REPEATS)
        cells = f"{rate:,.0f}", f"{rate / lasso:.1f}", str(iterations), f"{gap.mean():.1e}", f"{gap.max():.1e}"
        table.add(size, name, *cells)

    for iterations in LADDER:
        gap = duality_gap(x, solver(x, parameters, max_iter=iterations, tol=0.0).posterior, parameters)
        if gap.mean() <= GAP or iterations == LADDER[-1]:
            name = f"DiagonalSolver, to a mean gap ≤ {GAP:g}" if gap.mean() <= GAP else "DiagonalSolver, not there yet"
            row(name, lambda count=iterations: solver(x, parameters, max_iter=count, tol=0.0), iterations, gap)
            break
    solution = solver(x, parameters)
    gap = duality_gap(x, solution.posterior, parameters)
    row("DiagonalSolver, certified", lambda: solver(x, parameters), solution.cost.iterations, gap)


def encoded(rows: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Most probable codes in units of λ, (n, h)."""
    dictionary = (parameters.dictionary * parameters.prior_scale).T.numpy()
    alpha = float(parameters.noise_variance)
    return sparse_encode(rows, dictionary, algorithm="lasso_cd", alpha=alpha, max_iter=1000, n_jobs=1)
