"""The variants of digits that the zoo is fed."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def variants() -> dict[str, tuple[Tensor, Tensor]]:
    """Four fifths of digits, standardized (pixel means removed, one standard deviation) and raw (0 to 255).

    Returns:
        Pairs (inputs (N, 64), targets) by name.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    raw = torch.tensor(images, dtype=torch.float32)[:1438]
    targets = torch.tensor(labels)[:1438]
    centred = raw - raw.mean(0)
    standard = centred / centred.std()
    return {"standard": (standard, targets), "raw": (raw * (255 / 16), targets)}
