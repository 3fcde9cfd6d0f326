"""When a bound is reached, and what may be said of one that is not."""

import numpy as np
import pytest

from sparsentropy.experiments.arrival import Arrivals, Curve, Factor, Run, chosen, envelope


def straight(last, speed=1.0, steps=11):
    """From 0 at the first step to `last`, so many seconds a step."""
    made = np.arange(1.0, steps + 1)
    return Curve(made, speed * made, np.linspace(0, last, steps))


def test_a_bound_is_reached_between_two_steps_that_are_known():
    assert straight(10).reaching(2.5) == pytest.approx((3.5, 3.5))
    assert straight(10, speed=2).reaching(2.5) == pytest.approx((3.5, 7))
    assert straight(10).reaching(10) == pytest.approx((11, 11))


def test_the_first_time_counts_and_what_is_above_at_once_took_as_long_as_is_known():
    wavy = Curve(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4]), np.array([0.0, 2, 0, 3]))
    assert wavy.reaching(1) == pytest.approx((1.5, 1.5))
    assert straight(10).reaching(-5) == (1, 1)


@pytest.mark.parametrize("bounds", [[0.0, 1.0, 2.0], [float("nan")] * 3, [0.0, float("nan"), float("nan")]])
def test_what_is_not_reached_takes_forever(bounds):
    assert Curve(np.arange(3.0), np.arange(3.0), np.array(bounds)).reaching(5) == (np.inf, np.inf)


def test_a_bound_that_comes_after_one_that_was_no_number_counts_where_it_is_known():
    curve = Curve(np.array([1.0, 2]), np.array([1.0, 2]), np.array([-np.inf, 3.0]))
    assert curve.reaching(0) == (2, 2)


def test_an_envelope_is_that_of_the_run_which_is_ahead_and_never_falls():
    wavy = Curve(np.array([1.0, 2, 3]), np.array([2.0, 4, 6]), np.array([1.0, 5, 2]))
    lost = Curve(np.array([2.0, 3]), np.array([1.0, 5]), np.array([3.0, np.nan]))
    where, bounds = envelope([wavy, lost], "seconds")
    assert where.tolist() == [1, 2, 4, 5, 6]
    assert bounds.tolist() == [3, 3, 5, 5, 5]
    assert envelope([wavy, lost], "steps")[0].tolist() == [1, 2, 2, 3, 3]


def test_every_seed_has_its_own_target_and_its_quickest_run():
    short, long = straight(5), straight(10, steps=101)
    found = Arrivals.of([[short, long], [short, long]], [4.0, 8.0])
    np.testing.assert_allclose(found.steps, [9, 81])
    np.testing.assert_allclose(found.all_steps, [101, 101])
    assert found.reached == 2


def test_factors_are_lower_limits_where_a_run_has_not_arrived():
    fast, slow, lost = straight(10), straight(10, speed=3), straight(1, speed=2)
    first = Arrivals.of([[fast]] * 3, [4.0] * 3)
    some = Arrivals.of([[slow], [slow], [lost]], [4.0] * 3)
    assert some.reached == 2
    assert str(some.later(first)) == "3.0"
    assert str(some.later(first, steps=True)) == "1.0"
    most = Arrivals.of([[slow], [lost], [lost]], [4.0] * 3).later(first)
    assert not most.known
    # 22 seconds in vain against 5; the one that has arrived took 15
    np.testing.assert_allclose(most.limits, [3, 4.4, 4.4])
    assert str(most) == "> 4.4"


def test_there_is_no_factor_to_what_has_not_arrived_itself():
    lost, fast = Arrivals.of([[straight(1)]], [4.0]), Arrivals.of([[straight(10)]], [4.0])
    assert str(fast.later(lost)) == "–"
    assert np.isnan(fast.later(lost).median)


@pytest.mark.parametrize(("value", "text"), [(0.0512, "0.05"), (1.0, "1.0"), (9.94, "9.9"), (43.2, "43")])
def test_factors_have_two_digits(value, text):
    assert str(Factor(np.array([value]), np.array([value]))) == text


def test_what_is_soonest_and_what_ends_highest_may_be_two_runs():
    short, low, high = Run(11, 0.3), Run(101, 0.1), Run(101, 0.3)
    tried = {
        "a": {short: straight(10), low: straight(15, steps=101), high: straight(20, steps=101)},
        "b": {short: straight(3), low: straight(8, steps=101), high: straight(float("nan"), steps=101)},
        "c": {short: straight(2), high: straight(4, steps=101)},
    }
    # The bound to be reached is 7: "a" does it within the short run, "b" sets it, and "c" never does
    assert chosen(tried, "b", 1.0) == {"a": [short, high], "b": [low], "c": [high]}
