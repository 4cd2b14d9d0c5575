"""How many threads a small network should train on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["SMALL_PRODUCT", "suitable_threads"]

# Multiply-adds of the largest product of a step. Below this a second thread saves less than the barriers between the
# many small operations cost; on a machine that does other work as well, such a run takes several times as long.
SMALL_PRODUCT = 16_000_000


@contextmanager
def suitable_threads(model: nn.Module, batch_size: int) -> Iterator[None]:
    """Run a block on one thread if the model's products are small; elsewhere leave the threads alone.

    Args:
        model: The model that is trained inside the block.
        batch_size: Samples per step.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    convolves = any(isinstance(module, _ConvNd) for module in model.modules())  # one weight, many positions
    largest = max((p.numel() for p in model.parameters() if p.ndim > 1), default=0) * batch_size
    if before > 1 and not convolves and largest < SMALL_PRODUCT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
