"""The polar factor: the orthogonal matrix nearest to a given one.

References:
    N. J. Higham, Computing the polar decomposition, with applications, SIAM J. Sci. Stat. Comput. 7(4), 1986.
    N. J. Higham, Functions of Matrices: Theory and Computation, SIAM, 2008, chapter 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry._base import Cost, Result, stopwatch, unknown_name
from isometry.linalg._coefficients import Coefficients
from isometry.linalg._coefficients import coefficients as look_up
from isometry.linalg._orthogonalize import Normalization, newton_schulz, orthogonality_defect
from isometry.linalg._precision import check_matrix, working_dtype
from isometry.linalg._svd import svd

__all__ = ["Polar", "polar"]

Method = Literal["svd", "newton-schulz"]


@dataclass(frozen=True)
class Polar(Result):
    """The orthonormal polar factor of a matrix and how good it is.

    Attributes:
        factor: U V^T for a = U S V^T; shape and dtype of the input.
        defect: ``|Q^T Q - I|_F`` of ``factor`` (on its smaller side), the largest over the batch.
        residual: ``|H - H^T|_F / |H|_F`` for H = Q^T a (on the smaller side), the largest over the batch: zero for the
            exact factor, since a = Q H with symmetric H.
        converged: Whether the defect is at the rounding level of the factor's dtype.
        condition: Largest ratio of extreme singular values over the batch, infinite for a singular matrix, whose
            factor is not unique; None with Newton-Schulz, which does not see it.
        method: ``"svd"`` or ``"newton-schulz"``.
        coefficients: Name of the coefficient set; None with the SVD.
        steps: Newton-Schulz steps taken; 0 with the SVD.
        dtype: Dtype of the factor.
        cost: What it took.
    """

    factor: Tensor = field(repr=False)
    defect: float
    residual: float
    converged: bool
    condition: float | None
    method: str
    coefficients: str | None
    steps: int
    dtype: torch.dtype
    cost: Cost


def polar(
    a: Tensor,
    *,
    method: Method = "svd",
    coefficients: str | Coefficients = "cubic",
    steps: int | None = None,
    normalize: Normalization = "frobenius",
) -> Polar:
    """Compute the orthonormal polar factor, detached from any graph.

    ``"svd"`` is exact for every matrix that is not singular (for a singular one it gives some orthonormal completion).
    ``"newton-schulz"`` uses matrix products alone; it is as exact for well-conditioned matrices, and leaves singular
    values near zero behind (they need about log(1 / s) / log(1.5) steps with ``"cubic"``). Both run in float32 at the
    least and cast back.

    Args:
        a: Shape ``(*batch, m, n)``, real and finite.
        method: ``"svd"`` or ``"newton-schulz"``.
        coefficients: Coefficient set for Newton-Schulz; see ``COEFFICIENTS``. ``"muon"`` does not converge to the
            polar factor and says so in ``converged``.
        steps: Newton-Schulz steps; default: see ``orthogonalize``.
        normalize: ``"frobenius"``, or ``"none"`` for matrices that are nearly orthogonal; see ``orthogonalize``.

    Returns:
        The factor with its defect from orthogonality.

    Raises:
        ValueError: If the iteration diverged, or the method is unknown.

    Example:
        >>> polar(torch.tensor([[0.0, 5.0], [0.1, 0.0]])).factor
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_matrix("a", a)
    if method not in get_args(Method):
        error = unknown_name("method", method, get_args(Method))
        raise error
    with torch.no_grad(), stopwatch() as watch:
        if method == "svd":
            name, count = None, 0
            decomposed = svd(a, dtype=working_dtype(a.dtype))
            product = decomposed.u @ decomposed.vh
            # LAPACK's vectors are orthonormal to about n eps; one Newton-Schulz step brings them to rounding.
            polished, _ = newton_schulz(product, chosen="cubic", steps=1, normalize="none", compute_dtype=None)
            factor = polished.to(a.dtype)
            low, high = decomposed.values[..., -1], decomposed.values[..., 0]
            condition = float((high.double() / low.double()).nan_to_num(math.inf, math.inf).max())
        else:
            name, condition = look_up(coefficients).name, None
            factor, count = newton_schulz(
                a.detach(), chosen=coefficients, steps=steps, normalize=normalize, compute_dtype=None
            )
        defect = orthogonality_defect(factor)
        residual = _asymmetry(a, factor)
    if not defect <= 10 * min(a.shape[-2:]) ** 0.5:  # no convergent set takes a singular value above 3
        raise ValueError(
            f"the Newton-Schulz iteration diverged: with coefficients={name!r} and normalize={normalize!r} the "
            'singular values of a must be near 1; use normalize="frobenius".'
        )
    enough = max(min(a.shape[-2:]), 10) * torch.finfo(a.dtype).eps
    cost = Cost(bytes=4 * a.numel() * max(a.element_size(), 4), seconds=watch.seconds)
    return Polar(factor, defect, residual, defect <= enough, condition, method, name, count, a.dtype, cost)


def _asymmetry(a: Tensor, q: Tensor) -> float:
    left, right = (q.mT, a) if a.shape[-2] >= a.shape[-1] else (a, q.mT)
    left, right = left.detach().double(), right.detach().double()
    h = left @ right
    norm: Tensor = torch.linalg.matrix_norm(h)
    error: Tensor = torch.linalg.matrix_norm(h - h.mT)
    return float((error / norm.masked_fill(norm == 0, 1.0)).max())
