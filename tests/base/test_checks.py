"""Guards for arguments: which argument, what was given, what to do."""

from __future__ import annotations

import re

import pytest
import torch

from isometry._base import check_finite, check_positive, check_tensor, unknown_name


@pytest.mark.parametrize(
    ("given", "known", "message"),
    [
        ("tahn", ["tanh", "relu"], "unknown activation 'tahn'; did you mean 'tanh'?"),
        ("zzz", ["tanh", "relu"], "unknown activation 'zzz'; known names: relu, tanh."),
        ("zzz", [], "unknown activation 'zzz'; there are none to choose from."),
        (3, ["tanh"], "unknown activation 3; known names: tanh."),
    ],
)
def test_unknown_names_come_with_near_ones(given, known, message):
    assert str(unknown_name("activation", given, known)) == message


def test_long_lists_are_cut():
    text = str(unknown_name("name", "?", (f"a{i:03}" for i in range(100))))
    assert text.endswith("a039, ....")


@pytest.mark.parametrize("value", [1, 0.5, 1e300])
def test_positive_numbers_pass(value):
    assert check_positive("q_star", value) == float(value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_numbers_out_of_range(value):
    with pytest.raises(ValueError, match=re.escape(f"q_star must be a finite number > 0, got {value}.")):
        check_positive("q_star", value)


def test_zero_where_it_is_allowed():
    assert check_positive("sigma_b", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"sigma_b must be a finite number >= 0, got -1\."):
        check_positive("sigma_b", -1, zero=True)


@pytest.mark.parametrize("value", ["1", None, True, torch.ones(())])
def test_things_that_are_no_numbers(value):
    with pytest.raises(TypeError, match=f"q_star must be a number, got {type(value).__name__}; pass a float"):
        check_positive("q_star", value)


def test_tensors():
    x = torch.zeros(2, 3)
    assert check_tensor("x", x, ndim=2) is x
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list; convert it first"):
        check_tensor("x", [1.0])
    with pytest.raises(ValueError, match=re.escape("x must have 3 dimensions, got shape (2, 3)")):
        check_tensor("x", x, ndim=3)
    with pytest.raises(ValueError, match=re.escape("x must have at least 3 dimensions, got shape (2, 3)")):
        check_tensor("x", x, min_ndim=3)
    with pytest.raises(ValueError, match=re.escape("x is empty (shape (0, 3)); pass at least one element")):
        check_tensor("x", x[:0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_non_finite_values_are_counted(dtype):
    x = torch.ones(4, dtype=dtype)
    assert check_finite("x", x) is x
    x[1] = float("nan")
    with pytest.raises(ValueError, match=re.escape("x holds 1 non-finite value (NaN or infinity) of 4; clean or drop")):
        check_finite("x", x)
    x[2] = float("inf")
    with pytest.raises(ValueError, match="x holds 2 non-finite values"):
        check_finite("x", x)


def test_integers_are_always_finite():
    x = torch.ones(3, dtype=torch.int64)
    assert check_finite("x", x) is x
