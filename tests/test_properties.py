"""Whatever the data look like, learning ends in finite numbers and a bound that only rises, or in one clear refusal.

`SPARSENTROPY_CASES` says how many cases of each property are made up: a few in `make test`, thousands in the benchmark
`cases`, which also reads `TALLY`.
"""

import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding

CASES = int(os.environ.get("SPARSENTROPY_CASES", "5"))
FEW = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=CASES <= 100)
TALLY: Counter[tuple[str, str]] = Counter()
"""(property, "model" or "refusal") → how many fits ended so."""

KINDS = ("laplace", "gauss", "low rank", "integers", "one row", "sparse", "constant", "huge row")
REFUSALS = ("X has", "X is zero", "X contains", "Found array", "Input X")


@st.composite
def tables(draw):
    """Small tables of every kind that is allowed, and of some that are not."""
    n, d = draw(st.integers(1, 24)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(KINDS))
    x = random.normal(size=(n, d))
    if kind == "laplace":
        x = random.laplace(size=(n, 3)) @ random.normal(size=(3, d)) + 0.1 * x
    elif kind == "low rank":
        x = x[:, :1] @ random.normal(size=(1, d))
    elif kind == "integers":
        x = np.rint(3 * x)
    elif kind == "one row":
        x = np.repeat(x[:1], n, axis=0)
    elif kind == "sparse":
        x = np.where(random.random(x.shape) < 0.1, x, 0.0)
    elif kind == "constant":
        x[:, draw(st.integers(0, d - 1))] = draw(st.sampled_from([0.0, 1.0, -3.5]))
    elif kind == "huge row":
        x[draw(st.integers(0, n - 1))] *= 1e6
    if draw(st.booleans()):
        x = x[random.integers(0, n, size=n)]  # rows that come several times
    if draw(st.integers(0, 3)) == 0:
        x = np.where(random.random(x.shape) < 0.2, np.nan, x)
    x = x * 10.0 ** draw(st.integers(-12, 12))
    dtype = draw(st.sampled_from(["float64", "float32", "float64", "int32", ">f8", "float16"]))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return x.astype(dtype)


@st.composite
def laid_out(draw):
    """The same tables in any layout that numpy knows."""
    x = draw(tables())
    way = draw(st.sampled_from(["C", "F", "negative", "strided", "read only"]))
    if way == "F":
        return np.asfortranarray(x)
    if way == "negative":
        return x[::-1, ::-1]
    if way == "strided":
        return np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]
    x.flags.writeable = way != "read only"
    return x


@st.composite
def models(draw, **fixed):
    posterior = draw(st.sampled_from(["diagonal", "diagonal", "diagonal", "full", "low-rank"]))
    h = draw(st.integers(1, 7))
    lean = posterior == "diagonal" and draw(st.booleans())
    options = {
        "posterior": posterior,
        "rank": draw(st.integers(1, h)),
        "max_iter": draw(st.integers(1, 4)),
        "tol": draw(st.sampled_from([0.0, 1e-3, 0.5])),
        "batch_size": draw(st.sampled_from(["auto", "auto", 7, 20])),
        "low_memory": lean,
        "cache": draw(st.sampled_from(["auto", "disk", "none"])),
        "validation_fraction": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "learning": draw(st.sampled_from(["auto", "auto", "auto", "minibatch"])),
        "dtype": draw(st.sampled_from(["auto", "float32", "float64"])),
        "random_state": draw(st.integers(0, 99)),
    }
    return SparseCoding(h, **options | fixed)


def learned(what, learn, model, x):
    """Whether there is a model; if not, there was one line that says why, and nothing was changed."""
    before, fitted, refusal = np.array(x), hasattr(model, "components_"), None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="the mean of|.* nothing like those before")
        try:
            learn(x)
        except ValueError as error:
            refusal = str(error)
    np.testing.assert_array_equal(x, before)
    if refusal is not None:
        assert refusal.startswith(REFUSALS)
        assert "\n" not in refusal
        assert hasattr(model, "components_") == fitted
    TALLY[what, "model" if refusal is None else "refusal"] += 1
    return refusal is None


def fitted(what, model, x):
    return learned(what, model.fit, model, x)


def copy_of(model):
    return SparseCoding(**model.get_params())


def assert_sound(model):
    """Finite numbers, atoms of unit length."""
    for name in ("components_", "prior_scale_", "noise_variance_", "lower_bounds_", "lower_bound_", "noise_variances_"):
        assert np.isfinite(getattr(model, name)).all(), name
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-5)
    assert (model.prior_scale_ > 0).all()
    assert model.noise_variance_ > 0


def assert_usable(model, x):
    """Finite answers of the right shape."""
    codes = model.transform(x)
    assert codes.shape == (len(x), model.n_components)
    assert np.isfinite(codes).all()
    assert np.isfinite(model.inverse_transform(codes)).all()
    assert np.isfinite(model.score_samples(x)).all()
    filled, std = model.impute(x, return_std=True)
    assert np.isfinite(filled).all()
    known = np.isfinite(x.astype(float))
    np.testing.assert_allclose(filled[known], x[known], rtol=1e-5)
    assert ((std > 0) == ~known).all()


@FEW
@given(laid_out(), models())
def test_there_is_a_finite_model_or_a_refusal(x, model):
    if not fitted("finite or refused", model, x):
        return
    assert_sound(model)
    if not model.held_out_bounds_.size:
        assert model.lower_bound_ == pytest.approx(model.lower_bounds_[-1])
    # Where simpler posteriors ran ahead, those that were asked for begin anew
    assert (np.diff(model.lower_bounds_) < 0).sum() <= (model.posterior != "diagonal")
    assert_usable(model, x)


@FEW
@given(tables(), models(validation_fraction=0.0))
def test_the_bound_that_was_reported_is_one_of_these_data(x, model):
    """Scales and noise are the best for posteriors that were found, so with better ones the data are no less likely.

    Low-rank ones have several optima, so they are measured against full ones, which have a single and a better one. Up
    to rounding: the error is a difference of sums of squares, made of products of data and what is left of them.
    """
    if not fitted("bound", model, x):
        return
    if model.posterior == "low-rank":
        model.set_params(posterior="full")
    ratio = np.nanmean(np.square(x, dtype=float)) ** 0.5 / model.noise_variance_**0.5
    rounding = np.finfo(float).eps * ratio**2 + np.finfo(model.components_.dtype).eps * ratio
    assert model.score(x) >= model.lower_bound_ - 1e-5 * (1 + abs(model.lower_bound_)) - 30 * x.shape[1] * rounding


@FEW
@given(tables(), models(), st.integers(-20, 20))
def test_units_that_are_powers_of_two_change_nothing(x, model, power):
    x, other = x.astype(np.float64), copy_of(model)
    if not (fitted("powers of two", model, x) and fitted("powers of two", other, x * 2.0**power)):
        return
    np.testing.assert_array_equal(other.components_, model.components_)
    np.testing.assert_allclose(other.prior_scale_, model.prior_scale_ * 2.0**power, rtol=1e-6)


@FEW
@given(laid_out(), models())
def test_how_the_numbers_lie_in_memory_changes_nothing(x, model):
    other = copy_of(model)
    if not fitted("layout", model, x):
        return
    assert fitted("layout", other, np.array(x, dtype=x.dtype.newbyteorder("="), order="C"))
    np.testing.assert_array_equal(other.components_, model.components_)


@FEW
@given(tables(), models(validation_fraction=0.0, learning="auto"), st.integers(1, 12))
def test_a_file_and_a_stream_of_batches_give_the_same_model(x, model, size):
    mapped, streamed = copy_of(model), copy_of(model)
    whole = fitted("file and stream", model, x)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        from_file = fitted("file and stream", mapped, np.load(Path(folder) / "x.npy", mmap_mode="r"))
    batches = [x[begin : begin + size] for begin in range(0, len(x), size)]
    from_stream = learned("file and stream", lambda _: streamed.fit(iter(batches)), streamed, x)
    assert whole == from_file == from_stream
    for other in (mapped, streamed) if whole else ():
        np.testing.assert_array_equal(other.components_, model.components_)
        np.testing.assert_array_equal(other.prior_scale_, model.prior_scale_)
        assert other.lower_bound_ == model.lower_bound_


@FEW
@given(tables(), tables(), models(validation_fraction=0.0, learning="auto"))
def test_a_stream_is_learned_from_batch_by_batch(first, more, model):
    """The second table is of another kind and size: what comes is not always like what was there."""
    more = np.resize(more, (len(more), first.shape[1]))
    for batch in (first, first[::-1], more):
        if learned("partial fit", model.partial_fit, model, batch):
            assert_sound(model)
            assert_usable(model, batch)


@FEW
@given(tables(), models())
def test_a_model_comes_back_from_a_file_and_learns_on_as_before(x, model):
    if not fitted("saved", model, x):
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.safetensors")
        again = SparseCoding.load(Path(folder) / "model.safetensors")
    np.testing.assert_array_equal(again.transform(x), model.transform(x))
    np.testing.assert_array_equal(again.score_samples(x), model.score_samples(x))
    if model.learning == "minibatch":  # which leaves no sums to go on from
        return
    if learned("saved", again.partial_fit, again, x) and learned("saved", model.partial_fit, model, x):
        np.testing.assert_array_equal(again.components_, model.components_)


@FEW
@given(tables(), models())
def test_a_data_point_does_not_depend_on_those_beside_it(x, model):
    """Low-rank posteriors have several optima, and begin at directions of all: there is a bound for them alone."""
    if not fitted("alone", model, x):
        return
    alone = np.concatenate([model.score_samples(row[None]) for row in x[:5]])
    rounding = 1e-3 if model.components_.dtype == np.float32 else 1e-5
    if model.posterior == "low-rank":
        best = model.set_params(posterior="full").score_samples(x[:5])
        assert (alone <= best + rounding * (1 + np.abs(best))).all()
    else:
        np.testing.assert_allclose(alone, model.score_samples(x)[:5], rtol=rounding, atol=rounding)
