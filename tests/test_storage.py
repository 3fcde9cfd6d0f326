import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsentropy import storage
from sparsentropy.storage import load, replacing, save

ARRAYS = {
    "dictionary": np.random.default_rng(0).normal(size=(5, 3)),
    "scale": np.array([1.0, np.nan, -np.inf], dtype=np.float32),
    "steps": np.array(7),
    "alive": np.array([True, False]),
    "nothing": np.zeros((0, 4), np.uint8),
}
HEADER = {"prior": "laplace", "note": "λ > 0 “so”", "rate": 0.1, "nested": {"list": [1, None, True]}}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, ARRAYS, HEADER)
    return path


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        assert array.flags.writeable
        np.testing.assert_array_equal(array, expected[name])


def header_bytes(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return length, content[8 : 8 + length], content[8 + length :]


def rewrite(path, change):
    """Apply ``change`` to the metadata of a stored file."""
    _, text, data = header_bytes(path)
    fields = json.loads(text)
    change(fields["__metadata__"])
    text = json.dumps(fields).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_what_is_saved_is_loaded(model):
    arrays, header = load(model)
    assert_same(arrays, ARRAYS)
    assert header == HEADER


@given(
    arrays=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from(sorted(storage.DTYPES)).flatmap(
            lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        max_size=4,
    ),
    header=st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text() | st.none()),
)
@settings(max_examples=60, deadline=None)
def test_any_arrays_and_header_survive(tmp_path_factory, arrays, header):
    path = tmp_path_factory.mktemp("storage") / "x"
    save(path, arrays, header)
    loaded, found = load(path)
    assert_same(loaded, arrays)
    assert found == header


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-2],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(3, dtype=">f8"),
        np.broadcast_to(1.0, (3, 2)),
    ],
)
def test_layout_in_memory_does_not_matter(tmp_path, array):
    save(tmp_path / "x", {"x": array}, {})
    np.testing.assert_array_equal(load(tmp_path / "x")[0]["x"], array)


def test_same_content_same_bytes_in_another_process(tmp_path, model):
    script = (
        "import sys, numpy as np; from sparsentropy.storage import load, save;"
        "arrays, header = load(sys.argv[1]);"
        "save(sys.argv[2], dict(reversed(arrays.items())), dict(reversed(header.items())))"
    )
    subprocess.run([sys.executable, "-c", script, model, tmp_path / "again"], check=True)
    assert (tmp_path / "again").read_bytes() == model.read_bytes()


def test_any_safetensors_reader_opens_it(model):
    np.testing.assert_array_equal(safetensors.numpy.load_file(model)["dictionary"], ARRAYS["dictionary"])
    with safetensors.safe_open(model, framework="numpy") as file:
        metadata = file.metadata()
    assert {"format": "sparsentropy", "kind": "model", "version": str(storage.VERSION)}.items() <= metadata.items()
    assert json.loads(metadata["header"]) == HEADER


@pytest.mark.parametrize(
    ("arrays", "header", "match"),
    [
        ({"x": np.array([None])}, {}, "array 'x' has dtype object"),
        ({"x": np.array(["a"])}, {}, "array 'x' has dtype <U1"),
        ({"x": np.array([1j])}, {}, "array 'x' has dtype complex128"),
        ({3: np.zeros(2)}, {}, "names of arrays must be strings"),
        ({"__metadata__": np.zeros(2)}, {}, "names of arrays must be strings other than"),
        ({}, {"x": np.zeros(2)}, "header must hold JSON values"),
        ({}, {"x": object()}, "header must hold JSON values"),
        ({}, {("a", "b"): 1}, "header must hold JSON values"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(model, arrays, header, match):
    before = model.read_bytes()
    with pytest.raises(TypeError, match=match):
        save(model, arrays, header)
    assert model.read_bytes() == before


def test_header_that_could_not_be_read_back_is_refused(model, monkeypatch):
    monkeypatch.setattr(storage, "HEADER_LIMIT", 1000)
    with pytest.raises(ValueError, match="header is larger than 1000 bytes"):
        save(model, {}, {"x": "a" * 1000})


def test_kinds_are_not_mixed_up(tmp_path):
    save(tmp_path / "x", {}, {}, kind="training state")
    assert load(tmp_path / "x", kind="training state") == ({}, {})
    with pytest.raises(ValueError, match="holds a training state, expected a model"):
        load(tmp_path / "x")


def test_newer_version_asks_for_an_upgrade(model):
    rewrite(model, lambda metadata: metadata.update(version="99", header="[[unknown"))
    with pytest.raises(ValueError, match=r"has format version 99, .* upgrade sparsentropy"):
        load(model)


def test_file_of_another_program(tmp_path):
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "plain")
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "torch", {"format": "pt"})
    for name in ("plain", "torch"):
        with pytest.raises(ValueError, match=f"{name} is a safetensors file of another program"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        bytes(8) + b"{}",
        b"PK\x03\x04" * 100,
        b"\xff" * 100,
        b"\x80\x04\x95" * 50,
    ],
)
def test_not_safetensors(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="x is not a safetensors file"):
        load(tmp_path / "x")


@pytest.mark.parametrize("length", [10**6, storage.HEADER_LIMIT, storage.HEADER_LIMIT + 1, 2**63, 2**64 - 1])
def test_header_length_beyond_the_file_is_refused_before_reading(model, length):
    content = model.read_bytes()
    model.write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(ValueError, match="cut short" if length <= storage.HEADER_LIMIT else "not a safetensors"):
        load(model)


def test_truncation_at_every_byte(model):
    content = model.read_bytes()
    for size in range(len(content)):
        model.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors (is|holds|has)") as caught:
            load(model)
        assert "\n" not in str(caught.value)


def test_additional_bytes(model):
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        load(model)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_any_flipped_byte_is_noticed(model, mask):
    content = model.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= mask
        model.write_bytes(damaged)
        try:
            arrays, header = load(model)
        except ValueError:
            continue
        # Only a flip that changes nothing may pass, such as padding or a letter's case in a "λ" escape.
        assert_same(arrays, ARRAYS)
        assert header == HEADER


def test_deeply_nested_header(tmp_path):
    text = b'{"a":' + b"[" * 100_000
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="is damaged: its header is not JSON"):
        load(tmp_path / "x")


@pytest.mark.parametrize("metadata", [[], "sparsentropy", None, {"format": 1}])
def test_metadata_of_another_shape(tmp_path, metadata):
    text = json.dumps({"__metadata__": metadata}).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="of another program"):
        load(tmp_path / "x")


@pytest.mark.parametrize("missing", ["kind", "version", "header", "sha256"])
def test_metadata_with_something_missing(model, missing):
    rewrite(model, lambda metadata: metadata.pop(missing))
    with pytest.raises(ValueError, match=r"model\.safetensors (is damaged|holds a None|has format version None)"):
        load(model)


def fail_with(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_failure_while_writing_leaves_the_old_file(model, monkeypatch, function, code):
    before = model.read_bytes()
    monkeypatch.setattr(storage.os, function, fail_with(code))
    with pytest.raises(OSError, match="cannot be written") as caught:
        save(model, {"x": np.zeros(3)}, {})
    assert os.strerror(code) in str(caught.value)
    assert "What was there before is unchanged" in str(caught.value)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, OSError])
def test_failure_in_the_block_leaves_no_trace(model, failure):
    before = model.read_bytes()

    def write():
        with replacing(model) as file:
            file.write(b"half")
            raise failure

    with pytest.raises(failure):
        write()
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_write_that_stops_half_way(model):
    resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
    before = model.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(model, {"x": np.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_missing_folder_and_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot be written .*check that its folder exists"):
        save(tmp_path / "none" / "x", ARRAYS, HEADER)
    assert not (tmp_path / "none").exists()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        save(tmp_path, ARRAYS, HEADER)
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x cannot be read .*check the path"):
        load(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(model):
    model.parent.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written"):
        save(model, ARRAYS, HEADER)
    model.parent.chmod(0o700)
    assert_same(load(model)[0], ARRAYS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        save(tmp_path / "pipe", ARRAYS, HEADER)
    with pytest.raises(OSError, match="it is not a regular file"):
        load(tmp_path / "pipe")


def test_symbolic_link_is_followed(tmp_path, model):
    (tmp_path / "link").symlink_to(model)
    save(tmp_path / "link", {"x": np.zeros(3)}, {})
    assert (tmp_path / "link").is_symlink()
    assert_same(load(model)[0], {"x": np.zeros(3)})


@pytest.mark.parametrize(("path", "error"), [(3, TypeError), (None, TypeError), ("", ValueError), ("a\0b", ValueError)])
def test_not_a_path(path, error):
    with pytest.raises(error, match="path must be"):
        save(path, ARRAYS, HEADER)
    with pytest.raises(error, match="path must be"):
        load(path)
