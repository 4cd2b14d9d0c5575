"""The dtype policy of the room: what a matrix may be, and in which dtype it is worked on.

Decompositions run in float32 at the least, float64 where the input is float64, and their outputs are cast back to the
input's dtype. bfloat16 and float16 are storage formats here, never working ones (unless a caller asks for speed).
"""

from __future__ import annotations

import torch
from torch import Tensor

from isometry._base import check_finite, check_tensor

__all__ = ["check_matrix", "check_real_dtype", "check_size", "working_dtype"]


def check_real_dtype(argument: str, dtype: torch.dtype) -> torch.dtype:
    """Insist on a real floating-point dtype.

    Returns:
        The dtype itself.

    Raises:
        TypeError: If it is complex, integer or boolean.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"{argument} must be real floating point, got {dtype}; pass float64, float32, bfloat16 or float16."
        )
    return dtype


def check_size(argument: str, value: int) -> int:
    """Insist on a whole number of at least one.

    Returns:
        The number itself.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below one.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, got {type(value).__name__}; pass a whole number >= 1.")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, got {value}.")
    return value


def check_matrix(argument: str, a: object, *, finite: bool = True) -> Tensor:
    """Insist on a non-empty real matrix, or a batch of them, whose entries can be read.

    Args:
        argument: The argument's name, for the message.
        a: What was given; shape ``(*batch, m, n)`` is wanted.
        finite: Refuse NaN and infinity as well.

    Returns:
        The tensor itself.

    Raises:
        ValueError: If it is on the meta device, empty, not a matrix, or holds non-finite values.
    """
    tensor = check_tensor(argument, a, min_ndim=2)
    check_real_dtype(f"{argument}'s dtype", tensor.dtype)
    if tensor.is_meta:
        raise ValueError(f"{argument} is on the meta device and has no values; materialize it first.")
    return check_finite(argument, tensor) if finite else tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype in which a decomposition of such a matrix runs.

    Returns:
        float64 for float64, float32 for everything else.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32
