"""How far a matrix is from a manifold, and how far the rounding of its dtype allows it to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isometry._base import Result, check_positive
from isometry.linalg._precision import working_dtype

__all__ = ["Defect", "rounding_tolerance"]


@dataclass(frozen=True)
class Defect(Result):
    """The distance of a matrix, or the worst of a batch, from satisfying a manifold's equation.

    Attributes:
        max_abs: Largest entry of ``|Q^T Q - I|`` (Stiefel) or of ``|diag(Q^T Q) - 1|`` (Oblique).
        frobenius: Frobenius norm of the same difference; the largest over the batch.
        tolerance: What ``ok`` asks for: a ``frobenius`` of at most this.
        ok: Whether the matrix is on the manifold as far as its dtype can tell.
        dtype: The dtype in which the matrix is stored.
    """

    max_abs: float
    frobenius: float
    tolerance: float
    ok: bool
    dtype: torch.dtype

    def __str__(self) -> str:
        state = "on the manifold" if self.ok else "OFF the manifold"
        return (
            f"{state}: defect {self.frobenius:.2g} (Frobenius), {self.max_abs:.2g} (largest entry); "
            f"allowed in {str(self.dtype).removeprefix('torch.')}: {self.tolerance:.2g}"
        )


def rounding_tolerance(columns: int, dtype: torch.dtype) -> float:
    """Give the Frobenius defect that rounding explains.

    Rounding each entry of Q to unit roundoff eps / 2 changes Q^T Q by at most 2 (eps / 2) |Q|_F = eps sqrt(p). Twice
    that is allowed for the storage, and 16 times that of the working dtype for the arithmetic: a Householder QR in
    float32 leaves 2e-5 at 1024 columns, where this gives 6e-5.

    Args:
        columns: p, the number of orthonormal (or unit) columns.
        dtype: The dtype in which the matrix is stored.

    Returns:
        The tolerance.
    """
    eps = max(2 * torch.finfo(dtype).eps, 16 * torch.finfo(working_dtype(dtype)).eps)
    return eps * math.sqrt(columns)


def defect_of(difference: Tensor, columns: int, dtype: torch.dtype, tolerance: float | None) -> Defect:
    """Judge a difference that is zero on the manifold.

    Args:
        difference: Shape ``(*batch, p, p)``, or ``(*batch, 1, p)`` where only a diagonal counts; float64.
        columns: p.
        dtype: Storage dtype of the matrix.
        tolerance: Largest Frobenius norm allowed; None for what rounding explains.

    Returns:
        The defect, the worst over the batch.
    """
    allowed = rounding_tolerance(columns, dtype) if tolerance is None else check_positive("tolerance", tolerance)
    frobenius = float(torch.linalg.vector_norm(difference, dim=(-2, -1)).max())
    return Defect(float(difference.abs().max()), frobenius, allowed, frobenius <= allowed, dtype)
