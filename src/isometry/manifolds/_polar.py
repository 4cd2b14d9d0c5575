"""The orthonormal polar factor as projection and as retraction: exact, or by a few Newton-Schulz steps near a point.

For a point x and a tangent vector v, (x + v)^T (x + v) = I + v^T v, so after a small step all singular values are near
one, where two or three products of matrices bring them to one to rounding.

References:
    N. J. Higham, Functions of Matrices: Theory and Computation, SIAM, 2008, chapter 8.
    P.-A. Absil, R. Mahony, R. Sepulchre, Optimization Algorithms on Matrix Manifolds, Princeton University Press, 2008.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isometry.linalg import orthogonalize, svd

__all__ = ["NEAR_STEPS", "gram_spread", "nearest_orthonormal", "newton_schulz_polar", "newton_schulz_steps"]

NEAR_STEPS = 3  # more Newton-Schulz steps than this cost as much as a decomposition


def nearest_orthonormal(name: str, x: Tensor) -> Tensor:
    """Give the matrix with orthonormal columns that is nearest to a matrix of full rank.

    Args:
        name: The argument's name, for the message.
        x: Shape ``(*batch, n, p)``, n >= p, float32 or float64.

    Returns:
        The polar factor, orthonormal to rounding.

    Raises:
        ValueError: If a matrix has no full rank; the message names the rank.
    """
    n, p = x.shape[-2:]
    eps = torch.finfo(x.dtype).eps
    found = svd(x)
    if bool((_smallest_ratio(found.values) < 16 * math.sqrt(n) * eps).any()):
        # Within the error of the decomposition: look again in float64, down to what the matrix's own rounding leaves.
        found = svd(x, dtype=torch.float64)
        ranks = (found.values > 2 * eps * found.values[..., :1]).sum(-1)
        if bool((ranks < p).any()):
            _refuse_rank(name, ranks, n, p)
    factor = (found.u @ found.vh).to(x.dtype)
    # LAPACK's vectors are orthonormal to about n eps; one step brings the product to rounding.
    return orthogonalize(factor, coefficients="cubic", steps=1, normalize="none")


def gram_spread(y: Tensor) -> float:
    """Measure ``|y^T y - I|_F``; the squares of y's singular values lie within this of one.

    Returns:
        The largest over the batch.
    """
    difference = y.mT @ y
    difference.diagonal(dim1=-2, dim2=-1).sub_(1)
    return float(torch.linalg.vector_norm(difference, dim=(-2, -1)).max())


def newton_schulz_steps(spread: float, dtype: torch.dtype) -> int | None:
    """Count the quintic steps that bring every singular value to one, to rounding.

    The quintic p(s) = (15 s - 10 s^3 + 3 s^5) / 8 has p'(s) = 15 (1 - s^2)^2 / 8 >= 0, so the extremes of an interval
    stay its extremes, and p(s) - 1 = (s - 1)^3 (3 s^2 + 9 s + 8) / 8. It converges for all s in (0, sqrt(7/3)): a
    spread below one is a guarantee, and one that no tangency is needed for.

    Args:
        spread: ``|y^T y - I|_F``.
        dtype: The dtype of the products.

    Returns:
        The number of steps; None where convergence is not guaranteed.
    """
    if not spread < 1:
        return None
    enough = torch.finfo(dtype).eps / 2
    # Errors s - 1 of the extremes sqrt(1 - spread), sqrt(1 + spread), without cancellation.
    errors = [sign * spread / (1 + math.sqrt(1 + sign * spread)) for sign in (-1, 1)]
    steps = 0
    while max(map(abs, errors)) > enough:
        errors = [e**3 * (3 * (1 + e) ** 2 + 9 * (1 + e) + 8) / 8 for e in errors]
        steps += 1
    return steps


def newton_schulz_polar(y: Tensor, steps: int) -> Tensor:
    """Take quintic Newton-Schulz steps from a matrix whose singular values are near one.

    Args:
        y: Shape ``(*batch, n, p)``.
        steps: How many, from ``newton_schulz_steps``.

    Returns:
        The polar factor to rounding.
    """
    return y if steps == 0 else orthogonalize(y, coefficients="quintic", steps=steps, normalize="none")


def _smallest_ratio(values: Tensor) -> Tensor:
    largest = values[..., 0]
    return values[..., -1] / torch.where(largest == 0, 1.0, largest)


def _refuse_rank(name: str, ranks: Tensor, n: int, p: int) -> None:
    """Refuse.

    Raises:
        ValueError: Always.
    """
    short = (ranks.reshape(-1) < p).nonzero()[0]
    where = f"{name}[{int(short)}]" if ranks.numel() > 1 else name
    raise ValueError(
        f"{where} has rank {int(ranks.reshape(-1)[short])}, but orthonormalizing a matrix of {n} x {p} takes rank {p}: "
        "its nearest point is not unique. Draw it anew (isometry.init.orthogonal_), or add noise first."
    )
