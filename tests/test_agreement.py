"""What has to be the same in all processes is compared before it can end in a hang, a crash or a wrong model."""

import copy
import re
import threading

import numpy as np
import pandas as pd
import pytest

from sparsentropy import SparseCoding, schedules
from sparsentropy.datasets import make_bars
from sparsentropy.estimator import sharing
from sparsentropy.team import ElsewhereError
from threads import together

BARS = make_bars(500, noise_std=0.1, seed=0).data
D = BARS.shape[1]
LOCAL = threading.local()
pytestmark = pytest.mark.filterwarnings("ignore:SparseCoding stopped while the bound could still rise")


@pytest.fixture(autouse=True)
def members(monkeypatch):
    """Each thread takes itself for a process."""
    monkeypatch.setattr(sharing, "joined", lambda: LOCAL.team)


def outcomes(size, work):
    """What `work` gives for each number of a process: a model, or what it says when it refuses."""

    def one(members):
        LOCAL.team = members
        try:
            return work(members.rank)
        except (ValueError, TypeError, ElsewhereError) as error:
            return str(error)

    return together(size, one)


def fits(size, give, of=lambda _: {}, **options):
    """What comes of `fit`, each process with data and perhaps options of its own."""
    usual = {"n_components": 10, "random_state": 0, "distributed": "same"} | options
    return outcomes(size, lambda rank: SparseCoding(**usual | of(rank)).fit(give(rank)))


def refusal(found):
    """The words that all of them say."""
    assert all(isinstance(one, str) for one in found), found
    assert len(set(found)) == 1, found
    return found[0]


def all_the_same(models):
    assert not any(isinstance(model, str) for model in models), models
    for model in models:
        np.testing.assert_array_equal(model.components_, models[0].components_)
    return models[0]


SETTINGS = [
    ("n_components", 9, 10),
    ("posterior", "full", "diagonal"),
    ("posterior", "a word that is none", "full"),
    ("rank", 2, 8),
    ("inference", "amortized", "iterative"),
    ("encoder", "mlp", "unrolled"),
    ("refine", 1, 0),
    ("annealing", "beta", "prior"),
    ("annealing", None, "prior"),
    ("learning", "minibatch", "sweeps"),
    ("max_iter", 3, 2),
    ("tol", 0.5, 0.1),
    ("tol", "much", 0.1),
    ("batch_size", 64, "auto"),
    ("n_init", 2, 1),
    ("validation_fraction", 0.25, 0.0),
    ("low_memory", True, False),
    ("random_state", 1, 0),
    ("random_state", None, 0),
    ("dtype", "float32", "auto"),
    ("distributed", "own", "same"),
]


@pytest.mark.parametrize(("name", "odd", "usual"), SETTINGS)
@pytest.mark.parametrize(("size", "rank", "other"), [(2, 1, 0), (3, 0, 1)])
def test_a_process_with_another_setting_is_named(name, odd, usual, size, rank, other):
    said = refusal(fits(size, lambda _: BARS, lambda here: {name: odd if here == rank else usual}))
    assert said == (
        f"process {rank} has {name}={odd!r}, but process {other} has {name}={usual!r}: start all processes with the "
        "same program and settings."
    )


@pytest.mark.parametrize(
    "schedule", [lambda prior: lambda _: (prior, 1.0), schedules.constant], ids=["own", "constant"]
)
def test_schedules_are_compared_by_what_they_come_to(schedule):
    said = refusal(fits(2, lambda _: BARS, lambda rank: {"annealing": schedule(2.0 + rank)}))
    assert re.match("process 1 has an annealing schedule of .* steps .*, but process 0 has", said)


def test_whether_posteriors_and_checkpoints_are_kept_is_compared(tmp_path):
    for usual, odd, words in [
        ({"cache": "disk"}, {"cache": "none"}, "process 1 has cache='none', but process 0 has a cache of posteriors"),
        ({"checkpoint": tmp_path / "c"}, {}, "process 1 has no checkpoint folder, but process 0 has a checkpoint"),
        ({"checkpoint": tmp_path / "c"}, {"checkpoint": tmp_path / "c", "resume": True}, "process 1 has resume=True"),
    ]:
        assert words in refusal(fits(2, lambda _: BARS, lambda rank, both=(usual, odd): both[rank]))
    assert not (tmp_path / "c").exists()


def test_what_every_process_may_have_of_its_own_is_not_compared(tmp_path):
    def of(rank):
        folder = tmp_path / str(rank)
        folder.mkdir()
        own = {"cache": ("disk", "memory", folder)[rank], "checkpoint": folder, "checkpoint_every": 10.0 + rank}
        own |= {"n_components": (10, np.int64(10), 10)[rank], "tol": (1.0, np.float64(1.0), np.float32(1.0))[rank]}
        return own | {"device": ("auto", "cpu", "cpu:0")[rank], "callback": (lambda _: None) if rank else None}

    all_the_same(fits(3, lambda _: BARS, of))


def test_a_process_that_calls_something_else_is_named():
    def work(rank):
        model = SparseCoding(10, distributed="same", learning="minibatch" if rank else "sweeps")
        return (model.partial_fit if rank else model.fit)(BARS)

    assert refusal(outcomes(2, work)).startswith("process 1 has called partial_fit, but process 0 has called fit")


def changed(row, value):
    """Data with another last entry in a row."""
    x = BARS.copy()
    x[row, -1] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (BARS[:-1], "X has 499 rows in process 1, but 500 rows in process 0: give all processes the same data"),
        (BARS[:, 1:], f"X has {D - 1} columns of float64 in process 1, but {D} columns of float64 in process 0"),
        (BARS.astype(np.float32), f"X has {D} columns of float32 in process 1, but {D} columns of float64 in process"),
        (changed(499, np.nextafter(BARS[499, -1], 9)), "other values in process 1 than in process 0, in rows 320 to 4"),
        (changed(130, np.nan), "X has other values in process 1 than in process 0, in rows 128 to 319"),
        (BARS[::-1].copy(), "X has other values in process 1 than in process"),
        (np.roll(BARS, 1, axis=1), "same data (with distributed='own' each may have rows of its own)."),
    ],
)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "disk"])
def test_data_that_should_be_the_same_are_compared(x, words, stored, tmp_path):
    def give(rank):
        mine, path = x if rank == 1 else BARS, tmp_path / f"{rank}.npy"
        np.save(path, mine)
        return np.load(path, mmap_mode="r") if stored else mine

    said = refusal(fits(3, give, batch_size=64))
    if stored:  # each row is compared between two processes, of which it is not known who is the odd one
        said = re.sub(r"in process \d than in process \d", "in process 1 than in process 0", said)
    assert words in said


def test_rows_on_a_disk_and_in_memory_may_be_the_same_data(tmp_path):
    whole = np.round(BARS * 100).astype(np.int16)
    np.save(tmp_path / "x.npy", whole)
    model = all_the_same(
        fits(
            3,
            lambda rank: np.load(tmp_path / "x.npy", mmap_mode="r") if rank else whole,
            max_iter=3,
            batch_size=64,
        )
    )
    assert model.n_samples_seen_ == 500


@pytest.mark.parametrize("given", ["same", "own"])
def test_columns_have_the_same_names(given):
    usual = pd.DataFrame(BARS, columns=[f"pixel {number}" for number in range(D)])
    for odd, words in [
        (usual[usual.columns[::-1]], f"X has the column 'pixel {D - 1}' in process 2 where process 0 has 'pixel 0'"),
        (usual.to_numpy(), "X has no column names in process 2, but process 0 has some"),
    ]:
        said = refusal(fits(3, lambda rank, odd=odd: odd if rank == 2 else usual, distributed=given))
        assert said == f"{words}: give all processes the same columns."


@pytest.mark.parametrize("options", [{}, {"learning": "minibatch", "batch_size": 32}], ids=str)
def test_own_rows_may_lie_anywhere(options, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsentropy.rows.stored.MEMORY", 2**14)  # less than all of them

    def give(rank):
        x = BARS[rank::4]
        np.save(tmp_path / f"{rank}.npy", x)
        return (x, np.load(tmp_path / f"{rank}.npy", mmap_mode="r"), iter([x]), x.tolist())[rank]

    assert all_the_same(fits(4, give, distributed="own", max_iter=3, **options)).n_samples_seen_ == 500


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("batch", "X has other values in process 1 than in process 0, in rows 25 to 49"),
        ("rows", "X has 49 rows in process 1, but 50 rows in process 0"),
        ("model", "process 1 has a model of 500 rows with the checksum"),
        ("new", "process 1 has a new model, but process 0 has a model of 500 rows"),
    ],
)
def test_batches_and_models_of_a_stream_are_compared(odd, words):
    before, batch = SparseCoding(10, max_iter=2, random_state=0).fit(BARS), BARS[:50]

    def work(rank):
        model = SparseCoding(10, max_iter=2) if odd == "new" and rank else copy.deepcopy(before)
        model.set_params(distributed="same", random_state=0)
        if odd == "model" and rank:
            model.components_[0, 0] += 1e-9
        x = {"batch": batch + 1e-9 * (np.arange(50) > 40)[:, None], "rows": batch[1:]}.get(odd, batch)
        return model.partial_fit(x if rank else batch)

    assert words in refusal(outcomes(2, work))
