"""The batch on which a model is measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isometry.data._dataset import Dataset

__all__ = ["batch"]


def batch(
    dataset: Dataset, n: int = 100, *, balanced: bool = True, generator: torch.Generator | None = None
) -> tuple[Any, Tensor]:
    r"""Draw samples without replacement, as evenly over the classes as they allow.

    Args:
        dataset: The data set; its training samples are drawn from.
        n: How many samples; all of them if the data set holds fewer.
        balanced: Draw evenly over the classes; False draws uniformly, as does regression.
        generator: Source of randomness (CPU); None for torch's global one.

    Returns:
        The inputs (n, \*shape), a tensor or ``Inputs`` as in the data set, and their targets.

    Raises:
        ValueError: If ``n`` is not a positive integer, or the data set is one whole graph.

    Example:
        >>> import torch
        >>> from isometry import data
        >>> x, y = data.batch(data.load("digits"), 20, generator=torch.Generator().manual_seed(0))
        >>> y.bincount().tolist()
        [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}.")
    if dataset.graph:
        raise ValueError(
            "dataset is one whole graph, whose nodes cannot be drawn apart from each other; use its inputs and targets "
            "as they are."
        )
    order = torch.randperm(len(dataset), generator=generator)
    if balanced and dataset.classes is not None and dataset.targets.ndim == 1:
        order = order[_occurrence(dataset.targets[order.to(dataset.targets.device)].cpu()).argsort(stable=True)]
    chosen = order[:n].to(dataset.inputs.device)
    return dataset.inputs[chosen], dataset.targets[chosen.to(dataset.targets.device)]


def _occurrence(labels: Tensor) -> Tensor:
    """Count, for each label, how many equal ones stand before it: sorting by this deals the classes out in turn.

    Returns:
        (N,), int64.
    """
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = (counts.cumsum(0) - counts)[labels[by_class]]
    result = torch.empty_like(labels)
    result[by_class] = torch.arange(len(labels)) - starts
    return result
