"""Which of the things that a model returns is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["select_output"]

# Where models of several outputs keep the one that matters, in this order.
_PREFERRED = ("logits", "last_hidden_state")


def select_output(output: Any, key: str | int | None = None) -> Tensor:
    """Choose one tensor of what a model returned.

    Args:
        output: A tensor, a tuple, a mapping, or an object with attributes.
        key: The key, attribute or index; None chooses as ``Inputs.output`` says.

    Returns:
        The tensor.

    Raises:
        TypeError: If there is no such output, or no rule says which one is meant.
    """
    if key is not None:
        found = _at(output, key)
        if not isinstance(found, Tensor):
            raise TypeError(f"output {key!r} of the model is {type(found).__name__}, not a tensor; name another one.")
        return found
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for name in _PREFERRED:
            found = output.get(name)
            if isinstance(found, Tensor):
                return found
        real: list[Tensor] = [v for v in output.values() if isinstance(v, Tensor) and v.is_floating_point()]
        if len(real) == 1:
            return real[0]
        keys = ", ".join(map(repr, list(output)[:5]))
        raise TypeError(
            f"model returned a {type(output).__name__} with keys {keys}; say which one is measured: "
            "isometry.Inputs(..., output=key)."
        )
    if isinstance(output, tuple | list):
        first = next((v for v in output if isinstance(v, Tensor) and v.is_floating_point()), None)
        if first is not None:
            return first
        raise TypeError(
            f"model returned a {type(output).__name__} of {len(output)} elements, none of them a real-valued tensor; "
            "measurements need one."
        )
    raise TypeError(
        f"model returned {type(output).__name__}; measurements need a tensor, or a tuple or dict of tensors."
    )


def _at(output: Any, key: str | int) -> Any:
    indexed: Any = output
    if isinstance(output, Mapping) or (isinstance(output, tuple | list) and isinstance(key, int)):
        try:
            return indexed[key]
        except (KeyError, IndexError):
            known = list(output) if isinstance(output, Mapping) else list(range(len(output)))
            raise TypeError(f"model returned no output {key!r}; there are {', '.join(map(repr, known))}.") from None
    if isinstance(key, str) and hasattr(output, key):
        return getattr(output, key)
    raise TypeError(f"model returned {type(output).__name__}, which has no output {key!r}.")
