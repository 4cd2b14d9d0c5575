"""The mean-field theory of one activation: what a wide random network does to signals and gradients.

The network is h^l = W^l x^(l-1) + b^l, x^l = phi(h^l), W ~ sigma_w^2 / fan_in and b ~ sigma_b^2 (or sigma_w times an
orthogonal matrix); q is the second moment of a pre-activation, c the correlation of two inputs' pre-activations.

References:
    S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein (2017), Deep Information Propagation.
    https://arxiv.org/abs/1611.01232
    P. Sokol, I. M. Park (2020), Information Geometry of Orthogonal Initializations and Training.
    https://arxiv.org/abs/1810.03785
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from isometry._base import Cost, check_positive, progress, stopwatch
from isometry.theory._activation import Activation
from isometry.theory._averages import GaussianAverages
from isometry.theory._critical import critical_by_q, critical_by_sigma_b, critical_by_sigma_w, critical_line
from isometry.theory._fixed_point import MomentTable, correlation_fixed_point, length_fixed_points, phase_of
from isometry.theory._quadrature import Array
from isometry.theory._resolve import ActivationLike, resolve_activation
from isometry.theory._results import CriticalPoint, DepthScales, FixedPoint, PhaseDiagram, SignalProfile
from isometry.theory._values import Values, check_keep, check_sigmas, given_like, to_array

__all__ = ["MeanField"]


class MeanField:
    """Mean-field theory of a deep network with one elementwise activation.

    Args:
        activation: A name (``"tanh"``, ``"relu"``, ``"leaky_relu(0.2)"``; see ``activation_names()``), a module such as
            ``torch.nn.LeakyReLU(0.2)``, or any elementwise callable on tensors (differentiated by ``torch.func``).
        kinks: Positions where a callable is not smooth; found numerically by default.
        dropout_keep: Rate at which hidden units are kept (kept ones are divided by it); 1 means no dropout.

    Raises:
        TypeError: If the activation is none of these, or a callable cannot be differentiated.
        ValueError: If the name is unknown or the callable not elementwise.

    Example:
        >>> mf = MeanField("tanh")
        >>> point = mf.critical(q_star=1 / 64)
        >>> print(point)
        tanh: sigma_w=1.0151638, sigma_b=0.002156695, q*=0.015625, chi=1
        >>> round(mf.length_map(point.q_star, point.sigma_w, point.sigma_b), 12) == point.q_star
        True
    """

    def __init__(
        self, activation: ActivationLike, *, kinks: Iterable[float] | None = None, dropout_keep: float = 1.0
    ) -> None:
        self.activation: Activation = resolve_activation(activation, kinks=kinks)
        self.dropout_keep = check_keep(dropout_keep)
        self._averages = GaussianAverages(self.activation)

    def __repr__(self) -> str:
        keep = "" if self.dropout_keep == 1 else f", dropout_keep={self.dropout_keep:g}"
        return f"MeanField({self.name!r}{keep})"

    @property
    def name(self) -> str:
        """Name of the activation, with its parameters where they are not the defaults.

        Returns:
            The name.
        """
        return self.activation.name

    @cached_property
    def _table(self) -> MomentTable:
        return MomentTable(self._averages)

    # maps -----------------------------------------------------------------------------------------------------------

    def length_map(self, q: Values, sigma_w: float, sigma_b: float) -> Values:
        """Carry the second moment of the pre-activations one layer on.

        Args:
            q: Second moments >= 0 (a number, an array or a tensor of any shape).
            sigma_w: Weight scale (standard deviation).
            sigma_b: Bias scale (standard deviation).

        Returns:
            sigma_w^2 / dropout_keep E phi(sqrt(q) z)^2 + sigma_b^2, of q's kind and shape, in float64.
        """
        array = to_array("q", q, low=0.0, high=math.inf)
        w, b = check_sigmas(sigma_w, sigma_b)
        return given_like(q, w * w / self.dropout_keep * self._second_moment(array) + b * b)

    def correlation_map(self, c: Values, *, q: float, sigma_w: float, sigma_b: float) -> Values:
        """Carry the correlation of two inputs' pre-activations, both of second moment q, one layer on.

        Args:
            c: Correlations in [-1, 1] (a number, an array or a tensor of any shape).
            q: The second moment of the pre-activations.
            sigma_w: Weight scale (standard deviation).
            sigma_b: Bias scale (standard deviation).

        Returns:
            (sigma_w^2 E phi(u) phi(u') + sigma_b^2) / length_map(q); at the fixed point the divisor is q itself.

        Raises:
            ValueError: If the next layer's second moment is 0, so that a correlation does not exist.
        """
        array = to_array("c", c, low=-1.0, high=1.0)
        q = check_positive("q", q)
        w, b = check_sigmas(sigma_w, sigma_b)
        following = self.length_map(q, w, b)
        if following == 0:
            raise ValueError(f"q={q:g} is carried to 0 by {self.name!r}, so no correlation exists; use a larger q.")
        values = [self._next_correlation(float(x), q, w, b, following) for x in array.ravel()]
        return given_like(c, np.array(values).reshape(array.shape))

    def mu(self, k: int, q: Values) -> Values:
        """Give the moment mu_k = E phi'(sqrt(q) z)^(2k) of the squared slopes.

        Args:
            k: A positive integer.
            q: Second moments > 0.

        Returns:
            The moments, of q's kind and shape.

        Raises:
            ValueError: If k is not a positive integer.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a positive integer, got {k!r}; mu(1, q) is the mean squared slope.")
        array = to_array("q", q, low=0.0, high=math.inf, open_low=True)
        return given_like(q, self._averages.slope_moment(k, array.ravel()).reshape(array.shape))

    def chi(self, q: Values, sigma_w: float) -> Values:
        """Give the mean squared singular value of one layer's Jacobian.

        Args:
            q: Second moments > 0.
            sigma_w: Weight scale (standard deviation).

        Returns:
            sigma_w^2 / dropout_keep mu_1(q), of q's kind and shape.
        """
        w, _ = check_sigmas(sigma_w)
        array = to_array("q", q, low=0.0, high=math.inf, open_low=True)
        mu = self._averages.slope_moment(1, array.ravel()).reshape(array.shape)
        return given_like(q, w * w / self.dropout_keep * mu)

    # where it settles -----------------------------------------------------------------------------------------------

    def fixed_point(self, sigma_w: float, sigma_b: float, *, q0: float = 1.0) -> FixedPoint:
        """Find where second moment and correlation settle.

        Args:
            sigma_w: Weight scale (standard deviation).
            sigma_b: Bias scale (standard deviation).
            q0: Second moment to start from; it matters only where there are several fixed points.

        Returns:
            The fixed point; ``converged`` is False and ``q_star`` infinite where the signal explodes.
        """
        w, b = check_sigmas(sigma_w, sigma_b)
        start = check_positive("q0", q0)
        with stopwatch() as watch:
            point = self._fixed_point(w, b, start)
        return replace(point, cost=Cost(seconds=watch.seconds))

    def critical(
        self, q_star: float | None = None, *, sigma_w: float | None = None, sigma_b: float | None = None
    ) -> CriticalPoint:
        """Find the critical point (chi = 1) by exactly one of its three coordinates.

        Args:
            q_star: The second moment that pre-activations shall keep.
            sigma_w: Weight scale (standard deviation).
            sigma_b: Bias scale (standard deviation).

        Returns:
            The point; for ReLU and its kin (``degenerate``) it keeps every q.

        Raises:
            ValueError: If not exactly one is given, or it is out of range.
        """
        given = [n for n, v in (("q_star", q_star), ("sigma_w", sigma_w), ("sigma_b", sigma_b)) if v is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"critical needs exactly one of q_star, sigma_w and sigma_b, got {got}; pass one.")
        with stopwatch() as watch:
            if q_star is not None:
                point = critical_by_q(self._averages, self._table, check_positive("q_star", q_star), self.dropout_keep)
            elif sigma_w is not None:
                w, _ = check_sigmas(sigma_w)
                point = critical_by_sigma_w(self._averages, self._table, w, self.dropout_keep)
            else:
                b = check_positive("sigma_b", sigma_b, zero=True)  # type: ignore[arg-type]
                point = critical_by_sigma_b(self._averages, self._table, b, self.dropout_keep)
        return replace(point, cost=Cost(seconds=watch.seconds))

    def depth_scales(self, sigma_w: float, sigma_b: float, *, q0: float = 1.0) -> DepthScales:
        """Give the numbers of layers over which signals and gradients lose their memory.

        Args:
            sigma_w: Weight scale (standard deviation).
            sigma_b: Bias scale (standard deviation).
            q0: Second moment to start from; it matters only where there are several fixed points.

        Returns:
            xi_q, xi_c and the signed xi_grad, with the fixed point they belong to.
        """
        point = self.fixed_point(sigma_w, sigma_b, q0=q0)
        xi_c = _scale(point.chi_c)
        return DepthScales(
            activation=self.name,
            sigma_w=point.sigma_w,
            sigma_b=point.sigma_b,
            xi_q=_scale(point.slope_q),
            xi_c=xi_c,
            xi_grad=_signed_scale(point.chi),
            trainable_depth=6 * xi_c,
            point=point,
        )

    def phase_diagram(
        self, sigma_w: ArrayLike | Tensor | None = None, sigma_b: ArrayLike | Tensor | None = None
    ) -> PhaseDiagram:
        """Give chi and the fixed point over a grid of scales, and the critical line in it.

        Args:
            sigma_w: Weight scales > 0, ascending, (n_w,); 0.1 to 4 by default.
            sigma_b: Bias scales >= 0, ascending, (n_b,); 0 to 1 by default.

        Returns:
            The diagram; rows belong to sigma_b, columns to sigma_w.
        """
        w = _grid("sigma_w", sigma_w, np.linspace(0.1, 4.0, 40), open_low=True)
        b = _grid("sigma_b", sigma_b, np.linspace(0.0, 1.0, 26), open_low=False)
        with stopwatch() as watch:
            gain = np.broadcast_to(w * w / self.dropout_keep, (b.size, w.size))
            bias = np.broadcast_to((b * b)[:, None], gain.shape)
            q, _ = length_fixed_points(self._averages, self._table, gain.ravel(), bias.ravel(), 1.0)
            chi = gain.ravel() * self._slope_moment(q)
            line = critical_line(self._averages, self.dropout_keep, w, b)
        return PhaseDiagram(
            activation=self.name,
            sigma_w=w,
            sigma_b=b,
            chi=chi.reshape(gain.shape),
            q_star=q.reshape(gain.shape),
            critical=line,
            cost=Cost(seconds=watch.seconds),
        )

    def propagate(
        self, depth: int, *, q0: float, c0: float | None = None, sigma_w: float, sigma_b: float
    ) -> SignalProfile:
        """Predict second moment, correlation and squared gradient layer by layer.

        Args:
            depth: How many times the maps are applied, >= 1.
            q0: Second moment of the first pre-activation h^1, sigma_w^2 mean(x^2) + sigma_b^2 for Gaussian weights.
            c0: Correlation of two inputs' h^1; None leaves correlations out.
            sigma_w: Weight scale (standard deviation) of all layers after the first.
            sigma_b: Bias scale (standard deviation).

        Returns:
            The profile; its entry l belongs to h^(l+1).

        Raises:
            ValueError: If depth is not a positive integer or a scale is out of range.
        """
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be a positive integer, got {depth!r}; it counts applications of the map.")
        w, b = check_sigmas(sigma_w, sigma_b)
        q = [check_positive("q0", q0)]
        c = None if c0 is None else [float(to_array("c0", c0, low=-1.0, high=1.0))]
        for step in range(depth):
            before = q[-1]
            q.append(float(w * w / self.dropout_keep * self._second_moment(np.array(before)) + b * b))
            if c is not None:
                still = step > 0 and abs(q[-2] - q[-3]) < 1e-15 * q[-2] and abs(c[-1] - c[-2]) < 1e-15
                c.append(c[-1] if still or q[-1] == 0 else self._next_correlation(c[-1], before, w, b, q[-1]))
                progress("mean-field correlations", step + 1, depth)
        chi = w * w / self.dropout_keep * self._slope_moment(np.array(q[:-1]))
        with np.errstate(over="ignore", divide="ignore"):
            gradient = np.exp(np.append(np.cumsum(np.log(chi)[::-1])[::-1], 0.0))
        return SignalProfile(
            activation=self.name,
            sigma_w=w,
            sigma_b=b,
            q=np.array(q),
            c=None if c is None else np.array(c),
            chi=chi,
            gradient=gradient,
        )

    # the pieces -----------------------------------------------------------------------------------------------------

    def _second_moment(self, q: Array) -> Array:
        flat = q.ravel()
        result = np.full(flat.shape, float(self.activation.value(np.zeros(1))[0]) ** 2)
        if (flat > 0).any():
            result[flat > 0] = self._averages.second_moment(flat[flat > 0])
        return result.reshape(q.shape)

    def _slope_moment(self, q: Array) -> Array:
        """Give mu_1, also in the limits q = 0 and q = infinity.

        Returns:
            An array of q's shape.
        """
        phi = self.activation
        result = np.full(q.shape, float((phi.slope(np.array([-1e-12, 1e-12])) ** 2).mean()))
        far = phi.slope(np.array([-1e9, 1e9])) ** 2 if not phi.rapid else np.array([np.inf, np.inf])
        result[np.isinf(q)] = float(far.mean())
        inside = (q > 0) & np.isfinite(q)
        if inside.any():
            result[inside] = self._averages.slope_moment(1, q[inside])
        return result

    def _next_correlation(self, c: float, q: float, w: float, b: float, following: float) -> float:
        if c == 1.0 and self.dropout_keep == 1.0:
            return 1.0
        value = (w * w * self._averages.covariance(c, q) + b * b) / following
        return min(1.0, max(-1.0, value))

    def _fixed_point(self, w: float, b: float, q0: float) -> FixedPoint:
        averages, keep = self._averages, self.dropout_keep
        gain, at = w * w / keep, np.array([w * w / keep])
        found, flat = length_fixed_points(averages, self._table, at, np.array([b * b]), q0)
        q, degenerate = float(found[0]), bool(flat[0])
        chi = gain * float(self._slope_moment(found)[0])
        notes = ["every q is a fixed point; this is the q0 given"] if degenerate else []
        if q == 0 or math.isinf(q):
            notes.append("the signal dies out" if q == 0 else "the second moment grows without end")
            c, chi_c, slope_q, residual = (1.0, chi, chi, 0.0) if q == 0 else (math.nan, math.nan, chi, math.inf)
        else:
            slope_q = gain * float(averages.second_moment_slope(found)[0])
            residual = abs(self.length_map(q, w, b) - q) / q
            c = correlation_fixed_point(averages, q, w * w, b * b, chi=chi * keep)
            chi_c = w * w * averages.slope_covariance(c, q)
        if self.activation.jumps:
            notes.append("phi jumps, so nearby inputs decorrelate whatever chi is")
        return FixedPoint(
            activation=self.name,
            sigma_w=w,
            sigma_b=b,
            q_star=q,
            c_star=c,
            chi=chi,
            chi_c=chi_c,
            slope_q=slope_q,
            phase=phase_of(chi),
            stable=degenerate or abs(slope_q) < 1 or q == 0,
            degenerate=degenerate,
            converged=math.isfinite(q),
            residual=residual,
            note="; ".join(notes),
        )


def _scale(slope: float) -> float:
    """Turn the slope of a map at its fixed point into a number of layers.

    Returns:
        -1 / log|slope|: 0 for a flat map, infinite where deviations do not shrink.
    """
    if math.isnan(slope):
        return math.nan
    slope = abs(slope)
    if slope >= 1 - 1e-12:
        return math.inf
    return -1 / math.log(slope) if slope > 0 else 0.0


def _signed_scale(chi: float) -> float:
    if chi <= 0 or math.isinf(chi):
        return 0.0
    return math.inf if abs(chi - 1) <= 1e-12 else -1 / math.log(chi)


def _grid(argument: str, values: ArrayLike | Tensor | None, default: Array, *, open_low: bool) -> Array:
    if values is None:
        return default
    given = values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
    array = to_array(argument, given, low=0.0, high=math.inf, open_low=open_low)
    if array.ndim != 1 or (np.diff(array) <= 0).any():
        raise ValueError(f"{argument} must be an ascending one-dimensional grid, got shape {array.shape}; sort it.")
    return np.array(array)
