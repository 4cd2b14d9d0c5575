"""Li et al. (2025): rows and spectra of updates, steps to a loss, rows on several processes, sizes of updates.

A seed draws images, weights, batches and matrices. Perceptrons with a tall and a wide hidden matrix move these by the
method in question and everything else by AdamW; learning rates fall linearly to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import Muon, NorMuon
from isometry.papers import Evidence, collect
from isometry.papers.normuon.updates import shards, sizes

Measured = dict[str, float | list[float]]
Look = Callable[[int, nn.Module, list[Tensor]], None]
# Data set, images, narrow and wide layers, steps, from which step on updates are looked at, between which losses are.
SIZES = {"smoke": ("digits", 1400, 16, 64, 60, 20, 10), "full": ("fashion-mnist", 6000, 64, 256, 250, 50, 5)}
BATCH, OTHERS = 128, 1e-3  # images of a step; rate of AdamW's parameters
METHODS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
    "muon": partial(Muon, polar="muon", compute_dtype="float32"),
    "normuon": partial(NorMuon, polar="muon", compute_dtype="float32"),
    "sgd": partial(torch.optim.SGD, momentum=0.95),
}
RATES = {"adamw": (3e-3, 1e-2, 3e-2, 0.1)} | dict.fromkeys(("muon", "normuon"), (0.04, 0.08, 0.16, 0.32))


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all four claims at a scale, "smoke" or "full".

    Returns:
        The evidence.
    """
    name, images, narrow, wide, steps, since, every = SIZES[scale]
    data = iso.data.load(name)

    def one_seed(seed: int) -> Measured:
        g = torch.Generator().manual_seed(seed)
        x, y = iso.data.batch(data, images, generator=g)
        train = partial(_train, x, y, (narrow, wide), steps, seed)
        return _geometry(train, since) | _steps(train, x, y, steps, every) | shards(g) | sizes(g)

    axes: dict[str, tuple[str | float, ...]] = {f"steps/{name}_losses": rates for name, rates in RATES.items()}
    return collect(scale, seeds, one_seed, axes=axes, datasets=[name])


def _train(
    x: Tensor, y: Tensor, widths: tuple[int, int], steps: int, seed: int, name: str, lr: float, look: Look | None = None
) -> float:
    g, (narrow, wide) = torch.Generator().manual_seed(seed), widths
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for n, m in pairwise((x[0].numel(), narrow, wide, narrow, 10)):
            layers += [nn.Linear(n, m), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    hidden = [model.get_parameter(f"{i}.weight") for i in (3, 5)]
    others = [p for p in model.parameters() if all(p is not q for q in hidden)]
    optimizers = METHODS[name](hidden, lr=lr), METHODS["adamw"](others, lr=OTHERS)
    falling = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 - t / steps) for o in optimizers]
    for step in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=g)
        model.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x[chosen]), y[chosen]))
        before = [p.detach().clone() for p in hidden]
        for optimizer, schedule in zip(optimizers, falling, strict=True):
            optimizer.step()
            schedule.step()
        if look is not None:
            look(step, model, [b - p.detach() for b, p in zip(before, hidden, strict=True)])
    return _loss(model, x, y)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


# Claim 1: coefficient of variation of the rows' lengths, and largest over median singular value, of updates.
def _geometry(train: Callable[..., float], since: int) -> Measured:
    found: Measured = {}
    for name, lr in (("adamw", 3e-3), ("muon", 0.04), ("normuon", 0.04), ("sgd", 0.01)):
        seen: dict[str, list[float]] = {"tall_rows": [], "wide_rows": [], "tall_spread": [], "wide_spread": []}
        train(name, lr, partial(_seen, seen, since))
        found |= {f"geometry/{name}_{what}": sum(values) / len(values) for what, values in seen.items()}
    for kind, name in product(("tall", "wide"), ("normuon", "adamw", "sgd")):
        found[f"geometry/{kind}_{name}_over_muon"] = (
            found[f"geometry/{name}_{kind}_rows"] / found[f"geometry/muon_{kind}_rows"]  # type: ignore[operator]
        )
    return found


def _seen(seen: dict[str, list[float]], since: int, step: int, model: nn.Module, moved: list[Tensor]) -> None:
    del model
    for kind, update in zip(("tall", "wide"), moved, strict=True):
        if step >= since and step % 10 == 0:
            rows, values = update.norm(dim=1), torch.linalg.svdvals(update)
            seen[f"{kind}_rows"].append(float(rows.std() / rows.mean()))
            seen[f"{kind}_spread"].append(float(values[0] / values[len(values) // 2]))


# Claim 2: after how many steps the loss over all images is that of AdamW's end, each at the best of four rates.
def _steps(train: Callable[..., float], x: Tensor, y: Tensor, steps: int, every: int) -> Measured:
    losses = {name: [train(name, lr) for lr in rates] for name, rates in RATES.items()}
    best = {name: min(series) for name, series in losses.items()}
    found: Measured = {f"steps/{name}_losses": series for name, series in losses.items()}
    found |= {f"steps/{name}_loss": value for name, value in best.items()}
    needed = {}
    for name in RATES:
        reached: list[int] = []

        def look(step: int, model: nn.Module, moved: list[Tensor], reached: list[int] = reached) -> None:
            del moved
            if not reached and (step + 1) % every == 0 and _loss(model, x, y) <= best["adamw"]:
                reached.append(step + 1)

        train(name, RATES[name][losses[name].index(best[name])], look)
        needed[name] = float(reached[0]) if reached else math.inf
    found |= {f"steps/{name}_needed": value for name, value in needed.items()}
    found |= {f"steps/{name}_share": value / steps for name, value in needed.items()}
    found["steps/normuon_over_muon"] = needed["normuon"] / needed["muon"]
    return found | {"steps/normuon_loss_less_muon": best["normuon"] - best["muon"]}
