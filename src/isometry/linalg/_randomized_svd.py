"""A truncated SVD from random projections, with an error estimate made afterwards from fresh random probes.

References:
    N. Halko, P.-G. Martinsson, J. A. Tropp, Finding structure with randomness: probabilistic algorithms for
    constructing approximate matrix decompositions, SIAM Review 53(2), 2011. arXiv:0909.4061
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_positive, stopwatch
from isometry.linalg._guarded import binary_scale, rescale
from isometry.linalg._normal import standard_normal
from isometry.linalg._precision import check_matrix, check_size, working_dtype
from isometry.linalg._svd import svd

__all__ = ["RandomizedSVD", "randomized_svd"]

_PROBES = 10


@dataclass(frozen=True)
class RandomizedSVD(Result):
    """A truncated singular value decomposition a ~ u diag(values) vh, and how far off it may be.

    Attributes:
        u: Left vectors, shape ``(m, rank)``; in each column the entry of largest magnitude is positive.
        values: Singular values, descending, shape ``(rank,)``; never above the true ones (up to rounding).
        vh: Right vectors, transposed, shape ``(rank, n)``.
        error_bound: Bound on the spectral norm of ``a - u diag(values) vh``, from fresh Gaussian probes. It fails with
            a probability of at most ``failure_probability``, whatever ``a`` is.
        failure_probability: 10 to the minus number of probes.
        residual: ``|a - u diag(values) vh|_F / |a|_F``, computed exactly.
        converged: Whether ``error_bound <= tolerance * values[0]``; True where no tolerance was given.
        dtype: The dtype in which it was computed.
        cost: What it took; ``matvecs`` counts products of ``a`` or its transpose with one vector.
    """

    u: Tensor = field(repr=False)
    values: Tensor
    vh: Tensor = field(repr=False)
    error_bound: float
    failure_probability: float
    residual: float
    converged: bool
    dtype: torch.dtype
    cost: Cost


def randomized_svd(
    a: Tensor,
    rank: int,
    *,
    oversampling: int = 10,
    power: int = 2,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
) -> RandomizedSVD:
    """Approximate the largest singular values and vectors of a matrix, detached from any graph.

    The range finder with subspace iteration (Alg. 4.4) multiplies by ``a`` or its transpose ``2 * power + 2`` times; a
    small SVD follows. Then the part of ``a`` that the subspace missed is probed with ten fresh Gaussian vectors.

    Args:
        a: Shape ``(m, n)``, real and finite.
        rank: How many singular values are wanted; at most min(m, n).
        oversampling: Extra random directions; more of them cost little and help where the spectrum decays slowly.
        power: Subspace iterations; each one sharpens the decay of the spectrum by a square.
        tolerance: Relative to the largest singular value; decides ``converged``.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The truncated decomposition with its error bound and its exact residual.

    Raises:
        ValueError: If ``rank`` exceeds min(m, n), or ``a`` is no finite real matrix.

    Example:
        >>> a = torch.diag(torch.tensor([5.0, 3.0, 0.0, 0.0], dtype=torch.float64))
        >>> result = randomized_svd(a, 2, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(result.values, torch.tensor([5.0, 3.0], dtype=torch.float64)), result.error_bound < 1e-10
        (True, True)
    """
    check_matrix("a", a)
    if a.ndim != 2:
        raise ValueError(f"a must be one matrix, got shape {tuple(a.shape)}; loop over a batch.")
    m, n = a.shape
    if check_size("rank", rank) > min(m, n):
        raise ValueError(f"rank must be at most min(m, n) = {min(m, n)}, got {rank}.")
    if isinstance(power, bool) or not isinstance(power, int) or power < 0:
        raise ValueError(f"power must be a whole number >= 0, got {power!r}.")
    if isinstance(oversampling, bool) or not isinstance(oversampling, int) or oversampling < 0:
        raise ValueError(f"oversampling must be a whole number >= 0, got {oversampling!r}.")
    if tolerance is not None:
        check_positive("tolerance", tolerance)

    with torch.no_grad(), stopwatch() as watch:
        dtype = working_dtype(a.dtype)
        work = a.detach().to(dtype)
        scale = binary_scale(work)
        work = work / scale
        width = min(rank + oversampling, m, n)
        draw = standard_normal((n, width + _PROBES), dtype=dtype, device=a.device, generator=generator)
        basis = _range(work, draw[:, :width], power)
        small = svd(basis.mT @ work)
        u, values, vh = basis @ small.u[:, :rank], small.values[:rank], small.vh[:rank]
        # Eq. (4.3): |(I - Q Q^T) a| <= 10 sqrt(2 / pi) max |(I - Q Q^T) a w| over r probes, except with prob. 10^-r.
        probed = work @ draw[:, width:]
        missed = torch.linalg.vector_norm(probed - basis @ (basis.mT @ probed), dim=0).max()
        # What truncation drops is orthogonal to what the subspace missed, so the two add in squares.
        dropped = float(small.values[rank]) if rank < width else 0.0
        bound = math.hypot(10 * math.sqrt(2 / math.pi) * float(missed), dropped)
        whole: Tensor = torch.linalg.matrix_norm(work)
        error: Tensor = torch.linalg.matrix_norm(work - (u * values) @ vh)
        residual = float(error / whole) if float(whole) else 0.0
        converged = tolerance is None or bound <= tolerance * float(values[0])
        error_bound = bound * float(scale)
        signs = torch.where(u.gather(0, u.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0).to(dtype)
        u, vh = u * signs, vh * signs.mT
        values = rescale(values, scale, a.dtype)
    cost = Cost(
        matvecs=width * (2 * power + 2) + _PROBES,
        bytes=(2 * a.numel() + (m + n) * 3 * (width + _PROBES)) * work.element_size(),
        seconds=watch.seconds,
    )
    return RandomizedSVD(
        u.to(a.dtype), values, vh.to(a.dtype), error_bound, 10.0**-_PROBES, residual, converged, dtype, cost
    )


def _range(a: Tensor, draw: Tensor, power: int) -> Tensor:
    """Find an orthonormal basis of an approximate range (Alg. 4.4: re-orthonormalized after every product).

    Returns:
        Shape ``(m, width)``.
    """
    basis: Tensor = torch.linalg.qr(a @ draw).Q
    for _ in range(power):
        basis = torch.linalg.qr(a.mT @ basis).Q
        basis = torch.linalg.qr(a @ basis).Q
    return basis
