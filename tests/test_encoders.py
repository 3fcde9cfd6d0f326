"""Encoders: every network with every head, the unrolled E-step against the iterated one, and the solver around them."""

import copy
import itertools

import pytest
import torch

from cases import double, each_dtype
from sparsentropy.inference import AmortizedSolver, DiagonalSolver, LowRankSolver, encoders
from sparsentropy.inference.encoders import DiagonalHead, Encoder, LowRankHead, Unrolled
from sparsentropy.inference.problem import Problem
from sparsentropy.inference.splitting import Splitting
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import Diagonal, LowRank

NETWORKS = ("mlp", "residual", "unrolled")
each_network = pytest.mark.parametrize("network", NETWORKS)
each_rank = pytest.mark.parametrize("rank", [0, 2])


def model(d, h, noise=0.05, seed=0, dtype=torch.float64, spread=0.0):
    """Atoms at right angles as nearly as may be, and codes of many scales where `spread` is not zero."""
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(d, h, dtype=torch.float64, generator=draw)
    W = torch.linalg.qr(W).Q + 0.1 * W / d**0.5 if h <= d else W
    scale = 10 ** (-spread * torch.arange(h, dtype=torch.float64) / h)
    return Parameters(W / W.norm(dim=0), scale, double(noise**2)).to(dtype)


def data(parameters, n=200, seed=1):
    return parameters.to(torch.float64).sample(n, seed)[0].to(parameters.dictionary.dtype)


def encoder(network, parameters, rank=0):
    torch.manual_seed(0)
    made = encoders.build(network, parameters.d, parameters.h, rank).to(parameters.dictionary.dtype)
    made.begin(data(parameters), parameters)
    return made


def shaken(module):
    """With weights that are not those of the beginning."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in module.parameters():
            value += 0.05 * torch.randn(value.shape, dtype=value.dtype, generator=draw)
    return module


@each_dtype
@each_rank
@each_network
def test_every_network_goes_with_every_head(network, rank, dtype):
    p = model(12, 8, dtype=dtype)
    x = data(p)
    q = encoder(network, p, rank)(x, p)
    assert isinstance(q, LowRank if rank else Diagonal)
    assert q.mean.shape == (200, 8)
    assert q.mean.dtype == q.variance.dtype == dtype
    assert bool((q.variance > 0).all())
    assert bool(torch.isfinite(elbo_rows(x, q, p)).all())
    if rank:
        assert q.factor.shape == (200, 8, 2)


@each_rank
@each_network
def test_every_weight_has_a_derivative(network, rank):
    p = model(12, 8)
    made = shaken(encoder(network, p, rank))
    (-elbo_rows(data(p), made(data(p), p), p).mean()).backward()
    for name, value in made.named_parameters():
        if value.numel():  # of depth 1 there are no steps
            assert value.grad is not None, name
            assert bool(value.grad.abs().max() > 0), name


@each_rank
@each_network
def test_derivatives_are_those_of_finite_differences(network, rank):
    p = model(6, 4)
    x, made = data(p, 20), shaken(encoder(network, p, rank))

    def bound():
        return elbo_rows(x, made(x, p), p).mean()

    bound().backward()
    for value in made.parameters():
        flat = value.detach().view(-1)
        for index in {0, len(flat) // 2} if len(flat) else ():
            ends = []
            for sign in (1, -1):
                flat[index] += sign * 1e-6
                ends.append(bound().item())
                flat[index] -= sign * 1e-6
            expected = (ends[0] - ends[1]) / 2e-6
            assert float(value.grad.view(-1)[index]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@each_dtype
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(
    ("d", "h", "spread", "noise"),
    [(12, 8, 0, 0.05), (12, 8, 5, 0.05), (8, 24, 0, 0.3), (8, 12, 3, 0.01), (8, 12, 5, 0.2)],
)
def test_in_place_is_the_same_as_with_derivatives(d, h, spread, noise, depth, dtype):
    """Told apart or not, through the data or at once, steep or not, silent or not; with gains that were learned."""
    p = model(d, h, noise=noise, dtype=dtype, spread=spread)
    x, made = data(p), shaken(Encoder(Unrolled(h, depth), DiagonalHead()).to(dtype))
    slow, fast = made(x, p), made.fast(p)(x)
    close = 1e-9 if dtype == torch.float64 else 2e-3
    assert bool(((slow.mean - fast.mean).abs() <= close * (1 + slow.mean.abs() / slow.std) * slow.std).all())
    torch.testing.assert_close(slow.variance, fast.variance, rtol=close, atol=0)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(("d", "h"), [(12, 8), (8, 24)])
def test_without_learning_the_unrolled_encoder_is_the_e_step_broken_off(d, h, depth):
    p = model(d, h)
    x = data(p)
    made = Encoder(Unrolled(h, depth).double(), DiagonalHead())
    splitting = Splitting.of(Problem.of(p, exact=False))
    # `iterations` asks for fewer than it is told where codes are told apart
    asked = next(k for k in itertools.count() if splitting.iterations(k) == depth - 1)
    expected = DiagonalSolver()(x, p, max_iter=asked, tol=0.0).posterior
    torch.testing.assert_close(made.fast(p)(x).mean, expected.mean, rtol=1e-12, atol=1e-14)


def test_the_unrolled_encoder_is_near_the_optimum_at_once_and_follows_the_dictionary():
    made = Encoder(Unrolled(16).double(), DiagonalHead())
    for seed in range(3):
        p = model(32, 16, seed=seed)
        x = data(p)
        best = elbo_rows(x, DiagonalSolver()(x, p).posterior, p).mean()
        # That of the optimum is known up to its own tolerance
        assert -1e-9 <= best - elbo_rows(x, made.fast(p)(x), p).mean() < 0.05


def test_a_low_rank_head_begins_above_the_diagonal_one():
    p = model(8, 24, noise=0.3)
    x = data(p)
    diagonal = DiagonalSolver()(x, p).posterior
    head = LowRankHead(24, 3, 24).double()
    head.begin(x, p)
    guess = encoders.Guess(diagonal.mean, diagonal.std, torch.zeros(200, 24, dtype=torch.float64))
    gain = elbo_rows(x, head(guess), p).mean() - elbo_rows(x, diagonal, p).mean()
    assert gain > 0.3


@each_rank
def test_refinement_goes_to_the_optimum(rank):
    p = model(12, 8)
    x, solver = data(p), LowRankSolver(rank) if rank else DiagonalSolver()
    made = encoder("residual", p, rank)
    best = elbo_rows(x, solver(x, p).posterior, p).mean()
    gaps = []
    for refine in (0, 5, 60):
        solution = AmortizedSolver(made, solver, refine)(x, p)
        assert solution.cost.iterations == refine
        assert solution.cost.rows == 200
        gaps.append(float(best - elbo_rows(x, solution.posterior, p).mean()))
    assert gaps[0] > 10 * gaps[1] > 0
    assert gaps[2] < 1e-3


@each_network
def test_a_solver_changes_nothing_and_keeps_no_derivatives(network):
    p = model(12, 8)
    made = encoder(network, p)
    before = copy.deepcopy(made.state_dict())
    q = AmortizedSolver(made, DiagonalSolver(), 2)(data(p), p).posterior
    assert not q.mean.requires_grad
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_units_of_a_network_stay_those_of_the_beginning():
    """Were they to move with λ and σ, every step of these would change all codes."""
    p = model(12, 8)
    x, made = data(p), encoder("mlp", p)
    other = Parameters(p.dictionary, 3 * p.prior_scale, 4 * p.noise_variance)
    assert torch.equal(made(x, p).mean, made(x, other).mean)
    assert torch.equal(made(x, p).variance, made(x, other).variance)


def test_an_unknown_network_is_refused():
    with pytest.raises(KeyError, match="banana"):
        encoders.build("banana", 2, 2)


@each_network
def test_no_data(network):
    p = model(12, 8)
    assert len(AmortizedSolver(encoder(network, p), DiagonalSolver(), 3)(data(p)[:0], p).posterior) == 0
