"""How strongly the pre-activations of networks of finite width fluctuate together, to leading order in 1/width.

A network z^1 = W^1 x, z^(l+1) = W^(l+1) phi(z^l) of width n has the kernel K^l = E (z_i^l)^2 and the four-point vertex
V^l = n (E (z_i^l)^2 (z_j^l)^2 - (K^l)^2), i != j; averages run over the weights at one input. V / K^2 is what different
units have in common, through the network that they share; with Gaussian weights it grows with depth. A vector that is
uniform on a sphere has E z_1^2 z_2^2 = |z|^4 / (n (n + 2)), so orthogonal weights add -2 (sigma_w^2 <phi^2>)^2 to the
vertex of every layer; for activations like tanh that is just what stops its growth.

References:
    H. Day, Y. Kahn, D. A. Roberts (2023), Feature Learning and Generalization in Deep Networks with Orthogonal Weights.
    https://arxiv.org/abs/2310.07765
    D. A. Roberts, S. Yaida, B. Hanin (2022), The Principles of Deep Learning Theory, chapter 4 (Gaussian weights).

The recursion for orthogonal weights is derived here, as above; it is tested against ensembles of networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from isometry._base import Cost, Result, check_positive, stopwatch, unknown_name
from isometry.theory._averages import GaussianAverages
from isometry.theory._mean_field import MeanField
from isometry.theory._quadrature import Array
from isometry.theory._resolve import ActivationLike

__all__ = ["EnsembleWeights", "FourPointVertex", "finite_width"]

EnsembleWeights: TypeAlias = Literal["gaussian", "orthogonal", "mixed"]

# Weights -> (V^1 / (K^1)^2, what the layer's own randomness subtracts in units of <phi^2>^2).
_RULES: dict[EnsembleWeights, tuple[float, float]] = {
    "gaussian": (0.0, 1.0),
    "orthogonal": (-2.0, 3.0),
    "mixed": (0.0, 3.0),  # a Gaussian first layer, orthogonal ones after it
}


@dataclass(frozen=True)
class FourPointVertex(Result):
    """Kernel and four-point vertex layer by layer; entry 0 belongs to the first pre-activation z^1.

    Attributes:
        activation: Name of the activation.
        weights: "gaussian", "orthogonal" or "mixed" (a Gaussian first layer, orthogonal ones after it).
        sigma_w: Weight scale (a standard deviation; also the gain of an orthogonal matrix).
        kernel: K, the second moment of a pre-activation (depth,).
        vertex: V at leading order in 1/width (depth,).
        fluctuation: V / K^2 (depth,); divided by the width it is the relative covariance of two units' squares.
        chi_parallel: sigma_w^2 d<phi^2>/dK at each layer (depth,): by how much a deviation of K is carried on.
        cost: Time taken.
    """

    activation: str
    weights: str
    sigma_w: float
    kernel: Array
    vertex: Array
    fluctuation: Array
    chi_parallel: Array
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        k, v = self.kernel, self.fluctuation
        return (
            f"{self.activation}, {self.weights} weights of sigma_w={self.sigma_w:.6g}, {k.size} layers: "
            f"K {k[0]:.4g} -> {k[-1]:.4g}, V/K^2 {v[0]:.4g} -> {v[-1]:.4g}"
        )


def finite_width(
    activation: ActivationLike,
    *,
    k1: float,
    depth: int,
    sigma_w: float | None = None,
    weights: EnsembleWeights = "orthogonal",
    kinks: Iterable[float] | None = None,
) -> FourPointVertex:
    """Predict kernel and four-point vertex of networks of equal width without biases, to leading order in 1/width.

    With C = sigma_w^2 and averages <.> over N(0, K):
    K' = C <phi^2>, V' = C^2 (<phi^4> - m <phi^2>^2) + chi^2 V, chi = C <phi^2 (z^2 - K)> / (2 K^2);
    m = 1, V^1 = 0 for Gaussian weights, m = 3, V^1 = -2 (K^1)^2 for orthogonal ones.

    Args:
        activation: A name, a module of ``torch.nn`` or an elementwise callable, as for ``MeanField``.
        k1: The kernel of the first layer, sigma_w^2 mean(x^2).
        depth: How many layers, >= 1.
        sigma_w: Weight scale: a standard deviation times sqrt(width) (the paper's C_W is its square); default: the
            critical one without biases, 1 for tanh and linear, sqrt 2 for ReLU.
        weights: "gaussian", "orthogonal" or "mixed" (a Gaussian first layer, orthogonal ones after it).
        kinks: Positions where a callable is not smooth; found numerically by default.

    Returns:
        The layers' kernels and vertices.

    Raises:
        ValueError: If an argument is out of range or unknown.

    Example:
        >>> growing = finite_width("tanh", k1=0.49, depth=100, weights="gaussian")
        >>> steady = finite_width("tanh", k1=0.49, depth=100, weights="orthogonal")
        >>> print(f"{growing.fluctuation[-1]:.1f}, {steady.fluctuation[-1]:.2f}")
        65.3, -1.98
    """
    field_theory = MeanField(activation, kinks=kinks)
    k = check_positive("k1", k1)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth must be a positive integer, got {depth!r}; it counts pre-activations, z^1 included.")
    if weights not in _RULES:
        unknown: ValueError = unknown_name("weights", weights, _RULES)
        raise unknown
    scale = field_theory.critical(sigma_b=0.0).sigma_w if sigma_w is None else check_positive("sigma_w", sigma_w)
    start, subtracted = _RULES[weights]
    with stopwatch() as watch:
        layers = _recursion(field_theory, scale**2, k, start * k * k, subtracted, depth)
    kernel, vertex, chi = (np.array(column) for column in zip(*layers, strict=True))
    return FourPointVertex(
        activation=field_theory.name,
        weights=weights,
        sigma_w=scale,
        kernel=kernel,
        vertex=vertex,
        fluctuation=vertex / kernel**2,
        chi_parallel=chi,
        cost=Cost(seconds=watch.seconds),
    )


def _recursion(
    field_theory: MeanField, c: float, k: float, v: float, subtracted: float, depth: int
) -> list[tuple[float, float, float]]:
    """Iterate the recursions.

    Returns:
        (K, V, chi_parallel) of every layer.

    Raises:
        ValueError: If the kernel vanishes or overflows.
    """
    phi = field_theory.activation
    averages = GaussianAverages(phi)
    # <phi^4> is the second moment of phi^2.
    squared = GaussianAverages(replace(phi, value=lambda u: phi.value(u) ** 2, closed=None))
    layers: list[tuple[float, float, float]] = []
    for layer in range(1, depth + 1):
        if not (1e-150 < k < 1e150):
            raise ValueError(
                f"k1 and sigma_w carry the kernel of {phi.name!r} to {k:.3g} at layer {layer}, so V / K^2 is lost; "
                "use fewer layers or the critical sigma_w."
            )
        at = np.array([k])
        second = float(averages.second_moment(at)[0])
        fourth = float(squared.second_moment(at)[0])
        chi = c * float(averages.second_moment_slope(at)[0])
        layers.append((k, v, chi))
        v = c * c * (fourth - subtracted * second * second) + chi * chi * v
        k = c * second
    if not all(math.isfinite(value) for row in layers for value in row):
        raise ValueError(f"the vertex of {phi.name!r} overflows within {depth} layers; use fewer layers.")
    return layers
