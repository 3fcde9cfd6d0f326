"""What the entropy objective is compared with: the same model, learned the usual way.

The usual way is the standard lower bound L(Φ, W, λ, σ²) with everything by gradient: means and standard deviations of
every data point, the dictionary and the noise variance, here by Adam. The prior scale is held at 1 and the atoms have
any length, which is the same model in another gauge. The bound is analytic, or it is estimated from samples as
everybody else does. By Theorem 1 of Velychko et al. (AISTATS 2024) it becomes the sum of three entropies where λ and σ²
are stationary, and a step says how far it is from there.
"""

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
    """

    parameters: Parameters
    lower_bound: float
    entropy_sum: float


def sampled(k: int, generator: torch.Generator) -> Bound:
    """The bound estimated from k new samples of every posterior at every call.

    Parameters
    ----------
    k : int
    generator : torch.Generator
        On the device of the data.
    """
    return lambda x, q, parameters: sampled_elbo(x, q, parameters, k, generator)


def by_gradient(
    x: Tensor, start: Parameters, q: Diagonal, *, bound: Bound = elbo_rows, rate: float = 0.01, steps: int = 1000
) -> Iterator[Step]:
    """Learn everything by Adam on a bound.

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

    Yields
    ------
    Step
        After every step.

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
    free = _Free(start, q)
    optimiser = torch.optim.Adam(free.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (-bound(x, free.posterior(), free.model()).mean()).backward()
        optimiser.step()
        with torch.no_grad():
            yield free.step(x)


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

    def step(self, x: Tensor) -> Step:
        model, q = self.model(), self.posterior()
        lower_bound = elbo_rows(x, q, model).double().mean().item()
        entropy_sum = entropy_elbo(Statistics.of(x, q, model), model).item()
        return Step(model.gauged()[0], lower_bound, entropy_sum)
