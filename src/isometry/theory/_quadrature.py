"""Averages over a standard Gaussian, piecewise between breakpoints and refined where the integrand asks for it.

Gauss-Hermite rules converge slowly across a kink and miss spikes that are narrower than the distance of their nodes.
Here the line is cut into panels (at the kinks, and more finely around features), each panel gets a Gauss-Legendre
rule, and panels on which the integrand's Legendre series has not died out are halved until it has.

All functions take and return float64 arrays. Many integrals are done at once, each with its own breakpoints and its own
refinement, so a whole grid of variances costs little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "HALF_WIDTH",
    "ORDER",
    "Array",
    "QuadratureError",
    "Rows",
    "density",
    "erf",
    "erfc",
    "gaussian_average",
    "rule",
]

Array: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]

HALF_WIDTH = 13.0  # exp(-13^2/2) = 2e-37: what lies beyond counts for nothing, unless the integrand grows like exp
ORDER = 16  # Gauss-Legendre nodes per panel: exact for polynomials up to degree 31
_TOLERANCE = 1e-14  # relative to the integral of the absolute integrand
_MAX_LEVELS = 48  # halvings of a panel
_MAX_VALUES = 3_000_000  # evaluations of the integrand in one call beyond the first pass, before giving up


class QuadratureError(ArithmeticError):
    """A Gaussian average does not exist, or its integrand could not be resolved."""


def _legendre_rule(order: int) -> tuple[Array, Array, Array]:
    """Make the nodes and weights on [-1, 1], and the matrix that gives the two highest Legendre coefficients.

    Returns:
        Nodes (order,), weights (order,) and the matrix (2, order).
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)
    degrees = np.arange(order)
    table = np.polynomial.legendre.legvander(nodes, order - 1)  # (node, degree)
    coefficients = (2 * degrees[:, None] + 1) / 2 * table.T * weights  # c_k = (2k+1)/2 SUM_i w_i f_i P_k(x_i)
    return nodes, weights, coefficients[-2:]


_NODES, _WEIGHTS, _TOP = _legendre_rule(ORDER)


def rule() -> tuple[Array, Array, Array]:
    """Give the panel rule: nodes and weights on [-1, 1], and the indicator matrix for the two top coefficients.

    Returns:
        Nodes (ORDER,), weights (ORDER,), indicator (2, ORDER).
    """
    return _NODES, _WEIGHTS, _TOP


def density(z: ArrayLike) -> Array:
    """Evaluate the standard Gaussian density.

    Returns:
        exp(-z^2/2) / sqrt(2 pi), of z's shape.
    """
    z = np.asarray(z, dtype=np.float64)
    return np.asarray(np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def erf(x: ArrayLike) -> Array:
    """Evaluate the error function; torch's, so that importing the theory does not load scipy.

    Returns:
        An array of x's shape.
    """
    return np.asarray(torch.special.erf(torch.as_tensor(np.asarray(x, dtype=np.float64))).numpy())


def erfc(x: ArrayLike) -> Array:
    """Evaluate the complementary error function without cancellation for large x.

    Returns:
        An array of x's shape.
    """
    return np.asarray(torch.special.erfc(torch.as_tensor(np.asarray(x, dtype=np.float64))).numpy())


def gaussian_average(
    integrand: Callable[[Array, Rows], Array],
    breaks: Array,
    *,
    tolerance: float = _TOLERANCE,
    importance: Array | None = None,
    scale: float = 1e-300,
) -> Array:
    """Integrate functions of a standard Gaussian variable between breakpoints, many at once.

    Args:
        integrand: Takes nodes z (k, nodes) and the number of the integral that each row belongs to (k,), and returns
            values (k, nodes). It is never evaluated at a breakpoint.
        breaks: Ascending breakpoints of each integral, (rows, panels + 1); equal ones make empty panels.
        tolerance: Error allowed, relative to the integral of the absolute integrand.
        importance: How much each integral counts (rows,), if small ones need not be accurate in themselves: errors are
            then relative to the largest integral, both weighted.
        scale: A size that the error may be relative to if the integrals turn out smaller.

    Returns:
        One integral per row, (rows,).

    Raises:
        QuadratureError: If the integrand is not finite, or still unresolved after many halvings.
    """
    rows = breaks.shape[0]
    wide = breaks[:, 1:] > breaks[:, :-1]
    lower, upper = breaks[:, :-1][wide], breaks[:, 1:][wide]
    row: Rows = np.nonzero(wide)[0]
    total, size = np.zeros(rows), np.zeros(rows)
    spent = first = 0
    for _ in range(_MAX_LEVELS):
        half = 0.5 * (upper - lower)
        z = 0.5 * (upper + lower)[:, None] + half[:, None] * _NODES
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            values = integrand(z, row) * density(z)
            panel = half * (values @ _WEIGHTS)
        spent += values.size
        first = first or values.size
        if not np.all(np.isfinite(panel)):
            raise QuadratureError("the integrand is not finite, so the average does not exist in float64.")
        absolute = half * (np.abs(values) @ _WEIGHTS)
        largest = np.abs(values).max(axis=-1)
        top = np.abs(values @ _TOP.T).max(axis=-1)
        # A geometrically decaying series has an error near (top/largest)^2; a kinked one near top/largest.
        error = half * top * np.minimum(1.0, 1e3 * top / np.maximum(largest, 1e-300))
        allowed = tolerance * np.maximum(size + np.bincount(row, absolute, rows), scale)
        if importance is not None:
            allowed = (allowed * importance).max() / np.maximum(importance, 1e-300)
        rough = (error > allowed[row]) & (half > 1e-15 * np.maximum(1.0, np.abs(lower)))  # else: neighbouring floats
        total += np.bincount(row[~rough], panel[~rough], rows)
        size += np.bincount(row[~rough], absolute[~rough], rows)
        if not rough.any():
            return total
        if spent > _MAX_VALUES + first:
            break
        row, lower, upper = row[rough], lower[rough], upper[rough]
        middle = 0.5 * (lower + upper)
        row = np.concatenate([row, row])
        lower, upper = np.concatenate([lower, middle]), np.concatenate([middle, upper])
    raise QuadratureError(
        "the integrand could not be resolved: it oscillates or jumps too often; "
        "give the positions of its kinks and jumps as kinks=."
    )
