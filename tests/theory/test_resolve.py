"""From names, modules and functions to activations."""

import pytest
import torch
from torch import nn

from isometry.theory import MeanField, activation_of


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Tanh", "tanh"),
        ("Hard-Tanh", "hardtanh"),
        ("hard_tanh", "hardtanh"),
        ("LeakyReLU", "leaky_relu"),
        ("LeakyReLU(0.2)", "leaky_relu(0.2)"),
        ("leaky_relu(negative_slope=0.2)", "leaky_relu(0.2)"),
        ("swish", "silu"),
        ("Identity", "linear"),
        ("sine", "sin"),
        ("GELU", "gelu"),
        ("ReLU6", "relu6"),
        (torch.tanh, "tanh"),
        (nn.functional.silu, "silu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.ReLU(inplace=True), "relu"),
    ],
)
def test_spellings(given: object, name: str) -> None:
    assert MeanField(given).name == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("tahn", ValueError, "unknown activation 'tahn'; did you mean 'tanh'"),
        ("", ValueError, "unknown activation ''"),
        ("threshold", ValueError, r"takes the parameters \(threshold, value\), got 0 of them"),
        ("relu(1)", ValueError, r"takes the parameters \(\), got 1"),
        ("leaky_relu(a)", ValueError, "its parameters must be numbers, as in"),
        (nn.ReLU, TypeError, r"the class ReLU; pass an instance: ReLU\(\)"),
        (3, TypeError, "must be a name, a torch.nn module or a callable, got int"),
    ],
)
def test_refusals(given: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MeanField(given)  # type: ignore[arg-type]


def test_kinks_of_a_known_activation_are_known() -> None:
    with pytest.raises(ValueError, match="kinks was given, but those of 'relu' are known"):
        MeanField("relu", kinks=[0.0])


def test_activation_of_says_none_where_it_does_not_know() -> None:
    for module in (nn.Softmax(dim=-1), nn.GLU(), nn.Linear(2, 2), nn.Dropout()):
        assert activation_of(module) is None


def test_prelu_counts_only_while_its_slopes_agree() -> None:
    module = nn.PReLU(3, init=0.1)
    assert MeanField(activation_of(module)).name == "prelu(0.1)"  # type: ignore[arg-type]
    with torch.no_grad():
        module.weight[1] = 0.5
    assert activation_of(module) is None


def test_subclasses_are_not_taken_for_their_parents() -> None:
    class Shifted(nn.Tanh):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    assert activation_of(Shifted()) is None
    assert MeanField(Shifted()).activation.value(torch.zeros(1).double().numpy())[0] == 1.0
