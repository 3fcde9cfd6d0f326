"""What can be done with a model that is fitted, beside inference: draw from it, take atoms away, keep it in a file.

Everything here reads the learned parameters and changes nothing. How they are learned is for the estimator that
derives from this; `estimator` is the only part of the library that knows scikit-learn.
"""

import math
from abc import ABC, abstractmethod
from copy import copy, deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sparsentropy import inputs, model_file
from sparsentropy.estimator.inferring import AbstractInferring, numpy_of
from sparsentropy.inference.encoders import Encoder
from sparsentropy.learning import em
from sparsentropy.module import SparseCodingModule
from sparsentropy.objectives import Statistics
from sparsentropy.visible import word


class AbstractFitted(AbstractInferring, ABC):
    """An estimator of sparse codes, as far as it needs no learning."""

    posterior: str
    lower_bound_: float
    n_samples_seen_: int
    _statistics: Statistics | None  # those of minibatches are too few to go on from

    @property
    def active_atoms_(self) -> np.ndarray:
        """Whether each atom is in use: its prior scale is at least a tenth of the noise. Shape (h,)."""
        return em.above_noise(self.prior_scale_, self.noise_variance_)

    def prune(self, keep: int | ArrayLike | None = None) -> Self:
        """Give a model with fewer atoms.

        Parameters
        ----------
        keep : int or array-like, optional
            How many atoms, those with the largest prior scales, or which ones: indices, or a bool for each. Without it
            those of `active_atoms_`.

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
        kept = inputs.kept_atoms(keep, self.prior_scale_, self.active_atoms_)
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

        Parameters that say where and how this machine works (`cache`, `checkpoint`, `checkpoint_every`, `resume`,
        `distributed`, `device`, `verbose`, `callback`) are left out, and have their defaults in a model that is loaded.

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
            If it is not such a model, is damaged, or was written by another version.
        """
        saved = model_file.read(path)
        try:
            model = cls(**saved.parameters)
        except TypeError as error:
            raise ValueError(f"{path} holds parameters that {cls.__name__} does not know ({word(error)}).") from None
        try:
            inputs.check_parameters(model)
            inputs.resolve_dtype(model.dtype, np.dtype(float))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds parameters that {cls.__name__} does not take: {word(error)}") from None
        vars(model).update(saved.fitted)
        if saved.encoder:
            with torch.device("meta"):  # no memory is taken for what the file only claims
                expected = model._empty_encoder(*reversed(model.components_.shape)).state_dict()
            if {name: value.shape for name, value in expected.items()} != {
                name: value.shape for name, value in saved.encoder.items()
            }:
                raise _no_such_encoder(path)
            model.encoder_ = _filled(model._empty_encoder(*reversed(model.components_.shape)), saved.encoder, path)
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
            self.encoder_ = _filled(self._empty_encoder(*reversed(self.components_.shape)), weights, "the copy")

    @abstractmethod
    def _empty_encoder(self, d: int, h: int) -> Encoder:
        """An encoder of the kind that the parameters name, that has learned nothing."""


def _filled(encoder: Encoder, weights: dict[str, Tensor], path: str | Path) -> Encoder:
    """The encoder with these weights, in their dtype."""
    try:
        encoder.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except (RuntimeError, TypeError):
        raise _no_such_encoder(path) from None
    return encoder.eval()


def _no_such_encoder(path: str | Path) -> ValueError:
    return ValueError(f"{path} holds an encoder that is not of the kind its own parameters name.")
