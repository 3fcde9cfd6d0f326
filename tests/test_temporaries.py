"""Temporary files: gone when their writer is, however it ended, and never while it lives."""

import os
import stat
import subprocess
import sys

import pytest

from sparsentropy import storage, temporaries

WRITER = """
import pathlib, sys, time
from sparsentropy import temporaries
with temporaries.{kind}(pathlib.Path(sys.argv[1])) as made:
    path = made if {folder} else pathlib.Path(made[0].name)
    (path / "part" if {folder} else path).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["file", "folder"])
def writer(request, tmp_path):
    """A process that is writing a temporary file, or a folder."""
    script = WRITER.format(kind=request.param, folder=request.param == "folder")
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_not_before(writer, tmp_path):
    (left,) = os.listdir(tmp_path)
    storage.save(tmp_path / "model", {}, {})
    assert sorted(os.listdir(tmp_path)) == [left, "model"]
    writer.kill()
    writer.wait()
    storage.save(tmp_path / "model", {}, {})
    assert os.listdir(tmp_path) == ["model"]


@pytest.fixture
def left(tmp_path):
    """The name of a temporary file whose writer is gone."""
    path = tmp_path / temporaries._name()
    path.touch()
    return path


def test_of_names_like_it_only_that_of_this_machine_is_removed(left):
    others = {left.name.replace(temporaries._machine(), "0" * 8), left.name + "x", left.name[1:], ".other.tmp"}
    for name in others:
        left.with_name(name).touch()
    temporaries.remove_abandoned(left.parent)
    assert set(os.listdir(left.parent)) == others


def test_links_and_pipes_are_not_opened_and_what_they_lead_to_stays(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    link, pipe = tmp_path / temporaries._name(), tmp_path / temporaries._name()
    link.symlink_to(precious)
    os.mkfifo(pipe)
    temporaries.remove_abandoned(tmp_path)
    assert os.listdir(precious) == ["thesis.tex"]
    assert link.is_symlink()


def test_without_locks_nothing_is_removed(left, monkeypatch):
    def no_locks(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(temporaries.fcntl, "flock", no_locks)
    storage.save(left.with_name("model"), {}, {})
    assert sorted(os.listdir(left.parent)) == [left.name, "model"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_whose_file_was_taken_for_abandoned_before_its_lock_makes_another(kind, tmp_path, monkeypatch):
    lock, names = temporaries._lock, []

    def late(descriptor, path):
        names.append(path.name)
        if len(names) < 3:
            temporaries.remove_abandoned(tmp_path)
        return lock(descriptor, path)

    monkeypatch.setattr(temporaries, "_lock", late)
    with getattr(temporaries, kind)(tmp_path):
        assert os.listdir(tmp_path) == names[2:]
    assert len(set(names)) == 3
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_looked_into_is_no_failure(tmp_path):
    temporaries.remove_abandoned(tmp_path / "missing")


@pytest.fixture
def umask():
    """0o022 as long as the test lasts."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o777])
def test_a_replaced_file_keeps_its_permissions(mode, umask, tmp_path):
    path = tmp_path / "model"
    path.touch()
    path.chmod(mode)
    storage.save(path, {}, {})
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_the_umask(mask, mode, umask, tmp_path):
    os.umask(mask)
    storage.save(tmp_path / "model", {}, {})
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [None, 0o666])
def test_nobody_else_reads_a_file_before_it_is_complete(mode, umask, tmp_path):
    path = tmp_path / "model"
    if mode:
        path.touch()
        path.chmod(mode)
    with storage.replacing(path) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == (mode or 0o644)


def test_a_hard_link_keeps_what_was_there(tmp_path):
    storage.save(tmp_path / "model", {}, {})
    before = (tmp_path / "model").read_bytes()
    os.link(tmp_path / "model", tmp_path / "other")
    storage.save(tmp_path / "model", {}, {"new": True})
    assert (tmp_path / "other").read_bytes() == before != (tmp_path / "model").read_bytes()
