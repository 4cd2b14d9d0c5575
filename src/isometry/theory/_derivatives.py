"""Activations and their derivatives of any order as functions of tensors, for statistics of networks of finite width.

The averages of mean-field theory need a value and a slope, in numpy; expansions about a network need a second and a
third derivative too, at every pre-activation, on any device. Each derivative is one more gradient of a sum, which for
an elementwise function is exact to rounding. At kinks derivatives are those of one side, and their point masses are
left out: that is what happens almost surely in a network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isometry.theory._activation import Activation
from isometry.theory._resolve import ActivationLike, resolve_activation

__all__ = ["TensorFunction", "derivatives", "tensor_function"]

_PROBES = np.linspace(-3.7, 4.1, 24)

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]

# Family -> a function of a tensor and the family's parameters, with its defaults; tested against the catalogue.
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "linear": lambda u: u,
    "relu": functional.relu,
    "leaky_relu": lambda u, slope=0.01: functional.leaky_relu(u, slope),
    "prelu": lambda u, slope=0.25: functional.leaky_relu(u, slope),
    "rrelu": lambda u, lower=1 / 8, upper=1 / 3: functional.leaky_relu(u, (lower + upper) / 2),
    "hardtanh": lambda u, low=-1.0, high=1.0: functional.hardtanh(u, low, high),
    "relu6": functional.relu6,
    "hardsigmoid": lambda u: functional.relu6(u + 3) / 6,  # torch's own has no second derivative
    "hardshrink": lambda u, lambd=0.5: functional.hardshrink(u, abs(lambd)),
    "softshrink": lambda u, lambd=0.5: functional.softshrink(u, lambd),
    "threshold": lambda u, threshold, value: functional.threshold(u, threshold, value),
    "elu": lambda u, alpha=1.0: functional.elu(u, alpha),
    # torch's own takes 1/alpha in single precision on the way back
    "celu": lambda u, alpha=1.0: torch.where(u > 0, u, alpha * torch.expm1(u.clamp(max=0.0) / alpha)),
    "selu": functional.selu,
    "tanh": torch.tanh,
    "erf": lambda u: torch.erf(math.sqrt(math.pi) / 2 * u),
    "sin": torch.sin,
    "softsign": functional.softsign,
    "tanhshrink": functional.tanhshrink,
    "sigmoid": torch.sigmoid,
    "logsigmoid": functional.logsigmoid,
    "softplus": lambda u, beta=1.0: functional.softplus(u, beta, 40.0),  # e^-40 is below rounding
    "silu": functional.silu,
    "mish": functional.mish,
    "gelu": functional.gelu,
    "gelu_tanh": lambda u: functional.gelu(u, approximate="tanh"),
    "hardswish": functional.hardswish,
}


def tensor_function(activation: ActivationLike) -> tuple[TensorFunction, Activation]:
    """Give an activation as a function of tensors that never writes to its argument.

    Args:
        activation: A name, a module of ``torch.nn`` or an elementwise callable.

    Returns:
        The function, and what theory knows of the activation.

    Raises:
        TypeError: If it is an ``Activation`` of a callable: its functions take arrays.
    """
    known = resolve_activation(activation)
    if isinstance(activation, str):
        return _named(known.name.partition("(")[0], activation), known
    # RReLU is random in training and PReLU's slope is a parameter: theory knows what they stand for.
    if isinstance(activation, Activation | nn.RReLU | nn.PReLU):
        return _described(known), known
    function: Any = copy.deepcopy(activation).double().eval() if isinstance(activation, nn.Module) else activation
    return (lambda u: function(u * 1.0)), known  # an in-place activation must not spoil its argument


def _named(family: str, text: str) -> TensorFunction:
    inner = text.partition("(")[2].rpartition(")")[0]
    values = [float(part.split("=")[-1]) for part in inner.split(",") if part.strip()]
    return lambda u: _FUNCTIONS[family](u, *values)


def _described(known: Activation) -> TensorFunction:
    """Find the function behind a description, whose name holds parameters to six digits only.

    Returns:
        The function.

    Raises:
        TypeError: If the name does not lead to the description's values.
    """
    if known.homogeneous is not None:
        below, above = known.homogeneous
        return lambda u: torch.where(u > 0, above * u, below * u)
    family = known.name.partition("(")[0]
    if family in _FUNCTIONS:
        function = _named(family, known.name)
        if np.allclose(function(torch.from_numpy(_PROBES)).numpy(), known.value(_PROBES), rtol=1e-12, atol=1e-13):
            return function
    raise TypeError(
        f"activation is an Activation named {known.name!r}, from which no tensor function can be made; pass the module "
        "or callable that it describes."
    )


def derivatives(function: TensorFunction, order: int, u: Tensor) -> tuple[Tensor, ...]:
    """Evaluate an elementwise function and its derivatives.

    Args:
        function: Maps a tensor to one of the same shape, element by element.
        order: The highest derivative, >= 0.
        u: Where; nothing is recorded on it.

    Returns:
        The function and its derivatives of orders 1 to ``order``, of u's shape.
    """
    with torch.inference_mode(False), torch.enable_grad():
        at = (u.clone() if u.is_inference() else u).detach().requires_grad_()
        chain = [function(at)]
        for _ in range(order):
            last = chain[-1]
            if last.requires_grad:
                # Elements do not depend on each other, so the gradient of the sum is the slope of each.
                chain += torch.autograd.grad(last.sum(), at, create_graph=True, materialize_grads=True)
            else:  # constant
                chain.append(torch.zeros_like(last))
    return tuple(value.detach() for value in chain)
