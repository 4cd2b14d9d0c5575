"""Gaussian averages of one activation: the integrals of which every mean-field map is made.

u ~ N(0, q); (u, u') are both of variance q and have correlation c. Closed forms are used where they are known, and
piecewise quadrature elsewhere; a two-dimensional average is a one-dimensional one of conditional averages, each cut
at the activation's kinks, so that no rule ever runs across a kink line.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isometry.theory._activation import Activation, Elementwise
from isometry.theory._quadrature import HALF_WIDTH, Array, QuadratureError, Rows, density, gaussian_average

__all__ = ["GaussianAverages"]

_RAPID_WIDTH = 37.5  # the Gaussian density underflows soon after
_STEPS = np.array([1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0])


class GaussianAverages:
    """The Gaussian averages of an activation.

    Args:
        activation: What to average.
        closed_forms: Use closed forms where they exist; False leaves everything to quadrature.
    """

    def __init__(self, activation: Activation, *, closed_forms: bool = True) -> None:
        self.activation = activation
        self._closed = activation.closed if closed_forms else None
        self._width = _RAPID_WIDTH if activation.rapid else HALF_WIDTH
        self._base = np.linspace(-self._width, self._width, 1 + 2 * math.ceil(self._width / 2.0))

    def mean(self, q: Array) -> Array:
        """Give E phi(u).

        Returns:
            An array of q's shape.
        """
        if self.activation.odd:
            return np.zeros_like(q)
        return self._average(self.activation.value, q)

    def second_moment(self, q: Array) -> Array:
        """Give E phi(u)^2.

        Returns:
            An array of q's shape.
        """
        if self._closed is not None:
            return self._closed.second_moment(q)
        return self._average(lambda u: self.activation.value(u) ** 2, q)

    def slope_moment(self, k: int, q: Array) -> Array:
        """Give mu_k = E phi'(u)^(2k).

        Returns:
            An array of q's shape.
        """
        if self._closed is not None:
            return self._closed.slope_moment(k, q)
        return self._average(lambda u: self.activation.slope(u) ** (2 * k), q)

    def slope_spread(self, q: Array, mean: float) -> float:
        """Give the relative variance E[(phi'^2 - mu_1)^2] / mu_1^2 of the squared slopes, without cancellation.

        Args:
            q: One variance, (1,).
            mean: mu_1 there.

        Returns:
            mu_2/mu_1^2 - 1.
        """
        return float(self._average(lambda u: (self.activation.slope(u) ** 2 / mean - 1) ** 2, q)[0])

    def second_moment_slope(self, q: Array) -> Array:
        """Give the derivative of E phi(u)^2 with respect to q.

        By Stein's lemma it equals E[phi'^2 + phi phi''] and E[u phi phi'] / q; the latter needs no second derivative
        and is right for kinks. A jump of phi at k adds half the jump of phi^2 there times k times the density of u.

        Returns:
            An array of q's shape.
        """
        phi = self.activation
        if phi.homogeneous is not None:
            a, b = phi.homogeneous
            return np.full_like(q, (a * a + b * b) / 2)
        slope = self._average(lambda u: u * phi.value(u) * phi.slope(u), q) / q
        for k, _ in phi.jumps:
            step = np.array([1e-9 * max(1.0, abs(k))])
            rise = float((phi.value(k + step) ** 2 - phi.value(k - step) ** 2)[0])
            slope = slope + 0.5 * rise * k / q * density(k / np.sqrt(q)) / np.sqrt(q)
        return slope

    def hermite(self, count: int, q: Array) -> Array:
        """Give the coefficients a_k = E[phi(u) He_k(u/sqrt q)] / sqrt(k!) of phi's Hermite series.

        E phi^2 = SUM a_k^2, E phi phi' = SUM a_k^2 c^k and q mu_1 = SUM k a_k^2.

        Returns:
            An array (count, *q.shape).
        """
        rows = []
        for order in range(count):
            if self.activation.odd and order % 2 == 0:
                rows.append(np.zeros_like(q))
                continue
            rows.append(self._integrate(self._projection(order), np.sqrt(q)))
        return np.stack(rows)

    def _projection(self, order: int) -> Callable[[Array, Array], Array]:
        return lambda z, u: np.asarray(self.activation.value(u) * _hermite(order, z))

    def covariance(self, c: float, q: float) -> float:
        """Give E phi(u) phi(u').

        Returns:
            A number.
        """
        if self._closed is not None and self._closed.covariance is not None:
            return float(self._closed.covariance(np.array([c]), np.array([q]))[0])
        phi = self.activation
        if c >= 1.0:
            return float(self.second_moment(np.array([q]))[0])
        if c == 0.0:
            return float(self.mean(np.array([q]))[0]) ** 2
        return self._pair(phi.value, c, q, float(self.second_moment(np.array([q]))[0]))

    def slope_covariance(self, c: float, q: float) -> float:
        """Give E phi'(u) phi'(u'), which is the derivative of the covariance with respect to q c.

        Where phi itself jumps, phi' has point masses; they are included for |c| < 1, and make it infinite at c = 1.

        Returns:
            A number.
        """
        if self._closed is not None and self._closed.slope_covariance is not None:
            return float(self._closed.slope_covariance(np.array([c]), np.array([q]))[0])
        phi = self.activation
        if phi.jumps and abs(c) >= 1.0:
            return math.inf if c > 0 else -math.inf if phi.odd else math.nan
        if c >= 1.0:
            return float(self.slope_moment(1, np.array([q]))[0])
        total = self._pair(phi.slope, c, q, float(self.slope_moment(1, np.array([q]))[0]))
        return total + self._jump_part(c, q) if phi.jumps else total

    def _jump_part(self, c: float, q: float) -> float:
        phi, root, spread = self.activation, math.sqrt(q), math.sqrt((1 - c) * (1 + c))
        places = np.array([k for k, _ in phi.jumps]) / root
        heights = np.array([h for _, h in phi.jumps])
        masses = heights * density(places) / root
        given = self._conditional(phi.slope, places, c, root)
        pair = density((places[None, :] - c * places[:, None]) / spread) / (spread * root)
        return float(2 * masses @ given + masses @ pair @ heights)

    def _pair(self, f: Elementwise, c: float, q: float, size: float) -> float:
        """Average f(u) f(u') by conditioning on u.

        Args:
            f: phi or its slope.
            c: Correlation.
            q: Variance.
            size: E f(u)^2, to which errors are relative: for small c the average itself is nearly 0.

        Returns:
            A number.
        """
        root = math.sqrt(q)
        if c <= -1.0:
            both = self.breaks(np.array([root]))
            both = np.sort(np.concatenate([both, -both], axis=1), axis=1)
            return float(gaussian_average(lambda z, _: f(root * z) * f(-root * z), both)[0])
        breaks = [self.breaks(np.array([root]))[0]]
        smoothing = math.sqrt((1 - c) * (1 + c)) / max(abs(c), 1e-300)
        if smoothing < 1.0:  # E[f(u') | u] varies over this length around f's features
            centres = np.array([0.0, *self.activation.kinks]) / (c * root)
            offsets = smoothing * np.array([-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0])
            breaks.append((centres[:, None] + offsets).ravel())
            if c < 0:
                breaks.append(-self.breaks(np.array([root]))[0])
        merged = np.sort(np.clip(np.concatenate(breaks), -self._width, self._width))[None]

        def outer(z: Array, _: Rows) -> Array:
            flat = z.ravel()
            values = f(root * flat)
            importance = np.abs(values) * density(flat)
            return np.asarray(values * self._conditional(f, flat, c, root, importance)).reshape(z.shape)

        return float(gaussian_average(outer, merged, tolerance=1e-13, scale=size)[0])

    def _conditional(self, g: Elementwise, z: Array, c: float, root: float, importance: Array | None = None) -> Array:
        """Average g(u') over u' given u = root z, for which u' ~ N(c u, q (1 - c^2)).

        Returns:
            An array of z's shape, (n,).
        """
        centre, spread = c * root * z, root * math.sqrt((1 - c) * (1 + c))
        if spread == 0.0:
            return g(centre)
        marks = self._marks(root if spread > self.activation.feature else 0.0)
        cuts = (marks[None, :] - centre[:, None]) / spread
        base = np.broadcast_to(self._base, (z.size, self._base.size))
        breaks = np.sort(np.clip(np.concatenate([base, cuts], axis=1), -self._width, self._width), axis=1)
        return gaussian_average(
            lambda t, row: g(centre[row, None] + spread * t), breaks, tolerance=1e-14, importance=importance
        )

    def _marks(self, spread: float) -> Array:
        """Place panel edges in units of u: the kinks, and a ladder around every feature where u spreads beyond it.

        Returns:
            Unsorted positions.
        """
        kinks = np.array(self.activation.kinks, dtype=np.float64)
        length = self.activation.feature
        if spread <= length:
            return kinks
        steps = _STEPS * length
        reach = self._width * spread
        if reach > steps[-1]:
            steps = np.concatenate(
                [steps, steps[-1] * 2.0 ** np.arange(1, 1 + math.ceil(math.log2(reach / steps[-1])))]
            )
        steps = steps[steps < 2 * reach]
        centres = np.unique(np.concatenate([kinks, [0.0]]))
        ladder = (centres[:, None] + np.concatenate([-steps, [0.0], steps])).ravel()
        return np.unique(np.concatenate([kinks, ladder]))

    def breaks(self, root: Array) -> Array:
        """Place panel edges in units of z for each standard deviation of u.

        Returns:
            Sorted breakpoints, (rows, count).
        """
        cuts = self._marks(float(root.max()))[None, :] / root[:, None]
        base = np.broadcast_to(self._base, (root.size, self._base.size))
        return np.sort(np.clip(np.concatenate([base, cuts], axis=1), -self._width, self._width), axis=1)

    def _average(self, function: Elementwise, q: Array) -> Array:
        return self._integrate(lambda _, u: function(u), np.sqrt(q))

    def _integrate(self, function: Callable[[Array, Array], Array], root: Array) -> Array:
        flat = np.atleast_1d(root).ravel()
        try:
            result = gaussian_average(lambda z, row: function(z, flat[row, None] * z), self.breaks(flat))
        except QuadratureError as error:
            raise QuadratureError(f"{self._subject(flat)}: {error}") from error
        if self.activation.rapid:
            ends = np.array([-self._width, self._width])
            with np.errstate(over="ignore", invalid="ignore"):
                left = np.abs(function(ends[None, :], flat[:, None] * ends) * density(ends)).max(axis=1)
            if not np.all(left <= 1e-13 * np.abs(result) + 1e-290):
                raise QuadratureError(
                    f"{self._subject(flat)}: the activation grows too fast for it to settle; use a smaller variance."
                )
        return result.reshape(np.shape(root))

    def _subject(self, root: Array) -> str:
        return f"the Gaussian average of {self.activation.name!r} at variance {float(root.max()) ** 2:.4g}"


def _hermite(order: int, z: Array) -> Array:
    """Evaluate the normalized probabilists' Hermite polynomial He_k(z)/sqrt(k!) by its recurrence.

    Returns:
        An array of z's shape.
    """
    before, now = np.zeros_like(z), np.ones_like(z)
    for k in range(order):
        before, now = now, (z * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    return now
