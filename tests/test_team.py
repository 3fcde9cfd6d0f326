"""What several processes add up and agree on is what one process with all data finds."""

import re
import threading

import numpy as np
import pytest
import torch

from sparsentropy import SparseCoding, checkpoints, memory, rows, team
from sparsentropy.datasets import make_bars
from sparsentropy.estimator import needs, sharing
from sparsentropy.inference import DiagonalSolver, FullSolver, LowRankSolver, for_data
from sparsentropy.learning import loop, random_starts, rotation, separation, start
from sparsentropy.learning.independent import Independent
from sparsentropy.learning.shelf import Cache
from sparsentropy.learning.task import Task
from sparsentropy.objectives import PLAIN
from sparsentropy.rows import InMemory, Shared, Survey
from sparsentropy.team import ALONE, ElsewhereError
from threads import Threads, together

BARS = make_bars(500, noise_std=0.1, seed=0).data
X = torch.from_numpy(BARS)
GAPS = torch.where(torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) < 0.1, torch.nan, X)
SOLVERS = [DiagonalSolver(), LowRankSolver(2), FullSolver()]
SIZES, BATCH = [2, 5], 64
each_size = pytest.mark.parametrize("size", SIZES)
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
each_way = pytest.mark.parametrize("apart", [False, True], ids=["all given", "own given"])
each_data = pytest.mark.parametrize("x", [X, GAPS], ids=["whole", "gaps"])


def shared(x, members, *, apart=False):
    """The share of a thread, or all rows."""
    if members.size == 1:
        return InMemory(x)
    square, gaps = InMemory(x).typical_size(), bool(x.isnan().any())
    own = rows.share(len(x), members, BATCH)
    mine = InMemory(x[own.start : own.stop])
    if apart:
        return Shared.joined(mine, members, square, gaps=gaps)
    return Shared(mine, members, len(x), own, square, gaps, InMemory(x), BATCH)


def generator():
    return torch.Generator().manual_seed(3)


def in_all(size, work):
    """What it comes to alone, after it was seen to be the same in all threads and close to that."""
    alone = work(ALONE)
    for found in together(size, work):
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    return alone


def numbers(parameters):
    return [parameters.dictionary, parameters.prior_scale, parameters.noise_variance]


@each_size
@each_data
def test_learning_starts_at_the_same_place(size, x):
    def work(members):
        places = random_starts(shared(x, members), 10, generator())
        return [number for place in places for number in numbers(place)]

    in_all(size, work)


def task_of(x, solver, members, *, apart=False, **options):
    data = shared(x, members, apart=apart)
    return Task(data, for_data(solver, data), 64, 1.0, PLAIN, **options)


@pytest.mark.parametrize(("size", "part"), [(2, False), (7, True)])
@each_solver
@each_data
@each_way
def test_a_sweep_of_each_kind_finds_the_same(size, part, solver, x, apart):
    if apart and isinstance(solver, LowRankSolver):
        pytest.skip("what is broken off depends on the other data points of a batch")
    first = random_starts(x, 10, generator())[0]

    def work(members):
        task = task_of(x, solver, members, apart=apart)
        if part:
            order = torch.randperm(len(x), generator=generator())[:150]
            task = Task(task.rows.part(order), task.solver, 64, 1.0, PLAIN)
        state = task.expect(first, None, 20)
        plain = loop._plain_sweep(task, state)
        # Each step of many makes a difference in the last digit several times larger
        turned = loop._turned_sweep(task, state, rotation.rotate(loop._view(task, state), 2))
        late = loop._accelerated_sweep(task, state)
        error, n = loop._expected_error(task, state)
        found = [error, torch.tensor(float(n))]
        for one in (state, plain, turned, late):
            found += [*numbers(one.parameters), torch.tensor(one.bound), one.statistics.second_moment]
        return found

    in_all(size, work)


@each_size
@each_solver
def test_turns_and_pairs_are_worth_the_same(size, solver):
    first = random_starts(X, 10, generator())[0]
    matrix = torch.eye(10, dtype=torch.float64) + 0.05 * torch.randn(10, 10, generator=generator(), dtype=torch.float64)

    def work(members):
        task = task_of(X, solver, members)
        state = task.expect(first, None, 20)
        view = loop._view(task, state).at(matrix)
        assert isinstance(view, Independent if isinstance(solver, DiagonalSolver) else rotation.Joint)
        own = state.posteriors[0][: len(task.rows.first(64))]
        gains = separation.pairwise_gains(own, torch.ones(10, dtype=torch.float64), torch.arange(10), members)
        return [view.objective, *view.slopes(), view.second_moment(state.statistics), gains]

    in_all(size, work)


@each_size
@pytest.mark.parametrize("place", ["memory", "disk", "none"])
def test_posteriors_of_a_share_are_kept_anywhere(size, place):
    first = random_starts(X, 10, generator())[0]

    def work(members):
        task = task_of(X, DiagonalSolver(), members, cache=Cache(place))
        state = task.expect(first, None, 20)
        assert sum(len(q) for q in state.posteriors) == task.rows.here
        return [loop._plain_sweep(task, state).statistics.cross]

    in_all(size, work)


def test_a_process_without_rows_of_a_part_takes_part():
    def work(members):
        task = Task(shared(X, members).part(torch.tensor([3, 1, 4])), DiagonalSolver(), 2, 1.0, PLAIN)
        state = task.expect(random_starts(X, 4, generator())[0], None, 20)
        assert loop._rotated_sweep(task, state) is not None
        return [state.statistics.cross]

    in_all(5, work)


@each_size
@each_way
def test_rows_have_one_numbering(size, apart):
    index = torch.randperm(len(X), generator=generator())[:100]

    def work(members):
        data = shared(X, members, apart=apart)
        part, rest = data.part(index), data.without(index)
        assert len(data) == len(X)
        assert (len(part), len(rest)) == (100, 400)
        return (
            [torch.cat(list(some.split(9))) for some in (part, rest)],
            data.take(index),
            part.first(30),
            rest.first(30),
        )

    found = together(size, work)
    alone = InMemory(X)
    assert torch.equal(torch.cat([rest for (_, rest), *_ in found]), alone.without(index).x)
    for number, wanted in ((1, X[index]), (2, X[index[:30]]), (3, alone.without(index).x[:30])):
        here = torch.cat([one[number] for one in found])
        assert torch.equal(here.sort(0).values, wanted.sort(0).values)


@each_size
@each_way
def test_batches_in_another_order_are_shared_out(size, apart):
    def work(members):
        return list(shared(X, members, apart=apart).shuffled(64, generator()))

    found = together(size, work)
    for number, wanted in enumerate(InMemory(X).shuffled(64, generator())):
        here = torch.cat([batches[number] for batches in found])
        assert torch.equal(here.sort(0).values, wanted.sort(0).values)


def test_batches_from_a_disk_are_as_many_in_all_processes(tmp_path):
    np.save(tmp_path / "x.npy", BARS)
    mapped = rows.source_of(np.load(tmp_path / "x.npy", mmap_mode="r"))

    def work(members):
        own = rows.Between(mapped, *((0, 400), (400, 401), (401, 500))[members.rank])
        data = Shared.joined(
            rows.Stored(own, torch.float64, torch.device("cpu"), 1.0, Survey.of(BARS)), members, 1.0, gaps=False
        )
        return list(data.shuffled(64, generator()))

    found = together(3, work)
    assert {len(batches) for batches in found} == {8}
    assert torch.equal(torch.cat([x for batches in found for x in batches]).sort(0).values, X.sort(0).values)


@each_size
def test_a_survey_of_all_rows_is_made_of_those_of_shares(size):
    x = BARS.copy()
    x[3, 2], x[480, 5] = np.nan, np.inf

    def work(members):
        own = rows.share(len(x), members)
        return Survey.of(x[own.start : own.stop]).pooled(members)

    for survey in together(size, work):
        whole = Survey.of(x)
        assert (survey.rows, survey.count, survey.infinite, survey.where) == (500, whole.count, 1, (480, 5))
        assert survey.typical_size == pytest.approx(whole.typical_size, rel=1e-14)


def test_second_moments_are_those_of_all_data():
    for found in together(3, lambda members: start.second_moment(shared(GAPS, members))):
        torch.testing.assert_close(found, start.second_moment(GAPS))


def giving(given):
    """To every process the same rows, or each its own."""

    def give(members):
        own = rows.share(len(BARS), members)
        return BARS if given == "same" else BARS[own.start : own.stop]

    return give


class TestWholeFits:
    """`SparseCoding` in several threads, each of which takes itself for a process."""

    local = threading.local()

    @pytest.fixture(autouse=True)
    def members(self, monkeypatch):
        monkeypatch.setattr(sharing, "joined", lambda: self.local.team)

    def fit(self, size, give, **options):
        def work(members):
            self.local.team = members
            return SparseCoding(10, random_state=0, **options).fit(give(members))

        return together(size, work)

    @each_size
    @pytest.mark.parametrize("given", ["same", "own"])
    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_full_posteriors_end_at_the_same_model(self, size, given):
        options = {"posterior": "full", "tol": 0.0, "max_iter": 8}
        alone = SparseCoding(10, random_state=0, **options).fit(BARS)
        for model in self.fit(size, giving(given), distributed=given, **options):
            np.testing.assert_allclose(model.components_, alone.components_, atol=1e-6)
            assert model.lower_bound_ == pytest.approx(alone.lower_bound_, abs=1e-6)
            assert model.noise_variance_ == pytest.approx(alone.noise_variance_, rel=1e-6)
            assert model.n_samples_seen_ == 500

    @pytest.mark.parametrize(("size", "given"), [(2, "same"), (5, "same"), (3, "own")])
    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_minibatches_end_at_the_same_model(self, size, given):
        options = {"learning": "minibatch", "batch_size": 64, "max_iter": 3}
        alone = SparseCoding(10, random_state=0, **options).fit(BARS)
        for model in self.fit(size, giving(given), distributed=given, **options):
            np.testing.assert_allclose(model.components_, alone.components_, atol=1e-6)
            np.testing.assert_allclose(model.lower_bounds_, alone.lower_bounds_, atol=1e-6)

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_minibatches_of_a_memory_map_raise_the_bound(self, tmp_path):
        np.save(tmp_path / "x.npy", BARS)
        options = {"learning": "minibatch", "distributed": "same", "batch_size": 64, "max_iter": 6}
        models = self.fit(3, lambda _: np.load(tmp_path / "x.npy", mmap_mode="r"), **options)
        alone = SparseCoding(10, random_state=0, learning="minibatch", batch_size=64, max_iter=6).fit(BARS)
        for model in models:
            np.testing.assert_array_equal(model.components_, models[0].components_)
            assert (np.diff(model.lower_bounds_) > 0).all()
            assert model.lower_bound_ == pytest.approx(alone.lower_bound_, abs=0.3)

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_minibatches_go_on_from_the_checkpoints_of_all(self, tmp_path):
        options = {"learning": "minibatch", "distributed": "same", "batch_size": 64, "max_iter": 6}

        def stop(progress):
            if progress.sweep == 4:
                raise StopIteration  # as if the process had died

        with pytest.raises(StopIteration):
            self.fit(3, lambda _: BARS, callback=stop, checkpoint=tmp_path, checkpoint_every=0, **options)
        assert len(checkpoints.listed(tmp_path)) == 6  # the last two of each
        again = self.fit(3, lambda _: BARS, checkpoint=tmp_path, checkpoint_every=0, resume=True, **options)
        for model, whole in zip(again, self.fit(3, lambda _: BARS, **options), strict=True):
            np.testing.assert_array_equal(model.components_, whole.components_)
            np.testing.assert_array_equal(model.lower_bounds_, whole.lower_bounds_)

    @pytest.mark.parametrize(
        "options",
        [
            {"validation_fraction": 0.2},
            {"n_init": 2},
            {"cache": "disk"},
            {"annealing": "beta"},
            {"dtype": "float32"},
            {"random_state": None},
            {"low_memory": True, "batch_size": 32},
            {"learning": "minibatch", "batch_size": 64},
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    @pytest.mark.filterwarnings("ignore:.*annealed sweeps were taken back")
    def test_all_processes_have_the_same_model(self, options):
        options = {"max_iter": 8, "random_state": 0} | options

        def work(members):
            self.local.team = members
            return SparseCoding(10, distributed="same", **options).fit(BARS)

        models = together(3, work)
        for model in models:
            np.testing.assert_array_equal(model.components_, models[0].components_)
            np.testing.assert_array_equal(model.lower_bounds_, models[0].lower_bounds_)
            np.testing.assert_array_equal(model.held_out_bounds_, models[0].held_out_bounds_)

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_a_memory_map_is_shared_out(self, tmp_path):
        np.save(tmp_path / "x.npy", BARS)
        options = {"distributed": "same", "max_iter": 3}
        mapped = self.fit(3, lambda _: np.load(tmp_path / "x.npy", mmap_mode="r"), **options)
        for one, other in zip(mapped, self.fit(3, lambda _: BARS, **options), strict=True):
            np.testing.assert_array_equal(one.components_, other.components_)

    def test_a_stream_is_learned_from_by_all(self):
        batches = np.array_split(BARS, 5)

        def streamed(**options):
            model = SparseCoding(10, random_state=0, posterior="full", **options)
            for batch in batches:
                model.partial_fit(batch)
            return model

        def work(members):
            self.local.team = members
            return streamed(distributed="same")

        alone = streamed()
        for model in together(2, work):
            assert model.n_samples_seen_ == 500
            np.testing.assert_allclose(model.components_, alone.components_, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_any_callback_ends_learning_for_all(self):
        def work(members):
            self.local.team = members
            stop = members.rank == 1
            return SparseCoding(
                10, distributed="same", random_state=0, callback=lambda told: stop and told.sweep == 2
            ).fit(BARS)

        models = together(3, work)
        assert [model.interrupted_ for model in models] == [True] * 3
        assert {model.n_iter_ for model in models} == {2}

    def refused(self, size, give, of=lambda _: {}, **options):
        """What each thread says, which may have options of its own."""
        said = [None] * size

        def work(members):
            self.local.team = members
            given = {"n_components": 10, "random_state": 0} | options | of(members.rank)
            try:
                SparseCoding(**given).fit(give(members))
            except (ValueError, TypeError, ElsewhereError) as error:
                said[members.rank] = str(error)

        together(size, work)
        return said

    def test_a_callback_that_fails_in_one_fails_in_all(self):
        def of(rank):
            def fail(progress):
                raise ValueError("no room on the screen")

            return {"callback": fail} if rank == 1 else {}

        said = self.refused(3, lambda _: BARS, of, distributed="same")
        assert said[1] == "no room on the screen"
        assert said[0] == said[2] == "process 1 of 3: no room on the screen"

    def test_what_is_wrong_with_one_share_is_told_by_all(self):
        def give(members):
            return [["a", "b"]] * 20 if members.rank == 1 else BARS

        first, second, third = self.refused(3, give, distributed="own")
        assert first == third == f"process 1 of 3: {second}"
        assert "could not convert" in second or "words" in second

    def test_rows_of_other_lengths_are_refused(self):
        (first, second) = self.refused(2, lambda members: BARS[:, : 9 - members.rank], distributed="own")
        assert first == second
        assert re.search("8 columns of float64 in process 1, but 9 columns of float64 in process 0", first)

    def test_infinities_are_named_by_their_row_among_all(self):
        def give(members):
            x = BARS[:50].copy()
            if members.rank == 1:
                x[7, 2] = np.inf
            return x

        said = self.refused(2, give, distributed="own")
        assert any("row 7, column 2" in words for words in said)

    def test_batches_cannot_be_shared_out(self):
        for words in self.refused(2, lambda _: iter([BARS]), distributed="same"):
            assert "distributed='own'" in words

    def test_fewer_rows_than_processes_are_refused(self):
        for words in self.refused(3, lambda _: BARS[:2], distributed="same"):
            assert "fewer than the 3 processes" in words

    def test_memory_is_needed_for_a_share_and_shared_by_a_machine(self, monkeypatch):
        x = np.broadcast_to(0.0, (1_000_000, 64))

        def work(members):
            self.local.team = members
            model = SparseCoding(10, distributed="same")
            return model.memory_for(x), needs.free(model)

        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        monkeypatch.setattr(memory, "available", lambda _: 2**30)
        alone = SparseCoding(10)
        for needed, free in together(4, work):
            assert needed < alone.memory_for(x) / 3
            assert free == needs.free(alone) / 4 == 2**28

    KEPT = {"distributed": "same", "max_iter": 6, "tol": 0.0, "batch_size": 64}  # noqa: RUF012

    def stopped(self, folder):
        """The last checkpoints of two threads that were stopped at their fifth sweep."""
        options = self.KEPT | {"checkpoint": folder, "checkpoint_every": 0}
        self.fit(2, lambda _: BARS, callback=lambda told: told.sweep == 5, **options)
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        assert names == [f"checkpoint-{n:08d}{of}.safetensors" for n in (3, 4) for of in (".1", "")]
        return options | {"resume": True}

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    @pytest.mark.parametrize("lost", [None, "checkpoint-00000004.1.safetensors", "checkpoint-00000004.safetensors"])
    def test_all_go_on_from_the_last_checkpoint_that_each_has(self, lost, tmp_path):
        options = self.stopped(tmp_path)
        if lost is not None:
            (tmp_path / lost).unlink()
        models = self.fit(2, lambda _: BARS, **options)
        for model, wanted in zip(models, self.fit(2, lambda _: BARS, **self.KEPT), strict=True):
            np.testing.assert_array_equal(model.components_, wanted.components_)
            np.testing.assert_array_equal(model.lower_bounds_, wanted.lower_bounds_)

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    @pytest.mark.parametrize(("before", "now", "sweeps"), [(1, 2, 2), (2, 1, 4), (2, 3, 2), (3, 2, 4)])
    def test_a_run_of_other_processes_is_not_gone_on_with(self, before, now, sweeps, tmp_path):
        options = self.KEPT | {"checkpoint": tmp_path, "checkpoint_every": 0, "posterior": "full"}
        self.fit(before, lambda _: BARS, callback=lambda told: told.sweep == sweeps, **options)
        kept = sorted(tmp_path.iterdir())
        assert kept
        one, other = ("1 process" if count == 1 else f"{count} processes" for count in (before, now))
        for words in self.refused(now, lambda _: BARS, resume=True, **options):
            assert f"were written by {one}, and this run has {other}: start as many as before" in words
        assert {*kept} <= {*tmp_path.iterdir()}

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_checkpoints_of_other_processes_are_seen_in_folders_of_their_own(self, tmp_path):
        options = self.stopped(tmp_path)
        for path in tmp_path.glob("checkpoint-????????.[sp]*"):  # of the first process, on its own machine
            path.unlink()
        for words in self.refused(1, lambda _: BARS, **options):
            assert "were written by 2 processes, and this run has 1 process" in words
        for words in self.refused(1, lambda _: BARS, **options | {"resume": False}):
            assert "holds checkpoints of an earlier run" in words

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_a_process_without_the_number_of_the_others_is_named(self, tmp_path):
        options = self.stopped(tmp_path)
        for path in (*tmp_path.glob("*3.1.*"), *tmp_path.glob("*4.[sp]*")):
            path.unlink()
        for path in tmp_path.glob("*3.[sp]*"):
            path.rename(tmp_path / path.name.replace("3", "2"))
        before = sorted(tmp_path.iterdir())
        for words in self.refused(2, lambda _: BARS, **options):
            assert "has no checkpoint 2 of process 1" in words
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_a_process_without_its_checkpoints_is_named(self, tmp_path):
        options = self.stopped(tmp_path)
        for path in tmp_path.glob("*.1.safetensors"):
            path.unlink()
        before = sorted(tmp_path.iterdir())
        for words in self.refused(2, lambda _: BARS, **options):
            assert "process 1 of 2 finds no checkpoints of its own" in words
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
    def test_a_damaged_checkpoint_of_one_is_told_by_all(self, tmp_path):
        options = self.stopped(tmp_path)
        path = tmp_path / "checkpoint-00000004.1.posteriors"
        path.write_bytes(path.read_bytes()[:-1])
        first, second = self.refused(2, lambda _: BARS, **options)
        assert "is damaged or cut short" in second
        assert first == f"process 1 of 2: {second}"


def test_alone_there_is_nobody_to_join(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert team.started() is ALONE
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
        SparseCoding(3, distributed="same").fit(BARS)
    with pytest.raises(ValueError, match="distributed must be one of 'same', 'own'"):
        SparseCoding(3, distributed="both").fit(BARS)


def test_others_that_cannot_be_reached_are_told_of(monkeypatch):
    def lost():
        raise RuntimeError("port 1: already in use\nmore")

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(team.rendezvous, "meet", lost)
    with pytest.raises(ConnectionError, match=r"has not found the others .port 1: already in use.; check"):
        team.started()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert team.started() is team.joined() is ALONE


def test_a_group_without_a_backend_for_the_cpu_is_refused(monkeypatch):
    for name, answer in {"is_initialized": True, "get_backend_config": "cuda:nccl", "get_backend": "nccl"}.items():
        monkeypatch.setattr(team.dist, name, lambda answer=answer: answer)
    with pytest.raises(ValueError, match=r"backend 'nccl', which has nothing for the CPU: make it with .*cpu:gloo"):
        team.joined()


def test_what_fails_in_one_fails_in_all():
    def work(members):
        with members.together():
            if members.rank == 2:
                raise OSError("no room")

    with pytest.raises((OSError, ElsewhereError), match="no room"):
        together(3, work)
    assert together(3, lambda members: members.any(lambda: members.rank == 1)) == [True] * 3
    assert isinstance(Threads(0, 1, None, [None]), team.AbstractTeam)
