"""The density of log lambda along the real axis, found by following w(lambda) just above it.

Starting from a real w beyond the upper edge, the walk goes down in t = log lambda at a tiny height theta over the real
axis, so that it passes around edges and atoms; every step predicts w by the derivative, corrects it by Newton's method,
and is halved until the correction is small against the step. Points are then lowered onto the axis itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isometry.theory._activation import Elementwise
from isometry.theory._quadrature import Array, QuadratureError
from isometry.theory._spectral_map import SpectralMap

__all__ = ["SpectralCurve", "settle", "trace"]

_MAX_STEPS = 6000
_SHARE_STEP = 0.01  # of the mass, of the mean or of the second moment, per step
_RELATIVE_STEP = 0.35  # of log density, per step
_NEGLIGIBLE = 1e-6  # mass below which the rest of a tail is left
_CHUNK = 64  # points per vectorised evaluation


@dataclass(frozen=True)
class SpectralCurve:
    """The density of t = log lambda on an ascending grid.

    Attributes:
        t: Grid (n,).
        density: Continuous density of t (n,).
        slope: Its derivative (n,); NaN at edges.
        above: Mass of the spectrum above each point, without the atoms (n,).
        log_w: log w(t) in the upper half-plane (n,).
        complete: Whether the walk reached the lower end.
    """

    t: Array
    density: Array
    slope: Array
    above: Array
    log_w: NDArray[np.complex128]
    complete: bool

    def integrate(self, function: Elementwise, derivative: Elementwise) -> float:
        """Integrate a function of t times the density, by the trapezoid rule with its end-point correction.

        Where the density changes threefold from one point to the next (at edges, some of which are singular), the
        mass between them is taken from the distribution function instead.

        Args:
            function: The function.
            derivative: Its derivative.

        Returns:
            The integral.
        """
        factor = function(self.t)
        value, slope = factor * self.density, factor * self.slope + derivative(self.t) * self.density
        h = np.diff(self.t)
        total = 0.5 * h * (value[1:] + value[:-1])
        correction = h * h / 12 * (slope[:-1] - slope[1:])
        fine = np.isfinite(correction) & (np.abs(correction) < 0.3 * np.abs(total))
        steep = np.maximum(self.density[1:], self.density[:-1]) > 3 * np.minimum(self.density[1:], self.density[:-1])
        steep |= np.isnan(self.slope[1:]) | np.isnan(self.slope[:-1])
        steep &= np.abs(factor[1:] - factor[:-1]) < 0.01 * np.abs(factor[1:] + factor[:-1])
        between = np.maximum(self.above[:-1] - self.above[1:], 0.0) * 0.5 * (factor[1:] + factor[:-1])
        return float((total + np.where(fine, correction, 0.0))[~steep].sum() + between[steep].sum())


def trace(
    spectral: SpectralMap,
    *,
    upper: float,
    edge: float,
    lower: float,
    mean: float,
    spread: float,
    atoms: list[tuple[float, float]],
) -> SpectralCurve:
    """Follow the spectrum from its upper edge down.

    Args:
        spectral: The map.
        upper: Upper edge of t, atoms included.
        edge: The real w that belongs to it.
        lower: Lower edge of t, or -inf.
        mean: log E lambda.
        spread: Relative variance of lambda.
        atoms: Values of t that have positive mass, with that mass; t = -inf for lambda = 0.

    Returns:
        The curve.

    Raises:
        QuadratureError: If Newton's method does not converge even for tiny steps.
    """
    width = min(1.0, max(upper - mean, 1e-9))  # the scale over which the spectrum varies near its upper edge
    theta = 1e-6 * width
    zero = sum(p for place, p in atoms if place == -math.inf)
    t, v = upper + 0.5 * width, np.log(spectral.start(upper + 0.5 * width, edge))
    points: list[tuple[float, complex, float]] = []
    step = 0.1 * width
    slope = complex(spectral.evaluate(np.array([np.exp(v)]))[1][0])
    v, slope, density, _ = _attempt(spectral, v, v + 1j * theta / slope, t + 1j * theta)
    complete = False
    for _ in range(_MAX_STEPS):
        target = t - step
        moved = -step / slope
        if not abs(moved.imag) < 2.0:  # at a branch point the derivative vanishes: come nearer first
            new, ok, new_slope, new_density = v, False, slope, density
        else:
            new, new_slope, new_density, ok = _attempt(spectral, v, v + moved, target + 1j * theta)
        error = abs(new - v - moved) / max(abs(new - v), 1e-300)
        mass = step * max(density, new_density)
        moment = mass * _moment_weight(target - mean, spread)
        share = max(mass / (1 - zero), moment)
        jump = abs(math.log(max(new_density, 1e-300) / max(density, 1e-300))) if share > 1e-4 else 0.0
        if moment > 1e-4:
            jump = max(jump, step)
        if not ok or error > 0.15 or share > _SHARE_STEP or jump > _RELATIVE_STEP:
            step *= 0.5
            if step < 1e-4 * theta:
                if density * width < _NEGLIGIBLE * 100 * (1 - zero):
                    break  # a tail too thin to follow
                raise QuadratureError(
                    f"the spectrum could not be followed below log(s^2) = {t:.6g}: Newton's method does not converge."
                )
            continue
        t, v, slope, density = target, new, new_slope, new_density
        points.append((t, v, density))
        if error < 0.04 and share < 0.6 * _SHARE_STEP and jump < 0.5 * _RELATIVE_STEP:
            step *= 1.6
        if t < upper:
            above = float(spectral.mass_above(np.array([np.exp(v)]))[0])
            if t < lower - 0.02 * width or above > (1 - zero) * (1 - _NEGLIGIBLE):
                complete = True
                break
    return _lowered(spectral, points, atoms, theta, complete)


def _moment_weight(t: float, spread: float) -> float:
    """Say what a unit of mass at t = log(lambda / mean) contributes to the mean or to the second moment.

    Returns:
        The larger of the two contributions, each relative to its total.
    """
    scale = math.exp(min(t, 300.0))
    return max(scale, scale * scale / (1 + spread))


def _attempt(
    spectral: SpectralMap, before: complex, guess: complex, target: complex
) -> tuple[complex, complex, float, bool]:
    """Correct a predicted log w by Newton's method.

    Returns:
        log w, dt/dlog w, the density of t, and whether it converged within the upper half-plane.
    """
    if not 0 < guess.imag < math.pi:
        guess = complex(guess.real, min(max(guess.imag, 0.5 * before.imag), 0.5 * (math.pi + before.imag)))
    spectral.slopes.refine(complex(np.exp(guess)))
    # The height theta is only there to pass around edges: a small part of it is accuracy enough.
    tolerance = 1e-4 * target.imag + 1e-15 * spectral.depth
    v = guess
    for _ in range(12):
        t, slopes, ones = spectral.evaluate(np.array([np.exp(v)]))
        missing, slope = target - complex(t[0]), complex(slopes[0])
        if abs(missing) < tolerance:
            # The mesh was made for the guess: it has to do for the solution too.
            known = spectral.slopes.panels
            spectral.slopes.refine(complex(np.exp(v)))
            if spectral.slopes.panels != known:
                continue
            return v, slope, max(-float(ones[0].imag) / math.pi, 0.0), True
        v += missing / slope
        if not (np.isfinite(v) and 0 < v.imag < math.pi):
            break
    return before, slope, 0.0, False


def _lowered(
    spectral: SpectralMap,
    points: list[tuple[float, complex, float]],
    atoms: list[tuple[float, float]],
    theta: float,
    complete: bool,
) -> SpectralCurve:
    """Bring the points of a walk from height theta down to the real axis.

    Returns:
        The curve.
    """
    t = np.array([p[0] for p in points])[::-1]
    v = np.array([p[1] for p in points], dtype=np.complex128)[::-1]
    rough = np.array([p[2] for p in points])[::-1]
    log_w, density, slope = settle(spectral, t, v, rough)
    above = np.concatenate([spectral.mass_above(np.exp(part)) for part in np.array_split(log_w, 1 + len(t) // _CHUNK)])
    for place, mass in atoms:
        above -= mass * (t < place)
        if place > -math.inf:  # what the walk at a small height sees of an atom is not density
            density[(np.abs(t - place) < 100 * theta) & np.isnan(slope)] = 0.0
    settled = np.isfinite(slope)  # the others were left at height theta, at an edge
    if settled.any():
        above = np.interp(t, t[settled], above[settled])
    return SpectralCurve(t, density, slope, np.maximum(above, 0.0), log_w, complete)


def settle(
    spectral: SpectralMap, t: Array, log_w: NDArray[np.complex128], fallback: Array
) -> tuple[NDArray[np.complex128], Array, Array]:
    """Solve for w on the real axis of t by Newton's method from near-by values, many points at a time.

    Args:
        spectral: The map, with its mesh.
        t: Logarithms of squared singular values (n,).
        log_w: Guesses of log w (n,).
        fallback: Densities to keep where Newton's method leaves the upper half-plane (n,).

    Returns:
        log w, the density of t and its derivative (NaN where the fallback was kept), each (n,).
    """
    w_out, density, slope = log_w.copy(), fallback.copy(), np.full(t.shape, np.nan)
    for begin in range(0, t.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        v = log_w[part].copy()
        with np.errstate(all="ignore"):
            for _ in range(6):
                value, derivative, _ = spectral.evaluate(np.exp(v))
                change = (t[part] - value) / derivative
                v = v + change
            _, derivative, plus_one = spectral.evaluate(np.exp(v))
            # A root on the real axis: no density there (a gap of the spectrum, or beyond its edges).
            good = np.isfinite(v) & (np.abs(change) < 1e-8) & (v.imag > -1e-13) & (v.imag < math.pi)
            good &= np.abs(v - log_w[part]) < 0.2 * np.maximum(np.abs(np.expm1(log_w[part])), log_w[part].imag)
            found = np.maximum(-plus_one.imag / math.pi, 0.0)
            bend = -spectral.density_slope(np.exp(v)).imag / math.pi
        density[part] = np.where(good, found, density[part])
        slope[part] = np.where(good, bend, np.nan)
        w_out[part] = np.where(good, v, log_w[part])
    return w_out, density, slope
