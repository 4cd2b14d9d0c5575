"""Orthogonalization by matrix products alone: Newton-Schulz iterations with named coefficient sets.

X <- (a I + b X X^T + c (X X^T)^2) X moves every singular value by the odd polynomial a s + b s^3 + c s^5 and leaves the
singular vectors alone, so it goes to the polar factor. The sets and their sources are in ``COEFFICIENTS``.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry._base import unknown_name
from isometry.linalg._coefficients import Coefficients, coefficients
from isometry.linalg._precision import check_matrix, check_real_dtype, check_size, working_dtype

__all__ = ["Normalization", "newton_schulz", "orthogonality_defect", "orthogonalize", "step_limit"]

Normalization = Literal["frobenius", "none"]


def orthogonalize(
    a: Tensor,
    *,
    coefficients: str | Coefficients = "cubic",
    steps: int | None = None,
    normalize: Normalization = "frobenius",
    compute_dtype: torch.dtype | None = None,
) -> Tensor:
    """Bring all singular values towards 1 by Newton-Schulz steps; a tensor in, a tensor out.

    With a fixed number of steps nothing is read back to the host, and autograd and ``torch.compile`` pass through.

    Args:
        a: Shape ``(*batch, m, n)``, real. Its entries are not checked for NaN here (``polar`` does).
        coefficients: Name of a set in ``COEFFICIENTS``, or a set of one's own.
        steps: How many steps; default: as many as the set's source takes, or, if it takes none in particular, until
            the result is orthogonal to rounding (at most ``step_limit``).
        normalize: ``"frobenius"`` divides each matrix by its Frobenius norm first, which bounds the singular values by
            1. ``"none"`` trusts the caller that they are near 1 already, as after a small step from an orthogonal
            matrix, where one or two steps then reach rounding (below sqrt(3) for ``"cubic"``, 1.5 for ``"quintic"``,
            at most 1 for the tuned sets; else it diverges).
        compute_dtype: Dtype of the products; default: float32, or float64 for float64. bfloat16 is faster on
            accelerators and leaves an error of about 1e-2.

    Returns:
        Same shape and dtype as ``a``; zero singular values stay zero.

    Example:
        >>> q = orthogonalize(torch.tensor([[2.0, 0.0], [0.0, 0.5]], dtype=torch.float64))
        >>> torch.allclose(q, torch.eye(2, dtype=torch.float64))
        True
    """
    check_matrix("a", a, finite=False)
    factor, _ = newton_schulz(a, chosen=coefficients, steps=steps, normalize=normalize, compute_dtype=compute_dtype)
    return factor


def newton_schulz(
    a: Tensor,
    *,
    chosen: str | Coefficients,
    steps: int | None,
    normalize: str,
    compute_dtype: torch.dtype | None,
) -> tuple[Tensor, int]:
    """Iterate, and count the steps; the arguments are those of ``orthogonalize``.

    Returns:
        The factor in the dtype of ``a``, and the number of steps taken.

    Raises:
        ValueError: If ``normalize`` is unknown.
    """
    table = coefficients(chosen)
    if normalize not in get_args(Normalization):
        error = unknown_name("normalize", normalize, get_args(Normalization))
        raise error
    dtype = check_real_dtype("compute_dtype", compute_dtype) if compute_dtype is not None else working_dtype(a.dtype)
    count = check_size("steps", steps) if steps is not None else table.default_steps
    wide = a.shape[-2] <= a.shape[-1]
    x = a if wide else a.mT
    x = (_normalized(x, dtype) if normalize == "frobenius" else x.to(dtype)).contiguous()
    if count is None:
        x, count = _until_orthogonal(x, table)
    else:
        for index in range(count):
            x = _step(x, x @ x.mT, table, index)
    return (x if wide else x.mT).to(a.dtype), count


def step_limit(table: Coefficients, dtype: torch.dtype) -> int:
    """Give the number of steps after which even a singular value at the dtype's epsilon has come to 1.

    Returns:
        The number of steps; smaller singular values are noise and would only hold the iteration up.
    """
    value, steps = torch.finfo(dtype).eps, 0
    while value < 0.5 and steps < 200:
        value *= table.step(steps)[0]
        steps += 1
    return steps + 6


def orthogonality_defect(q: Tensor) -> float:
    """Measure how far a matrix is from orthonormal columns (rows, if wide): ``|Q^T Q - I|_F`` in float64.

    Args:
        q: Shape ``(*batch, m, n)``.

    Returns:
        The largest defect over the batch.

    Example:
        >>> orthogonality_defect(torch.eye(3) * 2)  # |4 I - I| = 3 sqrt(3)
        5.196152422706632
    """
    check_matrix("q", q, finite=False)
    x = q.detach().to(torch.float64)
    return float(_gram_defect(x @ x.mT if q.shape[-2] <= q.shape[-1] else x.mT @ x).max())


def _normalized(x: Tensor, dtype: torch.dtype) -> Tensor:
    # Dividing by the largest entry first keeps the squares in the norm from over- or underflowing.
    work = x.to(torch.promote_types(working_dtype(x.dtype), dtype))
    largest = work.abs().amax(dim=(-2, -1), keepdim=True)
    work = work / torch.where(largest == 0, 1.0, largest)
    norm = torch.linalg.vector_norm(work, dim=(-2, -1), keepdim=True)
    # A margin of two roundings, since the tuned polynomials are steep at 1.
    bound = torch.where(norm == 0, 1.0, norm) * (1 + 2 * torch.finfo(dtype).eps)
    return (work / bound).to(dtype)


def _step(x: Tensor, gram: Tensor, table: Coefficients, index: int) -> Tensor:
    a, b, c = table.step(index)
    polynomial = b * gram if c == 0 else b * gram + c * (gram @ gram)
    return a * x + polynomial @ x


def _until_orthogonal(x: Tensor, table: Coefficients) -> tuple[Tensor, int]:
    enough = 2 * math.sqrt(x.shape[-2]) * torch.finfo(x.dtype).eps
    limit = step_limit(table, x.dtype)
    before = math.inf
    for index in range(limit):
        gram = x @ x.mT
        defect = float(_gram_defect(gram.detach()).max())
        # In the repeating last step the defect is squared at least; one that no longer halves it is at rounding. The
        # tuned steps before it may well push singular values away from 1 again.
        stalled = index >= len(table.steps) and before < 1e-2 and defect > before / 2
        if defect <= enough or stalled or not math.isfinite(defect):
            return x, index
        before = defect
        x = _step(x, gram, table, index)
    return x, limit


def _gram_defect(gram: Tensor) -> Tensor:
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    defect: Tensor = torch.linalg.matrix_norm(gram - eye)
    return defect
