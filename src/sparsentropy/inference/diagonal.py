"""The E-step for a diagonal posterior: one convex problem per data point, solved by splitting until it is certified.

A chunk of data points at a time is worked on (`splitting`), in units in which one number is left of each atom
(`problem`). From time to time it is looked at: data points whose distance to the optimum is certified to be within the
tolerance are taken out and never touched again. Two certificates are known. One is quick and good in float32, but needs
codes that cannot be traded against each other; the other is a duality gap in float64 (`certificate`). Data points that
are still open after many iterations get steps of a semismooth Newton method (`polish`), and those that float32 cannot
finish go on in float64.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference.certificate import Certificate
from sparsentropy.inference.masked import Masked
from sparsentropy.inference.polish import polished
from sparsentropy.inference.problem import Problem
from sparsentropy.inference.solution import AbstractSolver, Cost, Inference, Solution, largest_gradient
from sparsentropy.inference.splitting import Splitting, State
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal

# Data points that are open by then get Newton steps (`polish`) before every further look; such a step costs as much as
# hundreds of iterations
FIRST_POLISH = 400
QUICK_LOOKS = (2, 3, 5, 8, 12)  # iterations after which the quick certificate is tried
LOOK_EVERY, SELDOM = 10, 5  # iterations between two looks at the duality gap; before the first polish a fifth of all
CHUNK = {"cpu": 2**17, "cuda": 2**24}  # codes at once ...
# ... but at least so many data points: a large matrix is read from memory for each chunk, and from so many atoms on a
# product with fewer rows takes half as long again
LEAST_ROWS, WIDE_ROWS, WIDE = 128, 256, 8192
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the gap, relative to 1 + the cost of the data point
FLOAT32_ITERATIONS = 400  # data points that float32 has not certified by then go on in float64


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

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(parameters)

    def with_gaps(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return Masked.of(parameters)


@final
@dataclass(frozen=True)
class _Prepared:
    """The solver at given parameters."""

    parameters: Parameters

    @cached_property
    def splitting(self) -> Splitting:
        return Splitting.of(Problem.of(self.parameters, exact=False))

    @cached_property
    def double(self) -> Splitting:
        return Splitting.of(Problem.of(self.parameters.to(torch.float64), exact=False))

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
        if tol <= 0:
            made = self.splitting.iterations(max_iter)
            return Solution(iterated(self.splitting, x, made, start), Cost(made, float("nan"), 0, len(x)))
        q, cost = _room(x, self.parameters.h), Cost(0, 0.0, 0, 0)
        for rows in _chunks(x, self.parameters.h):
            before = None if start is None else start[rows]
            cost += self._certified(x[rows], before, q[rows], max_iter, tol)
        return Solution(q, cost)

    def _phases(self, dtype: torch.dtype) -> Iterator[tuple[Splitting, int]]:
        """What is tried in turn on the data points that are still open, and for how many iterations."""
        own = self.splitting if dtype == torch.float32 or self.splitting.quick else self.exact
        if own is not self.exact:
            yield own, QUICK_LOOKS[-1] if own.quick else FLOAT32_ITERATIONS
        if own.quick and dtype == torch.float32:
            yield self.double, QUICK_LOOKS[-1]
        yield self.exact, sys.maxsize

    def _certified(self, x: Tensor, start: AbstractPosterior | None, q: Diagonal, max_iter: int, tol: float) -> Cost:
        """Solve a chunk, and write it into q."""
        left, made, gradient = torch.arange(len(q), device=x.device), 0, 0.0
        for splitting, most in self._phases(x.dtype):
            if not len(left) or made == max_iter:
                break
            rows = (x if made == 0 else x[left]).to(splitting.dtype)
            state = State.of(splitting, rows, splitting.problem.started(start if made == 0 else q[left]))
            judge = None if splitting is not self.exact and splitting.quick else self.certificate
            search = _Search(judge, tol, FIRST_POLISH if made == 0 else LOOK_EVERY, min(most, max_iter - made))
            open_, steps, steepest = search(rows, state, q, left)
            left, made, gradient = left[open_], made + steps, max(gradient, steepest)
        return Cost(
            made, max(gradient, largest_gradient(x[left], q[left], self.parameters)), len(q) - len(left), len(q)
        )


@final
@dataclass(frozen=True)
class _Search:
    """Iterations and looks."""

    certificate: Certificate | None  # the quick one where it is None
    tol: float
    first_polish: int
    steps: int

    def __call__(self, x: Tensor, state: State, q: Diagonal, rows: Tensor) -> tuple[Tensor, int, float]:
        """Iterate, leaving out what is certified, and write it into these rows of q.

        Returns the data points left open, the number of iterations, and the largest gradient of the others.
        """
        open_, largest, number = torch.arange(len(rows), device=x.device), 0.0, 0
        while number < self.steps and len(open_):
            number += 1
            state.step(number)
            if not (self._looks(number) or number == self.steps):
                continue
            if self.certificate is not None and number >= self.first_polish:
                state.place(_polished(x, state))
            posterior = state.posterior(x)
            _put(q, rows[open_], posterior)
            holds, steepest = self._judged(x, state, posterior)
            largest = max(largest, steepest)
            if bool(holds.any()):
                kept = (~holds).nonzero().ravel()
                open_, x, state = open_[kept], x[kept], state[kept]
        return open_, number, largest

    def _looks(self, number: int) -> bool:
        if self.certificate is None:
            return number in QUICK_LOOKS
        seldom = number // (LOOK_EVERY * SELDOM) if number < self.first_polish else 1
        return number % (LOOK_EVERY * max(1, seldom)) == 0

    def _judged(self, x: Tensor, state: State, q: Diagonal) -> tuple[Tensor, float]:
        """Which gaps are small enough, and the largest gradient of these."""
        if self.certificate is None:
            return state.certified(x, self.tol)
        holds = self.certificate.holds(x, q, self.tol)
        return holds, largest_gradient(x[holds], q[holds], self.certificate.parameters.to(x.dtype))


def iterated(splitting: Splitting, x: Tensor, iterations: int, start: AbstractPosterior | None = None) -> Diagonal:
    """The posteriors of x (n, d) after a fixed number of iterations."""
    h = splitting.problem.parameters.h
    q = _room(x, h)
    for rows in _chunks(x, h):
        before = splitting.problem.started(None if start is None else start[rows])
        state = State.of(splitting, x[rows], before, steps=iterations > 0)
        for number in range(1, iterations + 1):
            state.step(number)
        state.posterior(x[rows], q[rows])
    return q


def _room(x: Tensor, h: int) -> Diagonal:
    mean = torch.empty(x.shape[0], h, dtype=x.dtype, device=x.device)
    return Diagonal(mean, torch.empty_like(mean))


def _chunks(x: Tensor, h: int) -> Iterator[slice]:
    size = chunk_rows(h, x.device)
    return (slice(begin, begin + size) for begin in range(0, x.shape[0], size))


def chunk_rows(h: int, device: torch.device) -> int:
    """Data points that are worked on together."""
    return max(LEAST_ROWS if h < WIDE else WIDE_ROWS, CHUNK[device.type] // h)


def operations(h: int, d: int) -> float:
    """Return the multiplications and additions of the largest product that an iteration makes on the processor."""
    return 2.0 * chunk_rows(h, torch.device("cpu")) * h * max(h, d)


def _put(q: Diagonal, rows: Tensor, part: Diagonal) -> None:
    index = rows if len(rows) < len(q) else slice(None)
    q.mean[index], q.variance[index] = part.mean.to(q.mean.dtype), part.variance.to(q.mean.dtype)


def _polished(x: Tensor, state: State) -> Tensor:
    own = state.splitting
    data = own.problem.seen(x.double())
    return polished(data, own.problem.atoms, own.problem.steepness, own.penalty, state.z.double()).to(state.z.dtype)
