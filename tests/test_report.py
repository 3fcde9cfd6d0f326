"""The page and the numbers of a run, and the value they are made from."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from sparsentropy import SparseCoding, datasets, report, results
from sparsentropy.results import Result

VOID = {"meta", "br", "img", "hr", "link", "input"}


def make_result(h=12, patch_shape=(4, 4), d=16, **changes):
    rng = np.random.default_rng(0)
    components = rng.normal(size=(h, d))
    numbers = {
        "lower_bound": -3.25,
        "held_out_bound": -3.5,
        "held_out_standard_error": 0.05,
        "noise_std": 0.0821,
        "atoms_in_use": h,
        "n_samples": 40_000,
        "n_iter": 5,
        "seconds": 83.0,
        "converged": True,
        "interrupted": False,
        "gini": 0.81,
    }
    settings = {
        "n_components": h,
        "posterior": "diagonal",
        "tol": 1e-4,
        "remove_mean": False,
        "batch_size": None,
    }
    rows = rng.normal(size=(7, d))
    result = Result(
        title="Natural image patches",
        components=components / np.linalg.norm(components, axis=1, keepdims=True),
        prior_scale=rng.uniform(0.1, 1, size=h),
        lower_bounds=np.array([-9.0, -5.0, -4.0, -3.5, -3.25]),
        noise_std_per_sweep=np.array([0.3, 0.2, 0.1, 0.09, 0.0821]),
        originals=rows,
        reconstructions=0.9 * rows,
        codes=rng.laplace(size=(100, h)),
        metrics=numbers,
        settings=settings,
        patch_shape=patch_shape,
    )
    return replace(result, **changes)


class Checker(HTMLParser):
    """Collects what a page refers to, and checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag


RESULTS = {
    "patches": make_result(),
    "colour": make_result(patch_shape=(4, 4, 3), d=48),
    "table": make_result(patch_shape=None),
    "one atom": make_result(h=1),
    "many atoms": make_result(h=300),
    "no numbers": make_result(metrics={}, settings={}),
    "held out by sweep": make_result(held_out_bounds=np.array([-9.0, -5.5, -4.5, -4.0, -3.5])),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
def test_the_page_is_whole_and_loads_nothing_from_elsewhere(result):
    page = report.render(result)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in checker.references)
    assert all(reference[1:] in checker.ids for reference in checker.references if reference.startswith("#"))
    assert "<script" not in page
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert page.count('role="img"') == 6


def test_text_from_outside_is_escaped():
    page = report.render(make_result(title="<script>alert(1)</script>", settings={"data": "<b>&"}))
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_the_page_takes_its_colours_from_the_reader():
    page = report.render(make_result())
    assert "prefers-color-scheme: dark" in page
    body = page[page.index("<body>") :]
    assert report.plotting.ACCENT not in body
    assert "var(--accent)" in body


def test_the_headline_is_plain():
    assert report.headline(make_result()) == (
        "12 atoms learned from 40,000 patches of 4 × 4 pixels. The noise standard deviation, 0.0821, and the "
        "scale of every atom were found by the method, not set. 12 atoms are in use."
    )
    assert "40,000 data points with 16 features" in report.headline(make_result(patch_shape=None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"converged": False}, "More may raise it"), ({"interrupted": True}, "was interrupted"), ({}, None)],
)
def test_a_run_that_did_not_settle_says_so(changes, words):
    result = make_result()
    page = report.render(replace(result, metrics=result.metrics | changes))
    assert ('class="notice"' in page) == (words is not None)
    assert words is None or words in page


def test_tails_heavier_than_the_prior_are_said():
    rng, scale = np.random.default_rng(0), np.full(12, 0.5)
    laplace = make_result(prior_scale=scale, codes=rng.laplace(scale=0.5, size=(2000, 12)))
    heavy = replace(laplace, codes=0.5 * rng.standard_t(2, size=(2000, 12)))
    assert "tails are too light" not in report.render(laplace)
    # P(|t₂| > 5) = 0.0377 and exp(−5) = 0.0067
    found = re.search(r"larger than five prior scales are ([\d.]+) times", report.render(heavy))
    assert found is not None
    assert float(found[1]) == pytest.approx(0.0377 / 0.0067, rel=0.1)


def test_the_held_out_bound_has_a_standard_error():
    X = np.random.default_rng(0).laplace(size=(300, 3)) + 0.1 * np.random.default_rng(1).normal(size=(300, 3))
    model = SparseCoding(2, tol=1.0, random_state=0).fit(X[:200])
    result = results.summarise(model, X[:200], X[200:], title="noise")
    bounds = model.score_samples(X[200:])
    assert result.metrics["held_out_bound"] == pytest.approx(model.score(X[200:]), rel=1e-12)
    assert result.metrics["held_out_standard_error"] == pytest.approx(bounds.std(ddof=1) / 10)
    page = report.render(result)
    assert f"± {bounds.std(ddof=1) / 10:.2g} (standard error)" in page
    alone = results.summarise(model, X[:200], X[200:201], title="noise")
    assert alone.metrics["held_out_standard_error"] is None
    assert "standard error" not in report.render(alone)
    assert "held-out value" not in report.render(results.summarise(model, X, title="noise"))


@pytest.mark.parametrize("settings", [{"whiten": "zca"}, {"remove_mean": True}, {}])
def test_a_page_of_prepared_data_shows_how_new_data_are_prepared(settings):
    page = report.render(make_result(patch_shape=None, settings=settings))
    assert ("preparation.apply" in page) == bool(settings)
    assert ("SparseCoding.load" in page) != bool(settings)


def test_the_page_stays_small_however_large_the_dictionary(tmp_path):
    for shape, d in (((16, 16), 256), ((64, 64, 3), 12288), (None, 5000)):
        page = report.write_report(make_result(h=2000, patch_shape=shape, d=d), tmp_path)
        assert page.stat().st_size < 1_500_000
        assert "of 2,000 are shown" in page.read_text()


def test_metrics_json_holds_the_numbers_and_the_settings(tmp_path):
    report.write_report(make_result(), tmp_path)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    names = [
        "lower_bound",
        "held_out_bound",
        "noise_std",
        "n_iter",
        "seconds",
        "converged",
        "gini",
        "settings",
    ]
    assert {*names, "settings"} <= set(numbers)
    assert numbers["held_out_bound"] == -3.5
    assert numbers["settings"]["posterior"] == "diagonal"


def test_metrics_json_is_valid_whatever_the_numbers_are(tmp_path):
    strange = {"a": math.nan, "b": np.float32(np.inf), "c": np.int64(3), "d": np.bool_(True), "e": tmp_path}
    report.write_report(make_result(metrics=strange, settings={"shape": (2, 3)}), tmp_path)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    numbers = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert [numbers[name] for name in "abcde"] == [None, None, 3, True, str(tmp_path)]
    assert numbers["settings"] == {"shape": [2, 3]}


def test_nothing_is_written_if_the_page_cannot_be_made(tmp_path, monkeypatch):
    report.write_report(make_result(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(result):
        raise RuntimeError("no page")

    monkeypatch.setattr(report, "render", fail)
    with pytest.raises(RuntimeError, match="no page"):
        report.write_report(make_result(title="other"), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
def test_a_result_comes_back_as_it_was_saved(result, tmp_path):
    results.save(result, tmp_path / "run.safetensors")
    again = results.load(tmp_path / "run.safetensors")
    for name, value in vars(result).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value.astype(np.float32))
        else:
            assert getattr(again, name) == value


@pytest.mark.parametrize(
    "changes",
    [{"prior_scale": np.ones(3)}, {"codes": np.ones((5, 3))}, {"reconstructions": np.ones((2, 16))}],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(changes):
    with pytest.raises(ValueError, match=r"^\w+ must have shape [^\n]* to fit components \(12, 16\); got [^\n]*$"):
        make_result(**changes)


def test_reports_count_the_atoms_that_pruning_keeps():
    X = datasets.make_bars(300, noise_std=0.1, seed=0).data
    model = SparseCoding(15, random_state=0, tol=0.1).fit(X)
    kept = len(model.prune().components_)
    assert kept < 15
    result = results.summarise(model, X, title="bars")
    assert result.metrics["atoms_in_use"] == model.active_atoms_.sum() == kept
    assert f"{kept} atoms are in use" in report.headline(result)


@pytest.mark.parametrize("atoms", [1, 9, 10, 64, 100, 101, 256, 1024])
def test_the_last_row_of_the_dictionary_is_nearly_full(atoms):
    columns = report._columns(atoms)
    assert 10 <= columns <= 38
    assert atoms < 20 or -atoms % columns <= 3


def test_a_model_that_was_stopped_before_a_sweep_over_all_data_can_be_summarised(tmp_path):
    X = np.random.default_rng(0).laplace(size=(3000, 4))
    model = SparseCoding(3, random_state=0, callback=lambda _: True).fit(X)
    assert len(model.lower_bounds_) == 0
    result = results.summarise(model, X, title="noise")
    assert result.lower_bounds.tolist() == [np.float32(model.lower_bound_)]
    assert "was interrupted" in report.render(result)


@pytest.mark.parametrize("unit", [1e-140, 1.0, 1e40])
def test_what_is_shown_is_the_same_before_it_is_stored_and_after_in_every_unit(unit, tmp_path):
    plain = vars(make_result(h=3))
    names = ("prior_scale", "noise_std_per_sweep", "codes", "originals", "reconstructions")
    scaled = {name: unit * plain[name].astype(float) for name in names}
    result = make_result(h=3, **scaled)
    results.save(result, tmp_path / "run.safetensors")
    again = results.load(tmp_path / "run.safetensors")
    for name, value in scaled.items():
        np.testing.assert_allclose(getattr(again, name), value, rtol=1e-6, atol=1e-7 * unit)
        assert getattr(again, name).dtype == (np.float32 if unit == 1.0 else np.float64)
    assert list(again.metrics) == list(result.metrics)
    assert report._json(again) == report._json(result)
    assert report.render(again) == report.render(result)


def test_a_run_names_no_place_of_this_machine(tmp_path):
    X = np.random.default_rng(0).laplace(size=(60, 3))
    model = SparseCoding(2, tol=10.0, cache=tmp_path, checkpoint=tmp_path, callback=lambda _: False).fit(X)
    result = results.summarise(model, X, title="noise")
    results.save(result, tmp_path / "run.safetensors")
    model.save(tmp_path / "model.safetensors")
    for file in ("run", "model"):
        assert str(tmp_path).encode() not in (tmp_path / f"{file}.safetensors").read_bytes()
    assert str(tmp_path) not in report.render(result)
