"""What strangers wrote is seen on the terminal, and never obeyed by it."""

import io
import os
import sys
import warnings

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from sparsentropy import progress, terminal
from sparsentropy.visible import visible, word
from test_architecture import SOURCES, each_module, imports_external
from test_cli import invoke

STRANGE = {
    "colour": ("a\x1b[31mX", r"a\x1b[31mX"),
    "return": ("a\rX", r"a\rX"),
    "line": ("a\nX", r"a\nX"),
    "one byte": ("a\x9b31mX", r"a\x9b31mX"),
    "direction": ("a\u202eX", r"a\u202eX"),
    "nothing": ("a\u200bX", r"a\u200bX"),
    "no text": ("a\udc9bX", r"a\x9bX"),
    "half a letter": ("a\ud800X", r"a\ud800X"),
    "bell": ("a\x07\x08X", r"a\x07\x08X"),
    "markup": ("[red]a[/red] [/]", "[red]a[/red] [/]"),
}
each = pytest.mark.parametrize(("text", "seen"), STRANGE.values(), ids=STRANGE)


@each
def test_what_a_terminal_obeys_is_written_out_once(text, seen):
    assert visible(text) == seen
    assert visible(seen) == seen
    assert word(text) == seen


@pytest.mark.parametrize("text", ["", "naïve", "漢字 кот", "a\u00a0b\u3000c", "−1 → σ²", "\\x1b"])
def test_all_else_stays(text):
    assert visible(text) == text


def test_breaks_stay_where_they_are_meant():
    assert visible("a\x1b\nb\r", breaks=True) == "a\\x1b\nb\\r"


def test_a_word_is_short():
    assert len(word("a" * 10**6)) < 250


@each
def test_whatever_is_said_is_one_line_in_which_nothing_is_obeyed(text, seen, capsys):
    terminal.say(f"written to {text}")
    terminal.fail(f"{text} is missing")
    said, failed = capsys.readouterr().err.splitlines()
    assert said == f"written to {seen}"
    assert failed == f"error: {seen.replace(chr(92) + 'n', ' ').replace(chr(92) + 'r', ' ')} is missing"


@each
def test_nothing_that_is_printed_another_way_is_obeyed_either(text, seen):
    stream = io.StringIO()
    terminal.console(file=stream, force_terminal=True, stderr=False).print(Text(f"{text}.png", style="bold"))
    # rich drops some of them before they are seen here; its own colours are obeyed
    assert stream.getvalue().startswith("\x1b[1m")
    assert not set("\x07\x08\x9b\r\u202e\u200b\udc9b\ud800") & set(stream.getvalue())
    assert stream.getvalue().count("\x1b") == 2 * len(stream.getvalue().splitlines())


@each
def test_names_of_files_are_visible_beside_a_bar(text, seen):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, highlight=False)
    with progress.share(console) as tell:
        tell(text, 0.5)
    assert seen in stream.getvalue()


@each
def test_a_path_is_given_as_it_is_to_a_program_and_visible_to_people(text, seen, monkeypatch):
    if text == "a\ud800X":
        return  # no path
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.give(text)
    assert stream.buffer.getvalue() == os.fsencode(text) + b"\n"
    people = io.StringIO()
    people.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", people)
    terminal.give(text)
    assert people.getvalue() == f"{seen}\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("stranger") / "table.csv"
    path.write_text('"a\x1b[31mX",b\nfoo,1\nbar,2\n', newline="")
    return path


def test_a_stranger_who_names_a_column_cannot_colour_the_terminal(table):
    result = invoke("fit", table, "--out", table.parent / "run")
    assert result.exit_code == 2
    assert r"a\x1b[31mX" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("name", ["a\x1b[31mX", "a\u202eX", "a\udc9bX", "a\x9bX"], ids=ascii)
def test_a_stranger_who_names_a_file_cannot_either(name, tmp_path):
    np.savez(tmp_path / f"{name}.npz", **{"x\x1b]0;": np.eye(3), "y": np.eye(3)})
    for more in ([], ["--key", "z\x1b"]):
        result = invoke("fit", tmp_path / f"{name}.npz", "--out", tmp_path / "run", *more)
        assert result.exit_code == 2
        assert visible(name) in result.output
        assert visible(result.output, breaks=True) == result.output


def test_an_option_is_not_obeyed(tmp_path):
    for arguments in (["fit", tmp_path, "--out", "x", "--posterior", "\x1b[2J"], ["\x1b[2J"]):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert r"\x1b[2J" in result.output
        assert "\x1b" not in result.output


def test_a_warning_of_any_command_is_a_note_in_one_line(monkeypatch):
    def warn(folder):
        warnings.warn(f"{folder}\nis odd", UserWarning, stacklevel=1)
        return folder

    monkeypatch.setattr("sparsentropy.runs.rewrite_report", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = invoke("report", "x\x1b")
    assert result.stderr == "note: x\\x1b is odd\n"


@each_module
def test_only_the_terminal_writes_to_the_terminal(name):
    """So no message can be forgotten. Numbers may be printed by `score`, and by an estimator that was asked to."""
    if name in ("terminal", "table_commands", "estimator.training", "cli"):
        return
    lines = [line for line in SOURCES[name].splitlines() if not line.lstrip().startswith((">>>", "..."))]
    assert not any(line.lstrip().startswith("print(") for line in lines)
    assert not imports_external(SOURCES[name], name, "rich.console") or name == "progress"
