"""The limits that the spectrum of an orthogonal network approaches as it gets deep at a fixed variance.

As L -> infinity with Var(s^2) -> v, only two laws are left: the S-transform is exp(-v z) if phi is smooth near the
origin, and exp(-v z / (1 + z)) if phi' is 1 or 0 (linear or dead units). Gaussian weights have no such limit.

References:
    J. Pennington, S. Schoenholz, S. Ganguli (2018), The Emergence of Spectral Universality in Deep Networks.
    https://arxiv.org/abs/1802.09979
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from isometry._base import Result, check_positive, unknown_name

__all__ = ["Family", "UniversalEdges", "universal_edges"]

Family: TypeAlias = Literal["smooth", "linear-or-dead"]


@dataclass(frozen=True)
class UniversalEdges(Result):
    """The support of a universal limit.

    Attributes:
        family: "smooth" or "linear-or-dead".
        variance: The variance of s^2.
        s_min: Least singular value.
        s_max: Largest singular value.
    """

    family: Family
    variance: float
    s_min: float
    s_max: float


def universal_edges(variance: float, *, family: Family = "smooth") -> UniversalEdges:
    """Give the edges of the universal limit of deep orthogonal networks.

    With lambda = (1 + m) / (m S(m)), the edges are the stationary values of lambda over m.

    Args:
        variance: The variance of the squared singular values.
        family: "smooth" (tanh, erf, ...) or "linear-or-dead" (hard-tanh, ...; up to variance 1 an atom of mass
            1 - variance sits at s_max).

    Returns:
        The edges, as singular values.

    Raises:
        ValueError: If the variance is not positive.
        unknown_name: If the family is unknown (a ValueError).

    Example:
        >>> round(universal_edges(0.25).s_max, 4)
        1.5568
    """
    v = check_positive("variance", variance)
    if family == "smooth":
        root = math.sqrt(1 + 4 / v)
        low, high = ((1 + 1 / m) * math.exp(v * m) for m in ((-1 - root) / 2, (-1 + root) / 2))
    elif family == "linear-or-dead":
        # lambda = (1 + 1/m) exp(v m / (1 + m)); d log lambda / dm = v/(1+m)^2 - 1/(m (1+m)) = 0 at m = 1/(v-1)
        low = 0.0
        high = v * math.e if v > 1 else math.exp(v)
    else:
        raise unknown_name("family", family, ("smooth", "linear-or-dead"))
    return UniversalEdges(family, v, math.sqrt(low), math.sqrt(high))
