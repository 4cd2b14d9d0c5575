"""Which parameters of a model are constrained, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isometry._base import unknown_name
from isometry.roles import MATRIX_ROLES, Override, ParameterRow, table

__all__ = ["Choice", "check_model", "choose", "matching"]

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_LEFT = {
    "output": "the readout stays free; name it in names= to constrain it",
    "embedding": "embeddings stay free; name it in names= to constrain it",
    "other": "a raw parameter whose axes are not known; give them in overrides= to have it constrained",
}


class Choice(NamedTuple):
    """A parameter and what is to become of it.

    Attributes:
        row: Its row of the parameter table.
        action: ``"constrained"``, ``"left"`` or ``"skipped"``.
        why: The reason, where it is not constrained.
    """

    row: ParameterRow
    action: str
    why: str = ""


def choose(
    model: nn.Module,
    names: str | Sequence[str] | None,
    overrides: Mapping[str, Override] | None,
    unfit: Callable[[ParameterRow], str],
) -> tuple[Choice, ...]:
    """Go through a model's parameters.

    Args:
        model: The model.
        names: Names or patterns; None for the matrices between hidden layers.
        overrides: Roles and axes for ``roles.table``.
        unfit: Tells why a matrix cannot be constrained, or "".

    Returns:
        One choice per parameter, in order.

    Raises:
        ValueError: If a parameter that was asked for cannot be constrained, or none is left.
    """
    rows = table(model, overrides)
    patterns = _patterns(names)
    for pattern in patterns or ():
        if not any(_hit(row.names, pattern) for row in rows):
            error = unknown_name("names pattern", pattern, [name for row in rows for name in row.names])
            raise error
    # Of a module with a single matrix (a layer on its own) it is clear which one is meant.
    lone = rows.matrices[0].name if len(rows.matrices) == 1 else None
    choices = tuple(_choice(model, row, patterns, lone, unfit) for row in rows)
    if not any(choice.action == "constrained" for choice in choices):
        asked = "no hidden matrix" if patterns is None else f"none of the parameters that names={names!r} matches"
        found = "; ".join(f"{c.row.name}: {c.why}" for c in choices[:5] if c.why)
        why = f" ({found})" if found else ": the model has no parameters" if not choices else ""
        raise ValueError(f"{asked} can be constrained{why}; name a weight matrix in names=.")
    return choices


def matching(available: Sequence[str], names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Select names by patterns.

    Args:
        available: All names.
        names: Names or patterns; None for all.

    Returns:
        The names that match, in order.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    patterns = _patterns(names)
    if patterns is None:
        return tuple(available)
    for pattern in patterns:
        if not any(_hit((name,), pattern) for name in available):
            error = unknown_name("names pattern", pattern, available)
            raise error
    return tuple(name for name in available if any(_hit((name,), pattern) for pattern in patterns))


def _patterns(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    found = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else ()
    if not found or not all(isinstance(name, str) for name in found):
        raise TypeError(f"names must be a name, a pattern or a non-empty sequence of these, got {names!r}.")
    return found


def _hit(names: Sequence[str], pattern: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)


def _choice(
    model: nn.Module,
    row: ParameterRow,
    patterns: tuple[str, ...] | None,
    lone: str | None,
    unfit: Callable[[ParameterRow], str],
) -> Choice:
    if patterns is None:
        wanted = row.role in MATRIX_ROLES and (row.role != "output" or row.name == lone)
        exact = False
    else:
        wanted = any(_hit(row.names, pattern) for pattern in patterns)
        exact = any(pattern in row.names for pattern in patterns)
    if not wanted:
        why = "" if patterns is None else "not named"
        return Choice(row, "left", why or _LEFT.get(row.role, f"a {row.role}, not a matrix between layers"))
    if not row.trainable:
        return Choice(row, "skipped", "frozen (requires_grad is False), so its value is taken to be meant")
    reason = _reason(row) or unfit(row)
    if reason and exact:
        raise ValueError(f"{row.name} cannot be constrained: {reason}.")
    if reason:
        return Choice(row, "left", reason)
    if row.aliases and not exact:
        raise ValueError(
            f"{row.name} is tied: it is also {', '.join(row.aliases)}. A constraint would hold in all these places; "
            f"name it in names= if that is meant, or leave it out."
        )
    _check_values(row, model.get_submodule(row.module_name)._parameters[row.tensor_name])
    return Choice(row, "constrained")


def _reason(row: ParameterRow) -> str:
    if row.parametrized:
        return (
            f"{row.tensor_name} of {row.module_name or 'the model'} is parametrized, so the module uses a function of "
            "it; remove the parametrization first (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    if len(row.shape) < 2:
        return f"it has shape {row.shape} and is no matrix"
    if not row.axes.known:
        return "its output and input dimensions are not known; give them in overrides= (a role, or Axes)"
    return ""


def _check_values(row: ParameterRow, parameter: Tensor | None) -> None:
    if parameter is None:  # only for models that give other names to their parameters than their modules do
        raise ValueError(f"{row.name} cannot be constrained: no module has it as its own parameter.")
    if parameter.is_meta:
        raise ValueError(
            f"{row.name} is on the meta device and has no values; materialize the model and initialize it first."
        )
    shared = any(stride == 0 and length > 1 for stride, length in zip(parameter.stride(), row.shape, strict=True))
    if shared or (parameter.is_inference() and not torch.is_inference_mode_enabled()):
        kind = "expanded (several of its entries share one memory cell)" if shared else "an inference tensor"
        raise ValueError(f"{row.name} is {kind} and cannot be written to; replace it by a clone first.")
    if parameter.dtype not in _DTYPES:
        raise TypeError(
            f"{row.name} has dtype {parameter.dtype}; only float64, float32, bfloat16 and float16 weights can be kept "
            "on a manifold. Constrain the model before it is quantized, or leave this weight out."
        )


def check_model(model: object) -> nn.Module:
    """Insist on a module.

    Returns:
        The model itself.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; build the model first.")
    return model
