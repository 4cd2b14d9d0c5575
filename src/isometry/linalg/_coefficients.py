"""Named coefficient sets for Newton-Schulz orthogonalization: X <- (a I + b X X^T + c (X X^T)^2) X.

Each step applies the odd polynomial p(s) = a s + b s^3 + c s^5 to the singular values. The classical sets contract
every s in (0, 1] to exactly 1; the tuned ones trade that for speed on small singular values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from isometry._base import check_positive, unknown_name
from isometry.linalg._precision import check_size

__all__ = ["COEFFICIENTS", "Coefficients", "coefficients", "minimax_polynomials", "minimax_quintics"]

Step = tuple[float, float, float]  # (a, b, c)


@dataclass(frozen=True)
class Coefficients:
    """A sequence of odd polynomials that drives singular values in (0, 1] towards 1.

    Attributes:
        name: The set's name.
        steps: The polynomials (a, b, c), in order; the last one repeats.
        converges: Whether repeating drives every singular value in (0, 1] to exactly 1.
        default_steps: How many steps its source takes; None: until the factor is orthogonal to rounding.
        source: Where the numbers come from.
    """

    name: str
    steps: tuple[Step, ...]
    converges: bool
    default_steps: int | None
    source: str

    def step(self, index: int) -> Step:
        """Give the polynomial of a step, from 0.

        Returns:
            Its three coefficients (a, b, c).
        """
        return self.steps[min(index, len(self.steps) - 1)]


def minimax_quintics(lower: float, *, margin: float = 1.02, steps: int | None = None) -> tuple[Step, ...]:
    """Compute, step by step, the odd quintics that are best for singular values in [lower, 1].

    Each polynomial minimizes the largest ``|1 - p(s)|`` over the interval in which the one before left the singular
    values; greedy is optimal for the composition (Amsel et al. 2025). It is found by Remez exchange: the
    error alternates at the interval's ends and at p's two stationary points. The sequence ends where the interval has
    shrunk to a few percent, from where the classical quintic, which closes it, takes one or two steps.

    Args:
        lower: Smallest singular value to be served, relative to the norm bound; in (0, 1).
        margin: Factor on every interval's upper end. The polynomials are steep there, and what rounding puts beyond it
            runs away: without a margin bfloat16 products diverge.
        steps: How many polynomials to give, whatever interval they leave; default: as said above.

    Returns:
        The coefficients (a, b, c) per step; without ``steps`` the last row is the classical quintic.

    Raises:
        ValueError: If ``lower`` is not in (0, 1), or ``margin`` not in [1, 1.2].
    """
    if check_positive("lower", lower) >= 1:
        raise ValueError(f"lower must be below 1 (it is relative to the largest singular value), got {lower}.")
    if not 1 <= check_positive("margin", margin) <= 1.2:
        raise ValueError(f"margin must lie between 1 and 1.2, got {margin}.")
    return _minimax_quintics(float(lower), float(margin), None if steps is None else check_size("steps", steps))


def minimax_polynomials(lower: float, degrees: tuple[int, ...], *, margin: float = 1.02) -> tuple[Step, ...]:
    """Compute, step by step, the odd polynomials of given degrees that are best for singular values in [lower, 1].

    A cubic takes two products of matrices where a quintic takes three, and 3^(1/2) is a little more than 5^(1/3): mixed
    sequences reach numbers of products that quintics alone do not.

    Args:
        lower: As for ``minimax_quintics``.
        degrees: 3 or 5 for each step.
        margin: As for ``minimax_quintics``.

    Returns:
        The coefficients (a, b, c) per step; c is 0 for cubics.

    Raises:
        ValueError: As for ``minimax_quintics``, and if a degree is neither 3 nor 5.
    """
    minimax_quintics(lower, margin=margin, steps=1)  # the same is allowed
    if any(degree not in (3, 5) for degree in degrees):
        raise ValueError(f"degrees must be 3 or 5, got {degrees}.")
    steps: list[Step] = []
    low, high = float(lower), float(margin)
    for degree in degrees:
        step, error = _best_cubic(low, high) if degree == 3 else _best_quintic(low, high)
        steps.append(step)
        low, high = 1 - error, (1 + error) * margin
    return tuple(steps)


def _best_cubic(low: float, high: float) -> tuple[Step, float]:
    """Give the polynomial whose error alternates, 1 - E, 1 + E, 1 - E, at low, its stationary point, high.

    Returns:
        The coefficients and E. Equal values at both ends make a = k (low^2 + low high + high^2), b = -k.
    """
    total = low**2 + low * high + high**2
    bottom, top = low * high * (low + high), 2 / 27**0.5 * total**1.5
    k = 2 / (bottom + top)
    return (k * total, -k, 0.0), k * top - 1


@lru_cache(maxsize=32)
def _minimax_quintics(lower: float, margin: float, count: int | None) -> tuple[Step, ...]:
    steps: list[Step] = []
    low, error = lower, 1.0
    high = margin
    while error > 0.02 if count is None else len(steps) < count:
        step, error = _best_quintic(low, high)
        steps.append(step)
        low, high = 1 - error, (1 + error) * margin
    return tuple(steps) if count is not None else (*steps, _QUINTIC)


def _best_quintic(low: float, high: float) -> tuple[Step, float]:
    """Solve for the polynomial whose error alternates, 1 - E, 1 + E, 1 - E, 1 + E, at low, q, r, high.

    Returns:
        The coefficients and E.
    """
    q, r = (3 * low + high) / 4, (low + 3 * high) / 4
    previous = math.inf
    for _ in range(100):
        points = np.array([low, q, r, high])
        matrix = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], axis=1)
        a, b, c, error = np.linalg.solve(matrix, np.ones(4))
        if abs(error - previous) <= 1e-14 * abs(error):
            break
        previous = error
        # Stationary points of p: 5 c t^2 + 3 b t + a = 0 in t = s^2.
        root = math.sqrt(max((3 * b) ** 2 - 20 * a * c, 0.0))
        q, r = sorted(math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
    return (float(a), float(b), float(c)), float(error)


_QUINTIC: Step = (15 / 8, -10 / 8, 3 / 8)

COEFFICIENTS: dict[str, Coefficients] = {
    "cubic": Coefficients(
        "cubic",
        ((1.5, -0.5, 0.0),),
        converges=True,
        default_steps=None,
        source="A. Bjorck, C. Bowie, An iterative algorithm for computing the best estimate of an orthogonal matrix, "
        "SIAM J. Numer. Anal. 8, 1971; N. J. Higham, Functions of Matrices, 2008, sec. 8.3 (Newton-Schulz)",
    ),
    "quintic": Coefficients(
        "quintic",
        (_QUINTIC,),
        converges=True,
        default_steps=None,
        source="Z. Kovarik, Some iterative methods for improving orthonormality, SIAM J. Numer. Anal. 7, 1970: the "
        "next term of the same series",
    ),
    "muon": Coefficients(
        "muon",
        ((3.4445, -4.7750, 2.0315),),
        converges=False,
        default_steps=5,
        source="K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024. "
        "https://kellerjordan.github.io/posts/muon/ (singular values end between about 0.68 and 1.13, not at 1)",
    ),
    "minimax": Coefficients(
        "minimax",
        _minimax_quintics(1e-3, 1.02, None),
        converges=True,
        default_steps=None,
        source="computed here for singular values in [1e-3, 1], margin 2 %, as in N. Amsel, D. Persson, C. Musco, "
        "R. M. Gower, The Polar Express, 2025. arXiv:2505.16932; other intervals: minimax_quintics",
    ),
}


def coefficients(given: str | Coefficients) -> Coefficients:
    """Look a set up by name, or pass one through.

    Returns:
        The set.

    Raises:
        TypeError: If it is neither a name nor a set.
        ValueError: If no set has that name; the message has near matches.
    """
    if isinstance(given, Coefficients):
        return given
    if not isinstance(given, str):
        raise TypeError(f"coefficients must be a name or a Coefficients, got {type(given).__name__}.")
    if given not in COEFFICIENTS:
        error = unknown_name("coefficients", given, COEFFICIENTS)
        raise error
    return COEFFICIENTS[given]
