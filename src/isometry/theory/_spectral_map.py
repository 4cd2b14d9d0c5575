"""The map from the slopes' law to the law of the Jacobian's squared singular values.

For J = D^L W^L ... D^1 W^1 with free factors, chi = sigma_w^2 E d and m(w) = E[d / (w - d)],
    lambda(w) = sigma_w^(2L) w^L (m / (1 + m))^(L-1) * ((1 + m)^L if Gaussian else 1),
and the moment generating function of lambda at lambda(w) is m(w). With t = log lambda, all is done in logarithms:
    t(w) = L log sigma_w^2 + L log w + (L-1) (log m - log(1 + m)) [+ L log(1 + m)].
For w in the upper half-plane m lies in the lower one, so the principal logarithms are the right ones. The density of t
is -Im(1 + m)/pi, and since (1 + m) dt integrates in closed form, so is the mass above lambda:
    N = Im( L E log(w - d) + (L-1) log m [+ L m] ) / pi.

References:
    J. Pennington, S. Schoenholz, S. Ganguli (2018), The Emergence of Spectral Universality in Deep Networks.
    https://arxiv.org/abs/1802.09979
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isometry.theory._quadrature import Array
from isometry.theory._roots import bracketed_root
from isometry.theory._slope_law import SlopeLaw

__all__ = ["SpectralMap"]

_NEAREST = math.log(1e-11)  # of w/d - 1 on the real axis: d itself is known to about 1e-16


class SpectralMap:
    """lambda(w) in logarithms, with its derivative and the edges of the spectrum.

    Args:
        slopes: The law of d.
        depth: Number of layers L.
        log_gain: log sigma_w^2 (with dropout, log of sigma_w^2 / keep).
        gaussian: Whether the weights are Gaussian rather than orthogonal.
    """

    def __init__(self, slopes: SlopeLaw, *, depth: int, log_gain: float, gaussian: bool) -> None:
        self.slopes, self.depth, self.log_gain, self.gaussian = slopes, depth, log_gain, gaussian

    def evaluate(self, w: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Evaluate the map.

        Args:
            w: Points, (n,); complex ones in the upper half-plane.

        Returns:
            t = log lambda, dt/dlog w, and 1 + m, each (n,).
        """
        depth, at = self.depth, self.slopes.transform(w)
        t = depth * (self.log_gain + np.log(w)) + (depth - 1) * _log_ratio(at.m, at.plus_one)
        slope = depth + (depth - 1) * at.slope / (at.m * at.plus_one)
        if self.gaussian:
            t = t + depth * np.log(at.plus_one)
            slope = slope + depth * at.slope / at.plus_one
        return t, slope, at.plus_one

    def density_slope(self, w: NDArray[Any]) -> NDArray[Any]:
        """Give d(1 + m)/dt.

        Returns:
            A complex array of w's shape; its imaginary part over -pi is the derivative of the density of t.
        """
        at = self.slopes.transform(w)
        return np.asarray(at.slope / self.evaluate(w)[1])

    def mass_above(self, w: NDArray[Any]) -> Array:
        """Give the mass of the spectrum above lambda(w).

        Returns:
            Masses in [0, 1], (n,).
        """
        at = self.slopes.transform(w)
        # Arguments by hand, for w on the real axis too: w - d has one in [0, pi], m one in [-pi, 0].
        total = self.depth * self.slopes.mean_argument(w)
        total = total - (self.depth - 1) * np.arctan2(np.abs(at.m.imag), at.m.real)
        if self.gaussian:
            total = total + self.depth * at.m.imag
        return np.asarray(total / math.pi)

    def upper_edge(self) -> tuple[float, float]:
        """Find the upper edge of the spectrum: the least lambda(w) over real w above the slopes.

        Returns:
            The logarithm of the largest squared singular value, and the w it belongs to.
        """
        top = self.slopes.highest
        # From far out, where lambda(w) rises, inwards to the first place where it falls.
        before = math.log(1e6 * self.depth)
        for y in np.arange(before, _NEAREST, -0.25):
            if self._slope_at(top * (1 + math.exp(y))) < 0:
                root = bracketed_root(
                    lambda v: np.array([self._slope_at(top * (1 + math.exp(float(v[0]))))]),
                    np.array([y]),
                    np.array([before]),
                    relative=1e-13,
                )
                w = top * (1 + math.exp(float(root[0])))
                return float(self.evaluate(np.array([w]))[0][0]), w
            before = y
        # No interior minimum: the edge belongs to the largest slope itself, an atom or a thin tail.
        w = top * (1 + math.exp(_NEAREST))
        if self.slopes.atom(top) > 0 and not self.gaussian:
            return self.depth * (self.log_gain + math.log(top)), w
        return float(self.evaluate(np.array([w]))[0][0]), w

    def lower_edge(self) -> float:
        """Find the lower edge of the spectrum: the largest lambda(w) over real w between 0 and the slopes.

        Returns:
            The logarithm of the least squared singular value; -inf if the spectrum reaches 0.
        """
        bottom = self.slopes.lowest
        if self.gaussian or bottom <= 0:
            return -math.inf
        far = np.exp(np.arange(math.log(1e-6 / self.depth), -0.5, 0.25))
        near = -np.expm1(np.arange(-0.5, _NEAREST, -0.25))
        before = 0.5 * bottom * float(far[0])
        for w in bottom * np.concatenate([far, near]):
            if self._slope_at(float(w)) < 0:
                root = bracketed_root(
                    lambda v: np.array([self._slope_at(float(v[0]))]), np.array([before]), np.array([w]), relative=1e-15
                )
                return float(self._real_value(root)[0])
            before = float(w)
        return self.depth * (self.log_gain + math.log(bottom))

    def start(self, t: float, edge: float) -> complex:
        """Find the real w above the slopes with lambda(w) = exp(t).

        Args:
            t: Logarithm of the squared singular value, above the upper edge.
            edge: The w of the upper edge.

        Returns:
            w.
        """
        top = self.slopes.highest

        def excess(y: Array) -> Array:
            w = top * (1 + np.exp(y))
            self.slopes.refine(complex(w[0]))
            return np.asarray(self.evaluate(w)[0] - t)

        low = math.log(edge / top - 1)
        high = low + 1.0
        while excess(np.array([high]))[0] < 0:
            high += 1.0
        root = bracketed_root(excess, np.array([low]), np.array([high]), relative=1e-13)
        return complex(top * (1 + math.exp(float(root[0]))))

    def _slope_at(self, w: float) -> float:
        self.slopes.refine(complex(w))
        return float(self.evaluate(np.array([w]))[1][0])

    def _real_value(self, w: Array) -> Array:
        """Evaluate t for real w below the slopes, where m and 1 + m are both negative.

        Returns:
            t, (n,).
        """
        at = self.slopes.transform(w)
        return np.asarray(self.depth * (self.log_gain + np.log(w)) + (self.depth - 1) * np.log(at.m / at.plus_one))


def _log_ratio(m: NDArray[Any], plus_one: NDArray[Any]) -> NDArray[Any]:
    """Give log m - log(1 + m), both principal, without cancellation for large m or m near -1.

    Returns:
        The difference, of m's shape.
    """
    large = np.abs(m) > 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(large, -np.log1p(1 / m), np.log(m) - np.log(plus_one)))
