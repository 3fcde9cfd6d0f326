"""Learning with an encoder: pooled bounds, training that cannot hurt, and dictionaries that are found along the way."""

import copy

import numpy as np
import pytest
import torch

from sparsentropy import schedules
from sparsentropy.datasets import make_bars
from sparsentropy.inference import AmortizedSolver, DiagonalSolver, LowRankSolver, encoders
from sparsentropy.learning import gradient, learn, learn_amortized, random_starts
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo
from sparsentropy.posteriors import Diagonal


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    """Enough for six codes."""
    monkeypatch.setattr(gradient, "WARM_UP", 150)
    monkeypatch.setattr(gradient, "STEPS", 8)


def sources(n=600, d=12, h=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(d, h, dtype=torch.float64, generator=draw)
    scale = 0.5 + torch.rand(h, dtype=torch.float64, generator=draw)
    return Parameters(W / W.norm(dim=0), scale, torch.tensor(0.04, dtype=torch.float64)).sample(n, seed)[0].float()


def solver(network, x, h, rank=0, refine=0):
    torch.manual_seed(0)
    encoder = encoders.build(network, x.shape[1], h, rank).to(x.dtype)
    return AmortizedSolver(encoder, LowRankSolver(rank) if rank else DiagonalSolver(), refine)


def learned(x, h, amortized, *, max_iter=60, tol=1e-3, **options):
    generator = torch.Generator().manual_seed(0)
    starts = random_starts(x, h, generator)
    options |= {"max_iter": max_iter, "tol": tol, "batch_size": 256, "generator": generator}
    return list((learn_amortized if isinstance(amortized, AmortizedSolver) else learn)(x, starts, amortized, **options))


def mean_bound(x, amortized, parameters):
    return elbo_rows(x, amortized(x, parameters).posterior, parameters).double().mean().item()


def test_the_unrolled_encoder_learns_what_iterating_learns():
    x = sources()
    amortized = solver("unrolled", x, 6)
    sweeps = learned(x, 6, amortized)
    best = learned(x, 6, DiagonalSolver())[-1].lower_bound
    assert sweeps[-1].converged
    assert not any(sweep.converged for sweep in sweeps[:-1])
    assert best - 0.05 < sweeps[-1].lower_bound < best + 1e-3
    # λ and σ² were refitted to these posteriors, and the encoder answers a little differently at the new ones
    assert mean_bound(x, amortized, sweeps[-1].parameters) == pytest.approx(sweeps[-1].lower_bound, abs=1e-2)


def test_sweeps_of_the_unrolled_encoder_do_not_lower_the_bound():
    x = sources()
    bounds = [sweep.lower_bound for sweep in learned(x, 6, solver("unrolled", x, 6))]
    assert len(bounds) > 5
    assert np.diff(bounds).min() >= -1e-6


@pytest.mark.parametrize("max_iter", [1, 2, 5])
def test_there_are_no_more_sweeps_than_asked_for(max_iter):
    x = sources()
    assert len(learned(x, 6, solver("unrolled", x, 6), max_iter=max_iter)) <= max(max_iter, 2)
    assert len(learned(x, 6, solver("mlp", x, 6), max_iter=max_iter, tol=0)) == max_iter


@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_a_network_learns_along_with_the_dictionary(network):
    x = sources()
    amortized = solver(network, x, 6)
    sweeps = learned(x, 6, amortized, max_iter=6)
    generator = torch.Generator().manual_seed(0)
    start = random_starts(x, 6, generator)[0]
    best = learned(x, 6, DiagonalSolver())[-1].lower_bound
    begin = mean_bound(x, DiagonalSolver(), start)
    # Farther than where an exact E-step is at the start: the dictionary has moved the right way
    assert begin < sweeps[-1].lower_bound < best
    assert mean_bound(x, amortized, sweeps[-1].parameters) == pytest.approx(sweeps[-1].lower_bound, abs=0.02)


def test_the_bound_that_is_told_is_pooled():
    x = sources()
    amortized = solver("mlp", x, 6)
    last = learned(x, 6, amortized, max_iter=2)[-1]
    q = amortized(x, last.parameters).posterior
    statistics = Statistics.of(x, q, last.parameters)
    pooled = entropy_elbo(statistics, last.parameters).item()
    assert last.lower_bound == pytest.approx(pooled, abs=2e-3)
    parts = [Statistics.of(x[k::10], q[torch.arange(k, 600, 10)], last.parameters) for k in range(10)]
    assert np.mean([entropy_elbo(part, last.parameters).item() for part in parts]) > pooled + 0.02


def test_refinement_counts_while_learning():
    x = sources()
    plain, refined = (learned(x, 6, solver("mlp", x, 6, refine=refine), max_iter=3)[-1] for refine in (0, 20))
    assert refined.lower_bound > plain.lower_bound + 0.01


@pytest.mark.parametrize("solve", [False, True])
@pytest.mark.parametrize("network", ["mlp", "residual", "unrolled"])
def test_training_at_fixed_parameters_brings_an_encoder_nearer_to_the_optimum(network, solve):
    x = sources()
    p = learned(x, 6, DiagonalSolver())[-1].parameters
    amortized = solver(network, x, 6)
    amortized.encoder.begin(x, p)
    with torch.no_grad():
        for value in amortized.encoder.network.parameters():
            value += 0.2 if network == "unrolled" else 0.0
    solved = DiagonalSolver()(x, p).posterior

    def missing():
        if not solve:
            return mean_bound(x, DiagonalSolver(), p) - mean_bound(x, amortized, p)
        # Of what it learns from: a broad posterior is near to all narrow ones, and has a low bound
        return gradient.divergence(solved, amortized(x, p).posterior).mean().item()

    before, random = missing(), torch.Generator().manual_seed(0)
    told = gradient.train(amortized.encoder, x, p, generator=random, passes=40, solved=solved if solve else None)
    assert told == pytest.approx(mean_bound(x, amortized, p), abs=1e-9)
    assert missing() < 0.5 * before


def test_the_divergence_is_that_of_torch():
    draw = torch.Generator().manual_seed(0)
    means, stds = torch.randn(2, 5, 3, generator=draw), 0.1 + torch.rand(2, 5, 3, generator=draw)
    one, other = (Diagonal(mean, std.square()) for mean, std in zip(means, stds, strict=True))
    normal = [torch.distributions.Normal(mean, std) for mean, std in zip(means, stds, strict=True)]
    expected = torch.distributions.kl_divergence(*normal).sum(1)
    torch.testing.assert_close(gradient.divergence(one, other), expected)


def test_training_never_leaves_an_encoder_worse(monkeypatch):
    x = sources()
    p = learned(x, 6, DiagonalSolver())[-1].parameters
    amortized = solver("unrolled", x, 6)
    before, weights = mean_bound(x, amortized, p), copy.deepcopy(amortized.encoder.state_dict())
    monkeypatch.setattr(gradient, "RATE_OF_GAINS", 3.0)
    after = gradient.train(amortized.encoder, x, p, generator=torch.Generator().manual_seed(0), passes=1)
    assert after == pytest.approx(before, abs=1e-9)
    assert all(torch.equal(weights[name], value) for name, value in amortized.encoder.state_dict().items())


def test_a_low_rank_head_raises_the_bound_where_atoms_overlap():
    x, random = torch.from_numpy(make_bars(600, seed=0).data).float(), torch.Generator().manual_seed(0)
    p = learned(x, 20, DiagonalSolver())[-1].parameters
    bounds = []
    for rank in (0, 3):
        encoder = solver("unrolled", x, 20, rank).encoder
        encoder.begin(x, p)
        bounds.append(gradient.train(encoder, x, p, generator=random))
    assert bounds[1] > bounds[0] + 0.01


@pytest.mark.parametrize("network", ["unrolled", "mlp"])
def test_annealing_comes_first(network):
    x = sources()
    sweeps = learned(x, 6, solver(network, x, 6), max_iter=14, schedule=schedules.constant(prior=1.5, steps=3))
    annealed = [sweep.annealed for sweep in sweeps]
    assert 3 <= sum(annealed) <= 4
    assert not annealed[-1]


def test_an_encoder_is_usable_when_learning_is_stopped_early():
    x = sources()
    amortized = solver("unrolled", x, 6)
    generator = torch.Generator().manual_seed(0)
    options = {"max_iter": 50, "tol": 1e-3, "batch_size": 256, "generator": generator}
    running = learn_amortized(x, random_starts(x, 6, generator), amortized, **options)
    sweep = next(running)
    running.close()
    diagonal = mean_bound(x, DiagonalSolver(), sweep.parameters)
    assert mean_bound(x, amortized, sweep.parameters) > diagonal - 0.05


def test_the_same_seed_gives_the_same_encoder():
    x = sources()
    one, other = (solver("mlp", x, 6) for _ in range(2))
    for amortized in (one, other):
        learned(x, 6, amortized, max_iter=2)
    assert all(torch.equal(value, other.encoder.state_dict()[name]) for name, value in one.encoder.state_dict().items())
