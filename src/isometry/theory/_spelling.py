"""How an activation is written: its name in any spelling, with numbers behind it where the defaults do not serve.

One rule for what theory knows of an activation and for the modules that compute it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping

from isometry._base import unknown_name

__all__ = ["ALIASES", "read_activation"]

_CALL = re.compile(r"^\s*([\w\- .]+?)\s*(?:\(\s*([^()]*?)\s*\))?\s*$")
ALIASES = {
    "identity": "linear",
    "none": "linear",
    "lrelu": "leaky_relu",
    "swish": "silu",
    "sine": "sin",
    "logistic": "sigmoid",
    "clip": "hardtanh",
    "hardclip": "hardtanh",
    "hardsilu": "hardswish",
    "gelu_new": "gelu_tanh",
    "gelu_approximate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def read_activation(text: str, makers: Mapping[str, Callable[..., object]]) -> tuple[str, tuple[float, ...]]:
    """Read an activation's name and its parameters.

    Args:
        text: Such as ``"tanh"``, ``"Hard-Tanh"`` or ``"leaky_relu(0.2)"``; capitals, hyphens, spaces and underscores do
            not matter.
        makers: What makes each known activation from its parameters, by name.

    Returns:
        The name, a key of ``makers``, and as many numbers as the maker takes.

    Raises:
        ValueError: If the name is unknown (the message lists near matches) or its parameters are wrong.

    Example:
        >>> read_activation("Leaky-ReLU(0.2)", {"leaky_relu": lambda negative_slope=0.01: None})
        ('leaky_relu', (0.2,))
    """
    match = _CALL.match(text)
    name = None if match is None else _named(match.group(1), makers)
    if match is None or name is None:
        error = unknown_name("activation", text.lower(), [*makers, *ALIASES])  # near matches have small letters
        raise error
    inside = match.group(2)
    try:
        values = tuple(float(part.split("=")[-1]) for part in inside.split(",")) if inside else ()
    except ValueError:
        raise ValueError(f"activation {text!r}: its parameters must be numbers, as in 'leaky_relu(0.2)'.") from None
    signature = inspect.signature(makers[name])
    try:
        signature.bind(*values)
    except TypeError:
        wanted = ", ".join(signature.parameters)
        raise ValueError(
            f"activation {name!r} takes the parameters ({wanted}), got {len(values)} of them; write "
            + (f"it as '{name}({wanted})' with numbers." if wanted else f"'{name}' alone.")
        ) from None
    return name, values


def _named(spelt: str, makers: Mapping[str, Callable[..., object]]) -> str | None:
    key = _key(spelt)
    known = {_key(name): name for name in makers}
    return known.get(key) or known.get(_key(_BY_KEY.get(key, "")))


def _key(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


_BY_KEY = {_key(alias): name for alias, name in ALIASES.items()}
