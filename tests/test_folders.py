"""The folder of a run: where it may be, and that its files are of one run whenever the program was killed."""

import os
import stat
import subprocess
import sys
import threading
from datetime import datetime

import pytest

from sparsentropy import folders
from sparsentropy.folders import FILES, NEXT, finish, reading, replacing, reserved


def write(folder, content, names=FILES):
    with replacing(folder) as new:
        for name in names:
            (new / name).write_text(content)


def contents(places):
    return {name: place.read_text() for name, place in places.items()}


def seen(folder):
    """What a reader finds in the five files."""
    return set(reading(folder, contents).values())


def stopped_before_moving(folder, content, monkeypatch, names=FILES):
    """Write files that are valid, but not in their places."""
    with monkeypatch.context() as patch:
        patch.setattr(folders, "finish", lambda _: None)
        write(folder, content, names)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write(folder, "old")
    return folder


def test_a_new_folder_an_empty_one_and_an_earlier_run_are_welcome(tmp_path):
    folders.check(tmp_path / "new" / "deeper", force=False)
    folders.check(tmp_path, force=False)
    for name in (*FILES, ".DS_Store"):
        (tmp_path / name).touch()
    folders.check(tmp_path, force=False)


def test_a_relative_folder_is_looked_for_where_it_would_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders.check(folders.Path("new"), force=False)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file"):
        folders.check(folders.Path("file/new"), force=False)


def test_other_files_are_named_unless_forced(tmp_path):
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds other files \(a, b, c, …\); give another folder, or --force"):
        folders.check(tmp_path, force=False)
    folders.check(tmp_path, force=True)


def test_a_folder_that_may_not_be_written_to_is_refused_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="may not be written to"):
        folders.check(tmp_path / "new", force=False)


@pytest.mark.parametrize("name", ["x" * 300, "loop", "loop/deeper"])
def test_a_name_that_cannot_be_is_one_line(name, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"cannot be written to \([A-Z][a-z ]+.*\); give another folder"):
        folders.check(tmp_path / name, force=False)


def test_a_folder_in_the_place_of_a_file_is_refused_beforehand_and_at_the_end(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(IsADirectoryError, match=r"report\.html is a folder"):
        folders.check(tmp_path, force=False)
    with pytest.raises(IsADirectoryError, match=r"report\.html is a folder"):
        write(tmp_path, "new")
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_folder_without_a_run_in_the_end_is_taken_away_again(tmp_path):
    def fail():
        with reserved(tmp_path / "a" / "b", force=False):
            assert (tmp_path / "a" / "b").is_dir()
            raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        fail()
    assert os.listdir(tmp_path) == []
    with reserved(tmp_path / "a" / "b", force=False):
        write(tmp_path / "a" / "b", "new")
    assert seen(tmp_path / "a" / "b") == {"new"}


def test_a_folder_that_was_there_stays(tmp_path):
    with pytest.raises(ValueError, match="bad data"), reserved(tmp_path, force=False):
        raise ValueError("bad data")
    assert tmp_path.is_dir()


def test_a_folder_that_cannot_be_made_is_told_before_the_block(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"cannot be written to .*; give another folder"):
        reserved(folders.Path("/proc/nowhere/run"), force=False).__enter__()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.temporaries, "file", full)
    with pytest.raises(OSError, match=r"run cannot be written to \(No space left on device\); give another folder"):
        reserved(tmp_path / "run", force=False).__enter__()
    assert os.listdir(tmp_path) == []


def test_an_interruption_says_what_was_written(tmp_path):
    def interrupt(*contents):
        with reserved(tmp_path / "run", force=False):
            for content in contents:
                write(tmp_path / "run", content)
            raise KeyboardInterrupt

    def interrupted(*contents):
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupt(*contents)
        return str(caught.value)

    assert interrupted() == "interrupted; nothing was written"
    assert interrupted("old") == f"interrupted; the run in {tmp_path / 'run'} is complete"
    assert interrupted() == f"interrupted; the earlier run in {tmp_path / 'run'} is as it was"
    assert interrupted("new") == f"interrupted; the run in {tmp_path / 'run'} is complete"


def test_the_time_of_the_earlier_run_is_known(tmp_path):
    assert folders.written(tmp_path) is None
    write(tmp_path, "old", FILES[:2])
    for name, time in zip(FILES, (1e9, 1.1e9), strict=False):
        os.utime(tmp_path / name, (time, time))
    assert folders.written(tmp_path) == datetime.fromtimestamp(1.1e9)


def test_files_take_their_places_together(run):
    with replacing(run) as new:
        for name in FILES:
            (new / name).write_text("new")
        assert seen(run) == {"old"}
    assert seen(run) == {"new"}
    assert sorted(os.listdir(run)) == sorted(FILES)


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_files(run, failure):
    def fail():
        with replacing(run) as new:
            (new / FILES[0]).write_text("new")
            raise failure("said")

    with pytest.raises(failure, match=r"^said$"):
        fail()
    assert seen(run) == {"old"}
    assert sorted(os.listdir(run)) == sorted(FILES)


def test_what_failed_is_told_of_the_folder_and_not_of_the_temporary_one(run):
    with pytest.raises(OSError, match=r"metrics\.json cannot be written") as caught, replacing(run) as new:
        raise OSError(f"{new / 'metrics.json'} cannot be written")
    assert str(caught.value) == f"{run / 'metrics.json'} cannot be written"


# Every event of files (a name is made, removed, given to another file) is the last one of a process in turn
KILLS = """
import os, pathlib, sys, tempfile
from sparsentropy import folders

def write(content):
    with folders.replacing(folder) as new:
        for name in folders.FILES:
            (new / name).write_text(content)

def seen():
    return sorted(set(folders.reading(folder, lambda places: [place.read_text() for place in places.values()])))

def killed_at(step):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    events = 0
    def count(event, arguments):
        nonlocal events
        if event.split(".")[0] in ("open", "os", "shutil", "fcntl"):
            if events == step:
                os._exit(1)
            events += 1
    sys.addaudithook(count)
    write("new")
    os._exit(0)

for step in range(1000):
    folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[1]))
    write("old")
    if not killed_at(step):
        break
    places = sorted({path.read_text() for path in map(folder.joinpath, folders.FILES)})
    first = seen()
    write("newest")
    print(*places, *first, *seen(), len(os.listdir(folder)))
"""


def test_whenever_the_writer_is_killed_a_reader_sees_files_of_one_run(tmp_path):
    found = subprocess.run([sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, check=True)
    steps = [line.split() for line in found.stdout.splitlines()]
    assert len(steps) > 25
    assert {tuple(step[-3:]) for step in steps} == {("old", "newest", "5"), ("new", "newest", "5")}
    # What happens to be in the places is not always of one run, so the test would see it
    assert {tuple(step[:-3]) for step in steps} == {("old",), ("new", "old"), ("new",)}
    order = [step[-3] for step in steps]
    assert order == sorted(order, reverse=True)


def test_a_reader_puts_files_into_their_places_if_the_writer_could_not(run, monkeypatch):
    stopped_before_moving(run, "new", monkeypatch)
    assert (run / FILES[0]).read_text() == "old"
    assert seen(run) == {"new"}
    assert {(run / name).read_text() for name in FILES} == {"new"}
    assert sorted(os.listdir(run)) == sorted(FILES)


def test_a_reader_who_may_not_write_sees_the_valid_files(run, monkeypatch):
    stopped_before_moving(run, "new", monkeypatch, FILES[2:])

    def forbidden(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.os, "replace", forbidden)
    for name in FILES[2:4]:  # some were moved before
        os.rename(run / NEXT / name, run / name)
    found = reading(run, contents)
    assert [found[name] for name in FILES] == ["old", "old", "new", "new", "new"]
    assert folders.member(run, FILES[4]).read_text() == "new"
    assert (run / NEXT).exists()


def test_files_that_are_replaced_while_they_are_read_are_read_again(run):
    calls = []

    def read(places):
        calls.append(places)
        first = places[FILES[0]].read_text()
        if len(calls) == 1:
            write(run, "new")
        return first, places[FILES[1]].read_text()

    assert reading(run, read) == ("new", "new")
    assert len(calls) == 2


def test_a_failure_to_read_counts_only_if_nothing_was_replaced(run):
    calls = []

    def read(places):
        calls.append(places)
        if len(calls) == 1:
            write(run, "new")
        raise ValueError(f"call {len(calls)}")

    with pytest.raises(ValueError, match="call 2"):
        reading(run, read)


def test_reading_ends_although_files_are_replaced_again_and_again(run, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 3)
    with pytest.raises(OSError, match="replaced again and again"):
        reading(run, lambda _: write(run, "new"))


def test_writers_and_readers_at_once(run):
    failures, done = [], threading.Event()

    def work(content):
        try:
            for _ in range(10):
                write(run, content)
        except BaseException as failure:
            failures.append(failure)

    def look():
        while not done.is_set():
            found = seen(run)
            if len(found) != 1:
                failures.append(found)

    writers = [threading.Thread(target=work, args=[content]) for content in ("a", "b", "c")]
    reader = threading.Thread(target=look)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert seen(run) <= {"a", "b", "c"}
    assert sorted(os.listdir(run)) == sorted(FILES)


def test_writers_that_see_no_locks_of_each_other_lose_nothing(run, monkeypatch):
    """As on two machines with a disk between them."""

    def no_locks(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    with replacing(run) as new:
        for name in FILES:
            (new / name).write_text("newest")
        stopped_before_moving(run, "new", monkeypatch)
    assert seen(run) == {"newest"}
    assert sorted(os.listdir(run)) == sorted(FILES)


def test_a_link_to_other_files_is_not_taken_for_new_files(run, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / FILES[0]).write_text("private")
    (run / NEXT).symlink_to(tmp_path / "private")
    assert seen(run) == {"old"}
    finish(run)
    assert (tmp_path / "private" / FILES[0]).read_text() == "private"
    with pytest.raises(NotADirectoryError, match=r"next is no folder of sparsentropy; remove it"):
        folders.check(run, force=True)


def test_other_files_in_the_way_do_not_stay_there(run, monkeypatch):
    stopped_before_moving(run, "new", monkeypatch)
    (run / NEXT / ".profile").write_text("of a stranger")
    write(run, "newest")
    assert sorted(os.listdir(run)) == sorted(FILES)


def test_replaced_files_keep_their_permissions_and_links_are_cut(run, tmp_path):
    (run / FILES[0]).chmod(0o600)
    (run / FILES[1]).chmod(0o664)
    os.link(run / FILES[2], tmp_path / "hard")
    (run / FILES[3]).rename(tmp_path / "symbolic")
    (run / FILES[3]).symlink_to(tmp_path / "symbolic")
    write(run, "new")
    assert [stat.S_IMODE((run / name).stat().st_mode) for name in FILES[:2]] == [0o600, 0o664]
    assert not (run / FILES[3]).is_symlink()
    assert (tmp_path / "hard").read_text() == (tmp_path / "symbolic").read_text() == "old"
    assert seen(run) == {"new"}


def test_the_run_of_a_killed_writer_can_be_read_by_all_who_may_enter_the_folder(run, monkeypatch):
    run.chmod(0o755)
    with replacing(run) as new:
        assert stat.S_IMODE(new.stat().st_mode) == 0o700
    stopped_before_moving(run, "new", monkeypatch)
    assert stat.S_IMODE((run / NEXT).stat().st_mode) == 0o755


def test_a_model_is_found_by_its_folder_and_by_its_name(run, monkeypatch):
    stopped_before_moving(run, "new", monkeypatch)
    for path in (run, run / FILES[0]):
        assert folders.model(path).read_text() == "new"
    assert folders.model(run / FILES[3]) == run / NEXT / FILES[3]
    finish(run)
    assert folders.model(run) == run / FILES[0]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        folders.model(run / "other.safetensors")
