"""Factors of a covariance that is known by its inverse: blocks, and the arithmetic they ask for."""

import pytest
import torch

from cases import generator, normal
from sparsentropy.inference import DiagonalSolver, FullSolver, full_duality_gap
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import Full
from sparsentropy.precision import BLOCK, arithmetic, factorised

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def nearly_orthogonal(d, h, apart=0.1):
    draw = generator(1)
    atoms = torch.linalg.qr(normal(d, d, draw=draw)).Q[:, :h] + apart * normal(d, h, draw=draw) / d**0.5
    return atoms / atoms.norm(dim=0)


@each_dtype
@pytest.mark.parametrize("h", [1, BLOCK, BLOCK + 1, 2 * BLOCK + 1, 5 * BLOCK - 1])
def test_factors_made_of_blocks_invert_the_precision(h, dtype):
    dictionary = nearly_orthogonal(h + 3, h) / 0.1
    precision = torch.rand(4, h, dtype=torch.float64, generator=generator(2)) * 50
    factor = factorised(precision, dictionary, dtype)
    assert factor.dtype == dtype
    exact = dictionary.T @ dictionary + torch.diag_embed(precision)
    near = {"rtol": 1e-4, "atol": 1e-8} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-14}
    torch.testing.assert_close(factor.covariance().double(), torch.linalg.inv(exact), **near)
    torch.testing.assert_close(factor.log_det(), -torch.linalg.slogdet(exact).logabsdet, rtol=near["rtol"], atol=1e-12)
    right = normal(4, h, draw=generator(3))
    solved = torch.linalg.solve(exact, right)
    torch.testing.assert_close(factor.multiply(right[None].to(dtype))[0].double(), solved, **near)


def test_a_matrix_that_is_not_positive_definite_is_refused_in_any_block():
    precision = torch.zeros(1, 40, dtype=torch.float64)
    precision[0, -1] = -2.0
    with pytest.raises(torch.linalg.LinAlgError):
        factorised(precision, torch.eye(40, dtype=torch.float64))


def test_float32_serves_where_the_dictionary_tells_codes_apart():
    apart = nearly_orthogonal(40, 30)
    assert arithmetic(apart, torch.float32) == torch.float32
    assert arithmetic(apart * torch.logspace(-3, 3, 30), torch.float32) == torch.float32  # lengths do not matter
    assert arithmetic(apart, torch.float64) == torch.float64
    alike = torch.cat([apart, apart[:, :1] + 0.1 * apart[:, 1:2]], 1)
    assert arithmetic(alike, torch.float32) == torch.float64
    assert arithmetic(normal(20, 30, draw=generator(0)), torch.float32) == torch.float64
    assert arithmetic(torch.cat([apart, torch.zeros(40, 1, dtype=torch.float64)], 1), torch.float32) == torch.float64


@pytest.mark.parametrize("noise", [1e-1, 1e-5])
def test_full_posteriors_with_factors_in_float32_lose_nothing_of_the_bound(noise):
    dictionary = nearly_orthogonal(48, 40, 0.3).float()
    assert arithmetic(dictionary, torch.float32) == torch.float32
    p = Parameters(dictionary, torch.linspace(0.3, 2.0, 40), torch.tensor(noise))
    x = p.sample(60, 1)[0]
    wide = p.to(torch.float64)
    q, best = FullSolver()(x, p), FullSolver()(x.double(), wide)
    assert q.cost.converged == 60

    def exact(posterior):
        """With the factors that float64 finds for the same ν and κ."""
        scaled = wide.dictionary / wide.noise_variance.sqrt()
        return Full.from_precision(posterior.mean.double(), posterior.prior_precision.double(), scaled)

    def bound(posterior):
        return elbo_rows(x.double(), exact(posterior), wide)

    missing = bound(best.posterior) - bound(q.posterior)
    rounding = (1e-7 * x.double().square().sum(1).sqrt() / noise**0.5).square() * 40  # of ν itself, in float32
    assert (missing <= 2e-6 * (1 + bound(best.posterior).abs()) + rounding).all()
    gap = full_duality_gap(x, q.posterior, p)
    assert (missing <= gap + 1e-6).all()
    diagonal = elbo_rows(x.double(), DiagonalSolver()(x.double(), wide).posterior, wide)
    assert (bound(q.posterior) > diagonal).all()
    same = exact(q.posterior)
    torch.testing.assert_close(q.posterior.covariance_sum(), same.covariance_sum(), rtol=1e-4, atol=1e-5 * noise)
    torch.testing.assert_close(q.posterior.entropy().double(), same.entropy(), rtol=1e-6, atol=1e-4)
