"""What is read from the folder of a run, and what is written there when the report cannot be drawn."""

import json
import os

import numpy as np
import pytest

from sparsentropy import SparseCoding, folders, report, runs
from sparsentropy.preparation import Preparation
from sparsentropy.results import summarise

TABLE = np.random.default_rng(0).laplace(size=(60, 3))


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(report, "render", lambda result: f"<p>{result.title}</p>")


@pytest.fixture(scope="module")
def fitted():
    """Two models and their results: of two atoms, and of three."""
    models = [SparseCoding(h, tol=1.0, random_state=0).fit(TABLE) for h in (2, 3)]
    return [(model, summarise(model, TABLE, title=f"{len(model.components_)} atoms")) for model in models]


@pytest.mark.parametrize("read", [runs.read, runs.rewrite_report], ids=["read", "rewrite_report"])
def test_a_folder_without_a_run_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"holds no \w+\.safetensors; give a folder written by fit or demo"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "new")
    assert os.listdir(tmp_path) == []


def write(folder, fitted):
    runs.write(folder, fitted[0], Preparation(remove_mean=len(fitted[0].components_) == 3), fitted[1])


def test_a_run_that_was_not_moved_to_its_place_is_read_and_reported(fitted, tmp_path, monkeypatch):
    write(tmp_path, fitted[0])
    with monkeypatch.context() as patch:
        patch.setattr(folders, "finish", lambda _: None)
        write(tmp_path, fitted[1])
    assert json.loads((tmp_path / "metrics.json").read_text())["title"] == "2 atoms"

    def forbidden(*arguments):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "replace", forbidden)
        for path in (tmp_path, tmp_path / "model.safetensors"):
            model, preparation = runs.read(path)
            assert len(model.components_) == 3
            assert preparation.remove_mean
    assert runs.rewrite_report(tmp_path) == tmp_path / "report.html"
    assert json.loads((tmp_path / "metrics.json").read_text())["title"] == "3 atoms"
    assert sorted(os.listdir(tmp_path)) == sorted(runs.FILES)


def test_a_model_beside_a_run_that_is_being_replaced_is_read_with_its_own_preparation(fitted, tmp_path, monkeypatch):
    write(tmp_path, fitted[0])
    load, calls = SparseCoding.load, []

    def slow(path):
        calls.append(path)
        model = load(path)
        if len(calls) == 1:
            write(tmp_path, fitted[1])
        return model

    monkeypatch.setattr(SparseCoding, "load", slow)
    model, preparation = runs.read(tmp_path)
    assert len(model.components_) == 3
    assert preparation.remove_mean


def test_a_report_that_cannot_be_drawn_costs_no_model_and_does_not_stay_of_the_earlier_run(
    fitted, tmp_path, monkeypatch
):
    write(tmp_path, fitted[0])

    def fail(*arguments):
        raise ArithmeticError("no picture")

    with monkeypatch.context() as patch:
        patch.setattr(report, "render", fail)
        with pytest.raises(RuntimeError, match=r"model is written to .* \(ArithmeticError: no picture\); .*report "):
            write(tmp_path, fitted[1])
    assert len(runs.read(tmp_path)[0].components_) == 3
    for name in ("report.html", "metrics.json"):
        assert "try the command sparsentropy report" in (tmp_path / name).read_text()
    runs.rewrite_report(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["title"] == "3 atoms"


def test_a_disk_that_is_full_before_the_report_costs_no_model(fitted, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
    write(tmp_path, fitted[0])
    monkeypatch.setattr(report, "render", lambda _: "x" * 30_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RuntimeError, match=r"model is written to .* \(File too large\); .*: sparsentropy report"):
            write(tmp_path, fitted[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(runs.read(tmp_path)[0].components_) == 3
    assert sorted(os.listdir(tmp_path)) == sorted(runs.FILES)
