"""What mean-field theory predicts for a chain, layer by layer, from the weights that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isometry import theory
from isometry._base import Result
from isometry.diagnosis._chain import Chain

__all__ = ["Phase", "Prediction", "phase_of", "predict"]

GRID = 33  # points along each axis of the phase diagram


@dataclass(frozen=True)
class Prediction(Result):
    """The signal that theory predicts for a chain.

    Entry l of the lists belongs to hidden pre-activation h^(l+1); every layer's own sigma_w and sigma_b are used.

    Attributes:
        q: Second moments; the first is the measured one.
        correlation: Correlations; the first is the measured one.
        gradient: Squared gradients relative to the last hidden layer's.
        q_star: Where q settles at the mean sigma_w, sigma_b; None if it explodes.
        chi: Mean squared singular value of one layer's Jacobian there.
        xi_c: Layers over which the correlation's distance from its fixed point falls by e.
        xi_grad: Layers over which the squared gradient falls by e; negative where it grows.
        phase: "ordered", "chaotic" or "critical".
    """

    q: tuple[float, ...]
    correlation: tuple[float, ...]
    gradient: tuple[float, ...]
    q_star: float | None
    chi: float
    xi_c: float
    xi_grad: float
    phase: str

    @property
    def trainable_depth(self) -> float:
        """6 xi_c."""
        return 6 * self.xi_c


@dataclass(frozen=True)
class Phase(Result):
    """chi over a grid, with the critical line.

    Attributes:
        sigma_w: Columns.
        sigma_b: Rows.
        chi: Rows of chi.
        critical_w: sigma_w along the critical line.
        critical_b: sigma_b along it.
    """

    sigma_w: tuple[float, ...]
    sigma_b: tuple[float, ...]
    chi: tuple[tuple[float, ...], ...]
    critical_w: tuple[float, ...]
    critical_b: tuple[float, ...]


def predict(chain: Chain, q1: float, c1: float) -> Prediction:
    """Carry the measured signal of the first hidden layer through the rest by theory.

    Args:
        chain: The chain.
        q1: Second moment of the first pre-activations.
        c1: Mean correlation of two inputs there.

    Returns:
        The prediction.
    """
    mf = theory.MeanField(chain.activation_like)  # type: ignore[arg-type]
    q, c = [q1], [min(max(c1, -1.0), 1.0)]
    chi: list[float] = []
    for layer in chain.layers[1:-1]:
        alive = math.isfinite(q[-1]) and q[-1] > 1e-290
        following = float(mf.length_map(q[-1], layer.sigma_w, layer.sigma_b)) if alive else q[-1]
        chi.append(float(mf.chi(q[-1], layer.sigma_w)) if alive else chi[-1] if chi else math.nan)
        c.append(_next_correlation(mf, c, q[-1], following, layer.sigma_w, layer.sigma_b) if alive else c[-1])
        q.append(following)
    gradient = [1.0]
    for value in reversed(chi):  # |g^l|^2 = chi_l |g^(l+1)|^2
        gradient.append(gradient[-1] * value)
    scales = mf.depth_scales(chain.sigma_w, chain.sigma_b)
    star = scales.point.q_star
    return Prediction(
        q=tuple(q),
        correlation=tuple(c),
        gradient=tuple(reversed(gradient)),
        q_star=star if math.isfinite(star) else None,
        chi=scales.point.chi,
        xi_c=scales.xi_c,
        xi_grad=scales.xi_grad,
        phase=scales.point.phase,
    )


def _next_correlation(mf: theory.MeanField, c: list[float], q: float, following: float, w: float, b: float) -> float:
    settled = len(c) > 3 and max(abs(c[-1] - c[-2]), abs(c[-2] - c[-3])) < 1e-12
    if settled or following <= 0 or not math.isfinite(following):
        return c[-1]
    return float(mf.correlation_map(c[-1], q=q, sigma_w=w, sigma_b=b))


def phase_of(chain: Chain) -> Phase:
    """Tabulate chi around the chain's point in the phase diagram.

    Args:
        chain: The chain.

    Returns:
        The diagram.
    """
    mf = theory.MeanField(chain.activation_like)  # type: ignore[arg-type]
    w = np.linspace(0.1, max(3.0, 1.2 * min(chain.sigma_w, 10.0)), GRID)
    b = np.linspace(0.0, max(1.0, 1.2 * min(chain.sigma_b, 10.0)), GRID)
    diagram = mf.phase_diagram(w, b)
    return Phase(
        sigma_w=tuple(map(float, w)),
        sigma_b=tuple(map(float, b)),
        chi=tuple(tuple(map(float, row)) for row in diagram.chi),
        critical_w=tuple(map(float, diagram.critical.sigma_w)),
        critical_b=tuple(map(float, diagram.critical.sigma_b)),
    )
