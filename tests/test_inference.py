"""The E-step of every posterior family against a general-purpose optimiser on the dense objective."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import optimize
from torch.utils._python_dispatch import TorchDispatchMode

from cases import SHAPES, Shape, double, each_dtype, each_shape, generator, normal, positive, random_parameters
from sparsentropy import folded_normal, precision
from sparsentropy.inference import (
    Cost,
    DiagonalSolver,
    FullSolver,
    LowRankSolver,
    duality_gap,
    full_duality_gap,
    low_rank,
    newton,
    polish,
)
from sparsentropy.inference.completion import Means, completed
from sparsentropy.inference.problem import Problem, best_scale
from sparsentropy.inference.solution import AbstractSolver, largest_gradient
from sparsentropy.inference.splitting import Splitting, State
from sparsentropy.inference.turn import ridge, turn
from sparsentropy.model import Parameters
from sparsentropy.objectives import Weights, elbo_rows
from sparsentropy.posteriors import Diagonal, Full, LowRank


def diagonal_covariance(free, h):
    return torch.diag(free.exp())


def low_rank_covariance(free, h):
    factor = free[h:].reshape(h, -1)
    return torch.diag(free[:h].exp()) + factor @ factor.T


def full_covariance(free, h):
    lower = torch.zeros(h, h, dtype=free.dtype)
    rows, columns = torch.tril_indices(h, h)
    lower[rows, columns] = free
    root = lower.tril(-1) + torch.diag(lower.diagonal().exp())
    return root @ root.T


@dataclass(frozen=True)
class Family:
    solver: AbstractSolver
    covariance: Callable
    """From as many unconstrained numbers as `size` says."""
    size: Callable
    convex: bool = True


SOLVERS = {
    "diagonal": Family(DiagonalSolver(), diagonal_covariance, lambda h: h),
    "low-rank-1": Family(LowRankSolver(1), low_rank_covariance, lambda h: 2 * h, convex=False),
    "low-rank-2": Family(LowRankSolver(2), low_rank_covariance, lambda h: 3 * h, convex=False),
    "full": Family(FullSolver(), full_covariance, lambda h: h * (h + 1) // 2),
}
GAPS = {"diagonal": duality_gap, "full": full_duality_gap}

each_solver = pytest.mark.parametrize("name", SOLVERS)
each_monotone_solver = pytest.mark.parametrize("name", ["low-rank-1", "low-rank-2", "full"])
each_certified_solver = pytest.mark.parametrize("name", GAPS)
each_noise = pytest.mark.parametrize("noise", [1e-3, 0.1, 10.0])


def problem(shape=SHAPES["d<h"], noise=0.3, seed=1, n=6):
    """Data from a random model, and the model."""
    parameters = replace(random_parameters(shape, seed=seed), noise_variance=double(noise**2))
    return parameters.sample(n, seed)[0], parameters


def bars(n=100, noise=0.1):
    """5×5 images of horizontal and vertical bars; WᵀW is singular."""
    images = torch.zeros(5, 5, 10, dtype=torch.float64)
    for i in range(5):
        images[i, :, i] = images[:, i, 5 + i] = 1
    length = math.sqrt(5)
    scale = torch.full((10,), length, dtype=torch.float64)
    parameters = Parameters(images.reshape(25, 10) / length, scale, double(noise**2))
    return parameters.sample(n, 0)[0], parameters


def dense_bound(x, mean, covariance, p):
    """The bound of one data point, written down from the definition with a dense covariance."""
    std = covariance.diagonal().sqrt()
    absolute = std * math.sqrt(2 / math.pi) * torch.exp(-((mean / std) ** 2) / 2)
    absolute = absolute + mean * torch.erf(mean / (std * math.sqrt(2)))
    error = (x - p.dictionary @ mean).square().sum() + torch.trace(p.dictionary @ covariance @ p.dictionary.T)
    likelihood = -(p.d * torch.log(2 * math.pi * p.noise_variance) + error / p.noise_variance) / 2
    prior = -(torch.log(2 * p.prior_scale) + absolute / p.prior_scale).sum()
    return likelihood + prior + (torch.logdet(covariance) + p.h * math.log(2 * math.pi * math.e)) / 2


def dense_bounds(x, q, parameters):
    """`dense_bound` of all data points, in float64 whatever the dtype of q."""
    p, covariance = parameters.to(torch.float64), dense_covariance(q, parameters.to(torch.float64))
    return torch.stack([dense_bound(x[i].double(), q.mean[i].double(), covariance[i], p) for i in range(len(x))])


def dense_covariance(q, p):
    if isinstance(q, Full):
        precision = p.dictionary.T @ p.dictionary / p.noise_variance + torch.diag_embed(q.prior_precision.double())
        return torch.linalg.inv(precision)
    if isinstance(q, LowRank):
        factor = q.factor.double()
        return torch.diag_embed(q.diagonal.double()) + factor @ factor.mT
    return torch.diag_embed(q.variance.double())


def scipy_bound(x, p, family, free):
    """Highest bound of one data point that L-BFGS finds from `free` = (ν, numbers for the covariance)."""

    def negative(point):
        variables = torch.tensor(point, requires_grad=True)
        value = -dense_bound(x, variables[: p.h], family.covariance(variables[p.h :], p.h), p)
        value.backward()
        return value.item(), variables.grad.numpy()

    options = {"maxiter": 3_000, "maxfun": 3_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 60}
    return -optimize.minimize(negative, free, jac=True, method="L-BFGS-B", options=options).fun


def random_point(p, family, draw):
    """Any ν, and a covariance about as large as the posterior's."""
    precision = p.dictionary.square().sum(0) / p.noise_variance + 1 / p.prior_scale.square()
    free = 0.3 * normal(family.size(p.h), draw=draw)
    if family.covariance is full_covariance:
        rows, columns = torch.tril_indices(p.h, p.h)
        free = torch.where(rows == columns, -precision.log()[rows] / 2, 0.0)
    else:
        free[: p.h] = -precision.log()
        free[p.h :] *= precision.rsqrt().repeat_interleave(len(free) // p.h - 1)
    return np.concatenate([normal(p.h, draw=draw).numpy(), free.numpy()])


def own_point(q, i, q_class):
    """The free numbers of a low-rank posterior."""
    assert q_class is LowRank
    return np.concatenate([q.mean[i].numpy(), q.diagonal[i].log().numpy(), q.factor[i].flatten().numpy()])


@pytest.mark.parametrize("noise", [0.03, 0.3, 10.0])  # at 1e-3 L-BFGS takes minutes; there the certificates speak
@each_shape
@each_certified_solver
def test_scipy_finds_the_same_optimum(name, shape, noise):
    family, (x, p) = SOLVERS[name], problem(shape, noise, n=2)
    found = dense_bounds(x, family.solver(x, p).posterior, p)
    draw = generator(5)
    for i in range(len(x)):
        reference = scipy_bound(x[i], p, family, random_point(p, family, draw))
        assert found[i] > reference - 1e-6
        assert found[i] < reference + 1e-2, "the optimiser did not get there"


@pytest.mark.parametrize("noise", [0.2, 1.0])
@each_shape
@pytest.mark.parametrize("name", ["low-rank-1", "low-rank-2"])
def test_scipy_finds_nothing_better_of_low_rank(name, shape, noise):
    family, (x, p) = SOLVERS[name], problem(shape, noise, n=2)
    q = family.solver(x, p).posterior
    found = dense_bounds(x, q, p)
    draw = generator(6)
    for i in range(len(x)):
        assert found[i] > scipy_bound(x[i], p, family, own_point(q, i, LowRank)) - 1e-6
        assert found[i] > scipy_bound(x[i], p, family, random_point(p, family, draw)) - 1e-6


@each_noise
@each_shape
@each_solver
def test_float32_is_as_good_up_to_its_rounding(name, shape, noise):
    x, p = problem(shape, noise)
    x, p = x.float(), p.to(torch.float32)
    solver = SOLVERS[name].solver
    solution = solver(x, p)
    assert solution.posterior.mean.dtype == solution.posterior.variance.dtype == torch.float32
    # A non-convex family may end elsewhere in another dtype: ask what is left to gain from here
    start = None if SOLVERS[name].convex else solution.posterior
    exact = solver(x.double(), p.to(torch.float64), start).posterior
    gap = dense_bounds(x, exact, p) - dense_bounds(x, solution.posterior, p)
    # With next to no noise the search for V may end next to a saddle
    assert gap.abs().max() < (1e-3 if SOLVERS[name].convex or noise > 0.01 else 0.05)
    assert solution.cost.converged == len(x)


@each_noise
@each_shape
@each_certified_solver
def test_the_gap_is_never_below_the_true_one(name, shape, noise):
    x, p = problem(shape, noise, n=20)
    solver, gap = SOLVERS[name].solver, GAPS[name]
    best = dense_bounds(x, solver(x, p).posterior, p)
    for iterations in range(1, 10, 2):
        q = solver(x, p, max_iter=iterations, tol=0.0).posterior
        assert (gap(x, q, p) > best - dense_bounds(x, q, p) - 1e-7).all()


@each_shape
def test_the_gap_of_a_random_full_posterior(shape):
    x, p = problem(shape, n=50)
    draw = generator(3)
    q = Full.from_precision(
        normal(50, p.h, draw=draw), positive(50, p.h, draw=draw), p.dictionary / p.noise_variance.sqrt()
    )
    best = dense_bounds(x, FullSolver()(x, p).posterior, p)
    assert (full_duality_gap(x, q, p) > best - dense_bounds(x, q, p)).all()


@each_noise
@each_shape
@each_certified_solver
def test_the_gap_closes(name, shape, noise):
    x, p = problem(shape, noise, n=20)
    solution = SOLVERS[name].solver(x, p)
    assert GAPS[name](x, solution.posterior, p).max() < 1e-6
    assert solution.cost.converged == solution.cost.rows == 20


@each_shape
@each_solver
def test_no_start_leads_higher(name, shape):
    """And of a convex family, none leads lower."""
    x, p = problem(shape, 0.2)
    solver = SOLVERS[name].solver
    cold = solver(x, p).posterior
    draw = generator(2)
    anywhere = Diagonal(3 * normal(len(x), p.h, draw=draw), positive(len(x), p.h, draw=draw))
    for start in (cold, anywhere, DiagonalSolver()(x, p).posterior):
        difference = elbo_rows(x, solver(x, p, start).posterior, p) - elbo_rows(x, cold, p)
        assert difference.max() < 1e-6
        assert (start is anywhere and not SOLVERS[name].convex) or difference.min() > -1e-6


@each_solver
def test_a_warm_start_takes_fewer_iterations(name):
    x, p = bars(30)
    solver = SOLVERS[name].solver
    cold = solver(x, p)
    assert solver(x, p, cold.posterior).cost.iterations < cold.cost.iterations
    near = replace(p, noise_variance=1.02 * p.noise_variance, prior_scale=0.99 * p.prior_scale)
    assert solver(x, near, cold.posterior).cost.iterations <= solver(x, near).cost.iterations


@pytest.mark.parametrize("noise", [0.05, 1.0])
@each_shape
def test_richer_families_have_higher_bounds(shape, noise):
    x, p = problem(shape, noise)
    solvers = [DiagonalSolver(), *(LowRankSolver(r) for r in range(1, p.h + 1)), FullSolver()]
    bounds = [elbo_rows(x, solver(x, p).posterior, p) for solver in solvers]
    for poorer, richer in itertools.pairwise(bounds):
        assert (richer > poorer - 1e-6).all()
    assert (bounds[-1] - bounds[-2]).abs().max() < 1e-5
    assert (bounds[-1] - bounds[0]).min() > 1e-3


def test_richer_families_have_higher_bounds_on_bars():
    x, p = bars(20)
    solvers = [DiagonalSolver(), LowRankSolver(1), LowRankSolver(3), LowRankSolver(10), FullSolver()]
    bounds = torch.stack([elbo_rows(x, solver(x, p).posterior, p) for solver in solvers])
    assert (bounds.diff(dim=0) > -1e-6).all()
    assert (bounds[-1] - bounds[-2]).abs().max() < 1e-6


@each_shape
@each_monotone_solver
def test_iterations_without_tolerance_never_lower_the_bound(name, shape):
    x, p = problem(shape, 0.1, n=20)
    solver = SOLVERS[name].solver
    for start in (None, Diagonal(torch.ones(20, p.h).double(), torch.ones(20, p.h).double())):
        states = [solver(x, p, start, max_iter=k, tol=0.0).posterior for k in (0, 1, 2, 4, 8, 16)]
        bounds = torch.stack([dense_bounds(x, q, p) for q in states])
        assert (bounds.diff(dim=0) > -1e-8).all()


@each_monotone_solver
def test_a_warm_start_without_tolerance_never_lowers_the_bound(name):
    x, p = bars(20)
    solver = SOLVERS[name].solver
    q = solver(x, p, max_iter=5, tol=0.0).posterior
    for _ in range(5):
        better = solver(x, p, q, max_iter=2, tol=0.0).posterior
        assert (dense_bounds(x, better, p) > dense_bounds(x, q, p) - 1e-8).all()
        q = better


@each_solver
def test_without_tolerance_nothing_is_certified(name):
    x, p = problem()
    solution = SOLVERS[name].solver(x, p, max_iter=7, tol=0.0)
    assert 1 <= solution.cost.iterations <= 7
    assert solution.cost.converged == 0
    assert math.isnan(solution.cost.largest_gradient)


@each_dtype
@each_solver
def test_the_cost_tells_the_largest_gradient(name, dtype):
    x, p = problem(n=20)
    x, p = x.to(dtype), p.to(dtype)
    solution = SOLVERS[name].solver(x, p)
    q = solution.posterior
    mean, covariance = q.mean.double().requires_grad_(), dense_covariance(q, p.to(torch.float64))
    sum(dense_bound(x[i].double(), mean[i], covariance[i], p.to(torch.float64)) for i in range(20)).backward()
    expected = (mean.grad * p.prior_scale).abs().max().item()
    assert solution.cost.largest_gradient == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert solution.cost.largest_gradient < 0.05
    assert solution.cost.rows == solution.cost.converged == 20
    assert 0 < solution.cost.iterations <= 1000


@each_solver
def test_running_out_of_iterations_is_reported(name):
    x, p = bars(50)
    solution = SOLVERS[name].solver(x, p, max_iter=1)
    assert solution.cost.iterations == 1
    assert solution.cost.converged < 50
    assert solution.cost.rows == 50
    assert solution.cost.largest_gradient > 1e-4


def test_costs_add_up():
    total = Cost(3, 0.5, 7, 10) + Cost(9, 0.1, 4, 4)
    assert total == Cost(9, 0.5, 11, 14)


@each_solver
def test_dead_and_wide_atoms(name):
    x, p = problem(Shape(6, 4, 6), 0.1, n=10)
    scale = p.prior_scale.clone()
    scale[:3] = double([1e-6, 1e-6, 1e3])
    p = replace(p, prior_scale=scale)
    solution = SOLVERS[name].solver(x, p)
    q = solution.posterior
    assert solution.cost.converged == 10
    assert q.mean[:, :2].abs().max() < 1e-4
    assert 1e-7 < q.std[:, :2].min() <= q.std[:, :2].max() < 1e-5  # s = λ√(π/2) where the data say nothing
    assert elbo_rows(x, q, p).isfinite().all()


@each_solver
def test_an_atom_of_length_zero_keeps_its_prior(name):
    x, p = problem(n=10)
    dictionary = p.dictionary.clone()
    dictionary[:, 1] = 0
    q = SOLVERS[name].solver(x, replace(p, dictionary=dictionary)).posterior
    # Of all Gaussians, N(0, π λ²/2) has the highest bound under a Laplace prior
    assert q.mean[:, 1].abs().max() < 1e-6
    expected = p.prior_scale[1] * math.sqrt(math.pi / 2)
    torch.testing.assert_close(q.std[:, 1], expected.expand(10), rtol=1e-3, atol=0)


@each_dtype
@each_shape
@each_solver
def test_outliers_and_zero_rows(name, shape, dtype):
    x, p = problem(shape, 0.1, n=8)
    x[0] *= 1e3
    x[1] = 0
    x, p = x.to(dtype), p.to(dtype)
    solver = SOLVERS[name].solver
    solution = solver(x, p)
    assert solution.cost.converged == 8
    assert solution.posterior.mean.isfinite().all()
    assert solution.posterior.mean[1].abs().max() < 1e-4
    # The outlier spoils nothing for the others
    others = solver(x[1:], p).posterior
    difference = dense_bounds(x[1:], solution.posterior[1:], p) - dense_bounds(x[1:], others, p)
    assert difference.abs().max() < (1e-6 if dtype == torch.float64 else 1e-3)


@each_dtype
@pytest.mark.parametrize("shape", [Shape(1, 1, 1), Shape(1, 1, 3), Shape(1, 3, 1)], ids=str)
@each_solver
def test_smallest_problems(name, shape, dtype):
    x, p = problem(shape, 0.5, n=1)
    solution = SOLVERS[name].solver(x.to(dtype), p.to(dtype))
    assert solution.cost.converged == solution.cost.rows == 1
    assert solution.posterior.mean.shape == (1, shape.h)


def test_with_one_atom_all_families_agree():
    x, p = problem(Shape(20, 3, 1), 0.5, n=20)
    bounds = torch.stack([elbo_rows(x, family.solver(x, p).posterior, p) for family in SOLVERS.values()])
    assert (bounds - bounds[0]).abs().max() < 1e-6


@each_solver
def test_no_data(name):
    _, p = problem()
    solution = SOLVERS[name].solver(torch.zeros(0, p.d, dtype=torch.float64), p)
    assert solution.posterior.mean.shape == (0, p.h)
    assert solution.cost.rows == solution.cost.converged == 0


@each_solver
def test_annealing_needs_no_solver_of_its_own(name):
    weights, (x, p) = Weights(prior=2.5, likelihood=0.4), problem(n=5)
    q = SOLVERS[name].solver(x, weights.apply(p)).posterior
    variables = [q.mean.clone().requires_grad_(), q.std.clone().requires_grad_()]

    # H[q] + γ E log p(z) + δ E log p(x|z) in the means and, with correlations fixed, in the scales
    correlation = dense_covariance(q, weights.apply(p)) / (q.std[:, :, None] * q.std[:, None, :])
    for i in range(5):
        mean, std = variables[0][i], variables[1][i]
        covariance = correlation[i] * std[:, None] * std
        absolute = std * math.sqrt(2 / math.pi) * torch.exp(-((mean / std) ** 2) / 2)
        absolute = absolute + mean * torch.erf(mean / (std * math.sqrt(2)))
        error = (x[i] - p.dictionary @ mean).square().sum() + (p.dictionary @ covariance @ p.dictionary.T).trace()
        prior = weights.prior * (absolute / p.prior_scale).sum()
        (torch.logdet(covariance) / 2 - prior - weights.likelihood * error / (2 * p.noise_variance)).backward()
    for variable, unit in zip(variables, (p.prior_scale, q.std), strict=True):
        assert (variable.grad * unit).abs().max() < 2e-3


@each_shape
@each_solver
def test_chunks_change_nothing(name, shape, monkeypatch):
    x, p = problem(shape, n=17)
    solver = SOLVERS[name].solver
    whole = solver(x, p)
    monkeypatch.setattr(precision, "CHUNK", {"cpu": 100})
    monkeypatch.setattr(low_rank, "CHUNK", {"cpu": 1000})
    monkeypatch.setattr("sparsentropy.inference.diagonal.CHUNK", {"cpu": 40})
    monkeypatch.setattr("sparsentropy.inference.diagonal.LEAST_ROWS", 3)
    chunked = solver(x, p)
    # To the tolerance only: products round differently for other numbers of rows
    torch.testing.assert_close(chunked.posterior.mean, whole.posterior.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(chunked.posterior.variance, whole.posterior.variance, rtol=1e-3, atol=0)
    assert (elbo_rows(x, chunked.posterior, p) - elbo_rows(x, whole.posterior, p)).abs().max() < 1e-6
    assert chunked.cost.rows == chunked.cost.converged == 17


@each_shape
def test_a_full_posterior_is_consistent(shape):
    x, p = problem(shape)
    q = FullSolver()(x, p).posterior
    assert isinstance(q, Full)
    covariance = dense_covariance(q, p)
    torch.testing.assert_close(q.variance, covariance.diagonal(dim1=1, dim2=2), rtol=1e-7, atol=0)
    torch.testing.assert_close(q.log_det, torch.logdet(covariance), rtol=1e-7, atol=1e-7)
    # The optimum: κ = k/s
    scale = q.std * p.prior_scale
    curvature = math.sqrt(2 / math.pi) * torch.exp(-((q.mean / q.std) ** 2) / 2) / scale
    assert ((q.prior_precision - curvature) * q.variance).abs().max() < 1e-3


def test_a_low_rank_start_is_where_the_search_begins():
    x, p = bars(20)
    q = LowRankSolver(2)(x, p).posterior
    again = LowRankSolver(2)(x, p, q, max_iter=0, tol=0.0).posterior
    assert isinstance(q, LowRank)
    assert isinstance(again, LowRank)
    torch.testing.assert_close(again.factor, q.factor)
    torch.testing.assert_close(again.diagonal, q.diagonal, rtol=1e-6, atol=1e-9)
    assert LowRankSolver(3)(x, p, q).cost.converged == 20


def test_a_rank_beyond_the_atoms_is_cut():
    x, p = problem()
    assert LowRankSolver(100)(x, p).posterior.factor.shape == (len(x), p.h, p.h)


def test_rank_zero_is_the_diagonal_solver():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        LowRankSolver(0)


def test_no_gradient_without_data():
    _, p = problem()
    empty = torch.zeros(0, p.h, dtype=torch.float64)
    assert largest_gradient(torch.zeros(0, p.d, dtype=torch.float64), Diagonal(empty, empty), p) == 0.0


def overcomplete(noise_std, n=200, d=8):
    """Atoms of very different size, a singular WᵀW, and noise far below all of them."""
    generator = torch.Generator().manual_seed(3)
    dictionary = torch.randn(d, 2 * d, dtype=torch.float64, generator=generator)
    used = torch.logspace(0, -2, d, dtype=torch.float64)
    scale = torch.cat([used, torch.full((d,), 0.01 * noise_std, dtype=torch.float64)])
    p = Parameters(dictionary, scale, torch.tensor(noise_std**2, dtype=torch.float64)).gauged()[0]
    return p.sample(n, seed=4)[0], p


@pytest.mark.parametrize(("d", "noise_std"), [(8, 1e-2), (8, 1e-3), (32, 1e-3), (32, 3e-4)])
def test_float32_keeps_its_bound_where_the_noise_is_small_and_atoms_are_many(d, noise_std):
    x, p = overcomplete(noise_std, n=50, d=d)
    solver, x32, p32, q = DiagonalSolver(), x.float(), p.to(torch.float32), None
    best = dense_bounds(x, solver(x, p).posterior, p).mean()
    for _ in range(3):
        q = solver(x32, p32, q, max_iter=200, tol=0.0).posterior
        assert abs(dense_bounds(x, Diagonal(q.mean.double(), q.variance.double()), p).mean() - best) < 0.05


def test_a_warm_start_keeps_the_means_when_the_noise_changes_a_little():
    """Means kept in units of s would all move with σ, by many times s where codes are large."""
    x, p = overcomplete(1e-3)
    q = DiagonalSolver()(x, p).posterior
    near = replace(p, noise_variance=1.01 * p.noise_variance)
    one = DiagonalSolver()(x, near, q, max_iter=1, tol=0.0).posterior
    best = DiagonalSolver()(x, near).posterior
    assert (dense_bounds(x, best, near) - dense_bounds(x, one, near)).max() < 0.01


@pytest.mark.parametrize("noise_std", [1.0, 0.1, 1e-2, 1e-3])
def test_few_iterations_are_enough_after_a_small_change_of_the_dictionary(noise_std):
    x, p = overcomplete(noise_std)
    q = DiagonalSolver()(x, p).posterior
    change = torch.randn(p.dictionary.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    near = replace(p, dictionary=p.dictionary + 0.01 * change).gauged()[0]
    few = DiagonalSolver()(x, near, q, max_iter=8, tol=0.0).posterior
    best = DiagonalSolver()(x, near).posterior
    assert (dense_bounds(x, best, near) - dense_bounds(x, few, near)).mean() < 0.5


# On graphics processors: nothing may wait for the device inside an E-step


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a graphics processor: numbers and shapes that depend on the data."""

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "linalg_eigh")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        masks = name in ("index", "index_put_", "index_put") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        assert name not in self.WAITS, f"{name} waits for the device"
        assert not masks, f"{name} with a mask waits for the device"
        if name == "linalg_cholesky_ex":  # the check is for processors only
            kwargs = {**(kwargs or {}), "check_errors": False}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SOLVERS)
@each_shape
def test_an_e_step_never_waits_for_a_graphics_processor(name, shape, monkeypatch):
    x, p = problem(shape, n=17)
    solver = SOLVERS[name].solver
    start = solver(x, p, max_iter=5, tol=0.0).posterior
    kept = solver(x, p, start, max_iter=8, tol=0.0).posterior
    for module in (newton, low_rank):
        monkeypatch.setattr(module, "gathers", lambda _: False)
    inference = solver.at(p)
    inference(x, start=start, max_iter=8, tol=0.0)  # what depends on the parameters alone is prepared once
    with NoWaiting():
        q = inference(x, start=start, max_iter=8, tol=0.0).posterior
    assert (elbo_rows(x, q, p) - elbo_rows(x, kept, p)).abs().max() < 1e-2
    assert (elbo_rows(x, q, p) > elbo_rows(x, start, p) - 1e-9).all() or name == "diagonal"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_solver
@each_shape
@each_dtype
def test_posteriors_on_a_cuda_device_are_those_of_the_cpu(name, shape, dtype):
    x, p = problem(shape, n=17)
    x, p = x.to(dtype), p.to(dtype)
    there = Parameters(p.dictionary.cuda(), p.prior_scale.cuda(), p.noise_variance.cuda())
    here = SOLVERS[name].solver(x, p).posterior
    q = SOLVERS[name].solver(x.cuda(), there).posterior
    bounds = elbo_rows(x.cuda(), q, there).cpu()
    assert (bounds - elbo_rows(x, here, p)).abs().max() < (1e-3 if dtype == torch.float32 else 1e-6)
    before = torch.cuda.get_sync_debug_mode()
    inference = SOLVERS[name].solver.at(there)
    inference(x.cuda(), start=q, max_iter=2, tol=0.0)
    x, torch_cuda = x.cuda(), torch.cuda
    torch_cuda.set_sync_debug_mode("error")
    try:
        inference(x, start=q, max_iter=2, tol=0.0)
    finally:
        torch_cuda.set_sync_debug_mode(before)


# Atoms that are off, and the quick certificate


def with_atoms_off(dtype=torch.float64, n=40):
    """Three atoms of nine are far narrower than the noise; those that are left are nearly at right angles."""
    draw = generator(7)
    atoms = torch.linalg.qr(normal(8, 8, draw=draw)).Q[:, :6] + 0.05 * normal(8, 6, draw=draw)
    dictionary = torch.cat([atoms[:, :2], normal(8, 3, draw=draw), atoms[:, 2:]], 1)
    scale = double([1.0, 2.0, 3e-4, 1e-4, 1e-3, 0.1, 0.7, 3.0, 0.5])
    p = Parameters(dictionary / dictionary.norm(dim=0), scale, double(0.2**2))
    return p.sample(n, 3)[0].to(dtype), p.to(dtype)


def missing(x, q, p):
    """Distance to the best bound of each data point."""
    x, p = x.double(), p.to(torch.float64)
    best = DiagonalSolver()(x, p).posterior
    return elbo_rows(x, best, p) - elbo_rows(x, Diagonal(q.mean.double(), q.variance.double()), p)


@each_dtype
def test_atoms_that_are_off_are_taken_out_without_changing_anything(dtype):
    x, p = with_atoms_off(dtype)
    short, whole = Problem.of(p, exact=False), Problem.of(p, exact=True)
    assert whole.silent is None
    assert short.silent is not None
    assert short.heard.tolist() == [0, 1, 5, 6, 7, 8]
    best = DiagonalSolver()(x.double(), p.to(torch.float64)).posterior
    few = DiagonalSolver()(x, p, max_iter=40, tol=0.0).posterior
    near = 1e-5 if dtype == torch.float64 else 1e-3
    assert ((few.mean - best.mean) / best.std).abs().max() < near
    assert (few.std / best.std - 1).abs().max() < 1e-5
    assert missing(x, few, p).max() < (1e-7 if dtype == torch.float64 else 1e-4)


def test_what_atoms_that_are_off_cost_is_bounded():
    _, p = with_atoms_off()
    silent = Problem.of(p, exact=False).silent
    assert silent is not None
    steepness = (p.noise_variance.sqrt() / p.prior_scale)[[2, 3, 4]]
    z = torch.linspace(0.01, 0.24, 30, dtype=torch.float64)[:, None] * torch.ones_like(silent.scale)
    best = best_scale(z, steepness)
    code = z * best
    curvature = 2**1.5 / math.sqrt(math.pi) * steepness / silent.scale
    error = 2**0.5 * steepness * torch.erf(z) - curvature * code  # of the slope
    lowest = curvature * (1 - 4 * z.square())  # of the second derivative so far from zero

    def cost(scale):
        return steepness * folded_normal.mean(2**0.5 * code, scale) + scale.square() / 2 - scale.log()

    total = (error.square() / (2 * lowest) + cost(silent.scales(code)) - cost(best)).sum(1)
    inside = code.div(silent.scale).amax(1) <= 0.25
    assert inside.sum() > 20
    assert (total <= silent.idle(code))[inside].all()
    assert (total > silent.idle(code)[:, None] / 100).any()
    assert (silent.idle(code[-1:] * 2) == float("inf")).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@each_dtype
def test_the_quick_certificate_holds_no_more_than_the_duality_gap_allows(steps, dtype):
    x, p = with_atoms_off(dtype)
    splitting = Splitting.of(Problem.of(p, exact=False))
    assert splitting.quick
    state = State.of(splitting, x, None)
    for number in range(1, steps + 1):
        state.step(number)
    true = missing(x, state.posterior(x), p)
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    for tol in (1e-1, 1e-3, 1e-6):
        holds, _ = state.certified(x, tol)
        assert (true[holds] <= tol * (1 + p.h / 2) + rounding).all()
    assert state.certified(x, 1e3)[0].all()


def test_codes_told_apart_well_are_solved_to_the_end_in_a_few_iterations():
    x, p = with_atoms_off(torch.float32, n=200)
    solution = DiagonalSolver()(x, p)
    assert solution.cost.converged == 200
    assert solution.cost.iterations <= 8
    assert missing(x, solution.posterior, p).max() < 1e-4


@pytest.mark.parametrize("off", [0, 16])
def test_float32_costs_no_more_than_to_write_down_codes_far_larger_than_their_uncertainty(off):
    """Codes ten thousand times as large as the noise: products of them in float32 would cost a hundred times more."""
    draw = generator(3)
    atoms = torch.linalg.qr(normal(96, 96, draw=draw)).Q + 0.02 * normal(96, 96, draw=draw)
    atoms = torch.cat([atoms, normal(96, off, draw=draw)], 1)
    p = Parameters(atoms / atoms.norm(dim=0), torch.ones(96 + off, dtype=torch.float64), double(1e-8))
    p.prior_scale[96:] = 1e-7
    x, p = p.sample(300, 3)[0].float(), p.to(torch.float32)
    short = p.to(torch.float64)
    q = DiagonalSolver()(x, p, max_iter=20, tol=0.0).posterior
    best = DiagonalSolver()(x.double(), short).posterior
    written = Diagonal(best.mean.float(), best.variance.float())
    assert missing(x, q, short).mean() < 10 * missing(x, written, short).mean()
    splitting = Splitting.of(Problem.of(p, exact=False))
    assert splitting.anchor.dtype == torch.float64
    assert splitting.dtype == splitting.relative.dtype == torch.float32
    assert Splitting.of(Problem.of(with_atoms_off(torch.float32)[1], exact=False)).anchor.dtype == torch.float32


@each_dtype
@pytest.mark.parametrize(("d", "h"), [(6, 4), (6, 6), (6, 9), (6, 20)])
def test_the_linear_half_of_an_iteration_is_the_same_through_the_data_as_at_once(d, h, dtype):
    draw = generator(h)
    atoms, y, target = normal(d, h, draw=draw), normal(5, h, draw=draw), normal(5, h, draw=draw)
    penalty = 10 ** torch.linspace(-3, 3, h, dtype=torch.float64)
    inverse = torch.linalg.inv(atoms.T @ atoms + torch.diag(penalty))
    torch.testing.assert_close(ridge(atoms, penalty), atoms @ inverse, rtol=1e-9, atol=1e-12)
    expected = -0.2 * target + 1.6 * y @ torch.diag(penalty) @ inverse - 0.8 * y
    moved = target.to(dtype)
    turn(atoms, penalty, 1.6, dtype).add_to(moved, y.to(dtype), beta=-0.2)
    # The inverse that it is compared with has a condition of a million
    atol = 1e-9 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps * float(y.abs().max() * atoms.norm())
    torch.testing.assert_close(moved.double(), expected, rtol=0, atol=atol)


def test_the_duality_gap_is_near_the_distance_to_the_optimum_beside_atoms_that_are_off():
    """More atoms than dimensions, so that no vector has the pull of all slopes: those of the others count."""
    x, p = with_atoms_off(torch.float32, n=200)
    for steps in (4, 8, 14):
        q = DiagonalSolver()(x, p, max_iter=steps, tol=0.0).posterior
        gap, true = duality_gap(x, q, p), missing(x, q, p)
        assert (gap >= true - 1e-10).all()
        assert gap.mean() < 4 * true.mean() + 1e-7


# Newton's method for what a splitting certifies last


def polish_case(data):
    """The arguments of `polish` after a few iterations of the splitting."""
    x, p = data
    problem = Problem.of(p, exact=True)
    splitting = Splitting.of(problem)
    _, z = problem.started(DiagonalSolver()(x, p, max_iter=10, tol=0.0).posterior)
    return x, p, problem, (x / p.noise_variance.sqrt(), problem.atoms, problem.steepness, splitting.penalty, z)


def placed(problem, x, z):
    """The posterior at z."""
    scale = best_scale(z, problem.steepness)
    return problem.posterior(x, z * scale, scale)


@pytest.mark.parametrize("name", ["bars", "d<h", "d>h"])
def test_polish_works_on_the_bound_and_its_slope(name):
    """Its energy is the bound up to a constant, and its direction solves the equation linearised in t."""
    x, p, problem, (data, atoms, steepness, penalty, z) = polish_case(bars(5) if name == "bars" else problem_of(name))
    own = polish._Problem.of(data, atoms, steepness, penalty)
    total = polish._energy(z, own) + elbo_rows(x, placed(problem, x, z), p)
    torch.testing.assert_close(total, total[:1].expand_as(total))

    code, _, rate = polish.code_of(z, steepness)
    gradient = (code @ own.dictionary.T - data) @ own.dictionary + own.penalty * own.share * torch.erf(z)
    argument = rate + own.share * polish.SLOPE * torch.exp(-z * z)  # dt/dz
    for row, move in enumerate(polish._direction(z, own)):
        bend = own.penalty * own.share * polish.SLOPE * torch.exp(-(z[row] ** 2))
        jacobian = own.dictionary.T @ own.dictionary * rate[row] + torch.diag(bend)  # of the gradient, in z
        residual = jacobian @ (move / argument[row]) + gradient[row]
        # Where the data leave a direction open the curvature is lifted to `LEAST`, and T is a difference (Woodbury)
        lifted = 2 * polish.LEAST * move.abs().max()
        assert residual.abs().max() < 1e-4 * gradient[row].abs().max() + lifted


def problem_of(name):
    return problem(SHAPES[name], 0.1)


def test_polish_converges_at_once_near_the_optimum():
    x, p = problem(SHAPES["d>h"], 0.1, n=50)
    _, _, units, arguments = polish_case((x, p))
    assert duality_gap(x, placed(units, x, arguments[-1]), p).max() > 1e-8
    assert duality_gap(x, placed(units, x, polish.polished(*arguments)), p).max() < 1e-11


def test_data_points_that_a_splitting_would_not_finish_are_certified():
    """Bars leave a direction open that only the tails of the prior's kink hold; small noise makes all kinks sharp."""
    dictionary = torch.randn(12, 24, dtype=torch.float64, generator=generator(0))
    any_size = replace(random_parameters(Shape(30, 12, 24)), dictionary=dictionary, noise_variance=double(1e-6))
    sharp, _ = any_size.gauged()
    for x, p in (bars(30), (sharp.sample(30, 0)[0], sharp)):
        cost = DiagonalSolver()(x, p).cost
        assert cost.converged == 30
        assert cost.iterations < 1000


# Half of a diagonal posterior


@each_shape
@each_dtype
def test_the_means_of_a_diagonal_posterior_say_all(shape, dtype):
    x, p = problem(shape, n=30)
    best = DiagonalSolver()(x, p).posterior
    again = completed(best.mean.to(dtype), p.to(dtype))
    assert again.mean.dtype == again.variance.dtype == dtype
    near = 1e-5 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(again.variance.double(), best.variance, rtol=near, atol=0)


@pytest.mark.parametrize("steepness", [1e-3, 0.3, 3.0, 30.0, 1e3])
def test_scales_belong_to_means_however_steep_the_prior_is(steepness):
    """σ = |w| = 1, so that the steepness is 1/λ."""
    p = Parameters(torch.eye(1, dtype=torch.float64), double([1 / steepness]), double(1.0))
    z = torch.linspace(-7, 7, 281, dtype=torch.float64)[:, None]
    scale = best_scale(z, double(steepness))
    found = completed(2**0.5 * z * scale, p)
    torch.testing.assert_close(found.variance, scale.square(), rtol=1e-9, atol=0)


def test_batches_known_by_their_means_are_a_sequence():
    x, p = problem(SHAPES["d>h"], n=30)
    best = DiagonalSolver()(x, p).posterior
    kept = Means(p, list(best.mean.split(10)))
    assert len(kept) == len(list(kept)) == 3
    torch.testing.assert_close(kept[-1].variance, best.variance[20:], rtol=1e-5, atol=0)
    assert len(kept[1:]) == 2
    assert torch.equal(kept[1:][0].mean, best.mean[10:20])


def test_scales_of_a_needle_stay_between_those_of_the_prior_and_of_the_noise():
    p = Parameters(torch.eye(1, dtype=torch.float64), double([1e-6]), double(1.0))
    std = completed(torch.linspace(-9, 9, 101, dtype=torch.float64)[:, None], p).std
    assert (std <= 1).all()
    assert (std >= best_scale(double(0.0), double(1e6)) * (1 - 1e-12)).all()
