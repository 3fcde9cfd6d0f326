"""The experiments of the paper at toy size, against what they gave before."""

import json
import os
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsentropy import cli, experiments
from sparsentropy.experiments import Log, finding

EXPECTED = Path(__file__).parents[1] / "experiments" / "expected"
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # machines differ in their last digits, and learning makes more of them


@pytest.fixture(scope="module", params=experiments.NAMES)
def reproduced(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments") / request.param
    lines = []
    page = experiments.reproduce(request.param, folder, quick=True, tell=lines.append)
    return request.param, folder, page, lines


def test_the_numbers_are_what_they_were(reproduced):
    """With `SPARSENTROPY_EXPECT=1` they are written anew."""
    name, folder, _, _ = reproduced
    found = json.loads((folder / "metrics.json").read_text())
    file = EXPECTED / f"{name}.json"
    if os.environ.get("SPARSENTROPY_EXPECT"):
        file.write_text(json.dumps(found, indent=2) + "\n")
    expected = json.loads(file.read_text())
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, **TOLERANCE, err_msg=key)


def test_a_page_shows_every_picture(reproduced):
    name, folder, page, lines = reproduced
    text = page.read_text()
    pictures = sorted(file.name for file in folder.glob("*.svg"))
    assert pictures
    assert all(f"]({picture})" in text for picture in pictures)
    assert f"`sparsentropy reproduce {name} --quick`" in text
    assert lines
    assert all((folder / picture).read_text().startswith("<svg") for picture in pictures)


def test_the_standard_bound_never_exceeds_the_sum_of_entropies_and_comes_near(reproduced):
    name, folder, _, _ = reproduced
    if name != "theorem":
        pytest.skip("another experiment")
    found = json.loads((folder / "metrics.json").read_text())
    for data in ("bars", "patches"):
        assert found[f"{data}.gap_lowest"] > 0
        assert max(found[f"{data}.gap_last"]) < 0.05


def test_analytic_gradients_have_no_variance_and_sampled_ones_one_over_their_number(reproduced):
    name, folder, _, _ = reproduced
    if name != "objectives":
        pytest.skip("another experiment")
    found = json.loads((folder / "metrics.json").read_text())
    numbers = experiments.settings(name, quick=True)
    for data in ("bars", "patches"):
        first, last = numbers[data]["noise_samples"][0], numbers[data]["noise_samples"][-1]
        for after in (0, *numbers[data]["noise_after"]):
            noise = f"{data}.noise_after_{after}"
            assert found[f"{noise}.analytic"] < 1e-20
            assert found[f"{noise}.entropies"] < 1e-20
            sampled = found[f"{noise}.sampled"]
            assert sampled[0] / sampled[-1] == pytest.approx(last / first, rel=0.5)


def test_no_posterior_of_a_family_is_better_than_the_solved_one_and_iterations_bring_it_nearer(reproduced):
    name, folder, _, _ = reproduced
    if name != "amortization":
        pytest.skip("another experiment")
    found = json.loads((folder / "metrics.json").read_text())
    gaps = {key: value for key, value in found.items() if ".diagonal." in key and key.endswith(".gap")}
    assert len(gaps) == 10
    for key, value in gaps.items():
        assert min(value) > -1e-8, key
        assert value[-1] < value[0], key


def test_closed_forms_are_stationary_exact_in_float32_and_every_sweep_of_em_raises_the_bound(reproduced):
    name, folder, _, _ = reproduced
    if name != "scaling":
        pytest.skip("another experiment")
    found = json.loads((folder / "metrics.json").read_text())
    for size in ("8x16", "32x64"):
        assert (np.diff(found[f"{size}.bounds"]) > 0).all()
        assert max(found[f"{size}.prior_slope"], found[f"{size}.noise_slope"]) < 1e-12
        assert max(found[f"{size}.{what}_error"] for what in ("prior_scale", "noise", "bound")) < 1e-6
    assert json.loads((folder / "times.json").read_text())["32x64.mebibytes"] >= 0


@pytest.mark.parametrize("name", experiments.NAMES)
def test_the_small_version_has_the_same_settings(name):
    text = files("sparsentropy.experiments").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    numbers = tomllib.loads(text)

    def names(table):
        return {key: names(value) if isinstance(value, dict) else None for key, value in table.items()}

    assert names(numbers["quick"]) == names(numbers["full"])


def test_an_unknown_experiment_is_refused(tmp_path):
    result = CliRunner().invoke(cli.app, ["reproduce", "banana", "-o", str(tmp_path / "new")])
    assert result.exit_code != 0
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"no experiment 'banana': choose from .*theorem"):
        experiments.settings("banana", quick=True)


def test_nothing_is_half_written(tmp_path):
    def broken(ax):
        raise RuntimeError("no picture")

    whole = finding.Picture("first", "A picture.", lambda ax: ax.plot([1, 2]))
    bad = finding.Finding("Title", "Claim.", (), {}, (whole, finding.Picture("second", "None.", broken)))
    with pytest.raises(RuntimeError, match="no picture"):
        finding.write(bad, tmp_path / "folder", command="nothing")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["first.svg"]


def test_a_stopped_experiment_goes_on_where_it_was(tmp_path):
    def stopped():
        raise KeyboardInterrupt

    first = Log([].append, tmp_path, {"seeds": [0]})
    done = first.part("one", lambda: {"pair": (1, 2.5)})
    with pytest.raises(KeyboardInterrupt):
        first.part("two", stopped)
    lines = []
    second = Log(lines.append, tmp_path, {"seeds": [0]})
    assert second.part("one", stopped) == done == {"pair": [1, 2.5]}
    assert second.part("two", lambda: {"x": 2}, "x is {x}") == {"x": 2}
    assert lines[0].startswith("1 parts are done already")
    assert lines[1:] == ["two: x is 2"]
    second.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"settings": {"seeds": [1]}, "parts": {"one": {"x": 1}}}'])
def test_a_record_of_other_settings_or_a_broken_one_is_not_used(tmp_path, text):
    (tmp_path / "unfinished.json").write_text(text)
    lines = []
    assert Log(lines.append, tmp_path, {"seeds": [0]}).part("one", lambda: {"x": 2}) == {"x": 2}
    assert "beginning anew" in lines[0]


def test_a_page_shows_tables_and_keeps_times_apart(tmp_path):
    table = finding.Table("Numbers.", ("a", "b"), (("1", "2"), ("3", "4")))
    found = finding.Finding("Title", "Claim.", (), {"x": 1}, (), tables=(table,), times={"seconds": 2.0})
    text = finding.write(found, tmp_path, command="nothing").read_text()
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\n*Numbers.*" in text
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"x": 1}
    assert json.loads((tmp_path / "times.json").read_text()) == {"seconds": 2.0}
