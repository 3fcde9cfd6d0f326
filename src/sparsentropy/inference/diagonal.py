"""The E-step for a diagonal posterior: one convex problem per data point, solved by splitting until it is certified.

A chunk of data points at a time is worked on (`splitting`), in units in which one number is left of each atom
(`problem`). From time to time it is looked at: data points whose distance to the optimum is certified to be within the
tolerance are taken out and never touched again. Two certificates are known. One is quick and good in float32, but needs
codes that cannot be traded against each other; the other is a duality gap in float64 (`certificate`). Data points that
are still open after many iterations get steps of a semismooth Newton method (`polish`), and those that float32 cannot
finish go on in float64.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference.certificate import Certificate
from sparsentropy.inference.polish import polished
from sparsentropy.inference.problem import Problem
from sparsentropy.inference.solution import AbstractSolver, Cost, Solution, largest_gradient
from sparsentropy.inference.splitting import Splitting, State
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal

FIRST_POLISH = 30  # data points that are open by then get Newton steps (`polish`) before every further look
QUICK_LOOKS = (4, 6, 8, 11, 14, 17)  # iterations after which the quick certificate is tried
LOOK_EVERY = 10  # iterations between two looks at the duality gap
CHUNK = {"cpu": 2**17, "cuda": 2**24}  # codes at once
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the gap, relative to 1 + the cost of the data point
FLOAT32_ITERATIONS = 60  # data points that float32 has not certified by then go on in float64


@final
@dataclass(frozen=True)
class DiagonalSolver(AbstractSolver):
    """Infers `posteriors.Diagonal`.

    Examples
    --------
    >>> import torch
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> solution = DiagonalSolver()(torch.tensor([[3.0, 0.0]]), parameters)
    >>> solution.posterior.mean.round(decimals=2)  # the data, shrunk by σ²/λ
    tensor([[2.9900, 0.0000]])
    >>> solution.cost.converged
    1
    """

    def __call__(
        self,
        x: Tensor,
        parameters: Parameters,
        start: AbstractPosterior | None = None,
        *,
        max_iter: int = 1000,
        tol: float | None = None,
    ) -> Solution:
        """See `AbstractSolver`."""
        tol = TOLERANCE[x.dtype] if tol is None else tol
        problem = Problem.of(parameters, exact=tol > 0 and x.dtype == torch.float64)
        splitting = Splitting.of(problem)
        certificate = Certificate.of(parameters) if tol > 0 else None
        mean = torch.empty(x.shape[0], parameters.h, dtype=x.dtype, device=x.device)
        variance = torch.empty_like(mean)
        size = max(1, CHUNK[x.device.type] // parameters.h)
        cost = Cost(0, 0.0, 0, 0)
        for begin in range(0, x.shape[0], size):
            rows = slice(begin, begin + size)
            state = State.of(splitting, x[rows], problem.started(None if start is None else start[rows]))
            if certificate is None:
                made = splitting.iterations(max_iter)
                for number in range(made):
                    state.step(number + 1)
                state.posterior(x[rows], Diagonal(mean[rows], variance[rows]))
                cost += Cost(made, float("nan"), 0, len(state.z))
            else:
                cost += _certified(x[rows], state, Diagonal(mean[rows], variance[rows]), certificate, max_iter, tol)
        return Solution(Diagonal(mean, variance), cost)


def _certified(x: Tensor, state: State, q: Diagonal, certificate: Certificate, max_iter: int, tol: float) -> Cost:
    """Solve a chunk, and write it into q; what float32 cannot certify is finished in float64."""
    parameters, single = state.splitting.problem.parameters, x.dtype == torch.float32
    last = min(max_iter, FLOAT32_ITERATIONS) if single else max_iter
    left, made, gradient = _searched(x, state, q, certificate, range(1, last + 1), tol)
    if single and len(left) and made < max_iter:
        exact = Problem.of(parameters.to(torch.float64), exact=True)
        part = Diagonal(q.mean[left].double(), q.variance[left].double())
        state = State.of(Splitting.of(exact), x[left].double(), exact.started(part))
        open_, made, rest = _searched(x[left].double(), state, part, certificate, range(made + 1, max_iter + 1), tol)
        _put(q, left, part)
        left, gradient = left[open_], max(gradient, rest)
    gradient = max(gradient, largest_gradient(x[left], q[left], parameters))
    return Cost(made, gradient, len(q) - len(left), len(q))


def _searched(
    x: Tensor, state: State, q: Diagonal, certificate: Certificate, iterations: range, tol: float
) -> tuple[Tensor, int, float]:
    """Iterate, leaving out what is certified; returns the data points left open, the last iteration and a gradient."""
    left, largest, iteration = torch.arange(x.shape[0], device=x.device), 0.0, iterations.start - 1
    for iteration in iterations:
        if not len(left):
            return left, iteration - 1, largest
        state.step(iteration)
        quick = iteration in QUICK_LOOKS and state.splitting.quick
        if not quick and iteration % LOOK_EVERY and iteration + 1 < iterations.stop:
            continue
        if not quick and iteration >= FIRST_POLISH:
            state.place(_polished(x, state))
        posterior = state.posterior(x)
        _put(q, left, posterior)
        holds, slope = state.certified(x, tol) if quick else _judged(x, posterior, certificate, tol)
        largest = max(largest, slope)
        if bool(holds.any()):
            kept = (~holds).nonzero().ravel()
            left, x, state = left[kept], x[kept], state[kept]
    return left, iteration, largest


def _put(q: Diagonal, rows: Tensor, part: Diagonal) -> None:
    index = rows if len(rows) < len(q) else slice(None)
    q.mean[index], q.variance[index] = part.mean.to(q.mean.dtype), part.variance.to(q.mean.dtype)


def _judged(x: Tensor, q: Diagonal, certificate: Certificate, tol: float) -> tuple[Tensor, float]:
    """Which gaps are small enough, and the largest gradient of these."""
    holds = certificate.holds(x, q, tol)
    return holds, largest_gradient(x[holds], q[holds], certificate.parameters.to(x.dtype))


def _polished(x: Tensor, state: State) -> Tensor:
    own = state.splitting
    data = x.double() @ own.problem.view
    return polished(data, own.problem.atoms, own.problem.steepness, own.penalty, state.z.double()).to(state.z.dtype)
