"""How many data points per second get a posterior, against scikit-learn's lasso for the same model."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from natural_patches import learned, patches
from sparsentropy.inference import DiagonalSolver, duality_gap
from sparsentropy.model import Parameters
from table import Table

GAP = 1e-3
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
TRIED = ", ".join(f"{tol:g}" for tol in TOLERANCES)
LADDER = (5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)
REPEATS = 3
LASSO_ITERATIONS = 10_000

NOTES = f"""\
Patches and dictionary of "Natural image patches", held-out rows, cold start. *Gap*: duality gap, an upper bound on the
distance to the solver's own optimum, in nats, computed in float64 outside the time. The lasso is the most probable
code of the same model, min |x − Wz|²/2 + Σ (σ²/λ_h)|z_h| (codes divided by λ, so that one `alpha` = σ² serves all
atoms), its gap divided by σ²; it gets float64: `sparse_encode` asks its coordinate descent for a relative gap of 1e-8,
which float32 cannot reach, and took longer there. Since that tolerance cannot be changed and is finer than needed, the
same solver is also called as `Lasso` with the first of the tolerances {TRIED} that gets
the mean gap to {GAP:g}. sparsentropy works in float32. "To a mean gap": the fewest iterations that reach it, found
beforehand. "Certified": the default call, which finds out for every row when to stop. Best of {REPEATS} repeats."""


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def run(*, quick: bool) -> list[Table]:
    columns = (
        "d, h",
        "solver",
        "rows/s",
        "× sparse_encode",
        "× Lasso, same gap",
        "iterations",
        "mean gap",
        "largest gap",
    )
    table = Table("Inference", NOTES, columns).begin()
    for h in (100,) if quick else (100, 512):
        compare(table, h, quick=quick)
    return [table]


def compare(table: Table, h: int, *, quick: bool) -> None:
    model, _ = learned(h, quick=quick)
    x = torch.from_numpy(patches()[1] / np.float32(model.data_scale_))
    parameters = Parameters(
        torch.from_numpy(np.array(model.components_.T)),
        torch.from_numpy(model.prior_scale_ / model.data_scale_).float(),
        torch.tensor(model.noise_variance_ / model.data_scale_**2, dtype=torch.float32),
    )
    rates: list[float] = []

    def row(name: str, work: Callable[[], object], repeats: int, n: int, iterations: str, gap: np.ndarray) -> None:
        rates.append(n / best_seconds(work, repeats))
        ratios = [f"{rates[-1] / rate:.1f}" for rate in rates[:2]]
        ratios += ["–"] * (2 - len(ratios))
        table.add(f"256, {h}", name, f"{rates[-1]:,.0f}", *ratios, iterations, f"{gap.mean():.1e}", f"{gap.max():.1e}")

    problem = LassoProblem.of(x[: 128 if quick else 1024], parameters)
    n = len(problem.rows)
    row("sparse_encode, lasso_cd", problem.encoded, REPEATS, n, "–", problem.gap(problem.encoded()))
    tolerance = next((tol for tol in TOLERANCES if problem.gap(problem.fitted(tol)).mean() <= GAP), TOLERANCES[-1])
    gap = problem.gap(problem.fitted(tolerance))
    row(f"Lasso, tol = {tolerance:g}", lambda: problem.fitted(tolerance), REPEATS, n, "–", gap)

    solver = DiagonalSolver()
    for iterations in LADDER:
        gap = duality_gap(x, solver(x, parameters, max_iter=iterations, tol=0.0).posterior, parameters).numpy()
        if gap.mean() <= GAP or iterations == LADDER[-1]:
            name = f"DiagonalSolver, to a mean gap ≤ {GAP:g}" if gap.mean() <= GAP else "DiagonalSolver, not there yet"
            work = partial(solver, x, parameters, max_iter=iterations, tol=0.0)
            row(name, work, REPEATS, len(x), str(iterations), gap)
            break
    solution = solver(x, parameters)
    gap = duality_gap(x, solution.posterior, parameters).numpy()
    work = partial(solver, x, parameters)
    row("DiagonalSolver, certified", work, REPEATS, len(x), str(solution.cost.iterations), gap)


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
        return sparse_encode(
            self.rows, self.dictionary, algorithm="lasso_cd", alpha=self.alpha, max_iter=LASSO_ITERATIONS, n_jobs=1
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
