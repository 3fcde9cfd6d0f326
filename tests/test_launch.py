"""What the environment says about other processes, and what it says without meaning any."""

import pytest

from sparsentropy import launch
from test_cli import invoke

ALL = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    def set_to(**values):
        for name in (*launch.NAMES, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


LEFT_OVER = [
    {},
    {"RANK": "1"},
    {"RANK": "gold"},
    {"WORLD_SIZE": "4"},
    {"WORLD_SIZE": "many"},
    {"RANK": "1", "WORLD_SIZE": "1"},
    {"RANK": "0", "WORLD_SIZE": ""},
    {"RANK": "", "WORLD_SIZE": "2"},
    {"RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
]


@pytest.mark.parametrize("values", LEFT_OVER, ids=str)
def test_what_was_left_in_the_environment_is_no_team(values, environment):
    environment(**values)
    assert (launch.rank(), launch.world_size()) == (0, 1)


WRONG = [
    ({"RANK": "abc"}, "RANK='abc' in the environment must be an integer of at least 0"),
    ({"RANK": "-1"}, "RANK='-1' in the environment must be an integer of at least 0"),
    ({"RANK": "1.0"}, r"RANK='1\.0' in the environment must be an integer"),
    ({"RANK": "2"}, "RANK=2 must be below WORLD_SIZE=2"),
    ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x' in the environment must be an integer of at least 1"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' in the environment must be an integer of at least 1"),
    ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2' in the environment must be"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT='http' in the environment must be"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 in the environment is no port"),
    ({"MASTER_ADDR": ""}, "there are 2 processes, but MASTER_ADDR is not set, so they cannot find each other"),
    ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_ADDR and MASTER_PORT are not set"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x'"),
    ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE='0'"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=str)
def test_what_makes_no_sense_is_one_line(values, message, environment):
    environment(**ALL | values)
    with pytest.raises(ValueError, match=message):
        print(launch.rank(), launch.address(), launch.local_rank(), launch.local_world_size())


def test_a_process_of_several_knows_its_place(environment):
    environment(**ALL)
    assert launch.is_complete()
    assert (launch.rank(), launch.world_size(), launch.address()) == (1, 2, ("localhost", 29500))
    assert (launch.local_rank(), launch.local_world_size()) == (0, 1)


@pytest.mark.parametrize("values", [*LEFT_OVER, {"RANK": "1", "WORLD_SIZE": "2"}], ids=str)
def test_a_command_works_as_one_process(values, environment):
    environment(**values)
    result = invoke("report", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


@pytest.mark.parametrize("values", [{"RANK": "abc"}, {"RANK": "7"}, {"WORLD_SIZE": "x"}], ids=str)
@pytest.mark.parametrize("command", ["report", "fit"])
def test_a_command_says_in_one_line_what_makes_no_sense(command, values, environment, tmp_path):
    environment(**ALL | values)
    result = invoke(command, "nowhere", *(["--out", tmp_path / "run"] if command == "fit" else []))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "in the environment" in line


def test_a_fit_refuses_others_that_it_cannot_find(environment, tmp_path):
    environment(RANK="0", WORLD_SIZE="2")
    result = invoke("fit", "nowhere.npy", "--out", tmp_path / "run")
    assert "MASTER_ADDR and MASTER_PORT are not set" in result.stderr


def test_a_command_that_only_the_first_process_does_is_done_by_nobody_else(environment):
    environment(**ALL)
    result = invoke("report", "nowhere")
    assert (result.exit_code, result.output) == (0, "")
