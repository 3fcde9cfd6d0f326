"""Everything a user may get wrong with the estimator: one error, one line, what was wrong and what to do."""

import errno
import io
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError

from sparsentropy import SparseCoding, storage, temporaries

X = np.random.default_rng(0).laplace(size=(30, 4))
TABLE = pd.DataFrame(X, columns=["a", "b", "c", "d"])
CODES = X[:, :2]


@dataclass(frozen=True)
class Desk:
    """What a case has in front of it: a fitted model, and a folder with model files in many conditions."""

    model: SparseCoding
    named: SparseCoding  # fitted on a table with column names
    folder: Path

    def load(self, name):
        return SparseCoding.load(self.folder / name)


def new(**parameters):
    return SparseCoding(**{"n_components": 2, "max_iter": 100, "random_state": 0, **parameters})


def fit(data, **parameters):
    return lambda _: new(**parameters).fit(data)


def with_value(value, dtype=np.float64):
    data = X.astype(dtype)
    data[3, 1] = value
    return data


def rewritten(path, target, **changes):
    """A copy of a model file with other metadata."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    fields = json.loads(content[8 : 8 + length])
    fields["__metadata__"].update(changes)
    text = json.dumps(fields).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def without(path, target, array=None, entry=None):
    """A sound file that lacks an array, or an entry of its header."""
    arrays, header = storage.load(path)
    arrays.pop(array, None)
    header.pop(entry, None)
    storage.save(target, arrays, header)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = new().fit(X)
    good = folder / "good.safetensors"
    model.save(good)
    content = good.read_bytes()
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("a,b\n1,2\n3,4\n")
    for part in (5, 100, len(content) // 2, len(content) - 1):
        (folder / f"first {part if part < 1000 else 'half'} bytes").write_bytes(content[:part])
    (folder / "all but one byte").write_bytes(content[:-1])
    (folder / "one bit").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    storage.save(folder / "run", {}, {}, kind="run")
    rewritten(good, folder / "newer", version=str(storage.VERSION + 1))
    without(good, folder / "no dictionary", array="components_")
    without(good, folder / "no statistics", array="statistics.cross")
    without(good, folder / "no parameters", entry="parameters")
    storage.save(folder / "other model", {"weights": np.ones(3)}, {"parameters": {"alpha": 1.0}})
    (folder / "locked").mkdir(mode=0o500)
    return Desk(model, new().fit(TABLE), folder)


def no_space(desk):
    """Save over a good file while the disk is full."""

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        desk.model.save(desk.folder / "good.safetensors")


SHAPE = "2D array.*Reshape your data"
NOT_FINITE = "row 3, column 1 .* remove these rows or put NaN in their place"
RESCALE = "X has values (up to|of about) .* learns from sizes between .* and .*: rescale X"
OVERFLOWS = "X has values up to .*, whose squares float64 cannot hold: rescale X"
WORDS = "could not convert string .* encode them as numbers"
NUMBERS = "must be a string or a real number.*two-dimensional array"
REAL = "Complex data not supported: give real and imaginary parts"
DENSE = "(S|s)parse .* dense .*(toarray|to_dense)"
WIDTH = "X has 3 features, but SparseCoding is expecting 4.*give the columns that the model was fitted with"
NAMES = "feature names should match.*give the columns that the model was fitted with"
DEVICE = "device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got "

DATA = {
    "nothing but NaN": (fit(np.nan * X), ValueError, "X has 4 columns without a single value.*remove these columns"),
    "a column of NaN": (fit(X * [1, np.nan, 1, 1]), ValueError, "X has 1 columns .* the first being column 1"),
    "NaN for an encoder": (
        fit(with_value(np.nan), inference="amortized"),
        ValueError,
        r"complete data, but entries of X are missing \(NaN\): use inference='iterative'",
    ),
    "infinity": (fit(with_value(np.inf)), ValueError, rf"infinity \(inf\) at {NOT_FINITE}"),
    "minus infinity": (fit(with_value(-np.inf)), ValueError, rf"infinity \(inf\) at {NOT_FINITE}"),
    "infinity in a table": (fit(TABLE.replace(X[3, 1], np.inf)), ValueError, rf"infinity \(inf\) at {NOT_FINITE}"),
    "infinity to encode": (lambda desk: desk.model.transform(with_value(np.inf)), ValueError, NOT_FINITE),
    "one dimension": (fit(X[0]), ValueError, SHAPE),
    "three dimensions": (fit(X[None]), ValueError, "dim 3.*one row per data point"),
    "a number": (fit(3.0), ValueError, SHAPE),
    "None": (fit(None), ValueError, SHAPE),
    "no rows": (fit(X[:0]), ValueError, r"0 sample\(s\).*check how the data were selected"),
    "no columns": (fit(X[:, :0]), ValueError, r"0 feature\(s\).*check how the data were selected"),
    "no rows to score": (lambda desk: desk.model.score(X[:0]), ValueError, r"0 sample\(s\).*check how"),
    "a string": (fit("photos.npy"), ValueError, WORDS),
    "words": (fit([["a", "b"]] * 5), ValueError, WORDS),
    "a column of words": (fit(TABLE.assign(c="x")), ValueError, WORDS),
    "a column of words in polars": (fit(pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})), ValueError, WORDS),
    "words among numbers": (fit(np.array([[1, "x"], [2, 3]] * 4, dtype=object)), ValueError, WORDS),
    "a dict": (fit({"a": [1, 2]}), TypeError, NUMBERS),
    "a generator of rows": (fit(row for row in X), ValueError, r"batch 0 of X must have shape \(n, d\)"),
    "ragged lists": (fit([[1, 2], [3]]), ValueError, "inhomogeneous.*give rows of equal length"),
    "complex": (fit(X + 1j), ValueError, REAL),
    "complex tensor": (fit(torch.from_numpy(X) + 1j), ValueError, REAL),
    "sparse matrix": (fit(scipy.sparse.csr_matrix(X)), TypeError, DENSE),
    "sparse array": (fit(scipy.sparse.coo_array(X)), TypeError, DENSE),
    "sparse tensor": (fit(torch.from_numpy(X).to_sparse()), TypeError, DENSE),
    "zero everywhere": (fit(np.zeros((9, 4))), ValueError, "zero everywhere.*give data that vary"),
    "huge": (fit(X * 1e200), ValueError, RESCALE),
    "huge in float32": (fit((X * 1e25).astype(np.float32)), ValueError, f"{RESCALE}, or compute in float64"),
    "huge for float32": (fit(X * 1e200, dtype="float32"), ValueError, f"{RESCALE}, or compute in float64"),
    "tiny": (fit(X * 1e-200), ValueError, RESCALE),
    "huge to encode": (lambda desk: desk.model.transform(X * 1e300), ValueError, OVERFLOWS),
    "huge to score": (lambda desk: desk.model.score(X * 1e300), ValueError, OVERFLOWS),
    "integers beyond floats": (fit([[10**400, 1]] * 5), ValueError, "int too large.*rescale"),
    "fewer rows than atoms": (
        fit(X, n_components=31),
        ValueError,
        "n_samples=30 rows, fewer than n_components=31.*at most 30",
    ),
    "too small a first batch": (lambda _: new().partial_fit(X[:1]), ValueError, "n_samples=1 rows.*give more data"),
    "narrow to transform": (lambda desk: desk.model.transform(X[:, :3]), ValueError, WIDTH),
    "narrow to score": (lambda desk: desk.model.score(X[:, :3]), ValueError, WIDTH),
    "narrow to infer": (lambda desk: desk.model.infer(X[:, :3]), ValueError, WIDTH),
    "narrow to learn on": (lambda desk: desk.model.partial_fit(X[:, :3]), ValueError, WIDTH),
    "other names": (lambda desk: desk.named.transform(TABLE.rename(columns={"a": "z"})), ValueError, NAMES),
    "names in other order": (lambda desk: desk.named.score(TABLE[["b", "a", "c", "d"]]), ValueError, NAMES),
    "numbers among names": (fit(TABLE.rename(columns={"a": 1})), TypeError, "feature names.*convert them all"),
    "codes of other width": (lambda desk: desk.model.inverse_transform(X), ValueError, r"Z must have shape \(n, 2\)"),
    "one code": (lambda desk: desk.model.inverse_transform(CODES[0]), ValueError, SHAPE),
    "codes of words": (lambda desk: desk.model.inverse_transform([["a", "b"]]), ValueError, WORDS),
    "NaN among codes": (
        lambda desk: desk.model.inverse_transform(CODES * np.nan),
        ValueError,
        "Z contains NaN.*rows",
    ),
    "sparse codes": (lambda desk: desk.model.inverse_transform(scipy.sparse.csr_array(CODES)), TypeError, DENSE),
    "sample of none": (lambda desk: desk.model.sample(0), ValueError, "n_samples must be an integer of at least 1"),
    "sample of a half": (lambda desk: desk.model.sample(0.5), TypeError, "n_samples must be an integer of at least 1"),
    "sample by a word": (
        lambda desk: desk.model.sample(1, "x"),
        ValueError,
        "random_state must be an integer .*; got 'x'",
    ),
    "impossible interval": (lambda desk: desk.model.infer(X).interval(95), ValueError, "between 0 and 1.*p=95"),
}

COUNTS = {
    f"{name}={value!r}": (
        fit(X, **{name: value}),
        error,
        f"^{name} must be (None or )?an integer of at least 1; got {value!r}",
    )
    for name in ("n_components", "rank", "max_iter", "n_init")
    for value, error in {0: ValueError, -2: ValueError, 2.5: TypeError, "two": TypeError, None: TypeError}.items()
    if (name, value) != ("n_components", None)
}

PARAMETERS = COUNTS | {
    "n_components=True": (fit(X, n_components=True), TypeError, "n_components must be None or an integer.*type bool"),
    "n_components=nan": (fit(X, n_components=np.nan), TypeError, "n_components must be None or an integer.*type float"),
    "validation_fraction=1": (fit(X, validation_fraction=1), ValueError, "from 0 to below 1; got 1"),
    "validation_fraction=-0.1": (fit(X, validation_fraction=-0.1), ValueError, "from 0 to below 1; got -0.1"),
    "validation_fraction=nan": (fit(X, validation_fraction=np.nan), ValueError, "from 0 to below 1; got nan"),
    "validation_fraction=text": (fit(X, validation_fraction="1/2"), TypeError, "below 1; got '1/2' of type str"),
    "only zeros left to learn from": (
        lambda _: SparseCoding(1, validation_fraction=0.5, random_state=0).fit([[1.0, 2.0]] + 3 * [[0.0, 0.0]]),
        ValueError,
        "is zero in all 2 rows that are left to learn from.*or set validation_fraction=0",
    ),
    "far beyond the noise": (
        lambda _: SparseCoding(1, max_iter=1, dtype="float32", random_state=0).partial_fit(X).transform(1e17 * X),
        ValueError,
        "whose squares float32 cannot hold: rescale X, or compute in float64",
    ),
    "validation_fraction=True": (fit(X, validation_fraction=True), TypeError, "below 1; got True of type bool"),
    "nothing left to learn from": (
        fit(X, validation_fraction=0.999),
        ValueError,
        "fewer than n_components.*give more data",
    ),
    "low_memory=1": (fit(X, low_memory=1), TypeError, "low_memory must be True or False; got 1"),
    "low_memory of full posteriors": (
        fit(X, low_memory=True, posterior="full"),
        ValueError,
        "low_memory=True needs posterior='diagonal'; got posterior='full'",
    ),
    "unknown inference": (fit(X, inference="banana"), ValueError, "inference must be one of 'iterative', .*'banana'"),
    "unknown encoder": (fit(X, encoder="banana"), ValueError, "encoder must be one of 'unrolled', .*'banana'"),
    "refine=-1": (fit(X, refine=-1), ValueError, "refine must be an integer of at least 0; got -1"),
    "refine=1.5": (fit(X, refine=1.5), TypeError, "refine must be an integer of at least 0; got 1.5"),
    "full posteriors by an encoder": (
        fit(X, inference="amortized", posterior="full"),
        ValueError,
        "inference='amortized' needs posterior='diagonal' or 'low-rank'",
    ),
    "low-rank posteriors by an unrolled E-step": (
        fit(X, inference="amortized", posterior="low-rank", rank=1),
        ValueError,
        "encoder='unrolled' is the E-step of posterior='diagonal'.*use encoder='residual' or 'mlp'",
    ),
    "an encoder that is not there": (
        lambda desk: desk.model.set_params(inference="amortized").transform(X),
        ValueError,
        "needs an encoder, but the model was fitted without one: fit again",
    ),
    "a stream for a network": (
        lambda _: new(inference="amortized", encoder="mlp").partial_fit(X),
        ValueError,
        "partial_fit needs encoder='unrolled'.*got 'mlp'",
    ),
    "unknown annealing": (
        fit(X, annealing="banana"),
        ValueError,
        "annealing must be 'prior', .* or None; got 'banana'",
    ),
    "annealing=number": (fit(X, annealing=2.0), ValueError, "annealing must be 'prior', .* or None; got 2.0"),
    "annealing without a pair": (
        fit(X, annealing=lambda _: 2.0),
        ValueError,
        "must return two positive, finite weights.*at step 0 it returned 2.0",
    ),
    "unknown posterior": (fit(X, posterior="banana"), ValueError, "posterior must be one of 'diagonal', .*'banana'"),
    "posterior=None": (fit(X, posterior=None), ValueError, "posterior must be one of 'diagonal', .*None"),
    "posterior=list": (fit(X, posterior=["full"]), ValueError, "posterior must be one of 'diagonal'"),
    "rank above n_components": (
        fit(X, posterior="low-rank", rank=3),
        ValueError,
        "rank must be at most n_components=2; got rank=3",
    ),
    "tol=-1": (fit(X, tol=-1), ValueError, "tol must be a finite number of at least 0.*-1"),
    "tol=nan": (fit(X, tol=np.nan), ValueError, "tol must be a finite number of at least 0.*nan"),
    "tol=inf": (fit(X, tol=np.inf), ValueError, "tol must be a finite number of at least 0.*inf"),
    "tol=word": (fit(X, tol="small"), TypeError, "tol must be a number of at least 0.*'small'"),
    "tol=True": (fit(X, tol=True), TypeError, "tol must be a number of at least 0.*bool"),
    "batch_size=0": (fit(X, batch_size=0), ValueError, "batch_size must be 'auto' or an integer of at least 1; got 0"),
    "batch_size=word": (fit(X, batch_size="all"), TypeError, "batch_size must be 'auto' or an integer.*'all'"),
    "batch_size=array": (fit(X, batch_size=np.ones(2)), TypeError, "batch_size must be 'auto' or an integer"),
    "batch_size=True": (fit(X, batch_size=True), TypeError, "batch_size must be 'auto' or an integer.*bool"),
    "random_state=word": (fit(X, random_state="x"), ValueError, "random_state must be an integer from 0 .*'x'"),
    "random_state=-1": (fit(X, random_state=-1), ValueError, "random_state must be an integer from 0 .*-1"),
    "random_state=1.5": (fit(X, random_state=1.5), ValueError, "random_state must be an integer from 0 .*1.5"),
    "device=tpu": (fit(X, device="tpu"), ValueError, DEVICE + "'tpu'"),
    "device=mps": (fit(X, device="mps"), ValueError, DEVICE + "'mps'"),
    "device=cuda:x": (fit(X, device="cuda:x"), ValueError, DEVICE + "'cuda:x'"),
    "device=None": (fit(X, device=None), ValueError, DEVICE + "None"),
    "device=cuda:99": (
        fit(X, device="cuda:99"),
        ValueError,
        r"no CUDA device number 99 found \(\d+ .*device='cpu'",
    ),
    "dtype=float16": (fit(X, dtype="float16"), ValueError, "dtype must be one of 'auto', .*'float16'"),
    "dtype=type": (fit(X, dtype=np.float32), ValueError, "dtype must be one of 'auto', 'float32'"),
    "verbose=-1": (fit(X, verbose=-1), ValueError, "verbose must be an integer of at least 0; got -1"),
    "verbose=word": (fit(X, verbose="yes"), TypeError, "verbose must be an integer of at least 0; got 'yes'"),
    "callback=word": (fit(X, callback="print"), TypeError, "callback must be callable or None; got 'print'"),
    "parameters of a stream": (
        lambda desk: desk.model.set_params(tol=-1).partial_fit(X),
        ValueError,
        "tol must be a finite number",
    ),
}

NOT_YET = "not fitted yet. Call 'fit'"
NOT_FITTED = {
    f"{name} before fit": (lambda _, name=name, given=given: getattr(new(), name)(*given), NotFittedError, NOT_YET)
    for name, given in {
        "transform": (X,),
        "inverse_transform": (CODES,),
        "infer": (X,),
        "score": (X,),
        "score_samples": (X,),
        "sample": (),
        "save": ("nowhere.safetensors",),
        "get_feature_names_out": (),
    }.items()
}

AGAIN = "copy or save it again"
NOT_SAVED = "not written by SparseCoding.save"
FILES = {
    "missing file": (lambda desk: desk.load("nothing"), FileNotFoundError, "nothing cannot be read.*check the path"),
    "folder": (lambda desk: desk.load("."), IsADirectoryError, "it is a folder, give a file name"),
    "no path": (lambda _: SparseCoding.load(3), TypeError, "path must be a str or pathlib.Path, got int"),
    "empty file": (
        lambda desk: desk.load("empty"),
        ValueError,
        "empty is not a safetensors file; expected one",
    ),
    "text file": (lambda desk: desk.load("text"), ValueError, "text is not a safetensors file; expected one"),
    "five bytes": (lambda desk: desk.load("first 5 bytes"), ValueError, "is not a safetensors file"),
    "hundred bytes": (lambda desk: desk.load("first 100 bytes"), ValueError, f"is cut short.*{AGAIN}"),
    "half a file": (lambda desk: desk.load("first half bytes"), ValueError, f"cut short.*{AGAIN}"),
    "a byte too few": (lambda desk: desk.load("all but one byte"), ValueError, f"cut short.*{AGAIN}"),
    "a wrong bit": (lambda desk: desk.load("one bit"), ValueError, f"is damaged.*{AGAIN}"),
    "another kind": (lambda desk: desk.load("run"), ValueError, "holds a run, expected a model; give another file"),
    "newer version": (lambda desk: desk.load("newer"), ValueError, "format version [0-9]+, .* upgrade sparsentropy"),
    "no dictionary": (lambda desk: desk.load("no dictionary"), ValueError, f"without 'components_'.*{NOT_SAVED}"),
    "no statistics": (lambda desk: desk.load("no statistics"), ValueError, f"without 'statistics.cross'.*{NOT_SAVED}"),
    "no parameters": (lambda desk: desk.load("no parameters"), ValueError, f"without 'parameters'.*{NOT_SAVED}"),
    "another model": (lambda desk: desk.load("other model"), ValueError, NOT_SAVED),
    "save into nowhere": (
        lambda desk: desk.model.save(desk.folder / "no" / "model"),
        FileNotFoundError,
        "model cannot be written.*check that its folder exists",
    ),
    "save over a folder": (
        lambda desk: desk.model.save(desk.folder / "locked"),
        IsADirectoryError,
        "locked cannot be written.*give a file name",
    ),
    "full disk": (no_space, OSError, "No space left.*What was there before is unchanged"),
}

CASES = DATA | PARAMETERS | NOT_FITTED | FILES
each_case = pytest.mark.parametrize(("call", "error", "words"), CASES.values(), ids=CASES.keys())


def snapshot(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def state(model):
    """Every attribute of a model in a form that can be compared."""
    return {name: (id(value), np.array(value, dtype=object).tolist()) for name, value in vars(model).items()}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(call, desk):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what the table says
        call(desk)
    return caught.value


@each_case
def test_a_mistake_is_one_error_in_one_line(desk, call, error, words):
    parameters = desk.model.get_params()
    raised = refused(call, desk)
    desk.model.set_params(**parameters)
    assert type(raised) is error
    assert raised.__cause__ is None
    assert raised.__context__ is None or raised.__suppress_context__
    message = str(raised)
    assert "\n" not in message
    assert len(message) < 500
    assert re.search(words, message), message


@each_case
def test_a_mistake_leaves_nothing_behind(desk, tmp_path, call, error, words):
    before, fitted = snapshot(desk.folder), (state(desk.model), state(desk.named))
    parameters = desk.model.get_params()
    refused(call, desk)
    desk.model.set_params(**parameters)
    assert snapshot(desk.folder) == before
    assert not list(tmp_path.iterdir())
    assert (state(desk.model), state(desk.named)) == fitted


def test_the_table_is_as_long_as_promised():
    assert len(CASES) >= 45


@pytest.mark.parametrize("data", [with_value(np.inf), X[:, :3] * 0, X[:1], "words"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_estimator_that_never_learned_stays_unfitted(method, data):
    model = new()
    assert isinstance(refused(lambda _: getattr(model, method)(data), None), ValueError)
    assert vars(model) == vars(new())
    with pytest.raises(NotFittedError):
        model.transform(X)


@pytest.mark.parametrize("data", [with_value(np.inf)[:, :3], X[:, :3] * 0, X[:1, :3]])
def test_a_model_survives_a_fit_that_fails(data):
    model = new().fit(TABLE)
    before, codes = state(model), model.transform(TABLE)
    assert isinstance(refused(lambda _: model.fit(data), None), ValueError)
    assert state(model) == before
    np.testing.assert_array_equal(model.transform(TABLE), codes)


def test_an_error_in_the_callback_is_the_users_own():
    def broken(progress):
        raise ZeroDivisionError("mine")

    model = new(callback=broken)
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.fit(X)
    assert "components_" not in vars(model)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(desk):
    raised = refused(lambda desk: desk.model.save(desk.folder / "locked" / "model"), desk)
    assert type(raised) is PermissionError
    assert re.search("cannot be written.*may be written to", str(raised))
    assert not list((desk.folder / "locked").iterdir())


class SmallDisk(io.FileIO):
    """A file on a disk with room for a hundred bytes."""

    def __init__(self, path, mode, opener):
        super().__init__(path, mode, opener=opener)

    def write(self, data):
        super().write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_while_writing_keeps_the_old_file(desk, tmp_path, monkeypatch):
    shutil.copy(desk.folder / "good.safetensors", tmp_path / "model")
    before = snapshot(tmp_path)
    monkeypatch.setattr(temporaries, "open", SmallDisk, raising=False)
    raised = refused(lambda desk: desk.model.save(tmp_path / "model"), desk)
    monkeypatch.undo()
    assert "No space left" in str(raised)
    assert snapshot(tmp_path) == before
