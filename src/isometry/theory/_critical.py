"""Critical points: the (sigma_w, sigma_b) at which chi = 1, by q*, by sigma_w or by sigma_b."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isometry.theory._averages import GaussianAverages
from isometry.theory._critical_curve import critical_scales, homogeneous_point, origin, point_at, tabulate
from isometry.theory._fixed_point import MomentTable
from isometry.theory._nearest import advice, balanced_point, flattest_point, nearest_critical, range_of
from isometry.theory._quadrature import Array
from isometry.theory._results import CriticalLine, CriticalPoint, NoCriticalPointError
from isometry.theory._roots import bracketed_root

__all__ = ["critical_by_q", "critical_by_sigma_b", "critical_by_sigma_w", "critical_line"]


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
        same_q = balanced_point(averages, q_star, 0.0, keep)
        elsewhere = nearest_critical(averages, table, keep, coordinate="q_star", wanted=q_star)
        mean = float(averages.mean(np.array([q_star]))[0])
        why = "its jumps lift the second moment" if averages.activation.jumps else f"its mean activation {mean:.4g} is"
        raise NoCriticalPointError(
            f"{name!r} has no critical point at q_star={q_star:g}: chi = 1 needs sigma_w={math.sqrt(gain * keep):.5g}, "
            f"but then sigma_b^2 would have to be {bias:.4g} < 0, because {why} too much for its slopes. "
            f"{advice(elsewhere, same_q)}",
            elsewhere or same_q,
        )
    return point_at(averages, math.sqrt(gain * keep), math.sqrt(bias), q_star, keep)


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
            return homogeneous_point(averages, keep)
        point = homogeneous_point(averages, keep)
        raise NoCriticalPointError(
            f"{phi.name!r} is critical only at sigma_w={point.sigma_w:.8g} and sigma_b=0, where every q is kept; with "
            f"sigma_b={sigma_b:g} its second moment grows without end. Set sigma_b=0.",
            point,
        )
    q, _, bias = tabulate(averages, table)
    roots = _roots(q, bias - sigma_b**2, lambda x: critical_scales(averages, x)[1] - sigma_b**2)
    if roots.size:
        gain = float(critical_scales(averages, roots[:1])[0][0])
        return point_at(averages, math.sqrt(gain * keep), sigma_b, float(roots[0]), keep)
    if sigma_b == 0 and (limit := origin(averages, keep)) is not None:
        return limit
    nearest = nearest_critical(averages, table, keep, coordinate="sigma_b", wanted=sigma_b)
    flattest = flattest_point(averages, table, sigma_b, keep) if nearest is None else None
    raise NoCriticalPointError(
        f"{phi.name!r} has no critical point with sigma_b={sigma_b:g}: "
        f"{range_of(np.append(bias, nearest.sigma_b**2 if nearest else -1.0), 'sigma_b')}. "
        f"{advice(nearest, flattest)}",
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
        point = homogeneous_point(averages, keep)
        if abs(sigma_w / point.sigma_w - 1) < 1e-9:
            return point
        raise NoCriticalPointError(
            f"{phi.name!r} is critical only at sigma_w={point.sigma_w:.8g} (and sigma_b=0), whatever q is; "
            f"got sigma_w={sigma_w:g}. Use {point.sigma_w:.8g}.",
            point,
        )
    q, gain, bias = tabulate(averages, table)
    roots = _roots(q, gain - wanted, lambda x: critical_scales(averages, x)[0] - wanted)
    if roots.size:
        squares = critical_scales(averages, roots)[1]
        real = np.flatnonzero(squares >= 0)
        if real.size:
            first = int(real[0])
            return point_at(averages, sigma_w, math.sqrt(squares[first]), float(roots[first]), keep)
    limit = origin(averages, keep)
    if limit is not None and abs(sigma_w / limit.sigma_w - 1) < 1e-9:
        return limit
    nearest = nearest_critical(averages, table, keep, coordinate="sigma_w", wanted=sigma_w)
    if limit is not None and (nearest is None or abs(limit.sigma_w - sigma_w) < abs(nearest.sigma_w - sigma_w)):
        nearest = limit
    flattest = flattest_point(averages, table, 0.0, keep) if nearest is None else None
    squares = np.where(bias >= 0, gain * keep, -1.0)
    raise NoCriticalPointError(
        f"{phi.name!r} has no critical point with sigma_w={sigma_w:g}: "
        f"{range_of(np.append(squares, nearest.sigma_w**2 if nearest else -1.0), 'sigma_w')}. "
        f"{advice(nearest, flattest)}",
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
        point = homogeneous_point(averages, keep)
        w, b, q = np.array([point.sigma_w]), np.array([0.0]), np.array([point.q_star])
    else:
        q = np.logspace(-8, math.log10(max(10.0, 100 * float(sigma_b.max()) ** 2)), 400)
        gain, bias = critical_scales(averages, q)
        real = (bias >= 0) & np.isfinite(gain)
        w, b, q = np.sqrt(gain[real] * keep), np.sqrt(bias[real]), q[real]
    inside = (w >= sigma_w.min()) & (w <= sigma_w.max()) & (b >= sigma_b.min()) & (b <= sigma_b.max())
    return CriticalLine(sigma_w=w[inside], sigma_b=b[inside], q_star=q[inside])


def _roots(q: Array, excess: Array, function: Callable[[Array], Array]) -> Array:
    """Find where a function that is tabulated on a grid crosses zero.

    Returns:
        The roots, ascending.
    """
    turns = np.flatnonzero(np.sign(excess[:-1]) * np.sign(excess[1:]) < 0)
    found = bracketed_root(function, q[turns], q[turns + 1]) if turns.size else np.zeros(0)
    return np.sort(np.concatenate([q[excess == 0], found]))
