"""What the terminal shows during learning."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sparsentropy import progress

N = 1000


def sweeps(total, *, start=1, parts=0, seconds=2.0):
    """Some sweeps over a part of the data, then `total` over all."""
    for sweep in range(1, parts + total + 1):
        rows = 100 if sweep <= parts else N
        yield SimpleNamespace(
            start=start,
            rows=rows,
            max_sweeps=total,
            lower_bound=-10 / sweep,
            noise_variance=0.04,
            seconds=seconds * sweep,
        )


def log(*series):
    text = io.StringIO()
    with progress.shown(Console(file=text, width=40), N) as callback:
        for sweep in (sweep for one in series for sweep in one):
            assert not callback(sweep)
    return text.getvalue().splitlines()


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (5, 5), (40, 11), (1000, 11)])
def test_a_log_stays_short(total, lines):
    written = log(sweeps(total))
    assert len(written) == lines
    assert written[0].startswith(f"sweep 1/{total}  bound -10.00  noise 0.2")
    assert written[-1].startswith(f"sweep {total}/{total}  bound {-10 / total:.2f}  noise 0.2")


def test_parts_of_the_data_are_named_and_not_counted():
    written = log(sweeps(10, parts=7))
    assert written[0] == "first 100 of 1,000  bound -10.00  noise 0.2"
    assert written[1] == "sweep 1/10  bound -1.25  noise 0.2"
    assert len(written) == 11


def test_the_time_left_is_judged_by_sweeps_over_all_data():
    assert [line.split("noise 0.2")[1] for line in log(sweeps(62, parts=50))[:3]] == ["", "", "  at most 1:52 left"]


def test_a_second_start_counts_anew():
    written = log(sweeps(10), sweeps(10, start=2))
    assert written[10].startswith("start 2  sweep 1/10  ")


def test_the_last_sweep_of_each_start_is_written():
    early = [sweep for start in (1, 2) for sweep in list(sweeps(200, start=start))[:29]]
    assert [line.split("  bound")[0] for line in log(early)] == [
        "sweep 1/200",
        "sweep 20/200",
        "sweep 29/200",
        "start 2  sweep 20/200",
        "start 2  sweep 29/200",
    ]


def test_nothing_is_written_where_nothing_was_learned():
    assert log() == []


def test_a_terminal_shows_one_line_that_is_gone_afterwards():
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None)
    with progress.shown(console, N) as callback:
        for sweep in sweeps(3, parts=2):
            callback(sweep)
    shown = text.getvalue()
    assert "sweep 3/3  bound -2.00  noise 0.2  at most 0:00 left" in shown
    assert shown.endswith("\x1b[2K")


def test_shares_are_shown_on_a_terminal_alone():
    for terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, width=80, force_terminal=terminal, color_system=None)
        with progress.share(console) as tell:
            tell("one.png", 0.5)
            tell("two.png", 0.1)
        assert ("two.png" in text.getvalue()) == terminal
