"""When a mode of a deep linear network is learned: tau du/dt = L u^p (s - u) with p = 2 - 2/L, integrated exactly.

With w = u / s the time is (tau / L) s^-p times the integral of dw / (w^p (1 - w)). It is written in the logit of w (of
1 / w where the mode decays from above s), so that both ends are had to rounding: near 0, where u^-(p - 1) is large, and
near s, where log(s - u) is.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli, ICLR 2014. Closed forms for depths other than 1, 2 and infinity are our
own: F_b(z) = INT_0^z x^(b-1) / (1 - x) dx = z^b / b 2F1(1, b; 1 + b; z).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from isometry._base import check_positive
from isometry.theory._quadrature import Array

__all__ = ["Clock", "Depth", "check_depth", "check_mode", "learning_time"]

Depth: TypeAlias = float  # a whole number >= 1, or math.inf
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)  # of integrands analytic around their interval: to rounding


def learning_time(s: ArrayLike, u0: ArrayLike, uf: ArrayLike, *, depth: Depth, tau: float = 1.0) -> Array:
    """Compute the time that a mode takes from one strength to another.

    For L = 2 and growth it is (tau / 2s) log(uf (s - u0) / (u0 (s - uf))), of the order tau / s; both directions are
    covered: a mode that starts above s decays to it.

    Args:
        s: Singular values of the input-output correlation, >= 0; arrays broadcast.
        u0: Strength at the start; above 0, but for one layer, where any number will do.
        uf: Strength at the end: on the way from u0 to s.
        depth: Number of weight matrices L, or ``math.inf`` for the limit, in which ``tau`` stands for tau / L.
        tau: Time constant, 1 / step size; times are in its unit.

    Returns:
        Times, of the broadcast shape.

    Raises:
        ValueError: If an argument is out of range, or ``uf`` is never reached.

    Example:
        >>> bool(np.isclose(learning_time(2.0, 1e-3, 1.0, depth=2), np.log(1999) / 4))  # to half strength
        True
    """
    layers, tau = check_depth(depth), check_positive("tau", tau)
    strength, start = check_mode(s, u0, layers)
    strength, start, end = np.broadcast_arrays(strength, start, np.asarray(uf, dtype=np.float64))
    between = np.where(start < strength, (end >= start) & (end < strength), (end <= start) & (end > strength))
    reached = between | (end == start)
    if not reached.all():
        bad = tuple(np.argwhere(~reached)[0])
        raise ValueError(
            f"uf={end[bad]:g} is never reached from u0={start[bad]:g}: the mode runs towards s={strength[bad]:g} and "
            "arrives after infinite time; pass a strength in between."
        )
    out = np.zeros(strength.shape)
    moving = end != start
    clock = Clock(strength[moving], start[moving], layers)
    out[moving] = tau * clock.time_to(end[moving])
    return out


def check_depth(depth: Depth) -> Depth:
    """Insist on a number of weight matrices.

    Returns:
        It, as a float.

    Raises:
        ValueError: If it is neither a whole number >= 1 nor infinite.
    """
    if isinstance(depth, bool) or not isinstance(depth, int | float) or depth < 1 or (depth % 1 and depth != math.inf):
        raise ValueError(f"depth must be a whole number of weight matrices >= 1, or math.inf, got {depth!r}.")
    return float(depth)


def check_mode(s: ArrayLike, u0: ArrayLike, depth: Depth) -> tuple[Array, Array]:
    """Insist on singular values and on strengths from which the balanced formula holds.

    Returns:
        Both, as float64 arrays.

    Raises:
        ValueError: If a singular value is negative, or a strength is not positive with several layers.
    """
    strength, start = np.asarray(s, dtype=np.float64), np.asarray(u0, dtype=np.float64)
    if not np.isfinite(strength).all() or (strength < 0).any():
        raise ValueError(
            f"s must be finite and >= 0, as singular values are, got {_worst(strength):g}; turn the sign of a singular "
            "vector instead."
        )
    if not np.isfinite(start).all() or (depth > 1 and (start <= 0).any()):
        raise ValueError(
            f"u0 must be finite and > 0 with several balanced layers, got {_worst(start):g}: at 0 nothing moves, and "
            "balanced factors of one sign have a positive product; two_layer_curve takes factors of any sign."
        )
    return strength, start


def _worst(values: Array) -> float:
    return float(values[~np.isfinite(values)][0]) if not np.isfinite(values).all() else float(values.min())


class Clock:
    """The time since the start as a function of the strength, in units of tau, elementwise.

    Args:
        s: Singular values, (n,).
        u0: Strengths at the start, (n,); none equals s.
        depth: Number of weight matrices, or infinity.
    """

    def __init__(self, s: Array, u0: Array, depth: Depth) -> None:
        self.s, self.u0, self.depth = s, u0, depth
        self.power = 2.0 if math.isinf(depth) else 2 - 2 / depth  # p
        self.rate = 1.0 if math.isinf(depth) else depth
        self.above = u0 > s

    def time_to(self, u: Array) -> Array:
        """Give the time to a strength on the way.

        Args:
            u: Strengths, (n,).

        Returns:
            Times, (n,).
        """
        if self.depth == 1:  # tau du/dt = s - u
            return np.asarray(np.log((self.s - self.u0) / (self.s - u)))
        out = np.zeros_like(u)
        dead = self.s == 0
        # s = 0: tau du/dt = -L u^(p + 1)
        out[dead] = (u[dead] ** -self.power - self.u0[dead] ** -self.power) / (self.power * self.rate)
        live = ~dead
        clock = Clock(self.s[live], self.u0[live], self.depth)
        start, end = clock.logit(clock.u0), clock.logit(u[live])
        out[live] = clock.since(start, end) / (self.rate * clock.s**self.power)
        return out

    def logit(self, u: Array) -> Array:
        """Give log(w / (1 - w)) of w = u / s, or of s / u for modes that start above s.

        Returns:
            (n,); it grows with time.
        """
        small = np.where(self.above, self.s, u)
        return np.asarray(np.log(small) - np.log(np.abs(self.s - u)))

    def strength(self, y: Array) -> Array:
        """Undo ``logit``.

        Returns:
            Strengths, (n,).
        """
        with np.errstate(over="ignore"):
            return np.where(self.above, self.s * (1 + np.exp(-y)), self.s * np.exp(-np.logaddexp(0.0, -y)))

    def since(self, start: Array, end: Array) -> Array:
        """Give the integral of dw / (w^p (1 - w)) between two logits; depth >= 2, s > 0.

        Returns:
            (n,), in units of tau / (L s^p).
        """
        c = self.power - 1
        first, last = -np.logaddexp(0.0, -start), -np.logaddexp(0.0, -end)  # log w
        # From below: F_(1 - p) = -w^(1 - p) / (p - 1) + F_(2 - p), log w + F_1 at p = 1. From above, in z = 1 / w: F_p.
        grown = _incomplete(2 - self.power, end) - _incomplete(2 - self.power, start)
        grown += last - first if c == 0 else -np.exp(-c * first) * np.expm1(-c * (last - first)) / c
        return np.where(self.above, _incomplete(self.power, end) - _incomplete(self.power, start), grown)

    def slope(self, y: Array) -> Array:
        """Give the derivative of ``since`` in the last logit.

        Returns:
            (n,): w^(1 - p) from below, z^p from above.
        """
        log_w = -np.logaddexp(0.0, -y)
        return np.asarray(np.exp(np.where(self.above, self.power, 1 - self.power) * log_w))


def _incomplete(b: float, y: Array) -> Array:
    """Give F_b(z) at z = 1 / (1 + exp(-y)); for b = 0, where it diverges at 0, log(z / (1 - z)).

    Returns:
        Of y's shape.
    """
    if b == 0:
        return y
    from scipy.special import hyp2f1, psi

    out = np.empty_like(y)
    low, high = y < 0, y >= 0
    z = np.exp(-np.logaddexp(0.0, -y[low]))
    out[low] = z**b / b * hyp2f1(1.0, b, 1.0 + b, z)
    # F_b(z) + log(1 - z) = psi(1) - psi(b) - INT_0^(1 - z) ((1 - q)^(b - 1) - 1) / q dq
    log_rest = -np.logaddexp(0.0, y[high])  # log(1 - z)
    width = np.exp(log_rest)
    q = 0.5 * width[:, None] * (1 + _NODES)
    inside = 0.5 * width * ((np.expm1((b - 1) * np.log1p(-q)) / np.maximum(q, 1e-300)) @ _WEIGHTS)
    out[high] = -log_rest + psi(1.0) - psi(b) - inside
    return out
