"""What claim 4 trains on: sizes and grids by scale, images, and nets at their start."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

import isometry as iso

Kind = Literal["euclidean", "stiefel", "oblique", "frozen"]
Q_STARS = {"small_q": 9e-4, "large_q": 1 / 64}


@dataclass(frozen=True)
class Choice:
    """What is tuned."""

    rate: float  # of Q, or of the hidden weights without a manifold
    others: float  # of biases and readout; the scales' is a share of it
    rho: float


@dataclass(frozen=True)
class Setting:
    """What is trained, for how long, and what is tried."""

    dataset: str
    width: int
    depth: int
    batch: int
    held_out: int
    marks: tuple[int, ...]  # epochs at which statistics are taken
    tuning: int  # epochs of each try
    rates: Mapping[str, tuple[float, ...]]
    others: tuple[float, ...]
    rho: tuple[float, ...]
    share: float = 1.0  # the scales' rate over that of biases and readout: all layers' scales multiply
    seconds: float = math.inf  # a mark past the second epoch is tried if it can be reached in this time


@dataclass(frozen=True)
class Task:
    """Training, held-out and test images on the device: inputs by name of q*, and labels."""

    inputs: dict[str, tuple[Tensor, ...]]
    labels: tuple[Tensor, ...]


RATES = {"euclidean": (3e-4, 1e-3, 3e-3), "stiefel": (1e-3, 3e-3, 1e-2), "oblique": (1e-4, 3e-4, 1e-3)}
DEEP = {"euclidean": (1e-5, 3e-5, 1e-4), "stiefel": (3e-4, 1e-3, 3e-3), "oblique": (1e-5, 3e-5, 1e-4)}
ONE = {kind: rates[1:2] for kind, rates in RATES.items()}
OTHERS, OTHERS_DEEP, RHO = (1e-3, 3e-3, 1e-2), (3e-4, 1e-3, 3e-3), (1e-4, 1e-2)
PAPER = (1, 2, *range(5, 51, 5))
SETTINGS = {
    "smoke": Setting("digits", 32, 10, 100, 200, (1, 2), 1, ONE, OTHERS[1:2], RHO[:1]),
    "full": Setting("digits", 64, 40, 100, 200, (1, 2, 5, 8), 8, RATES, OTHERS, RHO),
    "paper": Setting("fashion-mnist", 400, 200, 1000, 5000, PAPER, 2, DEEP, OTHERS_DEEP, RHO, share=0.3, seconds=360),
}


def device(scale: str) -> torch.device:
    """Choose where to train.

    Returns:
        A CUDA device for the paper's sizes, where there is one; else the CPU.
    """
    return torch.device("cuda" if scale == "paper" and torch.cuda.is_available() else "cpu")


@functools.cache
def task(scale: str) -> Task:
    """Load the images, hold some out, and bring each image to q* at the first layer.

    Returns:
        The task.
    """
    setting, data = SETTINGS[scale], iso.data.load(SETTINGS[scale].dataset)
    order = torch.randperm(len(data.targets), generator=torch.Generator().manual_seed(0))
    held, kept = order[: setting.held_out], order[setting.held_out :]
    images, test = cast("Tensor", data.inputs), cast("Tensor", data.test_inputs)
    labels = data.targets[kept], data.targets[held], cast("Tensor", data.test_targets)
    inputs: dict[str, tuple[Tensor, ...]] = {}
    for name, q in Q_STARS.items():
        at = iso.theory.MeanField("tanh").critical(q_star=q)
        scaled = functools.partial(
            iso.init.scale_inputs, q_star=q, sigma_w=at.sigma_w, sigma_b=at.sigma_b, fan_out=setting.width
        )
        inputs[name] = tuple(scaled(x).to(device(scale)) for x in (images[kept], images[held], test))
    return Task(inputs, tuple(y.to(device(scale)) for y in labels))


@functools.cache
def start(scale: str, kind: Kind, q: str, seed: int) -> nn.Module:
    """Build a critical net on the CPU, on its manifold; it is copied, not trained.

    Returns:
        The model.
    """
    setting = SETTINGS[scale]
    spec = f"mlp:depth={setting.depth},width={setting.width},activation=tanh"
    model = iso.nn.reference_model(spec, in_shape=tuple(task(scale).inputs[q][0].shape[1:]), classes=10)
    generator = torch.Generator().manual_seed(seed)
    iso.init.critical_(model, q_star=Q_STARS[q], absorb_inputs=False, generator=generator)
    if kind == "stiefel" or kind == "oblique":
        iso.manifolds.constrain_(model, kind, scale="learned")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(kind != "frozen" or not hidden_matrix(name))
    return model


def hidden_matrix(name: str) -> bool:
    """Say whether a parameter of a name is some W^l.

    Returns:
        Whether it is.
    """
    return name.startswith("hidden.") and name.endswith("weight")
