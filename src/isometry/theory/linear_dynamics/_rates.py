"""Step sizes that a mode of a deep linear network allows.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli. "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks." ICLR 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from isometry._base import Result, check_positive
from isometry.theory.linear_dynamics._times import Depth, check_depth

__all__ = ["StepSizes", "optimal_rate"]


@dataclass(frozen=True)
class StepSizes(Result):
    """Step sizes near the solution, for the loss (1/2) SUM |y - W x|^2 with white inputs.

    Attributes:
        optimal: 1 / curvature, which takes the mode to its minimum in one step.
        limit: 2 / curvature: from there on descent diverges.
        curvature: Largest eigenvalue of the mode's Hessian at the balanced solution, L s^(2 - 2/L).
        s: The singular value.
        depth: L.
    """

    optimal: float
    limit: float
    curvature: float
    s: float
    depth: int

    def __float__(self) -> float:
        return self.optimal

    def __str__(self) -> str:
        return (
            f"mode of strength {self.s:g} in {self.depth} layers: step size {self.optimal:.4g}, below {self.limit:.4g}"
        )


def optimal_rate(s: float, *, depth: Depth) -> StepSizes:
    """Give the best step size near the solution, about 1 / (L s^2) for many layers.

    Args:
        s: The largest singular value of the input-output correlation, above 0.
        depth: Number of weight matrices L.

    Returns:
        The step sizes; ``float()`` gives the best one.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> float(optimal_rate(2.0, depth=2))  # 1 / (2 s)
        0.25
    """
    strength, layers = check_positive("s", s), check_depth(depth)
    if math.isinf(layers):
        raise ValueError("depth must be finite: the best step size falls as 1 / depth; pass the number of layers.")
    # E = (1/2) (s - PROD a_i)^2 at a_i = s^(1/L): the gradient of PROD a_i has the squared norm L s^(2 - 2/L).
    curvature = layers * strength ** (2 - 2 / layers)
    return StepSizes(1 / curvature, 2 / curvature, curvature, strength, int(layers))
