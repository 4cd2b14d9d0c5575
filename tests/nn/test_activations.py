"""Activations as modules against the theory room's functions of the same names."""

from __future__ import annotations

import pytest
import torch

from isometry import theory
from isometry.nn import activation_module, activation_names, reference_model
from isometry.theory._spelling import ALIASES

POINTS = torch.linspace(-4.05, 4.05, 82, dtype=torch.float64)


def same(name):
    module = activation_module(name).double().eval()
    with torch.no_grad():
        ours = module(POINTS)
    expected = torch.from_numpy(theory.MeanField(name).activation.value(POINTS.numpy()))
    torch.testing.assert_close(ours, expected, atol=3e-8, rtol=0)  # prelu's slope is stored in float32


def test_both_rooms_know_the_same_names():
    assert set(activation_names()) == set(theory.activation_names())


@pytest.mark.parametrize("name", sorted({*theory.activation_names(), *ALIASES} - {"threshold"}))
def test_a_name_means_the_same_function_in_both_rooms(name):
    same(name)


@pytest.mark.parametrize(
    "name",
    ["leaky-relu", "Leaky_ReLU", "LEAKYRELU", "leaky_relu(0.2)", "elu(0.5)", "celu(2)", "prelu(0.1)", "softplus(2)",
     "hardtanh(-2, 1)", "hardshrink(1)", "softshrink(0.25)", "threshold(0.5, -1)", "rrelu(0.1, 0.2)", "Hard-Tanh"],
)  # fmt: skip
def test_spellings_and_parameters_mean_the_same_in_both_rooms(name):
    same(name)


@pytest.mark.parametrize("spelling", ["leaky_relu", "leaky-relu", "LeakyReLU", "leaky_relu(0.01)"])
def test_spellings_in_a_specification(spelling):
    model = reference_model(f"mlp:depth=2,width=4,activation={spelling}", in_shape=(3,), classes=2)
    assert sum(isinstance(m, torch.nn.LeakyReLU) for m in model.modules()) == 2


def test_commas_within_parentheses_belong_to_the_value():
    model = reference_model("mlp:activation=hardtanh(-2,3),depth=1,width=4", in_shape=(3,), classes=2)
    (found,) = [m for m in model.modules() if isinstance(m, torch.nn.Hardtanh)]
    assert (found.min_val, found.max_val) == (-2.0, 3.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LEAKY-RELO", "did you mean 'leaky_relu'"),
        ("Tahn", "did you mean 'tanh'"),
        ("", "unknown activation ''"),
        ("leaky_relu(a)", "its parameters must be numbers, as in"),
        ("relu(1)", r"takes the parameters \(\), got 1 of them; write 'relu' alone"),
        ("threshold", r"takes the parameters \(threshold, value\), got 0"),
    ],
)
@pytest.mark.parametrize("room", [activation_module, theory.MeanField])
def test_misspelt_names_are_refused_alike(room, name, message):
    with pytest.raises(ValueError, match=message):
        room(name)
