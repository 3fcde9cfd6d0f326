"""The usual way to learn: gradients of the standard bound, and what the theorem says about where they end."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import baselines, random_starts
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo
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
    step = free.step(x, 0, 0.0, closed_forms=False)
    back = step.parameters
    torch.testing.assert_close(back.dictionary, start.dictionary)
    torch.testing.assert_close(back.prior_scale, start.prior_scale)
    torch.testing.assert_close(back.noise_variance, start.noise_variance)
    torch.testing.assert_close(step.posterior.mean, q.mean)
    torch.testing.assert_close(step.posterior.variance, q.variance)


def test_the_standard_bound_becomes_the_sum_of_three_entropies():
    x = sources(n=60)
    steps = list(baselines.by_gradient(x, *started(x), rate=0.1, steps=1500))
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


# --- The sum of three entropies, climbed in the same way


def leaves(x):
    """Means, log standard deviations and a dictionary of any length, which have a gradient."""
    start, _ = started(x)
    draw = torch.Generator().manual_seed(1)
    mean, log_std = (torch.randn(len(x), 4, dtype=x.dtype, generator=draw) for _ in range(2))
    return [value.clone().requires_grad_() for value in (mean, log_std, 2 * start.dictionary)], start


def test_the_gradient_at_closed_forms_that_are_held_is_the_gradient_through_them():
    x = sources()
    free, start = leaves(x)
    mean, log_std, dictionary = free
    q, model = Diagonal(mean, (2 * log_std).exp()), replace(start, dictionary=dictionary)
    held, through = baselines.entropy_rows(x, q, model).mean(), entropy_elbo(Statistics.of(x, q, model), model)
    torch.testing.assert_close(held, through)
    pairs = zip(torch.autograd.grad(held, free, retain_graph=True), torch.autograd.grad(through, free), strict=True)
    for one, other in pairs:
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other)


def test_it_does_not_ask_for_scale_and_noise():
    x = sources()
    start, q = started(x)
    other = replace(start, noise_variance=9 * start.noise_variance)
    ends = [list(baselines.by_gradient_on_entropies(x, s, q, steps=20))[-1].lower_bound for s in (start, other)]
    assert ends[0] == ends[1]


def test_a_step_on_entropies_has_the_parameters_at_which_the_standard_bound_is_that_sum():
    x = sources()
    for step in baselines.by_gradient_on_entropies(x, *started(x), rate=0.03, steps=60, every=20):
        assert step.lower_bound == step.entropy_sum
        there = elbo_rows(x, step.posterior, step.parameters).mean().item()
        assert there == pytest.approx(step.lower_bound, abs=1e-9)


def test_both_objectives_end_at_the_same_bound():
    x = sources(n=60)
    settings = {"rate": 0.05, "steps": 1500, "falling": True, "every": 750}
    standard = [step.lower_bound for step in baselines.by_gradient(x, *started(x), **settings)]
    entropies = [step.lower_bound for step in baselines.by_gradient_on_entropies(x, *started(x), **settings)]
    assert entropies[-1] == pytest.approx(entropies[0], abs=0.01)  # it has arrived, and the other one is on its way
    assert standard[0] < standard[-1]
    assert standard[-1] == pytest.approx(entropies[-1], abs=0.2)


# --- What is told of steps


def test_steps_that_are_not_told_of_are_made_all_the_same():
    x = sources()
    each = list(baselines.by_gradient(x, *started(x), steps=25))
    some = list(baselines.by_gradient(x, *started(x), steps=25, every=10))
    assert [step.number for step in some] == [10, 20, 25]
    assert [step.lower_bound for step in some] == [each[step.number - 1].lower_bound for step in some]
    seconds = [step.seconds for step in each]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_a_step_is_a_value_that_later_steps_do_not_change():
    x = sources()
    running = baselines.by_gradient(x, *started(x), steps=2, rate=0.1)
    first = next(running)
    next(running)
    there = elbo_rows(x, first.posterior, first.parameters).mean().item()
    assert there == pytest.approx(first.lower_bound, abs=1e-9)
    assert torch.is_grad_enabled()


def test_noisy_gradients_come_to_rest_when_the_rate_falls():
    x = sources()
    ends = {}
    for falling in (False, True):
        bound = baselines.sampled(1, torch.Generator().manual_seed(0))
        *_, last = baselines.by_gradient(x, *started(x), bound=bound, rate=0.3, steps=400, falling=falling, every=400)
        ends[falling] = last.lower_bound
    assert ends[True] > ends[False] + 1
