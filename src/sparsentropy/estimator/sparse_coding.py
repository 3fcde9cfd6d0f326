"""Sparse coding as a scikit-learn estimator: the front door of the library.

`SparseCoding` learns a dictionary, the prior scale of every atom and the noise level from data, without a penalty to
choose. It checks what comes in, brings the data to unit scale, lets `learning` do the work, and keeps numpy arrays.
What can be done with a model that is fitted stands in `fitted`.
"""

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, final

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from sparsentropy import arithmetic, fitting, inputs, memory, rows
from sparsentropy.estimator import needs, places, sharing
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
from sparsentropy.learning import Schedule
from sparsentropy.learning.minibatch import default_batch
from sparsentropy.objectives import Statistics
from sparsentropy.rows import AbstractRows, AbstractSource, InMemory, Stored
from sparsentropy.team import AbstractTeam

FIRST_BATCH_SWEEPS = 10  # over the first batch of a stream


@final
class SparseCoding(AbstractFitted):
    """Sparse coding with learned scales, learned noise and uncertain codes.

    Models every data point as x = W z + noise with independent Laplace codes z and Gaussian noise, and infers a
    Gaussian posterior over the codes. The dictionary, the prior scale of each atom and the noise variance maximise a
    lower bound of the log likelihood that is a sum of three entropies [1]_; nothing needs to be tuned, and rescaling
    the data rescales the codes.

    Parameters
    ----------
    n_components : int, default=100
        Number of atoms h. Atoms that the data do not need end with a prior scale near zero.
    posterior : {'diagonal', 'low-rank', 'full'}, default='diagonal'
        What a posterior can express: independent codes, `rank` joint directions, or all dependencies.
    rank : int, default=8
        Rank of a low-rank posterior.
    inference : {'iterative', 'amortized'}, default='iterative'
        How posteriors are found: solved for, or by an encoder that learns along with the dictionary and answers at
        once. For diagonal and low-rank posteriors.
    encoder : {'unrolled', 'residual', 'mlp'}, default='unrolled'
        The E-step itself, broken off early, which follows the dictionary and has little to learn; or a network that
        sees the data only, the second being that of the paper.
    refine : int, default=0
        Iterations of the E-step after the encoder.
    annealing : {'prior', 'likelihood', 'beta'}, callable or None, default=None
        Weights on the entropies of prior and likelihood during the first sweeps: a schedule of the paper by its name,
        one from `schedules`, or any function from a step to (γ, δ). Learning always ends at weights of 1.
    learning : {'auto', 'sweeps', 'minibatch'}, default='auto'
        Steps after sweeps over all data, with matrices of all pairs of atoms; or steps after every batch, without them
        and without posteriors that are kept. 'auto': minibatches where those matrices would take more than 4 GiB.
    max_iter : int, default=200
        Most sweeps over the data, or rounds of minibatches.
    tol : float, default=1e-3
        Learning has converged when the bound gains less than this per sweep, in nats per data point.
    batch_size : int or 'auto', default='auto'
        Data points whose posteriors are found together; it bounds the memory of intermediate results and does not
        change the objective. With minibatches, those of a step.
    n_init : int, default=1
        Random starts, of which the best is kept.
    validation_fraction : float, default=0.0
        Part of the rows that are set aside. With more than none, learning also stops when their bound has stopped
        rising, and the sweep with the highest one is kept.
    low_memory : bool, default=False
        Keep only the means of the posteriors between sweeps, half of what is kept otherwise. The scales are made again
        whenever they are needed, which takes time. For diagonal posteriors.
    cache : {'auto', 'memory', 'disk', 'none'} or path, default='auto'
        Where the posteriors of all data points are kept between sweeps, before and after one: in memory, in a
        temporary file (in this folder, if it is the name of one), or nowhere; then every sweep begins anew, which
        takes about three times as long. 'auto': in a file for large data that are themselves not in memory.
    checkpoint : path, optional
        Folder in which `fit` keeps places from which it can go on, the last two.
    checkpoint_every : float, default=60.0
        Seconds from one to the next, at least; they are written between sweeps.
    resume : bool, default=False
        Whether `fit` goes on from the newest of them, if there is any. The result is bit by bit that of a run that was
        never stopped, on the same machine with the same number of threads.
    distributed : {'same', 'own'} or None, default=None
        With several processes, which torchrun has started: whether all are given the same data and each learns from its
        share of the rows, or each is given rows of its own. The model is the same in all of them, and up to rounding
        that of one process with all rows. None: this process learns alone.
    random_state : int, RandomState or None, default=None
        Seed.
    device : str, default='auto'
        'cpu', 'cuda' or 'cuda:N'; 'auto' uses CUDA where there is any.
    dtype : {'auto', 'float32', 'float64'}, default='auto'
        Arithmetic. 'auto': float32 for float32 data, otherwise float64.
    verbose : int, default=0
        With 1, a line is printed after every sweep.
    callback : callable, default=None
        Called with a `fitting.Progress` after every sweep; learning stops early when it returns True.

    Attributes
    ----------
    components_ : ndarray, shape (h, d)
        Dictionary; atoms are rows of unit length.
    prior_scale_ : ndarray, shape (h,)
        Scale λ of every atom's prior, in data units: the mean absolute value of its codes, and its relevance.
    noise_variance_ : float
        σ², data units squared.
    lower_bound_ : float
        Bound of the training data, nats per data point.
    lower_bounds_ : ndarray, shape (`n_iter_`,)
        The bound after every sweep over all data, pooled over the data. With minibatches, that of random rows, always
        the same, after every round that has raised it.
    held_out_bounds_ : ndarray, shape (`n_iter_`,) or (0,)
        Of the rows that were set aside, a true lower bound, after every sweep.
    noise_variances_ : ndarray, shape (`n_iter_`,)
        σ² after every sweep.
    n_iter_ : int
        Sweeps over all data.
    converged_ : bool
        Whether the bound had stopped rising.
    interrupted_ : bool
        Whether learning was stopped by Ctrl-C or by the callback; the best state is kept.
    encoder_ : inference.encoders.Encoder
        Only with amortised inference: a torch module, for data divided by `data_scale_`.
    data_scale_ : float
        Power of two by which data are divided inside.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if the data had column names.

    References
    ----------
    .. [1] Velychko, Damm, Fischer and Lücke, "Learning Sparse Codes with Entropy-Based ELBOs", AISTATS 2024.

    Examples
    --------
    >>> from sparsentropy import SparseCoding
    >>> from sparsentropy.datasets import make_bars
    >>> bars = make_bars(500, noise_std=0.1, seed=0)
    >>> model = SparseCoding(10, posterior="full", random_state=0).fit(bars.data)
    >>> round(model.noise_variance_**0.5, 1)
    0.1
    >>> model.transform(bars.data[:2]).shape
    (2, 10)
    """

    def __init__(
        self,
        n_components: int = 100,
        *,
        posterior: str = "diagonal",
        rank: int = 8,
        inference: str = "iterative",
        encoder: str = "unrolled",
        refine: int = 0,
        annealing: str | Schedule | None = None,
        learning: str = "auto",
        max_iter: int = 200,
        tol: float = 1e-3,
        batch_size: int | str = "auto",
        n_init: int = 1,
        validation_fraction: float = 0.0,
        low_memory: bool = False,
        cache: str | os.PathLike[str] = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
        resume: bool = False,
        distributed: str | None = None,
        random_state: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        verbose: int = 0,
        callback: Callable[[fitting.Progress], bool | None] | None = None,
    ) -> None:
        self.n_components = n_components
        self.posterior = posterior
        self.rank = rank
        self.inference = inference
        self.encoder = encoder
        self.refine = refine
        self.annealing = annealing
        self.learning = learning
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.n_init = n_init
        self.validation_fraction = validation_fraction
        self.low_memory = low_memory
        self.cache = cache
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.resume = resume
        self.distributed = distributed
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose
        self.callback = callback

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from data.

        Parameters
        ----------
        X : array-like, shape (n, d), or stream of these
            At least as many rows as atoms. A numpy memory map, an array of zarr or h5py is read a few megabytes at a
            time, and never held as a whole. So are batches, from a generator or a torch DataLoader, which are passed
            over once and copied into a temporary file.
        y : None
            Ignored.

        Returns
        -------
        SparseCoding

        Raises
        ------
        ValueError, TypeError
            If data or parameters cannot be used; the message says why and what to do.
        MemoryError
            If it would need more memory than there is; nothing large has been allocated then.
        OSError
            If data cannot be read any more, or a disk has no room for what has to be kept.

        Notes
        -----
        Ctrl-C stops learning at once, keeps the best state and sets `interrupted_`. A call that fails leaves the model
        as it was.
        """
        del y
        with inputs.unchanged_on_failure(self):
            self._from_scratch(X, self.max_iter, self.validation_fraction)
        if not self.converged_ and not self.interrupted_ and sharing.team_of(self.distributed).rank == 0:
            made = self.n_iter_ if self._statistics is not None else self.max_iter  # of rounds not all are told
            warnings.warn(fitting.unfinished(made, self.max_iter, self.tol), ConvergenceWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from one more batch of a stream, which is seen once.

        Parameters
        ----------
        X : array-like, shape (n, d)
            The first batch needs at least as many rows as atoms.
        y : None
            Ignored.

        Returns
        -------
        SparseCoding

        Raises
        ------
        ValueError, TypeError
            If data or parameters cannot be used, an encoder among them that would have to be trained on all data.
        """
        del y
        if self.inference == "amortized" and self.encoder != "unrolled":
            raise ValueError(f"partial_fit needs encoder='unrolled', which follows the data; got {self.encoder!r}.")
        if self.learning == "minibatch" or getattr(self, "_statistics", self) is None:
            raise ValueError(
                "partial_fit needs sums over all pairs of atoms, which minibatches do without: set learning='sweeps' "
                "for a new model, or give fit all data, which may be a generator or a memory map."
            )
        with inputs.unchanged_on_failure(self):
            first = not hasattr(self, "components_")
            return self._from_scratch(X, FIRST_BATCH_SWEEPS, learning="sweeps") if first else self._next_part(X)

    def memory_for(self, X: Any) -> int:
        """How much memory `fit` would need, about; nothing large is allocated.

        Parameters
        ----------
        X : array-like, shape (n, d)
            Only its shape and type are looked at.

        Returns
        -------
        int
            Bytes at most, beyond the program and X itself. What was measured was between a third and all of it.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.broadcast_to(np.float32(0), (100_000, 4096))
        >>> f"{SparseCoding(16_384).memory_for(X) / 2**30:.1f} GiB"
        '8.1 GiB'
        """
        inputs.check_parameters(self)
        plan = needs.plan(self, X, self.validation_fraction, self.learning)
        if plan is None:
            raise TypeError("memory_for needs an array or a table with a shape (n, d); of a stream nobody knows it.")
        return plan.bytes

    @arithmetic.computing()
    def _next_part(self, X: Any) -> Self:
        assert self._statistics is not None, "partial_fit refuses models of minibatches"
        team, unit, seen = sharing.team_of(self.distributed), self.data_scale_, self.n_samples_seen_
        with team.together():
            solver, x = self._solver(), self._scaled_data(X)
            own = sharing.share(len(x), team, self.distributed, batch=1)
            x = x[own.start : own.stop]
        past = self._statistics.to(x.device)
        sweep = fitting.next_of_stream(x, solver, self._parameters(x.dtype, x.device), past, seen, team)
        noise = float(sweep.parameters.noise_variance)
        last = fitting.Outcome(sweep, [sweep.lower_bound], [noise], False).in_units(unit)
        outcome = replace(
            last,
            bounds=[*self.lower_bounds_, *last.bounds],
            noise_variances=[*self.noise_variances_, *last.noise_variances],
            held_out=list(self.held_out_bounds_),
            solver=solver,
        )
        (rows_here,) = team.sum(torch.tensor(len(x)))
        self._keep(outcome, unit, seen=seen + int(rows_here))
        return self

    def _iterative(self) -> AbstractSolver:
        kind = inputs.check_parameters(self)
        return {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(self.rank), "full": FullSolver()}[kind]

    def _solver(self) -> AbstractSolver:
        """Check the parameters and build the E-step they name."""
        iterative = self._iterative()
        if self.inference == "iterative":
            return iterative
        if not hasattr(self, "encoder_"):
            raise ValueError("inference='amortized' needs an encoder, but the model was fitted without one: fit again.")
        return AmortizedSolver(self.encoder_, iterative, self.refine)

    def _new_solver(self, x: AbstractRows, seed: int) -> AbstractSolver:
        """One that has learned nothing, for a start."""
        iterative = self._iterative()
        if self.inference == "iterative":
            return iterative
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = self._empty_encoder(x.shape[1])
        return AmortizedSolver(encoder.to(x.device, x.dtype), iterative, self.refine)

    def _empty_encoder(self, d: int) -> encoders.Encoder:
        """One that has learned nothing."""
        rank = self.rank if self.posterior == "low-rank" else 0
        return encoders.build(self.encoder, d, self.n_components, rank)

    def _training_data(self, X: Any, aside: float) -> tuple[AbstractRows, float]:
        """Data divided by a power of two near their typical size, and that power; a part will be set aside."""
        team, device = sharing.team_of(self.distributed), inputs.resolve_device(self.device)
        with team.together():
            batch = inputs.check_batch_size(self.batch_size) or memory.SWEEP_ROWS
            given, dtype = self._given(X, team)
            own = sharing.share(len(given), team, self.distributed, batch)
            survey = sharing.survey_of(given, own)
        survey = sharing.pooled(survey, dtype, team)
        with team.together():
            if not isinstance(given, torch.Tensor):  # which was checked before it got this type
                inputs.check_finite(survey)
            unit = needs.data_scale(self, survey, torch.zeros(0, dtype=dtype).numpy().dtype, aside)
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
        like: Any = np.empty((1, source.shape[1]))
        validate_data(self, like, reset=True, skip_check_array=True)
        return source, inputs.resolve_dtype(self.dtype, source.dtype)

    @arithmetic.computing()
    def _from_scratch(self, X: Any, max_iter: int, aside: float = 0.0, learning: str | None = None) -> Self:
        early = needs.checked(self, X, aside, learning or self.learning)
        x, unit = self._training_data(X, aside)
        plan = early or needs.checked(self, x, aside, learning or self.learning)
        assert plan, "rows have a shape"
        size = default_batch(plan.d) if plan.learning == "minibatch" else memory.SWEEP_ROWS
        settings = fitting.Settings(
            n_components=self.n_components,
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
        with opened as (checkpoints, place), arithmetic.computing(operations(plan.h, plan.d)):
            outcome = fitting.best_of_starts(
                x, lambda seed: self._new_solver(x, seed), settings, random, unit, self._tell, checkpoints, place
            )
        self._keep(outcome, unit, seen=len(x) - fitting.held_out_rows(len(x), aside))
        return self

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
