"""What is said of objectives follows from their curves, here of a known shape."""

import numpy as np
import pytest

from sparsentropy.experiments.arrival import Run
from sparsentropy.experiments.race import Race


def part(last, *, speed=1.0, steps=100, held_out=None):
    made = np.arange(1, steps + 1)
    bounds = np.linspace(0, last, steps)
    return {
        "steps": made.tolist(),
        "seconds": (speed * made).tolist(),
        "bounds": bounds.tolist(),
        "held_out": last - 1 if held_out is None else held_out,
    }


@pytest.fixture
def race():
    """Two seeds. Few samples take five times as long per step, rise half as fast, and end at half the height."""
    few = [part(4, speed=5, steps=50), part(10, speed=5)]
    return Race(
        "lines",
        ("sum of entropies", "analytic", "1 sample", "10 samples"),
        "10 samples",
        {
            "sum of entropies": [Run(50, 0.3), Run(100, 0.1)],
            **{key: [Run(100, 0.1)] for key in ("analytic", "1 sample")},
            "10 samples": [Run(50, 0.3), Run(100, 0.1)],
        },
        {
            "sum of entropies": [[part(10, steps=50), part(20)]] * 2,
            "analytic": [[part(20, speed=2)], [part(15)]],
            "1 sample": [[part(2)]] * 2,
            "10 samples": [few] * 2,
        },
        library=[part(25, steps=10)] * 2,
        others={"one": [part(3), part(5)], "two": [part(7), part(8)]},
        likelihoods=[1.0, 2.0],
        noises={"after": [0, 9], "sampled": [[8.0, 2.0], [4.0, 1.0]], "analytic": [0.0, 0.0], "entropies": [0.0, 0.0]},
        counts=[1, 4],
        margin=0.5,
    )


def test_the_targets_are_half_way_of_few_samples_their_end_and_the_highest_end(race):
    assert race.targets["early"] == pytest.approx([49 / 99 * 10] * 2)
    assert race.targets["common"] == [9.5] * 2
    assert race.targets["best"] == [19.5] * 2


def test_times_and_steps_are_those_of_the_quickest_run(race):
    times, metrics = race.times(), race.metrics()
    np.testing.assert_allclose(metrics["lines.sum_of_entropies.steps_to_common"], 1 + 9.5 / 10 * 49)
    np.testing.assert_allclose(metrics["lines.10_samples.steps_to_common"], 1 + 9.5 / 10 * 99)
    np.testing.assert_allclose(times["lines.10_samples.seconds_to_common"], 5 * (1 + 9.5 / 10 * 99))
    assert metrics["lines.10_samples.reached_best"] == 0
    assert metrics["lines.10_samples.steps_to_best"] == []
    assert metrics["lines.analytic.reached_best"] == 1
    # 500 seconds in vain
    np.testing.assert_allclose(times["lines.10_samples.times_as_long_to_best"], 500 / (1 + 19.5 / 20 * 99))


def test_no_metric_was_timed(race):
    assert not [key for key in race.metrics() if "second" in key or "long" in key]


def test_sentences_say_what_the_curves_say(race):
    common, highest, best, held_out, noise = race.sentences()
    # 475.25 seconds against 47.55 of the shorter run, 95.05 steps against 47.55
    assert "after 100 steps, less 0.5 nats" in common
    assert "takes 10 times as long and 2.0 times the steps (medians; time 10.0 to 10.0)" in common
    # Without the shorter run 1 + 9.5 / 20 · 99 = 48.025 steps
    assert "from 10 samples 9.9 times as long and 2.0 times the steps (medians; time 9.9 to 9.9) to the end" in highest
    assert "from 10 samples the standard bound takes > 5.1 times as long" in best
    assert "10 samples missed it on 2 of 2 seeds" in best
    assert "analytic missed it on 1 of 2 seeds" in best
    assert "sum of entropies 19.00 ± 0.00" in held_out
    assert "(two) 6.50 nats" in held_out
    assert "is 8, 2 after 0 steps and 4, 1 after 9" in noise


def test_tables_have_a_row_for_every_method(race):
    ends, *arrivals = race.tables()
    assert [row[0] for row in ends.rows] == [
        *("sum of entropies", "analytic", "1 sample", "10 samples", "library", "one", "two"),
        "Gaussian codes, log likelihood",
    ]
    assert len(arrivals) == 3
    for table in (ends, *arrivals):
        assert all(len(row) == len(table.columns) for row in table.rows)
    rows = {row[0]: row for row in arrivals[-1].rows}
    assert rows["10 samples"][1] == "0.3 in 50, 0.1 in 100"
    assert rows["10 samples"][3:] == ("–", "–", "> 1.0", "> 5.1")
    assert rows["analytic"][3] == "98 (1 of 2)"


def test_pictures_show_how_far_below_the_best_bound_of_all(race):
    below = race._below(dict.fromkeys(("10 samples", "library")), "seconds")
    x, y = below["10 samples"]
    assert x[-1] == 500
    assert y[-1] == pytest.approx(25 - 10)
    assert below["library"][1][-1] == 0.02  # on a logarithmic axis there is no zero
