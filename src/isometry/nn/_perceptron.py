"""Multilayer perceptrons: plain, normalized or residual."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import nn

from isometry.nn._activations import activation_module
from isometry.nn._residual import Residual

__all__ = ["perceptron"]


def perceptron(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 10,
    width: int = 100,
    activation: str = "tanh",
    bias: bool = True,
    norm: str = "none",
    residual: bool = False,
) -> nn.Sequential:
    """Build a perceptron: flatten, ``depth`` hidden layers, output layer.

    A hidden layer is linear, (normalization,) activation; its modules are called ``hidden.3.linear``,
    ``hidden.3.norm``, ``hidden.3.activation``.

    Args:
        in_shape: Shape of one input; it is flattened.
        classes: Number of outputs.
        depth: Number of hidden layers.
        width: Units per hidden layer.
        activation: Name of the activation.
        bias: Whether the hidden layers have biases; the output layer always does.
        norm: "none", "layer" or "batch" normalization of the pre-activations.
        residual: Whether the hidden layers after the first add to their input.

    Returns:
        The model, with PyTorch's default initialization.
    """
    layers: list[nn.Module] = []
    for index in range(depth):
        parts = OrderedDict[str, nn.Module](linear=nn.Linear(prod(in_shape) if index == 0 else width, width, bias=bias))
        if norm != "none":
            parts["norm"] = nn.LayerNorm(width) if norm == "layer" else nn.BatchNorm1d(width)
        parts["activation"] = activation_module(activation)
        layer = nn.Sequential(parts)
        layers.append(Residual(layer) if residual and index > 0 else layer)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            flatten=nn.Flatten(), hidden=nn.Sequential(*layers), output=nn.Linear(width, classes)
        )
    )
