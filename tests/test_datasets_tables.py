import contextlib
import io
import pickle
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy.io import savemat

from sparsentropy.datasets import columns_of, load_array, parquet_batches

NUMBERS = np.arange(12.0).reshape(4, 3) / 7


class Trap:
    """Unpickling this raises, so a test that passes has not unpickled it."""

    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, np.bool_])
@pytest.mark.parametrize("mmap", [False, True])
def test_npy(tmp_path, dtype, mmap):
    array = (10 * NUMBERS).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    loaded = load_array(tmp_path / "x.npy", mmap=mmap)
    assert loaded.dtype == dtype
    assert isinstance(loaded, np.memmap) == mmap
    np.testing.assert_array_equal(loaded, array)


def test_npz_with_one_and_with_several_arrays(tmp_path):
    np.savez(tmp_path / "one.npz", NUMBERS)
    np.testing.assert_array_equal(load_array(tmp_path / "one.npz"), NUMBERS)
    np.savez_compressed(tmp_path / "two.npz", a=NUMBERS, b=-NUMBERS)
    np.testing.assert_array_equal(load_array(tmp_path / "two.npz", key="b"), -NUMBERS)
    with pytest.raises(ValueError, match=r"two\.npz holds 'a', 'b'; say which with key="):
        load_array(tmp_path / "two.npz")
    with pytest.raises(ValueError, match=r"two\.npz holds 'a', 'b', not 'c'"):
        load_array(tmp_path / "two.npz", key="c")


def test_mat_in_the_form_of_olshausen(tmp_path):
    images = np.random.default_rng(0).normal(size=(8, 8, 10))
    savemat(tmp_path / "IMAGES.mat", {"IMAGES": images})
    np.testing.assert_array_equal(load_array(tmp_path / "IMAGES.mat"), images)
    savemat(tmp_path / "two.mat", {"a": NUMBERS, "b": images}, do_compression=True)
    np.testing.assert_array_equal(load_array(tmp_path / "two.mat", key="a"), NUMBERS)
    with pytest.raises(ValueError, match=r"two\.mat holds 'a', 'b'; say which"):
        load_array(tmp_path / "two.mat")


@pytest.mark.parametrize("head", [b"", b"MATLAB 7.3 MAT-file".ljust(512, b" ")])
def test_mat_of_version_7_3(tmp_path, head):
    (tmp_path / "new.mat").write_bytes(head + b"\x89HDF\r\n\x1a\n" + bytes(600))
    with pytest.raises(ValueError, match=r"new\.mat is a MATLAB 7\.3 \(HDF5\) file; save it again"):
        load_array(tmp_path / "new.mat")


def test_mat_with_other_content(tmp_path):
    savemat(tmp_path / "cells.mat", {"cells": np.array(["a", NUMBERS], dtype=object)})
    with pytest.raises(ValueError, match=r"cells\.mat holds values of type object"):
        load_array(tmp_path / "cells.mat")


def test_csv_with_and_without_header(tmp_path):
    frame = pd.DataFrame(NUMBERS, columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "named.csv", index=False)
    np.testing.assert_allclose(load_array(tmp_path / "named.csv"), NUMBERS)
    np.savetxt(tmp_path / "bare.csv", NUMBERS, delimiter=",")
    np.testing.assert_allclose(load_array(tmp_path / "bare.csv"), NUMBERS)
    pd.DataFrame(NUMBERS).to_csv(tmp_path / "pandas.csv", index=False)
    np.testing.assert_allclose(load_array(tmp_path / "pandas.csv"), NUMBERS)


def test_csv_with_missing_values(tmp_path):
    (tmp_path / "gaps.csv").write_text("a,b\n1,\n,4\n")
    np.testing.assert_array_equal(load_array(tmp_path / "gaps.csv"), [[1, np.nan], [np.nan, 4]])


def test_parquet(tmp_path):
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": [True, False]})
    frame["d"] = pd.array([3, None], dtype="Int64")
    frame.to_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(load_array(tmp_path / "x.parquet"), [[1, 0.5, 1, 3], [2, np.nan, 0, np.nan]])


def test_parquet_with_missing_booleans(tmp_path):
    frame = pd.DataFrame({"a": [True, None, False], "b": pd.array([2**60, None, 1], dtype="Int64"), "c": 1.5})
    frame.to_parquet(tmp_path / "x.parquet")
    expected = [[1, 2**60, 1.5], [np.nan, np.nan, 1.5], [0, 1, 1.5]]
    np.testing.assert_array_equal(load_array(tmp_path / "x.parquet"), expected)
    batches = list(parquet_batches([tmp_path / "x.parquet"], rows=2))
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_parquet_with_a_name_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    for read in (load_array, columns_of, lambda path: list(parquet_batches([path]))):
        with pytest.raises(ValueError, match=r"x\.parquet has several columns of the name a; rename them"):
            read(tmp_path / "x.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_that_are_not_numbers_are_named(tmp_path, suffix):
    frame = pd.DataFrame({"age": [1, 2], "name": ["x", "y"], "when": ["2024-01-01"] * 2})
    getattr(frame, f"to_{suffix}")(tmp_path / f"people.{suffix}", index=False)
    with pytest.raises(ValueError, match=r"people\.\w+ has columns that are not numeric: name, when"):
        load_array(tmp_path / f"people.{suffix}")


def test_row_numbers_in_a_csv_are_not_taken_for_data(tmp_path):
    pd.DataFrame(NUMBERS, columns=list("abc")).to_csv(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match="column without a name"):
        load_array(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([1 + 2j]), "complex128"),
        (np.array(["a", "b"]), "<U1"),
        (np.zeros(2, dtype=[("a", float)]), r"\[\('a', '<f8'\)\]"),
    ],
)
def test_arrays_that_are_not_real_numbers(tmp_path, array, kind):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=rf"x\.npy holds values of type {kind}"):
        load_array(tmp_path / "x.npy")


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array(3.0)])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_without_rows(tmp_path, array, suffix):
    (np.save if suffix == "npy" else np.savez)(tmp_path / f"x.{suffix}", array)
    with pytest.raises(ValueError, match=rf"x\.{suffix}"):
        load_array(tmp_path / f"x.{suffix}")


def test_pickles_are_never_opened(tmp_path):
    objects = np.array([Trap()], dtype=object)
    (tmp_path / "x.npy").write_bytes(npy_bytes(objects))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "x.npz", objects)
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("x", pickle.dumps(Trap()))
    for name in ("x.npy", "bare.npy", "x.npz", "raw.npz"):
        with pytest.raises(ValueError, match=name):
            load_array(tmp_path / name)


@pytest.mark.parametrize("suffix", ["npy", "npz", "mat", "parquet"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files_are_named(tmp_path, suffix, share):
    array = np.random.default_rng(0).normal(size=(50, 20))
    whole = tmp_path / f"whole.{suffix}"
    writers = {
        "npy": lambda: np.save(whole, array),
        "npz": lambda: np.savez_compressed(whole, array),
        "mat": lambda: savemat(whole, {"x": array}, do_compression=True),
        "parquet": lambda: pd.DataFrame(array).to_parquet(whole),
    }
    writers[suffix]()
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read as"):
        load_array(file)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_flipped_bytes_give_one_kind_of_error_or_numbers(tmp_path, suffix):
    array = np.random.default_rng(0).normal(size=(30, 4))
    whole = tmp_path / f"whole.{suffix}"
    np.savez(whole, array) if suffix == "npz" else pd.DataFrame(array).to_parquet(whole)
    content = whole.read_bytes()
    for position in np.random.default_rng(1).integers(len(content), size=60):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        whole.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            load_array(whole)


def test_header_that_claims_more_than_the_file_holds(tmp_path):
    content = npy_bytes(np.zeros((4, 3)))
    (tmp_path / "huge.npy").write_bytes(content.replace(b"(4, 3)", b"(4000000000, 3000000)").ljust(300))
    with pytest.raises(ValueError, match=r"huge\.npy cannot be read"):
        load_array(tmp_path / "huge.npy")


def test_bad_arguments(tmp_path):
    np.save(tmp_path / "x.npy", NUMBERS)
    np.savez(tmp_path / "x.npz", NUMBERS)
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(ValueError, match=r"x\.txt ends in '\.txt'; expected one of \.npy"):
        load_array(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="key is only used with"):
        load_array(tmp_path / "x.npy", key="a")
    with pytest.raises(ValueError, match=r"mmap needs a \.npy file"):
        load_array(tmp_path / "x.npz", mmap=True)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_array(tmp_path / "none.npy")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_array(tmp_path)
    with pytest.raises(TypeError, match="path must be a path"):
        load_array(NUMBERS)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="is empty"):
        load_array(tmp_path / "empty.csv")
