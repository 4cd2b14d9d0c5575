"""Loss and accuracy of a model on samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isometry._base import IGNORED, preserved_rng
from isometry.training._objective import Likelihood, objective
from isometry.training.compare._events import Row
from isometry.training.compare._samples import Split

__all__ = ["hits", "scores"]

AT_ONCE = 512  # samples of one forward pass of an evaluation


@torch.no_grad()
def scores(model: nn.Module, split: Split, likelihood: Likelihood, epoch: int, name: str) -> list[Row]:
    """Evaluate a model, in evaluation mode, in which it is left.

    Args:
        model: The model.
        split: Inputs and targets.
        likelihood: Of the targets.
        epoch: What the rows are marked with.
        name: The split's name.

    Returns:
        The mean loss and, for classes, the accuracy.
    """
    inputs, targets = split
    device = next(model.parameters()).device
    model.eval()
    total, weight, right = 0.0, 0, 0
    with preserved_rng():
        for start in range(0, len(inputs), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            x, y = inputs[part].to(device), targets[part].to(device)
            outputs = x.run(model)
            count = int((y != IGNORED).sum()) if likelihood == "categorical" else len(y)
            if count:
                total += float(objective(outputs, y, likelihood)) * count
            weight += count
            if likelihood == "categorical":
                right += hits(outputs, y)[0]
    rows = [Row(epoch, name, "loss", total / weight if weight else math.nan)]
    return rows if likelihood == "gaussian" else [*rows, Row(epoch, name, "accuracy", right / max(weight, 1))]


def hits(outputs: Tensor, y: Tensor) -> tuple[int, int]:
    """Count right answers.

    Args:
        outputs: (N, ..., C).
        y: Class labels, -100 where there is none.

    Returns:
        How many are right, and how many are labelled.
    """
    known = y != IGNORED
    return int(((outputs.argmax(-1) == y) & known).sum()), int(known.sum())
