"""Settle a network's health by training it over a grid of step sizes.

Sick: neither SGD (momentum 0.9) nor Adam brings the training loss below half of chance within 300 steps, at any step
size of the grid. A run ends early once it got there or is no longer finite.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from isometry.training import Curve, fit

STEPS, BATCH = 300, 100
GRID = (  # likeliest first, since the first success ends the search
    ("adam", 1e-3),
    ("adam", 1e-2),
    ("sgd", 1e-2),
    ("adam", 1e-4),
    ("sgd", 1e-1),
    ("sgd", 1e-3),
    ("adam", 3e-3),
    ("sgd", 1.0),
)


@dataclass(frozen=True)
class Label:
    """What training said of a network.

    Attributes:
        sick: No run of the grid got below half of chance.
        ratio: The best run's lowest mean loss over ten steps, over chance; null if none was finite.
        optimizer, lr: The best run's.
        steps: Steps until it got there, or all of them.
        seconds: All runs together.
    """

    sick: bool
    ratio: float | None
    optimizer: str
    lr: float
    steps: int
    seconds: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def label(model: nn.Module, data: tuple[Tensor, Tensor], *, seed: int = 0, target: float = 0.35) -> Label:
    """Train copies of a network over the grid until one succeeds.

    Returns:
        The label.
    """
    best: tuple[float, Curve] | None = None
    seconds = 0.0
    for optimizer, lr in GRID:
        net = copy.deepcopy(model)
        if not any(p.requires_grad for p in net.parameters()):
            break
        curve = fit(
            net,
            data,
            steps=STEPS,
            optimizer=optimizer,  # type: ignore[arg-type]
            lr=lr,
            batch_size=BATCH,
            stop_when=reached(target * math.log(10)),
            generator=torch.Generator().manual_seed(seed),
        )
        seconds += curve.cost.seconds
        ratio = curve.best / curve.chance
        if best is None or ratio < best[0]:
            best = (ratio, curve)
        if ratio < target:  # clearly below half; a run that only just gets there does not end the search
            break
    if best is None:
        return Label(True, None, "", 0.0, 0, 0.0)
    ratio, curve = best
    return Label(
        sick=not ratio < 0.5,
        ratio=round(ratio, 4) if math.isfinite(ratio) else None,
        optimizer=curve.optimizer,
        lr=curve.lr,
        steps=len(curve.loss),
        seconds=round(seconds, 1),
    )


def reached(level: float) -> Callable[[Sequence[float]], bool]:
    """Stop once the mean loss over ten steps is below a level."""
    return lambda losses: len(losses) >= 10 and _mean(losses[-10:]) < level


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
