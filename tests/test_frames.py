"""Data frames, masked arrays and dates: names decide, what is masked is missing, and what was observed stays."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from sparsentropy import SparseCoding, rows
from sparsentropy.estimator import frames

DRAW = np.random.default_rng(0)
X = DRAW.laplace(size=(60, 2)) @ DRAW.normal(size=(2, 4)) + 0.1 * DRAW.normal(size=(60, 4))
GAPS = np.where(DRAW.random(X.shape) < 0.2, np.nan, X)
TABLE = pd.DataFrame(X, columns=list("abcd"), index=np.arange(60) * 7)
MASKED = np.ma.MaskedArray(np.where(np.isnan(GAPS), 1e9, X), np.isnan(GAPS))
pytestmark = pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")


def new(**options):
    return SparseCoding(**{"n_components": 2, "max_iter": 3, "random_state": 0, **options})


@pytest.fixture(scope="module")
def model():
    return new().fit(X)


@pytest.fixture(scope="module")
def named():
    return new().fit(TABLE)


# --- Names


def parts(frame, other=None):
    """A stream of two batches; the columns of the second may be others."""
    yield frame[:40]
    yield frame[40:] if other is None else frame[40:][other]


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_a_stream_of_frames_gives_the_model_their_names(kind, named):
    made = (kind(dict(frame.items())) for frame in parts(TABLE))
    model = new().fit(made)
    assert list(model.feature_names_in_) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(model.components_, named.components_)
    assert not hasattr(model.fit(iter([X])), "feature_names_in_")


REFUSED = {
    "other order in a batch": lambda m: m.fit(parts(TABLE, list("dcba"))),
    "other names in a batch": lambda m: m.fit(iter([TABLE[:40], TABLE[40:].rename(columns={"a": "z"})])),
    "a batch without names": lambda m: m.fit(iter([TABLE[:40], X[40:]])),
    "names in a later batch": lambda m: m.fit(iter([X[:40], TABLE[40:]])),
    "stream to encode": lambda m: m.transform(iter([TABLE[list("dcba")]])),
    "stream to score": lambda m: m.score(parts(TABLE[list("dcba")])),
    "stream to fill in": lambda m: m.impute(parts(TABLE, list("dcba"))),
    "parts to fill in": lambda m: list(m.impute_parts(iter([TABLE[list("abdc")]]))),
    "stream of polars": lambda m: m.transform(iter([pl.DataFrame(X, schema=list("dcba"))])),
    "next batch of a stream": lambda m: m.partial_fit(TABLE[list("dcba")]),
    "narrow stream": lambda m: m.transform(iter([TABLE[list("abc")]])),
    "dates in a batch": lambda m: m.fit(iter([TABLE[:40], TABLE[40:].assign(a=pd.Timestamp("2024-01-01"))])),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED.keys())
def test_batches_with_other_columns_are_refused_in_one_line(call, named):
    words = "give the same columns in the same order|give the columns that the model was fitted with|dates or times"
    with pytest.raises((ValueError, TypeError), match=rf"^[^\n]*({words})[^\n]*$"):
        call(named)


def test_a_stream_without_names_is_taken_by_position_with_the_warning_of_scikit_learn(named):
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        codes = named.transform(iter([X]))
    np.testing.assert_array_equal(codes, named.transform(TABLE))
    with pytest.warns(UserWarning, match="X has feature names, but"):
        new().fit(X).score(iter([TABLE]))


@pytest.mark.filterwarnings("ignore:the mean of")
def test_frames_of_several_types_may_come_in_a_stream():
    mixed = pd.DataFrame({"a": X[:, 0] > 0, "b": pd.array([1, None] * 30, dtype="Int64"), "c": X[:, 2]})
    np.testing.assert_array_equal(new().fit(iter([mixed])).components_, new().fit(mixed).components_)
    with pytest.raises(TypeError, match=r"batch 0 of X holds something else than real numbers: could not convert"):
        new().fit(iter([mixed.assign(c="x")]))


# --- Masks

MASKS = {
    "array": lambda x: x,
    "float32": lambda x: x.astype(np.float32),
    "list": list,
    "list of lists": lambda x: [[value for value in row] for row in x],  # noqa: C416 - tolist makes None of them
    "stream": lambda x: iter([x[:40], x[40:]]),
    "labelled stream": lambda x: iter([(x[:40], np.zeros(40)), (x[40:], np.zeros(20))]),
}


@pytest.mark.parametrize("given", MASKS.values(), ids=MASKS.keys())
def test_what_is_masked_is_missing_wherever_data_are_taken(given, model):
    learned, expected = new().fit(given(MASKED)), new().fit(given(GAPS))
    np.testing.assert_array_equal(learned.components_, expected.components_)
    for method in ("transform", "score_samples", "impute", "reconstruct"):
        answer = getattr(model, method)
        np.testing.assert_array_equal(answer(given(MASKED)), answer(given(GAPS)))


def test_a_stream_is_learned_from_without_what_is_masked():
    one, other = (new().partial_fit(X).partial_fit(data) for data in (MASKED, GAPS))
    np.testing.assert_array_equal(one.components_, other.components_)


def test_integers_may_be_masked(model):
    counts = np.ma.MaskedArray(np.arange(8).reshape(2, 4), np.eye(2, 4))
    expected = np.where(np.eye(2, 4, dtype=bool), np.nan, np.arange(8.0).reshape(2, 4))
    np.testing.assert_array_equal(model.transform(counts), model.transform(expected))
    assert model.impute(counts.data).dtype == counts.dtype
    assert rows.unmasked(counts[:, 2:]).dtype == counts.dtype


def test_a_mask_of_an_array_that_is_read_by_slices_is_kept():
    class Chunked:
        def __init__(self, array):
            self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (10, 4)

        def __getitem__(self, rows):
            return self.array[rows]

    np.testing.assert_array_equal(new().fit(Chunked(MASKED)).components_, new().fit(GAPS).components_)
    with pytest.raises(ValueError, match="masked integers, but only floats can be missing"):
        new().fit(Chunked(MASKED.astype(np.int64)))


# --- Dates

DAYS = np.arange("2024-01-01", "2024-03-01", dtype="datetime64[D]").reshape(60, 1)
DATES = {
    "dates": (DAYS, r"X holds dates or times \(datetime64\[D\]\)"),
    "durations": (DAYS - DAYS[0], r"X holds dates or times \(timedelta64\[D\]\)"),
    "not a time": (np.full((60, 2), "NaT", "datetime64[ns]"), "dates or times"),
    "masked dates": (np.ma.MaskedArray(DAYS, [[True]] * 30 + [[False]] * 30), "dates or times"),
    "a list of dates": (DAYS.tolist(), r"dates or times \(date\)"),
    "a list of numpy's": ([list(row) for row in DAYS], r"dates or times \(datetime64\[D\]\)"),
    "objects": (DAYS.astype(object), "dates or times"),
    "numpy's in objects": (np.array([[DAYS[0, 0], 1.0]] * 9, dtype=object), "dates or times"),
    "a frame of dates": (pd.DataFrame(DAYS, columns=["when"]), "dates or times in column 'when'"),
    "a column": (TABLE.assign(when=DAYS.ravel()), r"dates or times in column 'when' \(datetime64\[s\]\)"),
    "with a zone": (TABLE.assign(w=pd.Timestamp("2024", tz="UTC")), "dates or times in column 'w'"),
    "beside booleans": (TABLE.assign(a=True, when=DAYS.ravel()), "dates or times in column 'when'"),
    "two columns": (TABLE.assign(a=pd.Timedelta(1), b=DAYS.ravel()), "dates or times in column 'a', 'b'"),
    "objects in a frame": (TABLE.assign(when=[dt.date(2024, 1, 1)] * 60), "dates or times in column 'when'"),
    "categories": (TABLE.assign(when=pd.Categorical(DAYS.ravel())), "dates or times in column 'when'"),
    "polars": (pl.DataFrame({"a": X[:, 0], "when": DAYS.ravel()}), "dates or times in column 'when'"),
    "pyarrow": (pa.table({"a": X[:, 0], "when": DAYS.ravel()}), "dates or times in column 'when'"),
}


@pytest.mark.parametrize(("data", "words"), DATES.values(), ids=DATES.keys())
def test_dates_are_refused_in_plain_words(data, words, model):
    for call in (new().fit, new().partial_fit, model.score, lambda data: new().fit(iter([data]))):
        with pytest.raises(TypeError, match=rf"^[^\n]*{words}[^\n]*leave them out") as caught:
            call(data)
        assert "\n" not in str(caught.value)


# --- What comes out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_observed_has_its_bits_whatever_the_model_computes_in(dtype):
    observed, gaps, other = ~np.isnan(GAPS), GAPS.copy(), new(dtype=dtype).fit(GAPS)
    gaps[observed.nonzero()[0][0], observed.nonzero()[1][0]] = 5e-320  # which has fewer digits than others
    for given in (gaps, gaps.astype(np.float32), gaps.astype(">f8"), gaps.astype(np.longdouble)):
        found = other.impute(given)
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found[observed], given[observed])
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(other.impute(iter([given[:40], given[40:]]))[observed], given[observed])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, bool, np.float16])
def test_what_has_no_gaps_comes_back_as_it_is(dtype):
    whole = (np.arange(40).reshape(10, 4) + (2**60 if np.dtype(dtype).itemsize == 8 else 0)).astype(dtype)
    found = new(max_iter=1).fit(X).impute(whole)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, whole)


def test_a_frame_comes_back_as_a_frame(named):
    frame = TABLE.assign(a=np.arange(60), b=pd.array([1, None] * 30, dtype="Int64"), c=TABLE.c.astype("f4"))
    frame.iloc[5, 3] = np.nan
    found, std = named.impute(frame, return_std=True)
    for table in (found, std, named.reconstruct(frame)):
        assert list(table.columns) == list("abcd")
        assert table.index.equals(frame.index)
    assert found.dtypes.astype(str).tolist() == ["int64", "float64", "float32", "float64"]
    assert found.notna().to_numpy().all()
    pd.testing.assert_series_equal(found.a, frame.a)
    np.testing.assert_array_equal((std > 0).to_numpy(), frame.isna().to_numpy())
    assert frame.isna().to_numpy().sum() == 31
    whole = named.impute(parts(frame))
    pd.testing.assert_frame_equal(whole, found)


def test_a_frame_of_polars_comes_back_as_one(named):
    frame = pl.DataFrame(GAPS, schema=list("abcd"), nan_to_null=True).with_columns(pl.lit(1).alias("a"))
    found, std = named.impute(frame, return_std=True)
    assert found.schema["a"] == frame.schema["a"]
    assert found.columns == std.columns == named.reconstruct(frame).columns == list("abcd")
    assert found.null_count().sum_horizontal().item() == 0
    np.testing.assert_array_equal(found.to_numpy()[:, 1:][~np.isnan(GAPS[:, 1:])], GAPS[:, 1:][~np.isnan(GAPS[:, 1:])])


@pytest.mark.parametrize(("wish", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_frames_can_be_asked_for(wish, kind):
    for model, names in ((new().fit(X), ["x0", "x1", "x2", "x3"]), (new().fit(TABLE), list("abcd"))):
        model.set_output(transform=wish)
        given = GAPS if names[0] == "x0" else pd.DataFrame(GAPS, columns=names)
        for table in (*model.impute(given, return_std=True), model.reconstruct(given)):
            assert isinstance(table, kind)
            assert list(table.columns) == names


@pytest.mark.parametrize(
    ("given", "gap"),
    [
        (pd.DataFrame({"id": pd.array([2**60 + 1, None], dtype="Int64"), "b": 1.0}), (1, 0)),
        (pl.DataFrame({"id": [2**60 + 1, None], "b": [1.0, 1.0]}), (1, 0)),
        (np.ma.MaskedArray([[2**60 + 1, 2]] * 2, [[False, True], [False] * 2]), (0, 1)),
        (np.array([[2**60 + 1, None], [1, 1]], dtype=object), (0, 1)),
    ],
    ids=["pandas", "polars", "masked", "objects"],
)
def test_integers_that_no_float_holds_are_not_rounded(given, gap):
    missing = np.zeros((2, 2), bool)
    missing[gap] = True
    with pytest.raises(ValueError, match=r"X holds integers above 2\*\*53.*beside missing values"):
        frames.filled(given, missing, np.zeros((2, 2)))
    found = frames.filled(given, np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert found is not given
    assert int(found[0, 0] if isinstance(found, np.ndarray) else found["id"][0]) == 2**60 + 1
