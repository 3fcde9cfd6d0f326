"""From files to rows, before learning and after."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sparsentropy import datasets, preparation
from sparsentropy.preparation import Preparation


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.uniform(size=(24, 30)), rng.uniform(size=(20, 20))]


@pytest.fixture
def colour_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_images_are_whitened_before_they_are_cut(images):
    rows = Preparation(patch_size=6, whiten="olshausen").rows(images, n=50, seed=3)
    white = datasets.whiten_images(images)
    np.testing.assert_array_equal(rows, datasets.extract_patches(white, size=6, n=50, seed=3))


def test_new_images_are_cut_into_neighbouring_patches(images):
    rows = Preparation(patch_size=10).apply(images)
    assert rows.shape == (2 * 3 + 4, 100)
    np.testing.assert_allclose(rows[1].reshape(10, 10), images[0][:10, 10:20], rtol=1e-6)


def test_zca_is_found_once_and_used_again(images):
    unfinished = Preparation(patch_size=4, whiten="zca")
    rows = unfinished.rows(images, n=300)
    prepared = unfinished.fit(rows)
    assert prepared.zca is not None
    np.testing.assert_array_equal(prepared.apply(images), prepared.zca.transform(unfinished.rows(images)))


def test_means_are_removed_row_by_row():
    rows = Preparation(remove_mean=True).apply(np.array([[1.0, 3.0], [5.0, 5.0]]))
    assert rows.tolist() == [[-1, 1], [0, 0]]


def test_files_become_images_or_a_table(tmp_path, colour_file):
    assert [image.shape for image in Preparation().read(colour_file)] == [(20, 24)]
    assert [image.shape for image in Preparation(colour=True).read(tmp_path)] == [(20, 24, 3)]
    np.save(tmp_path / "table.npy", np.eye(3))
    np.testing.assert_array_equal(Preparation().read(tmp_path / "table.npy"), np.eye(3))


def test_stacks_are_counted_by_the_first_axis_and_in_matlab_by_the_last(tmp_path):
    np.save(tmp_path / "stack.npy", np.zeros((2, 5, 6)))
    savemat(tmp_path / "stack.mat", {"IMAGES": np.zeros((5, 6, 2))})
    for name in ("stack.npy", "stack.mat"):
        assert [image.shape for image in Preparation().read(tmp_path / name)] == [(5, 6), (5, 6)]


def test_the_shape_of_a_patch():
    prepared = Preparation(patch_size=4)
    assert prepared.patch_shape(16) == (4, 4)
    assert prepared.patch_shape(48) == (4, 4, 3)
    assert Preparation().patch_shape(16) is None
    with pytest.raises(ValueError, match=r"20 entries is not a patch of 4 × 4 pixels; expected 16 .* 48"):
        prepared.rows(np.ones((3, 20)))


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        (Preparation(), "the model was learned from a table; give a table of numbers"),
        (Preparation(patch_size=99), "smaller than a patch"),
        (Preparation(patch_size=4, colour=True, whiten="olshausen"), "needs grey images"),
    ],
)
def test_images_that_cannot_be_cut_are_refused_in_one_line(images, prepared, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        prepared.rows(images, n=10)


@pytest.mark.parametrize(
    "prepared",
    [
        Preparation(),
        Preparation(patch_size=8, colour=True, remove_mean=True),
        Preparation(whiten="zca").fit(np.random.default_rng(0).normal(size=(50, 3))),
    ],
)
def test_a_preparation_comes_back_as_it_was_saved(prepared, tmp_path):
    preparation.save(prepared, tmp_path / "preparation.safetensors")
    again = preparation.load(tmp_path / "preparation.safetensors")
    rows = np.random.default_rng(1).normal(size=(5, 192 if prepared.patch_size else 3))
    np.testing.assert_array_equal(again.apply(rows), prepared.apply(rows))
    assert (again.zca is None) == (prepared.zca is None)
