"""The steps of the estimator that learn.

Data are checked and divided by their size, `learning` does the work, and what it found is kept as numpy arrays.
"""

import math
import os
import warnings
from abc import ABC
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import arithmetic, fitting, inputs, memory, rows
from sparsentropy.estimator import agreement, needs, places, sharing, streaming
from sparsentropy.estimator.fitted import AbstractFitted
from sparsentropy.estimator.inferring import numpy_of
from sparsentropy.inference import (
    AbstractSolver,
    AmortizedSolver,
    DiagonalSolver,
    FullSolver,
    LowRankSolver,
    encoders,
)
from sparsentropy.inference.diagonal import operations
from sparsentropy.learning import suitable_number
from sparsentropy.learning.minibatch import default_batch
from sparsentropy.objectives import Statistics
from sparsentropy.rows import AbstractRows, AbstractSource, InMemory, Stored
from sparsentropy.team import AbstractTeam

FIRST_BATCH_SWEEPS = 10  # over the first batch of a stream


class AbstractTraining(AbstractFitted, ABC):
    """An estimator of sparse codes that learns, from all data or from one more batch of a stream."""

    n_components: int | None
    rank: int
    encoder: str
    refine: int
    annealing: Any
    max_iter: int
    tol: float
    batch_size: int | str
    n_init: int
    verbose: int
    cache: str | os.PathLike[str]
    random_state: Any
    distributed: str | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: float
    resume: bool
    learning: str
    callback: Callable[[fitting.Progress], bool | None] | None
    lower_bounds_: np.ndarray
    held_out_bounds_: np.ndarray
    noise_variances_: np.ndarray
    n_iter_: int
    converged_: bool
    interrupted_: bool

    @arithmetic.computing()
    def _next_part(self, X: Any) -> Self:
        assert self._statistics is not None, "partial_fit refuses models of minibatches"
        team, unit, seen = sharing.team_of(self.distributed), self.data_scale_, self.n_samples_seen_
        batches = list(X) if rows.is_stream(X) else None  # which can be passed over once
        with team.together():
            solver, x = self._solver(), self._scaled_data(X if batches is None else iter(batches))
            own = sharing.share(len(x), team, self.distributed, batch=1)
            _, facts = agreement.looked_at(self, x, x.dtype, own, 1, team)
        agreement.require_same_data(facts, team)
        x = x[own.start : own.stop]
        past = self._statistics.to(x.device)
        step = streaming.step(x, solver, self._parameters(x.dtype, x.device), past, seen, team)
        self._left_out = 0 if step.sweep else getattr(self, "_left_out", 0) + step.unlike
        if step.unlike and team.rank == 0:
            warnings.warn(streaming.left_out(step, self._left_out, seen), UserWarning, stacklevel=4)
        if step.sweep is None:
            if self._left_out <= streaming.remembered(seen):
                return self
            return self._from_scratch(X if batches is None else iter(batches), FIRST_BATCH_SWEEPS, learning="sweeps")
        sweep, noise = step.sweep, float(step.sweep.parameters.noise_variance)
        last = fitting.Outcome(sweep, [sweep.lower_bound], [noise], False).in_units(unit)
        outcome = replace(
            last,
            bounds=[*self.lower_bounds_, *last.bounds],
            noise_variances=[*self.noise_variances_, *last.noise_variances],
            held_out=list(self.held_out_bounds_),
            solver=solver,
        )
        self._keep(outcome, unit, seen=seen + step.rows - step.unlike)
        return self

    def _iterative(self, h: int) -> AbstractSolver:
        kind = inputs.check_parameters(self)
        return {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(min(self.rank, h)), "full": FullSolver()}[kind]

    def _solver(self) -> AbstractSolver:
        """Check the parameters and build the E-step they name."""
        iterative = self._iterative(len(self.components_))
        if self.inference == "iterative":
            return iterative
        if not hasattr(self, "encoder_"):
            raise ValueError("inference='amortized' needs an encoder, but the model was fitted without one: fit again.")
        return AmortizedSolver(self.encoder_, iterative, self.refine)

    def _new_solver(self, x: AbstractRows, h: int, seed: int) -> AbstractSolver:
        """One that has learned nothing, for a start."""
        iterative = self._iterative(h)
        if self.inference == "iterative":
            return iterative
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = self._empty_encoder(x.shape[1], h)
        return AmortizedSolver(encoder.to(x.device, x.dtype), iterative, self.refine)

    def _empty_encoder(self, d: int, h: int) -> encoders.Encoder:
        """One that has learned nothing."""
        rank = min(self.rank, h) if self.posterior == "low-rank" else 0
        return encoders.build(self.encoder, d, h, rank)

    def _training_data(self, X: Any, aside: float) -> tuple[AbstractRows, float]:
        """Data divided by a power of two near their typical size, and that power; a part will be set aside."""
        team, device = sharing.team_of(self.distributed), inputs.resolve_device(self.device)
        with team.together():
            batch = inputs.check_batch_size(self.batch_size) or memory.SWEEP_ROWS
            given, dtype = self._given(X, team)
            own = sharing.share(len(given), team, self.distributed, batch)
            survey, facts = agreement.looked_at(self, given, dtype, own, batch, team)
        agreement.require_same_data(facts, team)
        survey = survey.pooled(team)
        with team.together():
            if not isinstance(given, torch.Tensor):  # which was checked before it got this type
                inputs.check_finite(survey)
            unit = needs.data_scale(self, survey, torch.zeros(0, dtype=dtype).numpy().dtype, aside)
        if team.rank == 0:
            inputs.check_centred(survey, getattr(self, "feature_names_in_", None))
        if isinstance(given, torch.Tensor):
            mine = given[own.start : own.stop]
            x = InMemory(mine if unit == 1.0 else mine / unit)  # without a copy where it is the same
            given = rows.Sliced(numpy_of(given))
        else:
            x = Stored(given, dtype, device, unit, survey).between(own.start, own.stop)
        everything = Stored(given, dtype, device, unit, survey) if self.distributed == "same" else None
        return sharing.shared(x, everything, own, team, survey.typical_size / unit, survey.has_gaps, batch), unit

    def _given(self, X: Any, team: AbstractTeam) -> tuple[torch.Tensor | AbstractSource, torch.dtype]:
        """Data that were given to this process, and the type in which they are learned from."""
        source = sharing.source_of(X, team, self.distributed, inputs.check_cache(self.cache)[1])
        if source is None:
            x = self._data(X, reset=True)
            return x, x.dtype
        self._check_columns(source.names, source.shape[1], reset=True)
        return source, inputs.resolve_dtype(self.dtype, source.dtype)

    @arithmetic.computing()
    def _from_scratch(self, X: Any, max_iter: int, aside: float = 0.0, learning: str | None = None) -> Self:
        early = needs.checked(self, X, aside, learning or self.learning)
        x, unit = self._training_data(X, aside)
        plan = needs.checked(self, x, aside, learning or self.learning, early)
        assert plan, "rows have a shape"
        h = self.n_components or suitable_number(x, torch.Generator().manual_seed(0))
        size = default_batch(plan.d) if plan.learning == "minibatch" else memory.SWEEP_ROWS
        settings = fitting.Settings(
            n_components=h,
            max_iter=max_iter,
            tol=inputs.check_tolerance(self.tol),
            batch_size=inputs.check_batch_size(self.batch_size) or size,
            n_init=self.n_init,
            validation_fraction=aside,
            cache=needs.cache(self, x, plan),
            annealing=inputs.check_annealing(self.annealing),
            learning=plan.learning,
        )
        random = inputs.check_seed(self.random_state)
        folder, every, resume = self.checkpoint, self.checkpoint_every, self.resume
        opened = places.opened(folder, every, x, self.get_params(), resume=resume)
        with opened as (checkpoints, place), arithmetic.computing(operations(h, plan.d)):
            outcome = fitting.best_of_starts(
                x, lambda seed: self._new_solver(x, h, seed), settings, random, unit, self._tell, checkpoints, place
            )
        self._keep(outcome, unit, seen=len(x) - fitting.held_out_rows(len(x), aside))
        return self

    def _warn(self, unfinished: str | None) -> None:
        """Warn the user of a model that explains its data exactly, or else of one that has not converged."""
        (h, d), unit, variance = self.components_.shape, self.data_scale_, self.noise_variance_
        exact = fitting.is_exact(variance, unit, self._dtype)
        if self.interrupted_ or sharing.team_of(self.distributed).rank > 0:
            return
        if exact and (unfinished or h >= min(self.n_samples_seen_, d)):
            warnings.warn(fitting.exact(h, variance, unit), ConvergenceWarning, stacklevel=3)
        elif unfinished:
            warnings.warn(unfinished, ConvergenceWarning, stacklevel=3)

    def _tell(self, progress: fitting.Progress) -> bool:
        """Report a sweep to the user; True when the user wants to stop."""
        if self.verbose and sharing.team_of(self.distributed).rank == 0:
            print(progress)
        return self.callback is not None and bool(self.callback(progress))

    def _keep(self, outcome: fitting.Outcome, unit: float, seen: int) -> None:
        """Set the fitted attributes, in data units."""
        last = outcome.best
        p = last.parameters
        if isinstance(outcome.solver, AmortizedSolver):
            self.encoder_ = outcome.solver.encoder.eval()
        elif hasattr(self, "encoder_"):
            del self.encoder_
        self.data_scale_ = unit
        self.components_ = np.ascontiguousarray(numpy_of(p.dictionary).T)
        self.prior_scale_ = numpy_of(p.prior_scale * unit)
        self.noise_variance_ = float(p.noise_variance) * unit**2
        self.lower_bounds_ = np.array(outcome.bounds)
        self.held_out_bounds_ = np.array(outcome.held_out)
        self.noise_variances_ = np.array(outcome.noise_variances)
        self.lower_bound_ = last.lower_bound - float(last.statistics.d) * math.log(unit)
        self.n_iter_ = len(outcome.bounds)
        self.converged_ = last.converged
        self.interrupted_ = outcome.interrupted
        self.n_samples_seen_ = seen
        # Those of minibatches say nothing of pairs of atoms, without which a stream cannot be gone on with
        self._statistics = last.statistics.to(torch.device("cpu")) if isinstance(last.statistics, Statistics) else None
