"""The oblique manifold: matrices with unit columns (or rows), a product of spheres.

References:
    P.-A. Absil, K. A. Gallivan, Joint diagonalization on the oblique manifold for independent component analysis,
    ICASSP 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isometry.linalg import standard_normal
from isometry.manifolds._manifold import Manifold
from isometry.manifolds._retraction import Taken
from isometry.manifolds._work import Work

__all__ = ["Oblique", "sphere_logarithm"]


@dataclass(frozen=True)
class Oblique(Manifold):
    """Matrices whose columns (or rows) have length one, Ob(n, p) = {Q : diag(Q^T Q) = 1}.

    The one retraction is to normalize the columns of x + v. ``"auto"``, ``"polar"`` and ``"qr"`` all mean it, since for
    a single column the polar and the QR factor are just that.

    Attributes:
        dim: The dimension along which lengths are one: -2 for unit columns, -1 for unit rows; None for the longer one
            (the columns of tall and square matrices, the rows of wide ones), so that points of ``Stiefel`` are points
            here.

    Example:
        >>> Oblique().project(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
        tensor([[0.6000, 0.0000],
                [0.8000, 1.0000]])
    """

    retractions: ClassVar[tuple[str, ...]] = ("auto", "polar", "qr")

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim not in (None, -1, -2) or isinstance(self.dim, bool):
            raise ValueError(
                f"dim must be -2 (unit columns), -1 (unit rows) or None (the longer side), got {self.dim}."
            )

    @property
    def name(self) -> str:
        """``"oblique"``, with what is of unit length where it does not follow from the shape."""
        return {None: "oblique", -2: "oblique (columns)", -1: "oblique (rows)"}[self.dim]

    @property
    def upright(self) -> Oblique:
        """Unit columns, for matrices that were transposed wherever ``transposes`` says so."""
        return Oblique(dim=-2)

    def transposes(self, shape: Sequence[int]) -> bool:
        """Tell whether it is the rows that have length one.

        Args:
            shape: ``(*batch, n, p)``.

        Returns:
            Whether matrices are worked on as their transposes.
        """
        return self.dim == -1 or (self.dim is None and shape[-2] < shape[-1])

    def dimension(self, shape: Sequence[int]) -> int:
        """Count the degrees of freedom: p spheres of n - 1 dimensions a matrix.

        Args:
            shape: ``(*batch, n, p)``.

        Returns:
            Their number.
        """
        self._admit(shape)
        n, p = (shape[-1], shape[-2]) if self.transposes(shape) else (shape[-2], shape[-1])
        return math.prod(shape[:-2]) * p * (n - 1)

    def _retracted(self, work: Work, method: str) -> Taken:
        x, v = work.tensors
        return Taken(_normalized("x + v", x + v), "polar" if method == "auto" else method)

    def _project(self, x: Tensor) -> Tensor:
        return _normalized("x", x)

    def _random(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        drawn = standard_normal(shape, dtype=torch.float64, device=device, generator=generator)
        transposed = self.transposes(shape)
        point = _normalized("the draw", drawn.mT if transposed else drawn)
        return (point.mT.contiguous() if transposed else point).to(dtype)

    def _difference(self, x: Tensor) -> Tensor:
        return x.square().sum(-2, keepdim=True) - 1

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - x * (x * v).sum(-2, keepdim=True)

    def _gradient(self, x: Tensor, g: Tensor) -> Tensor:
        return self._tangent(x, g)

    def _inner(self, _x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1))

    def _exponential(self, x: Tensor, v: Tensor) -> Tensor:
        angle = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
        # sin(angle) / angle, one where the column does not move
        slope = torch.sinc(angle / math.pi)
        return _normalized("x", angle.cos() * x + slope * v)

    def _logarithm(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        return sphere_logarithm(x, y, dtype)


def sphere_logarithm(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Give, column by column, the velocity of the great circle from x to y.

    Args:
        x: Unit columns, shape ``(*batch, n, p)``.
        y: Unit columns.
        dtype: The dtype of the caller's points: what their rounding leaves undecided is refused.

    Returns:
        Tangent columns whose lengths are the angles.

    Raises:
        ValueError: If two columns are opposite.
    """
    apart = torch.linalg.vector_norm(x - y, dim=-2, keepdim=True)
    together = torch.linalg.vector_norm(x + y, dim=-2, keepdim=True)
    if bool((together < torch.finfo(dtype).eps ** 0.5).any()):
        raise ValueError("x and y have opposite columns, which no shortest geodesic singles out; move one a little.")
    angle = 2 * torch.atan2(apart, together)  # accurate for small and large angles alike
    direction = y - x * (x * y).sum(-2, keepdim=True)
    length = torch.linalg.vector_norm(direction, dim=-2, keepdim=True)
    return direction * (angle / torch.where(length == 0, 1.0, length))


def _normalized(name: str, x: Tensor) -> Tensor:
    """Divide each column by its length, safely for the largest and the smallest numbers.

    Returns:
        Unit columns.

    Raises:
        ValueError: If a column is zero.
    """
    largest = x.abs().amax(-2, keepdim=True)
    if bool((largest == 0).any()):
        count = int((largest == 0).sum())
        raise ValueError(
            f"{name} has {count} zero column{'s' if count > 1 else ''} (rows, where these are to have length one), "
            "which have no direction; draw them anew first."
        )
    scaled = x / largest
    unit: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=-2, keepdim=True)
    return unit
