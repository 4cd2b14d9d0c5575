"""Fixed points of the length and correlation maps.

The length map F(q) = sigma_w^2/rho E phi(sqrt(q) z)^2 + sigma_b^2 is tabulated once per activation, so that the
brackets of every (sigma_w, sigma_b) are had at once. The correlation map is a power series with non-negative
coefficients, hence convex on [0, 1]: there is at most one fixed point below 1, and one exactly if its slope at 1
exceeds 1 (or 1 is no fixed point, as with dropout).
"""

from __future__ import annotations

import numpy as np

from isometry.theory._averages import GaussianAverages
from isometry.theory._quadrature import Array, QuadratureError
from isometry.theory._results import Phase
from isometry.theory._roots import bracketed_root

__all__ = ["CRITICAL_WITHIN", "MomentTable", "correlation_fixed_point", "length_fixed_points", "phase_of"]

CRITICAL_WITHIN = 1e-9  # |chi - 1| up to which a network counts as critical; quadrature is good to about 1e-13

_LOW, _HIGH, _PER_DECADE = -12, 8, 8


class MomentTable:
    """E phi^2 and mu_1 on a logarithmic grid of q, as far as they exist in float64.

    Args:
        averages: The activation's averages.
    """

    def __init__(self, averages: GaussianAverages) -> None:
        decades = np.arange(_LOW, _HIGH)
        steps = np.arange(_PER_DECADE) / _PER_DECADE
        found: list[tuple[Array, Array, Array]] = []
        for decade in decades:
            q = 10.0 ** (decade + steps)
            try:
                found.append((q, averages.second_moment(q), averages.slope_moment(1, q)))
            except QuadratureError:  # an activation that grows like exp, say: the table ends here
                break
        if not found:
            raise QuadratureError(
                f"the Gaussian averages of {averages.activation.name!r} do not exist even at variance 1e-12; "
                "check the activation."
            )
        self.q, self.second_moment, self.slope_moment = (np.concatenate(part) for part in zip(*found, strict=True))


def length_fixed_points(
    averages: GaussianAverages, table: MomentTable, gain: Array, bias: Array, q0: float
) -> tuple[Array, Array]:
    """Find the fixed point of the length map that iteration from q0 reaches, for many networks.

    Args:
        averages: The activation's averages.
        table: Their table.
        gain: sigma_w^2 / dropout_keep of each network, (n,).
        bias: sigma_b^2 of each network, (n,).
        q0: Where to start.

    Returns:
        q_star (n,), 0 where the signal dies out and infinite where none lies above the start; and whether every q is
        a fixed point (n,).
    """
    if averages.activation.homogeneous is not None:
        a, b = averages.activation.homogeneous
        slope = gain * (a * a + b * b) / 2
        flat = (np.abs(slope - 1) <= CRITICAL_WITHIN) & (bias == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            q = np.where(slope < 1 - CRITICAL_WITHIN, bias / (1 - slope), np.inf)
        return np.where(flat, q0, q), flat
    excess = gain[:, None] * table.second_moment + bias[:, None] - table.q  # F(q) - q on the grid
    start = int(np.clip(np.searchsorted(table.q, q0), 1, table.q.size - 1))
    grows = excess[:, start] > 0
    # upwards: the first grid point from the start on where F(q) <= q; downwards: the last one before where F(q) > q
    down = excess[:, start:] <= 0
    up = excess[:, : start + 1] > 0
    above = start + np.argmax(down, axis=1)
    below = start - np.argmax(up[:, ::-1], axis=1)
    q = np.where(grows & ~down.any(axis=1), np.inf, np.nan)
    floor = 0.5 * (bias + gain * float(averages.activation.value(np.zeros(1))[0]) ** 2)  # F(q) >= 2 floor everywhere
    vanishing = ~grows & ~up.any(axis=1) & (floor == 0)
    q[vanishing] = 0.0
    todo = np.isnan(q)
    if todo.any():
        inside = up.any(axis=1)
        low = np.where(grows, table.q[above - 1], np.where(inside, table.q[below], np.minimum(floor, table.q[0])))
        high = np.where(
            grows, table.q[above], np.where(inside, table.q[np.minimum(below + 1, table.q.size - 1)], table.q[0])
        )
        g, b2 = gain[todo], bias[todo]

        def grown(y: Array) -> Array:  # by what factor F(q) exceeds q = exp(y), which may be as small as sigma_b^2
            x = np.exp(y)
            return np.asarray((g * averages.second_moment(x) + b2) / x - 1)

        q[todo] = np.exp(bracketed_root(grown, np.log(low[todo]), np.log(high[todo])))
    return q, np.zeros(gain.shape, dtype=bool)


def correlation_fixed_point(averages: GaussianAverages, q: float, gain: float, bias: float, *, chi: float) -> float:
    """Find the correlation to which two inputs settle.

    Args:
        averages: The activation's averages.
        q: The fixed point of the length map, finite and positive.
        gain: sigma_w^2, without the dropout's factor (two inputs have independent masks).
        bias: sigma_b^2.
        chi: Slope of the correlation map at c = 1 as given by the slopes of phi.

    Returns:
        c_star in [0, 1].
    """
    phi = averages.activation

    def excess(c: Array) -> Array:
        return np.array([(gain * averages.covariance(float(x), q) + bias) / q - x for x in c])

    at_one = float(excess(np.ones(1))[0])
    fixed_at_one = at_one > -1e-12
    if fixed_at_one and chi <= 1 + CRITICAL_WITHIN and not phi.jumps:
        return 1.0
    at_zero = float(excess(np.zeros(1))[0])
    if at_zero <= 1e-15:  # odd phi without biases: uncorrelated inputs stay so
        return 0.0
    low = 0.0
    for exponent in range(1, 10):
        high = 1.0 - 10.0**-exponent
        if float(excess(np.array([high]))[0]) < 0:
            return float(bracketed_root(excess, np.array([low]), np.array([high]), relative=1e-14)[0])
        low = high
    if fixed_at_one:
        return 1.0  # nearer to 1 than the averages can tell
    return float(bracketed_root(excess, np.array([low]), np.ones(1), relative=1e-15)[0])


def phase_of(chi: float) -> Phase:
    """Name the phase that chi stands for.

    Returns:
        "ordered", "chaotic" or "critical".
    """
    if abs(chi - 1) <= CRITICAL_WITHIN:
        return "critical"
    return "ordered" if chi < 1 else "chaotic"
