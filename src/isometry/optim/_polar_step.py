"""Polar retractions of tangent steps on the Stiefel manifold, by series whose length follows from the step's norm.

For Q with orthonormal columns and V tangent at Q, Q^T V is skew, so (Q + V)^T (Q + V) = I + V^T V, and the polar
retraction is

    R_Q(V) = (Q + V)(I + S)^{-1/2},    S = V^T V.

For square Q write V = Q A with A skew: S = -A^2 commutes with A, so R_Q(V) = Q (K + C) with K = A (I + S)^{-1/2} skew
and C = (I + S)^{-1/2} symmetric. After a training step S is small. The series of (I + S)^{-1/2} alternates, so that its
first omitted term bounds the error, and a few products do what a decomposition would. |S|_F, which bounds its largest
eigenvalue, is measured in every step and decides how many terms there are; what no short series reaches goes to a
Newton-Schulz iteration, and steps beyond a radian to an eigendecomposition. Up to there the error is below a rounding.

The rounding of S is relative to its size, eps |V|^2, while what decides about orthonormality is I + S. So after steps
with |V|_F^2 > sqrt(p), where this exceeds the rounding of Q, the point reached is measured and polished (``settle``);
and where eps |V|_F^2 exceeds ``CRUDE``, the polar factor is taken in float64 from I + A or Q + V itself.

Very small rotations do without S. Leaving it out takes Q^T Q to I + S, and |S|_F <= |A|_F^2 / sqrt(2) (the singular
values of A come in pairs) bounds how far off the manifold that is. As long as the sum of these bounds stays below what
rounding Q's entries does to Q^T Q anyway (``drift_budget``), S is left out, and taken away later at once.

References:
    P.-A. Absil, R. Mahony, R. Sepulchre, Optimization Algorithms on Matrix Manifolds, Princeton, 2008, example 4.1.3.
    N. J. Higham, Functions of Matrices: Theory and Computation, SIAM, 2008, chapter 6 (the coupled
    Newton-Schulz iteration).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "CRUDE",
    "FAR",
    "OffManifoldError",
    "RotationError",
    "drift_budget",
    "gram_defect",
    "largest",
    "lies_down",
    "plus_product",
    "polar_columns",
    "polar_rotation",
    "rounds_long",
    "settle",
    "skew",
    "sym",
]

# Coefficients of (1 + s)^{-1/2}: binomial(-1/2, k).
BINOMIAL = (1.0, -1 / 2, 3 / 8, -5 / 16, 35 / 128, -63 / 256, 231 / 1024, -429 / 2048)
LONGEST = len(BINOMIAL) - 2  # terms beyond which Newton-Schulz takes fewer products


FAR = 1.0  # the length of a step, in radians, beyond which the drift is looked at before it
CRUDE = 1e-3  # a rounding of S beyond which it is not worked with
SETTLED = 4.0  # in drift budgets: what is left to later looks; a product's own rounding is part of what is measured
POLISHES = 6  # from a defect of a half, e goes to (3 e^2 + e^3) / 4 six times


class RotationError(ValueError):
    """A step leads to no point of the manifold, or has no finite length; the message goes on with "for <names>"."""


class OffManifoldError(ValueError):
    """A step was to begin off the manifold."""


def sym(a: Tensor) -> Tensor:
    """Give the symmetric part.

    Returns:
        (a + a^T) / 2.
    """
    return (a + a.mT).mul_(0.5)


def skew(a: Tensor) -> Tensor:
    """Give the skew-symmetric part.

    Returns:
        (a - a^T) / 2.
    """
    return (a - a.mT).mul_(0.5)


def lies_down(a: Tensor) -> bool:
    """Tell whether matrices are views of their transposes, as upright views of wide weights are.

    Products and sums of such are several times faster where the result lies the same way.

    Returns:
        Whether it is so.
    """
    return a.ndim == 3 and not a.is_contiguous() and a.mT.is_contiguous()


def plus_product(a: Tensor, x: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Add alpha x b to ``a``, which is nobody else's, in place; a result that lies down stays so.

    Args:
        a: Shape ``(batch, n, p)``.
        x: Shape ``(batch, n, p)``.
        b: Shape ``(batch, p, p)``.
        alpha: The factor.

    Returns:
        ``a``.
    """
    if lies_down(a):
        a.mT.baddbmm_(b.mT, x.mT, alpha=alpha)
        return a
    return a.baddbmm_(x, b, alpha=alpha)


def drift_budget(p: int, dtype: torch.dtype) -> float:
    """Give how large |Q^T Q - I|_F may grow before it is taken away.

    Rounding each entry of Q to unit roundoff u = eps / 2 changes Q^T Q by up to 2 u |Q|_F = eps sqrt(p), so that much
    cannot be told from rounding.

    Args:
        p: Number of columns.
        dtype: Dtype of Q.

    Returns:
        eps sqrt(p).
    """
    return float(torch.finfo(dtype).eps * math.sqrt(p))


def largest(a: Tensor) -> float:
    """Give the largest entry.

    Returns:
        The number, on the host.

    Raises:
        RotationError: If it is not finite.
    """
    number = float(a.max())
    if not math.isfinite(number):
        raise RotationError("the step has no finite length")
    return number


def polar_rotation(a: Tensor, *, memory: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compute polar(I + a) for skew-symmetric a, as its skew part K and its symmetric part C less the identity.

    Args:
        a: Shape ``(batch, n, n)``, skew-symmetric.
        memory: Over how many further steps an error of K is felt (by a momentum that is read off K).

    Returns:
        K and C - I, with polar(I + a) = C + K.
    """
    tiny = torch.finfo(a.dtype).eps / 8
    s = torch.bmm(a.mT, a)
    bound = largest(torch.linalg.vector_norm(s, dim=(-2, -1)))
    theta = math.sqrt(bound)  # at least the largest singular value of a
    if 0.5 * theta**3 * (1 + memory) <= tiny:  # K = a - a s / 2 + ...
        return a, s.mul_(-0.5)
    if 0.375 * theta**5 * (1 + memory) <= tiny:
        # s (3/8 s - a/2): its symmetric part is the next term of C, its skew part the next one of K.
        both = torch.bmm(s, torch.sub(0.375 * s, a, alpha=0.5))
        return a + skew(both), sym(both).sub_(s, alpha=0.5)
    shift = inverse_root(s, bound)
    # A momentum that is read off K has to stay skew: what is not would add up in it, and lead off the manifold.
    return skew(torch.baddbmm(a, a, shift)), shift


def polar_columns(y: Tensor, s: Tensor, moved: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Compute the polar factor of y / s, times s, for y = s (Q + V) with V tangent at Q, or nearly so.

    S is taken as y^T y / s^2 - I. In exact arithmetic this is V^T V; it also has what Q and V lack of orthonormality
    and tangency, so that nothing of that remains, for the price of the same product.

    Args:
        y: Shape ``(batch, n, p)``.
        s: Shape ``(batch, 1, 1)``.
        moved: Shape ``(batch, 1, 1)``; where it is False, y is returned as it is, to the bit.
        out: Memory for the result, of y's shape; used if it lies as y does.

    Returns:
        The retracted points, scaled as y is.
    """
    gram = gram_defect(y, s).mul_(moved)
    root = inverse_root(gram, largest(torch.linalg.vector_norm(gram, dim=(-2, -1))))
    # One product without a copy of y. What 1 + root rounds away the next Gram matrix sees; with root = 0 it is exact.
    root.diagonal(dim1=-2, dim2=-1).add_(1)
    reuse = out is not None and out.stride() == y.stride()
    if lies_down(y):
        return torch.bmm(root.mT, y.mT, out=out.mT if out is not None and reuse else None).mT
    return torch.bmm(y, root, out=out if reuse else None)


def rounds_long(length: float, p: int) -> bool:
    """Tell whether the rounding of a step, eps |V|_F^2, exceeds that of a point, eps sqrt(p).

    Args:
        length: |V|_F.
        p: Number of columns.

    Returns:
        Whether the point reached is to be settled.
    """
    return length > FAR * math.sqrt(math.sqrt(p))


def settle(x: Tensor, s: Tensor, moved: Tensor) -> Tensor:
    """Bring points to the manifold by Newton-Schulz steps, (I + E)^{-1/2} = I - E / 2 up to E^2, as many as it takes.

    Args:
        x: Shape ``(batch, n, p)``, s times orthonormal up to a defect below one half.
        s: Shape ``(batch, 1, 1)``.
        moved: Shape ``(batch, 1, 1)``; where it is False, x is returned as it is, to the bit.

    Returns:
        Same shape, orthonormal to a few drift budgets.

    Raises:
        RotationError: If they do not come there.
    """
    enough = SETTLED * drift_budget(x.shape[-1], x.dtype)
    for _ in range(POLISHES + 1):
        difference = gram_defect(x, s).mul_(moved)
        defect = float(torch.linalg.vector_norm(difference, dim=(-2, -1)).max())
        if defect <= enough:
            return x
        if not defect < 0.5:
            break
        x = torch.baddbmm(x, x, difference, alpha=-0.5)
    raise RotationError(f"the step does not come back to the manifold (defect {defect:.2g})")


def gram_defect(x: Tensor, s: Tensor) -> Tensor:
    """Give x^T x / s^2 - I.

    Args:
        x: Shape ``(batch, n, p)``.
        s: Shape ``(batch, 1, 1)``.

    Returns:
        Shape ``(batch, p, p)``.
    """
    difference = torch.bmm(x.mT, x).div_(s * s)
    difference.diagonal(dim1=-2, dim2=-1).sub_(1)
    return difference


def inverse_root(s: Tensor, bound: float) -> Tensor:
    """Compute (I + s)^{-1/2} - I.

    Args:
        s: Shape ``(batch, p, p)``, symmetric, positive semidefinite up to rounding.
        bound: A bound on its largest eigenvalue.

    Returns:
        Same shape; zero to the bit where s is zero and the series is taken.
    """
    tiny = torch.finfo(s.dtype).eps / 8
    terms = next((k for k in range(1, LONGEST + 1) if abs(BINOMIAL[k + 1]) * bound ** (k + 1) <= tiny), None)
    if terms is not None:
        return _series(s, terms)
    return _newton_schulz(s, bound) if bound <= 1 else _by_eigenvalues(s)


def _series(s: Tensor, terms: int) -> Tensor:
    # Horner: s (c_1 + s (c_2 + ...)).
    if terms == 1:
        return BINOMIAL[1] * s
    inner = BINOMIAL[terms] * s
    for k in range(terms - 1, 0, -1):
        inner.diagonal(dim1=-2, dim2=-1).add_(BINOMIAL[k])
        inner = torch.bmm(s, inner)
    return inner


def _newton_schulz(s: Tensor, bound: float) -> Tensor:
    # Coupled iteration for the inverse square root: |I - z y| falls from e to (3 e^2 + e^3) / 4. A factor that brings
    # the eigenvalues of (I + s) / alpha evenly around 1 makes the first e small.
    alpha = 1 + bound / 2
    error = bound / (2 + bound)
    y = s / alpha
    y.diagonal(dim1=-2, dim2=-1).add_(1 / alpha)
    z: Tensor | None = None
    while True:
        t = (y if z is None else torch.bmm(z, y)).mul(-0.5)
        t.diagonal(dim1=-2, dim2=-1).add_(1.5)
        z = t if z is None else torch.bmm(t, z)
        error = (3 * error**2 + error**3) / 4
        if error <= torch.finfo(s.dtype).eps / 8:
            break
        y = torch.bmm(y, t)
    z = sym(z).div_(math.sqrt(alpha))
    z.diagonal(dim1=-2, dim2=-1).sub_(1)
    # The identity in z was rounded alike in all directions, which adds up over steps. With w = z - I the residual
    # (I + s)(I + w)^2 - I = t + s t + s, t = 2 w + w^2, has no identity in it.
    t = torch.baddbmm(z, z, z).add_(z)
    return z.sub_(sym(torch.baddbmm(t, s, t).add_(s)), alpha=0.5)


def _by_eigenvalues(s: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(s.double())
    # (1 + x)^{-1/2} - 1 without cancellation.
    shift = torch.expm1(-0.5 * torch.log1p(values.clamp_min(-0.5)))
    return torch.matmul(vectors * shift.unsqueeze(-2), vectors.mT).to(s.dtype)
