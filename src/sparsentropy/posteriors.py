"""What is believed about the codes of n data points: Gaussian posteriors as frozen values.

`Diagonal` keeps a mean and a variance per code. `LowRank` adds r directions in which the codes of a data point vary
together. `Full` is the best Gaussian there is, and for a Laplace prior it needs no more than 2h numbers per data
point: at the optimum the precision is T⁻¹ = WᵀW/σ² + diag(κ), where the data term is shared by all data points. All
three answer the same questions, so an objective never asks which of them it was given. The leading axis is always the
data point; entropies are in nats.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from torch import Tensor

from sparsentropy import folded_normal, precision


class AbstractPosterior(ABC):
    """n Gaussians over codes of h atoms."""

    mean: Tensor
    """ν, (n, h), code units."""
    variance: Tensor
    """diag(T_n), (n, h), code units squared."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """T_n, (n, h, h), dense; ask for it only if it fits into memory."""

    @abstractmethod
    def covariance_sum(self) -> Tensor:
        """Σ_n T_n, (h, h), in float64: tr(WᵀW Σ_n T_n) may be far smaller than Σ_n T_n itself."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """H[q_n] = ½ log det(2πe T_n) in nats, (n,)."""

    @abstractmethod
    def spread(self, dictionary: Tensor) -> Tensor:
        """tr(WᵀW T_n), (n,): the part of the expected squared error that comes from not knowing the codes."""

    @abstractmethod
    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """diag(W T_n Wᵀ), (n, d): how well each entry of W z is known, data units squared."""

    @abstractmethod
    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nd (W T_n)_dh for weights b (n, d): (d, h), in float64."""

    @abstractmethod
    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """K draws of z − ν, (k, n, h)."""

    @abstractmethod
    def log_prob(self, codes: Tensor) -> Tensor:
        """Log q_n(z) in nats of codes (k, n, h): (k, n)."""

    @abstractmethod
    def rotated(self, matrix: Tensor) -> "AbstractPosterior":
        """A posterior with mean V ν and the marginal variances of V T Vᵀ, to start the next E-step from."""

    @abstractmethod
    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nh (V T_n Vᵀ)_hj for weights b (n, h): (h, h)."""

    @abstractmethod
    def scaled(self, factor: Tensor) -> Self:
        """The posterior of the codes times `factor` (h,)."""

    @abstractmethod
    def __getitem__(self, rows: slice | Tensor) -> Self:
        """The posteriors of some data points."""

    def __len__(self) -> int:
        return self.mean.shape[0]

    @property
    def std(self) -> Tensor:
        """Marginal standard deviations s, (n, h)."""
        return self.variance.sqrt()

    def abs_moment(self) -> Tensor:
        """E|z|, (n, h): all that a Laplace prior asks for."""
        return folded_normal.mean(self.mean, self.std)

    def second_moment_sum(self) -> Tensor:
        """Σ_n ν_n ν_nᵀ + T_n, (h, h), in float64."""
        return self.mean.T @ self.mean + self.covariance_sum()

    def sample(self, k: int, seed: int | torch.Generator = 0) -> Tensor:
        """Draw codes.

        Parameters
        ----------
        k : int
            Draws for every data point.
        seed : int or torch.Generator
            Seed, or a generator on the device of the posterior.

        Returns
        -------
        Tensor, shape (k, n, h)
        """
        generator = seed
        if not isinstance(generator, torch.Generator):
            generator = torch.Generator(self.mean.device).manual_seed(generator)
        return self.mean + self.noise(k, generator)

    def interval(self, p: float = 0.9) -> tuple[Tensor, Tensor]:
        """Central credible interval of every code.

        Parameters
        ----------
        p : float
            Probability inside, 0 < p < 1.

        Returns
        -------
        tuple of Tensor, each (n, h)
            Lower and upper end, code units.

        Raises
        ------
        ValueError
            If p is not between 0 and 1.
        """
        if not 0 < p < 1:
            raise ValueError(f"interval: p must lie between 0 and 1, exclusive; got {p=}.")
        # P(|z − ν| < t s) = erf(t/√2)
        half_width = folded_normal.SQRT_2 * torch.erfinv(torch.tensor(p, dtype=torch.float64)).item() * self.std
        return self.mean - half_width, self.mean + half_width


@final
@dataclass(frozen=True)
class Diagonal(AbstractPosterior):
    """q_n(z) = N(z; ν_n, diag(v_n)): codes are independent given the data point.

    Parameters
    ----------
    mean, variance : Tensor, shape (n, h)
        Code units, and code units squared.

    Examples
    --------
    >>> import torch
    >>> q = Diagonal(torch.zeros(1, 2), torch.ones(1, 2))
    >>> q.entropy()  # log(2πe)
    tensor([2.8379])
    """

    mean: Tensor
    variance: Tensor

    def covariance(self) -> Tensor:
        """diag(v_n), (n, h, h)."""
        return torch.diag_embed(self.variance)

    def covariance_sum(self) -> Tensor:
        """diag(Σ_n v_n), (h, h)."""
        return torch.diag(self.variance.sum(0, dtype=torch.float64))

    def entropy(self) -> Tensor:
        """½ Σ_h log(2πe v_nh), (n,)."""
        return _gaussian_entropy(self.variance.log().sum(1), self.mean.shape[1])

    def spread(self, dictionary: Tensor) -> Tensor:
        """Σ_h |w_h|² v_nh, (n,)."""
        return self.variance @ dictionary.square().sum(0)

    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """Σ_h W_dh² v_nh, (n, d)."""
        return self.variance @ dictionary.square().T

    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """(Σ_n b_nd v_nh) W_dh."""
        return (weight.T @ self.variance).double() * dictionary.double()

    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """S ε, (k, n, h)."""
        return self.std * _normal((k, *self.mean.shape), self.mean, generator)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Sum of h normal log densities, (k, n)."""
        distance = ((codes - self.mean).square() / self.variance).sum(-1)
        return _gaussian_log_prob(distance, self.variance.log().sum(1), self.mean.shape[1])

    def rotated(self, matrix: Tensor) -> "Diagonal":
        """Mean V ν, variance Σ_j V_hj² v_j."""
        return Diagonal(self.mean @ matrix.T, self.variance @ matrix.square().T)

    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_a V_ha (Σ_n b_nh v_na) V_ja."""
        return (weight.T @ self.variance * matrix) @ matrix.T

    def scaled(self, factor: Tensor) -> "Diagonal":
        """C ν and c² v."""
        return Diagonal(self.mean * factor, self.variance * factor.square())

    def __getitem__(self, rows: slice | Tensor) -> "Diagonal":
        return Diagonal(self.mean[rows], self.variance[rows])


@final
@dataclass(frozen=True)
class LowRank(AbstractPosterior):
    """q_n(z) = N(z; ν_n, diag(v_n) + V_n V_nᵀ), V_n of shape (h, r).

    Parameters
    ----------
    mean : Tensor, shape (n, h)
    diagonal : Tensor, shape (n, h)
        v, positive, code units squared.
    factor : Tensor, shape (n, h, r)
        V, code units.

    Examples
    --------
    >>> import torch
    >>> q = LowRank(torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3, 1))
    >>> q.variance
    tensor([[2., 2., 2.]])
    """

    mean: Tensor
    diagonal: Tensor
    factor: Tensor

    @property
    def variance(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """V + Σ_r V_hr², (n, h)."""
        return self.diagonal + self.factor.square().sum(2)

    def covariance(self) -> Tensor:
        """diag(v_n) + V_n V_nᵀ, (n, h, h)."""
        return torch.diag_embed(self.diagonal) + self.factor @ self.factor.mT

    def covariance_sum(self) -> Tensor:
        """diag(Σ_n v_n) + Σ_n V_n V_nᵀ as one product of an (h, n r) matrix with itself."""
        wide = self.factor.transpose(0, 1).reshape(self.factor.shape[1], -1).double()
        return torch.diag(self.diagonal.sum(0, dtype=torch.float64)) + wide @ wide.T

    def entropy(self) -> Tensor:
        """½ [h log 2πe + Σ_h log v_h + log det(I + Vᵀ D⁻¹ V)], (n,)."""
        return _gaussian_entropy(self._log_det(), self.mean.shape[1])

    def _capacitance(self) -> Tensor:
        """Cholesky factor of I + Vᵀ D⁻¹ V, (n, r, r), in float64: a v that V makes superfluous is tiny."""
        scaled = self.factor.double() / self.diagonal.double().sqrt().unsqueeze(2)
        inner = scaled.mT @ scaled
        return torch.linalg.cholesky(inner + torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device))

    def _log_det(self) -> Tensor:
        # Matrix determinant lemma: det(D + VVᵀ) = det(D) det(I + VᵀD⁻¹V)
        inner = self._capacitance().diagonal(dim1=1, dim2=2).log().sum(1)
        return (self.diagonal.double().log().sum(1) + 2 * inner).to(self.mean.dtype)

    def spread(self, dictionary: Tensor) -> Tensor:
        """Σ_h |w_h|² v_nh + |W V_n|², (n,)."""
        own = self.diagonal @ dictionary.square().sum(0)
        return own + (dictionary @ self.factor).square().sum((1, 2))

    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """Σ_h W_dh² v_nh + |(W V_n)_d|², (n, d)."""
        return self.diagonal @ dictionary.square().T + (dictionary @ self.factor).square().sum(2)

    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """(Σ_n b_nd v_nh) W_dh + Σ_nr b_nd (W V_n)_dr V_nhr."""
        own = (weight.T @ self.diagonal).double() * dictionary.double()
        d, h = dictionary.shape
        left = ((dictionary @ self.factor) * weight.unsqueeze(2)).transpose(0, 1).reshape(d, -1)
        return own + (left @ self.factor.mT.reshape(-1, h)).double()

    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """√v ε + V ε', (k, n, h)."""
        own = self.diagonal.sqrt() * _normal((k, *self.mean.shape), self.mean, generator)
        n, _, r = self.factor.shape
        common = _normal((k, n, r, 1), self.mean, generator)
        return own + (self.factor @ common).squeeze(-1)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Normal log density by the Woodbury identity, (k, n)."""
        offset = (codes - self.mean).double()
        weighted = offset / self.diagonal.double()
        inner = (self.factor.double().mT @ weighted.unsqueeze(-1)).squeeze(-1)  # Vᵀ D⁻¹ (z − ν)
        half = torch.linalg.solve_triangular(self._capacitance(), inner.unsqueeze(-1), upper=False)
        distance = (offset * weighted).sum(-1) - half.square().sum((-1, -2))
        return _gaussian_log_prob(distance.to(codes.dtype), self._log_det(), self.mean.shape[1])

    def rotated(self, matrix: Tensor) -> "LowRank":
        """Factor V F exactly; the rotated diagonal keeps its marginals."""
        return LowRank(self.mean @ matrix.T, self.diagonal @ matrix.square().T, matrix @ self.factor)

    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """The diagonal part, and Σ_nr b_nh (V F)_nhr (V F)_njr."""
        own = (weight.T @ self.diagonal * matrix) @ matrix.T
        turned = matrix @ self.factor
        left = (turned * weight.unsqueeze(2)).transpose(0, 1).reshape(matrix.shape[0], -1)
        return own + left @ turned.transpose(0, 1).reshape(matrix.shape[0], -1).T

    def scaled(self, factor: Tensor) -> "LowRank":
        """C ν, c² v and c V."""
        return LowRank(self.mean * factor, self.diagonal * factor.square(), self.factor * factor.unsqueeze(1))

    def __getitem__(self, rows: slice | Tensor) -> "LowRank":
        return LowRank(self.mean[rows], self.diagonal[rows], self.factor[rows])


@final
@dataclass(frozen=True)
class Full(AbstractPosterior):
    """q_n(z) = N(z; ν_n, T_n) with T_n⁻¹ = WᵀW/σ² + diag(κ_n): a full covariance in 2h numbers.

    Use `Full.from_precision`, which finds the variances and the determinant; the constructor only keeps them.

    Parameters
    ----------
    mean, prior_precision, variance : Tensor, shape (n, h)
        ν, κ and diag(T).
    log_det : Tensor, shape (n,)
        log det T_n.
    scaled_dictionary : Tensor, shape (d, h)
        W/σ, shared by all data points.
    observed : Tensor, shape (n, d), optional
        1 where an entry of the data was observed and 0 where it is missing, which leaves its row of W out of T⁻¹.
    factors : optional
        See `remembering`.
    """

    mean: Tensor
    prior_precision: Tensor
    variance: Tensor
    log_det: Tensor
    scaled_dictionary: Tensor
    observed: Tensor | None = None
    factors: "tuple[tuple[slice, precision.Cholesky | precision.Woodbury], ...] | None" = field(
        default=None, repr=False, compare=False
    )

    @classmethod
    def from_precision(
        cls, mean: Tensor, prior_precision: Tensor, scaled_dictionary: Tensor, observed: Tensor | None = None
    ) -> "Full":
        """Build the posterior from ν (n, h), κ (n, h) > 0, W/σ (d, h) and what was observed (n, d).

        Examples
        --------
        >>> import torch
        >>> q = Full.from_precision(torch.zeros(1, 2), torch.ones(1, 2), torch.eye(2))
        >>> q.variance  # (1 + 1)⁻¹
        tensor([[0.5000, 0.5000]])
        """
        variance, log_det = torch.empty_like(mean), torch.empty_like(mean[:, 0])
        dtype = precision.arithmetic(scaled_dictionary, mean.dtype, observed)
        for rows, factor in precision.factors(prior_precision, scaled_dictionary, dtype, observed):
            variance[rows], log_det[rows] = factor.variance(), factor.log_det()
        return cls(mean, prior_precision, variance, log_det, scaled_dictionary, observed)

    def covariance(self) -> Tensor:
        """T_n, (n, h, h)."""
        return torch.cat([factor.covariance() for _, factor in self._chunks()]).to(self.mean.dtype)

    def covariance_sum(self) -> Tensor:
        """Σ_n T_n, (h, h), a chunk of data points at a time."""
        h = self.mean.shape[1]
        total = torch.zeros(h, h, dtype=torch.float64, device=self.mean.device)
        for _, factor in self._chunks():
            total += factor.covariance_sum()
        return total

    def entropy(self) -> Tensor:
        """½ [h log 2πe + log det T_n], (n,)."""
        return _gaussian_entropy(self.log_det, self.mean.shape[1])

    def spread(self, dictionary: Tensor) -> Tensor:
        """tr(WᵀW T_n), (n,)."""
        parts = [factor.spread(dictionary.to(factor.dtype)) for _, factor in self._chunks()]
        return torch.cat(parts).to(self.mean.dtype)

    def projected_variance(self, dictionary: Tensor) -> Tensor:
        """diag(W T_n Wᵀ), (n, d), a chunk of data points at a time."""
        parts = [factor.rotated_variance(dictionary.to(factor.dtype)) for _, factor in self._chunks()]
        return torch.cat(parts).to(self.mean.dtype)

    def projected_covariance_sum(self, dictionary: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nd (W T_n)_dh, a chunk of data points at a time."""
        total = torch.zeros_like(dictionary, dtype=torch.float64)
        for rows, factor in self._chunks():
            total += factor.projected_sum(dictionary.to(factor.dtype), weight[rows].to(factor.dtype))
        return total

    def noise(self, k: int, generator: torch.Generator) -> Tensor:
        """T (Wᵀε/σ + √κ ε'): its covariance is T (WᵀW/σ² + diag κ) T = T, (k, n, h)."""
        n = len(self)
        data_part = self._seen(_normal((k, n, self.scaled_dictionary.shape[0]), self.mean, generator))
        prior_part = _normal((k, *self.mean.shape), self.mean, generator)
        return self._multiply(data_part @ self.scaled_dictionary + self.prior_precision.sqrt() * prior_part)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Normal log density from the precision, (k, n)."""
        offset = codes - self.mean
        distance = self._seen(offset @ self.scaled_dictionary.T).square().sum(-1)
        distance = distance + (offset.square() * self.prior_precision).sum(-1)
        return _gaussian_log_prob(distance, self.log_det, self.mean.shape[1])

    def rotated(self, matrix: Tensor) -> Diagonal:
        """Mean V ν with the exact marginal variances diag(V T Vᵀ)."""
        variance = torch.cat([factor.rotated_variance(matrix.to(factor.dtype)) for _, factor in self._chunks()])
        return Diagonal(self.mean @ matrix.T, variance.to(self.mean.dtype))

    def multiply(self, right: Tensor) -> Tensor:
        """T_n b_n for b (n, h)."""
        return self._multiply(right[None])[0]

    def _multiply(self, right: Tensor) -> Tensor:
        """T_n b_n for b (k, n, h)."""
        products = [factor.multiply(right[:, rows].to(factor.dtype)) for rows, factor in self._chunks()]
        return torch.cat(products, dim=1).to(self.mean.dtype)

    def _chunks(self) -> "Iterable[tuple[slice, precision.Cholesky | precision.Woodbury]]":
        if self.factors is not None:
            return self.factors
        dtype = precision.arithmetic(self.scaled_dictionary, self.mean.dtype, self.observed)
        return precision.factors(self.prior_precision, self.scaled_dictionary, dtype, self.observed)

    def _seen(self, data: Tensor) -> Tensor:
        return data if self.observed is None else data * self.observed

    def rotated_covariance_sum(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Σ_n b_nh (V T_n Vᵀ)_hj, a chunk of data points at a time."""
        total = torch.zeros_like(matrix, dtype=torch.float64)
        for rows, factor in self._chunks():
            total += factor.rotated_sum(matrix.to(factor.dtype), weight[rows].to(factor.dtype))
        return total.to(self.mean.dtype)

    def remembering(self) -> "Full":
        """The same, keeping its factors: (n, h, h) numbers, for a while and where these are few."""
        return replace(self, factors=tuple(self._chunks()))

    def scaled(self, factor: Tensor) -> "Full":
        """C ν, κ/c², c² diag(T) and W/(c σ)."""
        square = factor.square()
        return Full(
            self.mean * factor,
            self.prior_precision / square,
            self.variance * square,
            self.log_det + square.log().sum(),
            self.scaled_dictionary / factor,
            self.observed,
        )

    def __getitem__(self, rows: slice | Tensor) -> "Full":
        return Full(
            self.mean[rows],
            self.prior_precision[rows],
            self.variance[rows],
            self.log_det[rows],
            self.scaled_dictionary,
            None if self.observed is None else self.observed[rows],
        )


def _gaussian_entropy(log_det: Tensor, h: int) -> Tensor:
    return 0.5 * (log_det + h * math.log(2 * math.pi * math.e))


def _gaussian_log_prob(distance: Tensor, log_det: Tensor, h: int) -> Tensor:
    return -0.5 * (distance + log_det + h * math.log(2 * math.pi))


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
