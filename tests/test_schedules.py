"""Schedules as values: what they are at every step, and what they refuse."""

import itertools
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsentropy import schedules
from sparsentropy.schedules import Schedule

WEIGHT = st.floats(1e-3, 1e3)
STEPS = st.integers(1, 50)


@given(WEIGHT, WEIGHT, STEPS)
def test_linear_has_equal_differences_and_ends_at_one(prior, likelihood, steps):
    schedule = schedules.linear(prior, likelihood, steps=steps)
    path = [schedule(step) for step in range(steps + 1)]
    assert path[0] == pytest.approx((prior, likelihood))
    assert path[-1] == (1.0, 1.0)
    for before, after in itertools.pairwise(path):
        assert after[0] - before[0] == pytest.approx((1 - prior) / steps, abs=1e-9 * max(prior, 1))
        assert after[1] - before[1] == pytest.approx((1 - likelihood) / steps, abs=1e-9 * max(likelihood, 1))


@given(WEIGHT, WEIGHT, STEPS)
def test_geometric_has_equal_ratios_and_ends_at_one(prior, likelihood, steps):
    schedule = schedules.geometric(prior, likelihood, steps=steps)
    path = [schedule(step) for step in range(steps + 1)]
    assert path[0] == pytest.approx((prior, likelihood))
    assert path[-1] == (1.0, 1.0)
    for before, after in itertools.pairwise(path):
        assert math.log(after[0] / before[0]) == pytest.approx(-math.log(prior) / steps, abs=1e-9)
        assert math.log(after[1] / before[1]) == pytest.approx(-math.log(likelihood) / steps, abs=1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.constant(2.0, 0.5, steps=3),
        schedules.piecewise([(4, 1), (2, 0.5)], each=2),
        schedules.prior(),
        schedules.prior([3, 2], each=4),
        schedules.likelihood(),
        schedules.beta(),
    ],
)
def test_after_the_last_step_weights_are_one(schedule):
    assert len(schedule.weights) == len(schedule) > 0
    assert all(schedule(step) == schedule.weights[step] != (1.0, 1.0) for step in range(len(schedule)))
    assert [schedule(len(schedule) + more) for more in (0, 1, 1000)] == [(1.0, 1.0)] * 3
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_the_schedules_with_names_anneal_what_they_are_named_after():
    assert [gamma for gamma, _ in schedules.prior().weights] == [10, 8, 6, 4, 2]
    assert {delta for _, delta in schedules.prior().weights} == {1.0}
    for schedule in (schedules.likelihood(), schedules.beta()):
        deltas = [delta for _, delta in schedule.weights]
        assert deltas == sorted(deltas)
        assert deltas[0] == pytest.approx(0.1)
        assert {gamma for gamma, _ in schedule.weights} == {1.0}
    assert [1 / delta for _, delta in schedules.beta([5, 3]).weights] == pytest.approx([5, 3])


@pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf), (1.0,), (1.0, 1.0, 1.0)])
def test_weights_must_be_positive_and_finite(pair):
    with pytest.raises(ValueError, match="two positive, finite weights"):
        Schedule((pair,))


@pytest.mark.parametrize("make", [schedules.constant, schedules.linear, schedules.geometric])
def test_a_schedule_has_a_step(make):
    with pytest.raises(ValueError, match="at least one step; got 0"):
        make(2.0, steps=0)
    with pytest.raises(ValueError, match="at least one step; got 0"):
        schedules.piecewise([(2.0, 1.0)], each=0)
