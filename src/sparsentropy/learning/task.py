"""What learning holds: the data of a task, and the state that one sweep hands to the next.

A task is data and the way to find posteriors on them. Its one act is an E-step over all its batches, which adds up the
statistics and refits λ and σ². A state is what comes of it: parameters, the posteriors of all data points under them,
and the bound.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from sparsentropy.inference import AbstractSolver, Inference, Means
from sparsentropy.learning import em, quasi_newton
from sparsentropy.learning.shelf import IN_MEMORY, AbstractShelf, Cache
from sparsentropy.model import Parameters
from sparsentropy.objectives import AbstractStatistics, Statistics, Weights, entropy_elbo
from sparsentropy.posteriors import AbstractPosterior, Diagonal
from sparsentropy.rows import AbstractRows
from sparsentropy.team import AbstractTeam

NOTHING = quasi_newton.Memory()
COLD_ITERATIONS = 20  # of the E-step from nothing
WARM_ITERATIONS = 8  # of the E-step from the posteriors of the last sweep


@final
@dataclass(frozen=True)
class Sweep:
    """What one pass over (a part of) the data led to.

    Parameters
    ----------
    parameters : Parameters
        With unit-length atoms.
    lower_bound : float
        L_H pooled over the part, nats per data point.
    statistics : AbstractStatistics
        Of the part, at these parameters' posteriors.
    converged : bool
        Whether learning on all data stopped because the bound had stopped rising and no more was to be expected.
    annealed : bool
        Whether the sweep belongs to a detour, with other weights on the entropies or with simpler posteriors; after it
        the bound may be lower.
    stands_for : int
        Of how many data points the part is a sample; 0 where it stands for itself.
    """

    parameters: Parameters
    lower_bound: float
    statistics: AbstractStatistics
    converged: bool = False
    annealed: bool = False
    stands_for: int = 0

    @property
    def rows(self) -> int:
        """Data points of the part, or of what it stands for."""
        return self.stands_for or round(float(self.statistics.n))


@final
@dataclass(frozen=True)
class State:
    """Parameters, all posteriors under them, and what the next sweep wants to know."""

    parameters: Parameters
    posteriors: Sequence[AbstractPosterior]
    statistics: Statistics
    bound: float
    found_at: Parameters  # at which the posteriors were found
    memory: quasi_newton.Memory = NOTHING
    iterations: int = WARM_ITERATIONS

    @property
    def independent(self) -> bool:
        """Whether codes are independent given the data; such posteriors cannot turn with the dictionary."""
        return isinstance(self.posteriors, Means) or isinstance(self.posteriors[0], Diagonal)

    def metric(self) -> quasi_newton.Metric:
        """What a step is measured with."""
        return quasi_newton.Metric.of(self.statistics, self.parameters, independent=self.independent)

    def sweep(self, *, converged: bool = False) -> Sweep:
        """What the caller hears of it."""
        return Sweep(self.parameters, self.bound, self.statistics, converged)


@final
@dataclass(frozen=True)
class Task:
    """The data of one part, and how posteriors are found on it."""

    rows: AbstractRows
    solver: AbstractSolver
    batch_size: int
    unit: float  # typical size of the data
    weights: Weights
    cache: Cache = IN_MEMORY

    @property
    def team(self) -> AbstractTeam:
        """Who has the data; sums are over all of them."""
        return self.rows.team

    def expect(
        self,
        parameters: Parameters,
        start: Callable[[int], AbstractPosterior] | None,
        iterations: int,
    ) -> State:
        """E-step over all batches at `parameters`, each from its own start; afterwards λ and σ² are refitted."""
        parameters = parameters.agreed(self.team)
        effective = self.weights.apply(em.floored(parameters, self.unit))
        statistics, inference = None, self.solver.at(effective)
        if not self.cache.keeps:
            start, iterations = None, COLD_ITERATIONS
        shelf = self.shelf(inference)
        for index, x in enumerate(self.rows.split(self.batch_size)):
            before = None if start is None else start(index)
            posterior = inference(x, start=before, max_iter=iterations, tol=0.0).posterior
            part = Statistics.of(x, posterior, parameters)
            statistics = part if statistics is None else statistics + part
            shelf.put(posterior)
        assert statistics is not None, "there is at least one batch"
        statistics = statistics.pooled(self.team)
        (bound,) = self.team.agreed(entropy_elbo(statistics, parameters, self.weights))
        fitted = em.fit(statistics, parameters) if self.weights.plain else statistics.fit(parameters)
        return State(fitted.agreed(self.team), shelf.kept(effective), statistics, float(bound), effective)

    def shelf(self, inference: Inference) -> AbstractShelf:
        """An empty one; where nothing is kept, posteriors of a batch are found again by going through those before."""

        def again(index: int) -> AbstractPosterior:
            x = next(itertools.islice(self.rows.split(self.batch_size), index, None))
            return inference(x, max_iter=COLD_ITERATIONS, tol=0.0).posterior

        return self.cache.shelf(self.rows.here, again)

    def shelved(self, state: State) -> State:
        """The same with its posteriors where they belong, if they came from elsewhere."""
        shelf = self.shelf(self.solver.at(state.found_at))
        for posterior in state.posteriors:
            shelf.put(posterior)
        return replace(state, posteriors=shelf.kept(state.found_at))
