"""The law of the singular values of a deep network's input-output Jacobian.

The Jacobian is J = D^L W^L ... D^1 W^1 with D = diag phi'(h), every h of second moment q*, and W orthogonal times
sigma_w or Gaussian of variance sigma_w^2 / fan_in, all of one large width. Free probability gives the law of the
squared singular values in closed parametric form (see ``_spectral_map``), for any activation and depth.

References:
    J. Pennington, S. Schoenholz, S. Ganguli (2017), Resurrecting the sigmoid in deep learning through dynamical
    isometry. https://arxiv.org/abs/1711.04735
    P. Sokol, I. M. Park (2020), Information Geometry of Orthogonal Initializations and Training.
    https://arxiv.org/abs/1810.03785
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np

from isometry._base import Cost, Result, check_positive, stopwatch, unknown_name
from isometry.theory._activation import Activation
from isometry.theory._averages import GaussianAverages
from isometry.theory._mean_field import MeanField
from isometry.theory._quadrature import Array
from isometry.theory._resolve import ActivationLike
from isometry.theory._slope_law import NEGLECTED
from isometry.theory._spectrum import Spectrum
from isometry.theory._values import Values, check_sigmas, given_like, to_array

__all__ = ["Atom", "JacobianLaw", "Weights", "jacobian_law"]

Weights: TypeAlias = Literal["orthogonal", "gaussian"]

_MASS_WITHIN = 1e-3  # what the numerically integrated mass may deviate from 1
_MOMENTS_WITHIN = 1e-2  # the same for mean square and variance, relative
_ALIVE_AT_LEAST = 1e-6  # of the units
_VARIANCE_FLOOR = 1e-6  # a relative variance below this is compared as if it were this


@dataclass(frozen=True)
class Atom(Result):
    """A singular value that a positive fraction of all singular values share.

    Attributes:
        s: The singular value.
        mass: The fraction.
    """

    s: float
    mass: float


@dataclass(frozen=True)
class JacobianLaw(Result):
    """The limiting law of the singular values s of the Jacobian of a wide random network.

    Attributes:
        activation: Name of the activation.
        depth: Number of layers L.
        weights: "orthogonal" or "gaussian".
        q_star: Second moment of the pre-activations.
        sigma_w: Weight scale (standard deviation; the gain of an orthogonal matrix).
        chi: Mean squared singular value of one layer.
        s_max: Largest singular value.
        s_min: Least singular value; 0 where the spectrum reaches 0.
        log_s_max: Logarithm of s_max, which does not overflow.
        mean_square: Mean of s^2, which is chi^L.
        variance: Variance of s^2, which is chi^(2L) L (mu_2/mu_1^2 - 1 - s_1), s_1 = -1 for Gaussian weights, else 0.
        atoms: Singular values of positive mass: dead directions at 0, and those that all layers keep.
        mass: Mass of the computed density and the atoms together: 1 up to the residual. A self-check.
        moments: Mean of s^2 and variance of s^2 as integrated from the density. A self-check.
        residual: The largest of |mass - 1| and the moments' relative deviations from the formulas.
        converged: Whether mass is 1 within 1e-3 and the moments agree within 1e-2.
        neglected: Slopes that a unit shows with less than this probability are left out of s_max and s_min. (Where an
            edge belongs to rare slopes, as s_min of tanh does, a network of few units ends before it.)
        cost: Time taken.
    """

    activation: str
    depth: int
    weights: Weights
    q_star: float
    sigma_w: float
    chi: float
    s_max: float
    s_min: float
    log_s_max: float
    mean_square: float
    variance: float
    atoms: tuple[Atom, ...]
    mass: float
    moments: tuple[float, float]
    residual: float
    converged: bool
    neglected: float
    cost: Cost = field(default_factory=Cost)
    _spectrum: Any = field(default=None, repr=False, compare=False)

    @property
    def support(self) -> tuple[float, float]:
        """Give the interval that holds all singular values.

        Returns:
            s_min and s_max.
        """
        return self.s_min, self.s_max

    def density(self, s: Values) -> Values:
        """Evaluate the density of the singular values (not of their squares), without the atoms.

        Args:
            s: Singular values >= 0: a number, an array or a tensor of any shape.

        Returns:
            Densities of the same kind and shape, in float64; 0 outside the support.
        """
        array = to_array("s", s, low=0.0, high=math.inf)
        flat = array.ravel()
        result = np.zeros_like(flat)
        inside = flat > 0
        if inside.any():
            result[inside] = 2 / flat[inside] * self._spectrum.density(2 * np.log(flat[inside]))
        return given_like(s, result.reshape(array.shape))

    def cdf(self, s: Values) -> Values:
        """Give the fraction of singular values up to s, atoms included.

        Args:
            s: Singular values >= 0: a number, an array or a tensor of any shape.

        Returns:
            Fractions of the same kind and shape.
        """
        array = to_array("s", s, low=0.0, high=math.inf)
        zero = sum(a.mass for a in self.atoms if a.s == 0)
        with np.errstate(divide="ignore"):
            below = 1 - self._spectrum.above(2 * np.log(array.ravel()))
        result = np.where(array.ravel() > 0, np.clip(below, zero, 1.0), zero)
        return given_like(s, result.reshape(array.shape))

    def curve(self, points: int = 200) -> tuple[Array, Array]:
        """Tabulate the density for drawing; the points lie closer towards the edges, and not on them.

        Args:
            points: How many, at least 2.

        Returns:
            Singular values, ascending, and densities, both (points,); empty if the law has atoms only, or its
            singular values exceed what float64 holds.

        Raises:
            ValueError: If fewer than two points are wanted.
        """
        if points < 2:
            raise ValueError(f"points must be at least 2, got {points}; a curve needs two ends.")
        if not self._spectrum.continuous or math.isinf(self.s_max):
            return np.zeros(0), np.zeros(0)
        low, high = self._spectrum.range
        low = max(math.exp(low / 2), 1e-3 * math.exp(high / 2))
        turn = 0.5 * (1 - np.cos(math.pi * (np.arange(points) + 0.5) / points))
        s = low + (math.exp(high / 2) - low) * turn
        return s, np.asarray(self.density(s))

    def to_dict(self) -> dict[str, Any]:
        """Give the law as plain data, with 200 points of its density as ``s`` and ``density``.

        Returns:
            A dictionary that ``json.dumps`` accepts.
        """
        s, density = self.curve()
        return {**super().to_dict(), "s": s.tolist(), "density": density.tolist()}

    def __str__(self) -> str:
        atoms = "".join(f", atom {a.mass:.4g} at s={a.s:.4g}" for a in self.atoms)
        return (
            f"{self.activation}, {self.weights}, depth {self.depth}, q*={self.q_star:.5g}, sigma_w={self.sigma_w:.6g}: "
            f"s_max={self.s_max:.5g}, s_min={self.s_min:.5g}, mean s^2={self.mean_square:.5g}, "
            f"var s^2={self.variance:.5g}{atoms} (self-check: mass {self.mass:.6f})"
        )


def jacobian_law(
    activation: ActivationLike | MeanField,
    *,
    depth: int,
    q_star: float | None = None,
    sigma_w: float | None = None,
    weights: Weights = "orthogonal",
    kinks: Iterable[float] | None = None,
) -> JacobianLaw:
    """Predict the singular values of the input-output Jacobian of a wide deep network.

    Args:
        activation: A name, a module of torch.nn, an elementwise callable, or a ``MeanField`` of one.
        depth: Number of layers L >= 1.
        q_star: Second moment of the pre-activations; may be left out only where it does not matter (ReLU and its kin).
        sigma_w: Weight scale (standard deviation); by default the critical one at q_star.
        weights: "orthogonal" or "gaussian".
        kinks: Positions where a callable is not smooth; found numerically by default.

    Returns:
        The law, with self-checks.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, q_star is missing, or dropout is on.
        unknown_name: If the kind of weights is unknown (a ValueError).

    Example:
        >>> law = jacobian_law("linear", depth=3, weights="gaussian")
        >>> round(law.s_max**2 / (4**4 / 3**3), 9)
        1.0
        >>> round(jacobian_law("tanh", depth=50, q_star=1 / 64).s_max, 2)
        1.27
    """
    field_ = activation if isinstance(activation, MeanField) else MeanField(activation, kinks=kinks)
    if field_.dropout_keep != 1:
        raise ValueError(
            f"the law of the Jacobian is for networks without dropout, got dropout_keep={field_.dropout_keep:g}; "
            "build the MeanField without it."
        )
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise TypeError(f"depth must be an integer, got {type(depth).__name__}; it counts layers.")
    if not 1 <= depth <= 10_000:
        raise ValueError(f"depth must be from 1 to 10000, got {depth}; it counts layers.")
    if weights not in ("orthogonal", "gaussian"):
        raise unknown_name("weights", weights, ("orthogonal", "gaussian"))
    if q_star is None:
        if field_.activation.homogeneous is None:
            raise ValueError(
                f"jacobian_law needs q_star for {field_.name!r}, whose slopes depend on it; pass for example "
                "q_star=1/64, or mf.fixed_point(sigma_w, sigma_b).q_star."
            )
        q_star = 1.0
    q = check_positive("q_star", q_star)
    w = field_.critical(q).sigma_w if sigma_w is None else check_sigmas(sigma_w)[0]
    return _solve(field_.activation, depth, q, w, weights)


@lru_cache(maxsize=64)
def _solve(activation: Activation, depth: int, q: float, sigma_w: float, weights: Weights) -> JacobianLaw:
    with stopwatch() as watch:
        law = _assemble(GaussianAverages(activation), depth, q, sigma_w, weights)
    return replace(law, cost=Cost(seconds=watch.seconds))


def _assemble(averages: GaussianAverages, depth: int, q: float, sigma_w: float, weights: Weights) -> JacobianLaw:
    gaussian = weights == "gaussian"
    mu1, mu2 = (float(averages.slope_moment(k, np.array([q]))[0]) for k in (1, 2))
    if mu1 == 0:
        raise ValueError(f"q_star={q:g}: {averages.activation.name!r} has slope 0 at every unit there, so J = 0.")
    log_gain = 2 * math.log(sigma_w)
    log_mean = depth * (log_gain + math.log(mu1))
    spread = depth * (_relative_variance(mu1, mu2, averages, q) + gaussian)  # Var(s^2) / chi^(2L)
    spectrum = Spectrum(
        averages, depth=depth, q=q, log_gain=log_gain, gaussian=gaussian, log_mean=log_mean, spread=spread
    )
    dead = sum(p for t, p in spectrum.atoms if t == -math.inf)
    if dead > 1 - _ALIVE_AT_LEAST:
        raise ValueError(
            f"q_star={q:g}: a unit of {averages.activation.name!r} is alive with probability {1 - dead:.1e} only, so "
            "J is 0 in any real network; choose a larger q_star."
        )
    mass, mean, variance = spectrum.checks()
    moments_error = max(
        abs(mean - 1), max(abs(variance - spread) - spectrum.left_out, 0.0) / max(spread, _VARIANCE_FLOOR)
    )
    upper, lower = spectrum.upper, spectrum.lower
    return JacobianLaw(
        activation=averages.activation.name,
        depth=depth,
        weights=weights,
        q_star=q,
        sigma_w=sigma_w,
        chi=sigma_w**2 * mu1,
        s_max=_exp(upper / 2),
        s_min=_exp(lower / 2),
        log_s_max=upper / 2,
        mean_square=_exp(log_mean),
        variance=_exp(2 * log_mean) * spread,
        atoms=tuple(Atom(s=_exp(t / 2), mass=p) for t, p in spectrum.atoms),
        mass=mass,
        moments=(_exp(log_mean) * mean, _exp(2 * log_mean) * variance),
        residual=max(abs(mass - 1), moments_error),
        converged=spectrum.complete and abs(mass - 1) < _MASS_WITHIN and moments_error < _MOMENTS_WITHIN,
        neglected=0.0 if averages.activation.piecewise_linear else NEGLECTED,
        _spectrum=spectrum,
    )


def _relative_variance(mu1: float, mu2: float, averages: GaussianAverages, q: float) -> float:
    """Give mu_2/mu_1^2 - 1, the relative variance of the squared slopes, without cancellation.

    Returns:
        The variance.
    """
    direct = mu2 / mu1**2 - 1
    return averages.slope_spread(np.array([q]), mu1) if direct < 1e-6 else direct


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.7 else math.inf
