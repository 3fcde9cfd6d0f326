"""Results that come a part at a time are written as those that are there at once, wholly or not at all."""

import numpy as np
import pytest

from sparsentropy import columns

X = np.random.default_rng(0).normal(size=(50, 3))
STD = np.abs(X[:, :2]).astype(np.float32)


def parts(*cuts):
    """Both columns, cut at these rows."""
    for x, std in zip(np.split(X, cuts), np.split(STD, cuts), strict=True):
        yield {"mean": x, "std": std}


@pytest.mark.parametrize("cuts", [(), (1,), (20, 40)], ids=str)
def test_an_archive_has_all_columns_by_name(cuts, tmp_path):
    columns.write(tmp_path / "x.npz", 50, parts(*cuts))
    with np.load(tmp_path / "x.npz") as found:
        assert list(found) == ["mean", "std"]
        np.testing.assert_array_equal(found["mean"], X)
        np.testing.assert_array_equal(found["std"], STD)
        assert found["std"].dtype == np.float32
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("cuts", [(), (1,), (20, 40)], ids=str)
def test_an_array_has_the_bytes_that_numpy_writes(cuts, tmp_path):
    for dtype in (np.float32, np.float64):
        np.save(tmp_path / "whole.npy", X.astype(dtype))
        pieces = ({"x": np.asfortranarray(part["mean"], dtype)} for part in parts(*cuts))
        columns.write(tmp_path / "x.npy", 50, pieces)
        assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("cuts", [(), (1,), (20, 40)], ids=str)
def test_a_table_has_a_head_and_columns_side_by_side(cuts, tmp_path):
    columns.write(tmp_path / "x.csv", 50, parts(*cuts))
    with (tmp_path / "x.csv").open() as file:
        assert file.readline() == "mean_1,mean_2,mean_3,std_1,std_2\n"
        np.testing.assert_allclose(np.loadtxt(file, delimiter=","), np.hstack([X, STD]), rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.longdouble])
def test_a_table_may_have_all_digits(dtype, tmp_path):
    given = (X * 1e5).astype(dtype)
    columns.write(tmp_path / "x.csv", 50, [{"x": given}], exact=True)
    with (tmp_path / "x.csv").open() as file:
        assert file.readline() == "x_1,x_2,x_3\n"
        np.testing.assert_array_equal(np.loadtxt(file, dtype, delimiter=","), given)


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.csv"])
def test_what_fails_on_the_way_leaves_what_was_there(name, tmp_path):
    def failing():
        yield {"x": X[:20]}
        raise ValueError("row 21 is no number")

    (tmp_path / name).write_bytes(b"before")
    with pytest.raises(ValueError, match="row 21"):
        columns.write(tmp_path / name, 50, failing())
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"before"
