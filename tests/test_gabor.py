"""Gabor functions are found again in pictures of them, and nothing is found where there are none."""

import numpy as np
import pytest

from sparsentropy.gabor import fit_gabors

SIDE = 16


def gabor(*, f, degrees, across, along, row=7.5, column=7.5, phase=0.4):
    """A picture whose stripes have this orientation, anticlockwise from horizontal."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    # Up is towards smaller rows; u is at right angles to the stripes
    angle = np.radians(degrees)
    right, up = x - column, row - y
    along_stripes = right * np.cos(angle) + up * np.sin(angle)
    across_stripes = -right * np.sin(angle) + up * np.cos(angle)
    window = np.exp(-0.5 * (across_stripes / across) ** 2 - 0.5 * (along_stripes / along) ** 2)
    return (window * np.cos(2 * np.pi * f * across_stripes + phase)).ravel()


def drawn(n, seed=0):
    draw = np.random.default_rng(seed)
    return [
        {
            "f": draw.uniform(0.12, 0.35),
            "degrees": draw.uniform(0, 180),
            "across": draw.uniform(1.5, 2.5),
            "along": draw.uniform(2.0, 4.0),
            "row": draw.uniform(5, 10),
            "column": draw.uniform(5, 10),
            "phase": draw.uniform(0, 2 * np.pi),
        }
        for _ in range(n)
    ]


def test_the_numbers_of_gabor_functions_are_found_again():
    truth = drawn(30)
    fits = fit_gabors([7 * gabor(**values) for values in truth], (SIDE, SIDE))
    assert fits.explained.min() > 0.999
    for name, values in (("frequency", "f"), ("across", "across"), ("along", "along")):
        np.testing.assert_allclose(getattr(fits, name), [t[values] for t in truth], rtol=0.02)
    np.testing.assert_allclose(fits.row, [t["row"] for t in truth], atol=0.05)
    np.testing.assert_allclose(fits.column, [t["column"] for t in truth], atol=0.05)
    turned = np.array([t["degrees"] for t in truth]) - fits.orientation
    assert np.abs((turned + 90) % 180 - 90).max() < 1
    assert fits.local_and_oriented.all()


def test_noise_explains_less():
    truth = drawn(20, seed=1)
    clean = np.array([gabor(**values) for values in truth])
    clean /= np.linalg.norm(clean, axis=1, keepdims=True)
    noisy = clean + np.random.default_rng(2).normal(scale=0.5 / SIDE, size=clean.shape)  # a quarter of the squares
    fits = fit_gabors(noisy, (SIDE, SIDE))
    np.testing.assert_allclose(fits.explained, 1 / 1.25, atol=0.08)
    assert fits.local_and_oriented.mean() > 0.9


@pytest.mark.parametrize(
    ("what", "atoms"),
    [
        ("noise", np.random.default_rng(0).normal(size=(10, SIDE**2))),
        ("a round blob", gabor(f=0.0, degrees=0, across=2, along=2, phase=0)[None]),
        ("a grating without end", gabor(f=0.2, degrees=30, across=100, along=100)[None]),
        ("nothing", np.zeros((1, SIDE**2))),
    ],
)
def test_what_is_no_local_oriented_gabor_function_is_not_taken_for_one(what, atoms):
    assert not fit_gabors(atoms, (SIDE, SIDE)).local_and_oriented.any()


def test_a_bar_is_local_and_oriented():
    """Drawn out, if without side lobes."""
    fits = fit_gabors(gabor(f=0.0, degrees=0, across=1, along=4, phase=0)[None], (SIDE, SIDE))
    assert fits.local_and_oriented.all()


def test_a_bar_in_a_patch_that_is_not_square():
    y, x = np.mgrid[:8, :20]
    atom = np.exp(-0.5 * ((x - 13) / 1.5) ** 2 - 0.5 * ((y - 4) / 2.5) ** 2) * np.cos(2 * np.pi * 0.2 * (x - 13))
    fits = fit_gabors(atom.reshape(1, -1), (8, 20))
    assert fits.column == pytest.approx(13, abs=0.05)
    assert fits.row == pytest.approx(4, abs=0.05)
    assert fits.orientation == pytest.approx(90, abs=1)


@pytest.mark.parametrize("atoms", [np.zeros(16), np.zeros((2, 15)), np.full((1, 16), np.nan)])
def test_what_cannot_be_fitted_is_refused(atoms):
    with pytest.raises(ValueError, match="one atom of 4 × 4 pixels per row"):
        fit_gabors(atoms, (4, 4))


def test_no_atoms_have_no_fits():
    assert len(fit_gabors(np.zeros((0, 16)), (4, 4)).frequency) == 0
