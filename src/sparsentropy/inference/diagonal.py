"""The E-step for a diagonal posterior: one convex problem per data point, solved by splitting until it is certified.

A chunk of data points at a time is worked on (`splitting`), in units in which one number is left of each atom
(`problem`). From time to time it is looked at: data points whose distance to the optimum is certified to be within the
tolerance are taken out and never touched again. Two certificates are known. One is quick and good in float32, but needs
codes that cannot be traded against each other; the other is a duality gap in float64 (`certificate`). Data points that
are still open after many iterations get steps of a semismooth Newton method (`polish`), and those that float32 cannot
finish go on in float64.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference.certificate import Certificate
from sparsentropy.inference.polish import polished
from sparsentropy.inference.problem import Problem
from sparsentropy.inference.solution import AbstractSolver, Cost, Inference, Solution, largest_gradient
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
        return self.at(parameters)(x, start=start, max_iter=max_iter, tol=tol)

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(parameters)


@final
@dataclass(frozen=True)
class _Prepared:
    """The solver at given parameters."""

    parameters: Parameters

    @cached_property
    def splitting(self) -> Splitting:
        return Splitting.of(Problem.of(self.parameters, exact=False))

    @cached_property
    def exact(self) -> Splitting:
        """To the last digit of float64."""
        return Splitting.of(Problem.of(self.parameters.to(torch.float64), exact=True))

    @cached_property
    def certificate(self) -> Certificate:
        return Certificate.of(self.parameters)

    def __call__(
        self, x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
    ) -> Solution:
        tol = TOLERANCE[x.dtype] if tol is None else tol
        splitting = self.exact if tol > 0 and x.dtype == torch.float64 else self.splitting
        mean = torch.empty(x.shape[0], self.parameters.h, dtype=x.dtype, device=x.device)
        variance = torch.empty_like(mean)
        size = max(1, CHUNK[x.device.type] // self.parameters.h)
        cost = Cost(0, 0.0, 0, 0)
        for begin in range(0, x.shape[0], size):
            rows = slice(begin, begin + size)
            state = State.of(splitting, x[rows], splitting.problem.started(None if start is None else start[rows]))
            q = Diagonal(mean[rows], variance[rows])
            cost += (
                self._certified(x[rows], state, q, max_iter, tol) if tol > 0 else _iterated(x[rows], state, q, max_iter)
            )
        return Solution(Diagonal(mean, variance), cost)

    def _certified(self, x: Tensor, state: State, q: Diagonal, max_iter: int, tol: float) -> Cost:
        """Solve a chunk, and write it into q; what float32 cannot certify is finished in float64."""
        single = x.dtype == torch.float32
        last = min(max_iter, FLOAT32_ITERATIONS) if single else max_iter
        left, made, gradient = _searched(x, state, q, self.certificate, range(1, last + 1), tol)
        if single and len(left) and made < max_iter:
            part, rest = Diagonal(q.mean[left].double(), q.variance[left].double()), x[left].double()
            state = State.of(self.exact, rest, self.exact.problem.started(part))
            open_, made, steepest = _searched(rest, state, part, self.certificate, range(made + 1, max_iter + 1), tol)
            _put(q, left, part)
            left, gradient = left[open_], max(gradient, steepest)
        gradient = max(gradient, largest_gradient(x[left], q[left], self.parameters))
        return Cost(made, gradient, len(q) - len(left), len(q))


def _iterated(x: Tensor, state: State, q: Diagonal, max_iter: int) -> Cost:
    """A fixed number of iterations."""
    made = state.splitting.iterations(max_iter)
    for number in range(1, made + 1):
        state.step(number)
    state.posterior(x, q)
    return Cost(made, float("nan"), 0, len(q))


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
