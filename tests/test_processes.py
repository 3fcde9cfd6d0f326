"""Processes that torchrun has started learn the model of one process, stop together, and go on after an accident."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import processes
from sparsentropy import SparseCoding

HERE = Path(__file__).parent
LONGEST = 240  # seconds


def torchrun(count, *words, restarts=0):
    """What so many processes have to say."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    call = [*start, "--standalone", "--max-restarts", str(restarts), *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, timeout=LONGEST, env=environment, check=False)


def read(folder, name, rank):
    with np.load(folder / f"{name} {rank}.npz") as found:
        return dict(found)


def same_in_all(folder, name, count):
    """What all of them have found, bit for bit the same."""
    first = read(folder, name, 0)
    for rank in range(1, count):
        for what, value in read(folder, name, rank).items():
            np.testing.assert_array_equal(value, first[what])
    return first


def threads_of_the_group(folder, count):
    """Those that were left in the end, each of which could abort its process."""
    names = [name for rank in range(count) for name in json.loads((folder / f"threads {rank}.json").read_text())]
    return [name for name in names if "gloo" in name]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, HERE / "processes.py", folder, "fits"], check=True, timeout=LONGEST)
    return folder


def assert_model_of_one(folder, names, alone, count):
    for name in names:
        found, wanted = same_in_all(folder, name, count), read(alone, name, 0)
        for what, value in wanted.items():
            np.testing.assert_allclose(found[what], value, rtol=1e-6, atol=1e-6, err_msg=f"{name}: {what}")


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_processes_as_you_like_learn_the_model_of_one(count, alone, tmp_path):
    names, also = (processes.FITS, ["unrolled"]) if count == 2 else (["full"], [])
    done = torchrun(count, HERE / "processes.py", tmp_path, "fits" if count == 2 else "full", *also)
    assert done.returncode == 0, done.stderr
    assert_model_of_one(tmp_path, names, alone, count)
    assert not threads_of_the_group(tmp_path, count)
    assert not also or len(same_in_all(tmp_path, "unrolled", count)["encoder"])


@pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")
def test_two_processes_compare_what_they_have_stop_together_and_learn_the_model_of_one(tmp_path):
    done = torchrun(2, HERE / "processes.py", tmp_path, "interrupted", "wrong", "mismatched")
    assert done.returncode == 0, done.stderr
    (tmp_path / "alone").mkdir()
    processes.full(tmp_path / "alone")
    assert_model_of_one(tmp_path, ["full"], tmp_path / "alone", 2)
    assert same_in_all(tmp_path, "interrupted", 2)["stopped"]
    kinds, words = zip(*(json.loads((tmp_path / f"wrong {rank}.json").read_text()) for rank in range(2)), strict=True)
    assert kinds == ("ElsewhereError", "ValueError")
    assert words[0] == f"process 1 of 2: {words[1]}"
    (said, waited), (again, _) = (json.loads((tmp_path / f"mismatched {rank}.json").read_text()) for rank in range(2))
    assert said == again
    assert [re.search("process 1 (?:has )?(.*?)(?:, but|,)", words)[1] for words in said] == [
        "posterior='full'",
        "n_components=9",
        "tol=0.5",
        "a checkpoint folder",
        "than in process 0",
    ]
    assert re.fullmatch(r"process 0 of 2 has waited \d s for process 1 to call fit", waited[0])
    assert not threads_of_the_group(tmp_path, 2)


def test_a_program_that_connected_by_itself_can_let_go_of_the_group(tmp_path):
    done = torchrun(2, HERE / "processes.py", tmp_path, "connected")
    assert done.returncode == 0, done.stderr
    assert len(same_in_all(tmp_path, "unrolled", 2)["encoder"])
    assert not threads_of_the_group(tmp_path, 2)


def test_a_restart_goes_on_from_the_last_checkpoint_to_the_same_bits(tmp_path):
    done = torchrun(3, HERE / "processes.py", tmp_path, "killed", "never_killed", restarts=1)
    assert done.returncode == 0, done.stderr
    found, wanted = same_in_all(tmp_path, "killed", 3), same_in_all(tmp_path, "never killed", 3)
    assert found.pop("sweeps")[0] == 4  # the checkpoint is written after the callback was heard
    for what, value in wanted.items():
        np.testing.assert_array_equal(found[what], value)
    names = sorted(path.name for path in (tmp_path / "c").iterdir() if path.suffix == ".safetensors")
    assert len(names) == 6  # the last two of each


@pytest.fixture
def table(tmp_path):
    np.save(tmp_path / "bars.npy", processes.BARS)
    return tmp_path / "bars.npy"


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_the_command_line_learns_with_all_and_the_first_one_writes(table, tmp_path):
    command = ["-m", "sparsentropy", "fit", table, "--components", 10, "--posterior", "full", "--max-iter", 5]
    done = torchrun(2, *command, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "run" / "report.html")]
    assert done.stderr.count("data points with 25 features, 10 atoms, 2 processes") == 1
    assert done.stderr.count("10 atoms learned") == 1
    model = SparseCoding.load(tmp_path / "run" / "model.safetensors")
    assert model.distributed is None
    assert model.noise_variance_**0.5 == pytest.approx(0.1, rel=0.1)
    scored = torchrun(2, "-m", "sparsentropy", "score", tmp_path / "run", table)
    assert re.fullmatch(r"-?[\d.]+ nats per data point, of the table, mean of 600\n", scored.stdout)


def test_a_mistake_is_one_error_of_all_processes(tmp_path):
    done = torchrun(2, "-m", "sparsentropy", "fit", tmp_path / "nothing.npy", "--out", tmp_path / "run")
    assert done.returncode != 0
    (line,) = errors(done)
    assert "nothing.npy does not exist" in line
    assert not (tmp_path / "run").exists()


def test_other_options_of_one_process_are_one_error_of_all(table, tmp_path):
    (tmp_path / "other.py").write_text(
        "import os, sys\n"
        "from sparsentropy import cli\n"
        "cli.app(sys.argv[1:] + ['--held-out', '0.2'] * (os.environ['RANK'] == '1'))\n"
    )
    done = torchrun(2, tmp_path / "other.py", "fit", table, "--out", tmp_path / "run", "--components", 5)
    assert done.returncode != 0
    (line,) = errors(done)
    assert line.startswith("error: process 1 has --held-out 0.2, but process 0 has --held-out 0.1: start all")
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_ends_the_others_with_one_error(table, tmp_path):
    (tmp_path / "die.py").write_text(
        "import os, signal, sys\n"
        "from sparsentropy import cli, fitting\n"
        "before = fitting._reporter\n"
        "def reporter(*given):\n"
        "    report = before(*given)\n"
        "    def dying(sweep):\n"
        "        if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return report(sweep)\n"
        "    return dying\n"
        "fitting._reporter = reporter\n"
        "cli.app(sys.argv[1:])\n"
    )
    done = torchrun(3, tmp_path / "die.py", "fit", table, "--out", tmp_path / "run", "--components", 5)
    assert done.returncode != 0
    assert len(errors(done)) <= 1  # none where it was stopped before it could say so
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert 'Traceback (most recent call last):\n  File "/tmp' not in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
