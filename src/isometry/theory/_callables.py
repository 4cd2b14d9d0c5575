"""Activations that a user gives as a callable: slopes by torch.func, kinks and jumps by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isometry.theory._activation import Activation, Elementwise, describe
from isometry.theory._quadrature import Array

__all__ = ["from_callable"]

_GRID_STEP = 1 / 32
_GRID_REACH = 64.0  # kinks beyond are not looked for; the caller can give them
_MAX_KINKS = 64


def from_callable(function: Callable[[Any], Any], *, kinks: Iterable[float] | None = None) -> Activation:
    """Describe an elementwise callable on tensors.

    Its slope comes from ``torch.func``; positions where value or slope jump are found by following, in every interval
    of a fine grid on [-64, 64], the half over which they change more, down to neighbouring floats.

    Args:
        function: Maps a float64 tensor to one of the same shape, element by element.
        kinks: Positions where it is not smooth, if known; they replace the search.

    Returns:
        The description.

    Raises:
        TypeError: If the callable does not take or return tensors, or cannot be differentiated.
        ValueError: If it is not elementwise, not finite, or has more kinks than can be handled.
    """
    name = str(getattr(function, "__name__", type(function).__name__))
    value, slope = _value_of(function, name), _slope_of(function, name)
    _check_elementwise(value, name)
    found = _find_kinks(value, slope, name) if kinks is None else _check_kinks(kinks)
    return describe(name, value, slope, kinks=found)


def _value_of(function: Callable[[Any], Any], name: str) -> Elementwise:
    def value(u: Array) -> Array:
        given = torch.from_numpy(np.array(u, dtype=np.float64))
        try:
            with torch.no_grad():
                result = function(given.clone())  # an in-place activation must not spoil the nodes
        except Exception as error:
            raise TypeError(
                f"activation {name!r} failed on a float64 tensor of shape {tuple(given.shape)}: "
                f"{type(error).__name__}: {error}; give a callable that maps a tensor to one of the same shape."
            ) from error
        if not isinstance(result, Tensor) or result.shape != given.shape:
            got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"activation {name!r} must map a tensor of shape {tuple(given.shape)} to the same shape, got {got}; "
                "give an elementwise callable."
            )
        return np.asarray(result.detach().to(torch.float64).numpy())

    return value


def _slope_of(function: Callable[[Any], Any], name: str) -> Elementwise:
    def slope(u: Array) -> Array:
        try:
            # In the caller's inference mode some releases of torch differentiate to zero without a word.
            with torch.inference_mode(False):
                given = torch.from_numpy(np.array(u, dtype=np.float64))
                # One pull-back of ones is vmap(grad) for an elementwise function, at the price of one call.
                pull_back = torch.func.vjp(lambda x: function(x * 1.0), given)[1]
                (gradient,) = pull_back(torch.ones_like(given))
        except Exception as error:
            raise TypeError(
                f"activation {name!r} cannot be differentiated by torch.func: {type(error).__name__}: {error}; "
                "write it with torch operations."
            ) from error
        return np.asarray(gradient.detach().numpy())

    return slope


def _check_elementwise(value: Elementwise, name: str) -> None:
    points = np.linspace(-3.3, 3.9, 12)
    together = value(points)
    if not np.all(np.isfinite(together)):
        where = points[~np.isfinite(together)][0]
        raise ValueError(
            f"activation {name!r} is not finite at {where:.3g}; give one that is defined on the whole real line."
        )
    reshaped = value(points[::-1].copy().reshape(3, 4)).ravel()[::-1]
    if not np.allclose(together, reshaped, rtol=1e-9, atol=1e-12):
        raise ValueError(
            f"activation {name!r} is not elementwise and deterministic: its values depend on the other elements or on "
            "chance; give a function of one number."
        )


def _check_kinks(kinks: Iterable[float]) -> tuple[float, ...]:
    places = tuple(float(k) for k in kinks)
    for place in places:
        if not math.isfinite(place):
            raise ValueError(f"kinks must be finite numbers, got {place}; give positions on the input axis.")
    return places


def _find_kinks(value: Elementwise, slope: Elementwise, name: str) -> tuple[float, ...]:
    count = int(2 * _GRID_REACH / _GRID_STEP)
    # Off the round numbers, where kinks sit.
    grid = np.asarray(-_GRID_REACH + (np.arange(count + 1) + 0.37182818) * _GRID_STEP)
    edges, found = np.asarray(grid, dtype=np.float64), np.zeros(0)
    for _ in range(3):  # a second kink in the same interval shows once the first has cut it
        new = _bisect(value, slope, edges)
        new = new[np.abs(new[:, None] - found).min(axis=1, initial=np.inf) > 1e-9] if found.size else new
        if not new.size:
            break
        found = np.unique(np.concatenate([found, new]))
        if found.size > _MAX_KINKS:
            raise ValueError(
                f"activation {name!r} has more than {_MAX_KINKS} kinks or jumps within [-64, 64]; "
                "such an activation is not supported."
            )
        beside = np.concatenate([found - 1e-8, found + 1e-8])
        edges = np.asarray(np.unique(np.concatenate([grid, beside])), dtype=np.float64)
    return tuple(_rounded(float(k)) for k in found)


def _bisect(value: Elementwise, slope: Elementwise, edges: Array) -> Array:
    """Shrink every interval onto the half where value and slope change more, and keep those that still jump.

    Returns:
        Positions of the jumps.
    """
    low, high = edges[:-1].copy(), edges[1:].copy()
    wide = high - low > 1e-7  # the slits around kinks that are known already
    low, high = low[wide], high[wide]
    at_low, at_high = _state(value, slope, low), _state(value, slope, high)
    for _ in range(48):
        middle = 0.5 * (low + high)
        at_middle = _state(value, slope, middle)
        left = np.abs(at_middle - at_low).sum(axis=0) >= np.abs(at_high - at_middle).sum(axis=0)
        high, at_high = np.where(left, middle, high), np.where(left, at_middle, at_high)
        low, at_low = np.where(left, low, middle), np.where(left, at_low, at_middle)
    size = 1 + np.maximum(np.abs(at_low), np.abs(at_high))
    jumped = np.any(np.abs(at_high - at_low) > 1e-6 * size, axis=0)
    return np.asarray(0.5 * (low + high)[jumped])


def _state(value: Elementwise, slope: Elementwise, u: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        state = np.stack([value(u), slope(u)])
    return np.nan_to_num(state, nan=0.0, posinf=1e300, neginf=-1e300)


def _rounded(place: float) -> float:
    """Snap a position found by bisection to the short decimal it stands for.

    Returns:
        The position, rounded if it lies within 1e-11 of a decimal of nine digits.
    """
    short = round(place, 9)
    return (short + 0.0) if abs(short - place) < 1e-11 * max(1.0, abs(place)) else place
