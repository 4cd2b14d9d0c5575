"""Guards for arguments; their errors are sentences: which argument, what was given, what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["IGNORED", "check_finite", "check_positive", "check_tensor", "unknown_name"]

IGNORED = -100  # the label that torch's cross-entropy leaves out


def unknown_name(argument: str, given: object, known: Iterable[str]) -> ValueError:
    """Build the error for a name that is not among the known ones, with the nearest matches.

    Returns:
        A ValueError to raise; it names the argument, what was given, and up to three near matches or all names.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
    elif names:
        shown = names if len(names) <= 40 else [*names[:40], "..."]
        hint = f"known names: {', '.join(shown)}."
    else:
        hint = "there are none to choose from."
    return ValueError(f"unknown {argument} {given!r}; {hint}")


def check_positive(argument: str, value: float, *, zero: bool = False) -> float:
    """Insist on a finite number above zero (or at least zero).

    Returns:
        The value as a float.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is NaN, infinite, negative or, unless ``zero``, zero.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, got {type(value).__name__}; pass a float.")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        wanted = "a finite number >= 0" if zero else "a finite number > 0"
        raise ValueError(f"{argument} must be {wanted}, got {value}.")
    return number


def check_tensor(argument: str, value: object, *, ndim: int | None = None, min_ndim: int = 0) -> Tensor:
    """Insist on a tensor that has elements and the wanted number of dimensions.

    Returns:
        The tensor itself.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If it is empty or has a wrong number of dimensions.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a torch.Tensor, got {type(value).__name__}; convert it first.")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{argument} must have {ndim} dimensions, got shape {tuple(value.shape)}.")
    if value.ndim < min_ndim:
        raise ValueError(f"{argument} must have at least {min_ndim} dimensions, got shape {tuple(value.shape)}.")
    if value.numel() == 0:
        raise ValueError(f"{argument} is empty (shape {tuple(value.shape)}); pass at least one element.")
    return value


def _stored(value: Tensor) -> Tensor:
    # Of a sparse tensor (a graph's adjacency, say) only the entries that it stores can be anything but zero.
    if value.layout == torch.strided:
        return value
    return value.coalesce().values() if value.layout == torch.sparse_coo else value.values()


def check_finite(argument: str, value: Tensor) -> Tensor:
    """Insist on a tensor without NaN or infinity.

    Returns:
        The tensor itself.

    Raises:
        ValueError: If it holds a non-finite value; the message counts them.
    """
    if value.is_floating_point() or value.is_complex():
        bad = int((~torch.isfinite(_stored(value))).sum())
        if bad:
            raise ValueError(
                f"{argument} holds {bad} non-finite value{'s' if bad > 1 else ''} (NaN or infinity) of "
                f"{value.numel()}; clean or drop them first."
            )
    return value
