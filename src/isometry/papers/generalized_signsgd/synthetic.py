"""Claims 1 and 2: a loss of unbounded smoothness, without and with noise in its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from isometry.optim import ClippedSGD, GeneralizedSignSGD

__all__ = ["NOISES", "noisy", "synthetic"]

Measured = dict[str, float | list[float]]
Make = Callable[[list[Tensor], float], torch.optim.Optimizer]
CURVATURES = torch.logspace(-1, 1, 20, dtype=torch.float64)  # L_j
NOISES = (0.1, 1.0, 3.0, 10.0)
RATES = [10.0**e for e in range(-7, 2)]


def _signs(beta2: float, beta1: float = 0.9) -> Make:
    return partial(GeneralizedSignSGD, betas=(beta1, beta2))


# F(x) = sum of (cosh(L_j x_j) - 1) / L_j from a start near (+-1, ..., +-1), its gradient with or without noise.
def _descend(
    make: Make, lr: float, steps: int, start: Tensor, noise: Callable[[], Tensor] | None = None
) -> Iterator[Tensor]:
    x = nn.Parameter(start.clone())
    optimizer = make([x], lr)
    for _ in range(steps):
        gradient = torch.sinh(CURVATURES * x.detach())
        x.grad = gradient if noise is None else gradient + noise()
        if not bool(torch.isfinite(x.grad).all()):
            return
        optimizer.step()
        yield x.detach()


def _start(seed: int) -> tuple[Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    size = 0.9 + 0.2 * torch.rand(20, generator=g, dtype=torch.float64)
    return size * torch.where(torch.rand(20, generator=g) < 0.5, -1.0, 1.0), g


def _uniform(width: float, g: torch.Generator) -> Tensor:
    return width * (2 * torch.rand(20, generator=g, dtype=torch.float64) - 1)


def synthetic(steps: int, seed: int) -> Measured:
    """Measure claim 1: F after the steps at the best rate of each method.

    Returns:
        F and its ratios.
    """
    start, _ = _start(seed)
    methods: dict[str, list[Make]] = {
        "gd": [partial(torch.optim.SGD)],
        "clipped": [partial(ClippedSGD, clip=clip) for clip in (0.01, 0.1, 1.0)],
        **{f"signs_{name}": [_signs(b)] for name, b in (("0", 0.0), ("05", 0.5), ("08", 0.8), ("0999", 0.999))},
    }
    best = {
        name: min(_loss(make, lr, steps, start) for make in makes for lr in RATES) for name, makes in methods.items()
    }
    ours = min(best[f"signs_{name}"] for name in ("0", "05", "08"))
    found: Measured = {f"synthetic/{name}": value for name, value in best.items()}
    found |= {f"synthetic/gd_over_{name}": best["gd"] / max(best[name], 1e-300) for name in ("clipped", "signs_0999")}
    return found | {"synthetic/gd_over_signs": best["gd"] / max(ours, 1e-300)}


def _loss(make: Make, lr: float, steps: int, start: Tensor) -> float:
    path = list(_descend(make, lr, steps, start))
    loss = float(((torch.cosh(CURVATURES * path[-1]) - 1) / CURVATURES).sum()) if len(path) == steps else math.inf
    return loss if math.isfinite(loss) else math.inf


def noisy(steps: int, seed: int) -> Measured:
    """Measure claim 2: the mean 1-norm of the gradient over the last 200 steps of signs, with and without momentum.

    Returns:
        One of each noise, and their ratios.
    """
    rows: dict[float, list[float]] = {0.9: [], 0.0: []}
    for width in NOISES:
        for beta1, row in rows.items():
            start, g = _start(seed)
            uniform = partial(_uniform, width, g)
            path = list(_descend(_signs(0.0, beta1), 1e-3, steps, start, uniform))[-200:]
            row.append(float(torch.sinh(CURVATURES * torch.stack(path)).abs().sum(1).mean()))
    ratio = [without / momentum for momentum, without in zip(rows[0.9], rows[0.0], strict=True)]
    found: Measured = {"noise/momentum": rows[0.9], "noise/none": rows[0.0], "noise/ratio": ratio}
    return found | {"noise/least_gain": min(ratio[2:]), "noise/gain_at_small_noise": ratio[0]}
