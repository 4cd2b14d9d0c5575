"""What a manifold of matrices can do; the operations check and orient their arguments here, subclasses compute."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isometry._base import check_tensor, unknown_name
from isometry.linalg._precision import check_real_dtype, check_size
from isometry.manifolds._defect import Defect, defect_of, rounding_tolerance
from isometry.manifolds._retraction import Retraction, Taken
from isometry.manifolds._work import Work, prepare

__all__ = ["Manifold"]


@dataclass(frozen=True)
class Manifold(ABC):
    """A manifold of real matrices; points and tangent vectors have shape ``(*batch, n, p)``.

    Nothing is stored but the definition, so one object serves all shapes. Batches are broadcast. float16 and bfloat16
    are worked on in float32 and cast back. NaN and infinity are refused by the name of the argument. ``tangent``,
    ``gradient``, ``transport`` and ``inner`` let gradients pass; do not rely on it for the others.

    Attributes:
        retractions: Names of the methods of ``retract``.
    """

    retractions: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in words, as tables show it."""

    @property
    def upright(self) -> Manifold:
        """The same manifold for matrices that were transposed wherever ``transposes`` says so."""
        return self

    @abstractmethod
    def transposes(self, shape: Sequence[int]) -> bool:
        """Tell whether matrices of a shape are worked on as their transposes, so that columns are what is constrained.

        Args:
            shape: ``(*batch, n, p)``.

        Returns:
            True for wide matrices of ``Stiefel``, for instance.
        """

    @abstractmethod
    def dimension(self, shape: Sequence[int]) -> int:
        """Count the degrees of freedom.

        Args:
            shape: ``(*batch, n, p)``; the matrices of a batch are independent.

        Returns:
            The dimension of the manifold of such points.
        """

    # -- points --------------------------------------------------------------------------------------------------------

    def project(self, x: Tensor) -> Tensor:
        """Give the nearest point, in the Frobenius norm.

        Args:
            x: Any matrices, shape ``(*batch, n, p)``.

        Returns:
            Points of that shape.

        Raises:
            ValueError: If there is no single nearest point (a matrix without full rank, a zero column).
        """
        work = self._ready(x=x)
        with torch.no_grad():
            return work.back(self._project(work.tensors[0]))

    def random(
        self,
        *shape: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw points from the distribution that no rotation changes.

        Args:
            *shape: ``(*batch, n, p)``.
            dtype: Dtype of the points; real floating point.
            device: Device of the points; default: torch's default device.
            generator: Source of randomness; torch's global one by default.

        Returns:
            Independent points.
        """
        for length in shape:
            check_size("each length in shape", length)
        check_real_dtype("dtype", dtype)
        self._admit(shape)
        place = torch.device(device) if device is not None else torch.get_default_device()
        return self._random(shape, dtype, place, generator)

    def check(self, x: Tensor, *, tolerance: float | None = None) -> Defect:
        """Measure how far matrices are from the manifold.

        Args:
            x: Shape ``(*batch, n, p)``.
            tolerance: Largest Frobenius norm of the defect that is ok; default: what rounding to the dtype of ``x``
                explains, see ``Defect``.

        Returns:
            The defect, the worst over the batch.
        """
        work = self._ready(x=x)
        matrix = work.tensors[0].detach().to(torch.float64)
        return defect_of(self._difference(matrix), matrix.shape[-1], x.dtype, tolerance)

    # -- tangent vectors -----------------------------------------------------------------------------------------------

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Project orthogonally (in the Frobenius inner product) on the tangent space of a point.

        Args:
            x: A point.
            v: Any matrix of its shape.

        Returns:
            The tangent vector nearest to ``v``.
        """
        work = self._ready(x=x, v=v)
        return work.back(self._tangent(*work.tensors))

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Give the Riemannian gradient: the tangent vector whose inner product with every other one is <g, v>.

        Args:
            x: A point.
            g: The Euclidean gradient there, in the same shape.

        Returns:
            The gradient in the manifold's metric.
        """
        work = self._ready(x=x, g=g)
        return work.back(self._gradient(*work.tensors))

    def transport(self, x: Tensor, v: Tensor, y: Tensor) -> Tensor:
        """Carry a tangent vector to another point by projection.

        Args:
            x: The point at which ``v`` is tangent.
            v: A tangent vector.
            y: The point to carry it to.

        Returns:
            The tangent vector at ``y`` nearest to ``v``.
        """
        work = self._ready(x=x, v=v, y=y)
        return work.back(self._tangent(work.tensors[2], work.tensors[1]))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Give the inner product of two tangent vectors in the manifold's metric.

        Args:
            x: A point.
            u: A tangent vector there.
            v: Another one.

        Returns:
            Shape ``(*batch,)``, in float32 at the least.
        """
        work = self._ready(x=x, u=u, v=v)
        return self._inner(*work.tensors)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        """Give the length of a tangent vector in the manifold's metric.

        Args:
            x: A point.
            v: A tangent vector there.

        Returns:
            Shape ``(*batch,)``, in float32 at the least.
        """
        # A square may come out below zero by rounding where the metric subtracts.
        return self.inner(x, v, v).clamp_min(0).sqrt()

    # -- curves --------------------------------------------------------------------------------------------------------

    def retract(self, x: Tensor, v: Tensor, method: str = "auto") -> Tensor:
        """Move from a point along a tangent vector and come back to the manifold.

        Args:
            x: A point.
            v: A tangent vector there.
            method: How to come back; one of ``retractions``, see the manifold.

        Returns:
            The new point. ``retraction`` also tells which method ``"auto"`` chose, and how good the point is.

        Raises:
            ValueError: If ``x`` is off the manifold, or the method cannot make the step.
        """
        work, taken = self._retract(x, v, method)
        return work.back(taken.point)

    def retraction(self, x: Tensor, v: Tensor, method: str = "auto") -> Retraction:
        """Move as ``retract`` does, and say how.

        Args:
            x: A point.
            v: A tangent vector there.
            method: How to come back.

        Returns:
            The new point with the method used and its defect.
        """
        work, taken = self._retract(x, v, method)
        point = work.back(taken.point)
        return Retraction(point, taken.method, taken.steps, taken.spread, self.check(point))

    def exponential(self, x: Tensor, v: Tensor) -> Tensor:
        """Follow the geodesic that leaves a point with a given velocity, for unit time.

        Args:
            x: A point.
            v: A tangent vector there.

        Returns:
            The point reached.

        Raises:
            ValueError: If ``x`` is off the manifold or ``v`` is not tangent there.
        """
        work = self._ready(x=x, v=v)
        self._insist(work, "x", 0)
        self._insist_tangent(work)
        return work.back(self._exponential(*work.tensors))

    def logarithm(self, x: Tensor, y: Tensor) -> Tensor:
        """Give the velocity with which the shortest geodesic leaves x for y: ``exponential`` undone.

        Args:
            x: A point.
            y: Another one.

        Returns:
            A tangent vector at ``x``.

        Raises:
            ValueError: If a point is off the manifold, if they lie too far apart for a shortest geodesic to be unique,
                or if no formula is known for the metric.
        """
        work = self._ready(x=x, y=y)
        self._insist(work, "x", 0)
        self._insist(work, "y", 1)
        with torch.no_grad():
            x, y = work.tensors
            return work.back(self._logarithm(x, y, work.dtype))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Give the length of the shortest geodesic between two points; see ``logarithm``.

        Args:
            x: A point.
            y: Another one.

        Returns:
            Shape ``(*batch,)``, in float32 at the least.
        """
        return self.norm(x, self.logarithm(x, y))

    # -- what subclasses compute: upright matrices in a working dtype --------------------------------------------------

    @abstractmethod
    def _project(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _random(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
    ) -> Tensor: ...

    @abstractmethod
    def _difference(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _tangent(self, x: Tensor, v: Tensor) -> Tensor: ...

    @abstractmethod
    def _gradient(self, x: Tensor, g: Tensor) -> Tensor: ...

    @abstractmethod
    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor: ...

    @abstractmethod
    def _retracted(self, work: Work, method: str) -> Taken: ...

    @abstractmethod
    def _exponential(self, x: Tensor, v: Tensor) -> Tensor: ...

    @abstractmethod
    def _logarithm(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor: ...

    def _admit(self, shape: Sequence[int]) -> None:
        """Refuse shapes that have no points.

        Raises:
            ValueError: If the shape is not that of a matrix.
        """
        if len(shape) < 2:
            raise ValueError(
                f"shape must be (*batch, n, p), got {tuple(shape)}; a vector of length n is a matrix (n, 1)."
            )

    def _retract(self, x: Tensor, v: Tensor, method: str) -> tuple[Work, Taken]:
        if method not in self.retractions:
            error = unknown_name(f"retraction of {self.name}", method, self.retractions)
            raise error
        work = self._ready(x=x, v=v)
        self._insist(work, "x", 0)
        return work, self._retracted(work, method)

    def _ready(self, **given: Tensor) -> Work:
        name, first = next(iter(given.items()))
        check_tensor(name, first, min_ndim=2)
        self._admit(first.shape)
        return prepare(self.transposes(first.shape), **given)

    def _insist(self, work: Work, name: str, index: int) -> None:
        matrix = work.tensors[index].detach()
        found = defect_of(self._difference(matrix), matrix.shape[-1], work.dtype, None)
        # Points that were only carried along for a while are fine; matrices that were never projected are not.
        if found.frobenius > _loose(matrix, work.dtype):
            raise ValueError(
                f"{name} is not on the manifold {self.name}: its defect is {found.frobenius:.2g}; pass project({name})."
            )

    def _insist_tangent(self, work: Work) -> None:
        x, v = (t.detach() for t in work.tensors[:2])
        error = float(torch.linalg.vector_norm(self._tangent(x, v) - v, dim=(-2, -1)).max())
        size = float(torch.linalg.vector_norm(v, dim=(-2, -1)).max())
        if error > _loose(x, work.dtype) * max(size, torch.finfo(x.dtype).tiny):
            raise ValueError(
                f"v is not tangent to {self.name} at x: {error / size:.2g} of its length sticks out; "
                "pass tangent(x, v)."
            )


def _loose(matrix: Tensor, dtype: torch.dtype) -> float:
    return max(math.sqrt(torch.finfo(dtype).eps), rounding_tolerance(matrix.shape[-1], dtype))
