"""What can be done with a model that is fitted: infer codes, score data, draw from it, and keep it in a file.

Everything here reads the learned parameters and changes nothing. How they are learned is for the estimator that
derives from this; `estimator` is the only part of the library that knows scikit-learn.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy, deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from sparsentropy import fitting, inputs, model_file, rows
from sparsentropy.inference import AbstractSolver, AmortizedSolver, for_data
from sparsentropy.inference.encoders import Encoder
from sparsentropy.model import Parameters
from sparsentropy.module import SparseCodingModule
from sparsentropy.objectives import Statistics, elbo_rows
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.rows import Survey


class AbstractFitted(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """An estimator of sparse codes, as far as it needs no learning."""

    device: str
    dtype: str
    inference: str
    posterior: str
    components_: np.ndarray
    prior_scale_: np.ndarray
    noise_variance_: float
    lower_bound_: float
    n_samples_seen_: int
    data_scale_: float
    n_features_in_: int
    encoder_: Encoder
    _statistics: Statistics | None  # those of minibatches are too few to go on from

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
        return np.concatenate([self._in_units(self._inferred(x)).mean.cpu().numpy() for x in self._parts(X)])

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Data that codes stand for, `Z @ components_`.

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
        return inputs.codes(Z, self.components_.shape[0]) @ self.components_

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
        return self._in_units(self._inferred(self._scaled_data(X)))

    @overload
    def impute(self, X: Any, *, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def impute(self, X: Any, *, return_std: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...

    def impute(self, X: Any, *, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Data with the most likely values where some are missing.

        Parameters
        ----------
        X : array-like, shape (n, d)
            NaN is what is missing; all else is given back as it is.
        return_std : bool
            Whether to tell how uncertain the new values are.

        Returns
        -------
        ndarray, shape (n, d), or tuple of two
            Data, and standard deviations: those of what was missing, noise included, and 0 for what was known.
        """
        check_is_fitted(self)
        x = self._scaled_data(X)
        q, p, missing = self._inferred(x), self._parameters(x.dtype, x.device), x.isnan()
        filled = torch.where(missing, q.mean @ p.dictionary.T, x) * self.data_scale_
        if not return_std:
            return numpy_of(filled)
        variance = q.projected_variance(p.dictionary) + p.noise_variance
        return numpy_of(filled), numpy_of(variance.sqrt() * missing * self.data_scale_)

    @overload
    def reconstruct(self, X: Any, *, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def reconstruct(self, X: Any, *, return_std: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...

    def reconstruct(self, X: Any, *, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """What data would be without noise: the mean of W z under the posterior.

        Parameters
        ----------
        X : array-like, shape (n, d)
            With iterative inference NaN is what is missing.
        return_std : bool
            Whether to tell how uncertain that is; `metrics.interval` makes intervals of it.

        Returns
        -------
        ndarray, shape (n, d), or tuple of two
            Data without noise, and their standard deviations, in data units.

        Examples
        --------
        >>> from sparsentropy import SparseCoding, metrics
        >>> from sparsentropy.datasets import make_bars
        >>> bars = make_bars(2000, noise_std=0.1, seed=0)
        >>> model = SparseCoding(10, posterior="full", random_state=0).fit(bars.data)
        >>> mean, std = model.reconstruct(bars.data, return_std=True)
        >>> round(metrics.coverage(bars.codes @ bars.dictionary.T, mean, std, 0.9), 1)
        0.9
        """
        check_is_fitted(self)
        x = self._scaled_data(X)
        q, p = self._inferred(x), self._parameters(x.dtype, x.device)
        mean = numpy_of(q.mean @ p.dictionary.T * self.data_scale_)
        if not return_std:
            return mean
        return mean, numpy_of(q.projected_variance(p.dictionary).sqrt() * self.data_scale_)

    def prune(self, keep: int | ArrayLike | None = None) -> Self:
        """Give a model with fewer atoms.

        Parameters
        ----------
        keep : int or array-like, optional
            How many atoms, those with the largest prior scales, or which ones: indices, or a bool for each. Without it
            only atoms that are off go, whose scale is less than a tenth of the noise.

        Returns
        -------
        SparseCoding
            A fitted model; this one stays as it is. The variance that its other atoms explained is noise to it, data
            that were seen are forgotten, and `lower_bound_` is NaN: `score` says what it is for given data.

        Raises
        ------
        ValueError
            If no atom would be left, or inference is amortised: an encoder has answers for all atoms.

        Examples
        --------
        >>> from sparsentropy import SparseCoding
        >>> from sparsentropy.datasets import make_bars
        >>> bars = make_bars(500, noise_std=0.1, seed=0)
        >>> model = SparseCoding(30, random_state=0).fit(bars.data)  # bars span nine dimensions
        >>> len(model.prune().components_)
        9
        """
        check_is_fitted(self)
        if self.inference == "amortized":
            raise ValueError("prune needs inference='iterative': an encoder has answers for all atoms; fit again")
        kept = inputs.kept_atoms(keep, self.prior_scale_, self.noise_variance_**0.5)
        lost = np.square(np.delete(self.prior_scale_, kept))
        pruned = copy(self)
        pruned.set_params(n_components=len(kept))
        pruned.components_, pruned.prior_scale_ = self.components_[kept], self.prior_scale_[kept]
        # A Laplace code has variance 2λ²; atoms have unit length
        pruned.noise_variance_ = self.noise_variance_ + 2 * float(lost.sum()) / self.n_features_in_
        pruned.lower_bound_, pruned.n_samples_seen_ = math.nan, 0
        if self._statistics is not None:
            pruned._statistics = self._statistics.of_atoms(torch.from_numpy(kept)) * 0.0
        return pruned

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
        return np.concatenate([self._scores(x) for x in self._parts(X)])

    def _scores(self, x: Tensor) -> np.ndarray:
        bound = elbo_rows(x, self._inferred(x), self._parameters(x.dtype, x.device))
        # p(x) = p(x/c) / c^d
        return bound.double().cpu().numpy() - numpy_of((~x.isnan()).sum(1)) * math.log(self.data_scale_)

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

    def to_module(self) -> SparseCodingModule:
        """The model as a torch module with `encode` and `decode`, through which gradients pass.

        Returns
        -------
        SparseCodingModule
            With copies of the dictionary, the scales and the noise as parameters that can be trained on.

        Raises
        ------
        ValueError
            If posteriors are low-rank or full and not amortised: only optima of diagonal ones have derivatives here.
        """
        check_is_fitted(self)
        if self.inference == "iterative" and self.posterior != "diagonal":
            raise ValueError(
                f"to_module needs posterior='diagonal' or inference='amortized', got posterior={self.posterior!r}; "
                "codes of other optima have no derivatives here"
            )
        dtype = torch.from_numpy(self.components_).dtype
        encoder = deepcopy(self.encoder_).to(dtype) if self.inference == "amortized" else None
        return SparseCodingModule(self._parameters(dtype), encoder, self.data_scale_)

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
        encoder = self.encoder_.state_dict() if hasattr(self, "encoder_") else {}
        model_file.write(path, self.get_params(), vars(self), self._statistics, encoder)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        estimator

        Raises
        ------
        OSError
            If there is no such file, or it cannot be read.
        ValueError
            If it is not such a model, is damaged, or was written by a newer version.
        """
        saved = model_file.read(path)
        try:
            model = cls(**saved.parameters)
        except TypeError as error:
            raise ValueError(f"{path} holds parameters that {cls.__name__} does not know ({error}).") from None
        try:
            inputs.check_parameters(model)
            inputs.resolve_dtype(model.dtype, np.dtype(float))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds parameters that {cls.__name__} does not take: {error}") from None
        vars(model).update(saved.fitted)
        if saved.encoder:
            with torch.device("meta"):  # no memory is taken for what the file only claims
                expected = model._empty_encoder(model.n_features_in_).state_dict()
            if {name: value.shape for name, value in expected.items()} != {
                name: value.shape for name, value in saved.encoder.items()
            }:
                raise _no_such_encoder(path)
            model.encoder_ = _filled(model._empty_encoder(model.n_features_in_), saved.encoder, path)
        elif model.inference == "amortized":
            raise _no_such_encoder(path)
        model._statistics = saved.statistics
        return model

    def __getstate__(self) -> dict[str, Any]:
        """What copies and files of any kind are made of: numbers, words and arrays alone."""
        state: dict[str, Any] = super().__getstate__().copy()  # pyright: ignore[reportAttributeAccessIssue]
        if state.get("_statistics") is not None:
            state["_statistics"] = {f.name: numpy_of(getattr(state["_statistics"], f.name)) for f in fields(Statistics)}
        if "encoder_" in state:
            state["encoder_"] = {name: numpy_of(weight) for name, weight in self.encoder_.state_dict().items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        super().__setstate__(state)
        if state.get("_statistics") is not None:
            self._statistics = Statistics(**{name: torch.as_tensor(a) for name, a in state["_statistics"].items()})
        if "encoder_" in state:
            weights = {name: torch.as_tensor(array) for name, array in state["encoder_"].items()}
            self.encoder_ = _filled(self._empty_encoder(self.n_features_in_), weights, "the copy")

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = self.inference == "iterative"  # an encoder sees all of a data point
        return tags

    @abstractmethod
    def _empty_encoder(self, d: int) -> Encoder:
        """An encoder of the kind that the parameters name, that has learned nothing."""

    @abstractmethod
    def _solver(self) -> AbstractSolver:
        """Check the parameters and build the E-step they name."""

    def _data(self, X: Any, *, reset: bool, first: int = 0) -> Tensor:
        """Checked data on the device; their first row is that number of all."""
        device = inputs.resolve_device(self.device)
        try:
            array: Any = validate_data(
                self, inputs.untensored(X), reset=reset, dtype=inputs.FLOATS, ensure_all_finite=False
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise inputs.refusal(error) from None
        inputs.check_finite(Survey.of(array), first)
        return inputs.tensor(array).to(device, inputs.resolve_dtype(self.dtype, array.dtype))

    def _scaled_data(self, X: Any) -> Tensor:
        """Data divided by `data_scale_`, for a model that is fitted."""
        return torch.cat(list(self._parts(X)))

    def _parts(self, X: Any) -> Iterator[Tensor]:
        """The same, a part at a time where the data are not in memory."""
        check_is_fitted(self)
        if rows.is_stored(X):
            given: Iterable[Any] = rows.pieces(rows.source_of(X))
        else:
            given = rows.batches_of(X) if rows.is_stream(X) else [X]
        first, unit = 0, self.data_scale_
        for part in given:
            x = self._data(part, reset=False, first=first) / unit
            values = numpy_of(x)
            inputs.check_range(Survey.of(values), values.dtype, unit, self.noise_variance_**0.5 / unit)
            first += len(x)
            yield x
        if first == 0:
            raise ValueError("X gave no batches, but at least one was expected; a generator can be used only once.")

    def _parameters(self, dtype: torch.dtype, device: torch.device | None = None) -> Parameters:
        """The learned model of data divided by `data_scale_`."""
        unit = self.data_scale_
        as_tensor = {"dtype": dtype, "device": device}
        dictionary = torch.as_tensor(self.components_.T, **as_tensor)
        return Parameters(
            # A copy even of one row or column: its strides mean nothing, but products go by them and round accordingly
            dictionary.clone(memory_format=torch.contiguous_format),
            torch.as_tensor(self.prior_scale_ / unit, **as_tensor),
            torch.as_tensor(self.noise_variance_ / unit**2, **as_tensor),
        )

    def _in_units(self, scaled: AbstractPosterior) -> AbstractPosterior:
        """The posteriors of data, from those of data divided by `data_scale_`."""
        return scaled.scaled(torch.full_like(scaled.mean[0], self.data_scale_))

    @fitting.full_float32()
    def _inferred(self, x: Tensor) -> AbstractPosterior:
        solver = self._solver()
        if isinstance(solver, AmortizedSolver):
            solver = replace(solver, encoder=solver.encoder.to(x.device, x.dtype))
        return for_data(solver, x)(x, self._parameters(x.dtype, x.device)).posterior


def _filled(encoder: Encoder, weights: dict[str, Tensor], path: str | Path) -> Encoder:
    """The encoder with these weights, in their dtype."""
    try:
        encoder.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except (RuntimeError, TypeError):
        raise _no_such_encoder(path) from None
    return encoder.eval()


def _no_such_encoder(path: str | Path) -> ValueError:
    return ValueError(f"{path} holds an encoder that is not of the kind its own parameters name.")


def numpy_of(tensor: Tensor) -> np.ndarray:
    """The same numbers on the processor."""
    return tensor.detach().cpu().numpy()
