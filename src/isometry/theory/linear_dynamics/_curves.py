"""The strength of a mode of a deep linear network against time.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli. "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks." ICLR 2014.

One and two layers have closed forms, unequal factors included; other depths solve the closed form of the time for the
strength. All are written in decaying exponentials, which do not overflow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from isometry._base import check_positive
from isometry.theory._quadrature import Array, QuadratureError
from isometry.theory.linear_dynamics._times import Clock, Depth, check_depth, check_mode

__all__ = ["mode_curve", "two_layer_curve"]

_CERTAIN = 800.0  # a logit beyond which u equals s in float64


def mode_curve(s: ArrayLike, u0: ArrayLike, t: ArrayLike, *, depth: Depth, tau: float = 1.0) -> Array:
    """Compute the strength of a mode over time, its L factors being equal at the start.

    u = s for good once learned; from a small u0 it stays near it for a time of the order tau / (L s u0^(1 - 2/L)) and
    then rises within tau / (L s^(2 - 2/L)). One layer has no such plateau.

    Args:
        s: Singular values of the input-output correlation, >= 0; a mode with s = 0 decays.
        u0: Strengths at the start, above 0 with several layers; may exceed s. Broadcast against ``s``.
        t: Times >= 0.
        depth: Number of weight matrices L, or ``math.inf`` for the limit, in which ``tau`` stands for tau / L.
        tau: Time constant, 1 / step size.

    Returns:
        Strengths, of the shape of ``s`` and ``u0`` followed by that of ``t``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mode_curve(2.0, 1e-3, [2.0, 4.0, 8.0], depth=2).round(3)
        array([1.197, 2.   , 2.   ])
    """
    layers, tau = check_depth(depth), check_positive("tau", tau)
    strength, start = check_mode(s, u0, layers)
    times = _check_times(t)
    strength, start = np.broadcast_arrays(strength, start)
    shape = (*strength.shape, *times.shape)
    strength, start = (a.reshape(-1, 1) for a in (strength, start))
    clock = times.reshape(1, -1) / tau
    if layers == 1:
        curve = strength + (start - strength) * np.exp(-clock)  # tau du/dt = s - u
    elif layers == 2:
        curve = start / (np.exp(-2 * strength * clock) + 2 * start * _grown(2 * strength, clock))
    else:
        every = [np.ravel(a) for a in np.broadcast_arrays(strength, start, clock)]
        curve = _solve(every[0], every[1], every[2], layers)
    return curve.reshape(shape)


def two_layer_curve(s: ArrayLike, a0: ArrayLike, b0: ArrayLike, t: ArrayLike, *, tau: float = 1.0) -> Array:
    """Compute the strength u = a b of a mode of two layers over time, from any factors a and b.

    tau da/dt = b (s - a b) and tau db/dt = a (s - a b) conserve c = a^2 - b^2, so that tau du/dt = sqrt(c^2 + 4 u^2)
    (s - u). In w = (a + b)^2 / 2 and m = (a - b)^2 / 2, with u = (w - m) / 2 and w m = c^2 / 4, this is a Riccati
    equation with constant coefficients, and its solution is written without a cancellation.

    Args:
        s: Singular values, >= 0.
        a0: Factor of the first layer at the start, of any sign.
        b0: Factor of the second layer at the start.
        t: Times >= 0.
        tau: Time constant, 1 / step size.

    Returns:
        Strengths, of the broadcast shape of ``s``, ``a0`` and ``b0`` followed by that of ``t``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> two_layer_curve(2.0, 1.0, 0.0, [0.0, 0.5, 8.0]).round(3)  # a zero second layer learns at once
        array([0.   , 1.054, 2.   ])
    """
    tau, times = check_positive("tau", tau), _check_times(t)
    strength, _ = check_mode(s, 1.0, 2)
    a, b = np.asarray(a0, dtype=np.float64), np.asarray(b0, dtype=np.float64)
    for name, factor in (("a0", a), ("b0", b)):
        if not np.isfinite(factor).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity; pass the factors' true values.")
    strength, a, b = np.broadcast_arrays(strength, a, b)
    shape = (*strength.shape, *times.shape)
    strength, a, b = (x.reshape(-1, 1) for x in (strength, a, b))
    clock = times.reshape(1, -1) / tau
    w, m = (a + b) ** 2 / 2, (a - b) ** 2 / 2
    half = np.hypot(strength, np.sqrt(w * m))  # sqrt(s^2 + c^2 / 4)
    top = strength + half  # w at the end, if w starts above 0
    gone = np.exp(-2 * half * clock)
    # (1 - exp(-2 half t)) / top, which tends to 2 t where s = c = 0: half = top then
    gain = _grown(2 * half, clock) * np.where(top > 0, 2 * half / np.where(top > 0, top, 1.0), 2.0)
    ratio = np.where(top > 0, w * m / np.where(top > 0, top, 1.0) ** 2, 1.0)  # 1 for s = 0 at any c
    up, down = 1 + m * gain + ratio * gone, gone + w * gain + ratio
    # A w of exactly 0 (a = -b) stays there, and then m decays by itself.
    return np.asarray((w * up / down - m * down / up) / 2).reshape(shape)


def _check_times(t: ArrayLike) -> Array:
    times = np.asarray(t, dtype=np.float64)
    if not np.isfinite(times).all() or (times < 0).any():
        raise ValueError("t must hold finite times >= 0, counted from the start; shift or clean them.")
    return times


def _grown(k: Array, t: Array) -> Array:
    # (1 - exp(-k t)) / k, which is t at k = 0
    k, t = np.broadcast_arrays(k, t)
    return np.where(k > 0, -np.expm1(-k * t) / np.where(k > 0, k, 1.0), t)


def _solve(s: Array, u0: Array, t: Array, depth: Depth) -> Array:
    """Find the strengths at given times, for depths without a closed form.

    Returns:
        (n,).
    """
    out, power = u0.copy(), Clock(s, u0, depth).power
    dead = s == 0
    # s = 0: u^-p = u0^-p + p L t
    rate = 1.0 if np.isinf(depth) else depth
    out[dead] = (u0[dead] ** -power + power * rate * t[dead]) ** (-1 / power)
    moving = ~dead & (u0 != s) & (t > 0)
    clock = Clock(s[moving], u0[moving], depth)
    if clock.s.size:
        out[moving] = clock.strength(_logit_at(clock, rate * t[moving] * clock.s**power))
    return out


def _logit_at(clock: Clock, target: Array) -> Array:
    """Solve since(y0, y) = target by Newton's method between bounds.

    Returns:
        Logits, (n,).

    Raises:
        QuadratureError: If the iteration does not settle.
    """
    start = clock.logit(clock.u0)
    low = start.copy()
    # The slope is at least 1 from below, and at least that at the start from above.
    with np.errstate(over="ignore"):
        least = np.where(clock.above, clock.slope(start), 1.0)
        high = np.minimum(start + target / least, np.maximum(start, _CERTAIN))
    y = low.copy()
    for _ in range(400):
        gap = clock.since(start, y) - target
        low, high = np.where(gap <= 0, y, low), np.where(gap >= 0, y, high)
        step = y - gap / clock.slope(y)
        new = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        # The next step would be the square of such a one; a gap below the target's own rounding says no more.
        settled = (np.abs(new - y) <= 1e-10 * (1 + np.abs(y))) | (np.abs(gap) <= 4e-15 * target)
        y = new
        if settled.all():
            return y
    raise QuadratureError(
        f"mode_curve did not settle for s={clock.s[~settled][0]:g}, u0={clock.u0[~settled][0]:g}; the strengths differ "
        "by too many orders of magnitude for float64. Pass less extreme ones."
    )
