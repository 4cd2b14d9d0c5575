"""Elementwise activations as modules, by the names that the theory room uses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isometry.theory._spelling import read_activation

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


def _erf(x: Tensor) -> Tensor:
    return torch.erf(0.5 * math.sqrt(math.pi) * x)  # the theory's erf has slope one at zero


# Each takes the parameters that the theory room's activation of that name takes, in the same order.
_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "celu": lambda alpha=1.0: nn.CELU(alpha),
    "elu": lambda alpha=1.0: nn.ELU(alpha),
    "erf": lambda: Elementwise("erf", _erf),
    "gelu": lambda: nn.GELU(),
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "hardshrink": lambda lambd=0.5: nn.Hardshrink(lambd),
    "hardsigmoid": lambda: nn.Hardsigmoid(),
    "hardswish": lambda: nn.Hardswish(),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: nn.Hardtanh(min_val, max_val),
    "leaky_relu": lambda negative_slope=0.01: nn.LeakyReLU(negative_slope),
    "linear": lambda: nn.Identity(),
    "logsigmoid": lambda: nn.LogSigmoid(),
    "mish": lambda: nn.Mish(),
    "prelu": lambda init=0.25: nn.PReLU(init=init),
    "relu": lambda: nn.ReLU(),
    "relu6": lambda: nn.ReLU6(),
    "rrelu": lambda lower=1 / 8, upper=1 / 3: nn.RReLU(lower, upper),
    "selu": lambda: nn.SELU(),
    "sigmoid": lambda: nn.Sigmoid(),
    "silu": lambda: nn.SiLU(),
    "sin": lambda: Elementwise("sin", torch.sin),
    "softplus": lambda beta=1.0: nn.Softplus(beta),
    "softshrink": lambda lambd=0.5: nn.Softshrink(lambd),
    "softsign": lambda: nn.Softsign(),
    "tanh": lambda: nn.Tanh(),
    "tanhshrink": lambda: nn.Tanhshrink(),
    "threshold": lambda threshold, value: nn.Threshold(threshold, value),
}


def activation_names() -> tuple[str, ...]:
    """List the activations that ``activation_module`` knows.

    Returns:
        Their names, in alphabetical order: those of the theory room.
    """
    return tuple(sorted(_FACTORIES))


def activation_module(name: str) -> nn.Module:
    """Make an elementwise activation module from its name.

    Args:
        name: One of ``activation_names()``, with numbers for its parameters where the defaults do not serve
            (``"leaky_relu(0.2)"``); case, hyphens and underscores do not matter, so torch.nn's class names work as
            well.

    Returns:
        A new module.

    Raises:
        ValueError: If the name is unknown (the message lists near matches) or its parameters are wrong.

    Example:
        >>> activation_module("Leaky-ReLU"), activation_module("leaky_relu(0.2)")
        (LeakyReLU(negative_slope=0.01), LeakyReLU(negative_slope=0.2))
    """
    known, values = read_activation(name, _FACTORIES)
    return _FACTORIES[known](*values)
