"""What a model says of data: codes, what they stand for, and how likely the data are.

Data are divided by the model's unit before anything is computed, and what comes out is in units of the data again.
Data that are not in memory are read and answered a part at a time.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, final, overload

import numpy as np
import sklearn
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from sparsentropy import arithmetic, inputs, rows
from sparsentropy.estimator import frames
from sparsentropy.inference import AbstractSolver, AmortizedSolver, for_data
from sparsentropy.inference.diagonal import operations
from sparsentropy.inference.encoders import Encoder
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.rows import Survey


class AbstractInferring(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """An estimator of sparse codes that has answers for data."""

    device: str
    dtype: str
    inference: str
    components_: np.ndarray
    prior_scale_: np.ndarray
    noise_variance_: float
    data_scale_: float
    n_features_in_: int
    feature_names_in_: np.ndarray  # only if the data had any
    encoder_: Encoder

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
        return np.concatenate([q.mean.cpu().numpy() for q in self.infer_parts(X)])

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

    def infer_parts(self, X: Any) -> Iterator[AbstractPosterior]:
        """As `infer`, a part at a time where the data are not in memory.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Yields
        ------
        posteriors.Diagonal, posteriors.LowRank or posteriors.Full
            Of the rows that follow those before, in data units.

        Examples
        --------
        >>> from sparsentropy import SparseCoding
        >>> from sparsentropy.datasets import make_bars
        >>> bars = make_bars(500, noise_std=0.1, seed=0).data
        >>> model = SparseCoding(10, random_state=0).fit(bars)
        >>> [len(posterior) for posterior in model.infer_parts(iter([bars[:300], bars[300:]]))]
        [300, 200]
        """
        return (self._in_units(self._inferred(x)) for x in self._parts(X))

    @overload
    def impute(self, X: Any, *, return_std: Literal[False] = False) -> Any: ...

    @overload
    def impute(self, X: Any, *, return_std: Literal[True]) -> tuple[Any, Any]: ...

    def impute(self, X: Any, *, return_std: bool = False) -> Any:
        """Data with the most likely values where some are missing.

        Parameters
        ----------
        X : array-like, shape (n, d)
            NaN is what is missing; all else is given back as it is.
        return_std : bool
            Whether to tell how uncertain the new values are.

        Returns
        -------
        ndarray or data frame, shape (n, d), or tuple of two
            Data, and standard deviations: those of what was missing, noise included, and 0 for what was known. What was
            known has the bits and the type it was given with, whatever type the model computes in; integers become
            floats where any are missing. Of a data frame of pandas or polars a data frame, with its names and index, as
            is what `set_output` asks for.

        Raises
        ------
        ValueError
            If integers that no float holds are beside missing values.
        """
        return _joined(self._filled(X, std=return_std))

    def impute_parts(self, X: Any) -> Iterator[tuple[Any, Any]]:
        """As `impute`, a part at a time where the data are not in memory.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Yields
        ------
        tuple of two ndarrays or data frames, shape (·, d)
            Data and standard deviations of the rows that follow those before.
        """
        return ((filled, std) for filled, std in self._filled(X, std=True))

    def _filled(self, X: Any, *, std: bool) -> Iterator[tuple[Any, ...]]:
        """Part by part, data as they were given with their gaps filled in, and standard deviations."""
        for part, (new, *spread) in self._answers(X, partial(self._imputed, std=std)):
            whole = frames.filled(part.given, numpy_of(part.x.isnan()), new)
            yield self._as_wished(part.given, whole, *(frames.like(part.given, one) for one in spread))

    def _as_wished(self, given: Any, *tables: Any) -> tuple[Any, ...]:
        """Tables of the kind that `set_output` asks for."""
        config = getattr(self, "_sklearn_output_config", {})
        wish = config.get("transform", sklearn.get_config()["transform_output"])
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            names = rows.names_of(given) or [f"x{j}" for j in range(self.n_features_in_)]
        return tuple(frames.wished(table, wish, names) for table in tables)

    def _imputed(self, x: Tensor, q: AbstractPosterior, p: Parameters, *, std: bool) -> tuple[Tensor, ...]:
        missing = x.isnan()
        filled = torch.where(missing, q.mean @ p.dictionary.T, x)
        if not std:
            return (filled,)
        variance = q.projected_variance(p.dictionary) + p.noise_variance
        return filled, variance.sqrt() * missing

    @overload
    def reconstruct(self, X: Any, *, return_std: Literal[False] = False) -> Any: ...

    @overload
    def reconstruct(self, X: Any, *, return_std: Literal[True]) -> tuple[Any, Any]: ...

    def reconstruct(self, X: Any, *, return_std: bool = False) -> Any:
        """What data would be without noise: the mean of W z under the posterior.

        Parameters
        ----------
        X : array-like, shape (n, d)
            With iterative inference NaN is what is missing.
        return_std : bool
            Whether to tell how uncertain that is; `metrics.interval` makes intervals of it.

        Returns
        -------
        ndarray or data frame, shape (n, d), or tuple of two
            Data without noise, and their standard deviations, in data units. Of a data frame of pandas or polars a data
            frame, with its names and index, as is what `set_output` asks for.

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
        found = self._answers(X, partial(self._reconstructed, std=return_std))
        return _joined(
            self._as_wished(part.given, *(frames.like(part.given, one) for one in answers)) for part, answers in found
        )

    def _reconstructed(self, x: Tensor, q: AbstractPosterior, p: Parameters, *, std: bool) -> tuple[Tensor, ...]:
        del x
        mean = q.mean @ p.dictionary.T
        return (mean, q.projected_variance(p.dictionary).sqrt()) if std else (mean,)

    def _answers(
        self, X: Any, answer: Callable[[Tensor, AbstractPosterior, Parameters], tuple[Tensor, ...]]
    ) -> "Iterator[tuple[_Part, tuple[np.ndarray, ...]]]":
        """Parts of the data, and answers that are in units of the data."""
        for part in self._given_parts(X):
            x = part.x
            with self._computing():
                found = answer(x, self._inferred(x), self._parameters(x.dtype, x.device))
            yield part, tuple(numpy_of(value * self.data_scale_) for value in found)

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
        with self._computing():
            bound = elbo_rows(x, self._inferred(x), self._parameters(x.dtype, x.device))
        # p(x) = p(x/c) / c^d
        return bound.double().cpu().numpy() - numpy_of((~x.isnan()).sum(1)) * math.log(self.data_scale_)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: nats per data point; higher is better."""
        del y
        return float(self.score_samples(X).mean())

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = self.inference == "iterative"  # an encoder sees all of a data point
        return tags

    @abstractmethod
    def _solver(self) -> AbstractSolver:
        """Check the parameters and build the E-step they name."""

    def _data(self, X: Any, *, reset: bool) -> Tensor:
        """Checked data on the device."""
        inputs.resolve_device(self.device)
        X = inputs.plain(X)
        try:
            array: Any = validate_data(self, X, reset=reset, dtype=inputs.FLOATS, ensure_all_finite=False)
        except (ValueError, TypeError, OverflowError) as error:
            raise inputs.refusal(error) from None
        return self._on_device(array)

    def _on_device(self, array: np.ndarray, first: int = 0) -> Tensor:
        """Finite numbers on the device; their first row is that number of all."""
        inputs.check_finite(Survey.of(array), first)
        dtype = inputs.resolve_dtype(self.dtype, array.dtype)
        return inputs.tensor(array).to(inputs.resolve_device(self.device), dtype)

    def _check_columns(self, names: tuple[Any, ...] | None, d: int, *, reset: bool) -> None:
        """Compare the columns of data that come in parts with those of the fit, or remember them."""
        try:
            validate_data(self, inputs.example(names, d), reset=reset, skip_check_array=True)
        except (ValueError, TypeError) as error:
            raise inputs.refusal(error) from None

    def _scaled_data(self, X: Any) -> Tensor:
        """Data divided by `data_scale_`, for a model that is fitted."""
        return torch.cat(list(self._parts(X)))

    def _parts(self, X: Any) -> Iterator[Tensor]:
        """The same, a part at a time where the data are not in memory."""
        return (part.x for part in self._given_parts(X))

    def _given_parts(self, X: Any) -> "Iterator[_Part]":
        """The same, with the data as they were given."""
        check_is_fitted(self)
        first, unit = 0, self.data_scale_
        for given, data in self._checked_parts(X):
            with self._computing():
                x = (self._on_device(data, first) if isinstance(data, np.ndarray) else data) / unit
            values = numpy_of(x)
            inputs.check_range(Survey.of(values), values.dtype, unit, self.noise_variance_**0.5 / unit)
            first += len(x)
            yield _Part(given, x)
        if first == 0:
            raise ValueError("X gave no batches, but at least one was expected; a generator can be used only once.")

    @property
    def _dtype(self) -> torch.dtype:
        """The arithmetic that the model was learned in."""
        return torch.from_numpy(self.components_).dtype

    def _checked_parts(self, X: Any) -> Iterator[tuple[Any, np.ndarray | Tensor]]:
        """Data as they were given, and the same as floats; the columns are compared with those of the fit once."""
        if rows.is_stored(X):
            source = rows.source_of(X)
            self._check_columns(source.names, source.shape[1], reset=False)
            for piece in rows.pieces(source):
                yield piece, inputs.floats(piece)
        elif rows.is_stream(X):
            for number, batch in enumerate(rows.read_batches(X)):
                if number == 0:
                    self._check_columns(batch.names, batch.array.shape[1], reset=False)
                yield batch.given, inputs.floats(batch.array)
        else:
            yield X, self._data(X, reset=False)

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
        with self._computing():
            return scaled.scaled(torch.full_like(scaled.mean[0], self.data_scale_))

    def _computing(self) -> AbstractContextManager[None]:
        """Return the settings of torch for one part of the data."""
        return arithmetic.computing(operations(*self.components_.shape))

    def _inferred(self, x: Tensor) -> AbstractPosterior:
        solver = self._solver()
        if isinstance(solver, AmortizedSolver):
            solver = replace(solver, encoder=solver.encoder.to(x.device, x.dtype))
        with self._computing():
            return for_data(solver, x)(x, self._parameters(x.dtype, x.device)).posterior


@final
@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of the data: as they were given, and checked, on the device and divided by `data_scale_`."""

    given: Any
    x: Tensor


def numpy_of(tensor: Tensor) -> np.ndarray:
    """The same numbers on the processor."""
    return tensor.detach().cpu().numpy()


def _joined(parts: Iterable[tuple[Any, ...]]) -> Any:
    """What comes a part at a time, as a whole; a table where there is one only."""
    found = [frames.joined(column) for column in zip(*parts, strict=True)]
    return tuple(found) if len(found) > 1 else found[0]
