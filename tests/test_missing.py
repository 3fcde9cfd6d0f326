"""Inference from what was observed, against the same problem with only the rows of the dictionary that were seen."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize

from cases import SHAPES, Shape, double, each_dtype, each_shape, generator, normal, positive, unit_dictionary
from sparsentropy.datasets import make_bars
from sparsentropy.inference import (
    AmortizedSolver,
    DiagonalSolver,
    FullSolver,
    LowRankSolver,
    MissingSolver,
    duality_gap,
    encoders,
    for_data,
    full_duality_gap,
)
from sparsentropy.inference.masked import Masked
from sparsentropy.inference.solution import largest_gradient
from sparsentropy.learning import em, learn, random_starts, start
from sparsentropy.metrics import dictionary_match
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo
from sparsentropy.posteriors import Diagonal, Full, LowRank

SOLVERS = {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(2), "full": FullSolver()}
CERTIFIED = {"diagonal": duality_gap, "full": full_duality_gap}
each_solver = pytest.mark.parametrize("name", SOLVERS)
each_certified = pytest.mark.parametrize("name", CERTIFIED)


def problem(shape, n=24, noise=0.2, seed=3, dtype=torch.float64):
    """Data of which nearly half is missing: nothing of the last data point, all of the first one."""
    draw = generator(seed)
    scale = positive(shape.h, draw=draw)
    p = Parameters(unit_dictionary(shape.d, shape.h, draw), scale, double(noise**2))
    x = p.sample(n, seed)[0]
    missing = torch.rand(x.shape, generator=draw) < 0.45
    missing[0], missing[-1] = False, True
    return torch.where(missing, torch.nan, x).to(dtype), p.to(dtype)


def one_by_one(solver, x, p):
    """Bounds of the posteriors that are found with the rows of the dictionary that were seen, (n,)."""
    bounds = []
    for row in x:
        seen = ~row.isnan()
        own = replace(p, dictionary=p.dictionary[seen])
        data = row[None, seen]
        bounds.append(elbo_rows(data, solver(data, own).posterior, own))
    return torch.cat(bounds)


def test_complete_data_need_no_other_solver():
    x, _ = problem(SHAPES["d=h"])
    assert for_data(FullSolver(), torch.nan_to_num(x)) == FullSolver()
    assert for_data(FullSolver(), x) == for_data(MissingSolver(FullSolver()), x) == MissingSolver(FullSolver())


@each_certified
@each_shape
@each_dtype
def test_posteriors_are_those_of_what_was_seen(name, shape, dtype):
    x, p = problem(shape, dtype=dtype)
    kept = x.clone()
    solution = MissingSolver(SOLVERS[name])(x, p)
    assert solution.posterior.mean.dtype == dtype
    assert torch.equal(x.nan_to_num(7.0), kept.nan_to_num(7.0))
    bounds = elbo_rows(x, solution.posterior, p)
    near = 1e-6 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(bounds[:-1], one_by_one(SOLVERS[name], x[:-1], p), rtol=0, atol=near)
    assert solution.cost.rows == solution.cost.converged == len(x)
    gaps = CERTIFIED[name](x, solution.posterior, p)  # not those that the solver has seen, which knows better vectors
    assert gaps.min() > -near
    assert gaps.max() < 0.1


@each_shape
def test_a_low_rank_posterior_is_stationary_and_says_more_than_a_diagonal_one(shape):
    x, p = problem(shape)
    q = MissingSolver(LowRankSolver(2))(x, p).posterior
    assert isinstance(q, LowRank)
    assert largest_gradient(x, q, p) < 1e-3
    diagonal, full = (elbo_rows(x, MissingSolver(SOLVERS[name])(x, p).posterior, p) for name in ("diagonal", "full"))
    assert (elbo_rows(x, q, p) > diagonal - 1e-6).all()
    assert (elbo_rows(x, q, p) < full + 1e-6).all()
    free = torch.cat([q.diagonal[:, :, None], q.factor], 2).clone().requires_grad_()
    bound = elbo_rows(x, LowRank(q.mean, free[:, :, 0], free[:, :, 1:]), p).sum()
    slope = torch.autograd.grad(bound, free)[0] * free.detach().abs()
    assert slope.abs().max() < 1e-2


@each_solver
@each_shape
def test_where_nothing_was_seen_the_posterior_is_the_best_gaussian_of_the_prior(name, shape):
    x, p = problem(shape)
    q = MissingSolver(SOLVERS[name])(x, p).posterior[-1:]
    assert q.mean.abs().max() < 1e-8
    torch.testing.assert_close(q.std[0], (np.pi / 2) ** 0.5 * p.prior_scale, rtol=1e-5, atol=0)


def test_a_data_point_against_an_independent_optimiser():
    x, p = problem(Shape(1, 5, 7))
    q = MissingSolver(DiagonalSolver())(x, p).posterior

    def loss(values, row):
        free = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        own = Diagonal(free[None, :7], (2 * free[None, 7:]).exp())
        bound = -elbo_rows(x[row : row + 1], own, p).sum()
        bound.backward()
        return bound.item(), free.grad.numpy()

    for row in (1, 2, 3):
        start = np.concatenate([np.zeros(7), np.log(p.prior_scale.numpy())])
        found = optimize.minimize(loss, start, args=(row,), jac=True, method="L-BFGS-B", options={"maxiter": 3000})
        assert float(elbo_rows(x[row : row + 1], q[row : row + 1], p)) == pytest.approx(-found.fun, abs=1e-5)
        assert float(elbo_rows(x[row : row + 1], q[row : row + 1], p)) > -found.fun - 1e-9


@each_solver
def test_data_points_that_miss_the_same_are_solved_together_and_keep_their_places(name, monkeypatch):
    shape = SHAPES["d>h"]
    x, p = problem(shape, n=30)
    patterns = torch.ones(3, shape.d, dtype=torch.bool)
    patterns[1, 0] = patterns[2, 1:3] = False
    which = torch.arange(30) % 3
    x = torch.where(patterns[which], p.sample(30, 5)[0], torch.nan)
    solver = SOLVERS[name]

    def refuse(*_):
        raise AssertionError("ten data points with four atoms are enough to be solved together")

    monkeypatch.setattr(type(solver), "with_gaps", refuse)
    q = MissingSolver(solver)(x, p).posterior
    torch.testing.assert_close(elbo_rows(x, q, p), one_by_one(solver, x, p), rtol=0, atol=1e-4)


@each_solver
@each_shape
def test_a_warm_start_is_gone_on_from(name, shape):
    x, p = problem(shape)
    solver = MissingSolver(SOLVERS[name])
    done = solver(x, p).posterior
    few = solver(x, p, done, max_iter=2, tol=0.0).posterior
    assert (elbo_rows(x, done, p) - elbo_rows(x, few, p)).abs().max() < 1e-4


@each_solver
def test_some_rows_are_those_of_all(name):
    x, p = problem(SHAPES["d<h"])
    whole = MissingSolver(SOLVERS[name])(x, p).posterior
    rows = torch.tensor([5, 0, 23, 11])
    part = whole[rows]
    assert isinstance(part, Diagonal | LowRank | Full)
    torch.testing.assert_close(elbo_rows(x[rows], part, p), elbo_rows(x, whole, p)[rows])
    assert len(MissingSolver(SOLVERS[name])(x[:0], p).posterior) == 0


def test_a_solver_in_chunks_finds_the_same(monkeypatch):
    x, p = problem(SHAPES["d<h"])
    whole = Masked.of(p)(x, tol=0.0, max_iter=20).posterior
    monkeypatch.setattr("sparsentropy.inference.masked.CHUNK", {"cpu": 40})
    pieces = Masked.of(p)(x, tol=0.0, max_iter=20).posterior
    torch.testing.assert_close(pieces.mean, whole.mean)
    torch.testing.assert_close(pieces.variance, whole.variance)


def test_newton_steps_certify_what_a_splitting_would_take_thousands_of_iterations_for():
    x, p = problem(Shape(0, 16, 40), n=50, noise=0.1, seed=0)
    solution = Masked.of(p)(x, tol=1e-7, max_iter=2000)
    assert solution.cost.converged == len(x)
    assert solution.cost.iterations <= 100
    plain = Masked.of(p)(x, tol=0.0, max_iter=160).posterior
    gained = elbo_rows(x, solution.posterior, p) - elbo_rows(x, plain, p)
    assert gained.min() > -1e-5
    assert gained.max() > 1e-5


def test_gaps_are_never_below_what_is_missing():
    """A poor posterior is farther from the optimum than rounding, and the certificate says at least how far."""
    x, p = problem(SHAPES["d<h"])
    best = elbo_rows(x, MissingSolver(DiagonalSolver())(x, p).posterior, p)
    poor = MissingSolver(DiagonalSolver())(x, p, max_iter=2, tol=0.0).posterior
    worse = Diagonal(poor.mean + 0.1 * normal(*poor.mean.shape, draw=generator(1)), 1.2 * poor.variance)
    for q in (poor, worse):
        assert (duality_gap(x, q, p) >= best - elbo_rows(x, q, p) - 1e-8).all()
    assert duality_gap(x, worse, p).min() > 1e-4


def test_an_encoder_needs_complete_data():
    x, p = problem(SHAPES["d=h"])
    solver = for_data(AmortizedSolver(encoders.build("unrolled", 4, 4), DiagonalSolver()), x)
    with pytest.raises(ValueError, match=r"complete data.*NaN.*iterative"):
        solver(x, p)


# --- Learning


def with_gaps(data, part, seed=0):
    x = torch.from_numpy(data.copy())
    return x.masked_fill(torch.rand(x.shape, generator=generator(seed)) < part, torch.nan)


def learned(x, h, solver, **settings):
    draw = generator(0)
    options = {"max_iter": 60, "tol": 1e-3, "batch_size": 300, "generator": draw, **settings}
    return list(learn(x, random_starts(x, h, draw), solver, **options))


@each_solver
def test_no_sweep_lowers_the_bound_of_what_was_seen(name):
    x = with_gaps(make_bars(300, size=4, noise_std=0.2, seed=1).data, 0.3)
    before = x.clone()
    sweeps = learned(x, 8, SOLVERS[name], max_iter=12)
    bounds = [sweep.lower_bound for sweep in sweeps]
    assert torch.equal(x.nan_to_num(7.0), before.nan_to_num(7.0))
    assert np.diff(bounds).min() > -1e-9
    last = sweeps[-1]
    assert float(last.statistics.d) == pytest.approx(float((~x.isnan()).double().sum(1).mean()))
    again = elbo_rows(x, MissingSolver(SOLVERS[name])(x, last.parameters).posterior, last.parameters).mean()
    assert last.lower_bound - 1e-3 < float(again) < last.lower_bound + 0.02  # learning leaves a few iterations out


def test_bars_are_found_where_half_of_all_pixels_are_missing():
    bars = make_bars(1000, noise_std=0.1, seed=0)
    last = learned(with_gaps(bars.data, 0.5), 10, FullSolver(), max_iter=100)[-1]
    assert dictionary_match(last.parameters.dictionary.T.numpy(), bars.dictionary.T).cosines.min() > 0.95
    assert float(last.parameters.noise_variance) ** 0.5 == pytest.approx(0.1, rel=0.1)


def test_what_a_dictionary_says_of_gaps_is_learned_from_others():
    """The bound of completed moments at a dictionary that has moved is below the true one, so a step is safe."""
    x, p = problem(SHAPES["d>h"], n=200)
    q = MissingSolver(FullSolver())(x, p).posterior
    fitted, factor = em.update(Statistics.of(x, q, p), p)
    before = entropy_elbo(Statistics.of(x, q, p), p)
    assert entropy_elbo(Statistics.of(x, q.scaled(factor), fitted), fitted) >= before - 1e-9


def test_the_moment_without_gaps_is_that_of_the_data():
    x = normal(50, 4, draw=generator(0))
    torch.testing.assert_close(start.second_moment(x), x.T @ x / 50)
    torch.testing.assert_close(start.completed_second_moment(x, generator(0)), x.T @ x / 50, rtol=1e-4, atol=1e-4)


def test_the_covariance_of_data_with_gaps_is_the_most_likely_one(monkeypatch):
    """No other is more likely: the slope of the log likelihood of what was seen is zero."""
    monkeypatch.setattr(start, "EM_ENOUGH", 1e-10)
    monkeypatch.setattr(start, "EM_ITERATIONS", 3000)
    draw = generator(0)
    x = normal(300, 4, draw=draw) @ normal(4, 4, draw=draw)
    x = x.masked_fill(torch.rand(x.shape, generator=draw) < 0.3, torch.nan)
    C = start.completed_second_moment(x, draw).requires_grad_()

    def log_likelihood(row):
        seen = ~row.isnan()
        own = C[seen][:, seen]
        return -(torch.logdet(own) + row[seen] @ torch.linalg.solve(own, row[seen])) / 2

    slope = torch.autograd.grad(torch.stack([log_likelihood(row) for row in x if not row.isnan().all()]).sum(), C)[0]
    assert (slope + slope.T).abs().max() < 1e-3 * len(x)


def test_moments_of_pairs_serve_where_there_is_too_much_to_do(monkeypatch):
    x = with_gaps(normal(200, 6, draw=generator(0)).numpy(), 0.2)
    monkeypatch.setattr(start, "EM_WORK", 10 * 6**3)
    torch.testing.assert_close(start.completed_second_moment(x, generator(0)), start.second_moment(x))
    monkeypatch.setattr(start, "EM_WORK", 100 * 6**3)
    some = start.completed_second_moment(x, generator(0))
    assert (some - start.second_moment(x)).abs().max() > 1e-3


def test_rows_that_are_all_the_same_but_for_their_gaps_have_a_start():
    """Found by `test_properties`: a covariance of rank one had lost its last digits, and was not positive any more."""
    row = np.array([-0.30770314, 1.40551525, -0.87895203, -0.32322489, 0.57635867, -0.7803118])
    x = np.repeat(row[None], 6, axis=0)
    for place in ((0, 3), (0, 5), (1, 0), (1, 5), (2, 5), (3, 3), (3, 5), (4, 0)):
        x[place] = np.nan
    for order in itertools.islice(itertools.permutations(range(6)), 0, None, 7):
        moment = start.completed_second_moment(torch.from_numpy(x[list(order)]).float(), generator(0))
        assert float(torch.linalg.eigvalsh(moment)[-1]) == pytest.approx(float(np.square(row).sum()), rel=0.1)
