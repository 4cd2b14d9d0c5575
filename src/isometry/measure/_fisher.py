"""The whole Fisher spectrum of a network, exactly, by its dual.

G = (1/N) sum_n J_n^T H_n J_n has as many columns as the model has parameters, but its nonzero eigenvalues are those of
an (N V) x (N V) matrix, which is a sum over layers.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.

Departures: (1) the softmax's zero eigenvalue is left out by construction (V = C - 1 rows per sample instead of C);
(2) beside the paper's hidden-layer parameters all parameters can be measured, which is the default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import Cost, Result, stopwatch
from isometry.measure._fisher_roots import Kind, Likelihood, check_choice
from isometry.measure._fisher_setup import Setup, make_setup
from isometry.measure._gram import accumulate
from isometry.measure._gram_sums import FullGram

__all__ = ["Condition", "Fisher", "fisher"]


@dataclass(frozen=True)
class Condition(Result):
    """Condition numbers of the nonzero dual spectrum.

    Attributes:
        median: lambda_max over the median eigenvalue.
        smallest: lambda_max over the smallest eigenvalue above the cut-off.
        cutoff: The cut-off, as a fraction of lambda_max; eigenvalues below it count as zero.
        below: How many eigenvalues lie below it.
    """

    median: float
    smallest: float
    cutoff: float
    below: int


@dataclass(frozen=True, eq=False)
class Fisher(Result):
    """A Fisher matrix, known through its dual.

    Attributes:
        kind: "true", "empirical" or "monte-carlo".
        likelihood: "categorical" or "gaussian".
        params: Which parameters.
        samples: N.
        outputs: C.
        rows: V, rows of the root per sample: the dual has N V rows.
        size: How many numbers the parameters hold.
        dtype: In which the model ran; sums and eigenvalues are in float64.
        residual: Relative difference between u^T T u and |root^T u|^2 for a random u, the first from the dual T, the
            second from one ordinary backward pass; NaN without a dual.
        cost: What it took.
    """

    kind: Kind
    likelihood: Likelihood
    params: str
    samples: int
    outputs: int
    rows: int
    size: int
    dtype: torch.dtype
    residual: float
    cost: Cost
    gram: Tensor | None = field(repr=False)
    _values: Tensor | None = field(repr=False)
    _setup: Setup = field(repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def eigenvalues(self) -> Tensor:
        """Give all nonzero eigenvalues of the Fisher matrix, largest first.

        The softmax's N structural zeros are not among them. Rounding may leave tiny ones, down to about 1e-16 of the
        largest, negative: they are zero to working precision.

        Returns:
            Shape (min(N V, parameters),), float64.

        Raises:
            RuntimeError: If the measurement was matrix-free.
        """
        if self._values is None:
            raise RuntimeError(
                "this Fisher matrix is matrix-free (dense=False); use .top(k) for its largest eigenvalues."
            )
        return self._values

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue; gradient descent on the local quadratic is stable for steps below 2 over it."""
        return float(self.eigenvalues()[0])

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        return float(self.eigenvalues().sum())

    @property
    def effective_rank(self) -> float:
        """Trace over largest eigenvalue: how many directions share the curvature; NaN for a zero matrix."""
        return self.trace / self.lambda_max if self.lambda_max > 0 else float("nan")

    def condition(self, cutoff: float = 1e-12) -> Condition:
        """Compare the largest eigenvalue with the median and with the smallest above a cut-off.

        Args:
            cutoff: Eigenvalues below this fraction of the largest count as zero.

        Returns:
            Both ratios; infinite where the denominator is zero.
        """
        values = self.eigenvalues()
        top = float(values[0])
        middle = (
            float(values.median())
            if len(values) % 2
            else float(values[len(values) // 2 - 1 : len(values) // 2 + 1].mean())
        )
        above = values[values > cutoff * top]
        return Condition(
            median=top / middle if middle > 0 else float("inf"),
            smallest=top / float(above[-1]) if len(above) else float("inf"),
            cutoff=cutoff,
            below=len(values) - len(above),
        )


def fisher(
    model: nn.Module,
    x: Tensor,
    *,
    targets: Tensor | None = None,
    likelihood: Likelihood = "categorical",
    kind: Kind = "true",
    params: str | Iterable[str] = "all",
    draws: int = 8,
    dense: bool = True,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> Fisher:
    """Measure the Fisher information matrix of a model at a batch.

    Returns:
        The measurement.
    """
    check_choice("likelihood", likelihood, Likelihood)
    check_choice("kind", kind, Kind)
    with stopwatch() as watch:
        setup = make_setup(
            model, x, targets=targets, likelihood=likelihood, kind=kind, params=params, draws=draws, generator=generator
        )
        gram, values, needed = None, None, 0
        if dense:
            needed = setup.check_dense(budget)
            gram = _dual(setup)
            values = torch.linalg.eigvalsh(gram).flip(0)[: setup.plan.size]
    return Fisher(
        kind=kind,
        likelihood=likelihood,
        params=params if isinstance(params, str) else ", ".join(params),
        samples=setup.plan.samples,
        outputs=setup.out[0].numel(),
        rows=setup.rows,
        size=setup.plan.size,
        dtype=setup.out.dtype,
        residual=float("nan"),
        cost=Cost(bytes=needed, seconds=watch.seconds, forward_passes=2, backward_passes=setup.rows),
        gram=gram,
        _values=values,
        _setup=setup,
    )


def _dual(setup: Setup) -> Tensor:
    total = FullGram(setup.rows, setup.plan.samples, setup.out.device)
    with setup.measuring():
        accumulate(
            setup.model,
            setup.x,
            setup.plan,
            lambda _out: setup.cotangents(),
            lambda _group: total,
            restart=total.restart,
        )
    return total.finish()
