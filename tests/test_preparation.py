"""From files to rows, before learning and after."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sparsentropy import SparseCoding, datasets, preparation
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
    prepared = Preparation(remove_mean=True)
    rows = prepared.apply(np.array([[1.0, 3.0], [5.0, 5.0]]))
    np.testing.assert_allclose(prepared.restored(rows), [[-1, 1], [0, 0]], atol=1e-14)


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


def test_atoms_of_rows_without_their_mean_have_an_entry_for_every_pixel(images):
    prepared = Preparation(patch_size=4, remove_mean=True)
    rows = prepared.rows(images, n=300)
    assert rows.shape == (300, 15)
    given = Preparation(patch_size=4).rows(images, n=300)
    np.testing.assert_allclose(prepared.restored(rows), given - given.mean(axis=1, keepdims=True), atol=1e-6)
    assert prepared.patch_shape(prepared.restored(rows).shape[1]) == (4, 4)


def test_where_rows_lose_their_mean_more_atoms_are_no_better_without_end():
    """In all nine dimensions the noise fell to its floor: −19.2 nats with six atoms, −7.2 with nine."""
    draw = np.random.default_rng(0)
    X = draw.laplace(size=(1500, 4)) @ draw.normal(size=(4, 9)) + 0.5 * draw.normal(size=(1500, 9))
    rows = Preparation(remove_mean=True).apply(X)
    scores = [SparseCoding(h, random_state=0).fit(rows[:1000]).score(rows[1000:]) for h in (4, 6, 8)]
    covariance = rows.T @ rows / len(rows)
    # Of Gaussian rows; sparse ones have a little less
    entropy = np.linalg.slogdet(2 * np.pi * np.e * covariance)[1] / 2
    assert np.ptp(scores) < 1
    assert -entropy - 1 < max(scores) < -entropy + 2


@pytest.mark.parametrize(
    ("prepared", "space"),
    [
        (Preparation(), "the table"),
        (Preparation(remove_mean=True), "the table without the mean of each row"),
        (Preparation(patch_size=8, whiten="zca"), "image patches"),
        (Preparation(patch_size=8, whiten="olshausen"), "patches of images whitened by the filter of"),
    ],
)
def test_it_is_said_what_a_likelihood_is_of(prepared, space):
    assert prepared.space.startswith(space)
    assert prepared.log_det == 0


def test_columns_are_kept_with_the_steps(tmp_path):
    steps = Preparation(remove_mean=True, columns=("a", "b"))
    preparation.save(steps, tmp_path / "steps")
    assert preparation.load(tmp_path / "steps") == steps
