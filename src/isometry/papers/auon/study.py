"""Maity (2025): AuON's cost, its bound, its place among optimizers, and what it does to a momentum's conditioning.

A seed draws matrices, weights and the order of the images. Claims 3 and 4 train perceptrons whose three square matrices
move by the method in question and whose other parameters move by AdamW; learning rates fall linearly to 0.
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import AuON, HybridAuON, Muon, auon_update, hybrid_auon_update, muon_update
from isometry.papers import Evidence, collect

Measured = dict[str, float | list[float]]
SIDES, ENTRIES = (128, 256, 512, 1024), 2**20  # of claim 1: n x n matrices, in stacks of equally many entries
SHAPES = ((4, 4), (32, 8), (16, 64), (64, 64), (1, 20))  # of claim 2
# Repetitions of claim 1; matrices of a kind and shape in claim 2; data set, images, width and steps of claim 3.
SIZES = {"smoke": (3, 10, ("digits", 1400, 48, 60)), "full": (7, 50, ("fashion-mnist", 6000, 256, 250))}
BATCH, OTHERS = 128, 1e-3  # images of a step; learning rate of AdamW's parameters


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all four claims at a scale, "smoke" or "full".

    Returns:
        The evidence.
    """
    repeats, draws, (name, images, width, steps) = SIZES[scale]
    data = iso.data.load(name)

    def one_seed(seed: int) -> Measured:
        return _times(repeats, seed) | _region(draws, seed) | _trained(data, images, width, steps, seed)

    axes: dict[str, tuple[str | float, ...]] = {f"time/{what}_seconds": SIDES for what in ("auon", "newton_schulz")}
    axes |= {f"order/{what}_losses": rates for what, rates in RATES.items()}
    axes["conditioning/spread"] = ("momentum", "auon", "hybrid", "muon")
    return collect(scale, seeds, one_seed, axes=axes, datasets=[name])


# Claim 1: seconds of the update of one matrix, and their logarithm's slope over that of the number of entries.
def _times(repeats: int, seed: int) -> Measured:
    stacks = [torch.randn(ENTRIES // n**2, n, n, generator=torch.Generator().manual_seed(seed)) for n in SIDES]
    x = torch.tensor([2 * math.log(n) for n in SIDES])
    found, last = Measured(), []
    for name, update in (("auon", auon_update), ("newton_schulz", partial(muon_update, polar="muon"))):
        seconds = [
            min(timeit.repeat(partial(update, stack), number=1, repeat=repeats)) / len(stack) for stack in stacks
        ]
        slope = float(((x - x.mean()) * torch.tensor(seconds).log()).sum() / (x - x.mean()).square().sum())
        found |= {f"time/{name}_seconds": seconds, f"time/{name}_slope": slope}
        last.append(seconds[-1])
    return found | {"time/newton_schulz_over_auon": last[1] / last[0]}


# Claim 2: norms of updates of Gaussian, heavy-tailed, rank-one and spiked matrices, and N (rms - 1).
def _region(draws: int, seed: int) -> Measured:
    g, spectral, frobenius, released, excess = torch.Generator().manual_seed(seed), [], [], [], []
    for m, n in SHAPES:
        a, b, left, right = (
            torch.randn(draws, *size, dtype=torch.float64, generator=g) for size in ((m, n), (m, n), (m, 1), (1, n))
        )
        for u in (a, a / b, left * right, a + 10 * left * right):
            update, rms = auon_update(u)
            spectral.append(torch.linalg.matrix_norm(update, 2).max())
            frobenius.append((torch.linalg.matrix_norm(update) * rms - 1).abs().max())
            released.append(torch.linalg.matrix_norm(auon_update(u, variant="released")[0], 2).max())
            excess.append(m * n * (rms - 1))
    found = {"spectral_norm": max(spectral), "frobenius_error": max(frobenius), "released_norm": max(released)}
    found |= {"least_excess": torch.cat(excess).min(), "most_excess": torch.cat(excess).max()}
    return {f"region/{name}": float(value) for name, value in found.items()}


class Normalized(torch.optim.Optimizer):
    """SGD on momentum over its Frobenius norm (momentum 0.95, looking ahead): AuON without cosines."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step."""
        for p in self.param_groups[0]["params"]:
            buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)).lerp_(p.grad, 0.05)
            direction = torch.lerp(buffer, p.grad, 0.05)
            p.sub_(direction / direction.norm(), alpha=self.param_groups[0]["lr"])


METHODS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
    "muon": partial(Muon, compute_dtype="float32"),
    "hybrid": partial(HybridAuON, compute_dtype="float32"),
    "auon": AuON,
    "normalized": Normalized,
    "released": partial(AuON, variant="released"),
}
RATES = {"adamw": (1e-3, 3e-3, 1e-2, 3e-2), "muon": (0.02, 0.04, 0.08, 0.16), "hybrid": (0.05, 0.1, 0.2, 0.4)}
RATES |= dict.fromkeys(("auon", "normalized"), (0.1, 0.2, 0.4, 0.8))


# Claim 3: loss over all images at the best of four rates. Claim 4: spectra of the momenta of AuON's run.
def _trained(data: iso.data.Dataset, images: int, width: int, steps: int, seed: int) -> Measured:
    x, y = iso.data.batch(data, images, generator=torch.Generator().manual_seed(seed))

    def train(name: str, lr: float) -> tuple[float, Tensor]:
        g, spec = torch.Generator().manual_seed(seed), f"mlp:depth=4,width={width},activation=relu"
        model = iso.nn.reference_model(spec, in_shape=tuple(x.shape[1:]), classes=10, generator=g)
        matrices: list[Tensor] = [p for p in model.parameters() if p.shape == (width, width)]
        others = [p for p in model.parameters() if p.shape != (width, width)]
        optimizers = METHODS[name](matrices, lr=lr), METHODS["adamw"](others, lr=OTHERS)
        falling = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 - t / steps) for o in optimizers]
        for _ in range(steps):
            chosen = torch.randint(images, (BATCH,), generator=g)
            model.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[chosen]), y[chosen]))
            for optimizer, schedule in zip(optimizers, falling, strict=True):
                optimizer.step()
                schedule.step()
        loss = float(nn.functional.cross_entropy(model(x), y).detach())
        return loss, torch.stack([optimizers[0].state[p].get("momentum_buffer", p) for p in matrices])

    runs = {name: [train(name, lr) for lr in rates] for name, rates in RATES.items()}
    losses = {name: [loss for loss, _ in run] for name, run in runs.items()}
    best = {name: min(series) for name, series in losses.items()}
    at = losses["auon"].index(best["auon"])
    found: Measured = {f"order/{name}_losses": series for name, series in losses.items()}
    found |= {f"order/{name}_over_muon": best[name] / best["muon"] for name in ("hybrid", "auon", "adamw")}
    found |= {"order/auon_over_hybrid": best["auon"] / best["hybrid"]}
    found |= {"order/normalized_over_auon": losses["normalized"][at] / best["auon"]}
    found |= {"order/released_over_auon": train("released", RATES["auon"][at])[0] / best["auon"]}
    return found | _spectra(runs["auon"][at][1].detach().double())


# Momenta U against AuON's updates: the distance from U / |U|, and the largest over the median singular value.
def _spectra(u: Tensor) -> Measured:
    auon, released = auon_update(u)[0], auon_update(u, variant="released")[0]
    off = [torch.linalg.matrix_norm(v - u / torch.linalg.matrix_norm(u, keepdim=True)) for v in (auon, released)]
    found: Measured = {"order/update_off_normalized": float(off[0].max())}
    found |= {"order/released_off_normalized": float(off[1].min())}
    updates = (u, auon, hybrid_auon_update(u)[0], muon_update(u, polar="muon"))
    values = [torch.linalg.svdvals(update) for update in updates]
    spread = [float((s[:, 0] / s[:, s.shape[1] // 2]).mean()) for s in values]
    names = ("auon_over_momentum", "hybrid_over_auon", "muon_over_hybrid")
    found |= {f"conditioning/{name}": spread[i + 1] / spread[i] for i, name in enumerate(names)}
    return found | {"conditioning/spread": spread, "conditioning/auon_off_momentum": abs(spread[1] / spread[0] - 1)}
