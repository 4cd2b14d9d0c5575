"""The orthogonal group: square matrices with orthonormal columns, where every formula is exact and short.

References:
    A. Edelman, T. A. Arias, S. T. Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix
    Anal. Appl. 20(2), 1998. arXiv:physics/9806030
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry.linalg import orthogonalize
from isometry.manifolds._rotations import matrix_exponential, rotation_logarithm
from isometry.manifolds._stiefel import Metric, Stiefel

__all__ = ["Orthogonal"]


@dataclass(frozen=True)
class Orthogonal(Stiefel):
    """The group O(n) of square orthogonal matrices, with the metric tr(u^T v), which turns on either side keep.

    Tangent vectors at x are x A with skew-symmetric A. Geodesics are x exp(t A); two points are joined by one if their
    determinants agree. Retractions are those of ``Stiefel``.

    Example:
        >>> group = Orthogonal()
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> round(float(group.distance(torch.eye(2), turn)), 4)  # sqrt(2) times the angle pi / 2
        2.2214
    """

    metric: Metric = field(default="embedded", init=False)

    @property
    def name(self) -> str:
        """``"orthogonal"``."""
        return "orthogonal"

    def transposes(self, shape: Sequence[int]) -> bool:
        """Tell that square matrices are worked on as they are.

        Args:
            shape: ``(*batch, n, n)``.

        Returns:
            False.
        """
        del shape
        return False

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply two elements of the group.

        Args:
            x: A point.
            y: A point.

        Returns:
            x y.
        """
        work = self._ready(x=x, y=y)
        return work.back(work.tensors[0] @ work.tensors[1])

    def inverse(self, x: Tensor) -> Tensor:
        """Invert an element of the group.

        Args:
            x: A point.

        Returns:
            Its transpose.
        """
        return self._ready(x=x).tensors[0].mT.to(x.dtype)

    def translate(self, x: Tensor, v: Tensor, y: Tensor) -> Tensor:
        """Carry a tangent vector to another point by the group: x A becomes y A.

        Unlike ``transport`` this keeps lengths and angles.

        Args:
            x: The point at which ``v`` is tangent.
            v: A tangent vector.
            y: The point to carry it to.

        Returns:
            A tangent vector at ``y``.
        """
        x, v, y = (work := self._ready(x=x, v=v, y=y)).tensors
        return work.back(y @ (x.mT @ v))

    def _exponential(self, x: Tensor, v: Tensor) -> Tensor:
        a = x.mT @ v
        reached = x @ matrix_exponential((a - a.mT) / 2)
        return orthogonalize(reached, coefficients="cubic", steps=1, normalize="none")

    def _logarithm(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        return x @ rotation_logarithm("x^T y", x.mT @ y, dtype)

    def _admit(self, shape: Sequence[int]) -> None:
        super()._admit(shape)
        if shape[-1] != shape[-2]:
            raise ValueError(
                f"the orthogonal group has square matrices only, got {shape[-2]} x {shape[-1]}; use Stiefel."
            )
