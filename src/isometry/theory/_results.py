"""What the mean-field theory returns: frozen, printable, and plain data on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from isometry._base import Cost, Result
from isometry.theory._quadrature import Array

__all__ = [
    "CriticalLine",
    "CriticalPoint",
    "DepthScales",
    "FixedPoint",
    "NoCriticalPointError",
    "Phase",
    "PhaseDiagram",
    "SignalProfile",
]

Phase: TypeAlias = Literal["ordered", "chaotic", "critical"]


@dataclass(frozen=True)
class FixedPoint(Result):
    """Where the second moment and the correlation settle in a deep network.

    Attributes:
        activation: Name of the activation.
        sigma_w: Weight scale (standard deviation times sqrt(fan_in)).
        sigma_b: Standard deviation of the biases.
        q_star: The second moment of the pre-activations; 0 where the signal dies out, infinite where it explodes.
        c_star: The correlation of two inputs' pre-activations; for q_star = 0 the limit of small biases.
        chi: sigma_w^2 E phi'^2, the mean squared singular value of one layer's Jacobian.
        chi_c: Slope of the correlation map at c_star.
        slope_q: Slope of the length map at q_star.
        phase: "ordered" for chi < 1, "chaotic" for chi > 1, "critical" within rounding of 1.
        stable: Whether small deviations of q die out.
        degenerate: Whether every q is a fixed point (a critical ReLU network, say).
        converged: Whether a finite fixed point was found.
        residual: |length_map(q_star) - q_star| relative to q_star.
        note: What is particular about this point; empty if nothing is.
        cost: Time taken.
    """

    activation: str
    sigma_w: float
    sigma_b: float
    q_star: float
    c_star: float
    chi: float
    chi_c: float
    slope_q: float
    phase: Phase
    stable: bool
    degenerate: bool
    converged: bool
    residual: float
    note: str = ""
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        text = (
            f"{self.activation} at sigma_w={self.sigma_w:.6g}, sigma_b={self.sigma_b:.6g}: {self.phase}, "
            f"q*={self.q_star:.6g}, c*={self.c_star:.6g}, chi={self.chi:.6g}, chi at c*={self.chi_c:.6g}"
        )
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class CriticalPoint(Result):
    """Weight and bias scales at which signals neither vanish nor explode.

    Attributes:
        activation: Name of the activation.
        sigma_w: Weight scale (a standard deviation; also the gain of an orthogonal matrix).
        sigma_b: Standard deviation of the biases.
        q_star: The second moment of the pre-activations.
        chi: sigma_w^2 E phi'^2 there: 1, except for a ``nearest`` point where no critical one exists.
        slope_q: Slope of the length map at q_star; below 1 the second moment returns to q_star by itself.
        degenerate: Whether every q is a fixed point, so that the input's scale is kept whatever it is.
        converged: Whether the residual is at rounding level.
        residual: The larger of |chi - 1| and the length map's relative deviation at q_star; the latter alone for a
            ``nearest`` point.
        note: What is particular about this point; empty if nothing is.
        cost: Time taken.
    """

    activation: str
    sigma_w: float
    sigma_b: float
    q_star: float
    chi: float
    slope_q: float
    degenerate: bool
    converged: bool
    residual: float
    note: str = ""
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        text = (
            f"{self.activation}: sigma_w={self.sigma_w:.8g}, sigma_b={self.sigma_b:.8g}, "
            f"q*={self.q_star:.6g}, chi={self.chi:.6g}"
        )
        return f"{text} ({self.note})" if self.note else text


class NoCriticalPointError(ValueError):
    """There is no critical point of the kind that was asked for; the message says why.

    Attributes:
        nearest: The nearest point that exists: critical elsewhere if possible, else the one with chi closest to 1.
    """

    def __init__(self, message: str, nearest: CriticalPoint | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


@dataclass(frozen=True)
class DepthScales(Result):
    """Numbers of layers over which deviations shrink by a factor e.

    Attributes:
        activation: Name of the activation.
        sigma_w: Weight scale.
        sigma_b: Standard deviation of the biases.
        xi_q: Layers for the second moment; infinite where it does not return by itself.
        xi_c: Layers for the correlation; infinite at criticality.
        xi_grad: Layers for the squared gradient: positive where it vanishes, negative where it explodes.
        trainable_depth: 6 xi_c, the depth up to which such networks were found to train.
        point: The fixed point that all this refers to.
    """

    activation: str
    sigma_w: float
    sigma_b: float
    xi_q: float
    xi_c: float
    xi_grad: float
    trainable_depth: float
    point: FixedPoint

    def __str__(self) -> str:
        return (
            f"{self.activation} at sigma_w={self.sigma_w:.6g}, sigma_b={self.sigma_b:.6g}: {self.point.phase}, "
            f"xi_q={self.xi_q:.4g}, xi_c={self.xi_c:.4g}, xi_grad={self.xi_grad:.4g} layers, "
            f"trainable to about {self.trainable_depth:.4g} layers"
        )


@dataclass(frozen=True)
class CriticalLine(Result):
    """The critical points within a phase diagram, ordered by q_star.

    Attributes:
        sigma_w: Weight scales (n,).
        sigma_b: Bias scales (n,).
        q_star: Second moments (n,).
    """

    sigma_w: Array
    sigma_b: Array
    q_star: Array


@dataclass(frozen=True)
class PhaseDiagram(Result):
    """chi and the fixed point over a grid of weight and bias scales.

    Attributes:
        activation: Name of the activation.
        sigma_w: Weight scales, the columns (n_w,).
        sigma_b: Bias scales, the rows (n_b,).
        chi: sigma_w^2 E phi'^2 at the fixed point (n_b, n_w).
        q_star: The fixed point of the second moment (n_b, n_w); infinite where it explodes.
        critical: The critical line within the grid.
        cost: Time taken.
    """

    activation: str
    sigma_w: Array
    sigma_b: Array
    chi: Array
    q_star: Array
    critical: CriticalLine
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        ordered = float((self.chi < 1).mean())
        line = self.critical.sigma_w
        where = (
            f"critical from sigma_w={line.min():.4g} to {line.max():.4g}" if line.size else "no critical point in it"
        )
        return (
            f"phase diagram of {self.activation}: sigma_w {self.sigma_w[0]:g} to {self.sigma_w[-1]:g}, "
            f"sigma_b {self.sigma_b[0]:g} to {self.sigma_b[-1]:g}; {ordered:.0%} ordered; {where}"
        )


@dataclass(frozen=True)
class SignalProfile(Result):
    """The signal that theory predicts layer by layer; entry l belongs to pre-activation h^(l+1), entry 0 to h^1.

    Attributes:
        activation: Name of the activation.
        sigma_w: Weight scale.
        sigma_b: Standard deviation of the biases.
        q: Second moments (depth + 1,); the first is the given q0.
        c: Correlations (depth + 1,), or None if no c0 was given.
        chi: Mean squared singular value of each layer's Jacobian (depth,).
        gradient: Expected squared gradient with respect to each pre-activation, relative to the last one (depth + 1,).
    """

    activation: str
    sigma_w: float
    sigma_b: float
    q: Array
    c: Array | None
    chi: Array
    gradient: Array

    def __str__(self) -> str:
        text = f"{self.activation} over {self.chi.size} layers: q {self.q[0]:.4g} -> {self.q[-1]:.4g}"
        if self.c is not None:
            text += f", c {self.c[0]:.4g} -> {self.c[-1]:.4g}"
        first = self.gradient[0]
        return f"{text}, squared gradient at the first layer {first:.4g} of the last's" + (
            " (overflow)" if math.isinf(first) else ""
        )
