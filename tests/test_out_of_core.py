"""A model that learns from data on a disk is the one that learns from them in memory."""

import gc
import os
import re
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
import zarr
from sklearn.exceptions import NotFittedError

from sparsentropy import SparseCoding, rows
from sparsentropy.datasets import make_bars
from sparsentropy.estimator import needs
from sparsentropy.learning import gradient
from sparsentropy.learning.shelf import OnDemand
from test_rows import Chunked

BARS = make_bars(700, noise_std=0.1, seed=0).data
QUICK = {"n_components": 10, "max_iter": 12, "random_state": 0, "tol": 0.05}
pytestmark = pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", BARS)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def same(one, other):
    np.testing.assert_array_equal(one.components_, other.components_)
    np.testing.assert_array_equal(one.prior_scale_, other.prior_scale_)
    assert one.noise_variance_ == other.noise_variance_
    np.testing.assert_array_equal(one.lower_bounds_, other.lower_bounds_)


@pytest.mark.parametrize(
    "options",
    [
        {"posterior": "diagonal"},
        {"posterior": "diagonal", "low_memory": True},
        {"posterior": "low-rank", "rank": 2, "max_iter": 3},
        {"posterior": "full"},
        {"inference": "amortized"},
        {"inference": "amortized", "encoder": "mlp", "max_iter": 2},
        {"annealing": "beta"},
        {"validation_fraction": 0.2},
        {"batch_size": 64},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_a_memory_map_and_posteriors_on_a_disk_change_nothing(options, mapped, monkeypatch):
    monkeypatch.setattr(gradient, "WARM_UP", 50)
    monkeypatch.setattr(gradient, "STEPS", 10)
    options = QUICK | options
    whole = SparseCoding(**options).fit(BARS)
    if options.get("encoder") == "mlp":  # which sees its batches in another order
        assert SparseCoding(**options).fit(mapped).lower_bound_ == pytest.approx(whole.lower_bound_, abs=2.0)
        return
    same(SparseCoding(**options, cache="memory").fit(mapped), whole)
    same(SparseCoding(**options, cache="disk").fit(mapped), whole)
    same(SparseCoding(**options, cache="disk").fit(BARS), whole)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_data_with_gaps_may_stay_on_a_disk(posterior, tmp_path):
    x = np.where(np.random.default_rng(0).random(BARS.shape) < 0.1, np.nan, BARS)
    np.save(tmp_path / "x.npy", x)
    options = QUICK | {"posterior": posterior, "max_iter": 3}
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    same(SparseCoding(**options, cache="disk").fit(mapped), SparseCoding(**options).fit(x))


def as_generator():
    return (part for part in np.array_split(BARS, 6))


def as_loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(BARS)), batch_size=100)


def as_chunks():
    return Chunked(BARS, 64)


@pytest.mark.parametrize("given", [as_generator, as_loader, as_chunks])
def test_streams_and_chunked_arrays_are_learned_from(given):
    whole, model = SparseCoding(**QUICK).fit(BARS), SparseCoding(**QUICK).fit(given())
    same(model, whole)
    assert model.n_features_in_ == BARS.shape[1]
    assert not hasattr(model, "feature_names_in_")
    np.testing.assert_allclose(model.transform(given()), whole.transform(BARS), atol=1e-6)
    np.testing.assert_allclose(model.score_samples(given()), whole.score_samples(BARS), atol=1e-6)
    np.testing.assert_allclose(model.infer(given()).std, whole.infer(BARS).std, atol=1e-6)
    np.testing.assert_allclose(model.impute(given()), BARS, atol=1e-12)
    assert model.score(given()) == pytest.approx(whole.score(BARS))


def test_an_array_of_zarr_is_learned_from():
    array = zarr.create_array({}, shape=BARS.shape, chunks=(100, BARS.shape[1]), dtype=BARS.dtype)
    array[:] = BARS
    same(SparseCoding(**QUICK).fit(array), SparseCoding(**QUICK).fit(BARS))


@pytest.mark.parametrize("posterior", ["diagonal", "low-rank", "full"])
def test_without_a_cache_the_same_optimum_is_found(posterior, mapped):
    few = {"max_iter": 15, "tol": 0.02} if posterior == "low-rank" else {"max_iter": 40, "tol": 1e-3}
    options = QUICK | {"posterior": posterior, "rank": 2} | few
    whole, model = SparseCoding(**options).fit(BARS), SparseCoding(**options, cache="none").fit(mapped)
    assert (np.diff(model.lower_bounds_) > 0).all()
    assert model.lower_bound_ > whole.lower_bound_ - 0.3


def test_a_cache_may_be_a_folder_and_nothing_is_left_in_it(mapped, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    seen, before = [], len(os.listdir("/proc/self/fd"))

    def look(progress):
        del progress
        seen.append(max(os.fstat(int(fd)).st_size for fd in open_files(folder)) if open_files(folder) else 0)

    same(SparseCoding(**QUICK, cache=folder, callback=look).fit(mapped), SparseCoding(**QUICK).fit(BARS))
    assert max(seen) == 700 * 10 * 2 * 8
    assert list(folder.iterdir()) == []
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def open_files(folder):
    links = [(fd, os.path.realpath(f"/proc/self/fd/{fd}")) for fd in os.listdir("/proc/self/fd")]
    return [fd for fd, path in links if path.startswith(str(folder))]


def test_large_data_on_a_disk_have_their_posteriors_there_and_no_part_larger_than_memory(mapped, monkeypatch):
    monkeypatch.setattr(rows, "MEMORY", 1000)
    monkeypatch.setattr("sparsentropy.rows.stored.MEMORY", 100_000)
    monkeypatch.setattr("sparsentropy.learning.loop.ROWS_PER_UNKNOWN", 4)
    model, told = SparseCoding(**QUICK), []
    for given, place in ((mapped, "disk"), (BARS, "memory")):
        plan = needs.plan(model, given, 0.0, "sweeps")
        assert needs.cache(model, model._training_data(given, 0.0)[0], plan).place == place
    model.set_params(callback=lambda progress: told.append(progress.rows)).fit(mapped)
    numbers = 100_000 // 8 // (BARS.shape[1] + 40)
    assert sorted(set(told))[:-1] and max(set(told) - {700}) <= numbers < 700  # noqa: PT018


def test_a_disk_without_room_is_told_before_learning(mapped, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 100))
    with pytest.raises(OSError, match=r"need 0\.0 GiB in .*set cache= to a folder on a larger disk, .*cache='none'"):
        SparseCoding(**QUICK, cache="disk").fit(mapped)


def test_a_disk_that_fills_up_ends_learning_and_leaves_the_model_as_it_was(mapped, monkeypatch):
    model = SparseCoding(**QUICK).fit(BARS)
    before = dict(vars(model))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"the posteriors of all data points could not be written .*make room there"):
        model.set_params(cache="disk").fit(mapped)
    assert vars(model) | {"cache": "auto"} == before


def test_a_saved_model_does_not_need_the_folder_that_it_was_learned_with(mapped, tmp_path):
    (tmp_path / "fast").mkdir()
    model = SparseCoding(**QUICK, cache=str(tmp_path / "fast")).fit(mapped)
    model.save(tmp_path / "model.safetensors")
    (tmp_path / "fast").rmdir()
    again = SparseCoding.load(tmp_path / "model.safetensors")
    assert again.cache == "auto"
    np.testing.assert_array_equal(again.transform(mapped[:10]), model.set_params(cache="auto").transform(mapped[:10]))


@pytest.mark.parametrize("cache", ["nowhere/at/all", 3, None, True])
def test_a_cache_that_is_none_is_refused(cache):
    with pytest.raises(ValueError, match="cache must be one of 'auto', 'memory', 'disk', 'none', or a folder"):
        SparseCoding(**QUICK, cache=cache).fit(BARS)


def test_bad_numbers_on_a_disk_are_found_and_named(tmp_path):
    x = BARS.copy()
    x[655, 4] = np.inf
    for given in (Chunked(x, 100), iter(np.array_split(x, 5))):
        with pytest.raises(ValueError, match=r"infinity \(inf\) at row 655, column 4"):
            SparseCoding(**QUICK).fit(given)
    model = SparseCoding(**QUICK).fit(BARS)
    with pytest.raises(ValueError, match=r"infinity \(inf\) at row 655, column 4"):
        model.score(iter(np.array_split(x, 5)))
    with pytest.raises(ValueError, match="X gave no batches"):
        model.score(iter([]))
    with pytest.raises(ValueError, match=re.escape("expecting 25 features")):
        model.transform(iter([BARS[:, :3]]))
    with pytest.raises(NotFittedError):
        SparseCoding().transform(iter([BARS]))
    with pytest.raises(ValueError, match="fewer than n_components=10 atoms"):
        SparseCoding(**QUICK).fit(Chunked(BARS[:5]))
    with pytest.raises(ValueError, match="zero everywhere"):
        SparseCoding(**QUICK).fit(Chunked(np.zeros((50, 3))))
    with pytest.raises(ValueError, match=r"float32 learns from sizes between .*: rescale X, or compute in float64"):
        SparseCoding(**QUICK, dtype="float32").fit(Chunked(1e30 * BARS))


def test_a_file_that_is_cut_while_it_is_learned_from_is_told(mapped, tmp_path):
    def cut(progress):
        if progress.sweep == 2:
            os.truncate(tmp_path / "x.npy", 5000)

    with pytest.raises(ValueError, match=r"x\.npy ends before row .* it was cut short while it was read"):
        SparseCoding(**QUICK, callback=cut).fit(mapped)


def test_posteriors_on_demand_are_a_sequence():
    q = OnDemand(5, lambda i: i)
    assert [*q] == [0, 1, 2, 3, 4]
    assert q[-1] == 4
    assert [*q[1:3]] == [1, 2]
    assert [*q.mapped(lambda i: 10 * i)] == [0, 10, 20, 30, 40]
    assert len(q) == 5
    with pytest.raises(IndexError):
        q[5]
