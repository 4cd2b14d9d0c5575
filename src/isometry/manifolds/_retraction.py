"""What a retraction gives: a point, and how it was reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from isometry._base import Result
from isometry.manifolds._defect import Defect

__all__ = ["Retraction", "Taken"]


@dataclass(frozen=True)
class Retraction(Result):
    """A point reached from another one, and how.

    Attributes:
        point: The point; shape and dtype of the one that it was reached from.
        method: The method that was used; with ``"auto"`` the one that was chosen.
        steps: Newton-Schulz steps taken; 0 with other methods.
        spread: ``|Y^T Y - I|_F`` of Y = x + v, the largest over the batch: what the choice was made by. None where it
            did not matter.
        defect: How far the point is from the manifold.
    """

    point: Tensor = field(repr=False)
    method: str
    steps: int
    spread: float | None
    defect: Defect


class Taken(NamedTuple):
    """An upright point and how it was reached; see ``Retraction``."""

    point: Tensor
    method: str
    steps: int = 0
    spread: float | None = None
