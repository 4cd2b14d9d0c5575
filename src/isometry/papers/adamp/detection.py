"""Claim 2: which weights the test takes for scale-invariant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import AdamP, projection_report

__all__ = ["detection", "reset", "take_step"]

BATCH = 64


def detection(steps: int, seed: int) -> dict[str, float]:
    """Measure claim 2: at what share of the steps the channels of a layer pass the test.

    Returns:
        Shares of the first layer, and of the others at most, with and without a normalization after the first.
    """
    g = torch.Generator().manual_seed(seed)
    x, y = iso.data.batch(iso.data.load("digits"), 1400, generator=g)
    found: dict[str, float] = {}
    for kind in ("normalized", "plain"):
        norm = nn.BatchNorm1d(32) if kind == "normalized" else nn.Identity()
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 32, bias=False),
            norm,
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
        reset(model, g)
        optimizer = AdamP(model.named_parameters(), 1e-3)
        counts = dict.fromkeys(("1.weight", "4.weight", "6.weight"), 0)
        for _ in range(steps):
            take_step(model, x, y, optimizer, g)
            told = projection_report(optimizer)
            counts = {name: count + (told[name] == "channel") for name, count in counts.items()}
        first, *others = (count / steps for count in counts.values())
        found |= {f"detection/{kind}_first": first, f"detection/{kind}_others": max(others)}
    return found


def reset(model: nn.Module, g: torch.Generator) -> None:
    """Draw the weights of linear layers as torch does, from a generator; biases are zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=g)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def take_step(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, g: torch.Generator) -> None:
    """Take a step on a drawn batch."""
    chosen = torch.randint(len(x), (BATCH,), generator=g)
    optimizer.zero_grad()
    torch.autograd.backward(nn.functional.cross_entropy(model(x[chosen]), y[chosen]))
    optimizer.step()
