"""What is said of memory before a run, against what a run takes, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsentropy import SparseCoding, memory
from sparsentropy.memory import Plan

GIB = 2**30
WIDE = Plan(100_000, 4096, 16_384, 4)

MEASURE = """
import threading, time, warnings, numpy as np
from sparsentropy import SparseCoding
warnings.simplefilter("ignore")
page, done, peak = {page}, threading.Event(), [0]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * page
X = np.random.default_rng(0).laplace(size=({n}, {d})).astype(np.float32)
SparseCoding(2, max_iter=2).fit(X[:64, :4])
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], resident())
model, began = SparseCoding({h}, max_iter={rounds}, learning="{learning}", random_state=0), resident()
said = model.memory_for(X)
threading.Thread(target=watch).start()
model.fit(X)
done.set()
print(peak[0] - began, said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("learning", "n", "d", "h", "rounds"), [("sweeps", 20_000, 16, 256, 2), ("minibatch", 1500, 600, 1400, 1)]
)
def test_what_is_said_is_near_what_is_taken(learning, n, d, h, rounds):
    import resource

    code = MEASURE.format(page=resource.getpagesize(), n=n, d=d, h=h, rounds=rounds, learning=learning)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, said = map(int, answer.stdout.split())
    assert said / 3 < taken < said


def test_wide_problems_are_learned_by_minibatches_unless_told_otherwise():
    X = np.broadcast_to(np.float32(0), (20_000, 4096))
    auto, minibatch, sweeps = (
        SparseCoding(16_384, learning=name).memory_for(X) for name in ("auto", "minibatch", "sweeps")
    )
    assert auto == minibatch < 10 * GIB
    assert sweeps > 30 * GIB
    assert SparseCoding(100).memory_for(X) == SparseCoding(100, learning="sweeps").memory_for(X)
    assert SparseCoding(16_384, annealing="beta").memory_for(X) == sweeps  # minibatches know none


def test_numbers_of_the_data_count():
    X = np.zeros((1000, 20))
    assert SparseCoding(50).memory_for(X) > SparseCoding(50).memory_for(X.astype(np.float32))
    assert SparseCoding(50, dtype="float32").memory_for(X) == SparseCoding(50).memory_for(X.astype(np.float32))
    with pytest.raises(TypeError, match="memory_for needs an array"):
        SparseCoding(50).memory_for(iter([X]))


@pytest.mark.parametrize(
    "smaller",
    [{"low_memory": True}, {"cache": "disk"}, {"learning": "minibatch"}, {"itemsize": 4}, {"h": 100}, {"n": 50_000}],
    ids=str,
)
def test_what_saves_memory_is_said_to(smaller):
    plan = Plan(100_000, 256, 512, 8)
    assert replace(plan, **smaller).bytes < plan.bytes


@pytest.mark.parametrize(
    ("plan", "free", "advice"),
    [
        (Plan(1_000_000, 64, 256, 4), 2.5, "low_memory=True would need 2."),
        (Plan(1_000_000, 64, 256, 4), 1.0, "cache='disk' would need"),
        (replace(WIDE, stored=True, cache="disk"), 20.0, "learning='minibatch' would need"),
        (Plan(10_000, 64, 2000, 4, posterior="full", cache="disk"), 0.5, "learning='minibatch' would need"),
        (replace(WIDE, n=20_000, learning="minibatch", itemsize=8), 7.0, "dtype='float32' would need"),
        (replace(WIDE, learning="minibatch"), 7.5, "a memory map for X"),
        (replace(WIDE, learning="minibatch", stored=True), 3.0, "n_components=4096 would need"),
        (WIDE, 0.01, "use a machine with more memory"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_setting_that_would(plan, free, advice):
    with pytest.raises(MemoryError, match=r"of memory beyond the data given, and .* are free: ") as refused:
        memory.check(plan, int(free * GIB))
    assert advice in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_fits_and_what_nobody_knows_is_begun():
    memory.check(WIDE, WIDE.bytes)
    memory.check(WIDE, None)


def test_it_is_refused_before_anything_large_is_allocated(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda _: 20 * GIB)
    X = np.broadcast_to(np.float32(1), (10**9, 4096))  # 16 TB, if anybody made it an array of its own
    with pytest.raises(MemoryError, match="a memory map for X"):
        SparseCoding(16_384).fit(X)


def test_a_stream_is_looked_at_when_its_length_is_known(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda _: 2**20)
    with pytest.raises(MemoryError, match="from 100 rows of 4"):
        SparseCoding(3).fit(iter([np.random.default_rng(0).normal(size=(50, 4))] * 2))


def test_the_least_of_what_the_system_and_its_groups_leave_is_free(monkeypatch, tmp_path):
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "LIMITS", ((str(limit), str(used)),))
    device = torch.device("cpu")
    whole = memory.available(device)
    limit.write_text("3000000\n")
    used.write_text("1000000\n")
    assert memory.available(device) == 2_000_000
    limit.write_text("max\n")
    assert memory.available(device) == pytest.approx(whole, rel=0.5)
