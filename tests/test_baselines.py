"""The usual way to learn: gradients of the standard bound, and what the theorem says about where they end."""

import itertools

import numpy as np
import pytest
import torch

from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import baselines, random_starts
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import Diagonal


def sources(n=150, d=6, h=4):
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(d, h, dtype=torch.float64, generator=draw)
    scale = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)[:h]
    return Parameters(W / W.norm(dim=0), scale, torch.tensor(0.04, dtype=torch.float64)).sample(n, 0)[0]


def started(x, h=4):
    start = random_starts(x, h, torch.Generator().manual_seed(0))[0]
    n = len(x)
    return start, Diagonal(torch.zeros(n, h, dtype=x.dtype), torch.full((n, h), 0.1, dtype=x.dtype))


def test_the_gauge_changes_nothing():
    x = sources()
    start, q = started(x)
    free = baselines._Free(start, q)
    moved, model = free.posterior(), free.model()
    assert torch.equal(model.prior_scale, torch.ones(4, dtype=torch.float64))
    # log p(x) is the same, and codes were divided by λ: no Jacobian, since both q and p are densities of the same codes
    torch.testing.assert_close(elbo_rows(x, moved, model), elbo_rows(x, q, start))
    back = free.step(x).parameters
    torch.testing.assert_close(back.dictionary, start.dictionary)
    torch.testing.assert_close(back.prior_scale, start.prior_scale)
    torch.testing.assert_close(back.noise_variance, start.noise_variance)


def test_the_standard_bound_becomes_the_sum_of_three_entropies():
    x = sources(n=60)
    steps = list(baselines.by_gradient(x, *started(x), rate=0.05, steps=3000))
    gaps = np.array([step.entropy_sum - step.lower_bound for step in steps])
    assert gaps.min() > -1e-9  # L_H is the maximum over λ and σ²
    assert gaps[0] > 1
    assert gaps[-1] < 1e-2
    assert steps[-1].lower_bound > steps[0].lower_bound + 5


def test_it_ends_at_an_optimum_of_the_posteriors():
    x = sources()
    last = list(baselines.by_gradient(x, *started(x), rate=0.02, steps=1500))[-1]
    best = elbo_rows(x, DiagonalSolver()(x, last.parameters).posterior, last.parameters).mean().item()
    assert last.lower_bound == pytest.approx(best, abs=0.02)


def test_samples_climb_the_same_bound_less_surely():
    x = sources()
    ends = {}
    for k in (1, 30, None):
        bound = elbo_rows if k is None else baselines.sampled(k, torch.Generator().manual_seed(0))
        *_, last = baselines.by_gradient(x, *started(x), bound=bound, rate=0.02, steps=400)
        ends[k] = last.lower_bound
    assert ends[1] < min(ends[30], ends[None])
    assert ends[30] == pytest.approx(ends[None], abs=0.5)


def test_every_step_is_told_as_it_is_made():
    x = sources()
    running = baselines.by_gradient(x, *started(x), steps=1000)
    assert len(list(itertools.islice(running, 3))) == 3
    for step in itertools.islice(running, 2):
        torch.testing.assert_close(step.parameters.dictionary.norm(dim=0), torch.ones(4, dtype=torch.float64))
