"""Gaussian averages that are known exactly: piecewise linear through the origin, erf, sine, hard tanh.

u and u' are Gaussian with variance q and correlation c. The arc-cosine formula for ReLU is Cho and Saul's, the arcsine
formula for erf is Williams'.

References:
    Y. Cho, L. Saul (2009), Kernel Methods for Deep Learning; C. Williams (1997), Computing with Infinite Networks.
    https://papers.nips.cc/paper/3628-kernel-methods-for-deep-learning
"""

from __future__ import annotations

import math

import numpy as np

from isometry.theory._activation import ClosedForms
from isometry.theory._quadrature import Array, erf, erfc

__all__ = ["clip_forms", "erf_forms", "homogeneous_forms", "sine_forms"]


def homogeneous_forms(a: float, b: float) -> ClosedForms:
    """Give the averages of phi(u) = a u for u < 0 and b u for u > 0 (ReLU: 0, 1; linear: 1, 1; leaky ReLU: a, 1).

    Returns:
        The closed forms.
    """
    even, odd = (b - a) / 2, (a + b) / 2  # phi(u) = odd u + even |u|

    def covariance(c: Array, q: Array) -> Array:
        absolute = 2 / math.pi * (np.sqrt((1 - c) * (1 + c)) + c * np.arcsin(c))
        return np.asarray(q * (odd**2 * c + even**2 * absolute))

    return ClosedForms(
        second_moment=lambda q: np.asarray(q * (a * a + b * b) / 2),
        slope_moment=lambda k, q: np.full_like(q, (a ** (2 * k) + b ** (2 * k)) / 2),
        covariance=covariance,
        slope_covariance=lambda c, q: np.asarray(odd**2 + even**2 * 2 / math.pi * np.arcsin(c) + 0 * q),
    )


def erf_forms() -> ClosedForms:
    """Give the averages of phi(u) = erf(sqrt(pi) u / 2), whose slope at the origin is 1.

    Returns:
        The closed forms.
    """
    half = math.pi / 2

    def covariance(c: Array, q: Array) -> Array:
        return np.asarray(np.arcsin(half * q * c / (1 + half * q)) / half)

    def slope_covariance(c: Array, q: Array) -> Array:
        return np.asarray(1 / np.sqrt((1 + half * q * (1 - c)) * (1 + half * q * (1 + c))))

    return ClosedForms(
        second_moment=lambda q: covariance(np.ones_like(q), q),
        slope_moment=lambda k, q: np.asarray(1 / np.sqrt(1 + math.pi * k * q)),
        covariance=covariance,
        slope_covariance=slope_covariance,
    )


def sine_forms() -> ClosedForms:
    """Give the averages of phi(u) = sin(u).

    Returns:
        The closed forms.
    """

    def slope_moment(k: int, q: Array) -> Array:
        # cos^2k = 4^-k SUM_j binom(2k, j) cos(2 (k-j) u), and E cos(n u) = exp(-n^2 q / 2).
        terms = [math.comb(2 * k, j) * np.exp(-2.0 * (k - j) ** 2 * q) for j in range(2 * k + 1)]
        return np.asarray(sum(terms) / 4.0**k)

    def spread(c: Array, q: Array, sign: float) -> Array:
        # exp(-q) sinh(q c) and exp(-q) cosh(q c), without overflow
        return np.asarray((np.exp(-q * (1 - c)) + sign * np.exp(-q * (1 + c))) / 2)

    def covariance(c: Array, q: Array) -> Array:
        small = np.exp(-q * (1 + np.abs(c))) * np.expm1(2 * q * np.abs(c)) / 2 if np.all(q < 300) else None
        return np.sign(c) * small if small is not None else spread(c, q, -1.0)

    return ClosedForms(
        second_moment=lambda q: np.asarray(-np.expm1(-2 * q) / 2),
        slope_moment=slope_moment,
        covariance=covariance,
        slope_covariance=lambda c, q: spread(c, q, 1.0),
    )


def clip_forms(bound: float = 1.0) -> ClosedForms:
    """Give the averages of phi(u) = clip(u, -bound, bound), whose slope is 1 with probability p(q).

    The covariance has no elementary form; it is left to quadrature.

    Returns:
        The closed forms.
    """

    def second_moment(q: Array) -> Array:
        s = bound / np.sqrt(q)
        inner = erf(s / math.sqrt(2)) - math.sqrt(2 / math.pi) * s * np.exp(-s * s / 2)
        # For large q the inner part cancels: its series is sqrt(2/pi) (s^3/3 - s^5/10 + s^7/56 - ...).
        x = np.minimum(s, 0.05)
        series = math.sqrt(2 / math.pi) * x**3 * (1 / 3 - x**2 / 10 + x**4 / 56 - x**6 / 432 + x**8 / 4224)
        inner = np.where(s < 0.05, series, inner)
        return np.asarray(q * inner + bound**2 * erfc(s / math.sqrt(2)))

    return ClosedForms(
        second_moment=second_moment,
        slope_moment=lambda k, q: erf(bound / np.sqrt(2 * q)) + 0.0 * k,
    )
