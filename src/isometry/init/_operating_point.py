"""Where an activation should work so that a deep net is close to an isometry.

The mean-field prescription h = W x + b has a critical point (sigma_w, sigma_b) at a given q* only if
sigma_w^2 E phi^2 <= q*, and for ReLU it leaves half of the singular values at zero however it is tuned. Both are mended
by a shift of the operating point that biases can hold: h = W (x - m) + t + b with m = E phi(t + sqrt(q*) z). Then

    sigma_w^2 = 1 / E phi'(t + sqrt(q*) z)^2,    sigma_b^2 = q* - sigma_w^2 Var phi(t + sqrt(q*) z),

and sigma_b^2 >= 0 for every activation, q* and t, since Var phi(u) <= q* E phi'(u)^2 (Poincare's inequality). For odd
activations at t = 0 it is the mean-field prescription itself.

The default operating point keeps the predicted variance of the squared singular values of the whole Jacobian,
L (mu_2 / mu_1^2 - 1) with mu_k = E phi'^(2k), at ``JACOBIAN_VARIANCE``: by q* alone where that is possible (smooth
activations), else by the smallest shift. It also asks that training cannot easily leave it for slopes that are larger.

References:
    J. Pennington, S. S. Schoenholz, S. Ganguli, The emergence of spectral universality in deep networks, AISTATS 2018.
    arXiv:1802.09979
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from isometry._base import Result
from isometry.theory import Activation, MeanField

__all__ = ["JACOBIAN_VARIANCE", "OperatingPoint", "Shift", "operating_point"]

Shift = Literal["auto", "never", "always"]
Array = NDArray[np.float64]

# Tanh and ReLU perceptrons of depth 20, 50 and 100 on digits learned fastest, over step sizes of SGD and Adam, at
# operating points of predicted variance 2 to 6: neither at the most isometric end nor at q* = 1.
JACOBIAN_VARIANCE = 4.0
_LARGEST_Q, _SMALLEST_Q = 0.5, 1e-4
_REACH = 8.5  # standard deviations beyond which a Gaussian average is cut off
_LEGENDRE = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True)
class OperatingPoint(Result):
    """What a layer's pre-activations should look like, and the weights that bring this about.

    Attributes:
        activation: The activation's name.
        q_star: Variance of the pre-activations about ``shift``.
        shift: t, the mean of the pre-activations; 0 at the origin.
        mean: m, what the next layer's bias takes away from the activations; 0 at the origin.
        sigma_w: Standard deviation of the next layer's weights times sqrt(fan_in), or its orthogonal gain.
        sigma_b: Standard deviation of the biases.
        jacobian_variance: Predicted variance of the squared singular values of the whole Jacobian, at ``depth``, for
            orthogonal weights.
        depth: The depth that it was chosen for.
    """

    activation: str
    q_star: float
    shift: float
    mean: float
    sigma_w: float
    sigma_b: float
    jacobian_variance: float
    depth: int

    @property
    def second_moment(self) -> float:
        """E h^2 of the pre-activations: q* + t^2."""
        return self.q_star + self.shift**2


@dataclass(frozen=True)
class _Averages:
    mean: float
    variance: float
    mu1: float
    spread: float  # mu_2 / mu_1^2 - 1; infinite where the slope vanishes


def operating_point(
    activation: Activation, *, depth: int, q_star: float | None = None, shift: Shift = "auto"
) -> OperatingPoint:
    """Choose the operating point of an activation for a depth.

    Args:
        activation: What the theory knows of the activation.
        depth: Number of layers with this activation along the chain.
        q_star: Variance of the pre-activations; None chooses it.
        shift: "never" stays at the origin, as plain mean-field theory prescribes; "always" removes the mean; "auto"
            shifts where the activation is not odd and, at the origin, either has no critical point or misses the
            aimed Jacobian variance.

    Returns:
        The operating point.

    Raises:
        ValueError: If the activation has no slope there, or no critical point at the origin with ``shift="never"``
            (``theory.NoCriticalPointError``).
    """
    q, t = _choose(activation, depth, q_star, shift)
    # Of the activations that are not odd, only the homogeneous ones have the same critical point at every q*.
    at_origin = shift == "never" or (shift == "auto" and t == 0 and activation.homogeneous is not None)
    at = _averages(activation, q, t)
    name = activation.name
    if not at.mu1 > 1e-12:
        raise ValueError(
            f"activation {name!r} has no slope at q_star={q:.3g}, so no weights can carry a signal through it; "
            "use another activation or a larger q_star."
        )
    predicted = depth * at.spread
    if at_origin or (activation.odd and t == 0):
        if activation.homogeneous is not None:  # every q is a fixed point of sigma_w^2 = 1 / mu_1, sigma_b = 0
            return OperatingPoint(name, q, 0.0, 0.0, 1 / math.sqrt(at.mu1), 0.0, predicted, depth)
        point = MeanField(activation).critical(q_star=q)
        return OperatingPoint(name, q, 0.0, 0.0, point.sigma_w, point.sigma_b, predicted, depth)
    sigma_w = 1 / math.sqrt(at.mu1)
    sigma_b = math.sqrt(max(0.0, q - at.variance / at.mu1))
    return OperatingPoint(name, q, t, at.mean, sigma_w, sigma_b, predicted, depth)


@lru_cache(maxsize=256)
def _choose(activation: Activation, depth: int, q_star: float | None, shift: Shift) -> tuple[float, float]:
    """Choose q* and the shift.

    Returns:
        ``(q_star, t)``.
    """
    if shift == "never" or activation.odd:
        if q_star is not None:
            return q_star, 0.0
        q = _largest_q(activation, depth)
        if shift == "never" or depth * _spread(activation, q, 0.0) <= 1.01 * JACOBIAN_VARIANCE:
            return q, 0.0
    q = q_star if q_star is not None else _LARGEST_Q
    t, cost = _smallest_shift(activation, depth, q)
    while q_star is None and cost > JACOBIAN_VARIANCE and q > 0.02:
        narrower, less = _smallest_shift(activation, depth, q / 2)
        if less >= cost:
            break
        q, t, cost = q / 2, narrower, less
    return q, t


def _largest_q(activation: Activation, depth: int) -> float:
    """Find the largest q* that keeps the Jacobian's variance at the origin, up to one half.

    Returns:
        q*; where no q* does (a kink at the origin), one half.
    """

    def fits(q: float) -> bool:
        return depth * _spread(activation, q, 0.0) <= JACOBIAN_VARIANCE

    if fits(_LARGEST_Q) or not fits(_SMALLEST_Q):
        return _LARGEST_Q
    low, high = math.log(_SMALLEST_Q), math.log(_LARGEST_Q)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(math.exp(middle)) else (low, middle)
    return math.exp(low)


def _smallest_shift(activation: Activation, depth: int, q: float) -> tuple[float, float]:
    """Find the smallest shift at which the chain is close to an isometry and cannot easily leave it.

    Two things are asked for: the Jacobian's variance, and that no other operating point of at least the same q has much
    larger slopes, since in training the pre-activations wander and chi would grow over all layers at once (GELU around
    zero has chi = 1 with sigma_w = 2, and chi = 2 far from zero).

    Returns:
        t, and the depth times the larger of the two excesses; where no t keeps it, the best of those tried.
    """
    steps = [0.05 * math.sqrt(q) * k for k in range(121)]
    places = np.linspace(0.0, max(8.0, steps[-1]), 25)
    largest = max(
        _averages(activation, factor * q, sign * t).mu1 for factor in (1, 4, 16) for t in places for sign in (1, -1)
    )
    best, least = 0.0, math.inf
    for t in (sign * step for step in steps for sign in (1, -1)):
        at = _averages(activation, q, t)
        if not at.mu1 > 1e-12:
            continue
        cost = depth * max(at.spread, largest / at.mu1 - 1)
        if cost <= JACOBIAN_VARIANCE:
            return t, cost
        if cost < least:
            best, least = t, cost
    return best, least


def _spread(activation: Activation, q: float, t: float) -> float:
    return _averages(activation, q, t).spread


def _quadrature(activation: Activation, scale: float, t: float) -> tuple[Array, Array]:
    """Make nodes and weights for averages over t + scale * z, with panels that end at the activation's kinks.

    Returns:
        Nodes in z, and weights that sum to one.
    """
    kinks = [(k - t) / scale for k in activation.kinks]
    edges = [-_REACH, *(z for z in kinks if abs(z) < _REACH), _REACH]
    longest = max(0.004, min(0.5, 0.5 * activation.feature / scale))
    panels = [
        np.linspace(low, high, 1 + math.ceil((high - low) / longest))
        for low, high in itertools.pairwise(edges)
        if high > low
    ]
    starts = np.concatenate([panel[:-1] for panel in panels])
    lengths = np.concatenate([np.diff(panel) for panel in panels])
    nodes = (starts[:, None] + lengths[:, None] * (_LEGENDRE[0] + 1) / 2).ravel()
    weights = (lengths[:, None] * _LEGENDRE[1]).ravel() * np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


def _averages(activation: Activation, q: float, t: float) -> _Averages:
    nodes, weights = _quadrature(activation, math.sqrt(q), t)
    u = t + math.sqrt(q) * nodes
    value, slope = activation.value(u), activation.slope(u)
    mean = float(weights @ value)
    mu1, mu2 = float(weights @ slope**2), float(weights @ slope**4)
    variance = float(weights @ (value - mean) ** 2)
    return _Averages(mean, variance, mu1, mu2 / mu1**2 - 1 if mu1 > 0 else math.inf)
