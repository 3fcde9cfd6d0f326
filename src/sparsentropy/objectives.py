"""The paper on one page: what is summed over the data, and the two lower bounds that are short functions of these sums.

`Statistics` are sums over data points of a few moments of (x, q). They add up over batches and over machines. `elbo`
is the standard evidence lower bound at given parameters. `entropy_elbo` is the same bound after the prior scale λ and
the noise variance σ² have been set to their closed-form optimum: a sum of three entropies,

    L_H = mean_n H[q_n] − H[p(z; λ*)] − H[p(x|z; σ²*)],

so that L_H = max over (λ, σ²) of the ELBO (Theorems 1 to 3 of Velychko, Damm, Fischer and Lücke, AISTATS 2024). All
bounds are in nats per data point. Statistics are pooled first and the logarithm is taken afterwards: the average of
minibatch objectives is optimistic and depends on the size of the batches.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Self, final

import torch
from torch import Tensor

from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal
from sparsentropy.team import AbstractTeam


@final
@dataclass(frozen=True)
class Weights:
    """Annealing weights: γ on the entropy of the prior, δ on the entropy of the likelihood.

    Examples
    --------
    >>> Weights().plain
    True
    >>> Weights(prior=4.0).plain
    False
    """

    prior: float = 1.0
    likelihood: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.prior < float("inf") and 0 < self.likelihood < float("inf")):
            raise ValueError(
                f"Weights: both weights must be positive and finite; got {self.prior=}, {self.likelihood=}."
            )

    @property
    def plain(self) -> bool:
        """Whether the objective is a true lower bound: γ = δ = 1."""
        return self.prior == 1.0 and self.likelihood == 1.0

    def apply(self, parameters: Parameters) -> Parameters:
        """Parameters whose standard E-step is the annealed one: prior scale λ/γ and noise variance σ²/δ."""
        return replace(
            parameters,
            prior_scale=parameters.prior_scale / self.prior,
            noise_variance=parameters.noise_variance / self.likelihood,
        )


PLAIN = Weights()


@dataclass(frozen=True)
class AbstractStatistics(ABC):
    """Sums over n data points that a bound is a short function of, in float64; `a + b` is that of both sets.

    Parameters
    ----------
    n : Tensor, shape ()
        Number of data points.
    observed : Tensor, shape ()
        Number of their entries that were observed, n d where none is missing.
    prior_statistic : Tensor, shape (h,)
        Σ E|z|.
    entropy : Tensor, shape ()
        Σ H[q] in nats.
    slope_square : Tensor, shape (h,)
        Σ e², where e = ∂E|z|/∂ν is the prior's slope.
    """

    n: Tensor
    observed: Tensor
    prior_statistic: Tensor
    entropy: Tensor
    slope_square: Tensor

    @abstractmethod
    def mean_error(self, dictionary: Tensor) -> Tensor:
        """Mean expected squared error of a dictionary, mean_n [tr(WᵀW T_n) + |Wν_n − x_n|²]."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def pooled(self, team: AbstractTeam) -> Self:
        """Of the data of all processes of a team."""
        names = [f.name for f in fields(self)]
        total = team.sum(*(getattr(self, name) for name in names))
        return type(self)(**dict(zip(names, total, strict=True)))

    def __mul__(self, weight: float) -> Self:
        """Forgetting: the same sums as if every data point counted `weight` times."""
        return type(self)(**{f.name: getattr(self, f.name) * weight for f in fields(self)})

    @property
    def d(self) -> Tensor:
        """Observed entries of a data point, on average."""
        return self.observed / self.n

    @property
    def usage(self) -> Tensor:
        """Mean e² (h,): 0 for an atom that is off, near 1 for one whose codes stand out of their uncertainty.

        The posteriors of an atom that is off are all alike, as wide as the prior and centred at zero, where the
        prior has no slope.
        """
        return self.slope_square / self.n

    def to(self, device: torch.device) -> Self:
        """The same sums on another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def fit(self, parameters: Parameters, dictionary: Tensor | None = None) -> Parameters:
        """The closed forms: λ* = mean E|z| and σ²* = mean error / d (Theorem 2), in the dtype of `parameters`."""
        W = parameters.dictionary if dictionary is None else dictionary
        dtype = parameters.dictionary.dtype
        return replace(
            parameters,
            dictionary=W.to(dtype),
            prior_scale=parameters.prior.fit(self.prior_statistic / self.n).to(dtype),
            noise_variance=parameters.likelihood.fit(self.mean_error(W), self.d).to(dtype),
        )


@final
@dataclass(frozen=True)
class Statistics(AbstractStatistics):
    """Sums over n data points, with the moments of all pairs of codes: enough for the bound of any dictionary.

    Parameters
    ----------
    square : Tensor, shape ()
        Σ |x|².
    cross : Tensor, shape (d, h)
        Σ x νᵀ.
    second_moment : Tensor, shape (h, h)
        Σ ν νᵀ + T.
    slope_code : Tensor, shape (h,)
        Σ e ν, which a learning step needs to know of the prior's slope e.

    Examples
    --------
    >>> import torch
    >>> from sparsentropy.posteriors import Diagonal
    >>> x, q = torch.eye(2), Diagonal(torch.eye(2), 0.01 * torch.ones(2, 2))
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> half = Statistics.of(x[:1], q[:1], parameters) + Statistics.of(x[1:], q[1:], parameters)
    >>> bool(torch.isclose(elbo(half, parameters), elbo_rows(x, q, parameters).double().mean()))
    True
    """

    square: Tensor
    cross: Tensor
    second_moment: Tensor
    slope_code: Tensor

    @classmethod
    def of(cls, x: Tensor, q: AbstractPosterior, parameters: Parameters) -> "Statistics":
        """Statistics of data x (n, d) under q; NaN is what is missing.

        The mathematics needs no parameters; the arithmetic does. Σ|x|² − 2⟨W, Σxνᵀ⟩ + ⟨WᵀW, Σννᵀ⟩ loses all digits in
        float32 when the noise is small, so the sums are built around the residual at the present dictionary, where
        they are exact.

        A missing entry takes the moments of w_dᵀz at the present dictionary. It then adds nothing to the expected
        error and to its slope ∂/∂W there, and something to the error at any other dictionary; so the bound that these
        sums give is a lower bound that touches at the present one, as in EM, where missing entries are hidden variables
        (Dempster, Laird and Rubin, JRSS B 1977).
        """
        W = parameters.dictionary.double()
        residual, missing = _residual(x, q, parameters)
        mean_square, covariance = (q.mean.T @ q.mean).double(), q.covariance_sum().double()
        residual_cross = (residual.T @ q.mean).double()  # Σ (x − Wν) νᵀ
        explained, observed = W @ mean_square, float(x.numel())
        if missing is not None:
            # What is missing is W z, whose mean Wν has left no residual: its covariance remains, Σ_n (W T)_d there. As
            # what all have less what was observed: the error is the small difference, and must not be one of roundings
            seen = q.projected_covariance_sum(parameters.dictionary, (~missing).to(x.dtype))
            explained, observed = explained + W @ covariance - seen, observed - float(missing.sum())
        # |x|² = |r|² + 2 rᵀWν + |Wν|²
        square = (
            residual.square().sum(1).sum(dtype=torch.float64) + 2 * (W * residual_cross).sum() + (W * explained).sum()
        )
        statistic, slope = parameters.prior.statistic_and_slope(q.mean, q.std)
        return cls(
            n=torch.tensor(float(x.shape[0]), dtype=torch.float64, device=x.device),
            observed=torch.tensor(observed, dtype=torch.float64, device=x.device),
            square=square,
            cross=residual_cross + explained,
            second_moment=mean_square + covariance,
            prior_statistic=statistic.sum(0, dtype=torch.float64),
            entropy=q.entropy().sum(dtype=torch.float64),
            slope_square=slope.square().sum(0, dtype=torch.float64),
            slope_code=(slope * q.mean).sum(0, dtype=torch.float64),
        )

    def rescaled(self, factor: Tensor) -> "Statistics":
        """The statistics after codes were multiplied by `factor` (h,)."""
        return replace(
            self,
            cross=self.cross * factor,
            second_moment=self.second_moment * factor * factor[:, None],
            prior_statistic=self.prior_statistic * factor,
            entropy=self.entropy + self.n * factor.log().sum(),
            slope_code=self.slope_code * factor,
        )

    def of_atoms(self, kept: Tensor) -> "Statistics":
        """The sums that concern some atoms (k,); the entropy is still that of the codes of all."""
        return replace(
            self,
            cross=self.cross[:, kept],
            second_moment=self.second_moment[kept][:, kept],
            prior_statistic=self.prior_statistic[kept],
            slope_square=self.slope_square[kept],
            slope_code=self.slope_code[kept],
        )

    def mean_error(self, dictionary: Tensor) -> Tensor:
        """See `AbstractStatistics`."""
        W = dictionary.double()
        # |x|² − 2 xᵀWν + tr(WᵀW (ννᵀ + T))
        total = self.square - 2 * (W * self.cross).sum() + (W * (W @ self.second_moment)).sum()
        floor = torch.finfo(torch.float64).eps * self.square
        return torch.maximum(total, floor) / self.n


@final
@dataclass(frozen=True)
class Marginals(AbstractStatistics):
    """Sums that know nothing of how codes go together, and of the error at one dictionary only: O(h) numbers.

    They are enough for the bound at the dictionary that posteriors were inferred with, and for λ* and σ²*.

    Parameters
    ----------
    error : Tensor, shape ()
        Σ_n [tr(WᵀW T_n) + |Wν_n − x_n|²] over the entries that were observed.
    code_square : Tensor, shape (h,)
        Σ E[z²].

    Examples
    --------
    >>> import torch
    >>> from sparsentropy.posteriors import Diagonal
    >>> x, q = torch.eye(2), Diagonal(torch.eye(2), 0.01 * torch.ones(2, 2))
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> few, all_pairs = Marginals.of(x, q, parameters), Statistics.of(x, q, parameters)
    >>> bool(torch.isclose(entropy_elbo(few, parameters), entropy_elbo(all_pairs, parameters)))
    True
    """

    error: Tensor
    code_square: Tensor

    @classmethod
    def of(cls, x: Tensor, q: AbstractPosterior, parameters: Parameters) -> "Marginals":
        """Sums over data x (n, d) under q; NaN is what is missing."""
        error, observed = _errors(x, q, parameters)
        statistic, slope = parameters.prior.statistic_and_slope(q.mean, q.std)
        return cls(
            n=torch.tensor(float(x.shape[0]), dtype=torch.float64, device=x.device),
            observed=observed.sum(dtype=torch.float64),
            prior_statistic=statistic.sum(0, dtype=torch.float64),
            entropy=q.entropy().sum(dtype=torch.float64),
            slope_square=slope.square().sum(0, dtype=torch.float64),
            error=error.sum(dtype=torch.float64),
            code_square=(q.mean.square() + q.variance).sum(0, dtype=torch.float64),
        )

    def mean_error(self, dictionary: Tensor) -> Tensor:
        """See `AbstractStatistics`; of the dictionary that the sums were made with, whatever is given."""
        del dictionary
        return self.error / self.n


def uphill(x: Tensor, q: AbstractPosterior, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Σ_n (x − Wν)νᵀ − W T over the entries that were observed, (d, h), and x − Wν (n, d), zero where they were not.

    It is σ² times the gradient of the bound in W: Σ xνᵀ − W Σ(ννᵀ + T) without a matrix of all pairs of codes.
    """
    residual, missing = _residual(x, q, parameters)
    if missing is None and isinstance(q, Diagonal):
        return residual.T @ q.mean - parameters.dictionary * q.variance.sum(0), residual
    seen = torch.ones_like(x) if missing is None else (~missing).to(x.dtype)
    spread = q.projected_covariance_sum(parameters.dictionary, seen)
    return residual.T @ q.mean - spread.to(x.dtype), residual


def elbo(statistics: AbstractStatistics, parameters: Parameters) -> Tensor:
    """Standard evidence lower bound at the given λ, σ² and W.

    Parameters
    ----------
    statistics : AbstractStatistics
    parameters : Parameters

    Returns
    -------
    Tensor, shape ()
        mean_n {E log p(x|z) + E log p(z) + H[q_n]}, nats per data point, float64.
    """
    p = parameters.to(torch.float64)
    reconstruction = p.likelihood.expected_log_prob(statistics.mean_error(p.dictionary), p.noise_variance, statistics.d)
    prior = p.prior.expected_log_prob(statistics.prior_statistic / statistics.n, p.prior_scale)
    return reconstruction + prior + statistics.entropy / statistics.n


def entropy_elbo(statistics: AbstractStatistics, parameters: Parameters, weights: Weights = PLAIN) -> Tensor:
    """Entropy-based lower bound L_H: the three entropies at the optimal λ* and σ²* for the dictionary of `parameters`.

    Parameters
    ----------
    statistics : AbstractStatistics
    parameters : Parameters
        Only the dictionary and the kinds of prior and likelihood are used.
    weights : Weights
        Annealing weights; 1 and 1 give a true lower bound.

    Returns
    -------
    Tensor, shape ()
        mean_n H[q_n] − γ H[p(z; λ*)] − δ H[p(x|z; σ²*)], nats per data point, float64.
    """
    best = statistics.fit(parameters.to(torch.float64))
    prior = best.prior.entropy(best.prior_scale)
    noise = best.likelihood.entropy(best.noise_variance, statistics.d)
    return statistics.entropy / statistics.n - weights.prior * prior - weights.likelihood * noise


def elbo_rows(x: Tensor, q: AbstractPosterior, parameters: Parameters) -> Tensor:
    """The standard lower bound of every data point, (n,): a true lower bound of log p(x_n), nats.

    Where entries are missing (NaN), that of the others.
    """
    p = parameters
    error, d = _errors(x, q, p)
    reconstruction = p.likelihood.expected_log_prob(error, p.noise_variance, d)
    return reconstruction + p.prior.expected_log_prob(p.prior.statistic(q), p.prior_scale) + q.entropy()


def _errors(x: Tensor, q: AbstractPosterior, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Expected squared error of the entries that were observed, and how many these are (n,)."""
    p = parameters
    residual, missing = _residual(x, q, p)
    error = residual.square().sum(1)
    if missing is None:
        return error + q.spread(p.dictionary), torch.full_like(error, p.d)
    seen = (~missing).to(x.dtype)
    return error + (q.projected_variance(p.dictionary) * seen).sum(1), seen.sum(1)


def _residual(x: Tensor, q: AbstractPosterior, parameters: Parameters) -> tuple[Tensor, Tensor | None]:
    """X − Wν, zero where x is missing (NaN), and where that is; None where all is there."""
    residual, missing = x - q.mean @ parameters.dictionary.T, x.isnan()
    if not missing.any():
        return residual, None
    return residual.masked_fill(missing, 0.0), missing


def sampled_elbo(
    x: Tensor, q: AbstractPosterior, parameters: Parameters, k: int, seed: int | torch.Generator = 0
) -> Tensor:
    """The bound as everyone else estimates it: k reparameterised draws for every data point, (n,), nats.

    Unbiased for `elbo_rows`, with a variance that the analytic bound does not have; the baseline of the paper's
    experiments.
    """
    p = parameters
    codes = q.sample(k, seed)
    joint = p.likelihood.log_prob(x, codes, p.dictionary, p.noise_variance) + p.prior.log_prob(codes, p.prior_scale)
    return joint.mean(0) + q.entropy()


def importance_log_likelihood(
    x: Tensor, q: AbstractPosterior, parameters: Parameters, k: int, seed: int | torch.Generator = 0
) -> Tensor:
    """Importance-sampled log p(x_n) with q as the proposal, (n,), nats; it grows towards the truth with k.

    The lower bound of Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders" (ICLR 2016), equation 8.
    """
    p = parameters
    codes = q.sample(k, seed)
    joint = p.likelihood.log_prob(x, codes, p.dictionary, p.noise_variance) + p.prior.log_prob(codes, p.prior_scale)
    return torch.logsumexp(joint - q.log_prob(codes), 0) - torch.log(torch.tensor(float(k), dtype=x.dtype))
