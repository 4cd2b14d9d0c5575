"""Heo et al. (2021): growth of scale-invariant weights under momentum, their detection, effective steps, accuracy.

A seed draws matrix, start and noise of claim 1, and weights and batches of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import SGDP
from isometry.papers import Evidence, collect
from isometry.papers.adamp.detection import detection
from isometry.papers.adamp.network import ADAM_RATES, RATES, accuracy, train, turning

Measured = dict[str, float | list[float]]
Make = Callable[[list[Tensor]], torch.optim.Optimizer]
# Steps of claims 1 and 2; data set, images, width and steps of claims 3 and 4, and over how many of them rows turn.
SIZES = {"smoke": (300, 60, ("digits", 1400, 32, 120, 40)), "full": (2000, 300, ("fashion-mnist", 6000, 96, 600, 200))}
DIMENSION = 50


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all four claims at a scale, "smoke" or "full".

    Returns:
        The evidence.
    """
    growing, detecting, (name, images, width, steps, last) = SIZES[scale]
    data = iso.data.load(name)

    def one_seed(seed: int) -> Measured:
        run = partial(train, data, (images, width, steps, seed))
        return _growth(growing, seed) | detection(detecting, seed) | turning(run, last) | accuracy(run)

    axes = {f"accuracy/{n}_{what}": RATES for n in ("sgd", "sgdp") for what in ("accuracies", "losses")}
    axes |= {f"accuracy/{n}_accuracies": ADAM_RATES for n in ("adamw", "adamp")}
    return collect(scale, seeds, one_seed, axes=axes, datasets=[name])


# Claim 1: descent on u^T H u / 2, u = w / |w|, from |w| = 1, with noise at right angles to w.
def _descend(make: Make, steps: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g, dtype=torch.float64)
    root = draw(DIMENSION, DIMENSION)
    h = root @ root.T / DIMENSION
    start = draw(1, DIMENSION)
    w = nn.Parameter(start / start.norm())
    optimizer, path = make([w]), []
    for _ in range(steps):
        before = w.detach().clone()
        u = before / before.norm()
        slope = u @ h + draw(1, DIMENSION)
        w.grad = (slope - u * (slope * u).sum()) / before.norm()
        optimizer.step()
        path.append((before, w.detach().clone()))
    return path


def _growth(steps: int, seed: int) -> Measured:
    lr, found = 0.05, Measured()
    for beta in (0.0, 0.5, 0.9):
        path = _descend(partial(torch.optim.SGD, lr=lr, momentum=beta), steps, seed)
        p = torch.cat([(before - after) / lr for before, after in path])
        squares, memory, worst = p.square().sum(1), torch.tensor(0.0), 0.0
        for t, (before, after) in enumerate(path):
            grown = lr**2 * (squares[t] + 2 * memory)  # memory is the sum of beta^(t - k) |p_k|^2 over k < t
            worst = max(worst, float((after.square().sum() - before.square().sum() - grown).abs() / grown))
            memory = beta * (memory + squares[t])
        growth = float((path[-1][1].square().sum() - 1) / (lr**2 * squares.sum()))
        key = f"{round(10 * beta)}"
        found |= {f"growth/identity_{key}": worst, f"growth/factor_{key}": growth * (1 - beta) / (1 + beta)}
        found |= {f"growth/plain_factor_{key}": growth, f"growth/norm_{key}": float(path[-1][1].norm())}
    path = _descend(partial(SGDP, lr=lr, momentum=0.9), steps, seed)
    taken = sum(float((before - after).square().sum()) for before, after in path)
    projected = float(path[-1][1].norm())
    found |= {"growth/projected_norm": projected, "growth/projected_factor": (projected**2 - 1) / taken}
    found |= {f"growth/projected_over_{key}": projected / found[f"growth/norm_{key}"] for key in ("0", "9")}  # type: ignore[operator]
    return found
