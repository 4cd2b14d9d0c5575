"""One guarded singular value decomposition for the whole library: scaled, retried, deterministic in its signs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from isometry._base import Cost, Result, stopwatch
from isometry.linalg._guarded import Factors, binary_scale, guarded, rescale
from isometry.linalg._precision import check_matrix, check_real_dtype, working_dtype

__all__ = ["SVD", "SingularValues", "svd", "svdvals"]

_TALL = 1.6  # times as long as wide: then a QR decomposition first pays


@dataclass(frozen=True)
class SVD(Result):
    """A thin singular value decomposition a = u diag(values) vh.

    Attributes:
        u: Left vectors, shape ``(*batch, m, k)``, k = min(m, n); in each column the entry of largest magnitude is
            positive.
        values: Singular values, descending, shape ``(*batch, k)``.
        vh: Right vectors, transposed, shape ``(*batch, k, n)``.
        scale: The power of two that each matrix was divided by, shape ``(*batch,)``.
        attempts: What was tried, in order; the last attempt gave the numbers.
        residual: ``|a - u s vh|_F / |a|_F``, the largest over the batch.
        converged: Whether the residual is at rounding level.
        dtype: The dtype in which the last attempt worked.
        cost: What it took.
    """

    u: Tensor = field(repr=False)
    values: Tensor
    vh: Tensor = field(repr=False)
    scale: Tensor
    attempts: tuple[str, ...]
    residual: float
    converged: bool
    dtype: torch.dtype
    cost: Cost

    @property
    def retried(self) -> bool:
        """Whether the first attempt was not good enough."""
        return len(self.attempts) > 1


@dataclass(frozen=True)
class SingularValues(Result):
    """Singular values alone.

    Attributes:
        values: Descending, shape ``(*batch, min(m, n))``.
        scale: The power of two that each matrix was divided by, shape ``(*batch,)``.
        attempts: What was tried, in order; the last attempt gave the numbers.
        residual: ``abs(|values|^2 - |a|_F^2) / |a|_F^2``, the largest over the batch.
        converged: Whether the residual is at rounding level.
        dtype: The dtype in which the last attempt worked.
        cost: What it took.
    """

    values: Tensor
    scale: Tensor
    attempts: tuple[str, ...]
    residual: float
    converged: bool
    dtype: torch.dtype
    cost: Cost

    @property
    def retried(self) -> bool:
        """Whether the first attempt was not good enough."""
        return len(self.attempts) > 1


def svd(a: Tensor, *, dtype: torch.dtype | None = None) -> SVD:
    """Decompose a matrix or a batch of them, detached from any graph.

    Entries of 1e-30 and of 1e30 work in float32, since every matrix is first divided by the power of two next to its
    largest entry (which is exact).

    Args:
        a: Shape ``(*batch, m, n)``, real and finite.
        dtype: Work in, and return, this dtype; default: float32 at the least, cast back to the dtype of ``a``.

    Returns:
        The decomposition with its residual and its history.

    Example:
        >>> svd(torch.diag(torch.tensor([1e-30, 3e-30]))).values
        tensor([3.0000e-30, 1.0000e-30])
    """
    with torch.no_grad(), stopwatch() as watch:
        work, scale, out = prepared(a, dtype)
        done = guarded(work / scale[..., None, None], _decompose, _rescue, _residual)
        u, s, vh = done.factors
        sign = column_signs(u)
        u, vh = u * sign.unsqueeze(-2), vh * sign.unsqueeze(-1)
        values = rescale(s, scale, out)
    return SVD(
        u.to(out),
        values,
        vh.to(out),
        scale,
        done.attempts,
        done.residual,
        done.converged,
        s.dtype,
        _cost(work, watch.seconds),
    )


def svdvals(a: Tensor, *, dtype: torch.dtype | None = None) -> SingularValues:
    """Give the singular values of a matrix or a batch of them, detached from any graph.

    Args:
        a: Shape ``(*batch, m, n)``, real and finite.
        dtype: Work in, and return, this dtype; default: float32 at the least, cast back to the dtype of ``a``.

    Returns:
        The values with a check on their sum of squares and their history.

    Example:
        >>> svdvals(torch.tensor([[3.0, 0.0], [0.0, -4.0]])).values
        tensor([4., 3.])
    """
    with torch.no_grad(), stopwatch() as watch:
        work, scale, out = prepared(a, dtype)
        done = guarded(
            work / scale[..., None, None],
            lambda m: (torch.linalg.svdvals(_squared_off(m)),),
            lambda m: (_rescue(m)[1],),
            _values_residual,
        )
        (s,) = done.factors
        values = rescale(s, scale, out)
    return SingularValues(
        values, scale, done.attempts, done.residual, done.converged, s.dtype, _cost(work, watch.seconds)
    )


def prepared(a: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, torch.dtype]:
    """Check a matrix and bring it to its working dtype.

    Returns:
        The matrix, its scale, and the dtype of the results.
    """
    check_matrix("a", a)
    out = check_real_dtype("dtype", dtype) if dtype is not None else a.dtype
    work = a.detach().to(working_dtype(out))
    return work, binary_scale(work), out


def column_signs(vectors: Tensor) -> Tensor:
    """Give the sign of each column's entry of largest magnitude (the first one of equal magnitude), never zero.

    Args:
        vectors: Shape ``(*batch, m, k)``.

    Returns:
        Shape ``(*batch, k)``, entries +1 or -1.
    """
    index = vectors.abs().argmax(dim=-2, keepdim=True)
    largest = vectors.gather(-2, index).squeeze(-2)
    return torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def _squared_off(a: Tensor) -> Tensor:
    """Reduce tall or wide matrices to square ones of the same singular values, which takes half the time from there.

    Returns:
        The triangular factor of a QR decomposition, or the matrices as they are.
    """
    rows, columns = a.shape[-2:]
    if max(rows, columns) < _TALL * min(rows, columns):
        return a
    tall = a if rows > columns else a.transpose(-2, -1)
    triangle: Tensor = torch.linalg.qr(tall, mode="r").R
    return triangle


def _decompose(a: Tensor) -> Factors:
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u, s, vh


def _rescue(a: np.ndarray) -> tuple[np.ndarray, ...]:
    import scipy.linalg  # rarely needed, and slow to import

    u, s, vh = scipy.linalg.svd(a, full_matrices=False, lapack_driver="gesvd")
    return u, s, vh


def _residual(a: Tensor, factors: Factors) -> Tensor:
    u, s, vh = factors
    norm: Tensor = torch.linalg.matrix_norm(a)
    error: Tensor = torch.linalg.matrix_norm(a - (u * s.unsqueeze(-2)) @ vh)
    return error / norm.masked_fill(norm == 0, 1.0)


def _values_residual(a: Tensor, factors: Factors) -> Tensor:
    (s,) = factors
    square: Tensor = torch.linalg.matrix_norm(a.double()).square()
    return (s.double().square().sum(-1) - square).abs() / square.masked_fill(square == 0, 1.0)


def _cost(work: Tensor, seconds: float) -> Cost:
    return Cost(bytes=3 * work.numel() * work.element_size(), seconds=seconds)
