"""The detour at the beginning: a few sweeps with other weights on the entropies of prior and likelihood.

With weights γ and δ the E-step is the usual one at the prior scale λ/γ and the noise variance σ²/δ, and the atoms keep
unit length inside the M-step. With γ > 1, or with a small δ, the objective has no upper bound: an atom that explains
little is held ever more tightly, and its scale shrinks by about γ at every sweep; what it no longer explains becomes
noise, so that the others are held more tightly as well, down to codes that are all zero. Therefore a detour is counted
in sweeps and never followed to its end, a sweep that switches off more than half of the atoms in use is taken back,
scales do not fall below a floor, and atoms that were lost on the way get back the direction and the scale that they
had. Whether they are needed, learning at γ = δ = 1 will say.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy.learning import em
from sparsentropy.learning.start import OFF
from sparsentropy.learning.task import State, Task
from sparsentropy.model import Parameters
from sparsentropy.objectives import PLAIN, Weights, entropy_elbo

LOST = 0.5  # part of the atoms in use that a sweep may switch off
FLOOR = 1e-3  # of the scale that an atom had before, below which it cannot fall
ITERATIONS = 20  # of the E-step, since weights change much from sweep to sweep

Schedule = Callable[[int], tuple[float, float]]


@final
@dataclass(frozen=True)
class Detour:
    """How far a detour has come.

    Parameters
    ----------
    before : State
        Where it began, without its posteriors.
    steps : int
        Of the schedule that were made.
    refused : tuple of pairs of float
        Weights of those that were taken back.
    """

    before: State
    steps: int = 0
    refused: tuple[tuple[float, float], ...] = ()


def weights_of(schedule: Schedule, most: int) -> Iterator[Weights]:
    """The weights of a schedule up to the first step at γ = δ = 1, at most so many.

    Raises
    ------
    ValueError
        If the schedule returns anything but two positive, finite numbers.
    """
    for step in range(most):
        pair = schedule(step)
        try:
            prior, likelihood = pair
            weights = Weights(float(prior), float(likelihood))
        except (TypeError, ValueError):
            raise ValueError(
                f"An annealing schedule must return two positive, finite weights, that of the prior's entropy and that "
                f"of the likelihood's; at step {step} it returned {pair!r}."
            ) from None
        if weights.plain:
            return
        yield weights


def anneal(
    task: Task, state: State, schedule: Schedule, most: int, begun: Detour | None = None
) -> Iterator[tuple[State, Detour | None]]:
    """The states of a detour, and how far it has come; the last one is back at γ = δ = 1, where it is over.

    Parameters
    ----------
    task : Task
        At γ = δ = 1.
    state : State
        Where the detour begins, or has come to.
    schedule : function
        Step, counted from 0, to γ and δ.
    most : int
        Annealed sweeps at most; a schedule that is not back at 1 by then is cut off.
    begun : Detour, optional
        How far it had come in an earlier call.

    Yields
    ------
    State, Detour or None
        The bound is the true one, of γ = δ = 1, for the posteriors that were found with other weights. There is none
        where the schedule begins at γ = δ = 1.

    Warns
    -----
    UserWarning
        If atoms were lost, or sweeps were taken back.
    """
    detour = begun or Detour(replace(state, posteriors=()))
    for weights in itertools.islice(weights_of(schedule, most), detour.steps, None):
        detour = replace(detour, steps=detour.steps + 1)
        new = _annealed(replace(task, weights=weights), state, detour.before.parameters)
        if _in_use(new).sum() < (1 - LOST) * _in_use(state).sum():
            detour = replace(detour, refused=(*detour.refused, (weights.prior, weights.likelihood)))
            continue
        state = new
        yield state, detour
    if not detour.steps:
        return
    before = detour.before
    lost = _in_use(before) & ~_in_use(state)
    if detour.refused or bool(lost.any()):
        warnings.warn(_told(detour.refused, int(lost.sum()), int(_in_use(before).sum())), stacklevel=2)
    start = _restored(state.parameters, before.parameters, lost)
    yield task.expect(start, state.posteriors.__getitem__, ITERATIONS), None


def _annealed(task: Task, state: State, before: Parameters) -> State:
    parameters, _ = em.update(state.statistics, state.parameters, task.weights)
    scale = torch.maximum(parameters.prior_scale, FLOOR * before.prior_scale)
    new = task.expect(replace(parameters, prior_scale=scale), state.posteriors.__getitem__, ITERATIONS)
    return replace(new, bound=float(entropy_elbo(new.statistics, new.parameters, PLAIN)))


def _in_use(state: State) -> Tensor:
    """Atoms whose codes stand out of their uncertainty, which may itself have collapsed, and out of the noise."""
    p = state.parameters
    return em.above_noise(p.prior_scale, p.noise_variance) & (state.statistics.usage >= OFF)


def _restored(parameters: Parameters, before: Parameters, lost: Tensor) -> Parameters:
    """These atoms as they were before."""
    return replace(
        parameters,
        dictionary=torch.where(lost, before.dictionary, parameters.dictionary),
        prior_scale=torch.where(lost, before.prior_scale, parameters.prior_scale),
    )


def _told(refused: Sequence[tuple[float, float]], lost: int, used: int) -> str:
    parts = []
    if refused:
        pairs = ", ".join(f"({prior:.3g}, {likelihood:.3g})" for prior, likelihood in refused)
        parts.append(
            f"{len(refused)} annealed sweeps were taken back, since more than half of the atoms collapsed: "
            f"those with the weights {pairs}"
        )
    if lost:
        parts.append(f"{lost} of {used} atoms collapsed during annealing and were started again")
    return f"{'; '.join(parts)}. Milder weights, nearer to 1, or fewer steps avoid this."
