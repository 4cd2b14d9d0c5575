"""Bracketed roots of many scalar functions at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isometry.theory._quadrature import Array

__all__ = ["bracketed_root"]


def bracketed_root(
    function: Callable[[Array], Array], low: Array, high: Array, *, relative: float = 4e-16, steps: int = 120
) -> Array:
    """Find a root in each bracket by Chandrupatla's mix of inverse quadratic interpolation and bisection.

    The method needs no derivative, never leaves the bracket and converges superlinearly where the function is smooth.

    Args:
        function: Takes an array of points (n,), one per bracket, and returns the values (n,).
        low: One end of each bracket, (n,).
        high: The other end, (n,); the function's signs at the two ends must differ or one of them be a root.
        relative: Width of the final bracket, relative to the root's size.
        steps: Evaluations at most.

    Returns:
        The roots, (n,).

    References:
        T. R. Chandrupatla (1997), A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
        function without using derivatives, Advances in Engineering Software 28.
    """
    b, a = np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)
    fb, fa = function(b), function(a)
    c, fc = a.copy(), fa.copy()
    t = np.full_like(a, 0.5)
    best = np.where(np.abs(fa) < np.abs(fb), a, b)
    for _ in range(steps):
        width = np.abs(b - a)
        tolerance = relative * np.abs(best) + 5e-324
        fbest = np.minimum(np.abs(fa), np.abs(fb))
        open_ = (fbest > 0) & (width > 2 * tolerance)
        if not open_.any():
            break
        t = np.clip(t, np.minimum(0.5, tolerance / np.where(open_, width, 1.0)), None)
        t = np.minimum(t, 1 - np.minimum(0.5, tolerance / np.where(open_, width, 1.0)))
        x = np.where(open_, a + t * (b - a), best)
        fx = function(x)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        with np.errstate(all="ignore"):
            xi = (a - b) / (c - b)
            phi = (fa - fb) / (fc - fb)
            quadratic = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = np.where(quadratic & np.isfinite(step), step, 0.5)
    return best
