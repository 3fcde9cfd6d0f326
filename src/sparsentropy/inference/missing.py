"""Data of which entries are missing: which data points are solved together, and how.

NaN marks what is missing; nothing is assumed of it, so a data point is x_o = W_o z + noise with the rows o of the
dictionary that were observed. Data points that miss the same entries share this problem, and where they are many, it
is solved as that of complete data. Those left over go together to a solver that gives each its own rows
(`AbstractSolver.with_gaps`). A data point of which nothing is known gets the best Gaussian for its prior, ν = 0 and
s = √(π/2) λ, where ∂/∂s of √(2/π) s/λ − log s is zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference.solution import AbstractSolver, Cost, Inference, Solution
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal, Full, LowRank
from sparsentropy.rows import AbstractRows, of


def for_data(solver: AbstractSolver, x: Tensor | AbstractRows) -> AbstractSolver:
    """The solver, able to do without the entries that x misses.

    Examples
    --------
    >>> from sparsentropy.inference import DiagonalSolver
    >>> for_data(DiagonalSolver(), torch.ones(2, 3))
    DiagonalSolver()
    >>> for_data(DiagonalSolver(), torch.tensor([[1.0, torch.nan]]))
    MissingSolver(solver=DiagonalSolver())
    """
    return MissingSolver(solver) if not isinstance(solver, MissingSolver) and of(x).has_gaps else solver


@final
@dataclass(frozen=True)
class MissingSolver(AbstractSolver):
    """Infers what `solver` infers, from what was observed.

    Parameters
    ----------
    solver : AbstractSolver
        For complete data.

    Examples
    --------
    >>> from sparsentropy.inference import FullSolver
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> solution = MissingSolver(FullSolver())(torch.tensor([[3.0, torch.nan]]), parameters)
    >>> solution.posterior.mean.round(decimals=2)
    tensor([[2.9900, 0.0000]])
    """

    solver: AbstractSolver

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(self.solver, parameters)

    def forerunner(self, h: int) -> AbstractSolver | None:
        """See `AbstractSolver`."""
        ahead = self.solver.forerunner(h)
        return ahead and MissingSolver(ahead)


@final
@dataclass(frozen=True)
class _Prepared:
    """The solver at given parameters."""

    solver: AbstractSolver
    parameters: Parameters

    @cached_property
    def whole(self) -> Inference:
        return self.solver.at(self.parameters)

    @cached_property
    def gaps(self) -> Inference:
        return self.solver.with_gaps(self.parameters)

    def __call__(
        self, x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
    ) -> Solution:
        seen, parts, cost = ~x.isnan(), [], Cost(0, 0.0, 0, 0)
        for rows, pattern in _groups(seen, self.parameters.h):
            inference, own = self._inference(x[rows], pattern)
            before = None if start is None else start[rows]
            solution = inference(own, start=before, max_iter=max_iter, tol=tol)
            parts.append((rows, solution.posterior))
            cost += solution.cost
        return Solution(_joined(parts, seen, self.parameters), cost)

    def _inference(self, x: Tensor, pattern: Tensor | None) -> tuple[Inference, Tensor]:
        """How these data points are solved, and what of them is handed over."""
        if pattern is None:
            return self.gaps, x
        if bool(pattern.all()):
            return self.whole, x
        return self.solver.at(replace(self.parameters, dictionary=self.parameters.dictionary[pattern])), x[:, pattern]


def _groups(seen: Tensor, h: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Data points that are solved together: what they all have seen, or None where that differs.

    To prepare for a dictionary takes about as long as to solve for h data points.
    """
    patterns, members, sizes = torch.unique(seen, dim=0, return_inverse=True, return_counts=True)
    large = (sizes >= h) & patterns.any(1) | patterns.all(1)
    for index in large.nonzero().ravel().tolist():
        yield (members == index).nonzero().ravel(), patterns[index]
    rest = (~large)[members].nonzero().ravel()
    if len(rest) or not len(seen):
        yield rest, None


def _joined(parts: list[tuple[Tensor, AbstractPosterior]], seen: Tensor, parameters: Parameters) -> AbstractPosterior:
    """The posteriors of all data points, in their order."""
    rows, family = torch.cat([rows for rows, _ in parts]), parts[0][1]

    def every(name: str) -> Tensor:
        values = torch.cat([getattr(q, name) for _, q in parts])
        return torch.empty_like(values).index_copy_(0, rows, values)

    if isinstance(family, Full):
        scaled = parameters.dictionary / parameters.noise_variance.sqrt()
        return Full(
            every("mean"),
            every("prior_precision"),
            every("variance"),
            every("log_det"),
            scaled,
            seen.to(scaled.dtype),
        )
    if isinstance(family, LowRank):
        return LowRank(every("mean"), every("diagonal"), every("factor"))
    return Diagonal(every("mean"), every("variance"))
