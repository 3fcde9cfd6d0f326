"""Questions about a model and its posteriors that learning does not need answered.

How far is what an encoder says from what could be known, in nats? The answer is a difference of two bounds at the same
parameters, so it does not depend on how the parameters were found. How good is a dictionary that somebody else has
found? It gets the scales and the noise that suit it best, and then has a bound like any other. And how noisy are
gradients that others take from samples, where ours are exact?
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference import AbstractSolver, Solution
from sparsentropy.learning import em
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo, sampled_elbo
from sparsentropy.posteriors import AbstractPosterior, Diagonal

MOST_REFITS, ENOUGH = 60, 1e-3  # and nats per data point gained by one, below which there is no other
FIRST_ITERATIONS, ITERATIONS, HELD_OUT_ITERATIONS = 60, 15, 300  # of the E-step
REFIT_ROWS = 8192  # of the data at most: two unknowns for each atom ask for no more


@final
@dataclass(frozen=True)
class AmortizationGap:
    """By how much solved posteriors have a higher bound.

    Parameters
    ----------
    rows : Tensor, shape (n,)
        Of every data point, nats; float64.
    solved : float
        Mean bound of the solved posteriors, nats per data point.
    converged : int
        Data points that the solver has certified, or has seen converge.
    """

    rows: Tensor
    solved: float
    converged: int

    @property
    def mean(self) -> float:
        """Nats per data point."""
        return float(self.rows.mean())


def amortization_gap(
    x: Tensor,
    posterior: AbstractPosterior,
    parameters: Parameters,
    solver: AbstractSolver | Solution,
    *,
    max_iter: int = 1000,
) -> AmortizationGap:
    """The distance of posteriors from the best of a family, at fixed parameters.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    posterior : AbstractPosterior
        What an encoder says of these data.
    parameters : Parameters
    solver : AbstractSolver or Solution
        Of the family to compare with, the encoder's own or a richer one; or what such a solver has found for these
        data in float64, where several answers are compared with it.
    max_iter : int
        Of the solver.

    Returns
    -------
    AmortizationGap
        Computed in float64 whatever the dtype of the data, since gaps may be small.

    Raises
    ------
    ValueError
        If there are no data, or not as many posteriors.

    Examples
    --------
    >>> from sparsentropy.inference import DiagonalSolver
    >>> from sparsentropy.posteriors import Diagonal
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> x = parameters.sample(100, 0)[0]
    >>> exact = DiagonalSolver()(x, parameters).posterior
    >>> round(amortization_gap(x, exact, parameters, DiagonalSolver()).mean, 4)
    0.0
    >>> shifted = Diagonal(exact.mean + 0.1, exact.variance)  # by a standard deviation, and two codes
    >>> round(amortization_gap(x, shifted, parameters, DiagonalSolver()).mean, 1)
    1.0
    """
    if len(x) == 0 or len(x) != len(posterior):
        raise ValueError(f"amortization_gap: {len(x)} data points and {len(posterior)} posteriors; give one for each.")
    p, x = parameters.to(torch.float64), x.double()
    best = solver if isinstance(solver, Solution) else solver(x, p, max_iter=max_iter)
    if len(best.posterior) != len(x):
        raise ValueError(
            f"amortization_gap: {len(x)} data points, but {len(best.posterior)} were solved; give the same data."
        )
    bounds = elbo_rows(x, _in_float64(best.posterior), p)
    gaps = bounds - elbo_rows(x, _in_float64(posterior), p)
    return AmortizationGap(gaps, float(bounds.mean()), best.cost.converged)


@final
@dataclass(frozen=True)
class Refit:
    """A dictionary with the scales and the noise that suit it best.

    Parameters
    ----------
    parameters : Parameters
    lower_bound : float
        Of the data they were fitted to, nats per data point.
    count : int
        E-steps that were made.
    """

    parameters: Parameters
    lower_bound: float
    count: int


def refit(x: Tensor, dictionary: Tensor, solver: AbstractSolver) -> Refit:
    """Fit λ and σ² to data for atoms that somebody else has found.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        No more than the first 8,192 are used.
    dictionary : Tensor, shape (d, h)
        Atoms of any length; they are brought to unit length and left as they are.
    solver : AbstractSolver

    Returns
    -------
    Refit
        Ends when λ and σ² of all posteriors gain less than 0.001 nats per data point.

    Examples
    --------
    >>> from sparsentropy.inference import FullSolver
    >>> truth = Parameters(torch.eye(3)[:, :2], torch.ones(2), torch.tensor(0.01))
    >>> found = refit(truth.sample(1000, 0)[0], 5 * truth.dictionary, FullSolver())
    >>> round(float(found.parameters.noise_variance) ** 0.5, 1)
    0.1
    """
    x = x[:REFIT_ROWS]
    dictionary = dictionary / dictionary.norm(dim=0).clamp(min=torch.finfo(x.dtype).tiny)
    unit = float(x.square().mean().sqrt())
    model = Parameters(dictionary, x.new_full((dictionary.shape[1],), unit), x.new_tensor(0.1 * unit**2))
    posterior, bound, count, gain = None, -float("inf"), 0, float("inf")
    while count < MOST_REFITS and gain > ENOUGH:
        model = em.floored(model, unit)
        iterations = FIRST_ITERATIONS if posterior is None else ITERATIONS
        posterior = solver(x, model, posterior, max_iter=iterations, tol=0.0).posterior
        statistics = Statistics.of(x, posterior, model)
        model = replace(statistics.fit(model), dictionary=dictionary)
        before, bound = bound, float(entropy_elbo(statistics, model))
        count, gain = count + 1, bound - before
    return Refit(em.floored(model, unit), bound, count)


def held_out_bound(x: Tensor, parameters: Parameters, solver: AbstractSolver) -> float:
    """Mean bound of new data, which is a true lower bound of their log likelihood.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    parameters : Parameters
        Learned from other data.
    solver : AbstractSolver
        Makes 300 iterations: to certify all data under a dictionary with atoms that are hard to tell apart takes hours.

    Returns
    -------
    float
        Nats per data point.

    Examples
    --------
    >>> from sparsentropy.inference import FullSolver
    >>> truth = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> round(held_out_bound(truth.sample(1000, 0)[0], truth, FullSolver()), 1)
    -3.4
    """
    posterior = solver(x, parameters, max_iter=HELD_OUT_ITERATIONS, tol=0.0).posterior
    return float(elbo_rows(x, posterior, parameters).double().mean())


def gradient_noise(
    x: Tensor, posterior: Diagonal, parameters: Parameters, k: int, *, draws: int = 100, seed: int = 0
) -> float:
    """How noisy the gradient of the sampled bound is; that of the analytic one is exact.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    posterior : Diagonal
    parameters : Parameters
    k : int
        Samples for every data point in a draw.
    draws : int
        Gradients that are compared, at least 2.
    seed : int

    Returns
    -------
    float
        E|g − ∇L|²/|∇L|², where g are gradients of the sampled bound with respect to means, log standard deviations and
        the dictionary, and ∇L is that of the analytic bound.

    Examples
    --------
    >>> from sparsentropy.inference import DiagonalSolver
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> x = parameters.sample(50, 0)[0] + 0.1
    >>> q = DiagonalSolver()(x - 0.1, parameters).posterior
    >>> gradient_noise(x, q, parameters, 10) < gradient_noise(x, q, parameters, 1)
    True
    """
    if draws < 2:
        raise ValueError(f"gradient_noise: draws must be at least 2; got {draws}.")
    free = [posterior.mean.double(), posterior.std.double().log(), parameters.dictionary.double()]
    free = [value.detach().clone().requires_grad_() for value in free]
    generator = torch.Generator(x.device).manual_seed(seed)

    def gradient(bound: Callable[[Tensor, Diagonal, Parameters], Tensor]) -> Tensor:
        mean, log_std, dictionary = free
        model = replace(parameters.to(torch.float64), dictionary=dictionary)
        total = bound(x.double(), Diagonal(mean, (2 * log_std).exp()), model).mean()
        return torch.cat([part.ravel() for part in torch.autograd.grad(total, free)])

    exact = gradient(elbo_rows)
    errors = [gradient(lambda x, q, p: sampled_elbo(x, q, p, k, generator)) - exact for _ in range(draws)]
    return float(torch.stack([error.square().sum() for error in errors]).mean() / exact.square().sum())


def _in_float64(posterior: AbstractPosterior) -> AbstractPosterior:
    assert is_dataclass(posterior), "posteriors are values"
    tensors = {f.name: value for f in fields(posterior) if isinstance(value := getattr(posterior, f.name), Tensor)}
    return replace(posterior, **{name: value.double() for name, value in tensors.items()})
