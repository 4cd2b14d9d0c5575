"""The law of log s^2 for one network: its edges, atoms, density and distribution function."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from isometry.theory._averages import GaussianAverages
from isometry.theory._quadrature import Array
from isometry.theory._single_layer import SlopeDensity
from isometry.theory._slope_law import SlopeLaw
from isometry.theory._spectral_curve import SpectralCurve, settle, trace
from isometry.theory._spectral_map import SpectralMap

__all__ = ["Spectrum"]

_FAINTEST_ATOM = 1e-9
_NEGLIGIBLE = 1e-5  # mass beside the atoms that is not looked at


class Spectrum:
    """The law of t = log s^2: its edges, atoms, density and distribution function.

    Args:
        averages: The activation's averages.
        depth: Number of layers.
        q: Second moment of the pre-activations.
        log_gain: log sigma_w^2.
        gaussian: Whether the weights are Gaussian.
        log_mean: log E s^2 by the formula.
        spread: Relative variance of s^2 by the formula.
    """

    def __init__(
        self,
        averages: GaussianAverages,
        *,
        depth: int,
        q: float,
        log_gain: float,
        gaussian: bool,
        log_mean: float,
        spread: float,
    ) -> None:
        self._log_mean = log_mean
        slopes = SlopeLaw(averages, q)
        zero = slopes.atom(0.0)
        self.atoms: list[tuple[float, float]] = [(-math.inf, zero)] if zero > 0 else []
        if not gaussian:  # an atom survives free products if the layers' atoms leave no room for the rest
            found = [(depth * (log_gain + math.log(d)), depth * p - (depth - 1)) for d, p in slopes.atoms if d > 0]
            self.atoms += [(t, p) for t, p in found if p > _FAINTEST_ATOM]
        top = max((p for t, p in self.atoms if t > -math.inf), default=0.0)
        self.continuous = top < (1 - zero) * (1 - _NEGLIGIBLE)
        self.left_out = 0.0 if self.continuous else 1 - zero - top
        self._curve: SpectralCurve | None = None
        self._map: SpectralMap | None = None
        self._single: SlopeDensity | None = None
        self.complete = True
        if depth == 1 and not gaussian:
            self._single = SlopeDensity(averages, q, log_gain)
            self.upper, self.lower = log_gain + math.log(slopes.highest), _log(slopes.lowest) + log_gain
            return
        self._map = SpectralMap(slopes, depth=depth, log_gain=log_gain, gaussian=gaussian)
        (self.upper, edge), self.lower = self._map.upper_edge(), self._map.lower_edge()
        if self.continuous:
            self._curve = trace(
                self._map, upper=self.upper, edge=edge, lower=self.lower, mean=log_mean, spread=spread, atoms=self.atoms
            )
            self.complete = self._curve.complete

    @property
    def range(self) -> tuple[float, float]:
        """Give the ends of the computed density of t.

        Returns:
            Lower and upper end.
        """
        if self._curve is not None:
            return max(float(self._curve.t[0]), self.lower), min(float(self._curve.t[-1]), self.upper)
        return self.lower, self.upper

    def density(self, t: Array) -> Array:
        """Evaluate the continuous density of t.

        Returns:
            An array of t's shape.
        """
        if self._single is not None:
            return self._single.density(t)
        result = np.zeros_like(t)
        curve = self._curve
        if curve is None or self._map is None:
            return result
        low, high = self.range
        inside = (t >= low) & (t <= high)
        if inside.any():
            result[inside] = self._solve(t[inside])[1]
        return result

    def _solve(self, t: Array) -> tuple[NDArray[np.complex128], Array, Array, NDArray[np.bool_]]:
        """Find w at points within the range, from their neighbours on the curve.

        Returns:
            log w, the density of t, its derivative, and where Newton's method converged, each (n,).
        """
        curve, spectral = self._curve, self._map
        assert curve is not None and spectral is not None  # noqa: S101, PT018 - only called where there is a curve
        guess = np.interp(t, curve.t, curve.log_w.real) + 1j * np.interp(t, curve.t, curve.log_w.imag)
        log_w, density, slope = settle(spectral, t, guess, np.interp(t, curve.t, curve.density))
        return log_w, density, slope, np.isfinite(slope)

    def above(self, t: Array) -> Array:
        """Give the mass above t.

        Returns:
            An array of t's shape.
        """
        if self._single is not None:
            return self._single.above(t)
        curve = self._curve
        if curve is None:
            return self._atoms_above(t)
        rest = 1 - sum(p for _, p in self.atoms)
        result = np.interp(t, curve.t, curve.above, left=rest, right=0.0) + self._atoms_above(t)
        low, high = self.range
        inside = (t >= low) & (t <= high)
        if self._map is not None and inside.any():
            log_w, good = self._solve(t[inside])[::3]
            exact = np.concatenate(
                [self._map.mass_above(np.exp(v)) for v in np.array_split(log_w, 1 + log_w.size // 64)]
            )
            result[inside] = np.where(good, exact, result[inside])
        return result

    def checks(self) -> tuple[float, float, float]:
        """Integrate the density and the atoms.

        Returns:
            Total mass, and mean and variance of s^2 relative to its mean by the formula.
        """
        shift = self._log_mean

        def deviation(t: Array) -> Array:
            return np.asarray(np.expm1(t - shift))

        def grow(t: Array) -> Array:
            return np.asarray(np.exp(t - shift))

        if self._single is not None:
            mass, first, second = self._single.integrals(shift)
        elif self._curve is None:
            mass, first, second = 0.0, 0.0, 0.0
        else:
            mass = self._curve.integrate(np.ones_like, np.zeros_like)
            first = self._curve.integrate(deviation, grow)
            second = self._curve.integrate(lambda t: deviation(t) ** 2, lambda t: 2 * deviation(t) * grow(t))
        for t, p in self.atoms:
            far = math.expm1(t - shift) if t > -math.inf else -1.0
            mass, first, second = mass + p, first + p * far, second + p * far * far
        return mass, 1 + first, second - first * first

    def _atoms_above(self, t: Array) -> Array:
        total = np.zeros_like(t)
        for place, p in self.atoms:
            total += p * (t < place)
        return total


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
