"""Elementwise activations as modules, by the names that the theory room uses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isometry._base import unknown_name

__all__ = ["Elementwise", "activation_module", "activation_names"]


class Elementwise(nn.Module):
    """An elementwise function as a module, for the activations that torch.nn has no class for.

    Args:
        activation: The function's name, as the theory room knows it ("sin", "erf").
        function: The function itself, from tensor to tensor of the same shape.
    """

    def __init__(self, activation: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return repr(self.activation)


_FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "erf": lambda: Elementwise("erf", torch.erf),
    "gelu": nn.GELU,
    "hardshrink": nn.Hardshrink,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "leaky-relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "logsigmoid": nn.LogSigmoid,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "sin": lambda: Elementwise("sin", torch.sin),
    "softplus": nn.Softplus,
    "softshrink": nn.Softshrink,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "tanhshrink": nn.Tanhshrink,
}
_ALIASES = {"identity": "linear", "swish": "silu"}
_KEYS = {name.replace("-", ""): name for name in _FACTORIES} | _ALIASES


def activation_names() -> tuple[str, ...]:
    """List the activations that ``activation_module`` knows.

    Returns:
        Their names, in alphabetical order.
    """
    return tuple(sorted(_FACTORIES))


def activation_module(name: str) -> nn.Module:
    """Make an elementwise activation module from its name.

    Args:
        name: One of ``activation_names()``; case, hyphens and underscores do not matter, so torch.nn's class names
            work as well.

    Returns:
        A new module.

    Raises:
        ValueError: If the name is unknown; the message lists near matches.

    Example:
        >>> activation_module("LeakyReLU")
        LeakyReLU(negative_slope=0.01)
    """
    key = name.lower().replace("-", "").replace("_", "")
    if key not in _KEYS:
        error = unknown_name("activation", name, [*_FACTORIES, *_ALIASES])
        raise error
    return _FACTORIES[_KEYS[key]]()
