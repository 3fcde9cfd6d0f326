"""The small functions between what users hand in and the mathematics; `test_bad_input` has the refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils import check_array

from cases import typical_size
from sparsentropy import inputs
from sparsentropy.rows import Survey


@pytest.mark.parametrize("value", [[1, 2], None, "x", np.zeros(3), pd.DataFrame({"a": [1]})])
def test_what_is_no_tensor_passes_untouched(value):
    assert inputs.untensored(value) is value


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, "float64"),
        (torch.float32, "float32"),
        (torch.float16, "float32"),
        (torch.bfloat16, "float32"),
        (torch.int64, "int64"),
        (torch.bool, "bool"),
    ],
)
def test_tensors_become_arrays(dtype, expected):
    tensor = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).to(dtype)
    array = inputs.untensored(tensor)
    assert isinstance(array, np.ndarray)
    assert array.dtype == expected
    np.testing.assert_array_equal(array, [[0, 1], [1, 1]])


def test_gradients_and_strides_do_not_matter():
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    np.testing.assert_array_equal(inputs.untensored(tensor), [[0, 3], [1, 4], [2, 5]])


def test_one_row_or_column_in_any_layout_has_the_strides_of_every_other():
    """To numpy they are contiguous, but torch takes none below zero, and products round by them."""
    for array in (np.ones((3, 1))[:, ::-1], np.ones((1, 3))[::-1], np.ones((4, 6))[:, :1], np.ones((3, 1), order="F")):
        assert inputs.tensor(array).stride() == (array.shape[1], 1)


@pytest.mark.parametrize("given", [np.arange(400.0), np.zeros((3, 3)) + 1j, np.zeros((40, 40, 40)), 3.0])
def test_refusals_quote_no_data(given):
    with pytest.raises(ValueError, match=r".") as caught:
        check_array(given)
    message = str(inputs.refusal(caught.value))
    assert "\n" not in message
    assert len(message) < 250
    assert "0." not in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("strange\n  things\n\nhappened"), ValueError, "strange things happened"),
        (TypeError("strange"), TypeError, "strange"),
        (OverflowError("int too large to convert to float"), ValueError, "int too large .* float: rescale the data."),
        (ValueError("could not convert string to float: 'a'"), ValueError, "could not .* 'a': remove columns of words"),
        (ValueError("Complex data not supported\n[[1j\n 2j]]\n"), ValueError, "Complex data not supported: give real"),
        (ValueError("Expected 2D\narray=[1 2\n 3 4].\nReshape"), ValueError, "Expected 2D Reshape"),
    ],
)
def test_refusals_keep_their_kind_and_gain_advice(error, kind, message):
    refusal = inputs.refusal(error)
    assert type(refusal) is kind
    with pytest.raises(kind, match=f"^{message}"):
        raise refusal


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_numbers_pass(dtype):
    inputs.check_finite(Survey.of(np.array([[0.0, np.finfo(dtype).max, np.nan]], dtype=dtype)))


def test_the_first_of_all_bad_numbers_is_named():
    X = np.zeros((4, 3))
    X[0, 0], X[1, 2], X[3, 0] = np.nan, -np.inf, np.inf
    with pytest.raises(ValueError, match=r"infinity \(inf\) at row 1, column 2 \(2 such values in all\)"):
        inputs.check_finite(Survey.of(X))


def scale(X):
    return inputs.check_scale(Survey.of(X), X.dtype)


@pytest.mark.parametrize("c", [1e-144, 1e-6, 1.0, 1e6, 1e144])
def test_scale_is_the_typical_size(c):
    X = np.array([[3.0, -4.0], [0.0, 5.0]])
    assert scale(c * X) == pytest.approx(c * typical_size(X), rel=1e-14)


def test_scale_is_that_of_what_is_known():
    X = np.array([[3.0, np.nan], [np.nan, -4.0]])
    assert scale(X) == pytest.approx(typical_size(np.array([3.0, 4.0])))
    assert Survey.of(X).largest == 4.0
    assert Survey.of(np.full((2, 2), np.nan)).largest == 0.0


def test_a_column_of_which_nothing_is_known_is_named():
    X = np.array([[1.0, np.nan, np.nan], [np.nan, np.nan, 2.0]])
    inputs.check_known(Survey.of(X[:, ::2]))
    with pytest.raises(ValueError, match=r"X has 1 columns without a single value.*first being column 1"):
        inputs.check_known(Survey.of(X))


@pytest.mark.parametrize("c", [1e-18, 1e18])
def test_scale_of_float32_neither_vanishes_nor_overflows(c):
    X = (c * np.array([[3.0, -4.0], [0.0, 5.0]])).astype(np.float32)
    assert scale(X) == pytest.approx(typical_size(X.astype(float)), rel=1e-6)


def test_range_is_that_of_the_divided_data_and_is_told_in_data_units():
    inputs.check_range(Survey.of(np.array([[-3.0, 2.0]])), np.dtype(float), unit=8.0, noise=0.1)
    inputs.check_range(Survey.of(np.zeros((1, 1))), np.dtype(float), unit=8.0, noise=0.1)
    with pytest.raises(ValueError, match=r"up to 4e\+200, whose squares float64"):
        inputs.check_range(Survey.of(np.array([[1e200]])), np.dtype(float), unit=4.0, noise=0.1)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_counts_are_integers_of_any_kind(value):
    count = inputs.check_count("n", value)
    assert count == 3
    assert type(count) is int
    assert inputs.check_count("n", 0, least=0) == 0


@pytest.mark.parametrize(("value", "expected"), [("auto", None), (7, 7), (np.int32(7), 7)])
def test_batch_size(value, expected):
    assert inputs.check_batch_size(value) == expected


@pytest.mark.parametrize("value", [0, 0.5, 1, np.float32(0.5)])
def test_tolerances_are_numbers_of_any_kind(value):
    tol = inputs.check_tolerance(value)
    assert tol == value
    assert type(tol) is float


def test_seeds():
    random = np.random.RandomState(0)
    assert inputs.check_seed(random) is random
    assert inputs.check_seed(np.int64(3)).randint(10**9) == inputs.check_seed(3).randint(10**9)
    assert inputs.check_seed(None) is np.random.mtrand._rand


def test_as_many_rows_as_atoms_are_enough():
    inputs.check_enough(3, 3)
    with pytest.raises(ValueError, match="n_components to at most 2"):
        inputs.check_enough(2, 3)


def test_choices():
    assert inputs.check_choice("fruit", "apple", ("apple", "pear")) == "apple"
    with pytest.raises(ValueError, match="fruit must be one of 'apple', 'pear'; got 'nut'"):
        inputs.check_choice("fruit", "nut", ("apple", "pear"))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("auto", np.float32, torch.float32),
        ("auto", np.float64, torch.float64),
        ("float64", np.float32, torch.float64),
        ("float32", np.float64, torch.float32),
    ],
)
def test_arithmetic_follows_the_data_unless_told_otherwise(name, data, expected):
    assert inputs.resolve_dtype(name, np.dtype(data)) is expected


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_devices(device):
    assert inputs.resolve_device(device) == torch.device("cpu")


@pytest.mark.parametrize(("there", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_a_gpu_where_there_is_one(there, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert inputs.resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_gpus_are_counted(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert inputs.resolve_device(name) == torch.device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"no CUDA device( number [01])? found \(0 available\): set device='cpu' or"):
        inputs.resolve_device(name)
