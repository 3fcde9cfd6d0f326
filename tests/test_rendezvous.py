"""Who does not come is named while the others wait, and waiting has an end."""

import logging
import socket
import threading
import time

import pytest
import torch.distributed as dist

from sparsentropy import launch, rendezvous
from sparsentropy.rendezvous import Attendance


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(rendezvous, "NOTICE", 0.02)
    monkeypatch.setattr(rendezvous, "LONGEST", 0.2)


def test_the_first_of_those_that_came_says_who_is_missing(caplog):
    store = dist.HashStore()
    members = [Attendance(store, rank, 4) for rank in range(4)]
    for rank in (1, 2):
        members[rank].come()
    for rank in (1, 2):
        members[rank].say(30.2, "start")
    assert caplog.messages == ["process 1 of 4 has waited 30 s for processes 0 and 3 to start"]
    assert not members[1].all_started()
    for rank in (0, 3):
        members[rank].come()
    assert members[1].all_started()
    members[3].come()
    assert members[3].missing() == [0, 1, 2]
    caplog.clear()
    members[3].say(60, "call fit")
    assert caplog.messages == ["process 3 of 4 has waited 60 s for processes 0, 1 and 2 to call fit"]
    assert caplog.records[0].levelno == logging.WARNING


def test_waiting_is_told_of_and_has_an_end(quick):
    said = []
    assert not rendezvous.wait(lambda: False, said.append)
    assert len(said) > 2
    assert sorted(said) == said
    assert rendezvous.wait(lambda: True, said.append)


def meeting(monkeypatch, rank, size, port):
    for name, value in {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    return rendezvous.meet()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_first_process_that_does_not_come_is_named(monkeypatch, quick, caplog, port):
    with pytest.raises(ConnectionError, match=rf"waited 0 minutes for process 0 at 127.0.0.1:{port}; check that all"):
        meeting(monkeypatch, 1, 2, port)
    assert f"to reach 127.0.0.1:{port}, where the first one should be (Connection refused)" in caplog.text


def test_another_process_that_does_not_come_is_named(monkeypatch, quick, caplog, port):
    with pytest.raises(ConnectionError, match="process 0 of 3 has waited 0 minutes for processes 1 and 2"):
        meeting(monkeypatch, 0, 3, port)
    assert "process 0 of 3 has waited 0 s for processes 1 and 2 to start" in caplog.text


def test_a_late_process_is_waited_for(monkeypatch, port):
    monkeypatch.setattr(launch, "rank", lambda: 0 if threading.current_thread() is threading.main_thread() else 1)

    def late():
        time.sleep(0.2)
        rendezvous.meet()

    other = threading.Thread(target=late)
    other.start()
    here = meeting(monkeypatch, 0, 2, port)
    other.join()
    assert here.all_started()
    assert here.missing() == []
