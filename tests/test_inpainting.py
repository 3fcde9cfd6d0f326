"""Filling in pixels of photographs that are known to us, the first guess at them, and what cannot be filled in."""

import numpy as np
import pytest

from sparsentropy import SparseCoding, imaging
from sparsentropy.datasets import extract_patches, load_photographs
from sparsentropy.imaging.straight import straight
from sparsentropy.metrics import psnr

PHOTOGRAPHS = [255 * image for image in load_photographs()]
GREY = PHOTOGRAPHS[1][100:196, 200:300]
COLOUR = 255 * load_photographs(grey=False)[1][100:148, 200:260]
SMALL = GREY[:40, :48]


def scattered(image, share=0.5, seed=0):
    return np.random.default_rng(seed).random(image.shape[:2]) < share


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_missing_pixels_come_nearer_to_the_truth_than_straight_lines(image, share):
    mask = scattered(image, share)
    given = np.where(mask.reshape(*mask.shape, *[1] * (image.ndim - 2)), np.nan, image)
    filled, std = imaging.inpaint(given, mask, return_std=True)
    guess = straight(np.nan_to_num(given).reshape(*mask.shape, -1), mask).reshape(image.shape)
    assert psnr(image, filled, data_range=255) > psnr(image, guess, data_range=255) + 0.7
    np.testing.assert_array_equal(filled[~mask], image[~mask])
    assert std.shape == mask.shape
    np.testing.assert_array_equal(std[~mask], 0)
    error = np.abs(filled - image)[mask].reshape(mask.sum(), -1)
    assert 0.8 < (error < 1.645 * std[mask][:, None]).mean() < 0.96  # 90 % of a Gaussian


def test_a_wide_hole_is_filled_from_its_rim():
    waves = 128 + 60 * np.sin(np.arange(80) / 2)[None, :] * np.ones((80, 1))
    mask = np.zeros(waves.shape, bool)
    mask[25:55, 20:50] = True
    filled, std = imaging.inpaint(waves, mask, return_std=True)
    assert psnr(waves, filled, data_range=255) > 27
    depth = np.minimum.reduce([np.arange(30), np.arange(30)[::-1]])
    ring = np.minimum.outer(depth, depth)
    assert std[25:55, 20:50][ring == 0].mean() < std[25:55, 20:50][ring > 8].mean()


def test_known_pixels_stay_unless_they_are_noisy():
    random = np.random.default_rng(0)
    image = GREY[:64, :64]
    noisy = image + random.normal(scale=20, size=image.shape)
    mask = scattered(image, 0.3)
    kept = imaging.inpaint(noisy, mask)
    np.testing.assert_array_equal(kept[~mask], noisy[~mask])
    clean, std = imaging.inpaint(noisy, mask, sigma=20, return_std=True)
    assert psnr(image[~mask], clean[~mask], data_range=255) > psnr(image[~mask], noisy[~mask], data_range=255) + 4
    assert psnr(image[mask], clean[mask], data_range=255) > psnr(image[mask], kept[mask], data_range=255)
    assert (std > 0).all()


def test_the_noise_of_known_pixels_is_found_out_if_asked():
    random = np.random.default_rng(0)
    image = GREY[:64, :64]
    noisy, mask = image + random.normal(scale=20, size=image.shape), scattered(image, 0.3)
    found = imaging.inpaint(noisy, mask, sigma=None)
    np.testing.assert_array_equal(found, imaging.inpaint(noisy, mask, sigma=imaging.estimate_noise(noisy, mask)))
    assert psnr(image, found, data_range=255) > psnr(image, noisy, data_range=255) + 4


def test_a_model_of_other_images_can_be_used():
    rows = extract_patches(PHOTOGRAPHS[0], size=6, n=3000)
    model = SparseCoding(24, tol=0.1, random_state=0).fit(rows - rows.mean(1, keepdims=True))
    mask = scattered(GREY)
    guess = straight(GREY[:, :, None], mask)[:, :, 0]
    filled = imaging.inpaint(GREY, mask, model=model)
    assert psnr(GREY, filled, data_range=255) > psnr(GREY, guess, data_range=255) + 0.5
    with pytest.raises(ValueError, match="36 features, which are no square patch with 3 channels"):
        imaging.inpaint(COLOUR, scattered(COLOUR), model=model)


def test_a_model_of_colours_can_be_used():
    rows = extract_patches([load_photographs(grey=False)[0] * 255], size=4, n=2000)
    model = SparseCoding(40, tol=0.1, random_state=0).fit(rows - rows.mean(1, keepdims=True))
    mask = scattered(COLOUR)
    filled = imaging.inpaint(COLOUR, mask, model=model)
    assert psnr(COLOUR, filled, data_range=255) > psnr(COLOUR, straight(COLOUR, mask), data_range=255) + 0.2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_type_and_range_are_kept(dtype):
    scale = 200 if dtype == np.uint16 else 1
    given = (scale * np.rint(SMALL)).astype(dtype)
    filled = imaging.inpaint(given, scattered(SMALL))
    assert (filled.dtype, filled.shape) == (given.dtype, given.shape)
    assert float(np.abs(filled.astype(float) - given).max()) < 200 * scale  # nothing has wrapped around


def test_the_unit_of_the_image_does_not_matter():
    mask = scattered(SMALL)
    np.testing.assert_allclose(imaging.inpaint(SMALL / 256, mask), imaging.inpaint(SMALL, mask) / 256, rtol=1e-5)


def test_what_stands_in_missing_pixels_does_not_matter():
    mask = scattered(SMALL)
    expected = imaging.inpaint(SMALL, mask)
    for value in (np.nan, np.inf, 1e300):
        np.testing.assert_array_equal(imaging.inpaint(np.where(mask, value, SMALL), mask.astype(int)), expected)


def test_the_same_seed_gives_the_same_image():
    mask = scattered(SMALL)
    one, two = (imaging.inpaint(SMALL, mask, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("shape", [(1, 2), (5, 40), (8, 8), (3, 3, 3), (40, 1)])
def test_small_images_are_filled_too(shape):
    image = 10 * np.random.default_rng(0).normal(size=shape)
    mask = np.zeros(shape[:2], bool)
    mask[0, 0] = True
    filled = imaging.inpaint(image, mask)
    assert filled.shape == shape
    assert np.isfinite(filled).all()


@pytest.mark.parametrize("unit", [1e-165, 1e200])
def test_extreme_units_do_not_matter(unit):
    mask = scattered(SMALL)
    np.testing.assert_allclose(imaging.inpaint(unit * SMALL, mask) / unit, imaging.inpaint(SMALL, mask), rtol=1e-4)


@pytest.mark.parametrize("sigma", [1e-300, 1e-6, 1e-2])
def test_little_noise_moves_known_pixels_little(sigma):
    mask = scattered(SMALL, 0.2)
    filled, std = imaging.inpaint(SMALL, mask, sigma=sigma, return_std=True)
    np.testing.assert_allclose(filled[~mask], SMALL[~mask], rtol=0, atol=max(5 * sigma, 1e-10))
    assert float(std[~mask].max()) <= 2 * sigma


def test_what_is_flat_stays_flat():
    filled, std = imaging.inpaint(np.full((30, 30), 7.3), scattered(np.zeros((30, 30))), return_std=True)
    np.testing.assert_allclose(filled, 7.3, rtol=1e-12)
    np.testing.assert_array_equal(std, 0)


def test_without_gaps_nothing_changes():
    np.testing.assert_array_equal(imaging.inpaint(SMALL, np.zeros(SMALL.shape, bool)), SMALL)


def test_one_known_pixel_says_it_all():
    mask = np.ones((12, 12), bool)
    mask[3, 4] = False
    np.testing.assert_allclose(imaging.inpaint(np.full((12, 12), 5.0), mask), 5)


def test_progress_goes_from_nothing_to_all():
    told = []
    mask = scattered(SMALL)
    mask[10:35, 10:35] = True
    imaging.inpaint(SMALL, mask, callback=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)
    assert np.diff(told).max() < 0.2  # also while sweeps and passes last


@pytest.mark.parametrize(
    ("image", "mask", "kind", "message"),
    [
        (SMALL, np.ones(SMALL.shape, bool), ValueError, "every pixel is missing"),
        (SMALL, np.zeros((3, 3)), ValueError, "shape \\(rows, columns\\); got \\(3, 3\\)"),
        (COLOUR, np.zeros(COLOUR.shape), ValueError, "one value for every pixel"),
        (SMALL, np.full(SMALL.shape, "x"), TypeError, "mask must be boolean"),
        (np.where(scattered(SMALL), np.nan, SMALL), np.zeros(SMALL.shape), ValueError, "must be finite"),
        (np.zeros(30), np.zeros(30), ValueError, "shape"),
        (np.zeros((9, 9), complex), np.eye(9), TypeError, "complex128"),
        ([["a", "b"]], [[0, 1]], TypeError, "dtype"),
    ],
)
def test_what_cannot_be_filled_is_refused(image, mask, kind, message):
    with pytest.raises(kind, match=message):
        imaging.inpaint(image, mask)


@pytest.mark.parametrize("sigma", [-1.0, np.nan, np.inf, "auto"])
def test_a_noise_level_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number ≥ 0"):
        imaging.inpaint(SMALL, scattered(SMALL), sigma=sigma)


def test_the_first_guess_of_a_plane_is_the_plane(monkeypatch):
    monkeypatch.setattr("sparsentropy.imaging.straight.AT_ONCE", 1000)  # ten rows, in bands of their own
    plane = np.add.outer(np.arange(90.0), 3 * np.arange(100.0))[:, :, None]
    mask = scattered(plane, 0.7)
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    guess = straight(np.where(mask[:, :, None], 0, plane), mask)
    np.testing.assert_allclose(guess[8:-8, 8:-8], plane[8:-8, 8:-8], atol=1e-9)
    assert float(np.abs(guess - plane).max()) < 30  # at the rim what is nearest


def test_the_first_guess_is_the_nearest_pixel_where_there_is_no_triangle():
    line = np.arange(5.0)[None, :, None]
    mask = np.array([[False, True, True, False, True]])
    np.testing.assert_array_equal(straight(line, mask)[0, [0, 3, 4], 0], [0, 3, 3])
    assert straight(line, mask)[0, 1, 0] == 0
