import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from sparsentropy.datasets import (
    load_photographs,
    remove_patch_mean,
    whiten_images,
    whiten_olshausen,
    with_zero_means,
    without_row_means,
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [2, 3, 64])
def test_rows_without_their_means_keep_lengths_and_angles(d, dtype):
    X = (3 + np.random.default_rng(0).normal(size=(50, d))).astype(dtype)
    Y = without_row_means(X)
    assert Y.shape == (50, d - 1)
    assert Y.dtype == dtype
    centred = X - X.mean(axis=1, keepdims=True)
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(Y @ Y.T, centred @ centred.T, rtol=tolerance, atol=10 * tolerance)
    np.testing.assert_allclose(with_zero_means(Y), centred, atol=tolerance)


def test_their_coordinates_are_those_of_the_reflection():
    v = np.full(5, 5**-0.5) - np.eye(5)[0]
    reflection = np.eye(5) - 2 * np.outer(v, v) / (v @ v)
    np.testing.assert_allclose(reflection[0], 5**-0.5)
    X = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_allclose(without_row_means(X), X @ reflection[:, 1:])


def test_of_a_single_column_nothing_is_left():
    with pytest.raises(ValueError, match=r"X has 1 column, of which nothing is left.*keep the means"):
        without_row_means(np.ones((3, 1)))


def test_zca_says_by_how_much_it_changes_densities():
    X = correlated() + 7
    whitening = zca(X, epsilon=0.1)
    covariance = np.cov(X.T, bias=True) + 0.3 * np.eye(6)
    expected = multivariate_normal(X.mean(0), covariance).logpdf(X)
    white = multivariate_normal(np.zeros(6), whitening.matrix @ covariance @ whitening.matrix).logpdf(
        whitening.transform(X)
    )
    np.testing.assert_allclose(white + whitening.log_det, expected)


def test_without_variance_in_one_direction_the_density_is_that_of_the_others():
    X, _ = remove_patch_mean(correlated())
    assert zca(X).log_det == pytest.approx(zca(without_row_means(X)).log_det)
