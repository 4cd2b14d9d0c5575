"""Strict reading of a reference model's specification, as in ``mlp:depth=100,width=100,activation=tanh``."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from isometry._base import unknown_name

__all__ = ["ModelKind", "Option", "parse_spec"]

Value = int | float | bool | str

_BETWEEN = re.compile(r",(?![^(]*\))")  # commas between options, not those in activation=hardtanh(-2,2)


@dataclass(frozen=True)
class Option:
    """One option of a reference model.

    Attributes:
        default: The value when the specification leaves the option out; its type is the option's type.
        what: A short description, for help texts.
        minimum: The least value allowed, for numbers.
        choices: The values allowed, for names; empty where the builder checks them itself.
    """

    default: Value
    what: str
    minimum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelKind:
    """A kind of reference model.

    Attributes:
        what: A one-line description, for help texts.
        options: The options, by name.
        build: Makes the model from ``in_shape``, ``classes`` and the options' values.
    """

    what: str
    options: Mapping[str, Option]
    build: Callable[..., nn.Module]


def parse_spec(spec: str, kinds: Mapping[str, ModelKind]) -> tuple[ModelKind, dict[str, Value]]:
    """Read a specification.

    Args:
        spec: ``kind`` or ``kind:option=value,option=value``.
        kinds: The kinds of models there are.

    Returns:
        The kind, and a value for each of its options.

    Raises:
        ValueError: If the kind, an option or a value is not known, or an option is given twice.
    """
    name, _, rest = spec.partition(":")
    name = name.strip()
    if name not in kinds:
        error = _unknown_kind(name, kinds)
        raise error
    kind = kinds[name]
    values: dict[str, Value] = {key: option.default for key, option in kind.options.items()}
    given: set[str] = set()
    for part in _BETWEEN.split(rest) if rest.strip() else []:
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not text:
            raise ValueError(f"{part.strip()!r} in {spec!r} is not option=value; write e.g. {_example(name, kind)}.")
        if key not in kind.options:
            error = unknown_name(f"option of {name}", key, kind.options)
            raise error
        if key in given:
            raise ValueError(f"option {key!r} is given twice in {spec!r}; give it once.")
        given.add(key)
        values[key] = _value(f"{name}: {key}", text, kind.options[key])
    return kind, values


def _unknown_kind(name: str, kinds: Mapping[str, ModelKind]) -> ValueError:
    if difflib.get_close_matches(name, kinds, n=1, cutoff=0.5):
        return unknown_name("reference model", name, kinds)
    return ValueError(
        f"unknown reference model {name!r}; known ones: {', '.join(sorted(kinds))} "
        "(your own model: path/to/file.py:callable or package.module:callable)."
    )


def _example(name: str, kind: ModelKind) -> str:
    key, option = next(iter(kind.options.items()))
    return f"{name}:{key}={option.default}"


def _value(what: str, text: str, option: Option) -> Value:
    if isinstance(option.default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{what} must be true or false, got {text!r}.")
        return text.lower() == "true"
    if isinstance(option.default, int):
        return _number(what, text, option, int, "a whole number")
    if isinstance(option.default, float):
        return _number(what, text, option, float, "a number")
    if option.choices and text.lower() not in option.choices:
        raise ValueError(f"{what} must be one of {', '.join(option.choices)}, got {text!r}.")
    return text.lower() if option.choices else text


def _number(what: str, text: str, option: Option, kind: Callable[[str], Any], words: str) -> Value:
    least = "" if option.minimum is None else f" >= {option.minimum:g}"
    try:
        number: int | float = kind(text)
    except ValueError:
        raise ValueError(f"{what} must be {words}{least}, got {text!r}.") from None
    if not math.isfinite(number) or (option.minimum is not None and number < option.minimum):
        raise ValueError(f"{what} must be {words}{least}, got {text}.")
    return number
