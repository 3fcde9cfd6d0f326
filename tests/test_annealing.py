"""The detour at the beginning of learning: what is solved on it, what collapses, and what comes back."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsentropy import schedules
from sparsentropy.datasets import make_bars
from sparsentropy.inference import DiagonalSolver, FullSolver, LowRankSolver
from sparsentropy.learning import annealing, em, learn, random_starts
from sparsentropy.learning.shelf import Cache
from sparsentropy.learning.task import Task
from sparsentropy.metrics import dictionary_match
from sparsentropy.model import Parameters
from sparsentropy.objectives import Weights, entropy_elbo
from sparsentropy.rows import of

SOLVERS = {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(2), "full": FullSolver()}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def started(solver, n=300, h=8):
    x = sources(n, [3.0] * 8)
    task = Task(of(x), solver, 100, 1.0, Weights())
    return task, task.expect(random_starts(x, h, torch.Generator().manual_seed(0))[0], None, 50)


def loud_and_soft(n=2000):
    """Six loud sources and two soft ones, which a strong prior switches off."""
    return sources(n, [3.0] * 6 + [0.3] * 2)


def sources(n, scales):
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(16, len(scales), dtype=torch.float64, generator=draw)
    scale = torch.tensor(scales, dtype=torch.float64)
    return Parameters(W / W.norm(dim=0), scale, torch.tensor(0.01, dtype=torch.float64)).sample(n, 1)[0]


def learned(x, h, solver, schedule, max_iter=60):
    generator = torch.Generator().manual_seed(0)
    starts = random_starts(x, h, generator)
    options = {"max_iter": max_iter, "tol": 1e-3, "batch_size": 1000, "generator": generator}
    return list(learn(x, starts, solver, schedule=schedule, **options))


@each_solver
def test_posteriors_on_the_way_are_those_of_the_annealed_prior_and_noise(solver):
    task, first = started(solver)
    weights = Weights(prior=1.5, likelihood=0.5)
    state, _ = next(annealing.anneal(task, first, schedules.constant(1.5, 0.5, steps=1), 10))
    effective = weights.apply(em.update(first.statistics, first.parameters, weights)[0])
    expected = torch.cat([solver(x, effective).posterior.mean for x in task.rows.split(100)])
    found = torch.cat([q.mean for q in state.posteriors])
    torch.testing.assert_close(found, expected, atol=2e-2 * float(effective.noise_variance.sqrt()), rtol=0)
    plain = torch.cat([solver(x, first.parameters).posterior.mean for x in task.rows.split(100)])
    assert (plain - expected).abs().max() > 100 * (found - expected).abs().max()


def test_the_bound_that_is_told_on_the_way_is_the_true_one():
    task, first = started(DiagonalSolver())
    state, _ = next(annealing.anneal(task, first, schedules.prior([3.0]), 10))
    assert state.bound == pytest.approx(float(entropy_elbo(state.statistics, state.parameters)), abs=1e-12)
    assert state.bound < first.bound


@each_solver
def test_the_way_ends_at_weights_of_one(solver):
    task, first = started(solver)
    *_, (last, _) = annealing.anneal(task, first, schedules.likelihood(0.5, steps=2), 10)
    assert last.bound == pytest.approx(float(entropy_elbo(last.statistics, last.parameters)), abs=1e-12)
    again = task.expect(last.parameters, last.posteriors.__getitem__, 50)
    assert again.bound > last.bound


@pytest.mark.parametrize("name", ["prior", "likelihood", "beta"])
def test_sweeps_say_that_they_are_annealed_and_after_them_the_bound_only_rises(name):
    x = torch.from_numpy(make_bars(500, size=4, seed=1).data)
    schedule = getattr(schedules, name)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that atoms collapsed, for some of these
        sweeps = learned(x, 8, FullSolver(), schedule)
    annealed = [sweep.annealed for sweep in sweeps]
    assert annealed[0] is False
    assert 3 <= sum(annealed) <= len(schedule) + 1
    assert annealed == [False] + [True] * sum(annealed) + [False] * (len(sweeps) - 1 - sum(annealed))
    bounds = np.array([sweep.lower_bound for sweep in sweeps])
    assert np.diff(bounds[: 1 + sum(annealed)]).min() < 0
    assert np.diff(bounds[sum(annealed) :]).min() >= 0
    plain = learned(x, 8, FullSolver(), None)[-1]
    assert sweeps[-1].converged
    assert sweeps[-1].lower_bound == pytest.approx(plain.lower_bound, abs=0.05)


@pytest.mark.parametrize("solver", [DiagonalSolver(), FullSolver()])
def test_a_sweep_after_which_most_atoms_are_gone_is_taken_back(solver):
    task, first = started(solver)
    with pytest.warns(UserWarning, match=r"annealed sweeps were taken back.*\(1e\+04, 1\).*Milder weights"):
        states = [state for state, _ in annealing.anneal(task, first, schedules.constant(prior=1e4, steps=4), 10)]
    assert len(states) <= 4
    last = states[-1]
    assert last.statistics.usage.min() > 0.05
    assert last.parameters.prior_scale.min() > 0.1 * last.parameters.noise_variance.sqrt()


def test_collapse_is_not_the_end():
    bars = make_bars(1000, seed=0)
    x = torch.from_numpy(bars.data)
    with pytest.warns(UserWarning, match="taken back"):
        last = learned(x, 10, FullSolver(), schedules.constant(prior=1000.0, steps=3))[-1]
    assert dictionary_match(last.parameters.dictionary.T.numpy(), bars.dictionary.T).cosines.min() > 0.95


def test_atoms_that_were_lost_come_back_as_they_were():
    x = loud_and_soft()
    task = Task(of(x), DiagonalSolver(), 1000, 1.0, Weights())
    first = task.expect(random_starts(x, 8, torch.Generator().manual_seed(0))[0], None, 50)
    with pytest.warns(UserWarning, match="2 of 8 atoms collapsed during annealing and were started again"):
        states = [state for state, _ in annealing.anneal(task, first, schedules.constant(prior=6.0, steps=4), 10)]
    lost = states[-2].parameters.prior_scale < 0.1 * states[-2].parameters.noise_variance.sqrt()
    assert int(lost.sum()) == 2
    assert torch.equal(states[-1].parameters.dictionary[:, lost], first.parameters.dictionary[:, lost])
    assert (states[-1].parameters.prior_scale[lost] > 0.1 * states[-1].parameters.noise_variance.sqrt()).all()
    assert not torch.equal(states[-1].parameters.dictionary[:, ~lost], first.parameters.dictionary[:, ~lost])


def test_soft_sources_are_found_after_annealing_that_had_lost_them():
    x = loud_and_soft()
    plain = learned(x, 8, DiagonalSolver(), None)[-1]
    with pytest.warns(UserWarning, match="2 of 8 atoms collapsed"):
        annealed = learned(x, 8, DiagonalSolver(), schedules.constant(prior=6.0, steps=4))[-1]
    assert annealed.lower_bound == pytest.approx(plain.lower_bound, abs=0.01)


def test_scales_never_fall_below_a_floor_tied_to_what_they_were():
    task, first = started(DiagonalSolver(), h=30)
    with pytest.warns(UserWarning, match="collapsed"):
        states = [state for state, _ in annealing.anneal(task, first, schedules.constant(prior=2.0, steps=30), 30)]
    floor = annealing.FLOOR * first.parameters.prior_scale
    # λ* of a code without data is λ/γ again
    assert (states[-2].parameters.prior_scale > 0.4 * floor).all()
    assert (states[-2].parameters.prior_scale < 2 * floor).any()


def test_a_schedule_that_never_ends_is_cut_off():
    x = torch.from_numpy(make_bars(300, size=4, seed=1).data)
    sweeps = learned(x, 8, DiagonalSolver(), lambda _: (1.1, 1.0), max_iter=12)
    assert sum(sweep.annealed for sweep in sweeps) == 7
    assert len(sweeps) <= 12
    assert not sweeps[-1].annealed
    assert not any(sweep.annealed for sweep in learned(x, 8, DiagonalSolver(), lambda _: (1.1, 1.0), max_iter=1))


def test_a_schedule_that_begins_with_one_changes_nothing():
    x = torch.from_numpy(make_bars(300, size=4, seed=1).data)
    plain, annealed = (learned(x, 8, DiagonalSolver(), schedule, 20) for schedule in (None, lambda _: (1.0, 1.0)))
    assert not any(sweep.annealed for sweep in annealed)
    assert [sweep.lower_bound for sweep in annealed] == [sweep.lower_bound for sweep in plain]


@pytest.mark.parametrize("pair", [(0.0, 1.0), (math.nan, 1.0), (1.0,), 3.0, None, ("a", 1.0), (1.0, 1.0, 1.0)])
def test_what_a_schedule_may_not_return(pair):
    with pytest.raises(ValueError, match=r"two positive, finite weights.*at step 1 it returned"):
        list(annealing.weights_of(lambda step: pair if step else (2.0, 1.0), 5))


def test_low_memory_anneals_to_the_same_place():
    task, first = started(DiagonalSolver())
    lean = replace(task, cache=Cache(lean=True))
    *_, (kept, _) = annealing.anneal(task, first, schedules.prior([3.0, 2.0]), 10)
    *_, (means, _) = annealing.anneal(lean, lean.expect(first.parameters, None, 50), schedules.prior([3.0, 2.0]), 10)
    assert means.bound == pytest.approx(kept.bound, abs=1e-3)
