"""One orthogonal layer: its singular values are sigma_w |phi'(h)|, whose law is had directly.

The spectrum of a single layer is as rough as the activation's slope (square-root spikes at its extremes, for one), so
it is not followed by analytic continuation but read off a fine grid of the Gaussian variable.
"""

from __future__ import annotations

import math

import numpy as np

from isometry.theory._averages import GaussianAverages
from isometry.theory._quadrature import Array, density
from isometry.theory._slope_law import stretches, without_vanishing_slopes

__all__ = ["SlopeDensity"]

_POINTS = 4000  # per stretch between kinks


class SlopeDensity:
    """The law of t = log(sigma_w^2 phi'(sqrt(q) z)^2) for Gaussian z, without its atoms.

    Args:
        averages: The activation's averages.
        q: Second moment of the pre-activations.
        log_gain: log sigma_w^2.
    """

    def __init__(self, averages: GaussianAverages, q: float, log_gain: float) -> None:
        root = math.sqrt(q)
        ends, masses, atoms = [], [], []
        activation = without_vanishing_slopes(averages.activation, root)
        for left, right, mass, square in stretches(activation, root):
            if square is not None:
                atoms.append((square, mass))
                continue
            inset = 1e-12 * (right - left)
            z = np.linspace(left + inset, right - inset, _POINTS + 1)
            t = log_gain + np.log(np.maximum(activation.slope(root * z) ** 2, 1e-300))
            ends.append(np.stack([t[:-1], t[1:]]))
            masses.append(np.diff(z) * density(0.5 * (z[1:] + z[:-1])))
        pairs = np.concatenate(ends, axis=1) if ends else np.zeros((2, 0))
        self._mass = np.concatenate(masses) if masses else np.zeros(0)
        self._low, self._high = np.minimum(*pairs), np.maximum(*pairs)
        flat = self._high <= self._low
        self._high[flat] = self._low[flat] + 1e-12  # equal slopes at both ends: a spike
        self._atoms = [(log_gain + math.log(d) if d > 0 else -math.inf, p) for d, p in atoms]

    def density(self, t: Array) -> Array:
        """Evaluate the density of t.

        Returns:
            An array of t's shape, (n,).
        """
        height = self._mass / (self._high - self._low)
        return np.array([height[(self._low <= x) & (x < self._high)].sum() for x in t])

    def above(self, t: Array) -> Array:
        """Give the mass above t, atoms included.

        Returns:
            An array of t's shape, (n,).
        """
        parts = [np.clip((self._high - x) / (self._high - self._low), 0.0, 1.0) @ self._mass for x in t]
        for place, p in self._atoms:
            parts = [part + p * (x < place) for part, x in zip(parts, t, strict=True)]
        return np.array(parts)

    def integrals(self, shift: float) -> tuple[float, float, float]:
        """Integrate 1, exp(t - shift) - 1 and its square over the density.

        Returns:
            The three integrals.
        """
        middle = np.expm1(0.5 * (self._low + self._high) - shift)
        return float(self._mass.sum()), float(self._mass @ middle), float(self._mass @ middle**2)
