"""What a model and its posteriors are asked afterwards."""

from dataclasses import replace

import pytest
import torch

from cases import double, each_dtype
from sparsentropy import diagnostics
from sparsentropy.inference import DiagonalSolver, FullSolver, LowRankSolver
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows, importance_log_likelihood
from sparsentropy.posteriors import Diagonal

SOLVERS = {"diagonal": DiagonalSolver(), "low-rank": LowRankSolver(2), "full": FullSolver()}


def model(noise=0.3):
    W = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Parameters(W / W.norm(dim=0), torch.ones(4, dtype=torch.float64), double(noise**2))


@each_dtype
@pytest.mark.parametrize("name", SOLVERS)
def test_the_gap_of_a_solved_posterior_is_zero_and_of_any_other_positive(name, dtype):
    p = model()
    x = p.sample(200, 1)[0].to(dtype)
    solver = SOLVERS[name]
    q = solver(x, p.to(dtype)).posterior
    gap = diagnostics.amortization_gap(x, q, p.to(dtype), solver)
    assert gap.rows.dtype == torch.float64
    assert gap.rows.shape == (200,)
    assert abs(gap.mean) < (1e-6 if dtype == torch.float64 else 1e-3)
    assert gap.converged == 200
    early = solver(x, p.to(dtype), max_iter=1, tol=0.0).posterior
    assert diagnostics.amortization_gap(x, early, p.to(dtype), solver).rows.min() > -1e-4


def test_the_gap_is_that_of_a_quadratic_far_from_zero():
    """With codes far from zero, |w|²/σ² is all the curvature there is: a shift by t costs t²/2σ² each."""
    p = Parameters(torch.eye(3, dtype=torch.float64), torch.full((3,), 100.0, dtype=torch.float64), double(0.01))
    x = torch.tensor([[50.0, -70.0, 90.0]], dtype=torch.float64)
    exact = DiagonalSolver()(x, p).posterior
    shifted = Diagonal(exact.mean + 0.2, exact.variance)
    assert diagnostics.amortization_gap(x, shifted, p, DiagonalSolver()).mean == pytest.approx(
        3 * 0.04 / 0.02, rel=1e-6
    )


def test_a_richer_family_says_what_the_shape_of_a_posterior_costs():
    p = model()
    x = p.sample(200, 1)[0]
    q = DiagonalSolver()(x, p).posterior
    gap = diagnostics.amortization_gap(x, q, p, FullSolver())
    assert gap.rows.min() > -1e-8
    assert gap.mean > 0.01


@pytest.mark.parametrize("n", [0, 3])
def test_every_data_point_has_a_posterior(n):
    p = model()
    x = p.sample(5, 1)[0]
    q = DiagonalSolver()(x, p).posterior[:n]
    with pytest.raises(ValueError, match=f"{n if n == 0 else 5} data points and {n} posteriors; give one for each"):
        diagnostics.amortization_gap(x[:0] if n == 0 else x, q, p, DiagonalSolver())


def test_what_was_solved_before_serves_for_many_answers():
    p = model()
    x = p.sample(50, 1)[0]
    solution = DiagonalSolver()(x, p)
    for most in (1, 2):
        early = DiagonalSolver()(x, p, max_iter=most, tol=0.0).posterior
        anew = diagnostics.amortization_gap(x, early, p, DiagonalSolver())
        assert diagnostics.amortization_gap(x, early, p, solution).mean == pytest.approx(anew.mean, rel=1e-9)
    with pytest.raises(ValueError, match="20 data points, but 50 were solved"):
        diagnostics.amortization_gap(x[:20], early[:20], p, solution)


def test_the_noise_of_sampled_gradients_falls_as_one_over_their_number():
    p = model()
    x = p.sample(50, 1)[0]
    q = DiagonalSolver()(x, p, max_iter=2, tol=0.0).posterior
    one, ten = (diagnostics.gradient_noise(x, q, p, k, draws=400) for k in (1, 10))
    assert one > 0.1
    assert one / ten == pytest.approx(10, rel=0.15)


def test_the_noise_is_that_of_independent_draws():
    """The mean of many draws is as far from the analytic gradient as it may be: the two have the same expectation."""
    p = model()
    x = p.sample(50, 1)[0]
    q = DiagonalSolver()(x, p, max_iter=2, tol=0.0).posterior
    assert diagnostics.gradient_noise(x, q, p, 5000, draws=2) == pytest.approx(
        diagnostics.gradient_noise(x, q, p, 1, draws=2000) / 5000, rel=0.3
    )
    with pytest.raises(ValueError, match="draws must be at least 2; got 1"):
        diagnostics.gradient_noise(x, q, p, 1, draws=1)


@each_dtype
@pytest.mark.parametrize("name", SOLVERS)
def test_a_refit_of_the_true_atoms_finds_the_true_scales_and_keeps_the_atoms(name, dtype):
    """With orthogonal atoms, for which posteriors are independent."""
    atoms = torch.linalg.qr(model().dictionary).Q
    truth = replace(model(), dictionary=atoms, prior_scale=double([0.5, 1.0, 2.0, 4.0]))
    x = truth.sample(1500 if name == "low-rank" else 4000, 2)[0].to(dtype)
    found = diagnostics.refit(x, (7 * truth.dictionary).to(dtype), SOLVERS[name])
    torch.testing.assert_close(found.parameters.dictionary.double(), truth.dictionary, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.parameters.prior_scale.double(), truth.prior_scale, atol=0, rtol=0.1)
    assert float(found.parameters.noise_variance) ** 0.5 == pytest.approx(0.3, rel=0.05)
    again = SOLVERS[name](x, found.parameters).posterior
    assert found.lower_bound == pytest.approx(float(elbo_rows(x, again, found.parameters).double().mean()), abs=5e-3)


def test_a_refit_cannot_be_raised_by_other_scales_or_noise():
    truth = model()
    x = truth.sample(2000, 2)[0]
    found = diagnostics.refit(x, truth.dictionary, FullSolver())
    for factor in (0.9, 1.1):
        for other in (
            replace(found.parameters, prior_scale=found.parameters.prior_scale * factor),
            replace(found.parameters, noise_variance=found.parameters.noise_variance * factor),
        ):
            assert diagnostics.held_out_bound(x, other, FullSolver()) < found.lower_bound


def test_a_held_out_bound_is_below_the_log_likelihood():
    truth = model()
    x = truth.sample(300, 3)[0]
    q = FullSolver()(x, truth).posterior
    estimate = importance_log_likelihood(x, q, truth, 2000, torch.Generator().manual_seed(0)).mean()
    bounds = [diagnostics.held_out_bound(x, truth, SOLVERS[name]) for name in ("diagonal", "low-rank", "full")]
    assert bounds == sorted(bounds)
    assert bounds[-1] < float(estimate)
