"""How optimizers orthogonalize: named settings of speed against error, and the dtype of the products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isometry.linalg import orthogonalize
from isometry.linalg import polar as exact_polar
from isometry.optim._base import check_choice

__all__ = ["ComputeDtype", "Polar", "check_polar", "orthogonalized", "resolved_dtype"]

Polar = Literal["fast", "accurate", "muon", "dion", "exact"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]


def orthogonalized(matrices: Tensor, *, polar: Polar = "fast", compute_dtype: torch.dtype | None = None) -> Tensor:
    """Replace matrices by their polar factors, as well as the setting does.

    Args:
        matrices: Shape ``(*batch, m, n)``.
        polar: The setting.
        compute_dtype: Dtype of the products; default: at least float32.

    Returns:
        Same shape and dtype. Zero matrices stay zero.
    """
    if polar == "exact":
        return exact_polar(matrices).factor
    if polar == "accurate":
        return orthogonalize(matrices, coefficients="minimax", steps=9)
    return orthogonalize(matrices, coefficients="muon", compute_dtype=compute_dtype)


def check_polar(options: Mapping[str, Any]) -> None:
    """Insist on a known setting and dtype."""
    check_choice("polar", options["polar"], get_args(Polar))
    check_choice("compute_dtype", options["compute_dtype"], get_args(ComputeDtype))


def resolved_dtype(options: Mapping[str, Any], matrices: Tensor) -> torch.dtype:
    """Give the dtype of the products for matrices of a dtype.

    Returns:
        float64 for float64; else what the option says.
    """
    if matrices.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if options["compute_dtype"] == "bfloat16" else torch.float32
