"""Numbers in, numbers of the same kind out: floats, arrays and tensors, always computed in float64."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isometry._base import check_positive
from isometry.theory._quadrature import Array

__all__ = ["Values", "check_keep", "check_sigmas", "given_like", "to_array"]

Values = TypeVar("Values", float, NDArray[np.float64], Tensor)


def to_array(
    argument: str, value: float | NDArray[np.float64] | Tensor, *, low: float, high: float, open_low: bool = False
) -> Array:
    """Read a float, an array or a tensor as a float64 array, and insist that it lies in a range.

    Returns:
        The values.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty or any element is NaN or out of range.
    """
    if isinstance(value, Tensor):
        array = value.detach().to("cpu", torch.float64).numpy()
    elif isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value, dtype=np.float64)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        array = np.array(float(value))
    else:
        raise TypeError(f"{argument} must be a number, an array or a tensor, got {type(value).__name__}; convert it.")
    if array.size == 0:
        raise ValueError(f"{argument} is empty (shape {array.shape}); pass at least one value.")
    good = (array > low if open_low else array >= low) & (array <= high) & np.isfinite(array)
    if not np.all(good):
        bad = array[~good].ravel()[0]
        bounds = f"{'>' if open_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
        raise ValueError(f"{argument} must be finite and {bounds}, got {bad:g}; check where it comes from.")
    return array


def given_like(template: Values, array: Array) -> Values:
    """Turn a result into the kind of thing that was given.

    Returns:
        A float for a number, an array for an array, a float64 tensor on the same device for a tensor.
    """
    if isinstance(template, Tensor):
        return torch.as_tensor(array, dtype=torch.float64, device=template.device)
    if isinstance(template, np.ndarray):
        return np.asarray(array, dtype=np.float64)
    return float(array)


def check_sigmas(sigma_w: float, sigma_b: float = 0.0) -> tuple[float, float]:
    """Insist on a positive weight scale and a non-negative bias scale, both standard deviations.

    Returns:
        Both as floats.
    """
    return check_positive("sigma_w", _plain(sigma_w)), check_positive("sigma_b", _plain(sigma_b), zero=True)


def check_keep(dropout_keep: float) -> float:
    """Insist on a keep rate in (0, 1].

    Returns:
        The rate.

    Raises:
        ValueError: If it is above 1.
    """
    keep = check_positive("dropout_keep", _plain(dropout_keep))
    if keep > 1.0:
        raise ValueError(f"dropout_keep must be at most 1, got {keep}; it is the rate of units kept, not dropped.")
    return keep


def _plain(value: float | Tensor) -> float:
    if isinstance(value, Tensor | np.generic | np.ndarray) and np.size(value) == 1:
        return float(value)
    return value  # type: ignore[return-value]
