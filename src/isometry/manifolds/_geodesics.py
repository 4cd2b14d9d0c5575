"""Geodesics of the Stiefel manifold: closed-form exponentials for both metrics, an iterative logarithm for one.

References:
    A. Edelman, T. A. Arias, S. T. Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix
    Anal. Appl. 20(2), 1998. arXiv:physics/9806030
    R. Zimmermann, A matrix-algebraic algorithm for the Riemannian logarithm on the Stiefel manifold under the canonical
    metric, SIAM J. Matrix Anal. Appl. 38(2), 2017. arXiv:1604.05054
    Q. Rentmeesters, Algorithms for data fitting on some common homogeneous spaces, PhD thesis, UC Louvain, 2013 (the
    injectivity radius is at least sqrt(4/5) pi).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isometry.linalg import svd
from isometry.manifolds._rotations import matrix_exponential, rotation_logarithm

__all__ = ["RADIUS", "canonical_exponential", "canonical_logarithm", "embedded_exponential"]

RADIUS = math.sqrt(4 / 5) * math.pi
_ITERATIONS = 200


def embedded_exponential(x: Tensor, v: Tensor) -> Tensor:
    """Follow the geodesic of the embedded metric.

    Args:
        x: Points, shape ``(*batch, n, p)``, n >= p.
        v: Tangent vectors.

    Returns:
        The points reached.
    """
    p = x.shape[-1]
    a, s = x.mT @ v, v.mT @ v
    a = (a - a.mT) / 2
    eye = torch.eye(p, dtype=x.dtype, device=x.device).expand_as(a)
    block = torch.cat([torch.cat([a, -s], -1), torch.cat([eye, a], -1)], -2)
    turned: Tensor = matrix_exponential(block)[..., :p] @ matrix_exponential(-a)
    return torch.cat([x, v], -1) @ turned  # Edelman et al., Sec. 2.2.2


def canonical_exponential(x: Tensor, v: Tensor) -> Tensor:
    """Follow the geodesic of the canonical metric.

    Args:
        x: Points, shape ``(*batch, n, p)``, n >= p.
        v: Tangent vectors.

    Returns:
        The points reached.
    """
    p = x.shape[-1]
    a = x.mT @ v
    # Where p > n / 2 the factor q has arbitrary columns; the blocks below only ever combine those that r reaches.
    q, r = torch.linalg.qr(v - x @ a)
    a = (a - a.mT) / 2
    corner = r.new_zeros(*r.shape[:-2], r.shape[-2], r.shape[-2])
    block = torch.cat([torch.cat([a, -r.mT], -1), torch.cat([r, corner], -1)], -2)
    turned: Tensor = matrix_exponential(block)[..., :p]
    reached: Tensor = x @ turned[..., :p, :] + q @ turned[..., p:, :]  # Edelman et al., Cor. 2.2
    return reached


def canonical_logarithm(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Find the velocity of the shortest geodesic of the canonical metric between two points.

    Zimmermann, Algorithm 1: complete [x^T y; rest] to an orthogonal matrix whose logarithm has a zero lower right
    block, which a rotation of the free columns drives to zero at a linear rate.

    Args:
        x: Points, shape ``(*batch, n, p)``, n > p.
        y: Points.
        dtype: The dtype of the caller's points.

    Returns:
        Tangent vectors at ``x``.

    Raises:
        ValueError: If the iteration does not converge, or what it finds is longer than the injectivity radius, so that
            there may be a shorter geodesic.
    """
    out = x.dtype
    x, y = x.to(torch.float64), y.to(torch.float64)
    p = x.shape[-1]
    m = x.mT @ y  # Alg. 1: U^T U~
    q, n = _complement(x, y - x @ m)  # Q N, the part of y outside of span x
    k = q.shape[-1]
    v = _completed(m, n)  # V_0
    for _ in range(_ITERATIONS):
        log = rotation_logarithm("the rotation from x to y", v, dtype)  # [A, -B^T; B, C]
        c = log[..., p:, p:]
        if k == 1 or float(torch.linalg.vector_norm(c, dim=(-2, -1)).max()) <= 1e-13 * math.sqrt(p):
            break
        v = torch.cat([v[..., :p], v[..., p:] @ matrix_exponential(-c)], -1)  # V_{k+1}
    else:
        raise ValueError(
            f"no geodesic from x to y was found in {_ITERATIONS} iterations; the points are too far apart for the "
            f"logarithm (it is sure to exist up to a distance of sqrt(4/5) pi = {RADIUS:.3g})."
        )
    a, b = log[..., :p, :p], log[..., p:, :p]
    length = float((a.square().sum((-2, -1)) / 2 + b.square().sum((-2, -1))).max().sqrt())
    if length >= RADIUS:
        raise ValueError(
            f"the geodesic found from x to y has length {length:.3g}, beyond the injectivity radius of sqrt(4/5) pi = "
            f"{RADIUS:.3g} up to which geodesics are sure to be shortest; take a point in between."
        )
    return (x @ a + q @ b).to(out)  # U A + Q B


def _complement(x: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Factor a matrix that is orthogonal to x as q n, with q's columns orthonormal and orthogonal to x.

    Returns:
        q with min(p, n - p) columns and its coefficients.
    """
    rows, p = x.shape[-2:]
    k = min(p, rows - p)
    # A QR decomposition of [x, rest] alone would leave q arbitrary where the rest vanishes; here it stays orthogonal
    # to x, as the completed basis of x contains nothing else.
    basis = torch.linalg.qr(x, mode="complete").Q[..., p:]
    inside = svd(basis.mT @ rest)
    q = basis @ inside.u[..., :k]
    return q, q.mT @ rest


def _completed(m: Tensor, n: Tensor) -> Tensor:
    """Complete the orthonormal columns [m; n] to a rotation that is near the one sought.

    Zimmermann turns the free columns so that their lower block is as near to the identity as it can be. Where two
    planes turn by more than a right angle that starts from a reflection in each of them, whose logarithm does not
    exist. On geodesics with m = v cos(t) v^T and n = u sin(t) v^T the block is u cos(t) u^T = u (v^T m v) u^T,
    with its signs; that is what is aimed at here.

    Returns:
        Shape ``(*batch, p + k, p + k)``, determinant one wherever the choice allows it.
    """
    p = m.shape[-1]
    columns = torch.cat([m, n], -2)
    full = torch.linalg.qr(columns, mode="complete").Q[..., p:]
    split = svd(n)
    target = split.u @ (split.vh @ m @ split.vh.mT) @ split.u.mT
    aligned = svd(full[..., p:, :].mT @ target)
    turn = aligned.u @ aligned.vh  # Procrustes: the nearest orthogonal matrix
    # A reflection has no logarithm; undo it in the direction that costs least.
    mirrored = turn - 2 * aligned.u[..., -1:] @ aligned.vh[..., -1:, :]
    flip = torch.linalg.det(torch.cat([columns, full @ turn], -1)) < 0
    return torch.cat([columns, full @ torch.where(flip[..., None, None], mirrored, turn)], -1)
