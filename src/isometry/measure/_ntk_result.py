"""A neural tangent kernel: its spectrum, and how well it is aligned with targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from isometry import linalg
from isometry._base import Cost, Result, check_tensor
from isometry.measure._coverage import Coverage

__all__ = ["NTK", "Alignment", "Form"]

Form = Literal["full", "per-output", "trace"]


@dataclass(frozen=True, eq=False)
class Alignment(Result):
    """How well a kernel fits targets: targets along large eigenvalues are learned first.

    Attributes:
        cosine: <K, Y Y^T> / (|K| |Y Y^T|), of the centred kernel and targets: kernel-target alignment, in [0, 1].
        energy: Share of the targets' squared norm along each eigenvector of the (uncentred) kernel, largest eigenvalue
            first; shape (N,), they sum to one.
    """

    cosine: float
    energy: Tensor = field(repr=False)

    def share_in_top(self, k: int) -> float:
        """Give the share of the targets along the ``k`` leading eigenvectors.

        Returns:
            A number from 0 to 1.
        """
        return float(self.energy[:k].sum())


@dataclass(frozen=True, eq=False)
class NTK(Result):
    """A neural tangent kernel.

    Attributes:
        form: "full", "per-output" or "trace".
        samples: N.
        others: Samples of the second batch, M; None for the kernel of one batch.
        outputs: C, the outputs that were measured.
        size: How many numbers the parameters hold.
        params: Which parameters.
        dtype: In which the model ran; sums and eigenvalues are in float64.
        general: Parameters whose rows had to be formed sample by sample, for want of a closed form.
        unused: Parameters that the forward pass does not read.
        coverage: How the parameters' contributions were had, as shares of their numbers.
        cost: What it took.
        values: The kernel, float64: (C, N, C, N') for "full", (C, N, N') per output, (N, N') for the trace, with N' = M
            between two batches and N otherwise.
    """

    form: Form
    samples: int
    others: int | None
    outputs: int
    size: int
    params: str
    dtype: torch.dtype
    general: tuple[str, ...]
    unused: tuple[str, ...]
    coverage: Coverage
    cost: Cost
    values: Tensor = field(repr=False)
    _available: int | None = field(default=None, repr=False)  # outputs of the model, chosen or not; None if not known

    def matrix(self) -> Tensor:
        """Lay the kernel out as matrices.

        Returns:
            Shape (C N, C N') for "full", output by output; (C, N, N') per output; (N, N') for the trace.
        """
        if self.form != "full":
            return self.values
        return self.values.reshape(self.outputs * self.samples, -1)

    def eigenvalues(self) -> Tensor:
        """Compute the spectrum, largest first.

        Returns:
            Shape (C N,) for "full", (C, N) per output, (N,) for the trace.

        Raises:
            ValueError: If the kernel is between two batches: it has singular values only.
        """
        self._insist_on_one_batch("eigenvalues")
        values: Tensor = torch.linalg.eigvalsh(self.matrix())
        return values.flip(-1)

    def alignment(self, targets: Tensor) -> Alignment:
        """Compare the kernel, averaged over the outputs, with targets.

        Args:
            targets: Class labels (N,), read as one-hot rows, or real values (N, K).

        Returns:
            The alignment.

        Raises:
            ValueError: If the kernel is between two batches, or the targets do not fit.
        """
        self._insist_on_one_batch("an alignment")
        kernel, rows = self._mean(), _rows(targets, self.samples, self._available)
        centred, y = _centred(kernel), rows - rows.mean(0)
        ideal = y @ y.T
        scale = float(centred.norm() * ideal.norm())
        solved = linalg.eigh(kernel)
        projections = (solved.vectors.T @ rows).square().sum(1).flip(0)
        total = float(projections.sum())
        return Alignment(
            cosine=float((centred * ideal).sum()) / scale if scale > 0 else float("nan"),
            energy=projections / total if total > 0 else projections,
        )

    def __str__(self) -> str:
        between = "" if self.others is None else f" and {self.others} others"
        head = (
            f"tangent kernel ({self.form}) of {self.size} parameters ({self.params}) at {self.samples} samples{between}"
            f" with {self.outputs} output{'s' if self.outputs != 1 else ''}"
        )
        covered = f"\n  coverage: {self.coverage}" if self.coverage.uncovered else ""
        if self.others is not None:
            return f"{head}; {self.cost.seconds:.2f} s{covered}"
        values = torch.linalg.eigvalsh(self._mean()).flip(0)
        top = float(values[0])
        rank = float(values.sum()) / top if top > 0 else float("nan")
        return (
            f"{head}\n  of the mean over outputs: largest eigenvalue {top:.4g}, trace {float(values.sum()):.4g}, "
            f"effective rank {rank:.3g} of {self.samples}; {self.cost.seconds:.2f} s"
            f"{covered}"
        )

    def _mean(self) -> Tensor:
        if self.form == "trace":
            return self.values
        if self.form == "per-output":
            return self.values.mean(0)
        return self.values.diagonal(dim1=0, dim2=2).mean(-1)

    def _insist_on_one_batch(self, what: str) -> None:
        if self.others is not None:
            raise ValueError(
                f"a tangent kernel between two batches has no {what.removeprefix('an ')}; measure it at one batch, or "
                "take torch.linalg.svdvals of .matrix()."
            )


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def _rows(targets: object, samples: int, outputs: int | None) -> Tensor:
    values = check_tensor("targets", targets, min_ndim=1)
    if len(values) != samples:
        raise ValueError(f"targets have {len(values)} rows for {samples} samples; pass one per sample.")
    if not values.is_floating_point():
        low, high = int(values.min()), int(values.max())
        # One output, a binary classifier's say, goes with two classes, or whatever else is asked about it.
        if low < 0 or (outputs is not None and high >= outputs > 1):
            allowed = "0 or above" if outputs is None or outputs == 1 else f"0..{outputs - 1}, one for each output"
            raise ValueError(
                f"targets lie in {low}..{high}, but class labels must be {allowed}; number the classes from 0, or pass "
                "real values, which are taken as they are (targets.double(), say)."
            )
        values = torch.nn.functional.one_hot(values.long())
    return values.double().reshape(samples, -1)
