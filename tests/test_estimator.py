"""What `SparseCoding` promises: scikit-learn's contract, what it learns, and the same answer for the same data."""

import functools
import io
import itertools
import math
import pickle
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.optimize
import torch
from scipy.special import erf
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from cases import double, exact_log_likelihood
from sparsentropy import Progress, SparseCoding, fitting, model_file, schedules
from sparsentropy.datasets import make_bars
from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import gradient
from sparsentropy.metrics import dictionary_match
from sparsentropy.model import Parameters
from sparsentropy.posteriors import Diagonal, Full, LowRank

POSTERIORS = {"diagonal": Diagonal, "low-rank": LowRank, "full": Full}
each_posterior = pytest.mark.parametrize("posterior", POSTERIORS)


def table(n=300, d=6, h=4, seed=0, noise=0.1):
    """Data that fit the model: Laplace codes, and atoms with angles of their own."""
    draw = np.random.default_rng(12)
    dictionary = 2 * np.linalg.qr(draw.normal(size=(d, h))).Q.T + 0.2 * draw.normal(size=(h, d))
    rng = np.random.default_rng(seed)
    return rng.laplace(size=(n, h)) @ dictionary + noise * rng.normal(size=(n, d))


X = table()
X.setflags(write=False)
HELD_OUT = table(seed=1)
SETTINGS = {"n_components": 4, "rank": 2, "max_iter": 300, "random_state": 0}
SHORT = {"tol": 1e3}  # converged as soon as may be


def new(**parameters):
    return SparseCoding(**{**SETTINGS, **parameters})


@functools.cache
def fitted(**parameters):
    """A model of X that no test may change."""
    return new(**parameters).fit(X)


@functools.cache
def bars_and_model(posterior, seed):
    bars = make_bars(1000, noise_std=0.1, seed=seed)
    return bars, SparseCoding(10, posterior=posterior, random_state=seed).fit(bars.data)


def assert_same_model(one, other):
    for name in (*model_file.ARRAYS, *model_file.NUMBERS):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(one.transform(HELD_OUT), other.transform(HELD_OUT))


# scikit-learn's contract


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:the mean of")
@parametrize_with_checks(
    [SparseCoding(2, posterior=name, rank=1, max_iter=4) for name in POSTERIORS]
    + [SparseCoding(2, inference="amortized", max_iter=4)]
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_posterior
def test_fitted_attributes(posterior, dtype):
    model = new(posterior=posterior).fit(X.astype(dtype))
    assert model.components_.shape == (4, 6)
    assert model.prior_scale_.shape == (4,)
    assert model.components_.dtype == model.prior_scale_.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=4 * np.finfo(dtype).eps)
    assert (model.prior_scale_ > 0).all()
    assert isinstance(model.noise_variance_, float)
    assert model.noise_variance_ > 0
    assert model.n_features_in_ == 6
    assert model.n_samples_seen_ == 300
    assert model.converged_ is True
    assert model.interrupted_ is False
    assert model.lower_bounds_.shape == model.noise_variances_.shape == (model.n_iter_,)
    assert model.lower_bound_ == model.lower_bounds_[-1]
    assert model.noise_variance_ == pytest.approx(model.noise_variances_[-1])
    codes = model.transform(X.astype(dtype))
    assert codes.shape == (300, 4)
    assert codes.dtype == model.inverse_transform(codes).dtype == dtype
    assert model.score_samples(X.astype(dtype)).shape == (300,)


@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_dtype_is_what_was_asked_for(wanted):
    model = new(dtype=wanted).fit(X)
    assert model.components_.dtype == model.transform(X).dtype == np.dtype(wanted)
    np.testing.assert_allclose(model.components_, fitted().components_, atol=1e-2)


def test_parameters_are_never_changed():
    before = new().get_params()
    model = new().fit(X)
    model.partial_fit(X[:50])
    assert model.get_params() == before
    assert clone(model).get_params() == before
    assert not hasattr(clone(model), "components_")
    assert model.set_params(n_components=3, tol=0.1).get_params()["tol"] == 0.1


def test_grid_search_finds_the_number_of_atoms_and_the_better_posterior():
    # Atoms that overlap: where they hardly do, as in `table`, both posteriors are as good up to what sampling hides
    dictionary = np.random.default_rng(12).normal(size=(4, 6))

    def data(seed):
        rng = np.random.default_rng(seed)
        return rng.laplace(size=(300, 4)) @ dictionary + 0.3 * rng.normal(size=(300, 6))

    grid = {"n_components": [2, 4], "posterior": ["diagonal", "full"]}
    search = GridSearchCV(new(tol=0.01), grid, cv=2).fit(data(0))
    assert search.best_params_ == {"n_components": 4, "posterior": "full"}
    assert search.best_score_ == pytest.approx(search.best_estimator_.score(data(1)), abs=0.5)


def test_grid_search_goes_over_schedules():
    search = GridSearchCV(new(tol=0.1), {"annealing": [None, "prior", "beta"]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()


def test_pipeline_and_names_of_columns():
    pipeline = make_pipeline(StandardScaler(), new()).set_output(transform="pandas")
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(300) * 2)
    codes = pipeline.fit_transform(frame)
    assert list(codes.columns) == ["sparsecoding0", "sparsecoding1", "sparsecoding2", "sparsecoding3"]
    assert (codes.index == frame.index).all()
    assert list(pipeline[-1].feature_names_in_) == [*"abcdef"]
    np.testing.assert_array_equal(pipeline.transform(frame), codes)


def test_names_of_columns_come_from_the_table_alone():
    model = new().fit(pl.DataFrame(X, schema=list("abcdef")))
    assert list(model.feature_names_in_) == [*"abcdef"]
    assert model.set_output(transform="polars").transform(pl.DataFrame(X, schema=list("abcdef"))).shape == (300, 4)
    assert not hasattr(model.fit(X), "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but SparseCoding was fitted without"):
        model.transform(pd.DataFrame(X, columns=list("abcdef")))


# what comes in


WHOLE = np.round(10 * X)


def mapped(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


FORMS = {
    "list": lambda _: X.tolist(),
    "tensor": lambda _: torch.tensor(X),
    "tensor with gradient": lambda _: torch.tensor(X, requires_grad=True),
    "part of a tensor": lambda _: torch.tensor(X).T.contiguous().T,
    "pandas": lambda _: pd.DataFrame(X),
    "polars": lambda _: pl.DataFrame(X),
    "Fortran order": lambda _: np.asfortranarray(X),
    "every other row": lambda _: np.repeat(X, 2, axis=0)[::2],
    "negative strides": lambda _: X[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda _: X.astype(">f8"),
    "objects": lambda _: X.astype(object),
    "file in memory": mapped,
    "writable": lambda _: X.copy(),
}
ROUNDED = {
    "float32": (lambda: X.astype(np.float32), X.astype(np.float32)),
    "float32 tensor": (lambda: torch.tensor(X).float(), X.astype(np.float32)),
    "float16 tensor": (lambda: torch.tensor(X).half(), X.astype(np.float16).astype(np.float32)),
    "bfloat16 tensor": (lambda: torch.tensor(X).bfloat16(), torch.tensor(X).bfloat16().float().numpy()),
    "float16": (lambda: X.astype(np.float16), X.astype(np.float16).astype(np.float64)),
    "int64": (lambda: WHOLE.astype(np.int64), WHOLE),
    "int8 tensor": (lambda: torch.tensor(WHOLE.clip(-128, 127)).to(torch.int8), WHOLE.clip(-128, 127)),
    "nullable integers": (lambda: pd.DataFrame(WHOLE).astype("Int64"), WHOLE),
    "bool": (lambda: X > 0, (X > 0).astype(np.float64)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_form_of_the_data_does_not_matter(form, tmp_path):
    data = form(tmp_path)
    model = new(**SHORT).fit(data)
    np.testing.assert_array_equal(model.components_, fitted(**SHORT).components_)
    np.testing.assert_array_equal(model.transform(data), fitted(**SHORT).transform(X))
    assert model.score(data) == fitted(**SHORT).score(X)


@pytest.mark.parametrize(("form", "same"), ROUNDED.values(), ids=ROUNDED.keys())
def test_the_type_of_the_numbers_decides_the_arithmetic(form, same):
    model, plain = (new(**SHORT).fit(data) for data in (form(), same))
    assert model.components_.dtype == plain.components_.dtype == same.dtype
    np.testing.assert_array_equal(model.components_, plain.components_)
    np.testing.assert_array_equal(model.transform(form()), plain.transform(same))


def test_data_are_never_changed():
    data = X.copy()
    model = new(**SHORT).fit(data).partial_fit(data)
    for method in (model.transform, model.score, model.infer):
        method(data)
    codes = model.transform(data)
    model.inverse_transform(codes)
    np.testing.assert_array_equal(codes, model.transform(data))
    np.testing.assert_array_equal(data, X)


# what is learned


@pytest.mark.parametrize("seed", range(3))
def test_bars_are_found_with_their_scale_and_noise(seed):
    bars, model = bars_and_model("full", seed)
    assert dictionary_match(model.components_, bars.dictionary.T).cosines.min() >= 0.95
    assert model.noise_variance_**0.5 == pytest.approx(0.1, rel=0.05)
    # A bar has length √5, codes have scale 1
    assert np.median(model.prior_scale_) == pytest.approx(5**0.5, rel=0.1)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_the_bound_rises_and_is_the_score_of_the_training_data(posterior):
    bars, model = bars_and_model(posterior, 0)
    assert (np.diff(model.lower_bounds_) >= 0).all()
    # Learning stops short of the optimum of the E-step, the score does not
    assert model.score(bars.data) >= model.lower_bound_ - 1e-6
    assert model.score(bars.data) == pytest.approx(model.lower_bound_, abs=0.01)


def test_a_richer_posterior_has_a_better_bound():
    model = pickle.loads(pickle.dumps(fitted()))
    # Rank 1: with rank 2 of 4 the last two differ by less than the solvers' tolerance
    scores = [model.set_params(posterior=name, rank=1).score(HELD_OUT) for name in POSTERIORS]
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize("c", [1.0, 100.0])
def test_the_score_is_below_the_exact_log_likelihood(c):
    data = c * table(50, d=1, h=1)
    model = SparseCoding(1, random_state=0).fit(data)
    parameters = Parameters(
        double(model.components_.T.tolist()), double(model.prior_scale_.tolist()), double(model.noise_variance_)
    )
    gap = exact_log_likelihood(torch.tensor(data), parameters).numpy() - model.score_samples(data)
    assert gap.min() > -1e-9
    assert gap.mean() < 0.1
    assert model.score(data) == pytest.approx(model.score_samples(data).mean())


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_intervals_are_in_data_units(posterior):
    data = 300 * table(200, d=3, h=1)
    model = SparseCoding(1, posterior=posterior, random_state=0).fit(data)
    assert model.data_scale_ > 1
    mean, std = np.array([best_mean_and_std(x, model) for x in data[:10]]).T
    low, high = (end[:, 0].numpy() for end in model.infer(data[:10]).interval(0.9))
    np.testing.assert_allclose(model.transform(data[:10])[:, 0], mean, rtol=1e-4, atol=1e-4 * model.prior_scale_[0])
    np.testing.assert_allclose(high - low, 2 * 1.6448536 * std, rtol=1e-3)
    np.testing.assert_allclose((high + low) / 2, mean, rtol=1e-4, atol=1e-4 * model.prior_scale_[0])


def best_mean_and_std(x, model):
    """The optimum for one atom by a general-purpose minimiser."""
    atom, scale, noise = model.components_[0], model.prior_scale_[0], model.noise_variance_

    def energy(point):
        mean, std = scale * point[0], scale * np.exp(point[1])
        z = mean / std
        absolute = mean * erf(z / 2**0.5) + std * (2 / np.pi) ** 0.5 * np.exp(-(z**2) / 2)
        return ((x - atom * mean) @ (x - atom * mean) + std**2) / (2 * noise) + absolute / scale - np.log(std)

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 8000}
    found = scipy.optimize.minimize(energy, [atom @ x / scale, 0.0], method="Nelder-Mead", options=options)
    assert found.success
    return scale * found.x[0], scale * np.exp(found.x[1])


@each_posterior
def test_infer_returns_the_family_that_was_asked_for(posterior):
    model = fitted(posterior=posterior)
    q = model.infer(HELD_OUT)
    assert isinstance(q, POSTERIORS[posterior])
    np.testing.assert_array_equal(q.mean.numpy(), model.transform(HELD_OUT))
    assert q.variance.shape == (300, 4)
    assert (q.variance > 0).all()


def test_codes_explain_the_data_up_to_the_noise():
    model = fitted(posterior="full")
    residual = HELD_OUT - model.inverse_transform(model.transform(HELD_OUT))
    assert residual.std() < 0.11
    np.testing.assert_array_equal(model.inverse_transform(torch.eye(4)), model.components_)
    np.testing.assert_array_equal(model.inverse_transform(pd.DataFrame(np.eye(4))), model.components_)


def test_samples_have_the_statistics_of_the_model():
    model = new().fit(100 * X)
    data, codes = model.sample(200_000, random_state=0)
    assert data.shape == (200_000, 6)
    np.testing.assert_allclose(np.abs(codes).mean(0), model.prior_scale_, rtol=0.02)
    np.testing.assert_allclose((codes**2).mean(0), 2 * model.prior_scale_**2, rtol=0.05)
    assert (data - model.inverse_transform(codes)).var() == pytest.approx(model.noise_variance_, rel=0.01)
    again = model.sample(200_000, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(again[0], data)
    assert not np.array_equal(model.sample(3, random_state=1)[0], data[:3])


def test_surplus_atoms_have_small_scales():
    bars = make_bars(500, size=3, noise_std=0.1, seed=0)
    model = SparseCoding(60, random_state=0, tol=0.05).fit(bars.data)
    scales = np.sort(model.prior_scale_)[::-1]
    # Six bars span five dimensions, and codes that are thought independent want no more atoms than that
    assert (scales[:5] > 1).all()
    assert (scales[5:] < 0.05).all()


def test_ten_times_too_many_atoms_leave_the_bars_with_the_large_scales():
    bars = make_bars(1000, seed=0)
    model = SparseCoding(100, random_state=0).fit(bars.data)
    order = np.argsort(-model.prior_scale_)
    # Ten bars span nine dimensions, and diagonal posteriors prefer a basis of nine atoms
    assert model.prior_scale_[order[8]] > 20 * model.prior_scale_[order[9]]
    basis = np.linalg.qr(model.components_[order[:9]].T)[0]
    inside = np.linalg.norm(basis.T @ bars.dictionary, axis=0) / np.linalg.norm(bars.dictionary, axis=0)
    assert inside.min() > 0.99


# the same for rescaled data


@pytest.mark.parametrize("c", [2.0**-20, 2.0**20])
@each_posterior
def test_powers_of_two_are_exact(posterior, c):
    model, plain = new(posterior=posterior).fit(c * X), fitted(posterior=posterior)
    np.testing.assert_array_equal(model.components_, plain.components_)
    np.testing.assert_array_equal(model.prior_scale_, c * plain.prior_scale_)
    np.testing.assert_array_equal(model.transform(c * X), c * plain.transform(X))
    assert model.noise_variance_ == c**2 * plain.noise_variance_


each_factor = pytest.mark.parametrize("c", [1e-6, 1e-3, 1e3, 1e6])


@each_factor
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_codes_follow_the_scale_of_the_data(posterior, c):
    plain, model = fitted(posterior=posterior), new(posterior=posterior).fit(c * X)
    codes = plain.transform(X)
    np.testing.assert_allclose(model.components_, plain.components_, atol=1e-6)
    np.testing.assert_allclose(model.transform(c * X) / c, codes, atol=1e-6 * np.abs(codes).max())
    np.testing.assert_allclose(model.prior_scale_ / c, plain.prior_scale_, rtol=1e-6)
    assert model.noise_variance_ / c**2 == pytest.approx(plain.noise_variance_, rel=1e-6)
    assert model.lower_bound_ == pytest.approx(plain.lower_bound_ - 6 * np.log(c), abs=1e-6)
    assert model.score(c * X) == pytest.approx(plain.score(X) - 6 * np.log(c), abs=1e-6)


@each_factor
def test_codes_follow_the_scale_of_the_data_in_float32(c):
    data, plain = (c * X).astype(np.float32), fitted(posterior="full", dtype="float32")
    model = new(posterior="full").fit(data)
    codes = plain.transform(X)
    np.testing.assert_allclose(model.components_, plain.components_, atol=5e-3)
    np.testing.assert_allclose(model.transform(data) / c, codes, atol=5e-3 * np.abs(codes).max())
    assert model.noise_variance_ / c**2 == pytest.approx(plain.noise_variance_, rel=5e-3)
    assert model.score(data) == pytest.approx(plain.score(X) - 6 * np.log(c), abs=5e-3)


# randomness


@each_posterior
def test_the_same_seed_gives_the_same_bits(posterior):
    assert_same_model(new(posterior=posterior).fit(X), fitted(posterior=posterior))


def test_other_seeds_begin_elsewhere():
    first, second = (new(random_state=seed).fit(X).lower_bounds_[0] for seed in (1, 2))
    assert first != second


def test_a_random_state_moves_on():
    random = np.random.RandomState(0)
    model = new(random_state=random)
    first, second = (model.fit(X).lower_bounds_[0] for _ in range(2))
    assert first != second
    assert new(random_state=np.random.RandomState(0)).fit(X).lower_bounds_[0] == first == fitted().lower_bounds_[0]


def test_the_best_of_several_starts_is_kept():
    seen = []
    model = new(n_init=3, **SHORT, callback=seen.append).fit(X)
    ends = [[p.lower_bound for p in seen if p.start == start][-1] for start in (1, 2, 3)]
    assert len(set(ends)) == 3
    assert model.lower_bound_ == max(ends)
    assert model.lower_bounds_[-1] == model.lower_bound_


def test_small_batches_lead_to_the_same_model():
    model = new(batch_size=64).fit(X)
    assert model.lower_bound_ == pytest.approx(fitted().lower_bound_, abs=0.01)
    np.testing.assert_allclose(model.components_, fitted().components_, atol=0.02)


# rows set aside, and half the memory


@pytest.mark.filterwarnings(
    "ignore:SparseCoding stopped while the bound could still rise"
)  # where nothing ends it early
def test_learning_stops_when_rows_set_aside_gain_nothing_more():
    """Forty atoms on 300 rows of pure noise learn these rows by heart."""
    data = np.random.default_rng(0).normal(size=(400, 40)) * np.linspace(1, 2, 40)
    parameters = {"n_components": 40, "tol": 1e-3}
    whole = new(**parameters).fit(data[:300])
    model = new(**parameters, validation_fraction=0.25).fit(data)
    assert model.converged_
    assert model.n_samples_seen_ == 300
    assert model.held_out_bounds_.shape == model.lower_bounds_.shape == (model.n_iter_,)
    best = int(model.held_out_bounds_.argmax())
    assert model.lower_bound_ == model.lower_bounds_[best]
    assert model.n_iter_ - 1 - best <= 5
    assert whole.held_out_bounds_.shape == (0,)
    new_data = np.random.default_rng(1).normal(size=(1000, 40)) * np.linspace(1, 2, 40)
    assert model.score(new_data) > whole.score(new_data) + 0.1


def test_the_bound_of_rows_set_aside_is_that_of_new_data():
    model = new(validation_fraction=0.5).fit(np.concatenate([X, HELD_OUT]))
    assert model.held_out_bounds_.max() == pytest.approx(model.score(table(5000, seed=9)), abs=0.5)
    assert model.held_out_bounds_.max() < model.lower_bound_ + 0.5


def test_the_start_with_the_highest_bound_of_rows_set_aside_is_kept():
    several = new(validation_fraction=0.3, n_init=3, max_iter=2)
    with pytest.warns(ConvergenceWarning):
        several.fit(X)
    seen = []
    state = np.random.RandomState(0)
    for _ in range(3):
        with pytest.warns(ConvergenceWarning):
            one = new(validation_fraction=0.3, max_iter=2, random_state=state).fit(X)
        seen.append(one.held_out_bounds_.max())
    assert several.held_out_bounds_.max() == max(seen)


def test_half_the_memory_leads_to_the_same_model():
    model = new(low_memory=True).fit(X)
    assert model.lower_bound_ == pytest.approx(fitted().lower_bound_, abs=1e-3)
    assert model.score(HELD_OUT) == pytest.approx(fitted().score(HELD_OUT), abs=1e-2)


# products in full


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_keep_all_digits_whatever_a_program_has_asked_for(precision, monkeypatch):
    """TF32 on graphics processors, bfloat16 on some others."""
    data = X.astype(np.float32)
    plain = new(**SHORT).fit(data).partial_fit(data)
    asked = []
    monkeypatch.setattr(
        DiagonalSolver,
        "at",
        lambda self, parameters, at=DiagonalSolver.at: (
            asked.append(torch.get_float32_matmul_precision()) or at(self, parameters)
        ),
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        model = new(**SHORT).fit(data).partial_fit(data)
        assert model.score(data) == plain.score(data)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_same_model(model, plain)
    assert set(asked) == {"highest"}


# streams


def stream(batches, rows=100):
    return [table(rows, seed=seed) for seed in range(100, 100 + batches)]


def test_a_stream_is_learned_nearly_as_well_as_what_fits_into_memory():
    model = new(posterior="full")
    batches = [table(100, seed=seed, noise=0.5) for seed in range(100, 140)]
    held_out = table(300, seed=1, noise=0.5)
    begun = model.partial_fit(batches[0]).score(held_out)
    for batch in batches[1:]:
        model.partial_fit(batch)
    whole = new(posterior="full").fit(np.concatenate(batches))
    assert begun + 0.1 < model.score(held_out)
    assert whole.score(held_out) - 0.1 < model.score(held_out)
    assert model.n_samples_seen_ == 4000
    assert model.lower_bounds_.shape == model.noise_variances_.shape == (model.n_iter_,)
    assert model.lower_bound_ == model.lower_bounds_[-1]
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-12)


def test_a_stream_leaves_no_data_behind():
    def sizes(batches, rows):
        model = new(**SHORT)
        for batch in stream(batches, rows):
            model.partial_fit(batch)
        del model.lower_bounds_, model.noise_variances_
        return len(pickle.dumps(model))

    assert abs(sizes(2, 100) - sizes(20, 200)) < 16  # numbers may need a few more bytes


@each_posterior
def test_learning_goes_on_after_fit(posterior):
    model = new(posterior=posterior).fit(X)
    plain = fitted(posterior=posterior)
    for batch in stream(5):
        model.partial_fit(batch)
    assert model.n_iter_ == plain.n_iter_ + 5
    assert model.n_samples_seen_ == 800
    assert not np.array_equal(model.components_, plain.components_)
    assert model.score(HELD_OUT) > plain.score(HELD_OUT) - 0.05


def test_fit_forgets_what_came_before():
    model = new().fit(HELD_OUT * 1e4).partial_fit(HELD_OUT * 1e4).fit(X)
    assert_same_model(model, fitted())


# stopping


def test_progress_is_told_after_every_sweep():
    seen = []
    model = new(callback=seen.append).fit(X)
    assert all(isinstance(progress, Progress) for progress in seen)
    assert [progress.sweep for progress in seen] == list(range(1, model.n_iter_ + 1))
    assert {progress.max_sweeps for progress in seen} == {300}
    assert [progress.lower_bound for progress in seen] == list(model.lower_bounds_)
    assert [progress.noise_variance for progress in seen] == list(model.noise_variances_)
    seconds = [progress.seconds for progress in seen]
    assert seconds == sorted(seconds)
    assert {(progress.rows, progress.start) for progress in seen} == {(300, 1)}


@pytest.mark.parametrize("answer", [True, np.True_])
def test_the_callback_may_stop_learning(answer):
    model = new(callback=lambda progress: answer if progress.sweep == 3 else None).fit(X)
    assert (model.n_iter_, model.converged_, model.interrupted_) == (3, False, True)
    np.testing.assert_array_equal(model.lower_bounds_, fitted().lower_bounds_[:3])
    assert model.transform(X).shape == (300, 4)


def interrupting(sweep, start=1):
    def callback(progress):
        if (progress.start, progress.sweep) == (start, sweep):
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("sweep", [1, 4])
def test_ctrl_c_keeps_what_was_learned(sweep):
    model = new(callback=interrupting(sweep)).fit(X)
    assert (model.n_iter_, model.converged_, model.interrupted_) == (sweep, False, True)
    assert model.lower_bound_ == fitted().lower_bounds_[sweep - 1]


def test_ctrl_c_in_a_later_start_keeps_the_best():
    model = new(n_init=3, callback=interrupting(2, start=2)).fit(X)
    assert model.interrupted_
    assert model.lower_bound_ == fitted().lower_bound_


def interrupt_start(monkeypatch, number):
    """Press Ctrl-C while a start is being prepared."""
    count, truly = itertools.count(1), fitting.random_starts

    def start(*arguments):
        if next(count) == number:
            raise KeyboardInterrupt
        return truly(*arguments)

    monkeypatch.setattr(fitting, "random_starts", start)


def test_ctrl_c_before_the_first_sweep_leaves_nothing(monkeypatch):
    interrupt_start(monkeypatch, 1)
    model = new()
    with pytest.raises(KeyboardInterrupt, match="before the first sweep"):
        model.fit(X)
    assert vars(model) == vars(new())


def test_ctrl_c_before_the_first_sweep_of_a_later_start_keeps_the_earlier(monkeypatch):
    interrupt_start(monkeypatch, 2)
    model = new(n_init=3).fit(X)
    assert model.interrupted_
    assert model.lower_bound_ == fitted().lower_bound_


def test_a_part_of_the_data_never_wins_against_all_of_it():
    data = table(2000)

    def stop_in_the_second_start(progress):
        return progress.start == 2 and progress.rows < 2000 and progress.sweep > 3

    model = new(n_init=2, **SHORT, callback=stop_in_the_second_start).fit(data)
    assert model.interrupted_
    assert model.n_samples_seen_ == 2000
    assert model.n_iter_ > 0
    assert model.lower_bound_ == model.lower_bounds_[-1]


def test_too_few_sweeps_are_reported():
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2 sweeps; raise max_iter") as caught:
        model = new(max_iter=2).fit(X)
    assert caught[0].filename == __file__
    assert (model.n_iter_, model.converged_, model.interrupted_) == (2, False, False)


@pytest.mark.parametrize("verbose", [0, 1, True])
def test_verbose_is_one_line_per_sweep(verbose, capsys):
    model = new(verbose=verbose).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == verbose * model.n_iter_
    assert all("sweep" in line for line in lines)


# storage


@each_posterior
def test_what_was_saved_goes_on_as_if_nothing_had_happened(posterior, tmp_path):
    model = new(posterior=posterior).fit(X).partial_fit(stream(1)[0])
    model.save(tmp_path / "model")
    loaded = SparseCoding.load(tmp_path / "model")
    assert loaded.get_params() == model.get_params()
    assert_same_model(loaded, model)
    batch = stream(2)[1]
    assert_same_model(loaded.partial_fit(batch), model.partial_fit(batch))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_models_keep_names_and_dtype(dtype, tmp_path):
    model = new(dtype=dtype).fit(pd.DataFrame(X, columns=list("abcdef")))
    model.save(tmp_path / "model")
    loaded = SparseCoding.load(str(tmp_path / "model"))
    assert list(loaded.feature_names_in_) == [*"abcdef"]
    assert loaded.components_.dtype == dtype
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


@functools.cache
def amortized():
    return new(inference="amortized", tol=0.1).fit(X)


def test_an_encoder_takes_the_place_of_the_e_step():
    model, solved = amortized(), new().fit(X)
    assert model.converged_
    assert model.score(HELD_OUT) == pytest.approx(solved.score(HELD_OUT), abs=0.15)
    assert type(model.infer(X)) is type(solved.infer(X))
    best = pickle.loads(pickle.dumps(model)).set_params(inference="iterative").score(HELD_OUT)
    refined = pickle.loads(pickle.dumps(model)).set_params(refine=30).score(HELD_OUT)
    assert model.score(HELD_OUT) < refined < best + 1e-6
    assert best - refined < 0.2 * (best - model.score(HELD_OUT))


@pytest.mark.parametrize(
    ("posterior", "encoder"),
    [
        ("diagonal", "unrolled"),
        ("diagonal", "residual"),
        ("diagonal", "mlp"),
        ("low-rank", "residual"),
        ("low-rank", "mlp"),
    ],
)
def test_encoders_are_saved_with_the_model(posterior, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(gradient, "WARM_UP", 4)
    monkeypatch.setattr(gradient, "STEPS", 2)
    model = new(posterior=posterior, rank=2, inference="amortized", encoder=encoder, max_iter=1)
    with pytest.warns(ConvergenceWarning):
        model.fit(X)
    model.save(tmp_path / "model")
    loaded = SparseCoding.load(tmp_path / "model")
    assert_same_model(loaded, model)
    assert_same_model(pickle.loads(pickle.dumps(model)), model)
    assert type(loaded.encoder_.network) is type(model.encoder_.network)
    other = {**model.get_params(), "encoder": "residual" if encoder == "mlp" else "mlp"}
    model_file.write(tmp_path / "other", other, vars(model), model._statistics, model.encoder_.state_dict())
    with pytest.raises(ValueError, match="holds an encoder that is not of the kind"):
        SparseCoding.load(tmp_path / "other")


def test_an_encoder_answers_in_the_dtype_it_is_asked_in():
    model = pickle.loads(pickle.dumps(amortized()))
    assert model.transform(X.astype(np.float32)).dtype == np.float32
    assert model.transform(X).dtype == np.float64


def test_a_model_that_is_fitted_again_by_iterating_has_no_encoder():
    model = pickle.loads(pickle.dumps(amortized())).set_params(inference="iterative").fit(X)
    assert not hasattr(model, "encoder_")


def test_a_stream_goes_through_the_unrolled_encoder():
    model, plain = new(inference="amortized"), new()
    for part in np.split(X, 3):
        model.partial_fit(part)
        plain.partial_fit(part)
    assert model.score(HELD_OUT) == pytest.approx(plain.score(HELD_OUT), abs=0.2)


def test_starts_have_encoders_of_their_own():
    model = new(inference="amortized", n_init=2).fit(X)
    assert model.score(X) == pytest.approx(model.lower_bound_, abs=0.05)


@pytest.mark.parametrize("annealing", [schedules.geometric(prior=1.5, steps=2), "beta"])
def test_a_schedule_is_saved_with_a_model(annealing, tmp_path):
    model = new(annealing=annealing).fit(X)
    model.save(tmp_path / "model")
    assert SparseCoding.load(tmp_path / "model").annealing == annealing
    assert clone(model).annealing == annealing


@pytest.mark.parametrize("annealing", ["likelihood", schedules.likelihood(), lambda step: schedules.likelihood()(step)])
def test_annealing_is_a_name_or_a_function(annealing):
    plain, annealed = new(max_iter=100).fit(X), new(max_iter=100, annealing=annealing).fit(X)
    assert annealed.lower_bounds_[1:6].min() < annealed.lower_bounds_[0]
    assert not np.array_equal(plain.lower_bounds_, annealed.lower_bounds_)
    assert annealed.lower_bound_ == pytest.approx(plain.lower_bound_, abs=0.05)
    assert np.diff(annealed.lower_bounds_[7:]).min() >= 0


def test_the_held_out_bound_may_fall_while_annealing():
    """Patience begins after the detour: eight sweeps in which the bound only falls do not end learning."""
    model = new(annealing=schedules.constant(likelihood=0.5, steps=8), validation_fraction=0.2, max_iter=100).fit(X)
    assert len(model.held_out_bounds_) == model.n_iter_ > 12
    assert model.held_out_bounds_[1:9].max() < model.held_out_bounds_[0] < model.held_out_bounds_[-1]


def test_only_parameters_that_are_no_plain_values_are_left_out(tmp_path):
    parameters = {"n_components": np.int64(4), "tol": np.float64(0.5), "verbose": False}
    model = new(**parameters, random_state=np.random.RandomState(0), callback=print_nothing).fit(X)
    model.save(tmp_path / "model")
    loaded = SparseCoding.load(tmp_path / "model").get_params()
    assert loaded == {**model.get_params(), "random_state": None, "callback": None}


def print_nothing(progress):
    del progress


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def through_cloudpickle(model):
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(model))


def through_skops(model):
    skops = pytest.importorskip("skops.io")
    dumped = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=dumped)
    assert untrusted == ["sparsentropy.estimator.sparse_coding.SparseCoding"]
    return skops.loads(dumped, trusted=untrusted)


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "joblib": through_joblib,
    "cloudpickle": through_cloudpickle,
    "skops": through_skops,
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
@each_posterior
def test_copies_are_the_same_model(posterior, copy):
    model = fitted(posterior=posterior)
    assert_same_model(copy(model), model)
    assert_same_model(copy(model).partial_fit(HELD_OUT), copy(model).partial_fit(HELD_OUT))


def test_a_progress_cannot_be_changed():
    progress = Progress(1, 2, -3.0, 0.1, 0.5, 10, 1)
    with pytest.raises(AttributeError):
        progress.sweep = 3
    assert replace(progress, sweep=3).sweep == 3


# --- Missing values


def gappy(part=0.3, seed=0):
    """X with missing values, all of the first data point, and which ones these are."""
    missing = np.random.default_rng(seed).random(X.shape) < part
    missing[0] = True
    return np.where(missing, np.nan, X), missing


@pytest.mark.parametrize(("posterior", "least"), [("diagonal", 0.5), ("low-rank", 0.75), ("full", 0.75)])
def test_missing_values_are_filled_in_and_known_ones_kept(posterior, least):
    """The share of values in their intervals of 90 % is too small where codes are taken to be independent."""
    data, missing = gappy()
    model = new(posterior=posterior, tol=0.5 if posterior == "low-rank" else 0.05).fit(data)
    filled, std = model.impute(data, return_std=True)
    np.testing.assert_array_equal(model.impute(data), filled)
    np.testing.assert_array_equal(filled[~missing], X[~missing])
    assert (std[~missing] == 0).all()
    assert (std[missing] > 0.99 * model.noise_variance_**0.5).all()
    np.testing.assert_allclose(filled[0], 0, atol=1e-6)
    error = (filled - X)[1:][missing[1:]]
    assert np.square(error).mean() < 0.5 * np.square(X).mean()
    inside = (np.abs(error) < 1.645 * std[1:][missing[1:]]).mean()
    assert least < inside < 0.97


def test_scores_are_those_of_what_is_known():
    data, missing = gappy()
    model = new(posterior="full").fit(data)
    assert model.score(data) == pytest.approx(model.lower_bound_, abs=1e-3)
    seen = ~missing[5]
    codes = model.infer(data[5:6])
    alone = pickle.loads(pickle.dumps(model))
    alone.components_, alone.n_features_in_ = model.components_[:, seen], int(seen.sum())
    assert alone.score(data[5:6, seen]) == pytest.approx(float(model.score_samples(data[5:6])[0]), abs=1e-6)
    np.testing.assert_allclose(alone.infer(data[5:6, seen]).mean, codes.mean, atol=1e-5)


def test_units_of_data_with_missing_values_do_not_matter():
    data, missing = gappy()
    small, large = (new().fit(c * data) for c in (1.0, 1024.0))
    shift = math.log(1024.0) * (~missing).sum(1).mean()
    assert large.lower_bound_ == pytest.approx(small.lower_bound_ - shift, abs=1e-9)
    np.testing.assert_allclose(large.impute(1024 * data), 1024 * small.impute(data), rtol=1e-9)


def test_rows_set_aside_may_have_missing_values():
    data, _ = gappy()
    model = new(validation_fraction=0.2).fit(data)
    assert model.held_out_bounds_.max() == pytest.approx(model.score(data), abs=1.5)


def test_a_column_that_never_varies_may_have_missing_values():
    data, missing = gappy()
    data[:, 2] = np.where(missing[:, 2], np.nan, 0.0)
    model = new(tol=0.1).fit(data)
    np.testing.assert_allclose(model.impute(data)[:, 2], 0, atol=0.05)


def test_a_stream_may_have_missing_values():
    data, _ = gappy()
    model = new()
    for part in np.array_split(data, 5):
        model.partial_fit(part)
    whole = new().fit(data)
    assert model.score(data) > whole.score(data) - 1.5
    assert float(model._statistics.observed) < X.shape[1] * float(model._statistics.n)


def test_it_is_an_imputer_in_a_pipeline():
    data, _ = gappy()
    pipeline = make_pipeline(StandardScaler(with_mean=False), new())
    assert pipeline.fit(data).transform(data).shape == (len(X), pipeline[-1].n_components)
    assert np.isfinite(pipeline.transform(data)).all()
    assert get_tags(new()).input_tags.allow_nan
    assert not get_tags(new(inference="amortized")).input_tags.allow_nan


# --- Reconstructions and fewer atoms


@pytest.mark.parametrize("posterior", ["diagonal", "low-rank", "full"])
def test_reconstructions_are_projected_codes(posterior):
    model = new(posterior=posterior, rank=2, tol=0.1).fit(1024 * X)
    mean, std = model.reconstruct(1024 * X[:5], return_std=True)
    q, W = model.infer(1024 * X[:5]), model.components_.T
    np.testing.assert_allclose(mean, q.mean.numpy() @ W.T)
    np.testing.assert_allclose(mean, model.reconstruct(1024 * X[:5]))
    variance = np.einsum("di,nij,dj->nd", W, q.covariance().numpy(), W)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-6)


def test_pruning_takes_away_what_is_off_and_changes_nothing_else():
    model = new(n_components=25).fit(X)
    pruned = model.prune()
    assert pruned.n_components == len(pruned.components_) < 25 == len(model.components_)
    assert pruned.score(X) > model.score(X)
    on = model.prior_scale_ >= 0.1 * model.noise_variance_**0.5
    np.testing.assert_allclose(pruned.transform(X), model.transform(X)[:, on], atol=1e-3)
    assert pruned.noise_variance_ == pytest.approx(model.noise_variance_, rel=1e-3)


def test_pruned_variance_is_noise():
    model = new(n_components=10).fit(X)
    pruned = model.prune(keep=6)
    kept = np.sort(np.argsort(-model.prior_scale_)[:6])
    np.testing.assert_array_equal(pruned.components_, model.components_[kept])

    def total(one):
        return 2 * np.square(one.prior_scale_).sum() + one.noise_variance_ * X.shape[1]

    assert total(pruned) == pytest.approx(total(model))
    same = model.prune(keep=np.isin(np.arange(len(model.components_)), kept))
    np.testing.assert_array_equal(same.components_, model.prune(keep=kept).components_)
    np.testing.assert_array_equal(same.components_, pruned.components_)


def test_a_pruned_model_can_be_saved_and_learns_on(tmp_path):
    pruned = new(n_components=10).fit(X).prune(keep=8)
    assert math.isnan(pruned.lower_bound_)
    pruned.save(tmp_path / "pruned.safetensors")
    loaded = SparseCoding.load(tmp_path / "pruned.safetensors")
    np.testing.assert_array_equal(loaded.transform(X), pruned.transform(X))
    before = loaded.score(X)
    for _ in range(3):
        loaded.partial_fit(X)
    assert loaded.score(X) > before
    assert math.isfinite(loaded.lower_bound_)
    assert loaded.components_.shape[0] == 8


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "keep"),
        (11, "more than the 10 atoms"),
        ([], "no atom would be left"),
        ([0, 0], "without repeats"),
        ([99], "atoms 0 to"),
        ([[True]], "shape"),
        ([0.5], "dtype"),
        ([False] * 10, "no atom would be left"),
    ],
)
def test_what_cannot_be_kept_is_refused(keep, message):
    with pytest.raises((ValueError, TypeError), match=message):
        new(n_components=10).fit(X).prune(keep=keep)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_encoder_cannot_be_pruned():
    with pytest.raises(ValueError, match="inference='iterative'"):
        new(inference="amortized", max_iter=2).fit(X).prune()
