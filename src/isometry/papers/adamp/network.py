"""Claims 3 and 4: turning and accuracy of perceptrons with batch normalization."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import SGDP, AdamP
from isometry.papers.adamp.detection import reset, take_step

__all__ = ["ADAM_RATES", "RATES", "accuracy", "train", "turning"]

Measured = dict[str, float | list[float]]
Make = Callable[[list[Tensor]], torch.optim.Optimizer]
Train = Callable[[Make, bool, Callable[[Tensor], None] | None], tuple[float, float]]
RATES, ADAM_RATES = (0.01, 0.03, 0.1), (3e-4, 1e-3, 3e-3)
SGD: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "sgdp": partial(SGDP, momentum=0.9),
}
ADAM: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
    "adamp": AdamP,
}


def train(
    data: iso.data.Dataset,
    size: tuple[int, int, int, int],
    make: Make,
    falls: bool,
    look: Callable[[Tensor], None] | None = None,
) -> tuple[float, float]:
    """Train two hidden layers with batch normalization.

    Args:
        data: Images.
        size: How many of them, width, steps and seed.
        make: Makes the optimizer.
        falls: Whether the learning rate falls linearly to 0.
        look: Sees the second layer's weight after every step.

    Returns:
        Test accuracy and training loss.
    """
    images, width, steps, seed = size
    g = torch.Generator().manual_seed(seed)
    x, y = iso.data.batch(data, images, generator=g)
    layers: list[nn.Module] = [nn.Flatten()]
    for n, m in pairwise((x[0].numel(), width, width)):
        layers += [nn.Linear(n, m, bias=False), nn.BatchNorm1d(m), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    weight = layers[4].get_parameter("weight")
    reset(model, g)
    optimizer = make(list(model.parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps if falls else 1.0)
    for _ in range(steps):
        take_step(model, x, y, optimizer, g)
        schedule.step()
        if look is not None:
            look(weight.detach())
    model.eval()
    with torch.no_grad():
        right: Tensor = model(data.test_inputs).argmax(1) == data.test_targets
        return float(right.double().mean()), float(nn.functional.cross_entropy(model(x), y))


def turning(train: Train, last: int) -> Measured:
    """Measure claim 3: radians by which the second layer's rows turn in a step, and their length, at constant rates.

    Returns:
        Both for SGD and SGDP at two rates, their ratios, and the ratio of turns without momentum.
    """

    def run(make: Make) -> tuple[float, float]:
        turns: list[Tensor] = []
        weights: list[Tensor] = []

        def look(weight: Tensor) -> None:
            if weights:
                turns.append(_angles(weights.pop(), weight).mean())
            weights.append(weight.double().clone())

        train(make, False, look)
        return float(torch.stack(turns[-last:]).mean()), float(weights[0].norm(dim=1).mean())

    found: Measured = {}
    for lr in (0.1, 0.5):
        pair = {name: run(partial(make, lr=lr)) for name, make in SGD.items()}
        for name, (turn, norm) in pair.items():
            found |= {f"turning/{name}_{lr}": turn, f"turning/{name}_norm_{lr}": norm}
        (turn, norm), (mine, my_norm) = pair["sgd"], pair["sgdp"]
        found |= {f"turning/ratio_{lr}": mine / turn, f"turning/norm_ratio_{lr}": my_norm / norm}
    plain = run(partial(SGDP, lr=0.1, momentum=0.0))[0] / run(partial(torch.optim.SGD, lr=0.1))[0]
    found = {key.replace(".", ""): value for key, value in found.items()}
    return found | {"turning/ratio_without_momentum": plain}


def _angles(a: Tensor, b: Tensor) -> Tensor:
    a, b = (w.double() / w.double().norm(dim=1, keepdim=True) for w in (a, b))
    return 2 * torch.asin(((a - b).norm(dim=1) / 2).clamp(max=1))  # small angles, which acos would round away


def accuracy(train: Train) -> Measured:
    """Measure claim 4: test accuracy and training loss after rates that fall to 0; accuracy at a constant rate of 0.1.

    Returns:
        Both at each rate, the best accuracies and their differences.
    """
    ends = {name: [train(partial(make, lr=lr), True, None) for lr in RATES] for name, make in SGD.items()}
    ends |= {name: [train(partial(make, lr=lr), True, None) for lr in ADAM_RATES] for name, make in ADAM.items()}
    constant = {name: train(partial(make, lr=0.1), False, None)[0] for name, make in SGD.items()}
    best = {name: max(right for right, _ in rows) for name, rows in ends.items()}
    found: Measured = {f"accuracy/{name}_accuracies": [a for a, _ in rows] for name, rows in ends.items()}
    found |= {f"accuracy/{name}_losses": [loss for _, loss in ends[name]] for name in SGD}
    found |= {f"accuracy/{name}_best": value for name, value in best.items()}
    found |= {f"accuracy/{name}_constant": value for name, value in constant.items()}
    found |= {"accuracy/gain": best["sgdp"] - best["sgd"], "accuracy/adam_gain": best["adamp"] - best["adamw"]}
    found |= {"accuracy/constant_gain": constant["sgdp"] - constant["sgd"]}
    return found | {"accuracy/loss_ratio": ends["sgdp"][1][1] / ends["sgd"][1][1]}
