"""What the methods of a Jacobian return, and how it prints."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Cost, Result

__all__ = ["JacobianExtremes", "JacobianSpectrum"]


@dataclass(frozen=True)
class JacobianSpectrum(Result):
    """All singular values of the Jacobian at every input.

    Attributes:
        values: Descending, shape ``(N, min(out, in))``, float64.
        shape: ``(out, in)`` of one Jacobian.
        start: The module at whose output the path starts; None for the model's input.
        stop: The module at whose output it ends; None for the model's output.
        route: How the Jacobians were formed: "chain" (a product of large matrices) or "graph" (autograd), and from
            which side ("forward" or "reverse").
        resolution: Rounding level of the values at each input, shape ``(N,)``: products were made in ``dtype``, and
            singular values below this are noise.
        residual: Relative error of the sum of squares, the largest over the inputs.
        converged: Whether that is at rounding level for every input.
        dtype: The dtype of the products; the decomposition is done in float64.
        cost: Passes, bytes foreseen and seconds.
    """

    values: Tensor
    shape: tuple[int, int]
    start: str | None
    stop: str | None
    route: str
    resolution: Tensor
    residual: float
    converged: bool
    dtype: torch.dtype
    cost: Cost = field(default_factory=Cost)

    @property
    def s_max(self) -> Tensor:
        """The largest singular value at each input, shape ``(N,)``."""
        return self.values[:, 0]

    @property
    def s_min(self) -> Tensor:
        """The smallest singular value at each input, shape ``(N,)``."""
        return self.values[:, -1]

    @property
    def mean_square(self) -> Tensor:
        """Mean of the squared singular values at each input, shape ``(N,)``: chi^L in theory."""
        return self.values.square().mean(1)

    @property
    def variance(self) -> Tensor:
        """Variance of the squared singular values at each input, shape ``(N,)``."""
        return self.values.square().var(1, correction=0)

    @property
    def condition(self) -> Tensor:
        """Largest over smallest singular value at each input, shape ``(N,)``; infinite for a singular Jacobian."""
        return self.s_max / self.s_min

    def __str__(self) -> str:
        lines = [f"Jacobian {_between(self.start, self.stop)}, {self.shape[0]} x {self.shape[1]}, by {self.route}"]
        rows = (("s_max", self.s_max), ("s_min", self.s_min), ("mean square", self.mean_square))
        for name, values in (*rows, ("condition", self.condition)):
            low, high = values.min().item(), values.max().item()
            lines.append(f"  {name:<12} {values.median().item():<10.4g} from {low:.4g} to {high:.4g}")
        inputs = len(self.values)
        lines.append(f"  medians over {inputs} input{'s' if inputs > 1 else ''}; {self.cost.seconds:.2g} s")
        lost = int((self.values < self.resolution.unsqueeze(1)).sum())
        if lost:
            lines.append(
                f"  {lost} of {self.values.numel()} values are below the rounding level of {_short(self.dtype)}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class JacobianExtremes(Result):
    """Extreme singular values of the Jacobian at every input, found without forming it.

    Attributes:
        values: Shape ``(N, k)``, descending: the largest first, then the smallest.
        residuals: Some singular value lies within this distance of the value, shape ``(N, k)``.
        which: Which ends were searched.
        shape: ``(out, in)`` of one Jacobian.
        start: The module at whose output the path starts; None for the model's input.
        stop: The module at whose output it ends; None for the model's output.
        converged: Whether every residual is within the tolerance.
        dtype: The dtype of the products.
        cost: Products and seconds.
    """

    values: Tensor
    residuals: Tensor
    which: str
    shape: tuple[int, int]
    start: str | None
    stop: str | None
    converged: bool
    dtype: torch.dtype
    cost: Cost = field(default_factory=Cost)

    @property
    def s_max(self) -> Tensor:
        """The largest value found at each input, shape ``(N,)``."""
        return self.values[:, 0]

    @property
    def s_min(self) -> Tensor:
        """The smallest value found at each input, shape ``(N,)``."""
        return self.values[:, -1]

    def __str__(self) -> str:
        head = f"Jacobian {_between(self.start, self.stop)}, {self.shape[0]} x {self.shape[1]}, matrix-free"
        state = "converged" if self.converged else "NOT converged"
        return (
            f"{head}\n  {self.which}: {self.s_max.max().item():.4g} at most, {self.s_min.min().item():.4g} at least, "
            f"over {len(self.values)} inputs\n"
            f"  {state}, residuals up to {self.residuals.max().item():.1e}; {self.cost.matvecs} products"
        )


def _between(start: str | None, stop: str | None) -> str:
    return f"from {'the input' if start is None else start} to {'the output' if stop is None else stop}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
