"""Achour et al. (2022): what the penalty L_orth on a kernel says about the whole convolution, and what it does.

A seed draws layers, starting kernels, weights and mini-batches.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.linalg import conv_defect, conv_matrix, conv_singular_values, haar, isometry_bound
from isometry.nn import OrthogonalityRegularizer, conv_case, orthogonal_convolution_exists
from isometry.papers import Evidence, collect

LAYERS = ((4, 6, 3, 1), (8, 3, 3, 1), (4, 4, 3, 1), (6, 2, 3, 2), (12, 2, 3, 2))  # M, C, k, S of claim 2
STAGES, OUTPUTS = (0, 30, 100, 300), (5, 9, 17, 33)  # steps of Adam; outputs a side
GRID = list(itertools.product((1, 2, 3, 4, 8, 12), (1, 2), (1, 2, 3), (1, 2, 3)))  # M, C, k, S of claim 3
GRID += [(m, c, 5, s) for m, c, s in itertools.product((1, 3, 8), (1, 2), (1, 2))]
EXISTENCE = {"smoke": (GRID[::8], 400), "full": (GRID, 800)}  # sizes and steps
TRAINED = {"smoke": ((0.0, 1.0), 6), "full": ((0.0, 1e-3, 1e-2, 1e-1, 1.0), 20)}  # strengths and epochs of claim 4
ATTACK = 2.0
Measured = dict[str, float | list[float]]


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all four claims.

    Args:
        scale: "smoke" (fewer sizes, strengths and epochs) or "full".
        seeds: Seeds.

    Returns:
        The evidence.
    """
    digits, existence = iso.data.load("digits"), _existence(scale, seeds)
    axes = {f"digits/{what}": TRAINED[scale][0] for what in ("clean", "attacked", "s_max")}

    def one_seed(seed: int) -> Measured:
        return _frobenius(seed) | _spectral(seed) | existence[seed] | _digits(digits, scale, seed)

    return collect(scale, seeds, one_seed, axes=axes, datasets=["digits"])


def _kernel(sizes: tuple[int, int, int, int], ndim: int, generator: torch.Generator) -> Tensor:
    m, c, k, _ = sizes
    return torch.randn(m, c, *[k] * ndim, dtype=torch.float64, generator=generator) / math.sqrt(c * k**ndim)


# Claim 1: both sides of the identity, the layer's as a dense matrix.
def _frobenius(seed: int) -> Measured:
    generator = torch.Generator().manual_seed(seed)
    errors, below = list[float](), list[float]()
    for _ in range(20):
        m, c, k, s, ndim = (int(torch.randint(1, n + 1, (), generator=generator)) for n in (8, 3, 4, 3, 2))
        weight = _kernel((m, c, k, s), ndim, generator)
        enough = math.ceil((2 * k - 1) / s)  # outputs a side
        for outputs, errors_here in ((enough, errors), (enough + 1, errors), (2 * ((k - 1) // s), below)):
            if outputs:  # the last are one too few, where outputs share inputs at all
                matrix = conv_matrix(weight, outputs * s, stride=s)
                short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
                exact = float((short @ short.mT - torch.eye(len(short), dtype=short.dtype)).square().sum())
                errors_here.append(abs(outputs**ndim * float(conv_defect(weight, stride=s)) / exact - 1))
    return {"frobenius/error": max(errors), "frobenius/error_below_its_size": max(below)}


# Claim 2: |s^2 - 1| against the bounds, on the way to an orthogonal layer.
def _spectral(seed: int) -> Measured:
    generator = torch.Generator().manual_seed(seed)
    names = ("excess", "excess_of_tight_bound", "share_of_bound", "share_of_tight_bound", "growth_with_size")
    found: dict[str, list[float]] = {name: [] for name in (*names, "excess_of_flattened")}
    for m, c, k, s in LAYERS:
        for kernel in _descend(_kernel((m, c, k, s), 2, generator), s, STAGES):
            by_size = [conv_singular_values(kernel, s * n, stride=s).defect for n in OUTPUTS]
            most, growth = max(by_size), by_size[3] / by_size[1]
            bound, tight = isometry_bound(kernel, s).value, isometry_bound(kernel, s, form="tight").value
            row = (most - bound, most - tight, most / bound, most / tight, growth)
            for name, value in zip(names, row, strict=True):
                found[name].append(value)
        # Orthonormal rows or columns of the flattened kernel: the penalty of a matrix finds nothing to improve.
        flat = haar(m, c * k * k, dtype=torch.float64, generator=generator).reshape(m, c, k, k)
        bound = math.sqrt(isometry_bound(flat, s).alpha * float(iso.nn.orthogonality_penalty(flat)))
        found["excess_of_flattened"].append(conv_singular_values(flat, 9 * s, stride=s).defect - bound)
    norms = [isometry_bound(flat, s, "frobenius", size=n * s).value for n in (9, 33)]
    largest: Measured = {f"spectral/{name}": max(values) for name, values in found.items()}
    return largest | {"spectral/frobenius_growth_with_size": norms[1] / norms[0]}


# Kernels after some steps of Adam on L_orth, its step size falling to zero; several kernels at once as groups.
def _descend(start: Tensor, stride: int, stages: tuple[int, ...], groups: int = 1) -> list[Tensor]:
    kernel, kept, last = start.clone().requires_grad_(), [], stages[-1]
    optimizer = torch.optim.Adam([kernel], lr=0.05)
    for step in range(last + 1):
        if step in stages:
            kept.append(kernel.detach().clone())
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / (last + 1))
        optimizer.zero_grad()
        conv_defect(kernel, stride=stride, groups=groups).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return kept


# Claim 3: where minimization ends, for each size; the seeds' kernels side by side.
def _existence(scale: str, seeds: tuple[int, ...]) -> dict[int, Measured]:
    grid, steps = EXISTENCE[scale]
    ends: dict[str, list[list[float]]] = {"exists": [], "none": [], "square": []}  # a row of seeds for each size
    for m, c, k, s in grid:
        starts = [_kernel((m, c, k, s), 2, torch.Generator().manual_seed(seed)) for seed in seeds]
        kernels = _descend(torch.cat(starts), s, (steps,), len(seeds))[0].chunk(len(seeds))
        exists = orthogonal_convolution_exists(m, c, k, s).exists
        kind = "none" if not exists else "square" if conv_case(m, c, k, s) == "square" else "exists"
        ends[kind].append([float(conv_defect(kernel, stride=s)) for kernel in kernels])
    found: dict[int, Measured] = {}
    for i, seed in enumerate(seeds):
        here = {kind: [row[i] for row in rows] for kind, rows in ends.items()}
        found[seed] = {
            "existence/largest_where_one_exists": max(here["exists"]),
            "existence/smallest_where_none_exists": min(here["none"]),
            "existence/largest_square": max(here["square"]),
            "existence/share_of_square_below_1e-3": sum(v < 1e-3 for v in here["square"]) / len(here["square"]),
        }
    return found


# Claim 4: three circular convolutions and a readout, trained with the penalty on all of them.
def _digits(data: iso.data.Dataset, scale: str, seed: int) -> Measured:
    strengths, epochs = TRAINED[scale]
    ends, again = [_train(data, each, epochs, seed) for each in strengths], _train(data, 0.0, epochs, 1000 + seed)
    clean, attacked, s_max = (list(values) for values in zip(*ends, strict=True))
    found: Measured = {"digits/clean": clean, "digits/attacked": attacked, "digits/s_max": s_max}
    found |= {"digits/attacked_gain": attacked[-1] - attacked[0], "digits/clean_loss": clean[0] - clean[-1]}
    return found | {"digits/attacked_gain_of_another_draw": again[1] - attacked[0]}


def _train(data: iso.data.Dataset, strength: float, epochs: int, seed: int) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in ((1, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(a, b, 3, padding=1, padding_mode="circular", bias=False), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 10, bias=False))
    for weight in model.parameters():
        iso.init.gaussian_(weight, sigma=math.sqrt(2), generator=generator)
    penalty = OrthogonalityRegularizer(model, "convolution", names="*.weight", weight=strength)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(data), generator=generator), 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data.inputs[index]), data.targets[index]) + penalty()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    x, y = cast("Tensor", data.test_inputs).clone().requires_grad_(), cast("Tensor", data.test_targets)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    step = ATTACK * nn.functional.normalize(slope.flatten(1), dim=1).reshape(x.shape)
    with torch.no_grad():
        clean, attacked = (float((model(z).argmax(1) == y).double().mean()) for z in (x, x + step))
    return clean, attacked, conv_singular_values(cast("Tensor", model[2].weight), 8).largest
