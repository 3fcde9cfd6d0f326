"""Rows in memory and rows on a disk answer alike, and what is wrong with them is said."""

import gc
import os

import numpy as np
import pytest
import torch

from cases import typical_size
from sparsentropy import rows
from sparsentropy.rows import File, InMemory, Scratch, Sliced, Stored, Survey, drawn, sources, stored

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(1000, 3))


class Chunked:
    """An array that is read by slices and knows its chunks, as those of zarr and h5py."""

    def __init__(self, array, chunk=70):
        self.array, self.chunks, self.shape, self.dtype = array, (chunk, array.shape[1]), array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.array[rows]


def mapped(folder, array, mode="r"):
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode=mode)


def a_file(folder, array):
    return rows.source_of(mapped(folder, array))


def sliced(folder, array):
    del folder
    return rows.source_of(Chunked(array))


def spooled(folder, array):
    del folder
    return rows.spool(rows.batches_of(part for part in np.array_split(array, 7)))


SOURCES = pytest.mark.parametrize("make", [a_file, sliced, spooled])


def kept(source, unit=1.0, dtype=torch.float64):
    return Stored(source, dtype, torch.device("cpu"), unit, Survey.over(rows.pieces(source)))


def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture(params=[a_file, sliced, spooled])
def both(request, tmp_path, monkeypatch):
    """The same rows in memory and on a disk, read in several pieces."""
    monkeypatch.setattr(sources.piece_rows, "__defaults__", (100 * 3 * 8,))
    return InMemory(torch.from_numpy(X)), kept(request.param(tmp_path, X))


def test_they_come_in_the_same_batches(both):
    memory, disk = both
    assert disk.shape == memory.shape == (1000, 3)
    for size in (1, 7, 64, 5000):
        for one, other in zip(memory.split(size), disk.split(size), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(disk.first(10), memory.first(10))
    assert disk.typical_size() == pytest.approx(memory.typical_size())
    assert not disk.has_gaps
    assert not memory.has_gaps


def test_some_are_taken_and_the_others_left(both):
    memory, disk = both
    order = drawn(1000, 1000, generator())
    assert torch.equal(disk.take(order[:50]), memory.take(order[:50]))
    assert torch.equal(disk.take(order[:0]), memory.take(order[:0]))
    memory, disk = memory.without(order[:300]), disk.without(order[:300])
    assert disk.shape == memory.shape == (700, 3)
    assert torch.equal(torch.cat(list(disk.split(64))), torch.cat(list(memory.split(64))))
    index = drawn(700, 700, generator())
    assert torch.equal(disk.take(index), memory.take(index))
    assert [len(batch) for batch in disk.split(64)] == [64] * 10 + [60]
    again = [data.without(index[:5]) for data in (memory, disk)]
    assert torch.equal(torch.cat(list(again[0].split(64))), torch.cat(list(again[1].split(64))))


def test_another_order_has_the_same_rows(both):
    for data in both:
        draw = generator()
        first, second = (torch.cat(list(data.shuffled(64, draw))) for _ in range(2))
        assert not torch.equal(first, second)
        assert torch.equal(first.sort(0).values, torch.from_numpy(np.sort(X, 0)))
        assert torch.equal(first[first[:, 0].argsort()], torch.from_numpy(X[X[:, 0].argsort()]))


@SOURCES
def test_rows_get_their_type_and_units(make, tmp_path):
    data = kept(make(tmp_path, X.astype(np.float32)), unit=4.0)
    assert data.first(5).dtype == torch.float64
    np.testing.assert_array_equal(data.first(5), X[:5].astype(np.float32) / 4.0)
    assert data.typical_size() == pytest.approx(typical_size(X / 4), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, bool])
def test_integers_become_floating_point_numbers(dtype, tmp_path):
    counts = DRAW.integers(0, 2, size=(30, 4)).astype(dtype)
    data = kept(a_file(tmp_path, counts), dtype=torch.float32)
    np.testing.assert_array_equal(data.first(30), counts.astype(np.float32))
    assert data.survey.largest == 1.0


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[100:],
        lambda x: x[10:90][5:],
        lambda x: x[::3],
        lambda x: x[::-1],
        lambda x: x[:, 1:],
        lambda x: x.T,
        lambda x: x.astype(">f4"),
    ],
)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_any_view_of_a_memory_map_is_read_as_it_is(view, mode, tmp_path):
    whole = mapped(tmp_path, X, mode)
    if mode != "r":
        whole[110, 1] = 7.0
    x = view(whole)
    found = rows.source_of(x).read(0, len(x)) if rows.is_stored(x) else np.asarray(x)
    np.testing.assert_array_equal(found, x)


def test_only_a_map_in_one_piece_is_read_as_a_file(tmp_path):
    whole = mapped(tmp_path, X)
    assert isinstance(rows.source_of(whole[10:]), File)
    assert isinstance(rows.source_of(whole[::2]), Sliced)
    assert not rows.is_stored(whole + 1)
    assert not rows.is_stored(whole[0])


def test_what_is_in_memory_is_not_stored():
    for x in (X, torch.from_numpy(X), X.tolist(), "x.npy", None, [X, X], iter([X])):
        assert not rows.is_stored(x)
    assert rows.is_stored(Chunked(X))
    for x in (X, torch.from_numpy(X), X.tolist(), "x.npy", None, Chunked(X)):
        assert not rows.is_stream(x)
    assert rows.is_stream(iter([X]))
    assert rows.is_stream(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X))))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (Chunked(np.array([["a"]])), TypeError, "must hold real numbers, but its dtype is <U1"),
        (Chunked(np.zeros((2, 2), complex)), TypeError, "real numbers"),
        (Chunked(np.zeros((0, 2))), ValueError, r"at least one of each; got \(0, 2\)"),
        (Chunked(np.zeros((2, 2, 2))), ValueError, r"must have shape \(n, d\)"),
    ],
)
def test_what_is_no_table_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        rows.source_of(x)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "X gave no batches"),
        ([np.zeros((0, 3))], ValueError, "X gave no batches"),
        ([X, X[:, :2]], ValueError, "batch 1 of X has 2 columns, but those before have 3"),
        ([X[0]], ValueError, r"batch 0 of X must have shape \(n, d\), several rows; got \(3,\)"),
        ([["a"]], TypeError, "batch 0 of X holds <U1"),
    ],
)
def test_batches_that_are_none_are_refused(batches, error, message):
    with pytest.raises(error, match=message):
        rows.spool(rows.batches_of(iter(batches)))


def test_of_labelled_batches_the_data_are_taken():
    labelled = [(torch.from_numpy(X[:5]), torch.zeros(5)), [X[5:8], np.zeros(3)]]
    np.testing.assert_array_equal(rows.spool(rows.batches_of(labelled)).read(0, 8), X[:8])


def test_an_error_of_the_stream_is_its_own():
    def torn():
        yield X
        raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match="the server is gone"):
        rows.spool(rows.batches_of(torn()))


def test_a_file_that_has_lost_its_name_is_read_and_one_that_was_cut_is_refused(tmp_path):
    source = a_file(tmp_path, X)
    copy = tmp_path / "y.npy"
    os.link(tmp_path / "x.npy", copy)
    (tmp_path / "x.npy").unlink()
    np.testing.assert_array_equal(source.read(990, 1000), X[990:])
    os.truncate(copy, 12_000)
    with pytest.raises(ValueError, match=r"x\.npy ends before row 1,000 of 1,000: it was cut short"):
        source.read(500, 1000)


def test_a_file_that_is_gone_is_refused(tmp_path):
    x = mapped(tmp_path, X)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.npy cannot be read .* it must stay"):
        rows.source_of(x)


def test_files_are_closed(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    data = [kept(a_file(tmp_path, X)), kept(spooled(tmp_path, X))]
    scratch = Scratch(tmp_path, "numbers")
    scratch.append(X)
    assert len(os.listdir("/proc/self/fd")) >= before + 3
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]
    del data, scratch
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_told():
    scratch = Scratch(None, "the posteriors")
    os.close(scratch.number)
    scratch.number = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=r"the posteriors could not be written to a temporary file in .*No space left"):
        scratch.append(X)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not be written to a temporary file in .*nowhere"):
        Scratch(tmp_path / "nowhere", "the posteriors")


def test_a_survey_adds_up():
    x = X.copy()
    x[3, 0], x[500, 1], x[700, 2] = np.nan, np.inf, -np.inf
    one, parts = Survey.of(x), Survey.over(np.array_split(x, 9))
    assert parts.where == one.where == (500, 1)
    assert parts.infinite == one.infinite == 2
    assert parts.count == one.count == 2999
    assert parts.typical_size == pytest.approx(one.typical_size)
    assert one.typical_size == pytest.approx(typical_size(x[np.isfinite(x)]))
    assert one.has_gaps
    assert one.known.all()


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_a_survey_of_very_small_or_large_data_neither_vanishes_nor_overflows(scale):
    survey = Survey.over(scale * part for part in np.array_split(X, 5))
    assert survey.typical_size == pytest.approx(scale * typical_size(X))


def test_of_very_many_rows_only_as_many_as_are_wanted_are_drawn(monkeypatch):
    monkeypatch.setattr("sparsentropy.rows.abstract.LISTED", 1000)
    found = drawn(10**9, 500, generator())
    assert len(found.unique()) == 500
    assert 0.4e9 < found.double().mean() < 0.6e9
    assert not torch.equal(found, found.sort().values)
    assert torch.equal(drawn(1001, 1001, generator()).sort().values, torch.arange(1001))


def test_how_many_rows_may_be_held(tmp_path):
    data = kept(a_file(tmp_path, X))
    assert data.affordable(8) == stored.MEMORY // 64
    assert data.affordable(stored.MEMORY // 8) == 1
    assert InMemory(torch.from_numpy(X)).affordable(10**12) == 1000
