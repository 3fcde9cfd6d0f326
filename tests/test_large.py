"""Large tables go through all commands without being read at once, and give what small ones give."""

import json

import numpy as np
import pandas as pd
import pytest
import zarr
from safetensors.numpy import load_file

from sparsentropy import SparseCoding, large, rows
from sparsentropy.datasets import parquet_batches, parquet_files
from sparsentropy.estimator import inferring
from test_cli import invoke, laplace_table

X = laplace_table(n=900)


def as_npy(folder):
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


def as_parquet(folder):
    pd.DataFrame(X, columns=list("abcdef")).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def as_csv(folder):
    pd.DataFrame(X, columns=list("abcdef")).to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def as_folder(folder):
    for number, part in enumerate(np.array_split(X, 4)):
        place = folder / "parts" / f"day={number}"
        place.mkdir(parents=True)
        pd.DataFrame(part, columns=list("abcdef")).to_parquet(place / "part.parquet")
    return folder / "parts"


def as_zarr(folder):
    array = zarr.create_array(folder / "x.zarr", shape=X.shape, chunks=(100, 6), dtype=X.dtype)
    array[:] = X
    return folder / "x.zarr"


KINDS = [as_npy, as_csv, as_parquet, as_folder, as_zarr]


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(rows, "MEMORY", 10_000)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("make", KINDS)
def test_what_is_large_is_opened_and_not_read(make, tmp_path):
    source = large.opened(make(tmp_path))
    assert isinstance(source, rows.AbstractSource)
    assert source.shape == X.shape
    np.testing.assert_array_equal(source.read(100, 350), X[100:350])
    np.testing.assert_array_equal(source.pick(np.array([3, 5, 400, 899])), X[[3, 5, 400, 899]])


def test_small_tables_and_other_files_are_read(tmp_path):
    assert large.opened(as_npy(tmp_path)) is None
    assert large.opened(as_parquet(tmp_path)) is None
    assert large.opened(as_csv(tmp_path)) is None
    (tmp_path / "photos").mkdir()
    assert large.opened(tmp_path / "photos") is None


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("make", KINDS)
def test_every_command_takes_large_tables(make, tmp_path):
    data, folder, options = make(tmp_path), tmp_path / "run", ["--components", 4, "--tol", 0.05]
    result = invoke("fit", data, "-o", folder, *options, "--remove-mean", "--whiten", "zca", "--cache", tmp_path)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "metrics.json").read_text())
    assert found["n_samples"] == 810
    assert np.isfinite(found["held_out_bound"])
    assert invoke("report", folder).exit_code == 0
    scores, codes = tmp_path / "scores.npy", tmp_path / "z.npz"
    assert invoke("score", folder, data, "--per-row", "-o", scores).exit_code == 0
    assert invoke("encode", folder, data, "-o", codes, "--std").exit_code == 0
    assert np.load(scores).shape == (900, 1)
    assert np.load(codes)["mean"].shape == (900, 4)


@pytest.mark.usefixtures("small_memory")
def test_what_is_written_about_a_large_table_is_never_there_at_once(tmp_path, monkeypatch):
    small = tmp_path / "small.npy"
    np.save(small, X[:300])
    assert invoke("fit", small, "-o", tmp_path / "run", "--components", 4, "--tol", 0.05).exit_code == 0
    model = SparseCoding.load(tmp_path / "run" / "model.safetensors")
    gaps = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    np.save(tmp_path / "gaps.npy", gaps)
    largest, inferred = 0, inferring.AbstractInferring._inferred

    def watched(self, x):
        nonlocal largest
        largest = max(largest, len(x))
        return inferred(self, x)

    monkeypatch.setattr(rows.sources, "piece_rows", lambda _: 70)
    monkeypatch.setattr(inferring.AbstractInferring, "_inferred", watched)
    codes, filled = tmp_path / "z.npz", tmp_path / "filled.npz"
    assert invoke("encode", tmp_path / "run", tmp_path / "gaps.npy", "-o", codes, "--std").exit_code == 0
    result = invoke("impute", tmp_path / "run", tmp_path / "gaps.npy", "-o", filled, "--std")
    assert f"{np.isnan(gaps).sum()} missing values of 900 data points" in result.output
    assert largest == 70
    q, (data, std) = model.infer(gaps), model.impute(gaps, return_std=True)
    with np.load(codes) as found, np.load(filled) as table:  # solved for in other batches
        for name, value in (("mean", q.mean), ("std", q.std)):
            np.testing.assert_allclose(found[name], value, atol=1e-3)
        for name, value in (("data", data), ("std", std)):
            np.testing.assert_allclose(table[name], value, atol=1e-3)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("make", [as_csv, as_parquet, as_folder])
def test_columns_of_large_tables_are_known_by_name(make, tmp_path):
    data, run = make(tmp_path), tmp_path / "run"
    assert invoke("fit", data, "-o", run, "--components", 2, "--max-iter", 2).exit_code == 0
    assert list(SparseCoding.load(run / "model.safetensors").feature_names_in_) == list("abcdef")
    other = tmp_path / "other.csv"
    pd.DataFrame(X, columns=list("abcdef"))[list("fedcba")].to_csv(other, index=False)
    one, two = invoke("score", run, data), invoke("score", run, other)
    assert one.stdout == two.stdout
    assert "put in the order of the model" in two.stderr


def test_a_large_table_leads_to_the_same_model_as_a_small_one(tmp_path, monkeypatch):
    data, options = as_npy(tmp_path), ["--components", 4, "--tol", 0.05, "--held-out", 0]
    assert invoke("fit", data, "-o", tmp_path / "small", *options).exit_code == 0
    monkeypatch.setattr(rows, "MEMORY", 10_000)
    assert invoke("fit", data, "-o", tmp_path / "large", *options).exit_code == 0
    small, other = (load_file(tmp_path / name / "model.safetensors") for name in ("small", "large"))
    np.testing.assert_array_equal(small["components_"], other["components_"])


@pytest.mark.usefixtures("small_memory")
def test_rows_are_set_aside(tmp_path):
    source = large.opened(as_npy(tmp_path))
    train, test = large.apart(source, 0.1, seed=3)
    assert len(train) == 810
    assert test.shape == (90, 6)
    both = np.concatenate([train.read(0, 810), test])
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(X, 0))
    whole, nothing = large.apart(source, 0.0, seed=3)
    assert whole is source
    assert nothing is None
    assert large.sample(source).shape == (10_000 // 48, 6)


def test_a_group_of_zarr_is_refused(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(ValueError, match=r"group\.zarr is a group of zarr; give the folder of one of its arrays"):
        large.opened(tmp_path / "group.zarr")


def test_without_zarr_its_arrays_are_refused(tmp_path, monkeypatch):
    path = as_zarr(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(ImportError, match=r"x\.zarr is an array of zarr, which is not installed; pip install zarr"):
        large.opened(path)


def test_parquet_files_of_a_folder_must_agree(tmp_path):
    pd.DataFrame(X, columns=list("abcdef")).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame(X, columns=list("abcdeg")).to_parquet(tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet has the columns a, b, c, d, e, g, but .*1\.parquet has a, b"):
        large.opened(tmp_path)
    (tmp_path / "2.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"2\.parquet"):
        large.opened(tmp_path)


def test_parquet_batches_are_no_larger_than_asked(tmp_path):
    as_parquet(tmp_path)
    sizes = [len(batch) for batch in parquet_batches(parquet_files(tmp_path), rows=400)]
    assert sizes == [400, 400, 100]
