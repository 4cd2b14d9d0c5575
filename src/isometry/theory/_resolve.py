"""From what a user writes for an activation to what the theory knows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import nn

from isometry.theory._activation import Activation
from isometry.theory._callables import from_callable
from isometry.theory._catalogue import FAMILIES
from isometry.theory._spelling import read_activation

__all__ = ["ActivationLike", "activation_names", "activation_of", "resolve_activation"]

ActivationLike: TypeAlias = "str | nn.Module | Activation | Callable[[Any], Any]"

# Module class -> (family, names of its attributes in the order of the family's parameters).
_MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.Identity: ("linear", ()),
    nn.ReLU: ("relu", ()),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.RReLU: ("rrelu", ("lower", "upper")),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    nn.ReLU6: ("relu6", ()),
    nn.Hardsigmoid: ("hardsigmoid", ()),
    nn.Hardshrink: ("hardshrink", ("lambd",)),
    nn.Softshrink: ("softshrink", ("lambd",)),
    nn.Threshold: ("threshold", ("threshold", "value")),
    nn.ELU: ("elu", ("alpha",)),
    nn.CELU: ("celu", ("alpha",)),
    nn.SELU: ("selu", ()),
    nn.Tanh: ("tanh", ()),
    nn.Softsign: ("softsign", ()),
    nn.Tanhshrink: ("tanhshrink", ()),
    nn.Sigmoid: ("sigmoid", ()),
    nn.LogSigmoid: ("logsigmoid", ()),
    nn.Softplus: ("softplus", ("beta",)),
    nn.SiLU: ("silu", ()),
    nn.Mish: ("mish", ()),
    nn.Hardswish: ("hardswish", ()),
}

# Plain functions of torch that are the same as a known family with its default parameters.
_FUNCTIONS: dict[Any, str] = {
    torch.tanh: "tanh",
    torch.sin: "sin",
    torch.relu: "relu",
    torch.sigmoid: "sigmoid",
    torch.selu: "selu",
    nn.functional.tanh: "tanh",
    nn.functional.sigmoid: "sigmoid",
    nn.functional.relu: "relu",
    nn.functional.relu6: "relu6",
    nn.functional.leaky_relu: "leaky_relu",
    nn.functional.elu: "elu",
    nn.functional.celu: "celu",
    nn.functional.selu: "selu",
    nn.functional.gelu: "gelu",
    nn.functional.silu: "silu",
    nn.functional.mish: "mish",
    nn.functional.softplus: "softplus",
    nn.functional.logsigmoid: "logsigmoid",
    nn.functional.softsign: "softsign",
    nn.functional.tanhshrink: "tanhshrink",
    nn.functional.hardtanh: "hardtanh",
    nn.functional.hardswish: "hardswish",
    nn.functional.hardsigmoid: "hardsigmoid",
    nn.functional.hardshrink: "hardshrink",
    nn.functional.softshrink: "softshrink",
}


def activation_names() -> tuple[str, ...]:
    """List the names of the activations that the theory knows.

    Returns:
        The canonical names; spelling with capitals, hyphens or without underscores is accepted too.
    """
    return tuple(FAMILIES)


def resolve_activation(activation: ActivationLike, *, kinks: Iterable[float] | None = None) -> Activation:
    """Find what is known of an activation.

    Args:
        activation: A name (``"tanh"``, ``"Hard-Tanh"``, ``"leaky_relu(0.2)"``), a module of ``torch.nn``, an
            elementwise callable on tensors, or an ``Activation``.
        kinks: Positions where a callable is not smooth; found numerically by default.

    Returns:
        The activation.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the name is unknown, its parameters are wrong, or ``kinks`` is given for a known activation.
    """
    known: Activation | None = None
    if isinstance(activation, Activation):
        known = activation
    elif isinstance(activation, str):
        known = _by_name(activation)
    elif isinstance(activation, nn.Module):
        known = _of_module(activation)
    elif isinstance(activation, type) and issubclass(activation, nn.Module):
        raise TypeError(f"activation is the class {activation.__name__}; pass an instance: {activation.__name__}().")
    elif activation in _FUNCTIONS:
        known = _by_name(_FUNCTIONS[activation])
    if known is not None:
        if kinks is not None:
            raise ValueError(f"kinks was given, but those of {known.name!r} are known; leave kinks out.")
        return known
    if not callable(activation):
        raise TypeError(
            f"activation must be a name, a torch.nn module or a callable, got {type(activation).__name__}; "
            "pass for example 'tanh'."
        )
    return from_callable(activation, kinks=kinks)


def activation_of(module: nn.Module) -> str | Activation | None:
    """Say which activation a module computes, in a form that ``MeanField`` takes.

    Args:
        module: Any module.

    Returns:
        A name such as ``"tanh"``; an ``Activation`` where the module's parameters differ from the defaults; None where
        the module is not one of torch.nn's elementwise activations (softmax, GLU, a PReLU with different slopes, ...).
    """
    known = _of_module(module)
    if known is None:
        return None
    return known.name if known.name in FAMILIES else known


def _of_module(module: nn.Module) -> Activation | None:
    kind = type(module)
    if kind is nn.GELU:
        return _by_name("gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else "gelu")
    if kind is nn.PReLU:
        weight = module.weight.detach().to(torch.float64)  # type: ignore[operator]
        if weight.is_meta or not bool((weight == weight.flatten()[0]).all()):
            return None
        return _make("prelu", (float(weight.flatten()[0]),))
    if kind not in _MODULES:
        return None
    family, attributes = _MODULES[kind]
    return _make(family, tuple(float(getattr(module, a)) for a in attributes))


def _by_name(text: str) -> Activation:
    return _make(*read_activation(text, FAMILIES))


@lru_cache(maxsize=256)
def _make(name: str, parameters: tuple[float, ...]) -> Activation:
    return FAMILIES[name](*parameters)
