"""The trace of a symmetric operator that is only known by its products, with its standard error.

References are in the methods' own files: Hutchinson (1989), Hutch++ (2021), XTrace (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_budget, check_positive, progress, stopwatch, unknown_name
from isometry.linalg._hutch_plus_plus import HutchPlusPlus
from isometry.linalg._hutchinson import Hutchinson
from isometry.linalg._probes import FEWEST_PROBES, ProbedOperator, check_probes
from isometry.linalg._xtrace import XTrace

__all__ = ["TraceEstimate", "TraceMethod", "estimate_trace"]

TraceMethod = Literal["hutchinson", "hutch++", "xtrace"]


@dataclass(frozen=True)
class TraceEstimate(Result):
    """A trace, and how far off it may be.

    Attributes:
        value: The estimate.
        stderr: Its standard error. Estimates are unbiased and nearly normal: two in three are within one of the truth.
        tolerance: What ``converged`` asks for: a standard error of at most ``tolerance * |value|``.
        converged: Whether that was reached.
        method: Which estimator.
        probes: Random vectors drawn.
        size: The operator's dimension.
        dtype: The dtype of vectors and products.
        seed: All probes followed from it; drawn from the caller's generator.
        cost: What it took.
    """

    value: float
    stderr: float
    tolerance: float
    converged: bool
    method: str
    probes: int
    size: int
    dtype: torch.dtype
    seed: int
    cost: Cost

    @property
    def matvecs(self) -> int:
        """Products with one vector."""
        return self.cost.matvecs

    def __str__(self) -> str:
        state = "converged" if self.converged else f"NOT within {self.tolerance:.2g} of itself"
        return (
            f"trace {self.value:.5g} +- {self.stderr:.2g} (standard error), {state}\n"
            f"  by {self.method}, {self.probes} probes of {self.size} entries, {self.matvecs} products; "
            f"{self.cost.seconds:.2g} s"
        )


class _Method(Protocol):
    least: int

    def extend(self, count: int) -> int: ...
    def estimate(self) -> tuple[float, float]: ...


# The method, and how many vectors it keeps per probe.
_METHODS: dict[str, tuple[Callable[[ProbedOperator], _Method], float]] = {
    "hutchinson": (Hutchinson, 0),
    "hutch++": (HutchPlusPlus, 2),
    "xtrace": (XTrace, 4),
}
_WORKING = 32  # vectors that a method has in its hands beside those


def estimate_trace(
    matvec: Callable[[Tensor], Tensor],
    size: int,
    *,
    method: TraceMethod = "hutchinson",
    tolerance: float = 0.05,
    max_probes: int = 200,
    block: int = 1,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> TraceEstimate:
    """Estimate the trace of a symmetric operator from products with random vectors.

    Probes are added until the standard error is at most ``tolerance`` times the estimate (looked at from 8 probes of a
    kind on), or ``max_probes`` are used up. "hutchinson" needs one product a probe and no memory, and its error falls
    as 1/sqrt(probes). "hutch++" (three products for two probes) and "xtrace" (two a probe) find the large eigenvalues
    on the way and keep vectors; where the spectrum decays, as those of networks do, they need far fewer products for
    a small error. Where it is flat, "hutchinson" is as good.

    Args:
        matvec: The product with the operator: takes and returns shape ``(size,)``, or ``(size, block)`` if
            ``block > 1``.
        size: The operator's dimension.
        method: "hutchinson", "hutch++" or "xtrace".
        tolerance: Wanted standard error, relative to the estimate.
        max_probes: Most random vectors.
        block: Vectors per product.
        dtype: float32 or float64.
        device: Device of the vectors.
        budget: Bytes that kept vectors may take; default: the package's.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The estimate; ``converged`` is False where the probes ran out.

    Raises:
        unknown_name: A ValueError with near matches, for an unknown method.
        ValueError: If a number is out of range, or a product is not finite or of a wrong shape.

    Example:
        >>> a = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
        >>> estimate_trace(lambda v: a @ v, 3).value
        7.0
    """
    if method not in get_args(TraceMethod):
        raise unknown_name("method", method, get_args(TraceMethod))
    check_positive("tolerance", tolerance)
    check_probes(max_probes)
    operator = ProbedOperator(matvec, size, block=block, dtype=dtype, device=device, generator=generator)
    build, kept = _METHODS[method]
    needed = check_budget(
        int((kept * max_probes + _WORKING) * size * dtype.itemsize),
        budget,
        what=f"{method} with {max_probes} probes of {size} entries",
        instead='Pass a smaller max_probes=, use method="hutchinson", which keeps no vectors,',
    )
    with torch.no_grad(), stopwatch() as watch:
        estimator = build(operator)
        probes = 0
        wanted = FEWEST_PROBES * estimator.least
        while True:
            progress("trace", probes, max_probes)
            # In portions of what the method can add; an odd probe that is left over stays unused.
            portion = (min(wanted, max_probes) - probes) // estimator.least * estimator.least
            added = estimator.extend(portion) if portion else 0
            probes += added
            value, stderr = estimator.estimate()
            converged = stderr <= tolerance * abs(value)
            if converged or not added or probes >= max_probes:
                break
            wanted = _enough(probes, stderr, tolerance * abs(value))
        progress("trace", max_probes, max_probes)
    return TraceEstimate(
        value=value,
        stderr=stderr,
        tolerance=tolerance,
        converged=converged,
        method=method,
        probes=probes,
        size=size,
        dtype=dtype,
        seed=operator.seed,
        cost=Cost(matvecs=operator.matvecs, bytes=needed, seconds=watch.seconds),
    )


def _enough(probes: int, stderr: float, target: float) -> int:
    """Foresee how many probes bring the error down to the target, if it falls as one over their root.

    Returns:
        At least an eighth more than there are, at most twice as many.
    """
    ratio = stderr / target if target > 0 else math.inf
    return math.ceil(probes * min(2.0, max(1.125, ratio**2)))
