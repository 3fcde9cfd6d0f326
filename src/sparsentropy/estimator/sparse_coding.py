"""Sparse coding as a scikit-learn estimator: the front door of the library.

`SparseCoding` learns a dictionary, the prior scale of every atom and the noise level from data, without a penalty to
choose. How it does so stands in `training`; what can be done with a model that is fitted, in `fitted`.
"""

import os
from collections.abc import Callable
from typing import Any, Self, final

from sparsentropy import fitting, inputs
from sparsentropy.estimator import agreement, needs, sharing
from sparsentropy.estimator.training import FIRST_BATCH_SWEEPS, AbstractTraining
from sparsentropy.learning import Schedule


@final
class SparseCoding(AbstractTraining):
    """Sparse coding with learned scales, learned noise and uncertain codes.

    Models every data point as x = W z + noise with independent Laplace codes z and Gaussian noise, and infers a
    Gaussian posterior over the codes. The dictionary, the prior scale of each atom and the noise variance maximise a
    lower bound of the log likelihood that is a sum of three entropies [1]_; nothing needs to be tuned, and rescaling
    the data rescales the codes.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of atoms h. Atoms that the data do not need end with a prior scale near zero. None: as many as there are
        directions that stand out of the noise (probabilistic PCA and the Bayesian information criterion), at most two
        thirds of those in which the data vary, and at most 100. Two thirds also where no direction stands out, as in
        whitened data.
    posterior : {'diagonal', 'low-rank', 'full'}, default='diagonal'
        What a posterior can express: independent codes, `rank` joint directions, or all dependencies.
    rank : int, default=8
        Rank of a low-rank posterior.
    inference : {'iterative', 'amortized'}, default='iterative'
        How posteriors are found: solved for, or by an encoder that learns along with the dictionary and answers at
        once. For diagonal posteriors, and low-rank ones with the encoders 'residual' and 'mlp'.
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
    active_atoms_ : ndarray of bool, shape (h,)
        Whether each atom is in use: its prior scale is at least a tenth of the noise. What `prune` keeps, and what
        reports count.
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
        n_components: int | None = None,
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
            over once and copied into a temporary file. NaN, or what is masked, is missing. Names of columns are kept.
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
            agreement.require_same_call(self, "fit", sharing.team_of(self.distributed))
            self._from_scratch(X, self.max_iter, self.validation_fraction)
        made = self.n_iter_ if self._statistics is not None else self.max_iter  # of rounds not all are told
        unfinished = None if self.converged_ else fitting.unfinished(made, self.max_iter, self.tol, self._dtype)
        self._warn(unfinished)
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
        agreement.require_same_call(self, "partial_fit", sharing.team_of(self.distributed))
        inputs.check_stream(self)
        with inputs.unchanged_on_failure(self):
            if hasattr(self, "components_"):
                return self._next_part(X)
            self._from_scratch(X, FIRST_BATCH_SWEEPS, learning="sweeps")
        self._warn(None)
        return self

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
