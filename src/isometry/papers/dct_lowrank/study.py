"""Modoranu et al. (2025): what chosen cosine columns hold of a gradient, training with them, their time, Trion.

A seed draws images, weights and subspaces. Claims 1, 2 and 4 train perceptrons whose square matrices move by the method
in question and whose other parameters move by AdamW; learning rates fall linearly to 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import isometry as iso
from isometry.optim import DCTProjector, dion_update
from isometry.papers import Evidence, collect
from isometry.papers.dct_lowrank.training import ADAM_RATES, MUON_RATES, Train, optimization, train, trion

Measured = dict[str, float | list[float]]
# Data set, images, width, steps; at which of them gradients are looked at; sizes and repetitions of claim 3.
SIZES = {
    "smoke": ("digits", 1400, 64, 40, (0, 10, 39), (512,), 25),
    "full": ("fashion-mnist", 6000, 128, 250, (0, 25, 100, 249), (512, 1024), 15),
}
RANKS = (16, 64, 256)  # of claim 3


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all four claims at a scale, "smoke" or "full".

    Returns:
        The evidence.
    """
    name, images, width, steps, looks, sides, repeats = SIZES[scale]
    data = iso.data.load(name)

    def one_seed(seed: int) -> Measured:
        x, y = iso.data.batch(data, images, generator=torch.Generator().manual_seed(seed))
        run = partial(train, x, y, width, steps, seed)
        return _selection(run, looks, seed) | optimization(run, width, seed) | _times(sides, repeats) | trion(run)

    axes: dict[str, tuple[str | float, ...]] = {f"time/{what}_{n}": RANKS for what in ("dct", "dion") for n in sides}
    axes |= {f"adam/{method}_losses": ADAM_RATES for method in ("adamw", "dct", "svd", "random", "other", "unrotated")}
    pairs = ((8, "trion"), (8, "dion"), (8, "trion_1"), (4, "trion"), (4, "dion"))
    axes |= {f"rank_{part}/{method}_losses": MUON_RATES for part, method in pairs}
    evidence = collect(scale, seeds, one_seed, axes=axes, datasets=[name])
    return evidence.with_pooled(**_compared(evidence.quantities))


# Claim 1: relative errors of the r = n/8 columns that hold most, in each basis, and of the best subspace of all.
def _selection(train: Train, looks: tuple[int, ...], seed: int) -> Measured:
    errors: dict[str, list[float]] = {name: [] for name in ("svd", "dct2", "dct3", "random", "other", "fixed", "l1")}

    def look(step: int, gradients: list[Tensor]) -> None:
        for gradient in gradients if step in looks else []:
            g = gradient.double()
            n, r = len(g), len(g) // 8
            kept = {"svd": torch.linalg.svdvals(g)[:r].square().sum()}
            for name in ("dct2", "dct3", "random"):
                kept[name] = DCTProjector((n, n), r, basis=name).project(g).square().sum()
            kept["l1"] = DCTProjector((n, n), r, p=1).project(g).square().sum()
            draw = iso.linalg.haar(n, n, dtype=g.dtype, generator=torch.Generator().manual_seed(1000 + seed))
            held = (g @ draw).square().sum(0)
            kept |= {"other": held.sort(descending=True).values[:r].sum(), "fixed": held[:r].sum()}
            for name, square in kept.items():
                errors[name].append(float((1 - square / g.square().sum()).clamp_min(0).sqrt()))

    train(partial(torch.optim.AdamW, weight_decay=0.0), 1e-3, look)
    mean = {name: float(np.mean(values)) for name, values in errors.items()}
    found: Measured = {f"selection/{name}": value for name, value in mean.items()}
    found |= {f"selection/{name}_over_random": mean[name] / mean["random"] for name in ("dct2", "dct3", "other")}
    found["selection/svd_over_dct2_most"] = max(s / d for s, d in zip(errors["svd"], errors["dct2"], strict=True))
    found |= {f"selection/{name}_over_bound_most": max(errors[name]) / (7 / 8) ** 0.5 for name in ("dct2", "fixed")}
    return found


# Claim 3: least milliseconds of a projection of an n x n matrix onto r columns: DCT, one iteration of Dion, SVD.
def _times(sides: tuple[int, ...], repeats: int) -> Measured:
    found: Measured = {}
    growth: dict[str, list[float]] = {"dct": [], "dion": []}
    ratio = []
    for n in sides:
        b = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
        projectors = [partial(DCTProjector((n, n), r).project, b) for r in RANKS]
        iterations = [partial(dion_update, b, right=b[:, :r].clone()) for r in RANKS]
        series = {"dct": _milliseconds(projectors, repeats), "dion": _milliseconds(iterations, repeats)}
        (svd,) = _milliseconds([partial(torch.linalg.svd, b, full_matrices=False)], 2)
        for name, times in series.items():
            growth[name].append(max(times) / min(times))
            found[f"time/{name}_{n}"] = times
        found[f"time/svd_{n}"] = svd
        ratio.append(svd / max(series["dct"]))
    found |= {f"time/{name}_most_over_least": max(values) for name, values in growth.items()}
    return found | {"time/svd_over_dct": min(ratio)}


def _milliseconds(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    best = [float("inf")] * len(calls)
    for _ in range(repeats + 1):  # in turns, so that what slows a process down for a while slows all of them
        for i, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[i] = min(best[i], 1e3 * (time.perf_counter() - began))
    return best


# Trion's mean loss less Dion's, in standard deviations of Dion's over the seeds.
def _compared(quantities: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for part, name in ((8, "trion"), (4, "trion"), (8, "trion_1")):
        ours, theirs = np.asarray(quantities[f"rank_{part}/{name}"]), np.asarray(quantities[f"rank_{part}/dion"])
        found[f"rank_{part}__{name}_minus_dion"] = float((ours.mean() - theirs.mean()) / theirs.std(ddof=1))
    return found
