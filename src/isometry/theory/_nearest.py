"""What is nearest where there is no critical point, and how to say so."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from isometry.theory._averages import GaussianAverages
from isometry.theory._critical_curve import critical_scales, point_at
from isometry.theory._fixed_point import MomentTable
from isometry.theory._quadrature import Array
from isometry.theory._results import CriticalPoint
from isometry.theory._roots import bracketed_root

__all__ = ["advice", "balanced_point", "flattest_point", "nearest_critical", "range_of"]

_LARGEST_Q = 1e4  # how far to look for critical points
_PRACTICAL_Q = 100.0  # how far to look for points that are not critical


def nearest_critical(
    averages: GaussianAverages,
    table: MomentTable,
    keep: float,
    *,
    coordinate: Literal["q_star", "sigma_w", "sigma_b"],
    wanted: float,
) -> CriticalPoint | None:
    """Find the critical point whose coordinate is nearest to the wanted one (in ratio for q_star).

    Args:
        averages: The activation's averages.
        table: Their table, which bounds q.
        keep: The dropout's keep rate.
        coordinate: Which coordinate counts.
        wanted: Its value.

    Returns:
        The point, or None if there is no critical point with q* from 1e-6 to 1e4.
    """
    high = min(_LARGEST_Q, float(table.q[-1]))
    q = np.geomspace(1e-6, high, 1 + 40 * round(math.log10(high / 1e-6)))
    bias = critical_scales(averages, q)[1]
    turns = np.flatnonzero(np.isfinite(bias[:-1] * bias[1:]) & (bias[:-1] * bias[1:] < 0))
    if turns.size:  # the ends of the stretches on which sigma_b^2 > 0
        ends = bracketed_root(lambda x: critical_scales(averages, x)[1], q[turns], q[turns + 1])
        inwards = np.where(bias[turns] > 0, 1 - 1e-9, 1 + 1e-9)
        q = np.sort(np.concatenate([q, ends * inwards]))
    gain, bias = critical_scales(averages, q)
    real = np.isfinite(gain) & (bias > 1e-14 * q)
    if not real.any():
        return None
    q, gain, bias = q[real], gain[real], bias[real]
    distance = {
        "q_star": np.abs(np.log(q / wanted)) if coordinate == "q_star" else q,
        "sigma_w": np.abs(np.sqrt(gain * keep) - wanted),
        "sigma_b": np.abs(np.sqrt(bias) - wanted),
    }[coordinate]
    i = int(np.argmin(distance))
    return point_at(averages, math.sqrt(gain[i] * keep), math.sqrt(bias[i]), float(q[i]), keep)


def balanced_point(averages: GaussianAverages, q: float, sigma_b: float, keep: float) -> CriticalPoint:
    """Keep the second moment at q with a given sigma_b, and accept the chi that comes of it.

    Returns:
        The point.
    """
    moment = float(averages.second_moment(np.array([q]))[0])
    sigma_w = math.sqrt((q - sigma_b**2) / moment * keep)
    return point_at(averages, sigma_w, sigma_b, q, keep, "not critical: chi as near to 1 as it gets")


def flattest_point(averages: GaussianAverages, table: MomentTable, sigma_b: float, keep: float) -> CriticalPoint | None:
    """Find the fixed point with this sigma_b, within practical q, whose chi is nearest to 1.

    Returns:
        The point, or None if sigma_b is too large for any.
    """
    use = (table.q <= _PRACTICAL_Q) & (table.q > sigma_b**2) & (table.q >= 1e-6) & (table.second_moment > 0)
    if not use.any():
        return None
    q = table.q[use]
    chi = (q - sigma_b**2) / table.second_moment[use] * table.slope_moment[use]
    return balanced_point(averages, float(q[np.argmin(np.abs(chi - 1))]), sigma_b, keep)


def advice(critical: CriticalPoint | None, balanced: CriticalPoint | None) -> str:
    """Say what to use instead.

    Args:
        critical: The nearest critical point, if there is one.
        balanced: A point that is not critical but keeps the second moment, if worth mentioning.

    Returns:
        One or two sentences.
    """
    parts = []
    if critical is not None:
        parts.append(
            f"The nearest critical point is q_star={critical.q_star:.4g} with sigma_w={critical.sigma_w:.5g}, "
            f"sigma_b={critical.sigma_b:.5g}."
        )
    else:
        parts.append("There is no critical point at all with q_star from 1e-6 to 1e4.")
    if balanced is not None:
        layers = abs(1 / math.log(balanced.chi)) if balanced.chi > 0 and balanced.chi != 1 else math.inf
        verb = "shrink" if balanced.chi < 1 else "grow"
        parts.append(
            f"Not critical, but nearest to it: sigma_w={balanced.sigma_w:.5g}, sigma_b={balanced.sigma_b:.5g} keep q "
            f"at {balanced.q_star:.4g} with chi={balanced.chi:.5g} (squared gradients {verb} e-fold in {layers:.3g} "
            "layers)."
        )
    return " ".join(parts)


def range_of(squares: Array, what: str) -> str:
    """Say over which range critical points exist.

    Args:
        squares: Squares of the coordinate at some q*, negative where there is none.
        what: The coordinate's name.

    Returns:
        A clause.
    """
    real = squares[squares >= 0]
    if not real.size:
        return "chi = 1 would need a negative sigma_b^2 at every q*"
    ends = f"{math.sqrt(real.min()):.5g} to {math.sqrt(real.max()):.5g}"
    return f"its critical points have {what} from {ends} (q* up to 1e6)"
