"""Denoising of photographs whose noise is known, its parts by brute force, and the files around it."""

import numpy as np
import pytest
from PIL import Image

from sparsentropy import SparseCoding, imaging
from sparsentropy.datasets import extract_patches, load_photographs
from sparsentropy.imaging import batch, files, ragged, views
from sparsentropy.imaging.cosines import cosines, fine_cosines
from sparsentropy.imaging.overlaps import Average, Grid
from sparsentropy.imaging.spread import Spread
from sparsentropy.metrics import psnr

PHOTOGRAPHS = [255 * image for image in load_photographs()]
GREY = PHOTOGRAPHS[1][100:228, 200:360]
IN_COLOUR = 255 * load_photographs(grey=False)[1]
COLOUR = IN_COLOUR[100:196, 200:300]


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


# Parts alone, so that tests are fast; the benchmark `denoising` measures whole photographs
SIGMAS = (10.0, 25.0, 50.0)
IMAGES = {
    "temple": PHOTOGRAPHS[0][:256, :384],
    "flower": PHOTOGRAPHS[1][:256, :384],
    "colour": IN_COLOUR[60:252, 160:416],
}
GONE = {0.05: 0.04, 0.5: 0.04, 0.8: 0.06}  # and the tolerance
# Each image with each noise, and each share with both
SQUARE = [(name, sigma, [*GONE][(i + j) % 3]) for i, name in enumerate(IMAGES) for j, sigma in enumerate(SIGMAS)]


@pytest.mark.parametrize(("name", "sigma"), [("temple", 10.0), ("flower", 50.0), ("colour", 25.0)])
def test_noise_is_found(name, sigma):
    assert imaging.estimate_noise(noisy(IMAGES[name], sigma)) == pytest.approx(sigma, rel=0.04)


@pytest.mark.parametrize(("name", "sigma", "gone"), SQUARE)
def test_noise_is_found_where_pixels_are_missing(name, sigma, gone):
    image = IMAGES[name]
    missing = np.random.default_rng(1).random(image.shape[:2]) < gone
    given = noisy(image, sigma)
    given[missing] = np.nan
    assert imaging.estimate_noise(given, missing) == pytest.approx(sigma, rel=GONE[gone])


def test_patches_without_a_gap_alone_tell_the_noise_where_there_are_enough():
    given = noisy(GREY, 20.0)
    missing = np.zeros(GREY.shape, bool)
    missing[30:36] = True
    rubbish = np.where(missing, 1e6, given)
    assert imaging.estimate_noise(rubbish, missing) == pytest.approx(20, rel=0.03)
    assert imaging.estimate_noise(given, np.zeros_like(missing)) == imaging.estimate_noise(given)


def test_what_smooth_cosines_leave_of_a_patch_is_what_least_squares_leaves():
    random = np.random.default_rng(0)
    patches, known = random.normal(size=(40, 36)), random.random((40, 36)) < 0.6
    energy, degrees = ragged.roughness(patches, known, 6)
    order, basis = ragged._smoothest_first(6), []
    for x, seen in zip(patches, known, strict=True):
        fitted = max(n * (n + 1) // 2 for n in range(8) if n * (n + 1) // 2 <= seen.sum() / 2)
        _, rest, *_ = np.linalg.lstsq(order[seen, :fitted], x[seen], rcond=None)
        basis.append((float(rest[0]) / (seen.sum() - fitted), int(seen.sum() - fitted)))
    assert np.allclose(sorted(zip(energy, degrees, strict=True)), sorted(basis))
    assert np.allclose(order.T @ order, np.eye(36))
    assert order[:, 1:3].std(0).min() > 0.1 > order[:, 0].std()


def test_too_few_known_pixels_do_not_tell_the_noise():
    missing = np.ones(GREY.shape, bool)
    missing[::24, ::24] = False
    with pytest.raises(ValueError, match="too few pixels are known to tell noise from signal"):
        imaging.estimate_noise(GREY, missing)


def test_noise_has_the_units_of_the_image():
    image = noisy(GREY, 20.0)
    assert imaging.estimate_noise(8 * image) == pytest.approx(8 * imaging.estimate_noise(image))
    eight_bit = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    assert imaging.estimate_noise(eight_bit) == pytest.approx(20, rel=0.05)


TINY = noisy(GREY[:32, :40], 20.0)


@pytest.mark.parametrize("unit", [2.0**-1000, 1e-165, 1e200, -1.0])
def test_noise_grows_with_the_unit_of_the_image_however_far(unit):
    assert imaging.estimate_noise(unit * TINY) / abs(unit) == pytest.approx(imaging.estimate_noise(TINY), rel=1e-9)


def test_images_in_extreme_units_are_denoised_and_shown():
    expected, std = imaging.denoise(TINY, return_std=True)
    for unit in (1e-165, 1e200):
        clean, own = imaging.denoise(unit * TINY, return_std=True)
        np.testing.assert_allclose(clean / unit, expected, rtol=1e-4)
        np.testing.assert_allclose(own / unit, std, rtol=1e-2)
        assert len(views.before_and_after(unit * TINY, clean, own, taken_out=True)) == 6


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_image_has_more_noise_than_it_varies(size):
    board = 255 * np.kron(np.indices((24, 24)).sum(0) % 2, np.ones((size, size)))
    assert 0 < imaging.estimate_noise(board) <= board.std() + 1e-9


@pytest.mark.parametrize("level", [1e6, 1e9])
def test_a_large_offset_does_not_matter(level):
    clean = imaging.denoise(TINY + level, sigma=20)
    np.testing.assert_allclose(clean - level, imaging.denoise(TINY, sigma=20), atol=0.5)


@pytest.mark.parametrize("sigma", [5e-324, 1e-9, 1e-4, 1e300])
def test_no_noise_level_does_harm(sigma):
    clean, std = imaging.denoise(TINY, sigma=sigma, return_std=True)
    assert np.isfinite(clean).all()
    assert np.isfinite(std).all()
    if sigma < 1:
        np.testing.assert_allclose(clean, TINY, rtol=0, atol=10 * sigma)


def test_grey_stored_as_three_equal_colours_is_grey():
    grey = np.clip(np.rint(TINY), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(imaging.denoise(np.dstack([grey] * 3)), np.dstack([imaging.denoise(grey)] * 3))


def test_the_largest_whole_numbers_stay_what_they_are():
    flat = np.full((30, 30), 2**64 - 1, np.uint64)
    assert imaging.denoise(flat).dtype == np.uint64
    assert int(imaging.denoise(flat).min()) > 2**63


def test_an_image_without_noise_has_none():
    flat = np.kron(np.random.default_rng(0).integers(0, 255, (6, 6)), np.ones((20, 20), int))
    assert imaging.estimate_noise(np.full((40, 40), 7)) == 0
    assert imaging.estimate_noise(flat) == 0
    np.testing.assert_array_equal(imaging.denoise(flat), flat)


def test_overexposed_parts_are_not_taken_for_quiet_ones():
    image = noisy(GREY, 20.0)
    image[:40] = 255
    assert imaging.estimate_noise(np.clip(image, 0, 255)) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("image", [GREY[:96, :112], COLOUR[:64, :72]], ids=["grey", "colour"])
def test_an_image_gets_much_nearer_to_the_truth(image):
    given = noisy(image, 25.0)
    clean, sigma, std = imaging.denoise(given, return_sigma=True, return_std=True)
    assert psnr(image, clean, data_range=255) > psnr(image, given, data_range=255) + 6
    assert sigma == pytest.approx(25, rel=0.04)
    assert std.shape == image.shape[:2]
    error = np.abs(clean - image).reshape(*image.shape[:2], -1)
    assert 0.8 < (error < 1.645 * std[:, :, None]).mean() < 0.95  # 90 % of a Gaussian


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
    rows = extract_patches(PHOTOGRAPHS[0], size=6, n=2000)
    model = SparseCoding(24, tol=0.5, random_state=0).fit(rows - rows.mean(1, keepdims=True))
    image = GREY[:96, :112]
    given = noisy(image, 25.0)
    clean = imaging.denoise(given, model=model)
    assert psnr(image, clean, data_range=255) > psnr(image, given, data_range=255) + 5
    with pytest.raises(ValueError, match="36 features, which are no square patch with 3 channels"):
        imaging.denoise(COLOUR, sigma=25, model=model)


def test_progress_goes_from_nothing_to_all():
    told = []
    imaging.denoise(noisy(GREY[:48, :48], 25.0), callback=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)


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


PICTURES = {
    "8.png": np.uint8,
    "16.png": np.uint16,
    "8.tif": np.uint8,
    "16.tif": np.uint16,
    "float.tif": np.float32,
    "8.bmp": np.uint8,
    "8.npy": np.uint8,
}
each_picture = pytest.mark.parametrize(("name", "dtype"), PICTURES.items(), ids=PICTURES)


def pixels_of(dtype, shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype) * (257 if dtype == np.uint16 else 1)


@each_picture
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)], ids=["grey", "colour"])
def test_files_keep_every_pixel(tmp_path, name, dtype, shape):
    pixels = pixels_of(dtype, shape)
    files.write(tmp_path / name, files.Picture(pixels))
    found = files.read(tmp_path / name)
    assert found.pixels.dtype == dtype
    assert found.alpha is None
    np.testing.assert_array_equal(found.pixels, pixels)


@pytest.mark.parametrize(("name", "dtype"), [("8.png", np.uint8), ("16.png", np.uint16), ("16.tif", np.uint16)])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)], ids=["grey", "colour"])
def test_transparency_is_kept_apart(tmp_path, name, dtype, shape):
    picture = files.Picture(pixels_of(dtype, shape), pixels_of(dtype, shape[:2]))
    files.write(tmp_path / name, picture)
    found = files.read(tmp_path / name)
    np.testing.assert_array_equal(found.pixels, picture.pixels)
    np.testing.assert_array_equal(found.alpha, picture.alpha)


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_jpeg_files_are_nearly_the_same(tmp_path, image):
    pixels = np.rint(image[:64, :64]).clip(0, 255).astype(np.uint8)
    files.write(tmp_path / "photo.jpg", files.Picture(pixels))
    assert psnr(pixels.astype(float), files.read(tmp_path / "photo.jpg").pixels.astype(float), data_range=255) > 38


def test_what_a_file_cannot_hold_is_refused_beforehand(tmp_path):
    deep = files.Picture(pixels_of(np.uint16, (7, 5)))
    with pytest.raises(
        ValueError,
        match=r"cannot hold uint16 pixels; give a name that ends in .npy, .pgm, .png, .pnm, .ppm, .tif, .tiff",
    ):
        files.check_writable(tmp_path / "photo.jpg", deep)
    with pytest.raises(ValueError, match="cannot hold float32"):
        files.check_writable(tmp_path / "photo.png", files.Picture(np.zeros((7, 5), np.float32)))
    with pytest.raises(FileNotFoundError, match="make it first"):
        files.check_writable(tmp_path / "nowhere" / "photo.png", deep)


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "photo.npy", "photo.jpg"])
def test_damaged_files_are_named(tmp_path, name):
    files.write(tmp_path / name, files.Picture(pixels_of(np.uint8, (40, 40))))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image"):
        files.read(tmp_path / name)


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(pixels_of(np.uint8, (9, 9)) // k) for k in (1, 2)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="several frames"):
        files.read(tmp_path / "film.gif")


def test_jobs_settle_where_results_go(tmp_path):
    for name in ("a.png", "in/b.png", "in/deep/c.png", "other/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(tmp_path / name, files.Picture(pixels_of(np.uint8, (9, 9))))
    (only,) = batch.jobs([tmp_path / "a.png"], tmp_path / "clean.png")
    assert only.target == tmp_path / "clean.png"
    (only,) = batch.jobs([tmp_path / "a.png"], tmp_path / "out")
    assert only.target == tmp_path / "out" / "a.png"
    found = batch.jobs([tmp_path / "a.png", tmp_path / "in"], tmp_path / "out")
    assert [str(job.target.relative_to(tmp_path / "out")) for job in found] == ["a.png", "b.png", "deep/c.png"]
    with pytest.raises(ValueError, match="two results would be written"):
        batch.jobs([tmp_path / "in", tmp_path / "other"], tmp_path / "out")
    with pytest.raises(ValueError, match="is one of the images to read"):
        batch.jobs([tmp_path / "in"], tmp_path / "in")
    with pytest.raises(NotADirectoryError, match="give a folder"):
        batch.jobs([tmp_path / "in", tmp_path / "a.png"], tmp_path / "a.png")


def test_the_detail_is_where_most_is_to_be_seen():
    image = np.zeros((400, 500))
    image[200:300, 300:420] = np.random.default_rng(0).normal(size=(100, 120))
    rows, columns = views._busiest(image)
    assert rows.start <= 208
    assert rows.stop >= 292
    assert columns.start <= 308
    assert columns.stop >= 412


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_that_expect_their_own_error_say_that_of_their_average(channels, monkeypatch):
    monkeypatch.setattr("sparsentropy.imaging.spread.LEAST", 0.0)
    random = np.random.default_rng(0)
    truth = random.normal(size=(13, 17, channels)).astype(np.float32)
    grid = Grid(truth.shape, 6, 2)
    average, spread = Average(grid), Spread(grid, 0.9 * truth)
    for band in grid.bands():
        here = grid.patches(truth, band)
        patches = here + random.normal(size=here.shape).astype(np.float32)
        error = np.square(patches - here).reshape(len(here), 36, channels).mean(2)
        weight = random.random((len(here), 36)).astype(np.float32)
        average.add(band, patches, weight)
        spread.add(band, patches, error, weight)
    mean = average.image()
    np.testing.assert_allclose(spread.variance(mean), np.square(mean - truth).mean(2), rtol=1e-3, atol=1e-5)
