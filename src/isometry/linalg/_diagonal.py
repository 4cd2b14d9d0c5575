"""The diagonal of a symmetric operator that is only known by its products, with standard errors per entry.

References:
    C. Bekas, E. Kokiopoulou, Y. Saad, An estimator for the diagonal of a matrix, Appl. Numer. Math. 57, 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_budget, check_positive, progress, stopwatch
from isometry.linalg._probes import FEWEST_PROBES, ProbedOperator, check_probes

__all__ = ["DiagonalEstimate", "estimate_diagonal"]


@dataclass(frozen=True)
class DiagonalEstimate(Result):
    """A diagonal, and how far off each entry may be.

    Attributes:
        values: The estimates, shape ``(size,)``, float64.
        stderr: Their standard errors, shape ``(size,)``. Entry i has a variance of (|row i|^2 - a_ii^2) / probes.
        relative_error: Length of ``stderr`` over that of the diagonal; of the latter's square, what the errors
            contribute is taken off.
        tolerance: What ``converged`` asks for: a ``relative_error`` of at most this.
        converged: Whether that was reached.
        probes: Random vectors drawn; each took one product.
        dtype: The dtype of vectors and products.
        seed: All probes followed from it; drawn from the caller's generator.
        cost: What it took.
    """

    values: Tensor
    stderr: Tensor
    relative_error: float
    tolerance: float
    converged: bool
    probes: int
    dtype: torch.dtype
    seed: int
    cost: Cost

    def __str__(self) -> str:
        low, high = float(self.values.min()), float(self.values.max())
        state = "converged" if self.converged else f"NOT within {self.tolerance:.2g}"
        return (
            f"diagonal of {len(self.values)} entries from {low:.4g} to {high:.4g}, sum {float(self.values.sum()):.4g}\n"
            f"  relative error {self.relative_error:.2g} ({state}), {self.probes} probes; {self.cost.seconds:.2g} s"
        )


def estimate_diagonal(
    matvec: Callable[[Tensor], Tensor],
    size: int,
    *,
    tolerance: float = 0.1,
    max_probes: int = 200,
    block: int = 1,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> DiagonalEstimate:
    """Estimate the diagonal of a symmetric operator: the mean of v * (A v) over random sign vectors v.

    Unbiased in every entry. Probes are added until the errors' length is at most ``tolerance`` times the diagonal's, or
    ``max_probes`` are used up. It suits operators whose diagonal is not small against the rest of the rows.

    Args:
        matvec: The product with the operator: takes and returns shape ``(size,)``, or ``(size, block)`` if
            ``block > 1``.
        size: The operator's dimension.
        tolerance: Wanted relative error, over all entries together.
        max_probes: Most random vectors.
        block: Vectors per product.
        dtype: float32 or float64.
        device: Device of the vectors.
        budget: Bytes that sums and vectors may take; default: the package's.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The estimates with their errors; ``converged`` is False where the probes ran out.

    Raises:
        ValueError: If a number is out of range, or a product is not finite or of a wrong shape.

    Example:
        >>> a = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
        >>> estimate_diagonal(lambda v: a @ v, 3).values.tolist()
        [4.0, 2.0, 1.0]
    """
    check_positive("tolerance", tolerance)
    check_probes(max_probes)
    operator = ProbedOperator(matvec, size, block=block, dtype=dtype, device=device, generator=generator)
    needed = check_budget(
        (4 * 8 + 3 * max(block, FEWEST_PROBES) * dtype.itemsize) * size,
        budget,
        what=f"the diagonal of {size} entries with its errors and {max(block, FEWEST_PROBES)} probes",
        instead="Pass a smaller block=,",
    )
    with torch.no_grad(), stopwatch() as watch:
        mean = torch.zeros(size, dtype=torch.float64, device=operator.device)
        spread = torch.zeros_like(mean)  # sum of squared deviations
        probes, relative = 0, math.inf
        while probes < max_probes:
            progress("diagonal", probes, max_probes)
            rows = operator.signs(min(max(block, FEWEST_PROBES), max_probes - probes))
            for sample in rows.mul_(operator.times(rows)):
                probes += 1
                step = sample - mean
                mean += step / probes
                spread += step * (sample - mean)
            relative = _relative(mean, spread, probes)
            if probes >= FEWEST_PROBES and relative <= tolerance:
                break
        progress("diagonal", max_probes, max_probes)
        stderr = (spread / ((probes - 1) * probes)).sqrt()
    return DiagonalEstimate(
        values=mean,
        stderr=stderr,
        relative_error=relative,
        tolerance=tolerance,
        converged=relative <= tolerance,
        probes=probes,
        dtype=dtype,
        seed=operator.seed,
        cost=Cost(matvecs=operator.matvecs, bytes=needed, seconds=watch.seconds),
    )


def _relative(mean: Tensor, spread: Tensor, probes: int) -> float:
    if probes < 2:
        return math.inf
    errors = float(spread.sum()) / ((probes - 1) * probes)
    length = float(mean.square().sum()) - errors  # E |estimate|^2 = |diagonal|^2 + E |error|^2
    if errors == 0:
        return 0.0
    return math.sqrt(errors / length) if length > 0 else math.inf
