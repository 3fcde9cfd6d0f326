"""Denoising of photographs whose noise is known, and everything around it by brute force."""

import numpy as np
import pytest

from sparsentropy import SparseCoding, imaging
from sparsentropy.datasets import extract_patches, load_photographs
from sparsentropy.imaging.cosines import cosines, fine_cosines
from sparsentropy.imaging.overlaps import Average, Grid
from sparsentropy.metrics import psnr

PHOTOGRAPHS = [255 * image for image in load_photographs()]
GREY = PHOTOGRAPHS[1][100:228, 200:360]
COLOUR = 255 * load_photographs(grey=False)[1][100:196, 200:300]


def noisy(image, sigma, seed=0):
    return image + np.random.default_rng(seed).normal(scale=sigma, size=image.shape)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_cosines_are_orthonormal_and_never_constant_in_a_channel(channels):
    basis = cosines(5, channels)
    np.testing.assert_allclose(basis @ basis.T, np.eye(24 * channels), atol=1e-12)
    np.testing.assert_allclose(basis.reshape(-1, 25, channels).sum(1), 0, atol=1e-12)


def test_fine_cosines_change_sign_between_most_neighbours():
    share = [(np.diff(np.sign(wave.reshape(8, 8)), axis=0) != 0).mean() for wave in fine_cosines(8, 0.1)]
    assert len(share) == 6
    assert min(share) > 0.7


@pytest.mark.parametrize(("shape", "stride"), [((8, 8, 1), 2), ((9, 17, 3), 2), ((30, 11, 2), 3), ((12, 12, 1), 8)])
def test_patches_cover_the_image_and_average_as_by_hand(shape, stride, monkeypatch):
    monkeypatch.setattr("sparsentropy.imaging.overlaps.BAND", 7)
    random = np.random.default_rng(0)
    grid, average, seen = Grid(shape, 8, stride), Average(Grid(shape, 8, stride)), 0
    total, weight = np.zeros(shape), np.zeros((*shape[:2], 1))
    for band in grid.bands():
        patches = random.normal(size=(len(band) * len(grid.columns), 64 * shape[2])).astype(np.float32)
        weights = random.random(len(patches)).astype(np.float32) + 0.1
        average.add(band, patches, weights)
        places = [(i, j) for i in band for j in grid.columns]
        for (i, j), patch, w in zip(places, patches, weights, strict=True):
            total[i : i + 8, j : j + 8] += w * patch.reshape(8, 8, -1)
            weight[i : i + 8, j : j + 8] += w
        seen += len(patches)
    assert seen == len(grid)
    np.testing.assert_allclose(average.image(), total / weight, rtol=1e-4, atol=1e-5)


def test_patches_are_windows_with_their_channels_last():
    image = np.random.default_rng(0).random((10, 12, 3)).astype(np.float32)
    grid = Grid(image.shape, 8, 2)
    band = next(grid.bands())
    np.testing.assert_array_equal(grid.patches(image, band)[5].reshape(8, 8, 3), image[2:10, 4:12])


@pytest.mark.parametrize("sigma", [10.0, 25.0, 50.0])
@pytest.mark.parametrize("image", [*PHOTOGRAPHS, COLOUR], ids=["temple", "flower", "colour"])
def test_noise_is_found(image, sigma):
    assert imaging.estimate_noise(noisy(image, sigma)) == pytest.approx(sigma, rel=0.03)


def test_noise_has_the_units_of_the_image():
    image = noisy(GREY, 20.0)
    assert imaging.estimate_noise(8 * image) == pytest.approx(8 * imaging.estimate_noise(image))
    eight_bit = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    assert imaging.estimate_noise(eight_bit) == pytest.approx(20, rel=0.05)


def test_an_image_without_noise_has_none():
    flat = np.kron(np.random.default_rng(0).integers(0, 255, (6, 6)), np.ones((20, 20), int))
    assert imaging.estimate_noise(np.full((40, 40), 7)) == 0
    assert imaging.estimate_noise(flat) == 0
    np.testing.assert_array_equal(imaging.denoise(flat), flat)


def test_overexposed_parts_are_not_taken_for_quiet_ones():
    image = noisy(GREY, 20.0)
    image[:40] = 255
    assert imaging.estimate_noise(np.clip(image, 0, 255)) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_an_image_gets_much_nearer_to_the_truth(image):
    given = noisy(image, 25.0)
    clean, sigma, std = imaging.denoise(given, return_sigma=True, return_std=True)
    assert psnr(image, clean, data_range=255) > psnr(image, given, data_range=255) + 6
    assert sigma == pytest.approx(25, rel=0.03)
    assert std.shape == image.shape[:2]
    error = np.abs(clean - image).reshape(*image.shape[:2], -1)
    assert 0.8 < (error < 1.645 * std[:, :, None]).mean() < 0.99  # 90 % of a Gaussian


def test_more_is_returned_only_when_asked_for():
    given = noisy(GREY[:48, :48], 25.0)
    alone = imaging.denoise(given, sigma=25)
    both = imaging.denoise(given, sigma=25, return_std=True)
    assert isinstance(alone, np.ndarray)
    assert len(both) == 2
    np.testing.assert_array_equal(alone, both[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_type_and_range_are_kept(dtype):
    scale = 200 if dtype == np.uint16 else 1
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    given = np.clip(np.rint(scale * noisy(GREY[:48, :64], 30.0)), max(0, limits.min), limits.max).astype(dtype)
    clean = imaging.denoise(given)
    assert (clean.dtype, clean.shape) == (given.dtype, given.shape)
    assert clean.std() < given.std()
    assert float(np.abs(clean.astype(float) - given).max()) < 200 * scale  # nothing has wrapped around


def test_the_unit_of_the_image_does_not_matter():
    given = noisy(GREY[:48, :64], 30.0)
    np.testing.assert_allclose(imaging.denoise(given / 256), imaging.denoise(given) / 256, rtol=1e-5)


def test_the_same_seed_gives_the_same_image():
    given = noisy(GREY[:64, :64], 30.0)
    np.testing.assert_array_equal(imaging.denoise(given, random_state=1), imaging.denoise(given, random_state=1))


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (8, 8), (3, 3, 3)])
def test_small_images_need_to_be_told_their_noise(shape):
    image = 10 * np.random.default_rng(0).normal(size=shape)
    clean = imaging.denoise(image, sigma=10)
    assert clean.shape == shape
    assert np.isfinite(clean).all()
    with pytest.raises(ValueError, match="too few to tell noise from signal; give the noise level as sigma="):
        imaging.denoise(image)


def test_a_model_of_other_images_can_be_used():
    rows = extract_patches(PHOTOGRAPHS[0], size=6, n=3000)
    model = SparseCoding(24, tol=0.1, random_state=0).fit(rows - rows.mean(1, keepdims=True))
    given = noisy(GREY, 25.0)
    clean = imaging.denoise(given, model=model)
    assert psnr(GREY, clean, data_range=255) > psnr(GREY, given, data_range=255) + 5
    with pytest.raises(ValueError, match="36 features, which are no square patch with 3 channels"):
        imaging.denoise(COLOUR, sigma=25, model=model)


def test_progress_goes_from_nothing_to_all():
    told = []
    imaging.denoise(noisy(GREY[:48, :48], 25.0), callback=told.append)
    assert told == sorted(told)
    assert told[0] > 0
    assert told[-1] == 1


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (np.full((30, 30), np.nan), ValueError, "must be finite"),
        (np.full((30, 30), np.inf), ValueError, "must be finite"),
        (np.zeros((0, 30)), ValueError, "must have shape"),
        (np.zeros(30), ValueError, "must have shape"),
        (np.zeros((2, 30, 30)), ValueError, "one image at a time"),
        (np.zeros((30, 30), complex), TypeError, "complex128"),
        (np.zeros((30, 30), bool), TypeError, "bool"),
        ([["a"]], TypeError, "dtype"),
    ],
)
@pytest.mark.parametrize("act", [imaging.denoise, imaging.estimate_noise])
def test_what_is_no_image_is_refused(act, image, kind, message):
    with pytest.raises(kind, match=message):
        act(image)


@pytest.mark.parametrize("sigma", [-1.0, np.nan, np.inf, "ten"])
def test_a_noise_level_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number ≥ 0"):
        imaging.denoise(GREY, sigma=sigma)
