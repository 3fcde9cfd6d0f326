"""The M-step and the loop: every closed form is the maximiser it claims to be, and no sweep lowers the bound."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch

from cases import double
from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from sparsentropy.inference import DiagonalSolver, FullSolver, LowRankSolver
from sparsentropy.learning import (
    em,
    independent,
    learn,
    loop,
    online,
    quasi_newton,
    random_starts,
    rotation,
    separation,
    start,
)
from sparsentropy.learning.independent import Independent
from sparsentropy.learning.shelf import Cache
from sparsentropy.learning.task import Task
from sparsentropy.metrics import dictionary_match
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, Weights, elbo_rows, entropy_elbo
from sparsentropy.posteriors import Diagonal, Full, LowRank
from sparsentropy.rows import of

ANNEALED = Weights(prior=3.0, likelihood=0.5)


def model(d, h, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(d, h, dtype=torch.float64, generator=generator)
    scale = 0.5 + torch.rand(h, dtype=torch.float64, generator=generator)
    return Parameters(W, scale, torch.tensor(0.05, dtype=torch.float64)).gauged()[0]


def posterior(kind, n, d, h, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, h, dtype=torch.float64, generator=generator)
    positive = 0.1 + torch.rand(n, h, dtype=torch.float64, generator=generator)
    if kind == "diagonal":
        return Diagonal(mean, positive)
    if kind == "low-rank":
        return LowRank(mean, positive, torch.randn(n, h, 2, dtype=torch.float64, generator=generator))
    return Full.from_precision(mean, positive, torch.randn(d, h, dtype=torch.float64, generator=generator))


def case(kind="diagonal", n=60, d=6, h=4):
    parameters = model(d, h)
    x = parameters.sample(n, seed=2)[0]
    q = posterior(kind, n, d, h)
    return x, q, parameters, Statistics.of(x, q, parameters)


each_posterior = pytest.mark.parametrize("kind", ["diagonal", "low-rank", "full"])


@each_posterior
@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (3, 5)])
def test_least_squares_is_the_optimum_of_the_bound(kind, shape):
    d, h = shape
    _, _, parameters, statistics = case(kind, d=d, h=h)

    def negative(flat):
        candidate = replace(parameters, dictionary=torch.from_numpy(flat.reshape(d, h)))
        return -float(entropy_elbo(statistics, candidate))

    best = em.least_squares(statistics)
    found = scipy.optimize.minimize(negative, best.numpy().ravel() + 0.05, method="BFGS", options={"gtol": 1e-7})
    assert -negative(best.numpy().ravel()) >= -found.fun - 1e-8
    np.testing.assert_allclose(-found.fun, -negative(best.numpy().ravel()), atol=1e-6)


def test_update_restores_the_gauge_and_keeps_the_bound():
    _, _, parameters, statistics = case()
    new, factor = em.update(statistics, parameters)
    torch.testing.assert_close(new.dictionary.norm(dim=0), torch.ones(4, dtype=torch.float64))
    free = entropy_elbo(statistics, replace(parameters, dictionary=em.least_squares(statistics)))
    torch.testing.assert_close(entropy_elbo(statistics.rescaled(factor), new), free)
    torch.testing.assert_close(new.prior_scale, statistics.rescaled(factor).prior_statistic / statistics.n)


def test_an_atom_whose_codes_explain_nothing_keeps_its_direction_and_is_out_of_the_way():
    _, _, parameters, statistics = case()
    cross, moment = statistics.cross.clone(), statistics.second_moment.clone()
    cross[:, 2] = 0
    moment[2, [0, 1, 3]] = moment[[0, 1, 3], 2] = 0
    useless = replace(statistics, cross=cross, second_moment=moment, slope_square=statistics.slope_square * 0)
    new, factor = em.update(useless, parameters)
    torch.testing.assert_close(new.dictionary.norm(dim=0), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(new.dictionary[:, 2], parameters.dictionary[:, 2])
    torch.testing.assert_close(new.prior_scale[2], new.noise_variance.sqrt() / em.AWAY)
    free = entropy_elbo(useless, replace(parameters, dictionary=em.least_squares(useless)))
    torch.testing.assert_close(entropy_elbo(useless.rescaled(factor), new), free, rtol=0, atol=1e-5)
    again, factor = em.update(useless.rescaled(factor), new)
    torch.testing.assert_close(factor[2], torch.ones(1, dtype=torch.float64)[0], rtol=1e-2, atol=0)
    torch.testing.assert_close(again.dictionary[:, 2], parameters.dictionary[:, 2])


@pytest.mark.parametrize("beyond", [1.0, 1.0002, 1.01, 2.0])
def test_codes_that_float32_lets_go_together_more_than_they_can_have_a_factor(beyond):
    signs = double([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    size = double([0.05, 5.6, 5.7])
    wrong = (signs * size * size[:, None]) * (beyond + (1 - beyond) * torch.eye(3))
    factor, scale = em.correlation_factor(wrong)
    assert factor.isfinite().all()
    assert torch.allclose(scale, size)
    assert torch.dist(factor @ factor.T, wrong / size / size[:, None]) < 1e-2 + 10 * (beyond - 1)


def test_codes_of_which_rounding_has_left_less_than_nothing_have_a_factor():
    """What a turn made of float32 sums, of two data points that three atoms explain."""
    wrong = double([[2e-8, 1e-8, -5e-4], [1e-8, -4e-8, -3e-4], [-5e-4, -3e-4, 14.0]])
    factor, scale = em.correlation_factor(wrong)
    assert factor.isfinite().all()
    assert (scale > 0).all()


def test_columnwise_update_keeps_unit_length_and_every_atom_is_at_its_optimum():
    _, _, parameters, statistics = case()
    new, factor = em.update(statistics, parameters, ANNEALED)
    torch.testing.assert_close(new.dictionary.norm(dim=0), torch.ones(4, dtype=torch.float64))
    assert torch.equal(factor, torch.ones(4, dtype=torch.float64))
    assert entropy_elbo(statistics, new, ANNEALED) > entropy_elbo(statistics, parameters, ANNEALED)
    W = new.dictionary
    last = 3  # the atom updated last is exactly optimal given the others: any other direction is worse
    for seed in range(20):
        other = W.clone()
        other[:, last] += 0.05 * torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        other[:, last] /= other[:, last].norm()
        assert statistics.mean_error(other) >= statistics.mean_error(W)


def test_columnwise_updates_never_lower_the_annealed_bound():
    _, _, parameters, statistics = case(d=3, h=5)
    bounds = []
    for _ in range(6):
        bounds.append(float(entropy_elbo(statistics, parameters, ANNEALED)))
        parameters, _ = em.update(statistics, parameters, ANNEALED)
    assert np.all(np.diff(bounds) >= -1e-12)
    assert bounds[-1] > bounds[0]


@pytest.mark.parametrize(("spread", "off"), [(0.5, True), (0.9, True), (1.1, False), (2.0, False)])
def test_a_narrow_atom_is_put_out_of_the_way_if_that_does_not_lower_the_bound(spread, off):
    """Without an atom the data are as wide as the noise in all directions but its own."""
    sigma, width, n = 0.3, 0.02, 4000
    dictionary = torch.eye(3, 1, dtype=torch.float64)
    x = sigma * torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= spread * sigma / x[:, 0].square().mean().sqrt()
    narrow = Parameters(dictionary, double([width * sigma]), double(sigma**2))
    gone = replace(narrow, prior_scale=double([sigma / em.AWAY]))
    q, without = (DiagonalSolver()(x, p, tol=1e-12).posterior for p in (narrow, gone))
    gain = elbo_rows(x, q, narrow).mean() - elbo_rows(x, without, gone).mean()
    statistics = Statistics.of(x, q, narrow)
    brought = statistics.usage - width**2 + 1 / em.AWAY**2
    torch.testing.assert_close(gain[None], torch.pi / 4 * brought, rtol=0.02, atol=0)
    assert bool(gain < 0) == off
    fitted = em.fit(statistics, narrow)
    away = fitted.noise_variance.sqrt() / em.AWAY
    assert torch.equal(fitted.prior_scale[0], away) == off
    assert fitted.prior_scale[0] >= away


def test_floors_bind_only_where_arithmetic_ends():
    parameters = replace(model(3, 2), prior_scale=torch.tensor([1e-30, 1.0], dtype=torch.float64))
    floored = em.floored(parameters, unit=2.0)
    torch.testing.assert_close(floored.prior_scale, torch.tensor([2e-7, 1.0], dtype=torch.float64))
    assert floored.noise_variance == parameters.noise_variance
    assert torch.equal(em.floored(parameters, unit=2.0 + 1e-15).prior_scale, floored.prior_scale)


def turned_objective(q, matrix, n):
    """J(V) written out with dense covariances."""
    T = matrix @ q.covariance() @ matrix.T
    turned = Diagonal(q.mean @ matrix.T, T.diagonal(dim1=1, dim2=2))
    return torch.linalg.slogdet(matrix).logabsdet - torch.log(turned.abs_moment().sum(0) / n).sum()


EYE = torch.eye(4, dtype=torch.float64)


@each_posterior
def test_rotation_raises_its_objective_and_the_gradient_is_right(kind):
    _, q, _, _ = case(kind, n=80)
    view = rotation.Joint.of([q[:50], q[50:]], EYE)
    V = EYE.clone().requires_grad_()
    turned_objective(q, V, 80).backward()
    torch.testing.assert_close(view.slopes()[0], V.grad)
    found = rotation.rotate(view, steps=5)
    torch.testing.assert_close(found.turned(1).mean, q[50:].mean @ found.matrix.T)
    torch.testing.assert_close(found.objective, turned_objective(q, found.matrix, 80))
    assert found.objective > view.objective + 1e-3


def test_rotation_leaves_the_fit_and_changes_the_bound_of_a_full_posterior_by_its_objective():
    _, q, parameters, statistics = case("full", n=80)
    view = rotation.rotate(rotation.Joint.of([q], EYE), steps=3)
    turned, new = rotation.turn(view, statistics, parameters)
    torch.testing.assert_close(turned.mean_error(new.dictionary), statistics.mean_error(parameters.dictionary))
    logdet = torch.linalg.slogdet(view.matrix).logabsdet
    moved = replace(
        turned,
        prior_statistic=q.rotated(view.matrix).abs_moment().sum(0),
        entropy=statistics.entropy + statistics.n * logdet,
    )
    gain = turned_objective(q, view.matrix, 80) - turned_objective(q, EYE, 80)
    torch.testing.assert_close(entropy_elbo(moved, new) - entropy_elbo(statistics, parameters), gain)


@pytest.mark.parametrize("turning", ["joint", "independent"])
def test_rotation_at_its_optimum_stays(turning):
    view = rotation.Joint.of([case("full", n=80)[1]], EYE) if turning == "joint" else independent_case()[2]
    for _ in range(40):
        view = rotation.rotate(view, steps=10)
    torch.testing.assert_close(rotation.rotate(view, steps=10).objective, view.objective, atol=1e-5, rtol=0)


def independent_case(n=200):
    """Data, their statistics, and the view of their best independent posteriors, in two batches."""
    x, _, parameters, _ = case(n=n)
    q = None
    for _ in range(50):
        q = DiagonalSolver()(x, parameters, q).posterior
        statistics = Statistics.of(x, q, parameters)
        parameters = statistics.fit(parameters)
    return x, statistics, Independent.of([q[:70], q[70:]], statistics, parameters)


def test_turned_independent_posteriors_have_the_bound_that_is_said():
    x, statistics, view = independent_case()
    other = view.at(EYE + 0.2 * torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))

    def bound(at):
        q = Diagonal(
            *(torch.cat([getattr(part, name) for part in map(at.turned, range(2))]) for name in ("mean", "variance"))
        )
        parameters = replace(view.parameters, dictionary=at.dictionary)
        after = Statistics.of(x, q, parameters)
        turned, new = rotation.turn(at, statistics, view.parameters)
        for name in ("cross", "second_moment"):
            torch.testing.assert_close(getattr(turned, name), getattr(after, name))
        torch.testing.assert_close(new.dictionary, at.dictionary)
        return entropy_elbo(after, parameters)

    torch.testing.assert_close(bound(other) - bound(view), other.objective - view.objective)


def test_slopes_of_independent_posteriors_are_right(monkeypatch):
    monkeypatch.setattr(independent, "SCALE_STEPS", 200)
    *_, view = independent_case()
    gradient, _, _ = view.slopes()
    step = 1e-5
    for h, j in itertools.product(range(4), range(4)):
        E = torch.zeros_like(EYE)
        E[h, j] = step
        difference = (view.at(EYE + E).objective - view.at(EYE - E).objective) / (2 * step)
        torch.testing.assert_close(gradient[h, j], difference, atol=1e-5, rtol=1e-4)


def profile(x, dictionary, parameters):
    """F(W): all posteriors, scales and the noise at their optimum; by many E-steps and refits."""
    current, q = replace(parameters, dictionary=dictionary), None
    for _ in range(100):
        q = DiagonalSolver()(x, current, q, max_iter=20, tol=0.0).posterior
        statistics = Statistics.of(x, q, current)
        current = replace(statistics.fit(current), dictionary=dictionary)
    return statistics, current


def test_gradient_of_the_profile_by_finite_differences():
    parameters = model(5, 2)
    x = parameters.sample(100, seed=2)[0]
    statistics, current = profile(x, parameters.dictionary, parameters)
    gradient = quasi_newton.gradient(statistics, current)
    direction = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    step = 1e-4
    values = [entropy_elbo(*profile(x, current.dictionary + sign * step * direction, current)) for sign in (1, -1)]
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (3, 5)])
def test_metric_is_symmetric_and_positive(shape, independent):
    d, h = shape
    x, _, parameters, _ = case(n=100, d=d, h=h)
    q = DiagonalSolver()(x, parameters).posterior
    metric = quasi_newton.Metric.of(Statistics.of(x, q, parameters), parameters, independent=independent)
    basis = torch.eye(d * h, dtype=torch.float64).reshape(-1, d, h)
    matrix = torch.stack([metric(e).ravel() for e in basis])
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("noise", [0.01, 0.3])
@pytest.mark.parametrize("solver", [DiagonalSolver(), FullSolver()])
def test_blocks_are_the_curvature_of_the_bound_where_the_model_is_right(solver, noise, monkeypatch):
    """Second differences of F(W(I + E)), with everything else at its optimum, for atoms at right angles."""
    monkeypatch.setattr(quasi_newton, "DAMPING", 0.0)
    W = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    wide = {"dtype": torch.float64}
    truth = Parameters(W, torch.tensor([1.0, 0.5], **wide), torch.tensor(noise**2, **wide))
    x = truth.sample(10_000, seed=1)[0]

    def settled(parameters, q=None, rounds=20):
        for _ in range(rounds):
            q = solver(x, parameters, q, max_iter=100, tol=1e-9).posterior
            statistics = Statistics.of(x, q, parameters)
            parameters = statistics.fit(parameters)
        return parameters, q, statistics

    best, q, statistics = settled(truth)

    def value(upper, lower):
        turned = W @ torch.tensor([[1.0, upper], [lower, 1.0]], **wide)
        parameters, _, after = settled(replace(best, dictionary=turned), q, 10)
        return float(entropy_elbo(after, parameters))

    t, at_rest = 0.01, float(entropy_elbo(statistics, best))
    ways = ((1, 0), (0, 1), (1, 1))
    bend = [-(value(t * a, t * b) + value(-t * a, -t * b) - 2 * at_rest) / t**2 for a, b in ways]
    measured = torch.tensor([bend[0], bend[1], (bend[2] - bend[0] - bend[1]) / 2], **wide)
    blocks = quasi_newton.Metric.of(statistics, best, independent=isinstance(q, Diagonal)).blocks
    expected = torch.stack([blocks.own[0, 1], blocks.own[1, 0], blocks.cross[0, 1]])
    # A few per cent of sampling noise in the density of codes near zero; independence changes an entry by up to one
    torch.testing.assert_close(measured, expected, rtol=0.1, atol=0.05)


def test_memory_solves_a_quadratic():
    """On a quadratic with exact line searches, BFGS finds the optimum in as many steps as there are unknowns."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    hessian = root @ root.T + torch.eye(6, dtype=torch.float64)
    target = torch.randn(6, dtype=torch.float64, generator=generator)
    w, memory = torch.zeros(2, 3, dtype=torch.float64), quasi_newton.Memory()

    def slope(w):
        return (hessian @ (target - w.ravel())).reshape(2, 3)

    for _ in range(6):
        direction = memory.direction(slope(w), lambda g: g)
        length = (slope(w) * direction).sum() / (direction.ravel() @ hessian @ direction.ravel())
        new = w + length * direction
        memory = memory.extended(new - w, slope(w) - slope(new))
        w = new
    torch.testing.assert_close(w.ravel(), target)


def test_memory_refuses_pairs_that_bend_the_wrong_way():
    step = torch.ones(2, 2, dtype=torch.float64)
    assert quasi_newton.Memory().extended(step, -step).steps == ()


@pytest.mark.parametrize("shape", [(20, 5), (6, 6), (5, 12)])
def test_random_start_has_the_second_moment_of_the_data(shape):
    d, h = shape
    x = model(d, min(d, h)).sample(5000, seed=3)[0]
    first = random_starts(x, h, torch.Generator().manual_seed(0))[0]
    moment = x.T @ x / 5000
    W = first.dictionary
    explained = W @ torch.diag(2 * first.prior_scale.square()) @ W.T
    explained = explained + first.noise_variance * torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(W.norm(dim=0), torch.ones(h, dtype=torch.float64))
    difference = torch.linalg.eigvalsh(explained - moment)
    assert difference.abs().max() < 1.5 * float(first.noise_variance) + 0.05 * float(moment.trace()) / d


def test_random_start_is_the_maximum_of_the_gaussian_likelihood():
    """Tipping and Bishop 1999: no other noise level or scaling of the kept directions fits better."""
    x = model(8, 3).sample(4000, seed=3)[0]
    moment = (x.T @ x / 4000).numpy()
    first = random_starts(x, 3, torch.Generator().manual_seed(0))[0]

    def log_likelihood(noise, stretch):
        W = first.dictionary.numpy() * stretch
        covariance = W @ np.diag(2 * first.prior_scale.numpy() ** 2) @ W.T + noise * np.eye(8)
        return -np.linalg.slogdet(covariance)[1] - np.trace(np.linalg.solve(covariance, moment))

    noise = float(first.noise_variance)
    best = log_likelihood(noise, 1.0)
    for other in [(0.8 * noise, 1.0), (1.25 * noise, 1.0), (noise, 0.8), (noise, 1.25)]:
        assert log_likelihood(*other) < best


def test_revival_puts_switched_off_atoms_where_the_model_misses_something():
    generator = torch.Generator().manual_seed(0)
    parameters = replace(model(6, 3), prior_scale=torch.tensor([1.0, 1.0, 1e-6], dtype=torch.float64))
    missing = torch.zeros(6, dtype=torch.float64)
    missing[4] = 1.0
    error = 0.1 * torch.eye(6, dtype=torch.float64) + 5.0 * torch.outer(missing, missing)
    usage = torch.tensor([0.9, 0.9, 1e-3], dtype=torch.float64)
    revived = start.revive(error, 10_000, parameters, usage, generator)
    assert revived is not None
    assert abs(float(revived.dictionary[:, 2] @ missing)) > 0.999
    torch.testing.assert_close(
        2 * revived.prior_scale[2] ** 2, torch.tensor(5.0, dtype=torch.float64), rtol=0.02, atol=0
    )
    assert torch.equal(revived.dictionary[:, :2], parameters.dictionary[:, :2])


@pytest.mark.parametrize(
    ("error", "usage"),
    [
        (torch.eye(6, dtype=torch.float64), [0.9, 0.9, 0.0]),  # only noise is left
        (torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 50], dtype=torch.float64)), [0.9, 0.9, 0.1]),  # no atom is off
    ],
)
def test_revival_leaves_alone_what_needs_nothing(error, usage):
    used = torch.tensor(usage, dtype=torch.float64)
    assert start.revive(error, 1000, model(6, 3), used, torch.Generator()) is None


def test_a_small_prior_scale_alone_does_not_switch_an_atom_off():
    """Natural images have directions a thousand times smaller than others, which are still far above the noise."""
    parameters = Parameters(
        torch.eye(2, dtype=torch.float64),
        torch.tensor([1.0, 1e-3], dtype=torch.float64),
        torch.tensor(1e-10, dtype=torch.float64),
    )
    x, _ = parameters.sample(500)
    statistics = Statistics.of(x, DiagonalSolver()(x, parameters).posterior, parameters)
    assert (statistics.usage > 0.9).all()
    spare = replace(parameters, prior_scale=torch.tensor([1.0, 1e-7], dtype=torch.float64))
    x, _ = spare.sample(500)
    usage = Statistics.of(x, DiagonalSolver()(x, spare).posterior, spare).usage
    assert usage[1] < start.OFF < usage[0]


def test_the_rank_of_the_start_is_that_of_the_signal():
    bars = make_bars(1000, noise_std=0.1, seed=0)  # ten bars in nine dimensions
    frame, complete = random_starts(torch.from_numpy(bars.data), 10, torch.Generator().manual_seed(0))
    assert float(frame.noise_variance) ** 0.5 == pytest.approx(0.1, rel=0.03)
    assert (frame.prior_scale > 0.5).all()
    assert int((complete.prior_scale > 0.5).sum()) == 9
    assert float(complete.prior_scale.min()) < 0.01


def test_directions_of_very_different_size_are_not_mixed_at_the_start():
    size = torch.tensor([1.0, 1.0, 1e-3, 1e-3, 1e-5], dtype=torch.float64)
    x = size * torch.randn(5000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = random_starts(x, 4, torch.Generator().manual_seed(1))[0]
    assert first.dictionary[:2, 2:].abs().max() < 0.01
    assert first.dictionary[2:, :2].abs().max() < 0.01


def test_learning_begins_where_the_bound_is_clearly_higher(monkeypatch):
    """With diagonal posteriors a frame of too many atoms has a far lower bound than a basis has."""
    monkeypatch.setattr(loop, "CONTEST_SWEEPS", 0)
    x = torch.from_numpy(make_bars(500, noise_std=0.1, seed=0).data)
    starts = random_starts(x, 30, torch.Generator().manual_seed(0))
    assert len(starts) == 3
    for solver, chosen in ((DiagonalSolver(), starts[1]), (FullSolver(), starts[0])):
        begun = loop._best(starts, Task(of(x), solver, 4096, 1.0, Weights()), len(x))
        assert torch.equal(begun.dictionary, chosen.dictionary)


@pytest.mark.parametrize("learning", ["sweeps", "minibatch"])
@pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
def test_few_data_points_are_not_learned_by_heart(learning):
    """A basis of all dimensions has the higher bound after a few sweeps, of the data it has seen."""
    draw = np.random.default_rng(0)
    x = draw.laplace(size=(1300, 15)) @ draw.normal(size=(15, 60)) / 15**0.5 + 0.5 * draw.normal(size=(1300, 60))
    model = SparseCoding(60, learning=learning, max_iter=10, random_state=0).fit(x[:300])
    assert (model.prior_scale_ > 0.1 * model.noise_variance_**0.5).sum() == 15
    assert model.score(x[300:]) > model.lower_bound_ - 4


@pytest.mark.parametrize(("more", "n", "nats"), [(-2, 100, 0.24), (0, 100, 0.06), (3, 100, 0.276), (3, 10**9, 0.06)])
def test_a_later_start_must_be_better_by_what_its_atoms_cost(more, n, nats):
    first, later = (
        Parameters(
            torch.eye(12).double(),
            torch.where(torch.arange(12) < used, 1.0, 1e-9).double(),
            torch.tensor(0.01).double(),
        )
        for used in (5, 5 + more)
    )
    assert start.margin(first, later, n) == pytest.approx(nats, abs=1e-6)


@pytest.mark.parametrize("solver", [DiagonalSolver(), FullSolver()])
@pytest.mark.parametrize(("h", "noise"), [(12, 1e-4), (12, 0.09), (16, 0.09)])
def test_codes_of_data_that_vary_by_the_same_in_all_directions_are_found(h, noise, solver):
    """To Gaussian codes such data are nothing but noise, and a start in a random rotation looks no better."""
    draw = torch.Generator().manual_seed(1)
    mixing = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=draw)).Q
    truth = Parameters(mixing, torch.ones(12, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64))
    x = truth.sample(3000, 0)[0]
    *_, last = sweeps(x, h, solver, max_iter=100, tol=1e-3)
    match = dictionary_match(last.parameters.dictionary.T.numpy(), mixing.T.numpy())
    assert min(match.cosines) > 0.98
    best = float(elbo_rows(x, solver(x, truth).posterior, truth).mean())
    assert last.lower_bound > best - 0.06 * (h - 12)


@pytest.mark.parametrize("h", [1, 8, 16])
def test_pure_noise_switches_atoms_off_and_costs_no_more_than_that(h):
    x = torch.randn(2000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    *_, last = sweeps(x, h, DiagonalSolver(), max_iter=40, tol=1e-3)
    assert np.isfinite(last.lower_bound)
    gaussian = -8 * (1 + np.log(2 * np.pi * float(x.square().mean())))
    assert last.lower_bound > gaussian - 0.06 * h


def sweeps(x, h, solver, *, max_iter=25, tol=0.0, weights=None, batch_size=4096, seed=0, starts=None, cache=None):
    generator = torch.Generator().manual_seed(seed)
    extra = {"cache": cache or Cache()} if weights is None else {"weights": weights}
    starts = random_starts(x, h, generator) if starts is None else starts
    return list(
        learn(x, starts, solver, max_iter=max_iter, tol=tol, batch_size=batch_size, generator=generator, **extra)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [DiagonalSolver(), FullSolver()])
@pytest.mark.parametrize("h", [6, 30])
def test_no_sweep_lowers_the_bound(dtype, solver, h):
    x = torch.from_numpy(make_bars(150, size=4, seed=1).data).to(dtype)
    bounds = [sweep.lower_bound for sweep in sweeps(x, h, solver)]
    assert len(bounds) > 5
    assert np.all(np.diff(bounds) >= 0)


def test_annealed_sweeps_do_not_lower_the_annealed_bound():
    x = torch.from_numpy(make_bars(300, size=4, seed=1).data)
    annealed = sweeps(x, 8, DiagonalSolver(), weights=Weights(prior=1.2), max_iter=12, starts=[model(16, 8)])
    bounds = [sweep.lower_bound for sweep in annealed]
    assert np.all(np.diff(bounds) >= 0)
    assert bounds[-1] > bounds[0] + 1


def test_batches_do_not_change_what_is_learned():
    """Pooled statistics: where the data are cut only decides which posteriors are found together."""
    x = torch.from_numpy(make_bars(400, size=4, seed=1).data)
    whole = sweeps(x, 8, FullSolver(), max_iter=8)[-1]
    cut = sweeps(x, 8, FullSolver(), max_iter=8, batch_size=64)[-1]
    torch.testing.assert_close(cut.parameters.dictionary, whole.parameters.dictionary, rtol=1e-6, atol=1e-8)
    assert cut.lower_bound == pytest.approx(whole.lower_bound, abs=1e-8)


def test_atoms_have_unit_length_after_every_sweep():
    x = torch.from_numpy(make_bars(300, size=4, seed=1).data)
    for sweep in sweeps(x, 8, DiagonalSolver(), max_iter=12):
        torch.testing.assert_close(sweep.parameters.dictionary.norm(dim=0), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("seed", [0, 1])
def test_bars_are_found(seed):
    bars = make_bars(1000, seed=seed)
    last = sweeps(torch.from_numpy(bars.data), 10, FullSolver(), max_iter=100, tol=1e-3, seed=seed)[-1]
    assert last.converged
    assert dictionary_match(last.parameters.dictionary.T.numpy(), bars.dictionary.T).cosines.min() > 0.95


def test_large_data_are_learned_from_a_part_first():
    assert loop._parts(1000, 1000, 10, 25) == [1000]
    sizes = loop._parts(100_000, 100_000, 10, 25)
    assert loop._parts(100_000, 5000, 10, 25) == [3200, 100_000]
    assert loop._parts(100_000, 500, 10, 25) == [100_000]
    assert sizes[-1] == 100_000
    assert sizes[0] < 10_000
    assert sizes == sorted(sizes)
    rows = [sweep.rows for sweep in sweeps(torch.randn(3000, 4, dtype=torch.float64), 2, DiagonalSolver(), max_iter=8)]
    assert rows == sorted(rows)
    assert rows[-1] == 3000
    assert rows[0] < 3000


@pytest.mark.parametrize(("solver", "n"), [(DiagonalSolver(), 500), (FullSolver(), 200), (LowRankSolver(2), 60)])
@pytest.mark.parametrize("seed", [0, 2])
def test_data_in_a_subspace_are_learned_with_more_atoms_than_dimensions(seed, solver, n):
    """There is no noise, and rounding may give a direction without data a negative variance."""
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.laplace(size=(n, 3)) @ draw.normal(size=(3, 10)))
    *_, last = sweeps(x, 12, solver, max_iter=20, tol=1e-3)
    assert np.isfinite(last.lower_bound)
    assert last.parameters.dictionary.isfinite().all()
    assert float(last.parameters.noise_variance) < 1e-10


def test_atoms_are_not_started_anew_where_rounding_is_all_that_is_missed():
    error = torch.diag(double([-3e-20, -2e-20, -1e-20, 1e-20, 1.0]))
    parameters = Parameters(torch.eye(5, dtype=torch.float64), double([1.0] * 5), double(1e-12))
    revived = start.revive(error, 500, parameters, double([0.0] * 5), torch.Generator().manual_seed(0))
    assert revived is not None
    assert revived.dictionary.isfinite().all()
    assert (revived.dictionary != parameters.dictionary).any(0).sum() == 1


@pytest.mark.parametrize("beyond", [0.0, 1e-8, 1e-7])
def test_codes_that_go_together_have_a_least_squares_dictionary(beyond):
    """Found by made-up data: two rows that are the same, in float32, whose rounding took a correlation beyond 1."""
    second_moment = torch.tensor([[1.0, 1.0 + beyond], [1.0 + beyond, 1.0]], dtype=torch.float64)
    W = em.solved(torch.ones(3, 2, dtype=torch.float64), second_moment)
    torch.testing.assert_close(W.sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)


def test_two_rows_that_are_the_same_are_learned_from():
    x = torch.tensor([[0.12573022, -0.13210486, 0.64042264]] * 2)
    draw = torch.Generator().manual_seed(0)
    for sweep in learn(
        x, random_starts(x, 2, draw), DiagonalSolver(), max_iter=3, tol=0.0, batch_size=9, generator=draw
    ):
        assert np.isfinite(sweep.lower_bound)


def test_learning_with_means_alone_takes_the_same_way():
    x = torch.from_numpy(make_bars(400, noise_std=0.1, seed=1).data)
    for h in (6, 10, 30):
        plain, lean = (
            sweeps(x, h, DiagonalSolver(), max_iter=12, batch_size=100, cache=cache)[-1]
            for cache in (Cache(), Cache(lean=True))
        )
        assert lean.lower_bound == pytest.approx(plain.lower_bound, abs=1e-5)
        cosines = dictionary_match(lean.parameters.dictionary.T.numpy(), plain.parameters.dictionary.T.numpy()).cosines
        used = np.asarray(plain.statistics.usage > start.OFF)
        assert cosines[used].min() > 1 - 1e-4


def test_means_alone_are_half_of_the_posteriors():
    x = torch.from_numpy(make_bars(200, seed=1).data)
    parameters = random_starts(x, 10, torch.Generator().manual_seed(0))[0]
    task = Task(of(x), DiagonalSolver(), 50, 1.0, Weights(), Cache(lean=True))
    kept = task.expect(parameters, None, 5).posteriors
    assert [tensor.shape for tensor in kept.means] == [(50, 10)] * 4
    whole = replace(task, cache=Cache()).expect(parameters, None, 5).posteriors
    for one, other in zip(kept, whole, strict=True):
        torch.testing.assert_close(one.variance, other.variance, rtol=1e-4, atol=0)


def test_the_second_run_is_identical():
    x = torch.from_numpy(make_bars(300, size=4, seed=1).data)
    a, b = (sweeps(x, 8, FullSolver(), max_iter=25)[-1] for _ in range(2))
    assert torch.equal(a.parameters.dictionary, b.parameters.dictionary)


def test_the_past_fades():
    _, _, _, statistics = case()
    both = online.absorb(statistics, statistics, seen=120)
    assert float(both.n) == pytest.approx(60 * (1 - 60 / 240) + 60)
    many = statistics
    for batch in range(2, 200):
        many = online.absorb(many, statistics, seen=60 * batch)
    assert float(many.n) < 0.6 * 60 * 200
    torch.testing.assert_close(many.cross / many.n, statistics.cross / statistics.n)


def test_stream_update_raises_the_bound_and_keeps_statistics_in_its_gauge():
    _, _, parameters, statistics = case()
    new_statistics, new = online.update(statistics, statistics, parameters, 60, independent=False)
    assert entropy_elbo(new_statistics, new) > entropy_elbo(statistics, parameters)
    torch.testing.assert_close(new.dictionary.norm(dim=0), torch.ones(4, dtype=torch.float64))


def test_a_stream_update_that_turns_atoms_leaves_what_is_explained():
    """Where the noise is tiny, codes of the past that did not turn along would look like noise."""
    _, _, parameters, statistics = case()
    draw = torch.Generator().manual_seed(5)
    step = parameters.dictionary @ (0.1 * torch.randn(4, 4, dtype=torch.float64, generator=draw))
    turned = online._turned(statistics, parameters.dictionary, step)
    moved = parameters.dictionary + step
    torch.testing.assert_close(turned.mean_error(moved), statistics.mean_error(parameters.dictionary))
    assert statistics.mean_error(moved) > 1.01 * statistics.mean_error(parameters.dictionary)


@pytest.mark.parametrize(("d", "h"), [(16, 10), (16, 16)])
def test_a_stream_gets_near_what_learning_on_all_data_at_once_gets_to(d, h):
    draw = torch.Generator().manual_seed(1)
    mixing = torch.linalg.qr(torch.randn(d, h, dtype=torch.float64, generator=draw)).Q
    truth = Parameters(mixing, torch.ones(h, dtype=torch.float64), torch.tensor(1e-4, dtype=torch.float64))
    x = truth.sample(12_000, 0)[0]
    new = truth.sample(1000, 1)[0]
    solver = DiagonalSolver()

    def score(parameters):
        return float(elbo_rows(new, solver(new, parameters).posterior, parameters).mean())

    *_, sweep = learn(
        x[:500], random_starts(x[:500], h, draw), solver, max_iter=3, tol=1e-3, batch_size=500, generator=draw
    )
    parameters, statistics, begun = sweep.parameters, sweep.statistics, score(sweep.parameters)
    for first in range(500, 12_000, 500):
        batch = Statistics.of(
            rows := x[first : first + 500], solver(rows, parameters, max_iter=50, tol=0.0).posterior, parameters
        )
        statistics = online.absorb(statistics, batch, first + 500)
        statistics, parameters = online.update(statistics, batch, parameters, first + 500, independent=True)
    best = score(truth)
    assert begun < best - 0.2
    assert best - score(parameters) < (best - begun) / 3


def test_directions_far_smaller_than_others_are_learned_with_more_atoms_than_dimensions():
    """Noise can only fall as far as the smallest direction that no atom covers."""
    generator = torch.Generator().manual_seed(0)
    size = torch.logspace(0, -3, 12, dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=generator)).Q * size
    codes = torch.distributions.Laplace(0.0, 1.0).icdf(torch.rand(2000, 12, dtype=torch.float64, generator=generator))
    x = codes @ mixing.T
    last = sweeps(x, 24, DiagonalSolver(), max_iter=60, tol=1e-3)[-1]
    # One code per direction and no noise: the exact log likelihood, less 0.048 nats for each atom that is off
    exact = float(-(torch.log(2 * np.e * size)).sum())
    assert last.lower_bound > exact - 0.5 - 0.05 * 13
    assert float(last.parameters.noise_variance) ** 0.5 < 2e-3
    assert int((last.statistics.usage > start.OFF).sum()) == 11


# pairs of atoms that are mixed


@each_posterior
def test_gain_of_a_turn_is_that_of_the_objective_of_rotations(kind, monkeypatch):
    monkeypatch.setattr(separation, "CHUNK", 7 * 4**2)  # 60 data points in chunks of 7
    _, q, _, statistics = case(kind)
    size = (statistics.second_moment.diagonal() / statistics.n).sqrt()
    gains = separation.pairwise_gains(q, size, torch.tensor([0, 1, 3]))
    matrix = separation.turn_by([(0, 3)], size)
    views = [rotation.Joint.of([q], V) for V in (EYE, matrix)]
    torch.testing.assert_close(gains[0, 2], views[1].objective - views[0].objective)
    torch.testing.assert_close(gains, gains.T)


def mixed(n=150):
    """Data of two causes, and the sum and the difference of their atoms: a saddle, for the data are mirrored."""
    W = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    truth = Parameters(W, torch.ones(2, dtype=torch.float64), torch.tensor(0.01, dtype=torch.float64))
    x = truth.sample(n, seed=1)[0]
    x = torch.cat([x, x - 2 * torch.outer(x @ W[:, 1], W[:, 1])])
    halves = W @ torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    return x, truth, replace(truth, dictionary=halves)


def test_turns_name_the_mixed_pair_and_none_once_it_is_apart():
    x, truth, saddle = mixed()
    size, used = torch.ones(2, dtype=torch.float64), torch.arange(2)
    assert separation.turns(DiagonalSolver()(x, saddle).posterior, size, used) == [(0, 1)]
    assert separation.turns(DiagonalSolver()(x, truth).posterior, size, used) == []
    assert separation.turns(DiagonalSolver()(x, saddle).posterior, size, used[:0]) == []


@pytest.mark.parametrize("solver", [DiagonalSolver(), FullSolver()])
def test_learning_leaves_a_saddle(solver):
    x, truth, saddle = mixed()
    generator = torch.Generator().manual_seed(0)
    *_, last = learn(x, [saddle], solver, max_iter=60, tol=1e-3, batch_size=1000, generator=generator)
    assert dictionary_match(last.parameters.dictionary.T.numpy(), truth.dictionary.T.numpy()).cosines.min() > 0.99


@pytest.mark.parametrize(("solver", "d", "h", "most"), [(LowRankSolver(2), 6, 9, 40), (FullSolver(), 16, 32, 12)])
def test_what_is_slow_among_many_atoms_is_learned_after_independent_codes(solver, d, h, most):
    """Never below what independent codes lead to, and the bound does not fall where one kind follows the other."""
    x = model(d, h, seed=3).sample(600, 0)[0]
    independent = sweeps(x, h, DiagonalSolver(), max_iter=most // 2, tol=1e-3)
    joint = sweeps(x, h, solver, max_iter=most, tol=1e-3)
    ahead = [sweep.annealed for sweep in joint]
    assert ahead == sorted(ahead, reverse=True)
    assert ahead.count(True) == len(independent)
    for one, other in zip(joint, independent, strict=False):
        assert one.lower_bound == pytest.approx(other.lower_bound, abs=1e-9)
    assert (np.diff([sweep.lower_bound for sweep in joint]) > -1e-9).all()
    assert joint[-1].lower_bound > independent[-1].lower_bound + 0.01
    assert len(joint) <= most
    assert [sweep.converged for sweep in joint].count(True) <= 1


@pytest.mark.parametrize(("size", "seed"), [(4, 0), (5, 0)])
def test_where_independent_codes_leave_an_atom_without_use_learning_begins_again(size, seed):
    """Bars, of which independent codes take a basis, are found as if nothing had run ahead.

    With (4, 0) the atom that is left over is off, with (5, 0) it fits noise.
    """
    bars = make_bars(500, size=size, seed=seed)
    found = sweeps(torch.from_numpy(bars.data), 2 * size, LowRankSolver(2), max_iter=60, tol=1e-3)
    ahead = [sweep for sweep in found if sweep.annealed]
    scale = ahead[-1].parameters.prior_scale
    assert scale.min() < 0.1 * scale.median()
    first = found[len(ahead)]
    assert first.lower_bound < ahead[-1].lower_bound
    assert dictionary_match(found[-1].parameters.dictionary.T.numpy(), bars.dictionary.T).cosines.min() > 0.9


@pytest.mark.parametrize("most", [1, 2, 3])
def test_short_learning_ends_with_the_posteriors_that_were_asked_for(most):
    x = model(10, 16, seed=3).sample(500, 0)[0]
    last = sweeps(x, 16, LowRankSolver(2), max_iter=most)[-1]
    independent = DiagonalSolver()(x, last.parameters).posterior
    assert last.lower_bound > elbo_rows(x, independent, last.parameters).mean()


def test_posteriors_that_are_slow_to_find_have_a_forerunner():
    assert LowRankSolver(8).forerunner(10) is None
    assert LowRankSolver(8).forerunner(100) == DiagonalSolver()
    assert FullSolver().forerunner(10) is None
    assert FullSolver().forerunner(100) == DiagonalSolver()
    assert DiagonalSolver().forerunner(100) is None
