"""Claims 2 and 4: perceptrons whose square matrices move by low-rank methods, at the best of some learning rates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import DCTAdamW, Dion, Trion
from isometry.papers.dct_lowrank.projected_adamw import ProjectedAdamW, fixed_subspace, singular_subspace

__all__ = ["ADAM_RATES", "MUON_RATES", "Train", "optimization", "train", "trion"]

Measured = dict[str, float | list[float]]
Make = Callable[[list[Tensor], float], torch.optim.Optimizer]
Look = Callable[[int, list[Tensor]], None]
Train = Callable[..., float]
BATCH, OTHERS = 128, 1e-3  # images of a step; rate of AdamW's parameters
ADAM_RATES, MUON_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1), (0.02, 0.04, 0.08, 0.16, 0.32)


def train(
    x: Tensor, y: Tensor, width: int, steps: int, seed: int, make: Make, lr: float, look: Look | None = None
) -> float:
    """Train a perceptron.

    Args:
        x: Images.
        y: Their classes.
        width: Of its five hidden layers.
        steps: How many.
        seed: Of weights and batches.
        make: Makes the optimizer of the square matrices.
        lr: Their learning rate.
        look: Sees the gradients of the square matrices before every step.

    Returns:
        The loss over all images in the end.
    """
    g, spec = torch.Generator().manual_seed(seed), f"mlp:depth=4,width={width},activation=relu"
    model = iso.nn.reference_model(spec, in_shape=tuple(x.shape[1:]), classes=10, generator=g)
    matrices: list[Tensor] = [p for p in model.parameters() if p.shape == (width, width)]
    others = [p for p in model.parameters() if p.shape != (width, width)]
    optimizers = make(matrices, lr), torch.optim.AdamW(others, lr=OTHERS, weight_decay=0.0)
    falling = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 - t / steps) for o in optimizers]
    for step in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=g)
        model.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x[chosen]), y[chosen]))
        if look is not None:
            look(step, [p.grad for p in matrices if p.grad is not None])
        for optimizer, schedule in zip(optimizers, falling, strict=True):
            optimizer.step()
            schedule.step()
    return float(nn.functional.cross_entropy(model(x), y).detach())


def optimization(train: Train, width: int, seed: int) -> Measured:
    """Measure claim 2: losses at the best rate of methods that differ in the subspace alone, r = n/4.

    Returns:
        Losses and their ratios.
    """
    r, subspaces = width // 4, [fixed_subspace(torch.Generator().manual_seed(2 * seed + i)) for i in range(2)]
    methods: dict[str, Make] = {
        "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0),
        "dct": lambda p, lr: DCTAdamW(p, lr, rank=r),
        "unrotated": lambda p, lr: DCTAdamW(p, lr, rank=r, rotate=False),
        "svd": lambda p, lr: ProjectedAdamW(p, lr, r, singular_subspace),
        "random": lambda p, lr: ProjectedAdamW(p, lr, r, subspaces[0]),
        "other": lambda p, lr: ProjectedAdamW(p, lr, r, subspaces[1]),
    }
    losses = {name: [train(make, lr) for lr in ADAM_RATES] for name, make in methods.items()}
    best = {name: min(series) for name, series in losses.items()}
    found: Measured = {f"adam/{name}_losses": series for name, series in losses.items()}
    # Below 0: the gap to the singular subspace is less than half of a fixed random one's, whichever of them is better.
    found["adam/dct_margin"] = (best["dct"] - best["svd"] - 0.5 * (best["random"] - best["svd"])) / best["svd"]
    found |= {f"adam/{name}_over_random": best[name] / best["random"] for name in ("dct", "other", "unrotated")}
    return found | {f"adam/{name}_over_svd": best[name] / best["svd"] for name in ("dct", "random", "adamw")}


def trion(train: Train) -> Measured:
    """Measure claim 4: losses of Trion and Dion at ranks n/8 and n/4, and of Trion at rank 1.

    Returns:
        Losses at each rate, and the best of each method.
    """
    found: Measured = {}
    for part in (8, 4):
        methods = {"trion": partial(_trion, 1 / part), "dion": partial(_dion, 1 / part)}
        if part == 8:
            methods["trion_1"] = partial(_trion, 1)
        for name, make in methods.items():
            losses = [train(make, lr) for lr in MUON_RATES]
            found |= {f"rank_{part}/{name}_losses": losses, f"rank_{part}/{name}": min(losses)}
    return found


def _trion(rank: float, params: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return Trion(params, lr, rank=rank, compute_dtype="float32")


def _dion(rank: float, params: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return Dion(params, lr, rank=rank)
