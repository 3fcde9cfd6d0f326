"""Annealing schedules: what the entropies of the prior and of the likelihood weigh at every step of learning.

The objective is a sum of three entropies, so it can be annealed entropy by entropy,

    L = mean_n H[q_n] − γ H[p(z)] − δ H[p(x|z)],

and a schedule says for every step which γ and δ it has. Weights other than 1 are a detour: with γ > 1 the prior holds
codes more tightly than it should, with δ < 1 the data have less of a say, and both make posteriors blunter while the
dictionary is still far from where it will end. At γ = δ = 1 alone the objective is a lower bound, so every schedule
ends there. A step is a sweep.

A schedule may be any function from the number of a step, counted from 0, to the pair (γ, δ). Those made here are
values: they can be printed, compared, pickled, and saved with a model.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

PAPER = (10.0, 8.0, 6.0, 4.0, 2.0)
"""γ of the steps in Velychko, Damm, Fischer and Lücke, "Learning Sparse Codes with Entropy-Based ELBOs" (AISTATS 2024),
before those with γ = 1."""


@final
@dataclass(frozen=True)
class Schedule:
    """Weights step by step, then 1 and 1.

    Parameters
    ----------
    weights : tuple of pairs
        γ and δ of every annealed step, positive and finite.

    Raises
    ------
    ValueError
        If a weight is not positive or not finite.

    Examples
    --------
    >>> schedule = Schedule(((4.0, 1.0), (2.0, 1.0)))
    >>> [schedule(step) for step in range(3)]
    [(4.0, 1.0), (2.0, 1.0), (1.0, 1.0)]
    """

    weights: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        for pair in self.weights:
            if len(pair) != 2 or not all(0 < value < math.inf for value in pair):
                raise ValueError(
                    f"Schedule: every step needs two positive, finite weights, that of the prior's entropy and that of "
                    f"the likelihood's; got {pair!r}."
                )

    def __call__(self, step: int) -> tuple[float, float]:
        """γ and δ at a step, counted from 0."""
        return self.weights[step] if step < len(self.weights) else (1.0, 1.0)

    def __len__(self) -> int:
        return len(self.weights)


def constant(prior: float = 1.0, likelihood: float = 1.0, *, steps: int = 5) -> Schedule:
    """The same weights for some steps.

    Examples
    --------
    >>> constant(prior=2.0, steps=2).weights
    ((2.0, 1.0), (2.0, 1.0))
    """
    return Schedule(((prior, likelihood),) * _count(steps))


def linear(prior: float = 1.0, likelihood: float = 1.0, *, steps: int = 5) -> Schedule:
    """From these weights to 1 in equal differences; the first step after the last has 1.

    Examples
    --------
    >>> linear(prior=3.0, steps=2).weights
    ((3.0, 1.0), (2.0, 1.0))
    """
    shares = _shares(steps)
    return Schedule(tuple((1 + (prior - 1) * share, 1 + (likelihood - 1) * share) for share in shares))


def geometric(prior: float = 1.0, likelihood: float = 1.0, *, steps: int = 5) -> Schedule:
    """From these weights to 1 in equal ratios.

    Examples
    --------
    >>> geometric(prior=4.0, likelihood=0.25, steps=2).weights
    ((4.0, 0.25), (2.0, 0.5))
    """
    shares = _shares(steps)
    return Schedule(tuple((float(prior**share), float(likelihood**share)) for share in shares))


def piecewise(weights: Iterable[tuple[float, float]], *, each: int = 1) -> Schedule:
    """Each pair of weights for so many steps.

    Examples
    --------
    >>> piecewise([(4, 1), (2, 1)], each=2).weights
    ((4.0, 1.0), (4.0, 1.0), (2.0, 1.0), (2.0, 1.0))
    """
    return Schedule(tuple((float(g), float(d)) for g, d in weights for _ in range(_count(each))))


def prior(values: Iterable[float] = PAPER, *, each: int = 1) -> Schedule:
    """Prior annealing, γ from above 1 down to 1; as in the paper unless other values are given.

    Examples
    --------
    >>> prior().weights
    ((10.0, 1.0), (8.0, 1.0), (6.0, 1.0), (4.0, 1.0), (2.0, 1.0))
    """
    return piecewise([(value, 1.0) for value in values], each=each)


def likelihood(start: float = 0.1, *, steps: int = 5) -> Schedule:
    """Likelihood annealing: δ rises from `start` to 1 in equal differences.

    Examples
    --------
    >>> [round(delta, 2) for _, delta in likelihood().weights]
    [0.1, 0.28, 0.46, 0.64, 0.82]
    """
    return linear(likelihood=start, steps=steps)


def beta(values: Iterable[float] = PAPER, *, each: int = 1) -> Schedule:
    """β-annealing: the Kullback-Leibler term of the bound counts β times, which is γ = 1 and δ = 1/β.

    Examples
    --------
    >>> [round(delta, 3) for _, delta in beta().weights]
    [0.1, 0.125, 0.167, 0.25, 0.5]
    """
    return piecewise([(1.0, 1 / value) for value in values], each=each)


def _shares(steps: int) -> list[float]:
    """From 1 towards 0, which is for the step after the last."""
    return [1 - step / _count(steps) for step in range(_count(steps))]


def _count(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"A schedule needs at least one step; got {steps!r}.")
    return steps
