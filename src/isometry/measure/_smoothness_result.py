"""What local smoothness says, and the line that relates it to the size of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from isometry._base import Cost, Result, unknown_name

__all__ = ["FitMethod", "LocalSmoothness", "ParameterSmoothness", "SmoothnessFit", "fit_l0_l1"]

FitMethod = Literal["least-squares", "envelope"]


@dataclass(frozen=True)
class SmoothnessFit(Result):
    """Relaxed smoothness, L = L0 + L1 |gradient|, fitted to points of a path.

    Attributes:
        l0: Smoothness where the gradient is zero, at least 0.
        l1: By how much it grows with the norm of the gradient, at least 0; 0 is ordinary smoothness.
        slope: Of log smoothness over log gradient norm, by least squares; NaN if there is none.
        correlation: Of the two logarithms; NaN if there is none.
        points: How many points there are.
        method: How it was fitted.
    """

    l0: float
    l1: float
    slope: float
    correlation: float
    points: int
    method: FitMethod

    def __str__(self) -> str:
        return (
            f"L = {self.l0:.4g} + {self.l1:.4g} |gradient| ({self.method}, {self.points} points); "
            f"log-log slope {self.slope:.2f}, correlation {self.correlation:.2f}"
        )


def fit_l0_l1(
    grad_norm: Tensor | np.ndarray, smoothness: Tensor | np.ndarray, *, method: FitMethod = "least-squares"
) -> SmoothnessFit:
    """Fit L0 and L1 of relaxed smoothness, both at least 0, to gradient norms and local smoothness.

    "least-squares" is the best line among those with L0, L1 >= 0. "envelope" is the line above all points that lies
    closest to them on average, so that the points satisfy L <= L0 + L1 |gradient|, as the assumption has it.

    Args:
        grad_norm: Norms of gradients, shape ``(T,)``.
        smoothness: Local smoothness there, shape ``(T,)``.
        method: "least-squares" or "envelope".

    Returns:
        The fit, with slope and correlation of the logarithms (over the points where both are positive).

    Raises:
        ValueError: If the shapes differ, values are negative or not finite, or there are not two different norms.
        unknown_name: A ValueError with near matches, if there is no method of that name.

    Example:
        >>> fit = fit_l0_l1(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 5.0, 9.0]))
        >>> round(fit.l0, 6), round(fit.l1, 6)
        (1.0, 2.0)
    """
    if method not in get_args(FitMethod):
        raise unknown_name("method", method, get_args(FitMethod))
    g, s = _points("grad_norm", grad_norm), _points("smoothness", smoothness)
    if g.shape != s.shape:
        raise ValueError(f"grad_norm has {len(g)} points and smoothness {len(s)}; pass one of each for every point.")
    if len(np.unique(g)) < 2:
        raise ValueError(
            f"grad_norm holds {len(np.unique(g))} different values, and a line needs two; take more snapshots."
        )
    l0, l1 = (_least_squares if method == "least-squares" else _envelope)(g, s)
    slope, correlation = _logarithms(g, s)
    return SmoothnessFit(l0, l1, slope, correlation, len(g), method)


def _points(argument: str, values: Tensor | np.ndarray) -> np.ndarray:
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{argument} has shape {array.shape}; pass one number for every point, shape (T,).")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{argument} holds negative or non-finite values; norms and smoothness are at least 0.")
    return array


def _least_squares(g: np.ndarray, s: np.ndarray) -> tuple[float, float]:
    scale = g.max()  # norms may be tiny or huge
    h = g / scale
    l1 = float(((h - h.mean()) * (s - s.mean())).sum() / np.square(h - h.mean()).sum())
    l0 = float(s.mean() - l1 * h.mean())
    if l0 < 0 or l1 < 0:  # the best line of all is not allowed, so the best one allowed is on an edge
        edges = [(0.0, float((h * s).sum() / np.square(h).sum())), (float(s.mean()), 0.0)]
        l0, l1 = min(edges, key=lambda line: float(np.square(line[0] + line[1] * h - s).sum()))
    return l0, l1 / float(scale)


def _envelope(g: np.ndarray, s: np.ndarray) -> tuple[float, float]:
    # The mean distance is convex and piecewise linear in L1, so a corner is best: L1 = 0, an edge of the points' upper
    # hull, or the least L1 that needs no L0.
    scale = g.max()
    h = g / scale
    hull = _upper_hull(h, s)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(hull)]
    with np.errstate(over="ignore"):
        least = float((s[h > 0] / h[h > 0]).max())
    corners = [0.0, *(l1 for l1 in (*slopes, least) if 0 < l1 < math.inf)]
    lines = [(max(0.0, float((s - l1 * h).max())), l1) for l1 in corners]
    l0, l1 = min(lines, key=lambda line: line[0] + line[1] * float(h.mean()))
    return l0, l1 / float(scale)


def _upper_hull(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(x.tolist(), y.tolist(), strict=True)):
        if hull and hull[-1][0] == point[0]:
            hull.pop()  # the lower of two at one place
        while len(hull) > 1 and _rises(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _rises(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])


def _logarithms(g: np.ndarray, s: np.ndarray) -> tuple[float, float]:
    shown = (g > 0) & (s > 0)
    x, y = np.log(g[shown]), np.log(s[shown])
    if len(x) < 2 or np.ptp(x) == 0:
        return math.nan, math.nan
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / np.square(x).sum())
    spread = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return slope, float((x * y).sum()) / spread if spread > 0 else math.nan


@dataclass(frozen=True, eq=False)
class ParameterSmoothness(Result):
    """Local smoothness of one parameter tensor along the path.

    Attributes:
        name: The parameter.
        grad_norm: 2-norm of its gradient at each point, float64, shape ``(T,)``.
        smoothness: Largest change of its gradient over the length of the whole step, float64, shape ``(T,)``.
    """

    name: str
    grad_norm: Tensor
    smoothness: Tensor

    def fit(self, method: FitMethod = "least-squares") -> SmoothnessFit:
        """Fit this parameter's L0 and L1.

        Args:
            method: As for ``fit_l0_l1``.

        Returns:
            The fit.
        """
        return fit_l0_l1(self.grad_norm, self.smoothness, method=method)


@dataclass(frozen=True, eq=False)
class LocalSmoothness(Result):
    """How fast the gradient changed along a path of snapshots, beside how large it was.

    Attributes:
        grad_norm: 2-norm of the gradient at the first snapshot of each pair, float64, shape ``(T,)``.
        smoothness: Largest change of the gradient over the distance, between the two, float64, shape ``(T,)``.
        step_norm: Length of the step from one to the next, float64, shape ``(T,)``.
        parameters: The same for each parameter tensor.
        steps: Which pairs these are, from 0, in the order of the snapshots.
        skipped: Pairs between which nothing moved; they have no smoothness.
        k: Points that were looked at on each step.
        loss: Which loss.
        samples: Samples of the batch.
        dtype: In which the model ran.
        cost: What it took.
    """

    grad_norm: Tensor
    smoothness: Tensor
    step_norm: Tensor
    parameters: tuple[ParameterSmoothness, ...]
    steps: tuple[int, ...]
    skipped: tuple[int, ...]
    k: int
    loss: str
    samples: int
    dtype: torch.dtype
    cost: Cost = field(default_factory=Cost)

    def fit(self, method: FitMethod = "least-squares") -> SmoothnessFit:
        """Fit L0 and L1 of the whole model.

        Args:
            method: As for ``fit_l0_l1``.

        Returns:
            The fit.
        """
        return fit_l0_l1(self.grad_norm, self.smoothness, method=method)

    def __str__(self) -> str:
        head = (
            f"local smoothness on {self.samples} samples ({self.loss}), {len(self.steps)} steps, {self.k} points each"
        )
        lines = [head, f"  smoothness     {_range(self.smoothness)}", f"  gradient norm  {_range(self.grad_norm)}"]
        if len(torch.unique(self.grad_norm)) > 1:
            lines.append(f"  {self.fit()}")
        if self.skipped:
            lines.append(f"  skipped: nothing moved in {len(self.skipped)} steps")
        return "\n".join(lines)


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.4g} to {float(values.max()):.4g}"
