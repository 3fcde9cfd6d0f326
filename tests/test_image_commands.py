"""Commands with images: bad files beside good ones, words for what is wrong, and what is never overwritten."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from sparsentropy import large_images, progress, rows
from sparsentropy.datasets import load_images
from sparsentropy.imaging import batch
from sparsentropy.preparation import Preparation
from test_cli import invoke

SMOOTH = np.add.outer(2 * np.arange(26), 3 * np.arange(30)).astype(np.uint8)
NOISY = np.clip(SMOOTH + np.random.default_rng(0).normal(scale=9, size=SMOOTH.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three images that can be read."""
    found = tmp_path / "in"
    found.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(NOISY).save(found / name)
    return found


def fails(monkeypatch, name, error):
    """Make what is done to one of the images end in an error."""
    right = batch.Denoising.__call__

    def wrong(self, job, picture, tell):
        if job.source.name == name:
            raise error
        return right(self, job, picture, tell)

    monkeypatch.setattr(batch.Denoising, "__call__", wrong)


@pytest.mark.parametrize(
    "error",
    [OverflowError("too large"), RuntimeError("no memory"), np.linalg.LinAlgError("singular"), ZeroDivisionError()],
)
def test_one_bad_image_stops_no_other(folder, tmp_path, monkeypatch, error):
    fails(monkeypatch, "b.png", error)
    result = invoke("denoise", folder, "-o", tmp_path / "out", "--sigma", 9)
    assert result.exit_code == 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    assert result.stderr.count("\n") == 4
    assert re.search(rf"failed: {folder}/b\.png: .*{error or 'ZeroDivisionError'}", result.stderr)
    assert "1 of 3 images failed (see above); the others are written" in result.stderr


def test_a_mistake_in_the_program_stops_no_other_and_is_seen(folder, tmp_path, monkeypatch):
    fails(monkeypatch, "a.png", KeyError("nothing of the kind"))
    result = invoke("denoise", folder, "-o", tmp_path / "out", "--sigma", 9)
    assert isinstance(result.exception, KeyError)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b.png", "c.png"]


def test_ctrl_c_ends_all_and_says_what_is_written(folder, tmp_path, monkeypatch):
    fails(monkeypatch, "b.png", KeyboardInterrupt())
    result = invoke("denoise", folder, "-o", tmp_path / "out", "--sigma", 9, "--report", tmp_path / "page.html")
    assert result.exit_code == 130
    assert "interrupted; 1 of 3 images are written" in result.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]
    assert "a.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_where_all_images_are_bad_nothing_is_written(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"none")
    result = invoke("denoise", tmp_path / "bad.png", "-o", tmp_path / "x.png", "--report", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "1 of 1 images failed (see above); nothing was written" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["bad.png"]


def test_extreme_pixels_and_an_empty_file_stop_no_other(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(NOISY).save(folder / "a.png")
    (folder / "empty.png").touch()
    (folder / "lost.png").symlink_to("nowhere")
    np.save(tmp_path / "huge.npy", 1e200 * NOISY)
    result = invoke("denoise", folder, tmp_path / "huge.npy", tmp_path / "none.png", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "3 of 5 images failed" in result.stderr
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "huge.npy"]
    unit = np.load(tmp_path / "out" / "huge.npy") / 1e200
    np.testing.assert_allclose(unit, np.asarray(Image.open(tmp_path / "out" / "a.png")), atol=0.6)


def test_messages_name_options_and_not_arguments(tmp_path):
    Image.fromarray(NOISY[:9, :9]).save(tmp_path / "tiny.png")
    result = invoke("denoise", tmp_path / "tiny.png", "-o", tmp_path / "x.png")
    assert "give the noise level as --sigma, or an image of at least 24 × 24" in result.stderr


@pytest.mark.parametrize("command", ["denoise", "inpaint"])
@pytest.mark.parametrize("sigma", ["-4", "nan", "inf"])
def test_a_noise_level_that_is_none_is_refused_in_words_of_the_image(command, sigma, tmp_path):
    result = invoke(command, tmp_path, "-o", tmp_path / "x.png", f"--sigma={sigma}")
    assert result.exit_code == 2
    assert "'--sigma': noise is a standard deviation in the units of the pixels, 0 or more" in result.stderr


def test_a_file_that_is_not_there_is_named_before_the_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sparsentropy.imaging", None)
    result = invoke("denoise", tmp_path / "nothing.png", "-o", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "nothing.png does not exist" in result.stderr


def test_what_is_read_is_not_written_over(folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.where(SMOOTH % 7, 0, 255).astype(np.uint8)).save(masks / name)
    os.link(folder / "a.png", tmp_path / "same.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    a, mask = folder / "a.png", masks / "a.png"
    for command in (
        ["denoise", a, "-o", tmp_path / "same.png"],
        ["inpaint", a, "--mask", mask, "-o", mask],
        ["inpaint", folder, "--mask", masks, "-o", masks],
    ):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "is one of the images to read; give another name" in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


def test_what_a_file_cannot_hold_is_said(tmp_path):
    Image.fromarray(np.dstack([NOISY, NOISY // 2])).save(tmp_path / "veiled.png")
    result = invoke("denoise", tmp_path / "veiled.png", "-o", tmp_path / "x.jpg", "--sigma", 9)
    assert result.exit_code == 0
    assert "without its transparency, which a .jpg file cannot hold" in result.stderr


def test_progress_is_told_in_lines_where_there_is_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    Image.fromarray(NOISY).save(tmp_path / "a.png")
    result = invoke("denoise", tmp_path / "a.png", "-o", tmp_path / "x.png", "--sigma", 9)
    told = [int(found) for found in re.findall(r"^a\.png: (\d+) % done$", result.stderr, re.MULTILINE)]
    assert told == sorted(set(told))
    assert len(told) > 2


SMALL = ("--patch-size", 6, "--components", 8, "--patches", 400, "--max-iter", 2)


@pytest.mark.parametrize("memory", [2**30, 2000])
def test_fit_leaves_out_what_cannot_be_read_and_says_so(folder, tmp_path, monkeypatch, memory):
    monkeypatch.setattr(rows, "MEMORY", memory)
    whole = (folder / "b.png").read_bytes()
    (folder / "bb.png").write_bytes(whole[: len(whole) // 2])  # its size can be read, and its pixels cannot
    (folder / "bc.png").write_bytes(b"none")
    (folder / "bd.png").touch()
    result = invoke("fit", folder, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^note: left out: .*b[bcd]\.png ", result.stderr, re.MULTILINE)) == 3
    with pytest.raises(ValueError, match=r"bb\.png cannot be read"):
        load_images(folder)
    for name in ("bb.png", "bc.png", "bd.png"):
        prepared = Preparation(patch_size=6)
        with pytest.warns(UserWarning, match="left out"):
            found = prepared.rows(prepared.read(folder, errors="warn"), n=50)
        (folder / name).unlink()
    expected = prepared.rows(prepared.read(folder), n=50)
    np.testing.assert_array_equal(
        *(one if isinstance(one, np.ndarray) else one.read(0, 50) for one in (found, expected))
    )
    (folder / "bb.png").write_bytes(b"none")
    result = invoke("score", tmp_path / "run", folder)
    assert result.exit_code == 2
    assert "bb.png cannot be read" in result.stderr


def test_fit_refuses_a_folder_of_which_nothing_can_be_read(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(b"none")
    result = invoke("fit", tmp_path / "in", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: none of 2 images can be read; {tmp_path}/in/a.png")
    assert not (tmp_path / "run").exists()


def test_fit_names_the_file_and_the_option(folder, tmp_path):
    result = invoke("fit", folder, "--out", tmp_path / "run", "--patch-size", 1000)
    assert f"{folder}/a.png has 26 × 30 pixels, smaller than a patch of 1000 × 1000" in result.stderr
    assert "give a smaller --patch-size, or larger images" in result.stderr
    np.save(tmp_path / "stack.npy", np.zeros((4, 5, 6)))
    result = invoke("fit", tmp_path / "stack.npy", "--out", tmp_path / "run")
    assert "stack.npy has three axes, so it is taken for 4 grey images of 5 × 6 pixels" in result.stderr
    Image.fromarray(np.full((30, 30), 7, np.uint8)).save(folder / "bb.png")
    result = invoke("fit", folder, "--out", tmp_path / "run", "--patch-size", 8)
    assert f"{folder}/bb.png is constant and cannot be whitened" in result.stderr


def test_too_many_patches_are_refused_with_how_many_fit(folder, tmp_path):
    result = invoke("fit", folder, "--out", tmp_path / "run", "--patch-size", 6, "--patches", 99_999_999_999_999)
    assert result.exit_code == 2
    found = re.search(r"patches of 6 × 6 pixels are too many: at most ([\d,]+) fit .*smaller --patches", result.stderr)
    assert found is not None
    assert int(found[1].replace(",", "")) < 10**12
    with pytest.raises(ValueError, match="smaller n="):
        large_images.cut([np.zeros((9, 9))], 4, 10**15, 0, whiten=False)


def test_a_model_of_a_table_says_what_it_is(folder, tmp_path):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(60, 5)))
    fitted = invoke("fit", tmp_path / "table.npy", "--out", tmp_path / "run", "--components", 3, "--max-iter", 2)
    assert fitted.exit_code == 0, fitted.output
    result = invoke("score", tmp_path / "run", folder / "a.png")
    assert result.exit_code == 2
    assert "a.png is taken for images, but the model was learned from a table with 5 columns" in result.stderr


def test_a_page_takes_the_place_of_no_image_that_is_read(folder, tmp_path):
    (folder / "photo.html").write_bytes((folder / "a.png").read_bytes())
    before = (folder / "photo.html").read_bytes()
    for images in (folder, folder / "photo.html"):
        result = invoke("denoise", images, "-o", tmp_path / "out", "--report", folder / "photo.html")
        assert result.exit_code == 2
        assert "photo.html is one of the files to read" in result.stderr
    assert (folder / "photo.html").read_bytes() == before
    assert not (tmp_path / "out").exists()
