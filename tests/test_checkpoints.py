"""A run that was killed goes on from its last checkpoint to the same bits; what is torn or foreign is refused."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsentropy import SparseCoding, storage
from sparsentropy.checkpoints import Checkpoints, Place, listed
from sparsentropy.datasets import make_bars
from sparsentropy.inference import DiagonalSolver, FullSolver
from sparsentropy.learning import Sweep, gradient, minibatch, random_starts
from sparsentropy.learning.course import Course, ahead, among
from sparsentropy.learning.shelf import Cache
from sparsentropy.learning.task import Task
from sparsentropy.objectives import PLAIN
from sparsentropy.packing import packed, unpacked
from sparsentropy.rows import of
from test_cli import invoke

BARS = make_bars(9000, noise_std=0.1, seed=0).data
FEW = BARS[:600]
QUICK = {"n_components": 10, "max_iter": 7, "random_state": 0, "tol": 1e-2}
pytestmark = pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
CPU = torch.device("cpu")


class Killed(Exception):  # noqa: N818 it is what happens, not what is wrong
    pass


def killed(at):
    """A callback that ends the run at a sweep, so that nothing of it is left but its checkpoints."""
    seen = []

    def tell(progress):
        seen.append(progress)
        if len(seen) == at:
            raise Killed

    return tell


def stopped(folder, at, data=FEW, **options):
    with pytest.raises(Killed):
        SparseCoding(**QUICK | options, checkpoint=folder, checkpoint_every=0, callback=killed(at)).fit(data)


def same(one, other):
    for name in ("components_", "prior_scale_", "lower_bounds_", "noise_variances_", "held_out_bounds_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.noise_variance_ == other.noise_variance_
    if hasattr(one, "encoder_"):
        for value, expected in zip(one.encoder_.parameters(), other.encoder_.parameters(), strict=True):
            assert torch.equal(value, expected)
    assert (one.n_iter_, one.converged_, one.n_samples_seen_) == (
        other.n_iter_,
        other.converged_,
        other.n_samples_seen_,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"low_memory": True},
        {"cache": "disk"},
        {"cache": "none"},
        {"validation_fraction": 0.2},
        {"posterior": "full", "n_components": 32, "max_iter": 3},
        {"posterior": "low-rank", "rank": 2, "max_iter": 3},
        {"n_init": 2, "max_iter": 4, "random_state": None},
        {"annealing": "beta", "max_iter": 12},
        {"dtype": "float32"},
        {"learning": "minibatch"},
        {"learning": "minibatch", "validation_fraction": 0.2, "n_init": 2},
        {"learning": "minibatch", "posterior": "low-rank", "rank": 2, "max_iter": 4, "batch_size": 50},
        {"inference": "amortized"},
        {"inference": "amortized", "refine": 2, "max_iter": 4},
        {"inference": "amortized", "encoder": "mlp", "posterior": "low-rank", "rank": 2, "max_iter": 4},
        {"inference": "amortized", "encoder": "mlp"},
        {"inference": "amortized", "encoder": "residual", "n_init": 2, "max_iter": 3, "annealing": "beta"},
    ],
    ids=str,
)
def test_a_run_that_goes_on_ends_at_the_same_bits(options, tmp_path, monkeypatch):
    for name in ("WARM_UP", "STEPS", "PASSES"):
        monkeypatch.setattr(gradient, name, 5)  # a wrong bit would be seen after a few steps, too
    monkeypatch.setattr(minibatch, "ROUND", (2, 5))
    # More rows than are computed with at a time, where that matters; few where posteriors cost much
    data, seed = BARS if options.keys() <= {"cache", "low_memory"} else BARS[:800], {}
    if options.get("posterior") == "low-rank" or options.get("encoder"):
        data = BARS[:300]
    if "random_state" in options:
        seed = {"random_state": np.random.RandomState(5)}  # which the run that goes on does not know
    options, sweeps = QUICK | options, []
    whole = SparseCoding(**options | seed, callback=lambda p: sweeps.append(p.sweep)).fit(data)
    end = {len(sweeps)} if options.keys() <= QUICK.keys() | {"inference", "n_init"} else set()
    for at in sorted({len(sweeps) // 2} | end):
        if seed:
            seed = {"random_state": np.random.RandomState(5)}
        stopped(tmp_path / str(at), at, data, **options | seed)
        told = []
        model = SparseCoding(**options, checkpoint=tmp_path / str(at), resume=True)
        same(model.set_params(callback=lambda p, told=told: told.append(p.sweep)).fit(data), whole)
        assert told == sweeps[at - 1 :]


def test_a_run_that_is_over_ends_at_once(tmp_path):
    options = QUICK | {"checkpoint": tmp_path, "checkpoint_every": 0}
    whole = SparseCoding(**options | {"max_iter": 30}).fit(FEW)
    again = SparseCoding(**options | {"max_iter": 30}, resume=True).fit(FEW)
    assert whole.converged_
    same(again, whole)


def test_the_last_two_are_kept_and_nothing_else(tmp_path):
    stopped(tmp_path, 6)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(listed(tmp_path)) == 2
    assert names == sorted(
        [".lock", *(path.with_suffix(end).name for path in listed(tmp_path) for end in (".posteriors", ".safetensors"))]
    )


def test_they_are_written_when_it_is_time(tmp_path):
    SparseCoding(**QUICK, checkpoint=tmp_path, checkpoint_every=3600).fit(FEW)
    assert listed(tmp_path) == []
    SparseCoding(**QUICK, checkpoint=tmp_path, resume=True).fit(FEW)  # from the beginning, for want of any


def test_others_are_not_overwritten(tmp_path):
    stopped(tmp_path, 4)
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run: go on from there with resume=True"):
        SparseCoding(**QUICK, checkpoint=tmp_path).fit(FEW)


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"tol": 0.5}, FEW, r"is of another run: its tol is 0\.01, and here it is 0\.5"),
        ({"n_components": 9}, FEW, "its n_components is 10, and here it is 9"),
        ({"random_state": 3}, FEW, "its random_state is 0, and here it is 3"),
        ({"cache": "none"}, FEW, "its cache is 'kept', and here it is 'none'"),
        ({"annealing": lambda _: (2.0, 1.0)}, FEW, "its annealing is None, and here it is '1000 steps"),
        ({}, FEW[:-1], "its number of rows is 600, and here it is 599"),
        ({}, FEW[:, :-1], "its number of columns is 25, and here it is 24"),
        ({}, FEW.astype("float32"), "its dtype of the data is 'float64', and here it is 'float32'"),
        ({}, FEW + 1e-3, "its typical size of the data is"),
        ({}, FEW[:, ::-1], "its checksum of the first 1,024 rows is"),
    ],
)
def test_those_of_another_run_are_refused(options, data, message, tmp_path):
    stopped(tmp_path, 4)
    with pytest.raises(ValueError, match=message) as refusal:
        SparseCoding(**QUICK | options, checkpoint=tmp_path, resume=True).fit(data)
    assert "the one before" not in str(refusal.value)  # which is of that run, too


@pytest.mark.parametrize("end", [".safetensors", ".posteriors"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_one_is_refused_and_the_one_before_it_offered(end, damage, tmp_path):
    stopped(tmp_path, 6)
    before, newest = listed(tmp_path)
    file = newest.with_suffix(end)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
        if end == ".safetensors":
            return
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    model = SparseCoding(**QUICK, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match=rf"to go on from the one before it, {before.name}, remove {newest.name}"):
        model.fit(FEW)
    newest.unlink()
    same(model.fit(FEW), SparseCoding(**QUICK).fit(FEW))


def test_a_file_of_something_else_is_refused(tmp_path):
    storage.save(tmp_path / "checkpoint-00000001.safetensors", {}, {}, kind="model")
    with pytest.raises(ValueError, match="holds a model, expected a checkpoint"):
        SparseCoding(**QUICK, checkpoint=tmp_path, resume=True).fit(FEW)
    storage.save(tmp_path / "checkpoint-00000001.safetensors", {}, {}, kind="checkpoint")
    with pytest.raises(ValueError, match="is of another run: its number of processes is None"):
        SparseCoding(**QUICK, checkpoint=tmp_path, resume=True).fit(FEW)


def test_two_runs_do_not_share_a_folder(tmp_path):
    first = Checkpoints(tmp_path, 0.0, {})
    with pytest.raises(BlockingIOError, match="has the checkpoints of a run that is going on; give another folder"):
        SparseCoding(**QUICK, checkpoint=tmp_path).fit(FEW)
    first.close()
    SparseCoding(**QUICK, checkpoint=tmp_path, checkpoint_every=3600).fit(FEW)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot take checkpoints"):
        SparseCoding(**QUICK, checkpoint=tmp_path / "file" / "folder").fit(FEW)


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    stopped(tmp_path, 4)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\)"):
        SparseCoding(**QUICK, checkpoint=tmp_path, checkpoint_every=0, resume=True).fit(FEW)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resume": True}, ValueError, "resume=True needs checkpoint="),
        ({"resume": 1, "checkpoint": "x"}, TypeError, "resume must be"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be the name of a folder"),
        ({"checkpoint": "x", "checkpoint_every": -1}, ValueError, "checkpoint_every must be a finite number"),
        ({"checkpoint": "x", "checkpoint_every": "60s"}, ValueError, "checkpoint_every must be a finite number"),
    ],
)
def test_what_cannot_be_done_is_refused(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        SparseCoding(**QUICK | options).fit(FEW)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, warnings
import numpy as np
from sparsentropy import SparseCoding
warnings.simplefilter("ignore")
X = np.load(sys.argv[1])
model = SparseCoding(10, max_iter=7, random_state=0, tol=1e-2, checkpoint=sys.argv[2], checkpoint_every=0, resume=True,
                     callback=lambda p: print(p.sweep, flush=True))
model.fit(X).save(sys.argv[3])
"""


def test_a_run_that_is_killed_by_the_system_goes_on(tmp_path):
    np.save(tmp_path / "x.npy", BARS)
    call = [sys.executable, "-c", SCRIPT, str(tmp_path / "x.npy"), str(tmp_path / "c"), str(tmp_path / "m.safetensors")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if int(line) == 5:
                run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert listed(tmp_path / "c")
    again = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    assert int(again.stdout.split()[0]) > 1
    one = SparseCoding.load(tmp_path / "m.safetensors")
    assert one.lower_bounds_.shape == (7,)
    assert one.n_iter_ == 7


def a_state():
    x = torch.from_numpy(FEW)
    start = random_starts(x, 6, torch.Generator().manual_seed(0))[0]
    return Task(of(x), FullSolver(), 250, 1.0, PLAIN).expect(start, None, 5)


def test_values_are_packed_bit_by_bit():
    state = a_state()
    course = Course(state, torch.Generator().get_state(), (1.0, float("-inf"), 0.1 + 0.2), early=True, sizes=(3, 9))
    sweep = Sweep(state.parameters, -1.5, state.statistics, converged=True)
    arrays = {}
    text = packed([course, sweep, None, "word", 3], arrays)
    back, told, *rest = unpacked(text, arrays)
    assert rest == [None, "word", 3]
    assert back.state.posteriors is None
    assert replace(back, state=None, random=None) == replace(course, state=None, random=None)
    assert torch.equal(back.random, course.random)
    assert told.lower_bound == -1.5
    for name in ("dictionary", "prior_scale", "noise_variance"):
        assert torch.equal(getattr(told.parameters, name), getattr(sweep.parameters, name))
    assert told.parameters.prior == sweep.parameters.prior
    number = len(arrays)
    packed([sweep, course], arrays)
    assert len(arrays) == number  # what is there already is not kept twice
    with pytest.raises(TypeError, match="PosixPath cannot be packed"):
        packed(Path(), {})
    with pytest.raises(KeyError, match="PosixPath"):
        unpacked({"kind": "PosixPath", "fields": {}}, {})


def test_posteriors_of_all_kinds_come_back(tmp_path):
    state = a_state()
    checkpoints = Checkpoints(tmp_path, 0.0, {"n": 3})
    checkpoints.write(Place(Course(state, torch.Generator().get_state(), (1.0,)), {"word": "x"}))
    place = checkpoints.newest(CPU)
    checkpoints.close()
    assert place.done == {"word": "x"}
    assert len(place.course.state.posteriors) == len(state.posteriors) == 3
    for one, other in zip(place.course.state.posteriors, state.posteriors, strict=True):
        for name in ("mean", "prior_precision", "variance", "log_det", "scaled_dictionary"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_place_knows_its_part_and_whether_it_is_ahead():
    found = []
    course = Course(a_state(), torch.zeros(1), (1.0,))
    among(found.append, [3, 9], 20, first=True)(course)
    ahead(found.append, lambda: 7)(course)
    assert (found[0].sizes, found[0].left, found[0].first, found[0].behind) == ((3, 9), 20, True, None)
    assert found[1].behind == 7


def test_the_command_line_goes_on_from_a_checkpoint(tmp_path):
    np.save(tmp_path / "x.npy", FEW)
    call = [
        "fit",
        tmp_path / "x.npy",
        "--components",
        10,
        "--max-iter",
        6,
        "--checkpoint",
        tmp_path / "c",
        "--every",
        "0s",
    ]
    assert invoke(*call, "-o", tmp_path / "one").exit_code == 0
    assert len(listed(tmp_path / "c")) == 2
    refused = invoke(*call, "-o", tmp_path / "two")
    assert refused.exit_code == 2
    assert "holds checkpoints of an earlier run" in refused.stderr
    assert not (tmp_path / "two").exists()
    result = invoke(*call, "-o", tmp_path / "two", "--resume")
    assert result.exit_code == 0, result.output
    one, two = (SparseCoding.load(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    same(two, one)
    assert two.checkpoint is None
    for time in ("soon", "-3s", "5d"):
        assert "--every must be a time such as 60s" in invoke(*call, "-o", tmp_path / "x", "--every", time).stderr


@pytest.mark.parametrize(
    "cache", [Cache(), Cache(lean=True), Cache("disk"), Cache("disk", lean=True), Cache("none")], ids=str
)
def test_posteriors_that_come_back_go_where_they_belong(cache, tmp_path):
    x = torch.from_numpy(FEW)
    start = random_starts(x, 6, torch.Generator().manual_seed(0))[0]
    task = Task(of(x), DiagonalSolver(), 250, 1.0, PLAIN, cache)
    state = task.expect(start, None, 20)
    checkpoints = Checkpoints(tmp_path, 0.0, {})
    path = checkpoints.write(Place(Course(state, torch.Generator().get_state(), (1.0,))))
    kept = path.with_suffix(".posteriors").stat().st_size
    assert kept == (2 * x.shape[0] * 6 * 8 if cache.keeps else 0)
    back = task.shelved(checkpoints.newest(CPU).course.state)
    checkpoints.close()
    assert type(back.posteriors) is type(state.posteriors)
    assert len(back.posteriors) == len(state.posteriors) == 3
    for one, other in zip(back.posteriors, state.posteriors, strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.variance, other.variance)
