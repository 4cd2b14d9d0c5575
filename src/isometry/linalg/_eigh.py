"""One guarded symmetric eigendecomposition for the whole library: scaled, retried, deterministic in its signs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from isometry._base import Cost, Result, stopwatch
from isometry.linalg._guarded import Factors, guarded, rescale
from isometry.linalg._svd import column_signs, prepared

__all__ = ["Eigenvalues", "Eigh", "eigh", "eigvalsh"]


@dataclass(frozen=True)
class Eigh(Result):
    """An eigendecomposition a = vectors diag(values) vectors^T.

    Attributes:
        values: Eigenvalues, ascending, shape ``(*batch, n)``.
        vectors: Eigenvectors as columns, shape ``(*batch, n, n)``; in each the entry of largest magnitude is positive.
        scale: The power of two that each matrix was divided by, shape ``(*batch,)``.
        attempts: What was tried, in order; the last attempt gave the numbers.
        residual: ``|a v - v diag(w)|_F / |a|_F``, the largest over the batch.
        converged: Whether the residual is at rounding level.
        dtype: The dtype in which the last attempt worked.
        cost: What it took.
    """

    values: Tensor
    vectors: Tensor = field(repr=False)
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
class Eigenvalues(Result):
    """Eigenvalues alone.

    Attributes:
        values: Ascending, shape ``(*batch, n)``.
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


def eigh(a: Tensor, *, dtype: torch.dtype | None = None) -> Eigh:
    """Decompose a symmetric matrix or a batch of them, detached from any graph.

    Asymmetry at rounding level (up to the square root of the dtype's epsilon) is averaged away; more is refused.

    Args:
        a: Shape ``(*batch, n, n)``, real, finite and symmetric.
        dtype: Work in, and return, this dtype; default: float32 at the least, cast back to the dtype of ``a``.

    Returns:
        The decomposition with its residual and its history.

    Example:
        >>> eigh(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).values
        tensor([1., 3.])
    """
    with torch.no_grad(), stopwatch() as watch:
        work, scale, out = _symmetric(a, dtype)
        done = guarded(work, _decompose, _rescue, _residual)
        w, v = done.factors
        values = rescale(w, scale, out)
        vectors = (v * column_signs(v).unsqueeze(-2)).to(out)
    cost = Cost(bytes=3 * work.numel() * work.element_size(), seconds=watch.seconds)
    return Eigh(values, vectors, scale, done.attempts, done.residual, done.converged, w.dtype, cost)


def eigvalsh(a: Tensor, *, dtype: torch.dtype | None = None) -> Eigenvalues:
    """Give the eigenvalues of a symmetric matrix or a batch of them, detached from any graph.

    Args:
        a: Shape ``(*batch, n, n)``, real, finite and symmetric up to rounding, as for ``eigh``.
        dtype: Work in, and return, this dtype; default: float32 at the least, cast back to the dtype of ``a``.

    Returns:
        The values with a check on their sum of squares and their history.

    Example:
        >>> eigvalsh(torch.tensor([[0.0, 2.0], [2.0, 0.0]])).values
        tensor([-2.,  2.])
    """
    with torch.no_grad(), stopwatch() as watch:
        work, scale, out = _symmetric(a, dtype)
        done = guarded(work, lambda m: (torch.linalg.eigvalsh(m),), lambda m: (_rescue(m)[0],), _values_residual)
        (w,) = done.factors
        values = rescale(w, scale, out)
    cost = Cost(bytes=2 * work.numel() * work.element_size(), seconds=watch.seconds)
    return Eigenvalues(values, scale, done.attempts, done.residual, done.converged, w.dtype, cost)


def _symmetric(a: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, torch.dtype]:
    work, scale, out = prepared(a, dtype)
    if a.shape[-1] != a.shape[-2]:
        raise ValueError(f"a must be square, got shape {tuple(a.shape)}; use svd for a rectangular matrix.")
    scaled = work / scale[..., None, None]  # entries are at most one in magnitude
    asymmetry = float((scaled - scaled.mT).abs().max())
    allowed = torch.finfo(a.dtype).eps ** 0.5
    if asymmetry > allowed:
        raise ValueError(
            f"a must be symmetric: entries differ from their mirror images by {asymmetry:.1e} of the largest entry "
            f"(allowed in {a.dtype}: {allowed:.1e}); pass (a + a.mT) / 2, or use svd."
        )
    return (scaled + scaled.mT) / 2, scale, out


def _decompose(a: Tensor) -> Factors:
    w, v = torch.linalg.eigh(a)
    return w, v


def _rescue(a: np.ndarray) -> tuple[np.ndarray, ...]:
    import scipy.linalg  # rarely needed, and slow to import

    w, v = scipy.linalg.eigh(a, driver="ev")
    return w, v


def _residual(a: Tensor, factors: Factors) -> Tensor:
    w, v = factors
    norm: Tensor = torch.linalg.matrix_norm(a)
    error: Tensor = torch.linalg.matrix_norm(a @ v - v * w.unsqueeze(-2))
    return error / norm.masked_fill(norm == 0, 1.0)


def _values_residual(a: Tensor, factors: Factors) -> Tensor:
    (w,) = factors
    square: Tensor = torch.linalg.matrix_norm(a.double()).square()
    return (w.double().square().sum(-1) - square).abs() / square.masked_fill(square == 0, 1.0)
