"""The Stiefel manifold: matrices with orthonormal columns (rows, if wide).

References:
    A. Edelman, T. A. Arias, S. T. Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix
    Anal. Appl. 20(2), 1998. arXiv:physics/9806030
    P.-A. Absil, R. Mahony, R. Sepulchre, Optimization Algorithms on Matrix Manifolds, Princeton University Press, 2008.
    Z. Wen, W. Yin, A feasible method for optimization with orthogonality constraints, Math. Program. 142, 2013.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from isometry._base import unknown_name
from isometry.linalg import haar, orthogonalize, qf
from isometry.manifolds._geodesics import canonical_exponential, canonical_logarithm, embedded_exponential
from isometry.manifolds._manifold import Manifold
from isometry.manifolds._oblique import sphere_logarithm
from isometry.manifolds._polar import (
    NEAR_STEPS,
    gram_spread,
    nearest_orthonormal,
    newton_schulz_polar,
    newton_schulz_steps,
)
from isometry.manifolds._retraction import Taken
from isometry.manifolds._rotations import rotation_logarithm
from isometry.manifolds._work import Work

__all__ = ["Metric", "Stiefel"]

Metric = Literal["embedded", "canonical"]


@dataclass(frozen=True)
class Stiefel(Manifold):
    """Matrices with orthonormal columns, St(n, p) = {Q : Q^T Q = I}; orthonormal rows where n < p.

    Wide matrices are worked on as their transposes. p = 1 is the unit sphere, n = p the orthogonal group.

    Retractions: ``"polar"`` (x + v) (I + v^T v)^(-1/2), exact, by a singular value decomposition; ``"newton-schulz"``
    the same by matrix products alone, guaranteed where ``|(x+v)^T (x+v) - I|_F < 1`` and refused elsewhere; ``"auto"``
    Newton-Schulz where three steps are enough (that norm below 0.62 in float32, 0.31 in float64), else
    ``"polar"``; ``"qr"`` the Q factor with positive diagonal of R; ``"cayley"`` a rational curve that keeps
    orthogonality without a decomposition. Polar agrees with the geodesic of the embedded metric, Cayley with that of
    the canonical one, up to O(t^3); QR up to O(t^2).

    Attributes:
        metric: ``"embedded"``, <u, v> = tr(u^T v), or ``"canonical"``, <u, v> = tr(u^T (I - x x^T / 2) v), which
            counts every rotation of the frame once and not twice.

    Example:
        >>> stiefel = Stiefel()
        >>> x = stiefel.project(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> x.T @ x
        tensor([[1., 0.],
                [0., 1.]])
    """

    retractions: ClassVar[tuple[str, ...]] = ("auto", "polar", "qr", "cayley", "newton-schulz")

    metric: Metric = "embedded"

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            error = unknown_name("metric", self.metric, get_args(Metric))
            raise error

    @property
    def name(self) -> str:
        """``"stiefel"``, with the metric where it is not the embedded one."""
        return "stiefel" if self.metric == "embedded" else "stiefel (canonical)"

    def transposes(self, shape: Sequence[int]) -> bool:
        """Tell whether matrices of a shape are wide.

        Args:
            shape: ``(*batch, n, p)``.

        Returns:
            n < p.
        """
        return shape[-2] < shape[-1]

    def dimension(self, shape: Sequence[int]) -> int:
        """Count the degrees of freedom: n p - p (p + 1) / 2 a matrix, n >= p.

        Args:
            shape: ``(*batch, n, p)``.

        Returns:
            Their number.
        """
        self._admit(shape)
        n, p = max(shape[-2:]), min(shape[-2:])
        return math.prod(shape[:-2]) * (n * p - p * (p + 1) // 2)

    def _retracted(self, work: Work, method: str) -> Taken:
        x, v = work.tensors
        if method == "cayley":
            self._insist_tangent(work)
            return Taken(_cayley(x, v), method)
        y = x + v
        if method == "qr":
            return Taken(qf(y), method)
        with torch.no_grad():
            spread = gram_spread(y)
            steps = newton_schulz_steps(spread, y.dtype)
            if method == "newton-schulz" and steps is None:
                raise ValueError(
                    f"v is too long for Newton-Schulz: |(x+v)^T (x+v) - I|_F = {spread:.2g} must be below 1; take a "
                    'shorter step, or method="auto" or "polar".'
                )
            if method == "polar" or steps is None or (method == "auto" and steps > NEAR_STEPS):
                return Taken(nearest_orthonormal("x + v", y), "polar", 0, spread)
            return Taken(newton_schulz_polar(y, steps), "newton-schulz", steps, spread)

    def _project(self, x: Tensor) -> Tensor:
        return nearest_orthonormal("x", x)

    def _random(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        return haar(shape[-2], shape[-1], batch=shape[:-2], dtype=dtype, device=device, generator=generator)

    def _difference(self, x: Tensor) -> Tensor:
        return x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        product = x.mT @ v
        return v - x @ ((product + product.mT) / 2)  # Edelman et al., Sec. 2.2.1

    def _gradient(self, x: Tensor, g: Tensor) -> Tensor:
        if self.metric == "canonical":
            return g - x @ (g.mT @ x)  # Edelman et al., Sec. 2.4.4
        return self._tangent(x, g)

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        value = (u * v).sum((-2, -1))
        if self.metric == "canonical":
            value = value - ((x.mT @ u) * (x.mT @ v)).sum((-2, -1)) / 2  # Edelman et al., Sec. 2.4.1
        return value

    def _exponential(self, x: Tensor, v: Tensor) -> Tensor:
        reached = canonical_exponential(x, v) if self.metric == "canonical" else embedded_exponential(x, v)
        # The exponential of a long velocity collects rounding; the reached matrix is still nearly orthonormal.
        return orthogonalize(reached, coefficients="cubic", steps=1, normalize="none")

    def _logarithm(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        n, p = x.shape[-2:]
        if p == 1:
            return sphere_logarithm(x, y, dtype)
        if n == p:  # both metrics have the geodesics of the group
            return x @ rotation_logarithm("x^T y", x.mT @ y, dtype)
        if self.metric == "embedded":
            raise ValueError(
                f"no formula is known for the logarithm of {n} x {p} matrices in the embedded metric; use "
                'Stiefel("canonical").'
            )
        return canonical_logarithm(x, y, dtype)


def _cayley(x: Tensor, v: Tensor) -> Tensor:
    """Solve (I - W/2) y = (I + W/2) x with W = u z^T, u = [P v, x], z = [x, -P v], P = I - x x^T / 2.

    Wen and Yin, Eqs. (7), (19): W x = v for a tangent v. By the Woodbury formula the system has only 2 p unknowns.

    Returns:
        The point y.
    """
    n, p = x.shape[-2:]
    half = v - x @ (x.mT @ v) / 2
    u, z = torch.cat([half, x], -1), torch.cat([x, -half], -1)
    if 2 * p >= n:
        w = u @ z.mT / 2
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        point: Tensor = torch.linalg.solve(eye - w, x + w @ x)
        return point
    eye = torch.eye(2 * p, dtype=x.dtype, device=x.device)
    solved: Tensor = torch.linalg.solve(eye - z.mT @ u / 2, z.mT @ x)
    return x + u @ solved
