"""What the proof loop minimises: the negative log-likelihood of the targets, and its value at chance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Likelihood", "chance_loss", "infer_likelihood", "objective"]

Likelihood = Literal["categorical", "gaussian"]


def infer_likelihood(targets: Tensor) -> Likelihood:
    """Choose the likelihood that targets suggest: categorical for integers, Gaussian for floats.

    Args:
        targets: Class indices (integers) or real values.

    Returns:
        ``"categorical"`` or ``"gaussian"``.

    Raises:
        TypeError: If the targets are neither integers nor real numbers.
    """
    if targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be class indices or real values, got {targets.dtype}; convert them first.")
    return "gaussian" if targets.is_floating_point() else "categorical"


def objective(outputs: Tensor, targets: Tensor, likelihood: Likelihood) -> Tensor:
    """Average the negative log-likelihood over a batch, in nats, without constants.

    Categorical: cross-entropy of softmax(outputs). Gaussian with unit variance: half the squared distance.

    Args:
        outputs: Shape (N, C) or (N, *positions, C): logits or predictions.
        targets: Class indices, shape (N,) or (N, *positions) with -100 where there is none; or real values that reshape
            to the outputs' shape.
        likelihood: Which of the two.

    Returns:
        A scalar with its graph.
    """
    if likelihood == "categorical":
        return functional.cross_entropy(outputs.flatten(0, -2), targets.long().flatten())
    return 0.5 * (outputs - targets.reshape(outputs.shape)).square().flatten(1).sum(1).mean()


def chance_loss(targets: Tensor, likelihood: Likelihood, classes: int | None = None) -> float:
    """Give the loss of a network that knows nothing of its inputs.

    Args:
        targets: All targets of a data set, shape (N,) or (N, C).
        likelihood: Categorical: the logarithm of the number of classes. Gaussian: half the targets' variance.
        classes: Number of classes; default: the largest label plus one.

    Returns:
        The loss in nats.
    """
    if likelihood == "categorical":
        count = classes if classes is not None else int(targets.max()) + 1
        return float(torch.log(torch.tensor(float(max(count, 2)), dtype=torch.float64)))
    flat = targets.reshape(targets.shape[0], -1).double()
    return float(0.5 * (flat - flat.mean(0)).square().sum(1).mean())
