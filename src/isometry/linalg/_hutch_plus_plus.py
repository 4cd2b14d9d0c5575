"""The trace, exactly on a subspace that holds the large eigenvalues and from random signs on the rest.

References:
    R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, Hutch++: optimal stochastic trace estimation, SOSA 2021.
    arXiv:2010.09649

Departures: (1) the number of products is not fixed beforehand: sketch and samples grow together, and A Q, A G are
kept, so nothing is multiplied twice; (2) the standard error is the spread of the samples of the rest at the present
subspace, which the samples are independent of.
"""

from __future__ import annotations

import torch

from isometry.linalg._probes import ProbedOperator, mean_and_stderr

__all__ = ["HutchPlusPlus"]


class HutchPlusPlus:
    """tr(Q^T A Q) + the mean of g^T (I - Q Q^T) A (I - Q Q^T) g: unbiased; two probes take three products.

    Args:
        operator: The operator.
    """

    least = 2

    def __init__(self, operator: ProbedOperator) -> None:
        self._operator = operator
        empty = torch.zeros(0, operator.size, dtype=operator.dtype, device=operator.device)
        self._Q, self._AQ, self._G, self._AG = empty, empty, empty, empty  # all as rows

    def extend(self, count: int) -> int:
        """Add probes, half of them to the sketch.

        Returns:
            How many were added.
        """
        half = count // 2
        room = self._operator.size - len(self._Q)
        if room:
            sketch = self._operator.times(self._operator.signs(min(half, room)))  # Alg. 1, l. 2: A S
            fresh = self._operator.orthonormal(sketch, self._Q)[0]
            self._Q = torch.cat([self._Q, fresh])
            self._AQ = torch.cat([self._AQ, self._operator.times(fresh)])
        signs = self._operator.signs(half)
        self._G = torch.cat([self._G, signs])
        self._AG = torch.cat([self._AG, self._operator.times(signs)])
        return 2 * half

    def estimate(self) -> tuple[float, float]:
        """Give the present estimate.

        Returns:
            The trace and its standard error.
        """
        Q, AQ, G = self._Q, self._AQ, self._G
        inside = float((Q * AQ).sum(dtype=torch.float64))
        weights = G @ Q.mT
        rest = G - weights @ Q
        rest = rest - (rest @ Q.mT) @ Q  # a second time: where Q holds nearly everything, the first leaves rounding
        # A (I - Q Q^T) g = A g - A Q Q^T g, from products that are there already.
        forms = (rest * (self._AG - weights @ AQ)).sum(1, dtype=torch.float64)
        mean, stderr = mean_and_stderr(forms.cpu())
        return inside + mean, stderr  # Alg. 1, l. 3
