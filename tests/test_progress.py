"""What the terminal shows during learning."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sparsentropy import progress


def sweeps(total):
    for sweep in range(1, total + 1):
        yield SimpleNamespace(
            sweep=sweep, max_sweeps=total, lower_bound=-10 / sweep, noise_variance=0.04, seconds=2.0 * sweep
        )


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (5, 5), (40, 11), (1000, 11)])
def test_a_log_stays_short(total, lines):
    text = io.StringIO()
    with progress.shown(Console(file=text, width=40)) as callback:
        for sweep in sweeps(total):
            assert not callback(sweep)
    written = text.getvalue().splitlines()
    assert len(written) == lines
    assert written[-1] == f"sweep {total}/{total}  bound {-10 / total:.2f}  noise 0.2  0:00 left"


def test_a_terminal_shows_one_line_that_is_gone_afterwards():
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    with progress.shown(console) as callback:
        for sweep in sweeps(3):
            callback(sweep)
    shown = text.getvalue()
    assert "sweep 3/3  bound -3.33  noise 0.2  0:00 left" in shown
    assert shown.endswith("\x1b[2K")


def test_the_time_left_counts_the_sweeps_that_are_left():
    first = next(sweeps(61))
    assert progress._state(first).endswith("2:00 left")
