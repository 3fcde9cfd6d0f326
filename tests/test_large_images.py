"""Images and patches that do not fit into memory give the patches that those give that do."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from sparsentropy import large_images, rows
from sparsentropy.datasets import images
from sparsentropy.preparation import Preparation
from test_cli import invoke


@pytest.fixture
def folder(tmp_path):
    """Photographs of several shapes: one that lies on its side, and two in one file."""
    draw = np.random.default_rng(0)

    def picture(height, width):
        smooth = draw.normal(size=(height, width, 3)).cumsum(0).cumsum(1)
        return Image.fromarray(np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth)))

    turned = picture(30, 50).getexif()
    turned[ExifTags.Base.Orientation] = 6
    (tmp_path / "more").mkdir()
    picture(40, 60).save(tmp_path / "a.png")
    picture(30, 50).save(tmp_path / "b.jpg", exif=turned)
    picture(33, 44).save(tmp_path / "more" / "c.tif", save_all=True, append_images=[picture(50, 31)])
    return tmp_path


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(rows, "MEMORY", 10_000)


def test_shapes_are_known_before_pixels_are_read(folder):
    found = large_images.Images.of(folder, grey=True)
    assert len(found) == 4
    assert found.shapes == tuple(image.shape for image in images.load_images(folder))
    assert found.shapes[1] == (50, 30)
    assert not found.large
    np.testing.assert_array_equal(found[1:][2], images.load_images(folder)[3])


STEPS = [
    {"whiten": "olshausen"},
    {"whiten": "none", "remove_mean": True},
    {"whiten": "none", "colour": True},
]


@pytest.mark.parametrize("n", [300, None])
@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_patches_are_those_of_images_in_memory(folder, steps, n, monkeypatch):
    preparation = Preparation(patch_size=6, **steps)
    wanted = preparation.rows(preparation.read(folder), n=n, seed=3)
    monkeypatch.setattr(rows, "MEMORY", 10_000)
    found = preparation.rows(preparation.read(folder), n=n, seed=3)
    assert isinstance(found, rows.AbstractSource)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.read(0, len(found)), wanted, rtol=1e-6, atol=1e-7)


def test_many_patches_of_few_images_stay_on_the_disk(monkeypatch):
    image = np.random.default_rng(0).normal(size=(50, 60))
    preparation = Preparation(patch_size=8, whiten="olshausen")
    wanted = preparation.rows([image], n=500)
    monkeypatch.setattr(rows, "MEMORY", 10_000)
    found = preparation.rows([image], n=500)
    np.testing.assert_allclose(found.read(0, 500), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("small_memory")
def test_what_cannot_be_cut_is_refused(folder):
    preparation = Preparation(patch_size=40, whiten="none")
    with pytest.raises(ValueError, match=r"smaller than a patch of 40 × 40"):
        preparation.rows(preparation.read(folder), n=50)
    Image.new("L", (60, 60), 7).save(folder / "z.png")
    preparation = Preparation(patch_size=6, whiten="olshausen")
    with pytest.raises(ValueError, match="constant and cannot be whitened"):
        preparation.rows(preparation.read(folder), n=50)


@pytest.mark.usefixtures("small_memory")
def test_the_command_line_learns_from_a_large_folder(folder, tmp_path):
    run = tmp_path / "run"
    done = invoke("fit", folder, "--out", run, "--components", 8, "--patch-size", 6, "--patches", 2000, "--max-iter", 2)
    assert done.exit_code == 0, done.output
    assert (run / "report.html").exists()
    assert invoke("score", run, folder / "a.png").exit_code == 0
