"""Learning by minibatches: nothing as large as all pairs of atoms, and a bound that only rises."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from sparsentropy.inference import DiagonalSolver, FullSolver, LowRankSolver
from sparsentropy.learning import learn_by_batches, minibatch, random_starts
from sparsentropy.learning.course import nowhere
from sparsentropy.learning.minibatch import Round
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo, entropy_elbo
from sparsentropy.rows import of

BARS = make_bars(1500, noise_std=0.1, seed=0).data
QUICK = {"n_components": 10, "learning": "minibatch", "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")


def wide_data(n=3000, d=12, h=40, seed=0):
    """Rows of a model with more atoms than twice the dimensions, few of which are in use for a row."""
    draw = np.random.default_rng(seed)
    atoms = draw.normal(size=(h, d))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = draw.laplace(size=(n, h)) * (draw.random((n, h)) < 0.1)
    return codes @ atoms + 0.1 * draw.normal(size=(n, d))


def sweeps(x, solver, rounds=8, seed=0, h=10):
    generator = torch.Generator().manual_seed(seed)
    starts = random_starts(x, h, generator)
    options = {"max_iter": rounds, "tol": 1e-3, "batch_size": 256, "generator": generator}
    return list(learn_by_batches(x, starts, solver, **options))


@pytest.mark.parametrize(
    ("solver", "dtype", "n"),
    [
        (DiagonalSolver(), torch.float32, 1500),
        (DiagonalSolver(), torch.float64, 1500),
        (LowRankSolver(2), torch.float64, 200),
        (FullSolver(), torch.float32, 200),
    ],
    ids=["diagonal, float32", "diagonal", "low-rank", "full"],
)
def test_the_bound_that_is_told_only_rises(solver, dtype, n, monkeypatch):
    monkeypatch.setattr(minibatch, "ROUND", (8, 8))
    told = sweeps(torch.from_numpy(BARS[:n]).to(dtype), solver, rounds=5)
    bounds = [sweep.lower_bound for sweep in told]
    assert len(bounds) > 2
    assert all(before < after for before, after in itertools.pairwise(bounds))
    assert torch.allclose(told[-1].parameters.dictionary.norm(dim=0), torch.ones(10, dtype=dtype), atol=1e-5)


def test_the_bound_is_that_of_the_parameters_that_come_with_it():
    x = torch.from_numpy(BARS)
    last = sweeps(x, DiagonalSolver())[-1]
    # All of so few rows are evaluated
    q = DiagonalSolver()(x, last.parameters, max_iter=20, tol=0.0).posterior
    assert last.statistics.n == len(x) == last.rows
    expected = float(elbo(Statistics.of(x, q, last.parameters), last.parameters))
    assert last.lower_bound == pytest.approx(expected, abs=1e-9)


def test_it_ends_where_sweeps_end():
    batches = SparseCoding(**QUICK).fit(BARS)
    full = SparseCoding(**QUICK | {"learning": "sweeps"}).fit(BARS)
    assert batches.converged_
    assert batches.score(BARS) > full.score(BARS) - 0.02


def test_more_atoms_than_twice_the_dimensions():
    x = wide_data(1500)
    batches = SparseCoding(40, learning="minibatch", random_state=0, max_iter=30).fit(x[:1200])
    full = SparseCoding(40, learning="sweeps", random_state=0, max_iter=30).fit(x[:1200])
    assert batches.score(x[1200:]) > full.score(x[1200:]) - 0.15
    assert (np.diff(batches.lower_bounds_) > 0).all()


def test_nothing_is_as_large_as_all_pairs_of_atoms(monkeypatch):
    """With h far larger than all else an (h, h) matrix would stand out among the tensors that are made."""
    d, h, n, largest = 4, 1200, 1200, 0
    x = torch.from_numpy(wide_data(n, d, 8))

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple | list) else [out]:
                if isinstance(one, torch.Tensor):
                    largest = max(largest, one.untyped_storage().nbytes())
            return out

    monkeypatch.setattr(minibatch, "ROUND", (2, 2))
    monkeypatch.setattr(minibatch, "EVALUATED_CODES", 100 * h)
    with Watching():
        sweeps(x, DiagonalSolver(), rounds=2, h=h)
    assert 8 * 256 * h <= largest < 8 * h**2 / 2


def test_rounds_that_do_not_raise_the_bound_are_taken_back(monkeypatch):
    """Steps far too long: what they lead to is dropped, and shorter ones go on from the best."""
    monkeypatch.setattr(minibatch, "RATE", 50.0)
    told = sweeps(torch.from_numpy(BARS), DiagonalSolver(), rounds=12)
    bounds = [sweep.lower_bound for sweep in told]
    assert len(bounds) < 12
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0]


def contest(starts, *, several=True):
    """What is told, and the place of the winner."""
    x, generator, told = torch.from_numpy(BARS), torch.Generator().manual_seed(0), []
    plan = Round.of(len(x), 10, 256)
    judge = minibatch._Judge.of(of(x), DiagonalSolver(), plan, generator)
    batches = minibatch._Endless(of(x), plan.batch, generator)
    running = minibatch._contest(judge, starts, batches, None, nowhere, several=several, tol=1e-3)
    while True:
        try:
            told.append(next(running).lower_bound)
        except StopIteration as end:
            return told, end.value


def test_a_later_start_is_taken_only_where_it_is_clearly_better():
    good = random_starts(torch.from_numpy(BARS), 10, torch.Generator().manual_seed(0))[-1]
    bad = replace(good, noise_variance=100 * good.noise_variance)
    near = replace(good, noise_variance=1.01 * good.noise_variance)
    for starts, expected in (([bad, good], good), ([good, near], good), ([near, good], near)):
        told, winner = contest(starts, several=False)
        assert winner.best.parameters.noise_variance == expected.noise_variance
        assert told[-1] == winner.best.lower_bound
        assert winner.rounds == winner.taken == 0


def test_starts_are_judged_after_a_round_of_each_on_the_same_batches(monkeypatch):
    """The better one of the first look is left behind: noise that is wrong is mended soon, a poor dictionary is not."""
    monkeypatch.setattr(minibatch, "ROUND", (4, 4))
    learned = sweeps(torch.from_numpy(BARS), DiagonalSolver(), rounds=20)[-1].parameters
    turn = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).double()).Q
    dictionary, scale = torch.nn.functional.normalize(learned.dictionary @ turn, dim=0), learned.prior_scale.median()
    poor = replace(learned, dictionary=dictionary, prior_scale=scale.repeat(10))
    late = replace(learned, noise_variance=20 * learned.noise_variance)
    (poor_bound, poor_after), _ = contest([poor])
    (late_bound, late_after), alone = contest([late])
    assert late_bound < poor_bound < poor_after < late_after
    for starts in ([poor, late], [late, poor]):
        told, winner = contest(starts)
        assert told == sorted(told)
        assert told[-1] == winner.best.lower_bound == late_after
        torch.testing.assert_close(winner.parameters.dictionary, alone.parameters.dictionary, rtol=0, atol=0)
        assert winner.rounds == 1


@pytest.mark.parametrize("curvature", [torch.zeros(3, 3), -torch.eye(3), torch.diag(torch.tensor([1e9, 1.0, -1.0]))])
def test_a_curvature_that_is_none_is_not_believed(curvature):
    """Of data that are explained to the last digit, or after rounding: a step has an end all the same."""
    x, generator = torch.from_numpy(BARS[:60, :3].copy()), torch.Generator().manual_seed(0)
    judge = minibatch._Judge.of(of(x), DiagonalSolver(), Round.of(60, 3, 60), generator)
    learner = minibatch._Learner(judge, *judge(random_starts(x, 3, generator)[0]))
    learner.curvature, learner.rows = curvature.double(), 60.0
    assert (torch.linalg.svdvals(learner._factor()) > 0).all()
    assert learner._step(torch.ones(3, 3).double()).norm(dim=0).max() <= minibatch.CAP * 1.001


def test_the_seed_decides(tmp_path):
    one, same = (SparseCoding(**QUICK, max_iter=5).fit(BARS) for _ in range(2))
    other = SparseCoding(**QUICK | {"random_state": 1}, max_iter=5).fit(BARS)
    np.testing.assert_array_equal(one.components_, same.components_)
    np.testing.assert_array_equal(one.lower_bounds_, same.lower_bounds_)
    assert one.lower_bound_ != other.lower_bound_


def test_rows_on_a_disk(tmp_path):
    np.save(tmp_path / "x.npy", BARS)
    mapped = SparseCoding(**QUICK, max_iter=12).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    streamed = SparseCoding(**QUICK, max_iter=12).fit(iter(np.array_split(BARS, 7)))
    near = SparseCoding(**QUICK, max_iter=12).fit(BARS)
    assert mapped.lower_bound_ == pytest.approx(near.lower_bound_, abs=0.2)
    assert streamed.lower_bound_ == pytest.approx(near.lower_bound_, abs=0.2)


def test_gaps():
    x = BARS[:250].copy()
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    batches = SparseCoding(**QUICK, max_iter=12).fit(x)
    full = SparseCoding(**QUICK | {"learning": "sweeps"}, max_iter=12).fit(x)
    assert batches.score(x) > full.score(x) - 0.05


def test_rows_that_are_set_aside_and_the_callback_that_stops():
    told = []
    model = SparseCoding(**QUICK, validation_fraction=0.2, callback=lambda p: told.append(p) or len(told) == 3)
    model.fit(BARS)
    assert model.interrupted_
    assert len(model.held_out_bounds_) == len(model.lower_bounds_) == len(told) == 3
    assert {progress.rows for progress in told} == {1200}


def test_ctrl_c_keeps_the_best(monkeypatch):
    calls = 0
    step = minibatch._Learner.step

    def interrupted(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 70:
            raise KeyboardInterrupt
        step(*arguments, **options)

    monkeypatch.setattr(minibatch._Learner, "step", interrupted)
    model = SparseCoding(**QUICK).fit(BARS)
    assert model.interrupted_
    assert model.lower_bound_ == model.lower_bounds_.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inference": "amortized"}, "learning='minibatch' needs inference='iterative'"),
        ({"annealing": "prior"}, "learning='minibatch' needs annealing=None"),
        ({"learning": "batches"}, "learning must be one of 'auto', 'sweeps', 'minibatch'; got 'batches'"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SparseCoding(**QUICK | options).fit(BARS)


def test_a_stream_cannot_be_gone_on_with(tmp_path):
    model = SparseCoding(**QUICK, max_iter=3).fit(BARS)
    model.save(tmp_path / "model.safetensors")
    for one in (model, SparseCoding.load(tmp_path / "model.safetensors"), model.set_params(learning="sweeps")):
        with pytest.raises(ValueError, match="partial_fit needs sums over all pairs of atoms"):
            one.partial_fit(BARS)
    assert len(SparseCoding.load(tmp_path / "model.safetensors").prune(5).components_) == 5


def test_too_few_rounds_are_said_to_be_so():
    with pytest.warns(match="after max_iter=2 sweeps; raise max_iter"):
        SparseCoding(**QUICK, max_iter=2).fit(BARS)


def test_batches_and_rounds_follow_the_sizes():
    assert minibatch.default_batch(64) == minibatch.LEAST_BATCH
    assert minibatch.default_batch(4096) == 1024
    assert Round.of(100, 10, 512) == Round(batch=100, batches=32, evaluated=100)


def test_the_noise_is_followed_at_once():
    """The noise of one batch is told exactly enough; the scales of atoms are those of many batches."""
    truth = Parameters(torch.eye(30).double(), torch.ones(30).double(), torch.tensor(0.25).double())
    x = truth.sample(3000, seed=0)[0]
    far = replace(truth, noise_variance=truth.noise_variance / 9)
    generator = torch.Generator().manual_seed(0)
    judge = minibatch._Judge.of(of(x), DiagonalSolver(), Round.of(len(x), 30, 512), generator)
    learner = minibatch._Learner(judge, *judge(far))
    learner.step(x[:512], counts=True)
    em_only = entropy_of_noise(x[:512], far)
    assert float(learner.parameters.noise_variance) > em_only > float(far.noise_variance)


def entropy_of_noise(x, parameters):
    """σ² after one step of EM."""
    q = DiagonalSolver()(x, parameters, max_iter=minibatch.ITERATIONS, tol=0.0).posterior
    statistics = Statistics.of(x, q, parameters)
    assert torch.isfinite(entropy_elbo(statistics, parameters))
    return float(statistics.fit(parameters).noise_variance)
