"""The Gram matrix of single samples' gradients: all their inner products, without forming any of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import Cost, Result, check_budget, progress, stopwatch, together
from isometry.measure._confusion_guards import check_single, check_still
from isometry.measure._confusion_loss import Loss, SampleLoss, loss_and_cotangents, masked_targets, resolve_loss
from isometry.measure._confusion_sweep import Planned, check_by_pass, matrix_bytes, plan_gram, sweep
from isometry.measure._guards import check_model, open_inputs, outside_inference
from isometry.measure._share import insist_on_same
from isometry.tape import Inputs

__all__ = ["GradientGram", "compute_gram", "gradient_gram"]


@dataclass(frozen=True, eq=False)
class GradientGram(Result):
    """All inner products between the gradients of single samples' losses.

    Attributes:
        samples: N.
        loss: Which loss.
        mean_loss: Its mean over the samples.
        params: Which parameters.
        size: How many numbers they hold.
        dtype: In which the model ran; sums are in float64.
        residual: Relative difference between u^T G u and |sum_n u_n g_n|^2 for a random u, the second from one ordinary
            backward pass. NaN where the model overwrites in place what its own backward pass would need.
        general: Parameters whose share had to be formed sample by sample, for want of a closed form.
        unused: Parameters that the forward pass does not read.
        cost: What it took.
        gram: The inner products, (N, N), float64.
        losses: The samples' losses, (N,), float64.
        layers: The layers' shares of the matrix, by module; empty unless asked for.
    """

    samples: int
    loss: str
    mean_loss: float
    params: str
    size: int
    dtype: torch.dtype
    residual: float
    general: tuple[str, ...]
    unused: tuple[str, ...]
    cost: Cost
    gram: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    layers: dict[str, Tensor] = field(repr=False)

    @property
    def norms(self) -> Tensor:
        """Norms of the samples' gradients, (N,)."""
        return self.gram.diagonal().clamp_min(0).sqrt()

    @property
    def mean_gradient_norm(self) -> float:
        """Norm of the mean loss's gradient: sqrt(sum of all entries) / N."""
        return math.sqrt(max(float(self.gram.sum()), 0.0)) / self.samples

    def cosines(self) -> Tensor:
        """Give the cosines between the samples' gradients.

        Returns:
            Shape (N, N); NaN in the rows and columns of zero gradients.
        """
        norms = self.norms
        return (self.gram / norms / norms.unsqueeze(1)).clamp(-1, 1)

    def __str__(self) -> str:
        return (
            f"gradient Gram matrix of {self.samples} samples ({self.loss}, {self.size} parameters: {self.params})\n"
            f"  norms            {float(self.norms.min()):.4g} to {float(self.norms.max()):.4g}, of the mean gradient "
            f"{self.mean_gradient_norm:.4g}\n"
            f"  mean loss        {self.mean_loss:.4g}\n"
            f"  self-check       {self.residual:.1e}; {self.cost.seconds:.2f} s"
        )


@outside_inference
def gradient_gram(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    y: Tensor,
    *,
    loss: Loss = None,
    params: str | Iterable[str] = "all",
    per_layer: bool = False,
    budget: int | None = None,
) -> GradientGram:
    """Compute all inner products between the gradients of single samples' losses.

    G[i, j] = <grad f_i, grad f_j>, with f_i the loss of sample i and gradients in the parameters. No gradient is
    formed: one forward and one backward sweep over the batch give the matrix, which is a sum over layers (parameters
    without a closed form are the exception; ``general`` lists them). sum_ij G[i, j] / N^2 is the squared norm of the
    mean loss's gradient.

    The model is measured in the modes that it is in, frozen parameters included; narrow the choice by ``params``.

    Args:
        model: Maps x to outputs, samples first.
        x: The batch, samples first: a tensor, a tuple of positional or a dict of keyword arguments, or ``Inputs``.
        y: Targets, samples first.
        loss: "cross-entropy" of class indices; "mse", the mean over a sample's outputs; a callable that gets the
            outputs and targets of one sample (as a batch of one) and returns one number; None takes the cross-entropy
            for integer targets and the mean squared error for real ones.
        params: "all", "hidden" (all but the output layer's), or one or several name patterns, as in ``fnmatch``.
        per_layer: Keep the layers' shares.
        budget: Bytes that this may take; default: the package's.

    Returns:
        The matrix, frozen.

    Raises:
        TypeError: If an argument has a wrong type, or the model returns something else than one tensor.
        ValueError: If a single sample's gradient is undefined (train-mode dropout or batch norm, randomness, samples
            that influence each other), or targets, outputs, losses or gradients do not fit or are not finite.
        RuntimeError: If an ordinary backward pass contradicts the matrix.
        MemoryBudgetError: If it is over the budget.

    Example:
        >>> line = nn.Linear(2, 1, bias=False).double()
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # orthogonal inputs: no confusion
        >>> gradient_gram(line, x, torch.ones(2, 1)).gram[0, 1].item()
        0.0
    """
    module = check_model(model)
    batch = open_inputs(module, x)
    chosen, targets = resolve_loss(loss, y, len(batch))
    targets = masked_targets(batch, targets, chosen)
    patterns = params if isinstance(params, str) else tuple(params)
    check_single(module)
    check_still(module, batch)
    words = {
        "what": f"the Gram matrix of {len(batch)} single samples' gradients",
        "instead": "Take fewer samples, or measure.gradient_confusion(..., pairs=100), which draws pairs,",
    }
    with stopwatch() as watch, together(f"measure.gradient_gram of {chosen.name}, {patterns}"):
        insist_on_same(module, batch, targets)
        check_budget(matrix_bytes(len(batch)), budget, **words)  # before the model runs on all of them
        planned = plan_gram(module, batch, patterns)
        needed = check_budget(planned.foreseen(per_layer=per_layer), budget, **words)
        result = compute_gram(planned, chosen, targets, params=patterns, per_layer=per_layer)
    return replace(result, cost=replace(result.cost, bytes=needed, seconds=watch.seconds))


def compute_gram(
    planned: Planned, loss: SampleLoss, y: Tensor, *, params: str | tuple[str, ...], per_layer: bool
) -> GradientGram:
    """Compute the matrix that ``plan_gram`` planned.

    Args:
        planned: The plan.
        loss: Losses of samples.
        y: Targets.
        params: Which parameters, for the record.
        per_layer: Whether to keep the layers' shares.

    Returns:
        The matrix.
    """
    steps = "Gram matrix of the gradients"
    progress(steps, 0, 2)
    losses, back = loss_and_cotangents(loss, planned.out, y)
    gram, layers = sweep(planned, back, per_layer=per_layer)
    progress(steps, 1, 2)
    residual = check_by_pass(planned, back, gram)
    progress(steps, 2, 2)
    plan = planned.plan
    return GradientGram(
        samples=plan.samples,
        loss=loss.name,
        mean_loss=float(losses.mean()),
        params=params if isinstance(params, str) else ", ".join(params),
        size=plan.size,
        dtype=planned.out.dtype,
        residual=residual,
        general=plan.general,
        unused=plan.unused,
        cost=Cost(forward_passes=3, backward_passes=2),
        gram=gram,
        losses=losses,
        layers=layers,
    )
