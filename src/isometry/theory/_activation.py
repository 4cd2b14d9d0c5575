"""What the theory knows of an elementwise activation: value, slope, and where these are not smooth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from isometry.theory._quadrature import Array

__all__ = ["Activation", "ClosedForms", "Elementwise", "describe"]

Elementwise: TypeAlias = Callable[[Array], Array]

_PROBES = np.array([1e-6, 3.1e-4, 0.017, 0.41, 0.83, 1.7, 3.3, 6.1, 11.0, 57.0, 1.9e3])


@dataclass(frozen=True)
class ClosedForms:
    """Gaussian averages of an activation that are known exactly; u and u' have variance q and correlation c.

    Attributes:
        second_moment: E phi(u)^2 as a function of q.
        slope_moment: mu_k = E phi'(u)^(2k) as a function of k and q.
        covariance: E phi(u) phi(u') as a function of c and q, where known.
        slope_covariance: E phi'(u) phi'(u') as a function of c and q, where known.
    """

    second_moment: Elementwise
    slope_moment: Callable[[int, Array], Array]
    covariance: Callable[[Array, Array], Array] | None = None
    slope_covariance: Callable[[Array, Array], Array] | None = None


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise activation phi, as functions of float64 arrays.

    Attributes:
        name: Its name, with parameters where it has any, as in ``"leaky_relu(0.2)"``.
        value: phi.
        slope: phi', almost everywhere; what autograd propagates.
        kinks: Positions where phi or one of its first two derivatives jumps, ascending.
        jumps: Positions and heights of the jumps of phi itself.
        slope_jumps: Positions and heights of the jumps of phi'.
        odd: Whether phi(-u) = -phi(u).
        homogeneous: The slopes (a, b) for u < 0 and u > 0 where phi(u) = a u or b u; otherwise None.
        feature: The length over which phi' varies between the kinks, in units of u; infinite where it is constant.
        closed: Averages known in closed form.
        rapid: Whether phi may grow faster than linearly, so that averages need long tails.
    """

    name: str
    value: Elementwise = field(repr=False)
    slope: Elementwise = field(repr=False)
    kinks: tuple[float, ...] = ()
    jumps: tuple[tuple[float, float], ...] = ()
    slope_jumps: tuple[tuple[float, float], ...] = ()
    odd: bool = False
    homogeneous: tuple[float, float] | None = None
    feature: float = field(default=1.0, repr=False)
    closed: ClosedForms | None = field(default=None, repr=False)
    rapid: bool = field(default=False, repr=False)

    @property
    def piecewise_linear(self) -> bool:
        """Whether phi' is constant between the kinks.

        Returns:
            True for ReLU, hard-tanh, linear and their kin.
        """
        return math.isinf(self.feature)


def describe(
    name: str,
    value: Elementwise,
    slope: Elementwise,
    *,
    kinks: Iterable[float] = (),
    feature: float = 1.0,
    closed: ClosedForms | None = None,
) -> Activation:
    """Build an ``Activation`` from its two functions; jumps, oddness, growth are found by evaluating them.

    Args:
        name: What to call it.
        value: phi.
        slope: phi'.
        kinks: Positions where phi is not smooth.
        feature: The length over which phi varies.
        closed: Averages known in closed form.

    Returns:
        The description.
    """
    places = tuple(sorted({float(k) for k in kinks}))
    at = np.array(places, dtype=np.float64)
    step = 1e-6 * np.maximum(1.0, np.abs(at))
    above, below = slope(at + step), slope(at - step)
    heights = (value(at + step) - step * above) - (value(at - step) + step * below)
    near = 1e-9 * np.maximum(1.0, np.abs(at))
    bends = slope(at + near) - slope(at - near)
    size = np.maximum(1.0, np.abs(value(at + step)))
    with np.errstate(over="ignore"):
        up, down = value(_PROBES), value(-_PROBES)
    return Activation(
        name=name,
        value=value,
        slope=slope,
        kinks=places,
        jumps=tuple((k, float(h)) for k, h, s in zip(places, heights, size, strict=True) if abs(h) > 1e-8 * s),
        slope_jumps=tuple((k, float(b)) for k, b in zip(places, bends, strict=True) if abs(b) > 1e-6),
        odd=bool(np.allclose(up, -down, rtol=1e-12, atol=0.0)),
        homogeneous=_homogeneous(up, down, slope),
        feature=math.inf if _constant_between(places, slope) else feature,
        closed=closed,
        rapid=not _at_most_linear(up, down),
    )


def _constant_between(kinks: tuple[float, ...], slope: Elementwise) -> bool:
    inner = kinks or (0.0,)
    edges = np.array([inner[0] - 97.0, *inner, inner[-1] + 97.0])
    slopes = slope(edges[:-1, None] + np.diff(edges)[:, None] * np.array([0.003, 0.11, 0.37, 0.5, 0.71, 0.93, 0.999]))
    if not kinks:
        slopes = slopes.reshape(1, -1)
    return bool(np.all(np.ptp(slopes, axis=1) == 0))


def _at_most_linear(up: Array, down: Array) -> bool:
    far, near = np.abs([up[-1], down[-1]]).max(), np.abs([up[-3:-1], down[-3:-1]]).max(axis=0).max()
    return bool(np.isfinite(far) and far <= 2.0 * _PROBES[-1] / _PROBES[-2] * max(near, 1e-300))


def _homogeneous(up: Array, down: Array, slope: Elementwise) -> tuple[float, float] | None:
    b, a = up / _PROBES, -down / _PROBES
    if not np.all(np.isfinite(up) & np.isfinite(down)):
        return None
    slopes = np.concatenate([slope(_PROBES) - b[0], slope(-_PROBES) - a[0], b - b[0], a - a[0]])
    largest = max(abs(float(a[0])), abs(float(b[0])))
    if largest == 0 or not math.isfinite(largest) or not np.all(np.abs(slopes) <= 1e-14 * largest):
        return None
    return float(a[0]), float(b[0])
