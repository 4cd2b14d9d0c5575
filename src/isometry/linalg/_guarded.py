"""The guard around LAPACK: scale, try, try again in higher precision, and say what was done.

Three attempts, each made only if the one before raised, returned non-finite numbers, or missed its residual bound:
the working dtype with torch's divide-and-conquer driver; float64 with the same driver; float64 with LAPACK's slower
QR iteration (through SciPy, on the CPU), which converges where divide and conquer does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isometry.linalg._precision import working_dtype

__all__ = ["Guarded", "binary_scale", "guarded", "rescale"]

Factors = tuple[Tensor, ...]
_EXPONENT_LIMITS = {torch.float32: 120, torch.float64: 1000}  # 2**limit and its inverse are normal numbers


@dataclass(frozen=True)
class Guarded:
    """What an attempt gave.

    Attributes:
        factors: The decomposition's tensors, of the scaled matrix.
        residual: The largest relative residual over the batch.
        converged: Whether the residual is within its bound.
        attempts: Names of the attempts made; the last one gave the factors.
    """

    factors: Factors
    residual: float
    converged: bool
    attempts: tuple[str, ...]


def binary_scale(a: Tensor) -> Tensor:
    """Give per matrix the power of two next to its largest absolute entry (1 for a zero matrix).

    Dividing by a power of two is exact, so the guard does not disturb matrices that need none.

    Args:
        a: Shape ``(*batch, m, n)``, float32 or float64, finite.

    Returns:
        Shape ``(*batch,)``, same dtype.
    """
    largest = a.abs().amax(dim=(-2, -1))
    _, exponent = torch.frexp(largest)
    limit = _EXPONENT_LIMITS[a.dtype]
    exponent = exponent.clamp(-limit, limit).masked_fill(largest == 0, 0)
    return torch.ldexp(torch.ones_like(largest), exponent)


def rescale(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo the scaling of singular values or eigenvalues and cast them.

    Args:
        values: Shape ``(*batch, k)``, of the scaled matrix.
        scale: Shape ``(*batch,)``.
        dtype: Dtype of the output.

    Returns:
        Shape ``(*batch, k)``.

    Raises:
        ValueError: If a value does not fit into ``dtype``.
    """
    out = (values.to(torch.float64) * scale.to(torch.float64).unsqueeze(-1)).to(dtype)
    if not bool(torch.isfinite(out).all()):
        raise ValueError(
            f"a has singular values or eigenvalues beyond the range of {dtype} (largest: "
            f"{torch.finfo(dtype).max:.1e}); pass a in a wider dtype, or divide it by a constant."
        )
    return out


def guarded(
    scaled: Tensor,
    decompose: Callable[[Tensor], Factors],
    rescue: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    residual: Callable[[Tensor, Factors], Tensor],
) -> Guarded:
    """Decompose a scaled batch of matrices, with as many attempts as it takes.

    Args:
        scaled: Shape ``(*batch, m, n)``, float32 or float64.
        decompose: torch's decomposition of a batch.
        rescue: SciPy's decomposition of one matrix by QR iteration.
        residual: Relative residual per matrix, from the matrix and its factors.

    Returns:
        The factors in the dtype of the last attempt, and how they came about.

    Raises:
        RuntimeError: If every attempt raised or gave non-finite numbers.
    """
    attempts: list[str] = []
    best: Guarded | None = None
    for name, matrix, run in _plan(scaled, decompose, rescue):
        attempts.append(name)
        try:
            factors = run(matrix)
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError):  # type: ignore[attr-defined]
            continue
        if not all(bool(torch.isfinite(f).all()) for f in factors):
            continue
        worst = float(residual(matrix, factors).max())
        bound = 10 * max(matrix.shape[-2:]) * torch.finfo(matrix.dtype).eps
        best = Guarded(factors, worst, worst <= bound, tuple(attempts))
        if best.converged:
            break
    if best is None:
        raise RuntimeError(
            f"no attempt ({', '.join(attempts)}) decomposed a matrix of shape {tuple(scaled.shape)}; "
            "this points to a broken LAPACK build: please compare with numpy.linalg."
        )
    return Guarded(best.factors, best.residual, best.converged, tuple(attempts))


def _plan(
    scaled: Tensor,
    decompose: Callable[[Tensor], Factors],
    rescue: Callable[[np.ndarray], tuple[np.ndarray, ...]],
) -> list[tuple[str, Tensor, Callable[[Tensor], Factors]]]:
    double = scaled.to(torch.float64)
    plan = [("float64", double, decompose), ("float64, QR iteration", double, lambda a: _one_by_one(a, rescue))]
    if working_dtype(scaled.dtype) != torch.float64:
        plan.insert(0, ("float32", scaled, decompose))
    return plan


def _one_by_one(a: Tensor, rescue: Callable[[np.ndarray], tuple[np.ndarray, ...]]) -> Factors:
    batch = a.shape[:-2]
    results = [rescue(matrix.cpu().numpy()) for matrix in a.reshape(-1, *a.shape[-2:])]
    return tuple(
        torch.stack([torch.from_numpy(np.ascontiguousarray(r[i])) for r in results])
        .reshape(*batch, *results[0][i].shape)
        .to(a.device)
        for i in range(len(results[0]))
    )
