"""What the pictures show, read back from the axes."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from sparsentropy import plotting


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_nothing_touches_pyplot():
    code = "import sys, sparsentropy.plotting; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


ATOMS = np.random.default_rng(0).normal(size=(7, 48))
CODES = np.random.default_rng(1).laplace(size=(50, 7))
GRID = [[0.0, 1.0], [np.nan, 20.0]]
DRAWINGS = {
    "dictionary": lambda ax: plotting.dictionary(ATOMS, ax, patch_shape=(6, 8)),
    "dictionary colour": lambda ax: plotting.dictionary(ATOMS, ax, patch_shape=(4, 4, 3)),
    "lower_bound": lambda ax: plotting.lower_bound([1.0, 2.0, 2.5], ax),
    "lower_bound one sweep": lambda ax: plotting.lower_bound([1.0], ax),
    "lower_bound held out": lambda ax: plotting.lower_bound([1.0, 2.0], ax, held_out=[0.9, 1.8]),
    "lower_bound constant": lambda ax: plotting.lower_bound([2.0, 2.0], ax, held_out=2.0),
    "noise": lambda ax: plotting.noise([0.3, 0.2], ax),
    "noise zero": lambda ax: plotting.noise([0.0], ax),
    "prior_scales": lambda ax: plotting.prior_scales([0.1, 0.4, 0.2], ax),
    "prior_scales equal": lambda ax: plotting.prior_scales([0.1, 0.1], ax),
    "prior_scales unused": lambda ax: plotting.prior_scales([0.1, 1e-12, 0.0], ax),
    "prior_scales none": lambda ax: plotting.prior_scales([0.0], ax),
    "sparsity": lambda ax: plotting.sparsity(CODES, ax),
    "sparsity zero": lambda ax: plotting.sparsity(np.zeros((5, 2)), ax, prior_scale=[0.0, 1.0]),
    "prior_scales many": lambda ax: plotting.prior_scales(np.linspace(0.1, 1, 500), ax),
    "examples": lambda ax: plotting.examples(ATOMS, ATOMS, 0 * ATOMS, (6, 8), ax),
    "profiles": lambda ax: plotting.profiles(ATOMS, ATOMS, ax),
    "profiles constant": lambda ax: plotting.profiles(np.ones((2, 3)), np.ones((2, 3)), ax),
    "atom_profile": lambda ax: plotting.atom_profile(ATOMS, ax),
    "against, straight": lambda ax: plotting.against({"a": ([1], [2])}, ax, xlabel="x", ylabel="y", log_y=False),
    "clouds": lambda ax: plotting.clouds({"a": ([1, 2], [3, 4])}, ax, xlabel="x", ylabel="y"),
    "by_row": lambda ax: plotting.by_row({"a": [1, 2], "b": [3]}, ax, xlabel="x"),
    "against": lambda ax: plotting.against({"gap": ([0, 1, 5], [0.1, 0.01, 0.0])}, ax, xlabel="steps", ylabel="nats"),
    "atom_profile zero": lambda ax: plotting.atom_profile(0 * ATOMS, ax),
    "heat_map": lambda ax: plotting.heat_map(GRID, [0.1, 0.2], ["a", "b"], ax, xlabel="x", ylabel="y"),
    "heat_map ratio": lambda ax: plotting.heat_map(GRID, ["a", "b"], [1, 2], ax, xlabel="x", ylabel="y", scale="ratio"),
    "intervals": lambda ax: plotting.intervals("ab", {"x": np.ones((2, 3))}, ax, xlabel="x", ylabel="y"),
    "runs_by_sweep": lambda ax: plotting.runs_by_sweep({"a": [[1, 2]], "b": [[3]]}, ax, ylabel="y", level="truth"),
    "runs_by_sweep none": lambda ax: plotting.runs_by_sweep({"a": [], "b": []}, ax, ylabel="y", level="truth"),
    "by_ratio": lambda ax: plotting.by_ratio([1e-3, 1, 20], {"a": [1, np.nan, 0]}, ax, xlabel="x", ylabel="y"),
    "by_ratio zero": lambda ax: plotting.by_ratio([1], {"a": [0], "b": [0]}, ax, xlabel="x", ylabel="y", level=1),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS.keys())
def test_every_picture_gives_its_axes_back_and_becomes_the_same_valid_svg_each_time(draw, ax):
    assert draw(ax) is ax
    first, second = plotting.to_svg(draw), plotting.to_svg(draw)
    assert first == second
    assert ET.fromstring(first).tag.endswith("svg")


def test_dictionary_is_in_the_given_order_on_a_scale_of_its_own_with_zero_in_the_middle(ax):
    atoms = np.zeros((3, 4))
    atoms[0] = [1, -1, 0.5, 0]
    atoms[1] = [0.01, 0, 0, 0]
    plotting.dictionary(atoms, ax, patch_shape=(2, 2), order=[1, 0, 2], columns=3)
    picture = np.asarray(ax.images[0].get_array())
    assert picture.shape == (2, 8, 4)
    assert picture[:, 0:2, 0].tolist() == [[255, 128], [128, 128]]
    assert picture[:, 3:5, 0].tolist() == [[255, 0], [191, 128]]
    assert picture[:, 6:8, 0].tolist() == [[128, 128], [128, 128]]
    assert picture[0, :, 3].tolist() == [255, 255, 0, 255, 255, 0, 255, 255]


def test_dictionary_fills_rows_and_leaves_the_rest_transparent(ax):
    plotting.dictionary(np.eye(4), ax, patch_shape=(2, 2), columns=3)
    picture = np.asarray(ax.images[0].get_array())
    assert picture.shape == (5, 8, 4)
    assert picture[3:, 3:, 3].max() == 0


def test_colour_patches_keep_their_channels(ax):
    atom = np.zeros((1, 2, 2, 3))
    atom[0, 0, 0, 2] = -1
    plotting.dictionary(atom.reshape(1, -1), ax, patch_shape=(2, 2, 3))
    assert np.asarray(ax.images[0].get_array())[0, 0].tolist() == [128, 128, 0, 255]


def test_lower_bound_names_the_last_value_of_both_curves(ax):
    plotting.lower_bound([10.0, 50.0, 53.864], ax, held_out=53.1)
    assert texts(ax) == ["held out 53.1", "training 53.86"]
    assert ax.get_xlabel() == "sweep"


def test_a_single_held_out_value_stands_at_the_last_sweep(ax):
    plotting.lower_bound([1.0, 2.0, 3.0], ax, held_out=2.5)
    assert ax.lines[-1].get_xydata().tolist() == [[3.0, 2.5]]


def test_noise_starts_at_zero(ax):
    plotting.noise([0.3, 0.2], ax)
    assert ax.get_ylim()[0] == 0
    assert texts(ax) == ["at the end 0.2"]


@pytest.mark.parametrize("scales", [[0.1, 0.11], [1e-7, 0.3], [3e-5, 2e-5], [4e6, 2e3]])
def test_logarithmic_axes_end_at_round_numbers_and_carry_few(scales, ax):
    plotting.prior_scales(scales, ax)
    low, high = ax.get_ylim()
    assert low < min(scales)
    assert high > max(scales)
    ticks = [tick for tick in ax.get_yticks() if low * 0.999 <= tick <= high * 1.001]
    assert 2 <= len(ticks) <= 10


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (1.0, "1"), (1e-6, "10⁻⁶"), (2e-5, "2·10⁻⁵"), (1e5, "10⁵")]
)
def test_numbers_beside_logarithmic_axes_are_plain_text(value, text):
    assert plotting.style.decimal(value) == text


def test_curves_against_numbers_of_their_own_are_drawn_where_they_belong(ax):
    slow, fast = ([1.0, 20.0, 300.0], [1.0, 0.1, 0.01]), ([0.5, 2.0], [2.0, 1e-5])
    plotting.against({"slow": slow, "fast": fast}, ax, xlabel="time (µs)", ylabel="gap (nats)", log_x=True)
    assert [line.get_xydata().T.tolist() for line in ax.lines] == [list(slow), list(fast)]
    assert [line.get_color() for line in ax.lines] == [plotting.INK, plotting.ACCENT]
    assert texts(ax) == ["slow", "fast"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert all("$" not in label.get_text() for label in ax.get_xticklabels())


def test_sparsity_of_laplace_codes_follows_the_laplace_density(ax):
    scale = np.array([0.1, 3.0])
    codes = np.random.default_rng(0).laplace(size=(20_000, 2)) * scale
    plotting.sparsity(codes, ax, prior_scale=scale)
    values, edges, _ = ax.patches[0].get_data()
    centres = (edges[1:] + edges[:-1]) / 2
    near = np.abs(centres) < 3
    np.testing.assert_allclose(values[near], 0.5 * np.exp(-np.abs(centres[near])), rtol=0.15)


def test_examples_share_one_scale_per_column_and_put_the_residual_about_grey(ax):
    original = np.array([[1.0, -1.0, 0.5, 0.0], [0.01, 0.0, 0.0, -0.005]])
    plotting.examples(original, original, 0.5 * original, (2, 2), ax)
    picture = np.asarray(ax.images[0].get_array())[..., 0]
    assert picture[0:2, 0:2].tolist() == [[255, 0], [191, 128]]
    assert picture[6:8, 0:2].tolist() == [[191, 64], [159, 128]]
    assert picture[0:2, 3:5].tolist() == [[255, 128], [128, 64]]


def test_examples_of_brightness_use_the_whole_range_and_keep_residuals_about_grey(ax):
    original = np.array([[0.5, 0.75, 0.625, 0.625]])
    plotting.examples(original, original, 0 * original, (2, 2), ax)
    picture = np.asarray(ax.images[0].get_array())[..., 0]
    assert picture[0:2].tolist() == [[0, 255], [128, 128]]
    assert set(picture[6:8].ravel()) == {128}


def test_more_features_than_there_is_room_for_keep_their_peaks(ax):
    atoms = np.zeros((2, 5000))
    atoms[0, 1234], atoms[1, 4321] = 1.0, -2.0
    plotting.atom_profile(atoms, ax)
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (2, 600)
    assert shown[0].max() == 1
    assert shown[1].min() == -2
    plotting.profiles(atoms, atoms, Figure().subplots())


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["age", "height"], ["age", "height"]),
        (["$a_1$", "n" * 50], ["$a_1$", "n" * 15 + "…"]),
        (["尺\x1b", "<b>"], ["尺\N{REPLACEMENT CHARACTER}", "&lt;b&gt;"]),
    ],
)
def test_features_have_names(names, shown):
    for draw in (
        lambda ax: plotting.profiles(np.eye(2), np.eye(2), ax, names),
        lambda ax: plotting.atom_profile(np.eye(2), ax, feature_names=names),
    ):
        svg = plotting.to_svg(draw)
        assert all(f">{name}</text>" in svg for name in shown)
    crowd = plotting.to_svg(lambda ax: plotting.profiles(np.ones((1, 90)), np.ones((1, 90)), ax, ["age"] * 90))
    assert ">age<" not in crowd


@pytest.mark.parametrize("unit", [1e-140, 1.0, 1e140])
def test_profiles_of_flat_rows_have_a_height(unit, ax):
    plotting.profiles(np.full((2, 1), 3 * unit), np.full((2, 1), 4.5 * unit), ax)
    assert [float(line.get_ydata()[0]) for line in ax.lines] == pytest.approx([0, 0.5, -1.1, -0.6])


def test_profiles_have_gaps_where_values_are_missing(ax):
    data = np.array([[0.0, np.nan, 2.0], [1.0, 0.0, np.nan]])
    plotting.profiles(data, np.nan_to_num(data), ax)
    drawn = np.array([line.get_ydata() for line in ax.lines])
    assert np.isnan(drawn).tolist() == [[False, True, False], [False] * 3, [False, False, True], [False] * 3]
    np.testing.assert_allclose(drawn[0][[0, 2]], [-0.5, 0.5])


def test_four_curves_can_be_told_apart_and_long_ones_have_no_dots(ax):
    few, many = ([1, 2], [1.0, 0.5]), (np.arange(1, 101), np.geomspace(1, 0.1, 100))
    plotting.against({"a": few, "b": few, "c": many, "d": many}, ax, xlabel="seconds", ylabel="nats")
    colors = [line.get_color() for line in ax.lines]
    assert len(set(colors)) == 4
    assert colors[-1] == plotting.ACCENT
    assert [(text.get_text(), text.get_color()) for text in ax.texts] == list(zip("abcd", colors, strict=True))
    assert [line.get_marker() for line in ax.lines] == ["o", "o", "", ""]


def test_heat_map_has_a_number_in_every_cell_that_can_be_read_on_its_colour(ax):
    plotting.heat_map([[0.9, 0.05], [np.nan, 1]], ["few", "many"], [0.5, 2], ax, xlabel="λ", ylabel="σ")
    assert texts(ax) == ["0.9", "0.05", "", "1"]
    assert [text.get_color() for text in ax.texts[:2]] == ["white", plotting.INK]
    assert [text.get_position() for text in ax.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert np.asarray(ax.images[0].get_array())[1, 0].tolist() == [0, 0, 0, 0]
    assert [label.get_text() for label in (*ax.get_yticklabels(), *ax.get_xticklabels())] == ["few", "many", "0.5", "2"]


def test_heat_map_of_ratios_is_white_at_one_and_as_deep_at_a_half_as_at_two(ax):
    plotting.heat_map([[0.5, 1, 2, 0.001, 40]], [1], list("abcde"), ax, xlabel="", ylabel="", scale="ratio")
    assert texts(ax) == ["0.50", "1.00", "2.00", "<0.01", "40"]
    half, one, two, low, high = np.asarray(ax.images[0].get_array())[0, :, :3]
    assert one.min() > 0.99  # of 256 colours none is quite in the middle
    assert low.tolist() == half.tolist() != two.tolist() == high.tolist()


def test_intervals_stand_side_by_side_and_reach_from_end_to_end(ax):
    shares = {"first": [[0.5, 0.2, 0.8]], "second": [[1.0, 0.7, 1.0]]}
    plotting.intervals(["here"], shares, ax, xlabel="", ylabel="share")
    (first,), (second,) = (lines.get_segments() for lines in ax.collections)
    assert (first[:, 1].tolist(), second[:, 1].tolist()) == ([0.2, 0.8], [0.7, 1.0])
    assert first[0, 0] < 0 < second[0, 0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5], [1.0]]


def test_runs_are_counted_by_kind_and_begin_at_the_first_sweep(ax):
    plotting.runs_by_sweep({"found": [[-1.0, 0.5], [0.1]], "missed": [[-2.0]]}, ax, ylabel="nats", level="truth")
    assert texts(ax) == ["truth", "found: 2", "missed: 1"]
    assert [line.get_xydata().tolist() for line in ax.lines[1:]] == [[[1, -1], [2, 0.5]], [[1, 0.1]], [[1, -2]]]


def test_numbers_by_ratio_show_what_they_should_be(ax):
    plotting.by_ratio([0.1, 10], {"a": [1.2, 0.5]}, ax, xlabel="σ/λ", ylabel="λ̂/λ", level=1.0)
    assert set(ax.lines[0].get_ydata()) == {1.0}
    assert ax.lines[1].get_xydata().tolist() == [[0.1, 1.2], [10, 0.5]]


BAD = {
    "atoms are a matrix": lambda ax: plotting.dictionary(np.ones(4), ax, patch_shape=(2, 2)),
    "patch shape fits": lambda ax: plotting.dictionary(np.ones((2, 5)), ax, patch_shape=(2, 2)),
    "three channels": lambda ax: plotting.dictionary(np.ones((2, 8)), ax, patch_shape=(2, 2, 2)),
    "some sweeps": lambda ax: plotting.lower_bound([], ax),
    "scales are a list": lambda ax: plotting.prior_scales(np.ones((2, 2)), ax),
    "one scale a column": lambda ax: plotting.sparsity(np.ones((2, 2)), ax, prior_scale=[1.0, 1.0, 1.0]),
    "equal shapes": lambda ax: plotting.examples(np.ones((2, 4)), np.ones((2, 4)), np.ones((1, 4)), (2, 2), ax),
    "one place a value": lambda ax: plotting.against({"a": ([1, 2], [1.0])}, ax, xlabel="x", ylabel="y"),
    "few curves": lambda ax: plotting.against(dict.fromkeys("abcde", ([1.0], [1.0])), ax, xlabel="x", ylabel="y"),
    "as many names": lambda ax: plotting.heat_map(np.ones((2, 2)), [1], [1, 2], ax, xlabel="", ylabel=""),
    "three numbers a name": lambda ax: plotting.intervals(["a"], {"x": np.ones((1, 2))}, ax, xlabel="", ylabel=""),
    "three series": lambda ax: plotting.intervals([], dict.fromkeys("abcd", np.ones((1, 3))), ax, xlabel="", ylabel=""),
    "two kinds": lambda ax: plotting.runs_by_sweep({"a": [], "b": [], "c": []}, ax, ylabel="", level=""),
    "a run has sweeps": lambda ax: plotting.runs_by_sweep({"a": [[]]}, ax, ylabel="", level=""),
    "equal lengths": lambda ax: plotting.by_ratio([1, 2], {"a": [1]}, ax, xlabel="", ylabel=""),
    "equal profiles": lambda ax: plotting.profiles(np.ones((2, 4)), np.ones((2, 3)), ax),
}


@pytest.mark.parametrize("draw", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_that_says_what_was_got(draw, ax):
    with pytest.raises(ValueError, match=r"^[^\n]*must[^\n]*; got [^\n]*$"):
        draw(ax)


def test_rows_stand_from_top_to_bottom_with_their_mean(ax):
    plotting.by_row({"first": [1.0, 3.0], "second": [5.0]}, ax, xlabel="nats")
    assert ax.get_ylim() == (1.5, -0.5)
    large = [line for line in ax.lines if line.get_marker() == "o" and line.get_markersize() == 6]
    assert [line.get_xdata()[0] for line in large] == [2.0, 5.0]


@pytest.mark.parametrize("draw", [plotting.against, plotting.clouds])
@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({}, "one to four entries"),
        ({name: ([1], [1]) for name in "abcde"}, "one to four entries.*got 5"),
        ({"a": ([1, 2], [1])}, "a has 2 places and 1 values"),
    ],
)
def test_what_cannot_be_compared_is_refused(draw, series, message, ax):
    with pytest.raises(ValueError, match=message):
        draw(series, ax, xlabel="x", ylabel="y")


def test_no_rows_are_refused(ax):
    with pytest.raises(ValueError, match="at least one row"):
        plotting.by_row({}, ax, xlabel="x")
