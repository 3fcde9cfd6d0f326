"""Whatever stands in a file, reading it gives what was written, or one line that says what is wrong with it.

The checksum finds what happened by accident. Whoever writes a file on purpose can give it the right one, so nothing is
run, no memory is taken for what is only claimed, and what is no model is refused.
"""

import ast
import json
import math
import os
import re
import tempfile
import warnings
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

import sparsentropy
from sparsentropy import SparseCoding, checkpoints, inputs, preparation, results, storage
from sparsentropy.datasets import make_bars, zca
from sparsentropy.learning import gradient
from sparsentropy.learning.course import AbstractCourse, BatchCourse, Course, EncoderCourse
from sparsentropy.preparation import Preparation
from sparsentropy.results import summarise
from test_cli import invoke

CASES = int(os.environ.get("SPARSENTROPY_CASES", "5"))
FEW = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=CASES <= 100)
TALLY: Counter[tuple[str, str]] = Counter()
"""(property, "read" or "refusal") → how many files ended so."""

BARS = make_bars(300, noise_std=0.1, seed=0).data
QUICK = {"max_iter": 2, "random_state": 0}
CPU = torch.device("cpu")
SOURCES = sorted(Path(sparsentropy.__file__).parent.rglob("*.py"))


def written():
    """The bytes of one file of each kind, and of the posteriors that belong to checkpoints."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), tempfile.TemporaryDirectory() as place:
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few sweeps will do
        folder = Path(place)
        model = SparseCoding(4, **QUICK).fit(BARS)
        encoder = SparseCoding(3, inference="amortized", **QUICK).fit(BARS)
        model.save(folder / "model")
        encoder.save(folder / "encoder")
        preparation.save(Preparation(whiten="zca", zca=zca(BARS[:, :4])), folder / "preparation")
        results.save(summarise(model, BARS, title="bars"), folder / "run")
        for name in ("WARM_UP", "STEPS", "PASSES"):
            patch.setattr(gradient, name, 1)
        posteriors = {}
        for name, (_, options) in PLACES.items():
            SparseCoding(4, **QUICK | options, checkpoint=folder / f"kept {name}", checkpoint_every=0).fit(BARS)
            newest = checkpoints.listed(folder / f"kept {name}")[-1]
            (folder / name).write_bytes(newest.read_bytes())
            posteriors[name] = newest.with_suffix(".posteriors").read_bytes()
        return {name: (folder / name).read_bytes() for name in KINDS}, posteriors


def read_model(path):
    model = SparseCoding.load(path)
    codes = model.transform(BARS)
    assert codes.shape == (len(BARS), len(model.components_))
    # A network gives what its weights say
    assert model.inference == "amortized" or np.isfinite(codes).all()
    return [codes, model.components_, model.prior_scale_, model.noise_variance_, model.lower_bounds_]


def read_preparation(path):
    found = preparation.load(path)
    if found.zca is None:
        return [found]
    return [found.zca.transform(BARS[:20, : len(found.zca.mean)]), found.patch_size, found.whiten]


def read_run(path):
    found = results.load(path)
    return [getattr(found, field.name) for field in fields(found)]


def read_checkpoint(path):
    course = checkpoints.read(path, {}, CPU).course
    assert isinstance(course, AbstractCourse)
    q = [one.mean.numpy() for one in course.posteriors]
    return [*q, course.parameters.dictionary.numpy(), type(course)]


PLACES = {
    "checkpoint": (Course, {}),
    "checkpoint of batches": (BatchCourse, {"learning": "minibatch"}),
    "checkpoint of an encoder": (EncoderCourse, {"inference": "amortized", "encoder": "mlp"}),
}
KINDS = {
    "model": read_model,
    "encoder": read_model,
    "preparation": read_preparation,
    "run": read_run,
} | dict.fromkeys(PLACES, read_checkpoint)
FILES, POSTERIORS = written()


def read(kind, content, folder, posteriors=None):
    """What the file says, or None if it was refused in one line."""
    path = Path(folder) / "file.safetensors"
    path.write_bytes(content)
    if kind in PLACES:
        path.with_suffix(".posteriors").write_bytes(POSTERIORS[kind] if posteriors is None else posteriors)
    try:
        return KINDS[kind](path)
    except (ValueError, OSError) as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 500
    # Which devices there are is known to the machine that uses the model
    assert str(path.with_suffix("")) in refusal or refusal.startswith("device")
    return None


with tempfile.TemporaryDirectory() as _place:
    WHOLE = {kind: read(kind, content, _place) for kind, content in FILES.items()}


def test_there_is_a_checkpoint_of_each_way_of_learning():
    assert [WHOLE[name][-1] for name in PLACES] == [kind for kind, _ in PLACES.values()]


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=_is_float(a)) for a, b in zip(one, other, strict=True)
    )


def _is_float(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def damaged(data, content):
    """Some bytes changed, left out, put in, or the end cut off."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at, size = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 16))
        way = data.draw(st.sampled_from(["flip", "write", "cut", "leave out", "put in"]))
        if way == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif way == "write":
            content[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
        elif way == "cut":
            del content[max(1, at) :]
        elif way == "leave out":
            del content[at : min(at + size, len(content) - 1)]
        else:
            content[at:at] = data.draw(st.binary(min_size=size, max_size=size))
    return bytes(content)


@FEW
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_damaged_file_is_refused_or_says_the_same(kind, data):
    with tempfile.TemporaryDirectory() as folder:
        found = read(kind, damaged(data, FILES[kind]), folder)
    TALLY["damaged file", "refusal" if found is None else "read"] += 1
    assert found is None or same(found, WHOLE[kind])


@FEW
@given(st.data())
def test_damaged_posteriors_are_refused_or_the_same(data):
    content = damaged(data, POSTERIORS["checkpoint"])
    with tempfile.TemporaryDirectory() as folder:
        found = read("checkpoint", FILES["checkpoint"], folder, content)
    TALLY["damaged posteriors", "refusal" if found is None else "read"] += 1
    assert (found is None) == (content != POSTERIORS["checkpoint"])


STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["memory", "diagonal", "amortized", "mlp", "full", "zca", "Diagonal", "Sweep", 0, 1, -1, 10**9, 0.0]
    ),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places_in(header):
    """Where a value stands in nested dictionaries and lists: (container, key)."""
    found, items = [], header.items() if isinstance(header, dict) else enumerate(header)
    for key, value in items:
        found.append((header, key))
        if isinstance(value, dict | list):
            found += places_in(value)
    return found


def strange_array(data, array):
    way = data.draw(st.sampled_from(["shape", "dtype", "value", "empty", "flat", "huge"]))
    if way == "shape":
        return np.zeros(data.draw(st.lists(st.integers(0, 5), max_size=3)), array.dtype)
    if way == "dtype":
        return np.nan_to_num(array).astype(data.draw(st.sampled_from(["int8", "uint64", "bool", "float16", "float32"])))
    if way == "empty" or array.size == 0:
        return array[:0] if array.ndim else np.zeros(0, array.dtype)
    if way == "flat":
        return array.reshape(-1)
    array = np.array(array)
    if way == "huge" and array.dtype.kind == "f":
        return array * np.finfo(array.dtype).max
    strange = data.draw(st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e30])) if array.dtype.kind == "f" else 1
    array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = strange
    return array


@FEW
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_file_with_the_right_checksum_and_strange_content_is_refused_or_makes_sense(kind, data):
    stored = "model" if kind == "encoder" else kind.split()[0]
    with tempfile.TemporaryDirectory() as folder, np.errstate(over="ignore", invalid="ignore"):
        path = Path(folder) / "file.safetensors"
        path.write_bytes(FILES[kind])
        arrays, header = storage.load(path, kind=stored)
        for _ in range(data.draw(st.integers(1, 2))):
            if arrays and data.draw(st.booleans()):
                name = data.draw(st.sampled_from(sorted(arrays)))
                if data.draw(st.integers(0, 4)) == 0:
                    del arrays[name]
                else:
                    arrays[name] = strange_array(data, arrays[name])
            elif header:
                container, key = data.draw(st.sampled_from(places_in(header)))
                container[key] = data.draw(STRANGE)
        storage.save(path, arrays, header, kind=stored)
        found = read(kind, path.read_bytes(), folder)
    TALLY["strange content", "refusal" if found is None else "read"] += 1


# --- What is only claimed


def header_of(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, rest):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [2**24 + 1, 2**60, 2**64 - 1])
def test_a_header_that_is_said_to_be_huge_is_refused(kind, length, tmp_path):
    assert read(kind, length.to_bytes(8, "little") + FILES[kind][8:], tmp_path) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [[10**18], [10**9, 10**9], [2**63], [10**30], [0, 10**18], [-1], ["1"], None, [True]])
def test_an_array_that_is_said_to_be_huge_is_refused(kind, shape, tmp_path):
    header, rest = header_of(FILES[kind])
    name = next(name for name in header if name != "__metadata__")
    header[name]["shape"] = shape
    assert read(kind, with_header(header, rest), tmp_path) is None


@pytest.mark.parametrize("end", [10**18, 2**64, -1, "9", None, [1], 1.5])
def test_an_array_that_is_said_to_lie_beyond_the_end_is_refused_before_anything_is_read(end, tmp_path, monkeypatch):
    header, rest = header_of(FILES["model"])
    header["components_"]["data_offsets"][1] = end
    monkeypatch.setattr(safetensors.numpy, "load", None)  # would be another error
    assert read("model", with_header(header, rest), tmp_path) is None


@pytest.mark.parametrize(
    "entry", [{}, [], "x", 3, None, {"dtype": "F64"}, {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}]
)
def test_an_array_that_is_none_is_refused(entry, tmp_path):
    header, rest = header_of(FILES["model"])
    assert read("model", with_header(header | {"more": entry}, rest), tmp_path) is None


def test_a_file_larger_than_memory_is_refused(tmp_path):
    """A sparse one, which takes no room on the disk, and whose header says that all of it is an array."""
    header, _ = header_of(FILES["model"])
    whole = 2**43
    header = {
        "__metadata__": header["__metadata__"],
        "x": {"dtype": "U8", "shape": [whole], "data_offsets": [0, whole]},
    }
    content = with_header(header, b"")
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    try:
        os.truncate(path, len(content) + whole)
    except OSError:
        pytest.skip("the disk has no sparse files of this size")
    with pytest.raises(ValueError, match="larger than there is memory for; use a machine with more"):
        SparseCoding.load(path)


def test_an_encoder_that_is_said_to_be_huge_is_refused(tmp_path, monkeypatch):
    """A rank of h takes h² numbers for each feature, which no weight in the file shows."""
    path = tmp_path / "file.safetensors"
    path.write_bytes(FILES["encoder"])
    arrays, header = storage.load(path)
    header["parameters"] |= {"n_components": 10**7, "rank": 10**7, "posterior": "low-rank", "encoder": "mlp"}
    storage.save(path, arrays, header)
    with pytest.raises(ValueError, match="holds an encoder that is not of the kind its own parameters name"):
        SparseCoding.load(path)


def test_words_in_a_file_do_not_reach_the_terminal_as_they_are(tmp_path):
    header, rest = header_of(FILES["model"])
    header["__metadata__"]["version"] = "9\n\x1b[2J" + "a" * 10**5
    assert read("model", with_header(header, rest), tmp_path) is None


@pytest.mark.parametrize("command", ["encode", "score", "report"])
def test_the_command_line_refuses_what_is_no_model_and_no_run(command, tmp_path):
    for name, array in (("model", "components_"), ("run", "components")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(FILES[name])
        arrays, header = storage.load(path, kind=name)
        storage.save(path, arrays | {array: arrays[array].reshape(-1)}, header, kind=name)
    np.save(tmp_path / "x.npy", BARS)
    more = {"encode": [tmp_path / "x.npy", "--output", tmp_path / "z.npy"], "score": [tmp_path / "x.npy"], "report": []}
    result = invoke(command, tmp_path, *more[command])
    assert result.exit_code == 2
    assert re.fullmatch(r"error: .*(was not written by|does not hold)[^\n]*\n", result.output)
    assert not (tmp_path / "z.npy").exists()


# --- What is of a machine, and what is no number for the formulas

ALIEN = {
    "checkpoint": "owned",
    "resume": True,
    "cache": "/tmp",
    "device": "cuda",
    "distributed": "same",
    "callback": "print",
    "verbose": 1,
    "checkpoint_every": 0.0,
}


def made_up(path, content, arrays=(), fitted=(), parameters=(), kind="model"):
    """A file with the right checksum and other content: values, or functions of those that are there."""
    path.write_bytes(content)
    have, header = storage.load(path, kind=kind)
    have |= {name: value(have[name]) if callable(value) else value for name, value in dict(arrays).items()}
    for part, changes in (("fitted", fitted), ("parameters", parameters)):
        if changes:
            header[part] |= dict(changes)
    storage.save(path, have, header, kind=kind)
    return path


def test_every_parameter_of_a_machine_is_known():
    assert set(ALIEN) == set(inputs.OF_THE_MACHINE)


@pytest.mark.parametrize("name", ALIEN)
def test_a_stranger_does_not_choose_what_a_machine_does(name, tmp_path):
    path = made_up(tmp_path / "model", FILES["model"], parameters={name: ALIEN[name]})
    with pytest.raises(ValueError, match=f"parameters name {name}, which is of a machine and not of a model"):
        SparseCoding.load(path)


def test_what_is_of_this_machine_is_not_in_a_file_and_is_as_usual_when_it_is_read(tmp_path):
    own = {"cache": tmp_path, "checkpoint": tmp_path / "kept", "device": "cpu", "verbose": 1, "checkpoint_every": 7.0}
    model = SparseCoding(2, random_state=3, tol=10.0, callback=lambda _: False, **own).fit(BARS)
    model.save(tmp_path / "model")
    assert str(tmp_path).encode() not in (tmp_path / "model").read_bytes()
    found, usual = SparseCoding.load(tmp_path / "model").get_params(), SparseCoding().get_params()
    assert {name: found[name] for name in ALIEN} == {name: usual[name] for name in ALIEN}
    assert (found["random_state"], found["tol"]) == (3, 10.0)


def with_one(value):
    """An array with another number in its middle."""

    def change(array):
        array = np.array(array)
        array.reshape(-1)[array.size // 2] = value
        return array

    return change


def indefinite(moment):
    moment = np.array(moment)
    moment[0, 1] = moment[1, 0] = 10 * np.abs(moment).max()
    return moment


def one_sided(moment):
    moment = np.array(moment)
    moment[0, 1] += np.abs(moment).max()
    return moment


SENSELESS = {
    "no scale": {"arrays": {"prior_scale_": with_one(0.0)}},
    "a scale below zero": {"arrays": {"prior_scale_": with_one(-1.0)}},
    "a scale without a square": {"arrays": {"prior_scale_": with_one(5e-324)}},
    "a scale whose square is none": {"arrays": {"prior_scale_": with_one(1e308)}},
    "a scale beyond the noise": {"arrays": {"prior_scale_": with_one(1e20)}},
    "scales of another type": {"arrays": {"prior_scale_": lambda scale: scale.astype(np.float32)}},
    "atoms that are short": {"arrays": {"components_": lambda atoms: atoms / 2}},
    "atoms that are nearly nothing": {"arrays": {"components_": lambda atoms: atoms * 1e-310}},
    "no noise": {"fitted": {"noise_variance_": 0.0}},
    "noise below zero": {"fitted": {"noise_variance_": -1.0}},
    "noise that is hardly there": {"fitted": {"noise_variance_": 1e-310}},
    "huge noise": {"fitted": {"noise_variance_": 1e308}},
    "a sweep with noise below zero": {"arrays": {"noise_variances_": with_one(-1.0)}},
    "a sweep too few": {"arrays": {"noise_variances_": lambda noise: noise[:-1]}},
    "a unit that is nothing": {"fitted": {"data_scale_": 5e-324}},
    "a small unit": {"fitted": {"data_scale_": 2.0**-1000}},
    "a large unit": {"fitted": {"data_scale_": 2.0**1000}},
    "a unit that is no power of two": {"fitted": {"data_scale_": 3.0}},
    "an infinite bound": {"fitted": {"lower_bound_": math.inf}},
    "a huge bound": {"arrays": {"lower_bounds_": with_one(1e300)}},
    "more rows than can be counted": {"fitted": {"n_samples_seen_": 10**400}},
    "fewer rows than were summed": {"fitted": {"n_samples_seen_": 1}},
    "a batch that cannot be counted": {"parameters": {"batch_size": 10**30}},
    "sums of fewer than no rows": {"arrays": {"statistics.n": with_one(-1.0)}},
    "sums of no rows": {"arrays": {"statistics.n": with_one(0.0)}},
    "more numbers than rows": {"arrays": {"statistics.observed": with_one(1e9)}},
    "squares below zero": {"arrays": {"statistics.square": with_one(-1.0)}},
    "huge squares": {"arrays": {"statistics.square": with_one(1e200)}},
    "codes of no size": {"arrays": {"statistics.prior_statistic": with_one(0.0)}},
    "codes beyond their moments": {"arrays": {"statistics.prior_statistic": with_one(1e100)}},
    "slopes beyond those of the prior": {"arrays": {"statistics.slope_square": with_one(1e9)}},
    "slopes that are huge": {"arrays": {"statistics.slope_code": with_one(1e140)}},
    "moments that are not symmetric": {"arrays": {"statistics.second_moment": one_sided}},
    "moments that are indefinite": {"arrays": {"statistics.second_moment": indefinite}},
    "moments below zero": {"arrays": {"statistics.second_moment": lambda moment: -moment}},
    "names that are no words": {"parameters": {"annealing": [[1]]}},
}


@pytest.mark.parametrize("changes", SENSELESS.values(), ids=SENSELESS)
def test_numbers_for_which_the_formulas_do_not_hold_are_refused(changes, tmp_path):
    path = made_up(tmp_path / "model", FILES["model"], **changes)
    with pytest.raises(ValueError, match=r"^[^\n]*/model (was not written by|holds parameters)[^\n]{1,300}$"):
        SparseCoding.load(path)


NO_MAP = {
    "not symmetric": {"matrix": one_sided},
    "below zero": {"matrix": lambda matrix: -matrix, "inverse": lambda inverse: -inverse},
    "huge": {"mean": with_one(1e300)},
    "nothing": {"matrix": np.zeros_like},
    "another inverse": {"inverse": lambda inverse: 2 * inverse},
    "other digits": {"mean": lambda mean: mean.astype(np.float32)},
}


@pytest.mark.parametrize("changes", NO_MAP.values(), ids=NO_MAP)
def test_a_map_that_is_none_is_refused(changes, tmp_path):
    path = made_up(tmp_path / "preparation", FILES["preparation"], arrays=changes, kind="preparation")
    with pytest.raises(ValueError, match=r"preparation does not hold the steps of a preparation: [^\n]*ZCA map"):
        preparation.load(path)


NO_RUN = {
    "scales below zero": {"prior_scale": with_one(-1.0)},
    "huge scales": {"prior_scale": lambda scale: scale.astype(float) * 1e200},
    "infinite codes": {"codes": with_one(np.inf)},
    "codes that are none": {"codes": with_one(np.nan)},
    "whole numbers": {"components": lambda atoms: atoms.astype(np.int64)},
    "nothing known": {"originals": lambda rows: np.full_like(rows, np.nan)},
    "no data points": {"originals": lambda rows: rows[:0], "reconstructions": lambda rows: rows[:0]},
}


@pytest.mark.parametrize("changes", NO_RUN.values(), ids=NO_RUN)
def test_a_run_of_no_numbers_is_refused(changes, tmp_path):
    path = made_up(tmp_path / "run", FILES["run"], arrays=changes, kind="run")
    with pytest.raises(ValueError, match=r"run does not hold the numbers of a run: [^\n]+$"):
        results.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_samples", 10**400), ("n_samples", -1), ("noise_std", "x"), ("seconds", math.nan), ("converged", 1)],
    ids=["huge", "negative", "a word", "no number", "no flag"],
)
def test_a_number_of_a_run_that_is_none_is_refused(name, value, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(FILES["run"])
    arrays, header = storage.load(path, kind="run")
    header["metrics"] = [[key, value if key == name else old] for key, old in header["metrics"]]
    storage.save(path, arrays, header, kind="run")
    with pytest.raises(ValueError, match=f"its metrics say that {name} is"):
        results.load(path)


def test_a_model_that_was_pruned_or_learned_from_gaps_and_in_parts_can_be_saved(tmp_path):
    gaps = np.where(np.random.default_rng(0).random(BARS.shape) < 0.2, np.nan, BARS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SparseCoding(4, **QUICK).fit(gaps)
    model.partial_fit(gaps[:50])
    for kept in (model, model.prune(2)):
        kept.save(tmp_path / "model")
        again = SparseCoding.load(tmp_path / "model").partial_fit(BARS)
        np.testing.assert_array_equal(again.components_, kept.partial_fit(BARS).components_)


# --- Nothing is code

FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg", "yaml"}
RUNS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_in_the_library_unpickles_or_runs_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
            names = [] if names == ["joblib", "cpu_count"] else names
        assert not {name.split(".")[0] for name in names} & FORBIDDEN
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in RUNS | {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}
            assert not any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords)
