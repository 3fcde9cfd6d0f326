"""Sparse coding as a scikit-learn estimator: the front door of the library.

`SparseCoding` learns a dictionary, the prior scale of every atom and the noise level from data, without a penalty to
choose. This is the only module that knows scikit-learn; it checks what comes in, brings the data to unit scale, lets
`learning` do the work, and hands numpy arrays out.
"""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from sparsentropy import inputs, storage
from sparsentropy.inference import AbstractSolver, DiagonalSolver, FullSolver, LowRankSolver
from sparsentropy.learning import Sweep, learn, online, random_start
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo
from sparsentropy.posteriors import AbstractPosterior

BATCH_ROWS = 4096
FLOATS: Any = [np.float64, np.float32]  # what is neither becomes the first
FIRST_BATCH_SWEEPS = 10  # over the first batch of a stream
STREAM_ITERATIONS = 50  # of the E-step for each batch of a stream
FITTED_ARRAYS = ("components_", "prior_scale_", "lower_bounds_", "noise_variances_")
FITTED_NUMBERS = (
    "noise_variance_",
    "lower_bound_",
    "n_iter_",
    "converged_",
    "interrupted_",
    "n_features_in_",
    "data_scale_",
    "n_samples_seen_",
)


@final
@dataclass(frozen=True)
class Progress:
    """What `SparseCoding(callback=...)` is called with after every sweep.

    Parameters
    ----------
    sweep : int
        From 1 in every start; counts sweeps over parts of the data, too.
    max_sweeps : int
        Most sweeps over all data of this start.
    lower_bound : float
        Nats per data point, in the units of the data.
    noise_variance : float
        Data units squared.
    seconds : float
        Since `fit` began.
    rows : int
        Data points that this sweep passed over; learning begins on a part of large data.
    start : int
        Which of `n_init` starts this is, from 1.
    """

    sweep: int
    max_sweeps: int
    lower_bound: float
    noise_variance: float
    seconds: float
    rows: int
    start: int


@final
class SparseCoding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
    max_iter : int, default=200
        Most sweeps over the data.
    tol : float, default=1e-3
        Learning has converged when the bound gains less than this per sweep, in nats per data point.
    batch_size : int or 'auto', default='auto'
        Data points whose posteriors are found together; it bounds the memory of intermediate results and does not
        change the objective.
    n_init : int, default=1
        Random starts, of which the best is kept.
    random_state : int, RandomState or None, default=None
        Seed.
    device : str, default='auto'
        'cpu', 'cuda' or 'cuda:N'; 'auto' uses CUDA where there is any.
    dtype : {'auto', 'float32', 'float64'}, default='auto'
        Arithmetic. 'auto': float32 for float32 data, otherwise float64.
    verbose : int, default=0
        With 1, a line is printed after every sweep.
    callback : callable, default=None
        Called with a `Progress` after every sweep; learning stops early when it returns True.

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
    lower_bounds_ : ndarray, shape (n_iter_,)
        The bound after every sweep over all data, pooled over the data.
    noise_variances_ : ndarray, shape (n_iter_,)
        σ² after every sweep.
    n_iter_ : int
        Sweeps over all data.
    converged_ : bool
        Whether the bound had stopped rising.
    interrupted_ : bool
        Whether learning was stopped by Ctrl-C or by the callback; the best state is kept.
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
        max_iter: int = 200,
        tol: float = 1e-3,
        batch_size: int | str = "auto",
        n_init: int = 1,
        random_state: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        verbose: int = 0,
        callback: Callable[[Progress], bool | None] | None = None,
    ) -> None:
        self.n_components = n_components
        self.posterior = posterior
        self.rank = rank
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.n_init = n_init
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose
        self.callback = callback

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from data.

        Parameters
        ----------
        X : array-like, shape (n, d)
            At least as many rows as atoms.
        y : None
            Ignored.

        Returns
        -------
        SparseCoding

        Raises
        ------
        ValueError, TypeError
            If data or parameters cannot be used; the message says why and what to do.

        Notes
        -----
        Ctrl-C stops learning at once, keeps the best state and sets `interrupted_`. A call that fails leaves the model
        as it was.
        """
        del y
        with self._all_or_nothing():
            solver = self._solver()
            x, unit = self._training_data(X)
            self._keep(self._learn(x, solver, unit, self.max_iter), unit, seen=x.shape[0])
        if not self.converged_ and not self.interrupted_:
            warnings.warn(
                f"SparseCoding stopped after max_iter={self.max_iter} sweeps while the bound was still rising by more "
                f"than tol={self.tol} nats per sweep; raise max_iter to learn on.",
                ConvergenceWarning,
                stacklevel=2,
            )
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
        """
        del y
        with self._all_or_nothing():
            return self._next_part(X) if hasattr(self, "components_") else self._first_part(X)

    def _next_part(self, X: Any) -> Self:
        solver = self._solver()
        x = self._scaled_data(X)
        parameters = self._parameters(x.dtype, x.device)
        solution = solver(x, parameters, max_iter=STREAM_ITERATIONS, tol=0.0)
        seen = self.n_samples_seen_ + x.shape[0]
        batch = Statistics.of(x, solution.posterior, parameters)
        past = _moved(self._statistics, x.device)
        statistics, parameters = online.update(online.absorb(past, batch, seen), parameters)
        sweep = Sweep(parameters, float(entropy_elbo(statistics, parameters)), statistics)
        unit = self.data_scale_
        history = _Outcome(sweep, [sweep.lower_bound], [float(parameters.noise_variance)], False).in_units(unit)
        bounds, noise_variances = list(self.lower_bounds_), list(self.noise_variances_)
        history = replace(
            history, bounds=bounds + history.bounds, noise_variances=noise_variances + history.noise_variances
        )
        self._keep(history, unit, seen)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means of the codes.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Returns
        -------
        ndarray, shape (n, h)
            In data units.
        """
        return self.infer(X).mean.cpu().numpy()

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Data that codes stand for, Z @ components_.

        Parameters
        ----------
        Z : array-like, shape (n, h)

        Returns
        -------
        ndarray, shape (n, d)

        Raises
        ------
        ValueError
            If Z does not have h columns.
        """
        check_is_fitted(self)
        h = self.components_.shape[0]
        try:
            codes: Any = check_array(inputs.untensored(Z), dtype=FLOATS, input_name="Z")
        except (ValueError, TypeError, OverflowError) as error:
            raise inputs.refusal(error) from None
        if codes.shape[1] != h:
            raise ValueError(f"Z must have shape (n, {h}), one column per atom; got shape {codes.shape}.")
        return codes @ self.components_

    def infer(self, X: Any) -> AbstractPosterior:
        """Posteriors of the codes: means, variances, samples and intervals.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Returns
        -------
        posteriors.Diagonal, posteriors.LowRank or posteriors.Full
            Tensors in data units.
        """
        check_is_fitted(self)
        scaled = self._inferred(self._scaled_data(X))
        return scaled.scaled(torch.full_like(scaled.mean[0], self.data_scale_))

    def score_samples(self, X: Any) -> np.ndarray:
        """Lower bound of the log likelihood of every data point.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Returns
        -------
        ndarray, shape (n,)
            Nats, at the learned dictionary, scales and noise: a true lower bound of log p(x), also for data that were
            not learned from.
        """
        check_is_fitted(self)
        x = self._scaled_data(X)
        bound = elbo_rows(x, self._inferred(x), self._parameters(x.dtype, x.device))
        # p(x) = p(x/c) / c^d
        return bound.double().cpu().numpy() - x.shape[1] * math.log(self.data_scale_)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: nats per data point; higher is better."""
        del y
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw data from the learned model.

        Parameters
        ----------
        n_samples : int
        random_state : int, RandomState or None

        Returns
        -------
        tuple of ndarray (n, d) and ndarray (n, h)
            Data, and the codes they were made from.
        """
        check_is_fitted(self)
        n = inputs.check_count("n_samples", n_samples)
        seed = int(inputs.check_seed(random_state).randint(2**31 - 1))
        data, codes = self._parameters(torch.from_numpy(self.components_).dtype).sample(n, seed)
        return data.numpy() * self.data_scale_, codes.numpy() * self.data_scale_

    def save(self, path: str | Path) -> None:
        """Write the model to a file: safetensors with a JSON header, no code inside.

        Parameters
        ----------
        path : str or Path
            Replaced if it exists, and only once the new file is whole.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self)
        arrays = {name: np.asarray(getattr(self, name)) for name in FITTED_ARRAYS}
        arrays |= {f"statistics.{f.name}": _numpy(getattr(self._statistics, f.name)) for f in fields(Statistics)}
        names = getattr(self, "feature_names_in_", None)
        header = {
            "parameters": _plain(self.get_params()),
            "fitted": {name: getattr(self, name) for name in FITTED_NUMBERS},
            "feature_names_in": None if names is None else [str(name) for name in names],
        }
        storage.save(path, arrays, header)

    @classmethod
    def load(cls, path: str | Path) -> "SparseCoding":
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        SparseCoding

        Raises
        ------
        OSError
            If there is no such file, or it cannot be read.
        ValueError
            If it is not such a model, is damaged, or was written by a newer version.
        """
        arrays, header = storage.load(path)
        try:
            model = cls(**header["parameters"])
            for name in FITTED_ARRAYS:
                setattr(model, name, arrays[name])
            for name in FITTED_NUMBERS:
                setattr(model, name, header["fitted"][name])
            model._statistics = Statistics(
                **{f.name: torch.from_numpy(arrays[f"statistics.{f.name}"]) for f in fields(Statistics)}
            )
            names = header["feature_names_in"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is a model file without {error}: it was not written by SparseCoding.save."
            ) from None
        if names is not None:
            setattr(model, "feature_names_in_", np.array(names, dtype=object))  # noqa: B010 - scikit-learn's own attribute
        return model

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _solver(self) -> AbstractSolver:
        """Check the parameters and build the E-step they name."""
        for name in ("n_components", "rank", "max_iter", "n_init"):
            inputs.check_count(name, getattr(self, name))
        inputs.check_count("verbose", int(self.verbose) if isinstance(self.verbose, bool) else self.verbose, least=0)
        inputs.check_tolerance(self.tol)
        inputs.check_batch_size(self.batch_size)
        inputs.check_seed(self.random_state)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be callable or None; got {self.callback!r}.")
        kind = inputs.check_choice("posterior", self.posterior, inputs.POSTERIORS)
        if kind == "low-rank" and self.rank > self.n_components:
            raise ValueError(f"rank must be at most n_components={self.n_components}; got rank={self.rank}.")
        return {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(self.rank), "full": FullSolver()}[kind]

    def _data(self, X: Any, *, reset: bool) -> Tensor:
        """The data as a checked tensor on the device."""
        device = inputs.resolve_device(self.device)
        try:
            array: Any = validate_data(self, inputs.untensored(X), reset=reset, dtype=FLOATS, ensure_all_finite=False)
        except (ValueError, TypeError, OverflowError) as error:
            raise inputs.refusal(error) from None
        inputs.check_finite(array)
        array = np.ascontiguousarray(array)
        # torch does not take read-only memory, nor does it own what numpy may change
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.to(device, inputs.resolve_dtype(self.dtype, array))

    def _training_data(self, X: Any) -> tuple[Tensor, float]:
        """Data divided by a power of two near their root mean square, and that power."""
        x = self._data(X, reset=True)
        inputs.check_enough(x.shape[0], self.n_components)
        unit = 2.0 ** round(math.log2(inputs.check_scale(x.cpu().numpy())))
        return x / unit, unit

    def _scaled_data(self, X: Any) -> Tensor:
        """Data divided by `data_scale_`, for a model that is fitted."""
        x = self._data(X, reset=False) / self.data_scale_
        inputs.check_range(_numpy(x), self.data_scale_)
        return x

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave every attribute as it was when the block fails."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _parameters(self, dtype: torch.dtype, device: torch.device | None = None) -> Parameters:
        """The learned model of data divided by `data_scale_`."""
        unit = self.data_scale_
        as_tensor = {"dtype": dtype, "device": device}
        return Parameters(
            torch.as_tensor(self.components_.T, **as_tensor).contiguous(),
            torch.as_tensor(self.prior_scale_ / unit, **as_tensor),
            torch.as_tensor(self.noise_variance_ / unit**2, **as_tensor),
        )

    def _inferred(self, x: Tensor) -> AbstractPosterior:
        return self._solver()(x, self._parameters(x.dtype, x.device)).posterior

    def _first_part(self, X: Any) -> Self:
        x, unit = self._training_data(X)
        solver = self._solver()
        self._keep(self._learn(x, solver, unit, FIRST_BATCH_SWEEPS), unit, seen=x.shape[0])
        return self

    def _learn(self, x: Tensor, solver: AbstractSolver, unit: float, max_iter: int) -> "_Outcome":
        """The best of `n_init` starts."""
        random, began = inputs.check_seed(self.random_state), time.monotonic()
        best, interrupted = None, False
        for start in range(1, self.n_init + 1):
            tell = self._teller(start, max_iter, unit, began)
            outcome, interrupted = self._one_start(x, solver, max_iter, int(random.randint(2**31 - 1)), tell)
            if outcome is not None and (best is None or outcome.merit > best.merit):
                best = outcome
            if interrupted:
                break
        if best is None:
            raise KeyboardInterrupt("stopped before the first sweep was over: there is nothing to keep")
        return replace(best, interrupted=interrupted).in_units(unit)

    def _one_start(
        self, x: Tensor, solver: AbstractSolver, max_iter: int, seed: int, tell: Callable[[Sweep], bool]
    ) -> "tuple[_Outcome | None, bool]":
        """What a start led to, if it had the time, and whether it was interrupted."""
        generator = torch.Generator().manual_seed(seed)
        best, bounds, noise_variances, interrupted = None, [], [], False
        try:
            for sweep in learn(
                x,
                random_start(x, self.n_components, generator),
                solver,
                max_iter=max_iter,
                tol=inputs.check_tolerance(self.tol),
                batch_size=inputs.check_batch_size(self.batch_size) or BATCH_ROWS,
                generator=generator,
            ):
                best = sweep
                if sweep.rows == x.shape[0]:
                    bounds.append(sweep.lower_bound)
                    noise_variances.append(float(sweep.parameters.noise_variance))
                if tell(sweep):
                    interrupted = True
                    break
        except KeyboardInterrupt:
            interrupted = True
        outcome = None if best is None else _Outcome(best, bounds, noise_variances, interrupted)
        return outcome, interrupted

    def _teller(self, start: int, max_iter: int, unit: float, began: float) -> Callable[[Sweep], bool]:
        """What reports a sweep to the user, and whether the user wants to stop."""
        count = itertools.count(1)

        def tell(sweep: Sweep) -> bool:
            progress = Progress(
                sweep=next(count),
                max_sweeps=max_iter,
                lower_bound=sweep.lower_bound - sweep.parameters.d * math.log(unit),
                noise_variance=float(sweep.parameters.noise_variance) * unit**2,
                seconds=time.monotonic() - began,
                rows=sweep.rows,
                start=start,
            )
            if self.verbose:
                print(progress)
            return self.callback is not None and bool(self.callback(progress))

        return tell

    def _keep(self, outcome: "_Outcome", unit: float, seen: int) -> None:
        """Set the fitted attributes, in data units."""
        last = outcome.best
        p = last.parameters
        self.data_scale_ = unit
        self.components_ = np.ascontiguousarray(_numpy(p.dictionary).T)
        self.prior_scale_ = _numpy(p.prior_scale * unit)
        self.noise_variance_ = float(p.noise_variance) * unit**2
        self.lower_bounds_ = np.array(outcome.bounds)
        self.noise_variances_ = np.array(outcome.noise_variances)
        self.lower_bound_ = last.lower_bound - p.d * math.log(unit)
        self.n_iter_ = len(outcome.bounds)
        self.converged_ = last.converged
        self.interrupted_ = outcome.interrupted
        self.n_samples_seen_ = seen
        self._statistics = _moved(last.statistics, torch.device("cpu"))


@final
@dataclass(frozen=True)
class _Outcome:
    """The best sweep of all starts, and the history of its start in data units."""

    best: Sweep
    bounds: list[float]
    noise_variances: list[float]
    interrupted: bool

    @property
    def merit(self) -> tuple[int, float]:
        """Larger is better; bounds of a part and of all data cannot be compared."""
        return self.best.rows, self.best.lower_bound

    def in_units(self, unit: float) -> "_Outcome":
        """The history for data multiplied by `unit`; the best sweep stays as it was computed."""
        shift = self.best.parameters.d * math.log(unit)
        return replace(
            self,
            bounds=[bound - shift for bound in self.bounds],
            noise_variances=[variance * unit**2 for variance in self.noise_variances],
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _moved(statistics: Statistics, device: torch.device) -> Statistics:
    return Statistics(**{f.name: getattr(statistics, f.name).to(device) for f in fields(Statistics)})


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that JSON can hold; a random state object or a callback, say, is not saved."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}
    return {name: value for name, value in values.items() if value is None or isinstance(value, (str, int, float))}
