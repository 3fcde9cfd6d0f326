"""What the entropy objective is compared with: the same model, learned the usual way.

The usual way is the standard lower bound L(Φ, W, λ, σ²) with everything by gradient: means and standard deviations of
every data point, the dictionary and the noise variance, here by Adam. The prior scale is held at 1 and the atoms have
any length, which is the same model in another gauge. The bound is analytic, or it is estimated from samples as
everybody else does. By Theorem 1 of Velychko et al. (AISTATS 2024) it becomes the sum of three entropies where λ and σ²
are stationary, and a step says how far it is from there.

The sum of three entropies itself can be climbed in the same way, by the same Adam from the same place, so that what is
compared is the objective and nothing else.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo, sampled_elbo
from sparsentropy.posteriors import Diagonal

Bound = Callable[[Tensor, Diagonal, Parameters], Tensor]
"""Data (n, d), posteriors and parameters to the bound of every data point (n,), nats."""


@final
@dataclass(frozen=True)
class Step:
    """What a step of gradient learning led to.

    Parameters
    ----------
    parameters : Parameters
        With unit-length atoms, whose former length is now their prior scale.
    lower_bound : float
        The analytic bound at these parameters, whichever one was climbed; nats per data point.
    entropy_sum : float
        L_H of the same posteriors and dictionary: the bound that it would be with λ and σ² at their optimum.
    posterior : Diagonal
        Of all data points, in the gauge of the parameters.
    number : int
        Steps made so far.
    seconds : float
        Processor time of these steps. What was done to tell of them, such as the two bounds above, is not counted.
    """

    parameters: Parameters
    lower_bound: float
    entropy_sum: float
    posterior: Diagonal
    number: int
    seconds: float


def sampled(k: int, generator: torch.Generator) -> Bound:
    """The bound estimated from k new samples of every posterior at every call.

    Parameters
    ----------
    k : int
    generator : torch.Generator
        On the device of the data.
    """
    return lambda x, q, parameters: sampled_elbo(x, q, parameters, k, generator)


def entropy_rows(x: Tensor, q: Diagonal, parameters: Parameters) -> Tensor:
    """The analytic bound at the closed forms of λ and σ², which are held: its mean is L_H, and so is its gradient.

    L_H is the highest value of the standard bound over λ and σ², so how these move with posteriors and dictionary
    does not change it to first order (the envelope theorem), and no derivative goes through them.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        All data points: λ and σ² are those of the whole.
    q : Diagonal
    parameters : Parameters
        Only the dictionary and the kinds of prior and likelihood are used.

    Returns
    -------
    Tensor, shape (n,)
        Nats.

    Examples
    --------
    >>> x, q = torch.eye(2), Diagonal(torch.eye(2), 0.01 * torch.ones(2, 2))
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> three = entropy_elbo(Statistics.of(x, q, parameters), parameters)
    >>> bool(torch.isclose(entropy_rows(x, q, parameters).mean().double(), three))
    True
    """
    p = parameters
    error = (x - q.mean @ p.dictionary.T).square().sum(1) + q.spread(p.dictionary)
    statistic = p.prior.statistic(q)
    prior_scale = p.prior.fit(statistic.detach().mean(0))
    noise_variance = p.likelihood.fit(error.detach().mean(), p.d)
    reconstruction = p.likelihood.expected_log_prob(error, noise_variance, p.d)
    return reconstruction + p.prior.expected_log_prob(statistic, prior_scale) + q.entropy()


def by_gradient(
    x: Tensor,
    start: Parameters,
    q: Diagonal,
    *,
    bound: Bound = elbo_rows,
    rate: float = 0.01,
    steps: int = 1000,
    falling: bool = False,
    every: int = 1,
) -> Iterator[Step]:
    """Learn everything by Adam on a standard bound.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        All of them are in every step.
    start : Parameters
        With unit-length atoms.
    q : Diagonal
        First posteriors.
    bound : function
        `objectives.elbo_rows`, which is analytic, or `sampled(k, generator)`.
    rate : float
        Of Adam, in units of the prior scale for codes and atoms.
    steps : int
    falling : bool
        Whether the rate falls evenly to zero over the steps: with a constant one, noisy gradients never come to rest.
    every : int
        Steps from one that is told of to the next.

    Yields
    ------
    Step
        After so many steps, and after the last one.

    Examples
    --------
    >>> from sparsentropy.inference import DiagonalSolver
    >>> truth = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> x = truth.sample(200, 0)[0]
    >>> q = DiagonalSolver()(x, truth).posterior
    >>> *_, last = by_gradient(x, truth, q, steps=300)
    >>> round(last.entropy_sum - last.lower_bound, 1)
    0.0
    """
    return _climb(x, _Free(start, q), bound, _Pace(rate, steps, falling, every))


def by_gradient_on_entropies(
    x: Tensor,
    start: Parameters,
    q: Diagonal,
    *,
    rate: float = 0.01,
    steps: int = 1000,
    falling: bool = False,
    every: int = 1,
) -> Iterator[Step]:
    """Learn means, standard deviations and the dictionary by Adam on the sum of three entropies.

    λ and σ² are nothing to learn here: they are at their closed forms in every step.

    Parameters
    ----------
    x, start, q, rate, steps, falling, every
        As in `by_gradient`, and so are the units in which Adam moves. Of σ² at the start no use is made.

    Yields
    ------
    Step
        After so many steps, and after the last one; the two bounds of a step are the same.

    Examples
    --------
    >>> from sparsentropy.inference import DiagonalSolver
    >>> truth = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> x = truth.sample(200, 0)[0]
    >>> q = DiagonalSolver()(x, truth).posterior
    >>> first, last = by_gradient_on_entropies(x, truth, q, steps=300, every=150)
    >>> last.lower_bound > first.lower_bound, last.number
    (True, 300)
    """
    return _climb(x, _Free(start, q), entropy_rows, _Pace(rate, steps, falling, every), closed_forms=True)


@final
@dataclass(frozen=True)
class _Pace:
    rate: float
    steps: int
    falling: bool
    every: int

    def at(self, number: int) -> float:
        """The rate of a step, counted from 1."""
        return self.rate * (1 - (number - 1) / self.steps) if self.falling else self.rate


def _climb(x: Tensor, free: "_Free", bound: Bound, pace: _Pace, *, closed_forms: bool = False) -> Iterator[Step]:
    optimiser = torch.optim.Adam(free.parameters())
    seconds = 0.0
    for number in range(1, pace.steps + 1):
        begin = time.process_time()
        optimiser.param_groups[0]["lr"] = pace.at(number)
        optimiser.zero_grad()
        (-bound(x, free.posterior(), free.model()).mean()).backward()
        optimiser.step()
        seconds += time.process_time() - begin
        if number % pace.every == 0 or number == pace.steps:
            yield free.step(x, number, seconds, closed_forms=closed_forms)


@final
class _Free(nn.Module):
    """Everything that has a gradient, in the gauge λ = 1."""

    def __init__(self, start: Parameters, q: Diagonal) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(start.dictionary * start.prior_scale)
        self.log_noise = nn.Parameter(start.noise_variance.log())
        self.mean = nn.Parameter(q.mean / start.prior_scale)
        self.log_std = nn.Parameter((q.std / start.prior_scale).log())
        self.start = start

    def posterior(self) -> Diagonal:
        return Diagonal(self.mean, (2 * self.log_std).exp())

    def model(self) -> Parameters:
        one = torch.ones_like(self.start.prior_scale)
        return Parameters(self.dictionary, one, self.log_noise.exp(), self.start.prior, self.start.likelihood)

    @torch.no_grad()
    def step(self, x: Tensor, number: int, seconds: float, *, closed_forms: bool) -> Step:
        """Where it stands, as values of its own."""
        model, q = self.model(), self.posterior()
        statistics = Statistics.of(x, q, model)
        entropy_sum = entropy_elbo(statistics, model).item()
        lower_bound = entropy_sum if closed_forms else elbo_rows(x, q, model).double().mean().item()
        gauged, length = (statistics.fit(model) if closed_forms else model).gauged()
        return Step(gauged, lower_bound, entropy_sum, q.scaled(length), number, seconds)
