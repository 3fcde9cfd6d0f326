import functools
import hashlib
import http.server
import io
import threading

import numpy as np
import pytest
from scipy.io import savemat

from sparsentropy.datasets import download, load_olshausen, load_van_hateren, read_iml

PIXELS = np.arange(1024 * 1536, dtype=np.uint32).reshape(1024, 1536) % 65_521


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve tmp_path/www on 127.0.0.1 and let downloads go to tmp_path/data."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SPARSENTROPY_DATA", str(tmp_path / "data"))
    (tmp_path / "www").mkdir()
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture
def olshausen(tmp_path, server, monkeypatch):
    """Serve small stand-ins for the two files, with their checksums made known."""
    images = np.random.default_rng(0).normal(size=(6, 5, 10))
    for name, variable in (("IMAGES.mat", "IMAGES"), ("IMAGES_RAW.mat", "IMAGESr")):
        stream = io.BytesIO()
        savemat(stream, {variable: images})
        content = stream.getvalue()
        (tmp_path / "www" / name).write_bytes(content)
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        monkeypatch.setitem(download.OLSHAUSEN_BLOBS, name, blob)
    return images


def publish_iml(folder, number=1):
    PIXELS.astype(">u2").tofile(folder / f"imk{number:05d}.iml")


@pytest.mark.parametrize("raw", [False, True])
def test_olshausen_is_downloaded_once(tmp_path, server, olshausen, raw):
    images = load_olshausen(raw=raw, url=server)
    assert images.shape == (10, 6, 5)
    np.testing.assert_array_equal(images[3], olshausen[:, :, 3])
    for file in (tmp_path / "www").iterdir():
        file.unlink()
    np.testing.assert_array_equal(load_olshausen(raw=raw, url=server), images)
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["IMAGES_RAW.mat" if raw else "IMAGES.mat"]


def test_wrong_checksum_is_refused_and_not_kept(tmp_path, server, olshausen):
    with (tmp_path / "www" / "IMAGES.mat").open("ab") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match=r"IMAGES\.mat was downloaded but not kept: .* has the checksum"):
        load_olshausen(url=server)
    assert list((tmp_path / "data").iterdir()) == []


def test_file_placed_by_hand_is_checked_too(tmp_path, server, olshausen):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "IMAGES.mat").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"data/IMAGES\.mat has the checksum .* delete it and try again"):
        load_olshausen(url=server)
    (tmp_path / "data" / "IMAGES.mat").write_bytes((tmp_path / "www" / "IMAGES.mat").read_bytes())
    assert load_olshausen(url="http://127.0.0.1:1/").shape == (10, 6, 5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "not a url", "ftp://127.0.0.1/"])
def test_unreachable_says_what_was_tried_and_what_to_do(tmp_path, server, url):
    with pytest.raises(OSError, match="could not be downloaded") as caught:
        load_olshausen(url=url)
    message = str(caught.value)
    assert f"{url.rstrip('/')}/IMAGES.mat" in message
    assert f"by hand at {tmp_path / 'data' / 'IMAGES.mat'}" in message
    assert "SPARSENTROPY_DATA" in message
    assert "\n" not in message
    assert list((tmp_path / "data").iterdir()) == []


def test_file_missing_on_the_server(tmp_path, server):
    with pytest.raises(OSError, match=r"imk00007\.iml could not be downloaded \(404"):
        load_van_hateren([7], url=server)


def test_data_folder_that_cannot_be_made(tmp_path, server, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSENTROPY_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="could not be downloaded"):
        load_olshausen(url=server)


def test_data_folder_defaults_to_the_cache(monkeypatch):
    monkeypatch.delenv("SPARSENTROPY_DATA", raising=False)
    assert "sparsentropy" in str(download.data_folder())


def test_van_hateren_records_its_checksum_at_first_use(tmp_path, server):
    publish_iml(tmp_path / "www")
    (image,) = load_van_hateren([1], url=server)
    np.testing.assert_array_equal(image, PIXELS)
    record = tmp_path / "data" / "imk00001.iml.sha256"
    file = tmp_path / "data" / "imk00001.iml"
    assert record.read_text().split() == [hashlib.sha256(file.read_bytes()).hexdigest(), file.name]
    damaged = bytearray(file.read_bytes())
    damaged[1000] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="not the one recorded at first use"):
        load_van_hateren([1], url=server)
    file.unlink()  # what the message advises
    np.testing.assert_array_equal(load_van_hateren([1], url=server)[0], PIXELS)


def test_read_only_data_folder_is_used_without_a_record(tmp_path, server, monkeypatch):
    (tmp_path / "data").mkdir()
    publish_iml(tmp_path / "data")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.tempfile, "TemporaryDirectory", refuse)
    np.testing.assert_array_equal(load_van_hateren([1], url=server)[0], PIXELS)


def test_van_hateren_of_the_wrong_size_is_refused(tmp_path, server):
    (tmp_path / "www" / "imk00002.iml").write_bytes(b"<html>moved</html>")
    with pytest.raises(ValueError, match=r"not kept: .* has 18 bytes, expected 3145728"):
        load_van_hateren([2], url=server)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "error", "match"),
    [
        ([0], ValueError, "numbers must be at least 1"),
        (["1"], TypeError, "numbers must be a whole number"),
        ([], ValueError, "numbers is empty"),
        (3, TypeError, "numbers must be a list of image numbers"),
    ],
)
def test_bad_numbers(numbers, error, match):
    with pytest.raises(error, match=match):
        load_van_hateren(numbers)


def test_read_iml_of_the_wrong_size(tmp_path):
    publish_iml(tmp_path)
    file = tmp_path / "imk00001.iml"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 3145727 bytes, expected 3145728"):
        read_iml(file)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_iml(tmp_path / "imk00002.iml")
