"""Sankararaman et al. (2020): gradient confusion against depth, width, initialization, normalization and skips.

Claims 1 to 3 are about initialization, claim 4 about the end of training, claim 5 about a net after some epochs. A seed
draws weights, samples, labels and mini-batches.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

import isometry as iso
from isometry.measure import gradient_confusion as measure
from isometry.papers import Evidence, collect

SAMPLES, BATCH = 80, 64
DEPTHS, LINEAR_DEPTHS, WIDTHS = (2, 8, 24), (2, 50), (16, 32, 64, 128)
SIZES, STEPS = (60, 80, 120, 200), 4000  # of least squares with 100 samples
FRACTIONS = (1.0, 0.5, 0.2, 0.1, 0.05)  # of 1 / E|x|^2: step sizes to choose from
# Hidden layers, epochs, pairs of mini-batches, and step sizes to choose from, of claim 5.
TRAINED = {"smoke": (8, 2, 10, (1e-2, 1e-1)), "full": (24, 10, 100, (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0))}
VARIANTS = {"plain": "", "redrawn": "", "norm": ",norm=batch", "skip": ",residual=true"}
VARIANTS["both"] = VARIANTS["norm"] + VARIANTS["skip"]
Measured = dict[str, float | list[float]]


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all five claims.

    Args:
        scale: "smoke" (shallower nets and a shorter training in claim 5) or "full".
        seeds: Seeds.

    Returns:
        The evidence.
    """
    digits = iso.data.load("digits")
    axes: dict[str, tuple[int, ...]] = {f"squares/{what}": SIZES for what in ("residual", "eta")}
    for activation in ("tanh", "relu"):
        axes[f"{activation}/width"] = WIDTHS
        axes |= {f"{activation}/{weights}/depth": DEPTHS for weights in ("gaussian", "orthogonal")}

    def one_seed(seed: int) -> Measured:
        return _initial(digits, seed) | _linear(seed) | _least_squares(seed) | _trained(digits, scale, seed)

    return collect(scale, seeds, one_seed, axes=axes, datasets=["digits"])


# Nets without biases: Gaussian weights of variance gain^2 / fan_in, or gain times orthogonal matrices.
def _network(sizes: list[int], kind: str, seed: int) -> nn.Module:
    (activation, weights), generator = kind.split("/"), torch.Generator().manual_seed(seed)
    gain = math.sqrt(2) if activation == "relu" else 1.0
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layer = nn.Linear(inside, outside, bias=False, dtype=torch.float64)
        if weights == "gaussian":
            iso.init.gaussian_(layer.weight, sigma=gain, generator=generator)
        else:
            iso.init.orthogonal_(layer.weight, gain=gain, generator=generator)
        layers += [layer, nn.Identity() if activation == "linear" else iso.nn.activation_module(activation)]
    return nn.Sequential(*layers[:-1])


# Claims 1 to 3: the smallest cosine against depth and width; cross-entropy on centred images of unit norm.
def _initial(digits: iso.data.Dataset, seed: int) -> Measured:
    images, labels = iso.data.batch(digits, SAMPLES, generator=torch.Generator().manual_seed(seed))
    x = nn.functional.normalize(images.flatten(1).double(), dim=1)

    def smallest(depth: int, width: int, kind: str, drawn: int = seed) -> float:
        model = _network([x.shape[1], *[width] * depth, 10], kind, drawn)
        return measure(model, x, labels).min_cosine

    found: Measured = {}
    for activation in ("tanh", "relu"):
        for kind in (f"{activation}/gaussian", f"{activation}/orthogonal"):
            series = [smallest(depth, 64, kind) for depth in DEPTHS]
            drop = series[0] - series[-1]
            found |= {f"{kind}/depth": series, f"{kind}/drop_with_depth": drop, f"{kind}/change_with_depth": abs(drop)}
        wide = [smallest(8, width, f"{activation}/gaussian") for width in WIDTHS]
        found |= {f"{activation}/width": wide, f"{activation}/rise_with_width": wide[-1] - wide[0]}
        again = smallest(8, WIDTHS[0], f"{activation}/gaussian", 1000 + seed)
        found[f"{activation}/rise_with_another_draw"] = again - wide[0]
    return found


# Claim 3: the spread of the cosines in deep linear nets; inputs on the sphere, labels random signs, squared residuals.
def _linear(seed: int) -> Measured:
    generator = torch.Generator().manual_seed(seed)
    x = nn.functional.normalize(torch.randn(SAMPLES, 64, dtype=torch.float64, generator=generator), dim=1)
    y = torch.randint(0, 2, (SAMPLES, 1), generator=generator).double() * 2 - 1
    found: Measured = {}
    for weights in ("gaussian", "orthogonal"):
        models = [_network([64, *[64] * depth, 1], f"linear/{weights}", seed) for depth in LINEAR_DEPTHS]
        spread = [measure(model, x, y).std for model in models]
        growth, name = spread[1] / spread[0] - 1, f"linear/{weights}"
        found |= {f"{name}/spread": spread, f"{name}/growth": growth, f"{name}/change": abs(growth)}
    return found


# Claim 4: squared residuals of 100 Gaussian samples with random targets, single-sample descent at its best step size.
def _least_squares(seed: int) -> Measured:
    residuals, etas = [], []
    for d in SIZES:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(100, d, dtype=torch.float64, generator=generator)
        y = torch.randn(100, 1, dtype=torch.float64, generator=generator)
        order = torch.randint(0, 100, (STEPS,), generator=generator).tolist()
        rows, targets, ends = x.numpy(), y.flatten().numpy(), []
        for fraction in FRACTIONS:
            w = 0 * rows[0]
            for i in order:
                w -= fraction / d * (rows[i] @ w - targets[i]) * rows[i]
            ends.append((float(((rows @ w - targets) ** 2).mean()), torch.from_numpy(w)))
        residual, best = min((end for end in ends if math.isfinite(end[0])), key=lambda end: end[0])
        model = nn.Linear(d, 1, bias=False, dtype=torch.float64)
        model.weight.data.copy_(best)
        residuals.append(residual)
        etas.append(measure(model, x, y).eta)
    found: Measured = {"squares/residual": residuals, "squares/eta": etas}
    for name, a, b in (("120_over_80", 2, 1), ("80_over_60", 1, 0)):
        found |= {f"squares/residual_{name}": residuals[a] / residuals[b], f"squares/eta_{name}": etas[a] / etas[b]}
    return found


# Claim 5: a deep ReLU perceptron with or without batch normalization and skips, each at its best step size.
def _trained(data: iso.data.Dataset, scale: str, seed: int) -> Measured:
    depth, epochs, pairs, rates = TRAINED[scale]
    found, cosine = Measured(), {}
    for name, options in VARIANTS.items():
        spec, drawn = f"mlp:depth={depth},width=64,activation=relu{options}", seed + 1000 * (name == "redrawn")
        nets = [_descend(spec, data, epochs, rate, drawn) for rate in rates]
        loss, model = min((net for net in nets if math.isfinite(net[0])), key=lambda net: net[0])
        chance = torch.Generator().manual_seed(seed)
        confusion = measure(model, data.inputs, data.targets, batch_size=BATCH, pairs=pairs, generator=chance)
        cosine[name] = confusion.min_cosine
        end = {"min_cosine": cosine[name], "eta": confusion.eta, "mean": confusion.mean, "loss": loss}
        found |= {f"trained/{name}/{what}": value for what, value in end.items()}
    return found | {f"trained/{name}_above_plain": cosine[name] - cosine["plain"] for name in cosine if name != "plain"}


# Plain stochastic descent from He's initialization: the last epoch's mean loss, and the model in training mode.
def _descend(spec: str, data: iso.data.Dataset, epochs: int, rate: float, seed: int) -> tuple[float, nn.Module]:
    generator = torch.Generator().manual_seed(seed)
    model = iso.nn.reference_model(spec, in_shape=(1, 8, 8), classes=10, generator=generator)
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        iso.init.gaussian_(layer.weight, sigma=math.sqrt(2), generator=generator)
        nn.init.zeros_(layer.bias)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=rate), [0.0]
    for _ in range(epochs):
        losses = []
        for index in torch.split(torch.randperm(len(data), generator=generator), BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data.inputs[index]), data.targets[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses), model
