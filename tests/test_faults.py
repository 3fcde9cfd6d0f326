"""A full disk, a folder that cannot be written to, data that vanish, and two runs at once: nothing is lost or mixed up.

The disk is a small one in memory where such a thing may be mounted; elsewhere files may only grow so large.
"""

import json
import os
import resource
import shutil
import subprocess
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from sparsentropy import SparseCoding, checkpoints, progress, results, rows, runs
from sparsentropy.datasets import make_bars
from sparsentropy.preparation import Preparation
from test_cli import invoke, snapshot

BARS = make_bars(400, noise_std=0.1, seed=0).data
QUICK = ("--components", 4, "--max-iter", 2)
ROOM = (0, 300, 2_000, 6_000, 12_000, 20_000, 60_000)
pytestmark = pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")


@contextmanager
def files_up_to(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def filled(disk, rest):
    """So many bytes, in whole pages, are left."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
    (disk / "filler").write_bytes(bytes(max(0, free - rest)))
    try:
        yield
    finally:
        (disk / "filler").unlink()


@pytest.fixture
def table(tmp_path):
    np.save(tmp_path / "x.npy", BARS)
    return tmp_path / "x.npy"


def fit(table, folder, *more):
    return invoke("fit", table, "--out", folder, *QUICK, *more)


def refused(result, words):
    assert result.exit_code == 2
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert words in told[0]
    return told[0]


def state(folder):
    """What a run folder says, which fails if a file in it is not whole."""
    model, prepared = runs.read(folder)
    results.load(folder / "run.safetensors")
    json.loads((folder / "metrics.json").read_text())
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")
    assert {file.name for file in folder.iterdir()} == set(runs.FILES)
    return model.components_.shape, prepared.remove_mean


@pytest.mark.parametrize("room", ROOM)
def test_files_that_may_not_grow_leave_an_earlier_run_whole(room, table, tmp_path):
    run = tmp_path / "run"
    assert fit(table, run).exit_code == 0
    with files_up_to(room):
        result = fit(table, run, "--components", 3, "--remove-mean")
    refused(result, "File too large")
    # The new model, with what belongs to it, or the old one
    assert state(run) in [((4, 25), False), ((3, 24), True)]


@pytest.mark.parametrize("room", ROOM)
def test_a_full_disk_leaves_an_earlier_run_whole(room, table, disk):
    run = disk / "run"
    assert fit(table, run).exit_code == 0
    with filled(disk, room):
        result = fit(table, run, "--components", 3, "--remove-mean")
    refused(result, "No space left")
    assert state(run) in [((4, 25), False), ((3, 24), True)]


def test_without_room_for_its_preparation_a_model_does_not_take_the_place_of_another(table, tmp_path):
    """The map that whitens is larger than the model."""
    run = tmp_path / "run"
    assert fit(table, run).exit_code == 0
    model = (run / "model.safetensors").read_bytes()
    with files_up_to(len(model) + 2000):
        refused(fit(table, run, "--whiten", "zca"), "preparation.safetensors cannot be written")
    assert (run / "model.safetensors").read_bytes() == model
    assert state(run) == ((4, 25), False)


def test_a_full_disk_leaves_the_checkpoints_before_and_the_run_goes_on_when_there_is_room(table, disk, tmp_path):
    kept, more = disk / "kept", ("--checkpoint", disk / "kept", "--every", "0s")
    assert fit(table, tmp_path / "first", *more, "--max-iter", 3).exit_code == 0
    whole = snapshot(kept)
    with filled(disk, 0):
        result = fit(table, tmp_path / "second", *more, "--max-iter", 3, "--resume")
    assert result.exit_code == 0  # the run was over, and nothing had to be written
    shutil.rmtree(kept)
    with filled(disk, 20_000):
        refused(fit(table, tmp_path / "third", *more, "--max-iter", 3), "No space left")
        assert not (tmp_path / "third").exists()
        for file in checkpoints.listed(kept):
            assert file.with_suffix(".posteriors").exists()
    assert fit(table, tmp_path / "third", *more, "--max-iter", 3, "--resume").exit_code == 0
    assert snapshot(kept)[0].keys() == whole[0].keys()
    same(tmp_path / "first", tmp_path / "third")


def same(one, other):
    a, b = (SparseCoding.load(folder / "model.safetensors") for folder in (one, other))
    np.testing.assert_array_equal(a.components_, b.components_)
    np.testing.assert_array_equal(a.lower_bounds_, b.lower_bounds_)


def test_a_full_disk_for_posteriors_ends_the_run_and_leaves_the_earlier_one(table, disk, tmp_path):
    run = tmp_path / "run"
    assert fit(table, run).exit_code == 0
    before = snapshot(run)
    with filled(disk, 8_192):
        told = refused(fit(table, run, "--cache", disk), "the posteriors of all data points need")
    assert "set --cache to a folder on a larger disk" in told
    with files_up_to(10_000):  # of which nobody can be told beforehand
        told = refused(fit(table, run, "--cache", "disk"), "the posteriors of all data points could not be written")
    assert "make room there" in told
    assert snapshot(run) == before


def test_a_full_disk_for_a_stream_leaves_the_model_as_it_was():
    model = SparseCoding(4, max_iter=2, random_state=0).fit(BARS)
    before = dict(vars(model))
    with files_up_to(10_000), pytest.raises(OSError, match=r"the batches of X could not be written .*File too large"):
        model.fit(batch for batch in np.split(BARS, 4))
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


@pytest.mark.parametrize("command", ["encode", "impute", "score"])
def test_a_full_disk_keeps_an_earlier_table(command, table, tmp_path):
    assert fit(table, tmp_path / "run").exit_code == 0
    output = tmp_path / "out.npy"
    output.write_bytes(b"what was there")
    with files_up_to(2_000):
        more = ["--per-row"] if command == "score" else []
        told = refused(invoke(command, tmp_path / "run", table, "--output", output, *more), "cannot be written")
    assert "File too large" in told
    assert output.read_bytes() == b"what was there"
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_may_only_be_read_is_refused_before_learning(table, disk, monkeypatch):
    monkeypatch.setattr(SparseCoding, "fit", None)  # would be another error
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    refused(fit(table, disk / "run"), "may not be written to; give another folder")


def test_what_is_kept_on_a_disk_that_may_only_be_read_is_refused(table, disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    told = refused(fit(table, tmp_path / "run", "--checkpoint", disk / "kept"), "cannot take checkpoints")
    assert "Read-only file system" in told
    refused(fit(table, tmp_path / "run", "--cache", disk), "the posteriors of all data points could not be written")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def during(monkeypatch, table):
    """Do something to the data after the first sweep; they are read from where they are, however small."""

    def do(what):
        shown = progress.shown

        @contextmanager
        def shown_and_done(*arguments):
            with shown(*arguments) as tell:

                def told(sweep):
                    if table.exists():
                        what(table)
                    return tell(sweep)

                yield told

        monkeypatch.setattr(progress, "shown", shown_and_done)

    monkeypatch.setattr(rows, "MEMORY", 100)
    return do


def test_data_that_are_removed_while_they_are_learned_from_are_read_to_the_end(during, table, tmp_path):
    assert fit(table, tmp_path / "whole").exit_code == 0
    during(lambda file: file.unlink())
    assert fit(table, tmp_path / "run").exit_code == 0
    assert not table.exists()
    same(tmp_path / "whole", tmp_path / "run")


def test_data_that_are_cut_while_they_are_learned_from_end_the_run_and_leave_the_earlier_one(during, table, tmp_path):
    run = tmp_path / "run"
    assert fit(table, run).exit_code == 0
    before = snapshot(run)
    during(lambda file: os.truncate(file, 1000))
    refused(fit(table, run), "x.npy ends before row 400 of 400: it was cut short while it was read")
    assert snapshot(run) == before


def test_two_runs_that_write_at_once_are_not_mixed_up(table, tmp_path, monkeypatch):
    """The second waits until the first has written all of its files."""
    assert fit(table, tmp_path / "run").exit_code == 0
    first, _ = runs.read(tmp_path / "run")
    second = SparseCoding(3, max_iter=1, random_state=0).fit(BARS)
    result = results.load(tmp_path / "run" / "run.safetensors")
    begun, go_on, save = threading.Event(), threading.Event(), results.save

    def slowly(*arguments):
        begun.set()
        assert go_on.wait(60)
        save(*arguments)

    def write(model, prepared):
        return threading.Thread(target=runs.write, args=(tmp_path / "run", model, prepared, result))

    monkeypatch.setattr(results, "save", slowly)
    one, other = write(first, Preparation()), write(second, Preparation(remove_mean=True))
    one.start()
    assert begun.wait(60)
    other.start()
    other.join(0.3)
    assert other.is_alive()
    assert len(SparseCoding.load(tmp_path / "run" / "model.safetensors").components_) == 4
    go_on.set()
    one.join(60)
    other.join(60)
    assert state(tmp_path / "run") == ((3, 25), True)


def test_a_second_run_does_not_use_the_checkpoints_of_one_that_is_going_on(table, tmp_path):
    kept = tmp_path / "kept"
    first = checkpoints.Checkpoints(kept, 0.0, {})
    told = refused(
        fit(table, tmp_path / "run", "--checkpoint", kept, "--resume"), "has the checkpoints of a run that is"
    )
    assert "give another folder" in told
    first.close()
    assert fit(table, tmp_path / "run", "--checkpoint", kept, "--resume").exit_code == 0
