import importlib.util
from pathlib import Path

import numpy as np
import pytest

from sparsentropy.datasets import extract_patches, load_images, natural_patches

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "natural_patches.py"


def numbered(rows, columns, start=0):
    """Return an image in which every pixel has a number of its own."""
    return np.arange(start, start + rows * columns, dtype=float).reshape(rows, columns)


def test_random_patches_are_windows_of_the_images():
    images = [numbered(9, 12), numbered(20, 8, start=1000)]
    for row in extract_patches(images, size=(3, 5), n=200, dtype=np.float64):
        patch = row.reshape(3, 5)
        image = images[int(row[0] >= 1000)]
        y, x = np.argwhere(image == patch[0, 0])[0]
        np.testing.assert_array_equal(patch, image[y : y + 3, x : x + 5])


def test_random_patches_are_uniform_over_images_and_positions():
    images = [numbered(4, 5), numbered(40, 40, start=1000)]
    corners = extract_patches(images, size=3, n=60_000)[:, 0]
    small = corners[corners < 1000]
    assert len(small) / len(corners) == pytest.approx(0.5, abs=0.01)
    values, counts = np.unique(small, return_counts=True)
    np.testing.assert_array_equal(values, [0, 1, 2, 5, 6, 7])
    np.testing.assert_allclose(counts / counts.sum(), 1 / 6, atol=0.01)
    assert len(np.unique(corners[corners >= 1000])) == 38 * 38


def test_image_of_the_size_of_a_patch():
    image = numbered(4, 4)
    np.testing.assert_array_equal(extract_patches(image, size=4, n=3), np.tile(image.ravel(), (3, 1)))
    np.testing.assert_array_equal(extract_patches(image, size=4), image.reshape(1, -1))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_all_patches_in_reading_order(stride):
    images = [numbered(7, 6), numbered(5, 9, start=1000)]
    expected = [
        image[y : y + 3, x : x + 3].ravel()
        for image in images
        for y in range(0, image.shape[0] - 2, stride)
        for x in range(0, image.shape[1] - 2, stride)
    ]
    np.testing.assert_array_equal(extract_patches(images, size=3, stride=stride), expected)


@pytest.mark.parametrize("n", [None, 50])
def test_colour_patches_have_their_channels_last(n):
    image = np.stack([numbered(6, 7), numbered(6, 7, 100), numbered(6, 7, 200)], axis=-1)
    rows = extract_patches([image], size=(2, 3), n=n)
    assert rows.shape == (n or 25, 18)
    for row in rows:
        y, x = np.argwhere(image[:, :, 0] == row[0])[0]
        np.testing.assert_array_equal(row.reshape(2, 3, 3), image[y : y + 2, x : x + 3])


def test_three_dimensional_array_counts_grey_images():
    images = np.stack([numbered(5, 5), numbered(5, 5, 100)])
    np.testing.assert_array_equal(extract_patches(images, size=5), images.reshape(2, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float64"])
def test_dtype_and_layout(dtype):
    for n in (None, 4):
        patches = extract_patches(numbered(6, 6), size=3, n=n, dtype=dtype)
        assert patches.dtype == dtype
        assert patches.flags.c_contiguous
        assert patches.flags.writeable


def test_natural_patches():
    patches = natural_patches(2000, size=8)
    assert patches.shape == (2000, 64)
    assert patches.dtype == np.float32
    assert patches.var() == pytest.approx(0.1, rel=0.2)
    np.testing.assert_array_equal(patches, natural_patches(2000, size=8))
    assert not np.array_equal(patches, natural_patches(2000, size=8, seed=1))


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data is not part of the repository")
def test_natural_patches_reproduce_the_reference():
    spec = importlib.util.spec_from_file_location("reference", REFERENCE)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    # 8-bit values as they are: standardising a rescaled image would round differently in the last digit
    images = [255 * image for image in load_images(REFERENCE.parent / "bsd68")]
    np.testing.assert_allclose(
        natural_patches(500, images=images), reference.natural_patches(500), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("images", "arguments", "error", "match"),
    [
        (numbered(8, 20), {"size": 16}, ValueError, r"8 × 20 pixels, smaller than a patch of 16 × 16"),
        (
            [np.zeros((20, 20)), np.zeros((20, 20, 3))],
            {"size": 4},
            ValueError,
            "all be grey or all have the same number",
        ),
        (numbered(8, 8), {"size": 0}, ValueError, "size must be at least 1"),
        (numbered(8, 8), {"size": 2.0}, TypeError, "size must be a whole number"),
        (numbered(8, 8), {"size": (2, 3, 3)}, TypeError, "size must be a whole number"),
        (numbered(8, 8), {"size": 4, "n": 0}, ValueError, "n must be at least 1"),
        (numbered(8, 8), {"size": 4, "n": 3, "stride": 2}, ValueError, "stride is only used when n is None"),
        (numbered(8, 8), {"size": 4, "stride": 0}, ValueError, "stride must be at least 1"),
        (numbered(8, 8), {"size": 4, "dtype": int}, ValueError, "dtype must be float32 or float64"),
        (numbered(8, 8), {"size": 4, "n": 3, "seed": "x"}, ValueError, "seed must be"),
        (np.full((8, 8), np.nan), {"size": 4}, ValueError, r"images\[0\] contains NaN"),
        (np.zeros(8), {"size": 4}, ValueError, r"images\[0\] must be \(rows, columns\)"),
        ([np.zeros((0, 8))], {"size": 4}, ValueError, r"images\[0\] must be \(rows, columns\)"),
        ([], {"size": 4}, ValueError, "images is empty"),
    ],
)
def test_bad_arguments(images, arguments, error, match):
    with pytest.raises(error, match=match):
        extract_patches(images, **arguments)


def test_natural_patches_needs_a_number():
    with pytest.raises(TypeError, match="n must be a whole number"):
        natural_patches(None)
