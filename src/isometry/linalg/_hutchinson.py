"""The trace from quadratic forms at random signs.

References:
    M. F. Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines,
    Commun. Stat. Simul. Comput. 19(2), 1990 (first published in 18(3), 1989).
"""

from __future__ import annotations

import torch
from torch import Tensor

from isometry.linalg._probes import ProbedOperator, mean_and_stderr

__all__ = ["Hutchinson"]


class Hutchinson:
    """The mean of v^T A v over random sign vectors v: unbiased, of variance 2 (|A|_F^2 - sum_i a_ii^2) a probe.

    It keeps numbers only, so its memory does not grow with the probes; its error falls as one over their root.

    Args:
        operator: The operator.
    """

    least = 1  # probes that it can add at a time

    def __init__(self, operator: ProbedOperator) -> None:
        self._operator = operator
        self._samples = torch.zeros(0, dtype=torch.float64)

    def extend(self, count: int) -> int:
        """Add probes.

        Returns:
            How many were added.
        """
        done = 0
        while done < count:  # in small portions, for the memory
            rows = self._operator.signs(min(_PORTION, count - done))
            self._samples = torch.cat([self._samples, self._forms(rows).cpu()])
            done += len(rows)
        return done

    def estimate(self) -> tuple[float, float]:
        """Give the present estimate.

        Returns:
            The trace and its standard error.
        """
        return mean_and_stderr(self._samples)

    def _forms(self, rows: Tensor) -> Tensor:
        return (rows * self._operator.times(rows)).sum(1, dtype=torch.float64)


_PORTION = 16
