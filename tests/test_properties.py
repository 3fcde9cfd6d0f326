"""Whatever the data look like, learning ends in finite numbers and a bound that only rises, or in one clear refusal.

`SPARSENTROPY_CASES` says how many cases are made up; `make test` makes a few, the benchmark `cases` ten thousand.
"""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding

CASES = int(os.environ.get("SPARSENTROPY_CASES", "25"))
FEW = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=CASES <= 100)


@st.composite
def tables(draw):
    """Small tables of every kind that is allowed, and of some that are not."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(
        st.sampled_from(["laplace", "gauss", "low rank", "integers", "one row", "sparse", "constant", "huge row"])
    )
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
        x = x.astype(dtype)
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
def models(draw):
    posterior = draw(st.sampled_from(["diagonal", "diagonal", "full", "low-rank"]))
    h = draw(st.integers(1, 9))
    lean = posterior == "diagonal" and draw(st.booleans())
    return SparseCoding(
        h,
        posterior=posterior,
        rank=draw(st.integers(1, h)),
        max_iter=draw(st.integers(1, 7)),
        tol=draw(st.sampled_from([0.0, 1e-3, 0.5])),
        batch_size=draw(st.sampled_from(["auto", 1, 5])),
        low_memory=lean,
        cache=draw(st.sampled_from(["auto", "disk", "none"])),
        validation_fraction=draw(st.sampled_from([0.0, 0.0, 0.3])),
        dtype=draw(st.sampled_from(["auto", "float32", "float64"])),
        random_state=draw(st.integers(0, 99)),
    )


def fitted(model, x):
    """Whether there is a model; if not, there was one line that says why."""
    before, refusal = np.array(x), None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model.fit(x)
        except ValueError as error:
            refusal = str(error)
    np.testing.assert_array_equal(x, before)
    if refusal is not None:
        assert refusal.startswith(("X has", "X is zero", "X contains", "Found array", "Input X"))
        assert "\n" not in refusal
        assert not hasattr(model, "components_")
    return refusal is None


@FEW
@given(tables(), models())
def test_there_is_a_finite_model_or_a_refusal(x, model):
    if not fitted(model, x):
        return
    for name in ("components_", "prior_scale_", "noise_variance_", "lower_bounds_", "lower_bound_", "noise_variances_"):
        assert np.isfinite(getattr(model, name)).all(), name
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-4)
    assert (model.prior_scale_ > 0).all()
    assert model.noise_variance_ > 0
    if not model.held_out_bounds_.size:
        assert model.lower_bound_ == pytest.approx(model.lower_bounds_[-1])
    # Where simpler posteriors ran ahead, those that were asked for begin anew
    assert (np.diff(model.lower_bounds_) < 0).sum() <= (model.posterior != "diagonal")
    codes = model.transform(x)
    assert codes.shape == (len(x), model.n_components)
    assert np.isfinite(codes).all()
    assert np.isfinite(model.score_samples(x)).all()
    filled = model.impute(x)
    assert np.isfinite(filled).all()
    known = np.isfinite(x.astype(float))
    np.testing.assert_allclose(filled[known], x[known], rtol=1e-5)
    assert np.isfinite(model.inverse_transform(codes)).all()


@FEW
@given(tables(), models(), st.integers(-20, 20))
def test_units_that_are_powers_of_two_change_nothing(x, model, power):
    x = x.astype(np.float64)
    other = SparseCoding(**model.get_params())
    if not (fitted(model, x) and fitted(other, x * 2.0**power)):
        return
    np.testing.assert_array_equal(other.components_, model.components_)
    np.testing.assert_allclose(other.prior_scale_, model.prior_scale_ * 2.0**power, rtol=1e-6)


@FEW
@given(tables(), models())
def test_how_the_numbers_lie_in_memory_changes_nothing(x, model):
    other = SparseCoding(**model.get_params())
    if not fitted(model, x):
        return
    assert fitted(other, np.array(x, dtype=x.dtype.newbyteorder("="), order="C"))
    np.testing.assert_array_equal(other.components_, model.components_)
