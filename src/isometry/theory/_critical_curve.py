"""The curve of critical points (chi = 1), followed by q*.

With V = E phi^2 and mu_1 = E phi'^2 at variance q*, and the dropout's keep rate rho,
    sigma_w^2 = rho / mu_1,   sigma_b^2 = q* - V / mu_1.
In phi's Hermite coefficients a_k, mu_1 sigma_b^2 = SUM_k (k - 1) a_k^2 = -a_0^2 + a_2^2 + 2 a_3^2 + ..., so a critical
point exists where the mean activation a_0 is not too large, in particular for every odd phi. For small q* the
difference above cancels (for tanh sigma_b^2 ~ (4/3) q*^3) and this sum is used instead.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from isometry.theory._averages import GaussianAverages
from isometry.theory._fixed_point import CRITICAL_WITHIN, MomentTable
from isometry.theory._quadrature import Array
from isometry.theory._results import CriticalPoint

__all__ = ["critical_scales", "homogeneous_point", "origin", "point_at", "tabulate"]

_HERMITE_TERMS = 24
_CANCELS_BELOW = 1e-4  # sigma_b^2 / q* under which the direct difference has lost four digits


def critical_scales(averages: GaussianAverages, q: Array) -> tuple[Array, Array]:
    """Give sigma_w^2 (before dropout) and sigma_b^2 of the critical point at each q*.

    Args:
        averages: The activation's averages.
        q: Second moments, (n,).

    Returns:
        Two arrays (n,); sigma_b^2 is negative where there is no critical point.
    """
    mu = averages.slope_moment(1, q)
    if averages.activation.homogeneous is not None:
        return 1 / mu, np.zeros_like(q)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain, bias = 1 / mu, q - averages.second_moment(q) / mu
    small = np.isfinite(bias) & (np.abs(bias) < _CANCELS_BELOW * q)
    if small.any() and not averages.activation.jumps:
        bias[small] = _by_hermite(averages, q[small], mu[small], bias[small])
    return gain, bias


def _by_hermite(averages: GaussianAverages, q: Array, mu: Array, direct: Array) -> Array:
    """Sum (k - 1) a_k^2 where that series has converged, and keep the direct difference elsewhere.

    Returns:
        sigma_b^2, (n,).
    """
    coefficients = averages.hermite(_HERMITE_TERMS, q)
    terms = (np.arange(_HERMITE_TERMS)[:, None] - 1) * coefficients**2
    total = terms.sum(axis=0)
    tail = np.abs(terms[-6:]).sum(axis=0)
    converged = tail <= 1e-9 * np.abs(total)
    rounding = 64 * np.finfo(np.float64).eps * q
    kept = np.where(np.abs(direct) <= rounding, np.maximum(direct, 0.0), direct)
    return np.where(converged, total / mu, kept)


def point_at(
    averages: GaussianAverages, sigma_w: float, sigma_b: float, q: float, keep: float, note: str = ""
) -> CriticalPoint:
    """Describe the point with these scales at which q is kept.

    Returns:
        The point, with chi and residual as they come out.
    """
    at, gain = np.array([q]), sigma_w**2 / keep
    chi = gain * float(averages.slope_moment(1, at)[0])
    deviation = abs(gain * float(averages.second_moment(at)[0]) + sigma_b**2 - q) / q
    homogeneous = averages.activation.homogeneous is not None
    critical = abs(chi - 1) <= CRITICAL_WITHIN
    residual = max(abs(chi - 1), deviation) if critical else deviation
    return CriticalPoint(
        activation=averages.activation.name,
        sigma_w=sigma_w,
        sigma_b=sigma_b,
        q_star=q,
        chi=chi,
        slope_q=gain * float(averages.second_moment_slope(at)[0]),
        degenerate=homogeneous and critical,
        converged=critical and residual < 1e-9,
        residual=residual,
        note=note or ("every q is a fixed point" if homogeneous else ""),
    )


def homogeneous_point(averages: GaussianAverages, keep: float) -> CriticalPoint:
    """Give the only critical point of phi(u) = a u or b u, which keeps every q; q_star is 1 for lack of a better one.

    Returns:
        The point.
    """
    mu = float(averages.slope_moment(1, np.ones(1))[0])
    return point_at(averages, math.sqrt(keep / mu), 0.0, 1.0, keep)


def origin(averages: GaussianAverages, keep: float) -> CriticalPoint | None:
    """Give the limit q* -> 0 of the critical points of a phi with phi(0) = 0.

    Returns:
        The point, or None if there is no such limit.
    """
    phi = averages.activation
    slopes = phi.slope(np.array([-1e-12, 1e-12]))
    mu = float((slopes**2).mean())
    if mu == 0 or float(phi.value(np.zeros(1))[0]) != 0:
        return None
    point = point_at(averages, math.sqrt(keep / mu), 0.0, 1e-12, keep, "the limit of small q*")
    return replace(point, q_star=0.0, chi=1.0, slope_q=1.0, residual=0.0, converged=True)


def tabulate(averages: GaussianAverages, table: MomentTable) -> tuple[Array, Array, Array]:
    """Tabulate the curve for q* from 1e-8 to 1e6.

    Returns:
        q*, sigma_w^2 before dropout, and sigma_b^2 (negative where there is no critical point), each (n,).
    """
    q = table.q[(table.q >= 1e-8) & (table.q <= 1e6)]
    gain, bias = critical_scales(averages, q)
    good = np.isfinite(gain) & np.isfinite(bias) & (gain < 1e12)
    return q[good], gain[good], bias[good]
