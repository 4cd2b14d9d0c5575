"""Options of a model of another library, written behind its name: ``n_layer=2,hidden_sizes=4-8``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isometry._base import BadReferenceError

__all__ = ["read_options"]


def read_options(parts: Sequence[str], reference: str) -> dict[str, Any]:
    """Read the options behind a model's name.

    Args:
        parts: Such as ``["n_layer=2", "hidden_sizes=4-8"]``.
        reference: The whole reference, for messages.

    Returns:
        Values by key: numbers, truth values, lists of numbers, or words.

    Raises:
        BadReferenceError: If an option has no value.
    """
    found: dict[str, Any] = {}
    for part in parts:
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key or not value:
            raise BadReferenceError(f"MODEL {reference!r}: option {part!r} has no value; write key=value.")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """Read a number, a truth value or a list of numbers (``4-8-16``); anything else stays a word.

    Returns:
        The value.
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    pieces = text.split("-")
    return [int(p) for p in pieces] if len(pieces) > 1 and all(p.isdecimal() for p in pieces) else text
