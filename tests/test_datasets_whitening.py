import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsentropy.datasets import (
    load_photographs,
    remove_patch_mean,
    whiten_images,
    whiten_olshausen,
    zca,
)


def texture(rows=32, columns=40, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.mark.parametrize(("rows", "columns", "cutoff"), [(32, 40, 0.4), (31, 33, 0.2)])
def test_filter_is_the_formula(rows, columns, cutoff):
    image = texture(rows, columns)
    spectrum = np.fft.fft2(image)
    for k in range(rows):
        for m in range(columns):
            fy = (k if k <= rows // 2 else k - rows) / rows
            fx = (m if m <= columns // 2 else m - columns) / columns
            f = np.sqrt(fy**2 + fx**2)
            spectrum[k, m] *= f * np.exp(-((f / cutoff) ** 4))
    np.testing.assert_allclose(whiten_olshausen(image, cutoff=cutoff), np.fft.ifft2(spectrum).real, atol=1e-12)


def test_filter_is_linear_and_removes_the_mean():
    a, b = texture(seed=0), texture(seed=1)
    np.testing.assert_allclose(whiten_olshausen(2 * a - b), 2 * whiten_olshausen(a) - whiten_olshausen(b), atol=1e-12)
    assert abs(whiten_olshausen(a + 5).mean()) < 1e-12


def test_photographs_become_whiter():
    grey = load_photographs()[0]
    white = whiten_images([grey])[0]

    def neighbours(image):
        return np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]

    assert neighbours(grey) > 0.9
    assert neighbours(white) < 0.5


def test_images_share_one_scale():
    images = [texture(seed=0), 100 * texture(48, 20, seed=1) + 7, np.cumsum(texture(seed=2), axis=0)]
    white = whiten_images(images, variance=0.3)
    assert np.mean([image.var() for image in white]) == pytest.approx(0.3)
    standard = [whiten_olshausen((image - image.mean()) / image.std()) for image in images]
    ratios = [(w / s).mean() for w, s in zip(white, standard, strict=True)]
    np.testing.assert_allclose(ratios, ratios[0])


@given(factor=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_whitening_ignores_brightness_and_contrast(factor, shift):
    image = texture()
    np.testing.assert_allclose(whiten_images(factor * image + shift), whiten_images(image), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        ([texture(), np.ones((8, 8))], ValueError, r"images\[1\] is constant"),
        ([np.full((8, 8), np.nan)], ValueError, r"images\[0\] contains NaN or infinity"),
        ([np.zeros((8, 8, 3))], ValueError, r"images\[0\] must be grey"),
        ([np.full((8, 8), "x")], ValueError, "must hold real numbers"),
        ([np.full((8, 8), None)], ValueError, "must hold real numbers, got dtype object"),
        ([[[1, 2], [3]]], ValueError, "must be rectangular"),
        ([], ValueError, "images is empty"),
        (3, TypeError, "images must be an array or a list of arrays"),
        ("photo.png", TypeError, "use load_images"),
    ],
)
def test_bad_images(images, error, match):
    with pytest.raises(error, match=match):
        whiten_images(images)


def test_bad_filter_arguments():
    with pytest.raises(ValueError, match="image must be grey"):
        whiten_olshausen(np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match="cutoff must be a finite number > 0"):
        whiten_olshausen(texture(), cutoff=0)
    with pytest.raises(ValueError, match="variance must be a finite number > 0"):
        whiten_images(texture(), variance=-1)


def correlated(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def test_zca_makes_the_covariance_the_identity():
    X = correlated()
    white = zca(X).transform(X)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-10)


def test_zca_is_symmetric_and_invertible():
    X = correlated()
    whitening = zca(X)
    np.testing.assert_allclose(whitening.matrix, whitening.matrix.T)
    np.testing.assert_allclose(whitening.matrix @ whitening.inverse, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(whitening.inverse_transform(whitening.transform(X)), X, atol=1e-10)


def test_zca_changes_the_data_least_of_all_whitening_maps():
    X = correlated()
    whitening = zca(X)
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    centred, white = X - whitening.mean, whitening.transform(X)
    assert np.square(white - centred).sum() < np.square(white @ turn - centred).sum()


def test_zca_with_epsilon_shrinks_by_the_formula():
    X = correlated()
    variances = np.linalg.eigvalsh(np.cov(X.T, bias=True))
    white = zca(X, epsilon=0.5).transform(X)
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(white.T, bias=True)), variances / (variances + 0.5))


def test_zca_without_variance_in_one_direction():
    X, _ = remove_patch_mean(correlated())
    whitening = zca(X)
    projector = np.eye(6) - np.ones((6, 6)) / 6
    np.testing.assert_allclose(np.cov(whitening.transform(X).T, bias=True), projector, atol=1e-9)
    np.testing.assert_allclose(whitening.inverse_transform(whitening.transform(X)), X, atol=1e-9)


@pytest.mark.parametrize(
    ("X", "epsilon", "match"),
    [
        (np.ones((5, 2)), 0.0, "X is constant over its 5 rows"),
        (np.ones((1, 2)), 1.0, "X is constant over its 1 rows"),
        (np.ones(5), 0.0, r"X must have shape \(n, d\)"),
        (np.ones((0, 5)), 0.0, r"X must have shape \(n, d\)"),
        (np.array([[1.0, np.inf]]), 0.0, "X contains NaN or infinity"),
        (correlated(), -1.0, "epsilon must be a finite number >= 0"),
    ],
)
def test_bad_zca(X, epsilon, match):
    with pytest.raises(ValueError, match=match):
        zca(X, epsilon=epsilon)


def test_zca_of_other_width():
    with pytest.raises(ValueError, match="X has 5 columns, but the whitening was made for 6"):
        zca(correlated()).transform(np.zeros((2, 5)))


def test_patch_means_are_removed_and_restorable():
    X = correlated().astype(np.float32)
    patches, means = remove_patch_mean(X)
    assert patches.dtype == np.float32
    np.testing.assert_allclose(patches.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(patches + means[:, None], X, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="X must have shape"):
        remove_patch_mean(np.zeros(3))
