"""Tangent vectors and steps of stacked weights W = s Q, in three representations.

- ``Body``: square Q, polar retraction. A tangent vector Q A is its skew-symmetric A, so projecting is subtracting a
  transpose, and a step is a rotation Q polar(I + A).
- ``Columns``: Q with fewer columns than rows, polar retraction. Tangent vectors are matrices of Q's size.
- ``General``: any manifold and retraction, by the manifold's own operations.

Vectors belong to Q and points are stored as x = s Q: one division less, and with a zero step x stays what it is, to the
bit. With G the gradient in x, the gradient in Q is s G, and Q^T (s G) = x^T G needs no s at all. All take ``s`` of
shape ``(batch, 1, 1)``.

References:
    A. Edelman, T. A. Arias, S. T. Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix
    Anal. Appl. 20(2), 1998. arXiv:physics/9806030
    P.-A. Absil, R. Mahony, R. Sepulchre, Optimization Algorithms on Matrix Manifolds, Princeton, 2008.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isometry.manifolds import Manifold, Stiefel
from isometry.optim._polar_step import (
    CRUDE,
    OffManifoldError,
    RotationError,
    gram_defect,
    plus_product,
    polar_columns,
    polar_rotation,
    settle,
    skew,
    sym,
)

__all__ = ["Body", "Columns", "General", "Geometry", "Move"]

ASTRAY = 1e-4  # a defect with which no step of ours ends


class Move(NamedTuple):
    """A step.

    Attributes:
        v: The tangent vector, in the geometry's representation.
        ratio: If v is a multiple of the momentum, which one, shape ``(batch, 1, 1)``; else None.
        memory: Over how many further steps the momentum is felt.
        gain: By what multiple of the fresh gradient the step goes, a number or shape ``(batch, 1, 1)``.
        correction: Symmetric ``(batch, p, p)`` that takes away the drift off the manifold, or None.
        flat: Whether to go straight on, since the way back to the manifold is below a rounding.
    """

    v: Tensor
    ratio: Tensor | None = None
    memory: float = 0.0
    gain: float | Tensor = 1.0
    correction: Tensor | None = None
    flat: bool = False

    def crude(self, length: float) -> bool:
        """Tell whether the rounding of V^T V is too coarse to find the way back by it.

        Args:
            length: |V|_F.

        Returns:
            Whether ``leap`` is to be taken.
        """
        return float(torch.finfo(self.v.dtype).eps) * length**2 > CRUDE


class Geometry(ABC):
    """The operations that an optimizer's formula is made of. Subclasses are frozen dataclasses.

    Points and gradients that are given may be overwritten: a gradient is asked for once, and a point left for good.
    """

    suffix: str  # of the names of states that hold tangent vectors
    straight = False  # whether very small steps may go straight on, without coming back to the manifold

    @abstractmethod
    def gradient(self, x: Tensor, g: Tensor, s: Tensor) -> Tensor:
        """Return the Riemannian gradient in Q of the Euclidean gradient in x = s Q."""

    @abstractmethod
    def tangent(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return the orthogonal projection on the tangent space at Q."""

    @abstractmethod
    def squares(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return <v, v> in the manifold's metric, shape ``(batch, 1, 1)``."""

    def astray(self, move: Move, lengths: Tensor, pull: Tensor) -> Tensor:
        """Return a bound on what going straight on adds to |Q^T Q - I|_F.

        Args:
            move: The step.
            lengths: Its Frobenius norms.
            pull: Frobenius norms of the gradients in Q.

        Returns:
            Shape ``(batch, 1, 1)``.
        """
        # V^T V; and Q^T V is skew up to the rounding of what was projected, which may be much longer than V.
        eps = torch.finfo(lengths.dtype).eps
        return lengths**2 + 2 * eps * (pull * move.gain + lengths)

    @abstractmethod
    def move(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the point reached, and the momentum there (up to a later ``arrive``)."""

    def leap(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what ``move`` does, for very long steps: by a decomposition in float64, without overwriting."""
        return self.move(x, move, momentum, s)

    def column_squares(self, v: Tensor) -> Tensor:
        """Return the squared lengths of a tangent vector's columns, shape ``(batch, 1, p)``."""
        return (v * v).sum(-2, keepdim=True)

    def arrive(self, x: Tensor, momentum: Tensor, s: Tensor) -> Tensor:
        """Return the momentum, its transport to Q completed."""
        return self.tangent(x, momentum, s)

    def blend(self, x: Tensor, momentum: Tensor, g: Tensor, decay: float, weight: float, s: Tensor) -> Tensor:
        """Return decay * (transported momentum) + weight * gradient."""
        return torch.add(decay * self.arrive(x, momentum, s), self.gradient(x, g, s), alpha=weight)


@dataclass(frozen=True)
class Body(Geometry):
    """Square matrices with orthonormal columns; polar retraction, transport by projection."""

    canonical: bool
    suffix = "body"
    straight = True

    def astray(self, move: Move, lengths: Tensor, pull: Tensor) -> Tensor:
        """Return |A|^2 / sqrt(2) >= |A^2|_F: singular values come in pairs, and A is skew to the bit."""
        del move, pull
        return lengths**2 / 2**0.5

    def gradient(self, x: Tensor, g: Tensor, s: Tensor) -> Tensor:
        """Return A: Q^T grad = skew(Q^T G) in the embedded metric, Q^T G - G^T Q in the canonical one."""
        del s
        product = torch.bmm(x.mT, g)
        return product - product.mT if self.canonical else skew(product)

    def tangent(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return the skew part."""
        del x, s
        return skew(v)

    def squares(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return |A|^2, or half of it in the canonical metric."""
        del x, s
        found = (v * v).sum((-2, -1), keepdim=True)
        return found / 2 if self.canonical else found

    def arrive(self, x: Tensor, momentum: Tensor, s: Tensor) -> Tensor:
        """Return it as it is: ``move`` gave the momentum in the new frame."""
        del x, s
        return momentum

    def move(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x U with U = polar(I + A) = C + K, and skew(U^T M)."""
        del s
        if move.flat:
            k = shift = move.v
        else:
            k, c = polar_rotation(move.v, memory=move.memory if momentum is not None else 0.0)
            shift = k + c
        if momentum is not None and move.ratio is None:
            momentum = momentum + skew(torch.bmm(shift.mT, momentum))
        elif momentum is not None and move.ratio is not None and k is not move.v:
            # M = A / ratio commutes with U, so skew(U^T M) = K / ratio, to be had without a product.
            inverse = torch.where(move.ratio == 0, 0.0, 1 / move.ratio)
            momentum = torch.addcmul(momentum, k - move.v, inverse)
        if move.correction is not None:
            shift = shift + move.correction
        return torch.baddbmm(x, x, shift), momentum

    def leap(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x U with U = polar(I + A) from I + A itself, whose singular values are one at the least."""
        del s
        eye = torch.eye(x.shape[-1], dtype=torch.float64, device=x.device)
        u = _projected(eye + move.v.double()).to(x.dtype)
        moved = torch.linalg.vector_norm(move.v, dim=(-2, -1), keepdim=True) > 0
        if momentum is not None:
            momentum = torch.where(moved, skew(torch.bmm(u.mT, momentum)), momentum)
        return torch.where(moved, torch.bmm(x, u), x), momentum


@dataclass(frozen=True)
class Columns(Geometry):
    """Matrices with orthonormal columns, fewer than rows; polar retraction, transport by projection."""

    canonical: bool
    suffix = "tangent"
    straight = True

    def gradient(self, x: Tensor, g: Tensor, s: Tensor) -> Tensor:
        """Return G - Q sym(Q^T G) in the embedded metric, G - Q G^T Q in the canonical one."""
        if not self.canonical:
            return self._less_normal(x, g.mul_(s), s)
        inner = torch.bmm(g.mT, x)
        return plus_product(g.mul_(s), x, inner.div_(s), alpha=-1)

    def tangent(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return v - Q sym(Q^T v)."""
        return self._less_normal(x, v.clone(), s)

    def _less_normal(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        return plus_product(v, x, sym(torch.bmm(x.mT, v)).div_(s * s), alpha=-1)

    def squares(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return |v|^2, or |v|^2 - |Q^T v|^2 / 2 in the canonical metric."""
        found = (v * v).sum((-2, -1), keepdim=True)
        if self.canonical:
            inner = torch.bmm(x.mT, v).div_(s)
            found = found - (inner * inner).sum((-2, -1), keepdim=True) / 2
        return found

    def blend(self, x: Tensor, momentum: Tensor, g: Tensor, decay: float, weight: float, s: Tensor) -> Tensor:
        """Return the sum, projected once: in the embedded metric both are the same projection."""
        if self.canonical:
            return super().blend(x, momentum, g, decay, weight, s)
        return self._less_normal(x, torch.addcmul(decay * momentum, s * weight, g), s)

    def move(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the polar factor; the momentum is projected when it arrives."""
        moved = torch.linalg.vector_norm(move.v, dim=(-2, -1), keepdim=True) > 0
        y = x.addcmul_(s, move.v)
        return (y if move.flat else polar_columns(y, s, moved, out=move.v)), momentum

    def leap(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return polar(Q + V), with Q orthonormal and V tangent beyond the working dtype's digits."""
        moved = torch.linalg.vector_norm(move.v, dim=(-2, -1), keepdim=True) > 0
        q, v = x.double() / s.double(), move.v.double()
        q = torch.baddbmm(q, q, gram_defect(q, torch.ones_like(s, dtype=q.dtype)), alpha=-0.5)
        v = v - q @ sym(q.mT @ v)
        return torch.where(moved, _projected(q + v).to(x.dtype) * s, x), momentum


@dataclass(frozen=True)
class General(Geometry):
    """Any manifold, by its own operations; transport by projection."""

    manifold: Manifold
    retraction: str
    suffix = "tangent"

    def gradient(self, x: Tensor, g: Tensor, s: Tensor) -> Tensor:
        """Return what the manifold says."""
        return self.manifold.gradient(x / s, s * g)

    def tangent(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return what the manifold says."""
        return self.manifold.tangent(x / s, v)

    def squares(self, x: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return what the manifold says."""
        return self.manifold.inner(x / s, v, v)[..., None, None]

    def move(self, x: Tensor, move: Move, momentum: Tensor | None, s: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the retracted points; those that do not move stay what they are, to the bit.

        Raises:
            OffManifoldError: If a point is off the manifold.
            RotationError: If the retraction refuses the step.
        """
        moved = torch.linalg.vector_norm(move.v, dim=(-2, -1), keepdim=True) > 0
        # Near a minimum a gradient is the small rest of a large one; projected again it is tangent to all its digits.
        v = self.tangent(x, move.v, s)
        try:
            reached = self.manifold.retract(x / s, v, self.retraction) * s
        except ValueError as error:
            if not self.manifold.check(x / s, tolerance=ASTRAY).ok:
                raise OffManifoldError(str(error)) from None
            raise RotationError(f"retraction {self.retraction!r} refuses the step ({str(error).rstrip('.')})") from None
        if isinstance(self.manifold, Stiefel):  # not every formula ends on the manifold to all digits, and that adds up
            reached = settle(reached, s, moved)
        return torch.where(moved, reached, x), momentum


def _projected(y: Tensor) -> Tensor:
    """Give the polar factor.

    Returns:
        Same shape and dtype.

    Raises:
        RotationError: If it is not unique even in this dtype, or not finite.
    """
    try:
        return Stiefel().project(y)
    except ValueError:
        raise RotationError("no orthonormal matrix can be told from a step of such a length") from None
