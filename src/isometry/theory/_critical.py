"""Critical points: the (sigma_w, sigma_b) at which chi = 1, by q*, by sigma_w or by sigma_b.

With V = E phi^2 and mu_1 = E phi'^2 at variance q*, and the dropout's keep rate rho,
    sigma_w^2 = rho / mu_1,   sigma_b^2 = q* - V / mu_1.
In phi's Hermite coefficients a_k, mu_1 sigma_b^2 = SUM_k (k - 1) a_k^2 = -a_0^2 + a_2^2 + 2 a_3^2 + ..., so a critical
point exists where the mean activation a_0 is not too large, in particular for every odd phi. For small q* the
difference above cancels (for tanh sigma_b^2 ~ (4/3) q*^3) and this sum is used instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from isometry.theory._averages import GaussianAverages
from isometry.theory._fixed_point import CRITICAL_WITHIN, MomentTable
from isometry.theory._quadrature import Array
from isometry.theory._results import CriticalLine, CriticalPoint, NoCriticalPointError
from isometry.theory._roots import bracketed_root

__all__ = ["critical_by_q", "critical_by_sigma_b", "critical_by_sigma_w", "critical_line", "critical_scales"]

_HERMITE_TERMS = 24
_CANCELS_BELOW = 1e-4  # sigma_b^2 / q* under which the direct difference has lost four digits
_PRACTICAL_Q = 100.0  # where to look for the nearest point if there is no critical one


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


def critical_by_q(averages: GaussianAverages, table: MomentTable, q_star: float, keep: float) -> CriticalPoint:
    """Solve for the critical point at a given q*.

    Returns:
        The point.

    Raises:
        NoCriticalPointError: If it would need a negative sigma_b^2.
    """
    name = averages.activation.name
    gain, bias = (float(x[0]) for x in critical_scales(averages, np.array([q_star])))
    if not math.isfinite(gain):
        raise NoCriticalPointError(
            f"{name!r} has slope 0 everywhere that q_star={q_star:g} reaches, so no sigma_w makes chi = 1; "
            "choose another q_star."
        )
    if bias < 0:
        same_q = _balanced(averages, q_star, 0.0, keep)
        elsewhere = _nearest_critical(averages, table, keep, lambda q, gain, bias: np.abs(np.log(q / q_star)))
        mean = float(averages.mean(np.array([q_star]))[0])
        raise NoCriticalPointError(
            f"{name!r} has no critical point at q_star={q_star:g}: chi = 1 needs "
            f"sigma_w={math.sqrt(gain * keep):.5g}, but then sigma_b^2 would have to be {bias:.4g} < 0, because the "
            f"mean activation ({mean:.4g}) alone lifts the second moment too much. {_advice(elsewhere, same_q)}",
            elsewhere or same_q,
        )
    return _point(averages, math.sqrt(gain * keep), math.sqrt(bias), q_star, keep)


def critical_by_sigma_b(averages: GaussianAverages, table: MomentTable, sigma_b: float, keep: float) -> CriticalPoint:
    """Solve for the critical point at a given sigma_b; of several, the one with the smallest q*.

    Returns:
        The point.

    Raises:
        NoCriticalPointError: If there is none.
    """
    phi = averages.activation
    if phi.homogeneous is not None:
        if sigma_b == 0:
            return _homogeneous_point(averages, keep)
        point = _homogeneous_point(averages, keep)
        raise NoCriticalPointError(
            f"{phi.name!r} is critical only at sigma_w={point.sigma_w:.8g} and sigma_b=0, where every q is kept; with "
            f"sigma_b={sigma_b:g} its second moment grows without end. Set sigma_b=0.",
            point,
        )
    q, _, bias = _curve(averages, table)
    found = _solve(q, bias - sigma_b**2, lambda x: critical_scales(averages, x)[1] - sigma_b**2)
    if found is not None:
        return critical_by_q(averages, table, found, keep)
    if sigma_b == 0 and (limit := _origin(averages, keep)) is not None:
        return limit
    nearest = _nearest_critical(averages, table, keep, lambda q, gain, bias: np.abs(np.sqrt(bias) - sigma_b))
    flattest = _flattest(averages, table, sigma_b, keep)
    raise NoCriticalPointError(
        f"{phi.name!r} has no critical point with sigma_b={sigma_b:g}: {_range_of(bias, 'sigma_b')}. "
        f"{_advice(nearest, flattest)}",
        nearest or flattest,
    )


def critical_by_sigma_w(averages: GaussianAverages, table: MomentTable, sigma_w: float, keep: float) -> CriticalPoint:
    """Solve for the critical point at a given sigma_w; of several, the one with the smallest q*.

    Returns:
        The point.

    Raises:
        NoCriticalPointError: If there is none.
    """
    phi = averages.activation
    wanted = sigma_w**2 / keep
    if phi.homogeneous is not None:
        point = _homogeneous_point(averages, keep)
        if abs(sigma_w / point.sigma_w - 1) < 1e-9:
            return point
        raise NoCriticalPointError(
            f"{phi.name!r} is critical only at sigma_w={point.sigma_w:.8g} (and sigma_b=0), whatever q is; "
            f"got sigma_w={sigma_w:g}. Use {point.sigma_w:.8g}.",
            point,
        )
    q, gain, bias = _curve(averages, table)
    allowed = bias >= 0
    found = _solve(q, gain - wanted, lambda x: critical_scales(averages, x)[0] - wanted, allowed)
    if found is not None:
        return critical_by_q(averages, table, found, keep)
    limit = _origin(averages, keep)
    if limit is not None and abs(sigma_w / limit.sigma_w - 1) < 1e-9:
        return limit
    nearest = _nearest_critical(averages, table, keep, lambda q, gain, bias: np.abs(np.sqrt(gain * keep) - sigma_w))
    if limit is not None and (nearest is None or abs(limit.sigma_w - sigma_w) < abs(nearest.sigma_w - sigma_w)):
        nearest = limit
    flattest = _flattest(averages, table, 0.0, keep)
    raise NoCriticalPointError(
        f"{phi.name!r} has no critical point with sigma_w={sigma_w:g}: "
        f"{_range_of(np.where(allowed, gain * keep, -1.0), 'sigma_w')}. {_advice(nearest, flattest)}",
        nearest or flattest,
    )


def critical_line(averages: GaussianAverages, keep: float, sigma_w: Array, sigma_b: Array) -> CriticalLine:
    """Trace the critical points that lie within a rectangle of scales.

    Args:
        averages: The activation's averages.
        keep: The dropout's keep rate.
        sigma_w: Weight scales whose extremes bound the rectangle.
        sigma_b: Bias scales whose extremes bound the rectangle.

    Returns:
        The line, by ascending q*.
    """
    if averages.activation.homogeneous is not None:
        point = _homogeneous_point(averages, keep)
        w, b, q = np.array([point.sigma_w]), np.array([0.0]), np.array([point.q_star])
    else:
        q = np.logspace(-8, math.log10(max(10.0, 100 * float(sigma_b.max()) ** 2)), 400)
        gain, bias = critical_scales(averages, q)
        real = (bias >= 0) & np.isfinite(gain)
        w, b, q = np.sqrt(gain[real] * keep), np.sqrt(bias[real]), q[real]
    inside = (w >= sigma_w.min()) & (w <= sigma_w.max()) & (b >= sigma_b.min()) & (b <= sigma_b.max())
    return CriticalLine(sigma_w=w[inside], sigma_b=b[inside], q_star=q[inside])


# the pieces ---------------------------------------------------------------------------------------------------------


def _point(
    averages: GaussianAverages, sigma_w: float, sigma_b: float, q: float, keep: float, note: str = ""
) -> CriticalPoint:
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


def _homogeneous_point(averages: GaussianAverages, keep: float) -> CriticalPoint:
    mu = float(averages.slope_moment(1, np.ones(1))[0])
    return _point(averages, math.sqrt(keep / mu), 0.0, 1.0, keep)


def _origin(averages: GaussianAverages, keep: float) -> CriticalPoint | None:
    """Give the limit q* -> 0 of the critical points of a phi with phi(0) = 0.

    Returns:
        The point, or None if there is no such limit.
    """
    phi = averages.activation
    slopes = phi.slope(np.array([-1e-12, 1e-12]))
    mu = float((slopes**2).mean())
    if mu == 0 or float(phi.value(np.zeros(1))[0]) != 0:
        return None
    point = _point(averages, math.sqrt(keep / mu), 0.0, 1e-12, keep, "the limit of small q*")
    return replace(point, q_star=0.0, chi=1.0, slope_q=1.0, residual=0.0, converged=True)


def _curve(averages: GaussianAverages, table: MomentTable) -> tuple[Array, Array, Array]:
    q = table.q[(table.q >= 1e-8) & (table.q <= 1e6)]
    gain, bias = critical_scales(averages, q)
    good = np.isfinite(gain) & np.isfinite(bias) & (gain < 1e12)
    return q[good], gain[good], bias[good]


def _solve(
    q: Array, excess: Array, function: Callable[[Array], Array], allowed: Array | None = None
) -> float | None:
    exact = np.flatnonzero(excess == 0)
    turns = np.flatnonzero(np.sign(excess[:-1]) * np.sign(excess[1:]) < 0)
    if allowed is not None:
        turns = turns[allowed[turns] & allowed[turns + 1]]
    if exact.size and (not turns.size or exact[0] <= turns[0]):
        return float(q[exact[0]]) if allowed is None or allowed[exact[0]] else None
    if not turns.size:
        return None
    i = int(turns[0])
    return float(bracketed_root(function, q[i : i + 1], q[i + 1 : i + 2])[0])


def _nearest_critical(
    averages: GaussianAverages, table: MomentTable, keep: float, distance: Callable[[Array, Array, Array], Array]
) -> CriticalPoint | None:
    q, gain, bias = _curve(averages, table)
    # sigma_b^2 has to be positive beyond rounding
    real = (bias > 1e-12 * q) & (q <= 1e4)
    if not real.any():
        return None
    q, gain, bias = q[real], gain[real], bias[real]
    i = int(np.argmin(distance(q, gain, bias)))
    return _point(averages, math.sqrt(gain[i] * keep), math.sqrt(bias[i]), float(q[i]), keep)


def _balanced(averages: GaussianAverages, q: float, sigma_b: float, keep: float) -> CriticalPoint:
    """Keep the second moment at q with a given sigma_b, and accept the chi that comes of it.

    Returns:
        The point.
    """
    moment = float(averages.second_moment(np.array([q]))[0])
    sigma_w = math.sqrt((q - sigma_b**2) / moment * keep)
    return _point(averages, sigma_w, sigma_b, q, keep, "not critical: chi as near to 1 as it gets")


def _flattest(averages: GaussianAverages, table: MomentTable, sigma_b: float, keep: float) -> CriticalPoint | None:
    """Find the fixed point with this sigma_b, within practical q, whose chi is nearest to 1.

    Returns:
        The point, or None if sigma_b is too large for any.
    """
    use = (table.q <= _PRACTICAL_Q) & (table.q > sigma_b**2) & (table.q >= 1e-6) & (table.second_moment > 0)
    if not use.any():
        return None
    q = table.q[use]
    chi = (q - sigma_b**2) / table.second_moment[use] * table.slope_moment[use]
    return _balanced(averages, float(q[np.argmin(np.abs(chi - 1))]), sigma_b, keep)


def _advice(critical: CriticalPoint | None, balanced: CriticalPoint | None) -> str:
    parts = []
    if critical is not None:
        parts.append(
            f"The nearest critical point is q_star={critical.q_star:.4g} with sigma_w={critical.sigma_w:.5g}, "
            f"sigma_b={critical.sigma_b:.5g}."
        )
    else:
        parts.append("There is none at any other q_star up to 1e4 either.")
    if balanced is not None:
        layers = abs(1 / math.log(balanced.chi)) if balanced.chi > 0 and balanced.chi != 1 else math.inf
        verb = "shrink" if balanced.chi < 1 else "grow"
        parts.append(
            f"Nearest in kind: sigma_w={balanced.sigma_w:.5g}, sigma_b={balanced.sigma_b:.5g} keep q at "
            f"{balanced.q_star:.4g} with chi={balanced.chi:.5g} (squared gradients {verb} e-fold in {layers:.3g} layers)."
        )
    return " ".join(parts)


def _range_of(squares: Array, what: str) -> str:
    real = squares[squares >= 0]
    if not real.size:
        return "chi = 1 would need a negative sigma_b^2 at every q*"
    return f"its critical points have {what} from {math.sqrt(real.min()):.5g} to {math.sqrt(real.max()):.5g} (q* up to 1e6)"
