"""The distribution of squared slopes d = phi'(sqrt(q) z)^2, and its transforms near the real line.

m(w) = E[d / (w - d)] has to be evaluated for w close to the values of d, where the integrand in z has spikes. The mesh
of panels in z is therefore refined for the w at hand, and keeps what it has learnt. Stretches on which phi' is constant
(dead or linear units) are atoms and need no mesh.

Slopes that a unit shows with a probability below 1e-10 (|z| > 6.5) are left out: an edge of a spectrum is where finite
networks end, not the supremum over events that no network meets.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isometry.theory._activation import Activation
from isometry.theory._averages import GaussianAverages
from isometry.theory._quadrature import Array, density, erfc, rule

__all__ = ["NEGLECTED", "SlopeLaw", "Stretch", "Transform", "stretches", "without_vanishing_slopes"]

_REACH = 6.5
NEGLECTED = float(erfc(_REACH / math.sqrt(2)))  # 8.0e-11
_RESOLUTION = 1e-11  # of the transform, relative
_MAX_PANELS = 4000
_VANISHING = 1e-140
_PROBES = np.linspace(0.0, 1.0, 130)[1:-1]  # where a stretch is asked whether its slope is constant
_NODES, _WEIGHTS, _TOP = rule()

Complex = NDArray[np.complex128]


class Stretch(NamedTuple):
    """A stretch of z between two kinks: its ends, its probability, and phi'^2 where that is constant."""

    left: float
    right: float
    mass: float
    square: float | None


class Transform:
    """m(w), 1 + m(w) and dm/dlog w for an array of points w.

    Args:
        m: E[d / (w - d)].
        plus_one: E[w / (w - d)], which is 1 + m without cancellation.
        slope: dm/dlog w = -E[w d / (w - d)^2].
    """

    __slots__ = ("m", "plus_one", "slope")

    def __init__(self, m: NDArray[Any], plus_one: NDArray[Any], slope: NDArray[Any]) -> None:
        self.m, self.plus_one, self.slope = m, plus_one, slope


class SlopeLaw:
    """The distribution of d at one variance.

    Args:
        averages: The activation's averages.
        q: The second moment of the pre-activations.
    """

    def __init__(self, averages: GaussianAverages, q: float) -> None:
        self._root = math.sqrt(q)
        activation = without_vanishing_slopes(averages.activation, self._root)
        self._slope = activation.slope
        marks = np.array(activation.kinks) / self._root
        breaks = np.concatenate([averages.breaks(np.array([self._root]))[0], marks])
        breaks = np.unique(np.clip(breaks, -_REACH, _REACH))
        low, high = breaks[:-1], breaks[1:]
        varying = np.ones(low.size, dtype=bool)
        masses: dict[float, float] = {}
        total = 0.0
        for stretch in stretches(activation, self._root):
            total += stretch.mass
            if stretch.square is not None:
                varying[(low >= stretch.left) & (high <= stretch.right)] = False
                masses[stretch.square] = masses.get(stretch.square, 0.0) + stretch.mass
        self.atoms = tuple(sorted((v, p / total) for v, p in masses.items()))
        self._norm = total
        self._low: Array
        self._high: Array
        self._d_panels: Array
        self._density: Array
        self._set(low[varying], high[varying])
        self._base = (self._low, self._high)
        self.lowest, self.highest = self._extremes()

    @property
    def panels(self) -> int:
        """Count the panels of the mesh.

        Returns:
            The number.
        """
        return int(self._low.size)

    def atom(self, value: float) -> float:
        """Give the probability of one value of d.

        Returns:
            The mass, 0 if there is no atom there.
        """
        return dict(self.atoms).get(value, 0.0)

    def transform(self, w: NDArray[Any]) -> Transform:
        """Evaluate m and its kin on the present mesh.

        Args:
            w: Points off the support of d, real or complex, (n,).

        Returns:
            The transform at each of them.
        """
        inverse = 1 / (w[:, None] - self._d)  # (n, nodes)
        outer, inner = w[:, None] * inverse, self._d * inverse
        return Transform(inner @ self._weight, outer @ self._weight, -((outer * inner) @ self._weight))

    def mean_argument(self, w: NDArray[np.complex128]) -> Array:
        """Evaluate E[arg(w - d)] on the present mesh, for w in the closed upper half-plane.

        Returns:
            Angles in [0, pi], of w's shape, (n,).
        """
        return np.asarray(np.arctan2(np.abs(w.imag)[:, None], w.real[:, None] - self._d) @ self._weight)

    def refine(self, w: complex) -> None:
        """Halve panels until d / (w - d) is resolved on all of them."""
        if not self._low.size:
            return
        if self._low.size > _MAX_PANELS:
            self._set(*self._base)
        for _ in range(60):
            integrand = self._d_panels / (w - self._d_panels) * self._density
            top = np.abs(integrand @ _TOP.T).max(axis=1)
            largest = np.abs(integrand).max(axis=1)
            half = 0.5 * (self._high - self._low)
            error = half * top * np.minimum(1.0, 1e3 * top / np.maximum(largest, 1e-300))
            size = float((half * (np.abs(integrand) @ _WEIGHTS)).sum())
            # d is known to rounding only: nothing finer can be resolved once w - d comes down to that
            noise = 1e-14 * abs(w) * largest / np.abs(w - self._d_panels).min(axis=1)
            rough = (error > _RESOLUTION * size) & (half > 1e-14) & (top > noise)
            if not rough.any():
                return
            low, high = self._low[rough], self._high[rough]
            middle = 0.5 * (low + high)
            keep = ~rough
            self._set(
                np.concatenate([self._low[keep], low, middle]), np.concatenate([self._high[keep], middle, high]), keep
            )

    # the mesh -------------------------------------------------------------------------------------------------------

    def _squares(self, low: Array, high: Array) -> tuple[Array, Array]:
        half = 0.5 * (high - low)
        z = 0.5 * (high + low)[:, None] + half[:, None] * _NODES
        return z, self._slope(self._root * z) ** 2

    def _set(self, low: Array, high: Array, keep: NDArray[np.bool_] | None = None) -> None:
        if keep is None:
            z, d = self._squares(low, high)
            dens = density(z)
        else:  # the first panels are old ones
            old = int(keep.sum())
            z_new, d_new = self._squares(low[old:], high[old:])
            d = np.concatenate([self._d_panels[keep], d_new])
            dens = np.concatenate([self._density[keep], density(z_new)])
        self._low, self._high, self._d_panels, self._density = low, high, d, dens
        weight = 0.5 * (high - low)[:, None] * _WEIGHTS * dens / self._norm
        self._d = np.concatenate([d.ravel(), [v for v, _ in self.atoms]])
        self._weight = np.concatenate([weight.ravel(), [p for _, p in self.atoms]])

    def _extremes(self) -> tuple[float, float]:
        """Find the smallest and the largest d, by golden sections around the extreme nodes of every panel.

        Returns:
            Infimum and supremum.
        """
        values = [v for v, _ in self.atoms]
        if self._low.size:
            inset = 1e-13 * (self._high - self._low) + 1e-15  # one-sided limits at kinks
            z = np.concatenate([(self._low + inset)[:, None], self._squares(self._low, self._high)[0]], axis=1)
            z = np.concatenate([z, (self._high - inset)[:, None]], axis=1)
            d = self._slope(self._root * z) ** 2
            for sign in (1.0, -1.0):
                best = np.argmax(sign * d, axis=1)
                row = np.arange(z.shape[0])
                left, right = z[row, np.maximum(best - 1, 0)], z[row, np.minimum(best + 1, z.shape[1] - 1)]
                for _ in range(60):
                    a, b = left + 0.382 * (right - left), left + 0.618 * (right - left)
                    low_better = sign * self._slope(self._root * a) ** 2 > sign * self._slope(self._root * b) ** 2
                    left, right = np.where(low_better, left, a), np.where(low_better, b, right)
                values += [*(self._slope(self._root * 0.5 * (left + right)) ** 2).tolist(), *d.ravel().tolist()]
        low, high = min(values), max(values)
        return (0.0 if low < 1e-28 * high else low), high  # the square of a slope that is 0 up to rounding


def without_vanishing_slopes(activation: Activation, root: float) -> Activation:
    """Take units for dead whose squared slope is below 1e-140 of the largest: float64 cannot carry it through layers.

    Args:
        activation: The activation.
        root: Standard deviation of the pre-activations.

    Returns:
        The activation with slope 0 there, and with the ends of such stretches among its kinks.
    """
    z = np.linspace(-_REACH, _REACH, 2600)
    squares = activation.slope(root * z) ** 2
    least = _VANISHING * float(squares.max())
    low = squares < least
    if activation.piecewise_linear or not low.any():
        return activation

    def slope(u: Array) -> Array:
        values = activation.slope(u)
        return np.where(values * values < least, 0.0, values)

    turns = np.flatnonzero(low[1:] != low[:-1])
    left, right = z[turns], z[turns + 1]
    for _ in range(60):
        middle = 0.5 * (left + right)
        same = (activation.slope(root * middle) ** 2 < least) == low[turns]
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    kinks = sorted({*activation.kinks, *(root * 0.5 * (left + right)).tolist()})
    return replace(activation, slope=slope, kinks=tuple(kinks))


def stretches(activation: Activation, root: float) -> list[Stretch]:
    """Cut the line of z at the kinks and say where the slope is constant; varying stretches end at the reach.

    Args:
        activation: The activation.
        root: Standard deviation of the pre-activations.

    Returns:
        The stretches that have any mass, from left to right.
    """
    kinks = np.array(activation.kinks) / root
    far = 1 + max(_REACH, float(np.abs(kinks).max(initial=0.0)))
    found = []
    for left, right in pairwise([-math.inf, *kinks.tolist(), math.inf]):
        a, b = max(left, -far), min(right, far)
        squares = activation.slope(root * (a + (b - a) * _PROBES)) ** 2
        if np.ptp(squares) == 0:
            mass = _probability(left, right)
            if mass > (0.0 if activation.piecewise_linear else NEGLECTED):
                found.append(Stretch(left, right, mass, float(squares[0])))
        elif max(left, -_REACH) < min(right, _REACH):
            left, right = max(left, -_REACH), min(right, _REACH)
            found.append(Stretch(left, right, _probability(left, right), None))
    return found


def _probability(left: float, right: float) -> float:
    """Give P(left < z < right) without cancellation in the tails.

    Returns:
        The probability.
    """
    if left > 0:
        left, right = -right, -left
    ends = erfc(np.array([-right, -left]) / math.sqrt(2))
    return float(0.5 * (ends[0] - ends[1]))
