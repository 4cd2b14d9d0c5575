"""Plain perceptrons: activation, depth and initialization vary."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from zoo._entry import Group, enter

WIDTH, PIXELS, CLASSES = 64, 64, 10
Init = Callable[[Tensor, Tensor | None], None]


def gaussian(sigma_w: float, sigma_b: float = 0.0) -> Init:
    def fill(weight: Tensor, bias: Tensor | None) -> None:
        nn.init.normal_(weight, std=sigma_w / math.sqrt(weight[0].numel()))
        if bias is not None:
            nn.init.normal_(bias, std=sigma_b) if sigma_b else nn.init.zeros_(bias)

    return fill


def orthogonal(gain: float, sigma_b: float = 0.0) -> Init:
    def fill(weight: Tensor, bias: Tensor | None) -> None:
        nn.init.orthogonal_(weight, gain)
        if bias is not None:
            nn.init.normal_(bias, std=sigma_b) if sigma_b else nn.init.zeros_(bias)

    return fill


def flat(std: float) -> Init:
    """Every weight with the same standard deviation, whatever the fan-in: a common slip."""

    def fill(weight: Tensor, bias: Tensor | None) -> None:
        nn.init.normal_(weight, std=std)
        if bias is not None:
            nn.init.zeros_(bias)

    return fill


def refill(model: nn.Module, init: Init | None) -> nn.Module:
    """Initialize every Linear and Conv2d of a model."""
    if init is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                init(module.weight, module.bias)
    return model


def mlp(
    activation: Callable[[], nn.Module] | None,
    depth: int,
    init: Init | None = None,
    *,
    width: int = WIDTH,
    norm: Callable[[int], nn.Module] | None = None,
    after: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """``depth`` hidden layers; ``init=None`` is PyTorch's default."""
    layers: list[nn.Module] = []
    size = PIXELS
    for _ in range(depth):
        layers.append(nn.Linear(size, width))
        if norm is not None:
            layers.append(norm(width))
        if activation is not None:
            layers.append(activation())
        if after is not None:
            layers.append(after())
        size = width
    layers.append(nn.Linear(size, CLASSES))
    model = nn.Sequential(*layers)
    refill(model, init)
    return model


HE = gaussian(math.sqrt(2))


def plain(name: str, *args: object, group: Group = "tuned", data: str = "standard", **options: object) -> None:
    enter(f"plain-{name}", lambda: mlp(*args, **options), group=group, data=data)  # type: ignore[arg-type]


# Healthy and sick by a margin: a third more or less depth does not turn the label.
for depth in (3, 6, 10, 15, 30):
    plain(f"relu-{depth}-default", nn.ReLU, depth)
for depth in (10, 30, 60):
    plain(f"relu-{depth}-he", nn.ReLU, depth, HE)
for depth in (5, 8, 10, 50):
    plain(f"tanh-{depth}-default", nn.Tanh, depth)
plain("tanh-30-wide-default", nn.Tanh, 30, width=128)
plain("tanh-50-xavier", nn.Tanh, 50, gaussian(1.0))
plain("tanh-50-orthogonal", nn.Tanh, 50, orthogonal(1.02, 0.003))
for gain, depth in ((1.5, 10), (1.5, 40), (2.0, 20), (2.0, 60), (3.0, 5), (3.0, 40)):
    plain(f"tanh-{depth}-gain-{gain:g}", nn.Tanh, depth, gaussian(gain))
for depth in (1, 2, 3, 10):
    plain(f"sigmoid-{depth}-default", nn.Sigmoid, depth)
for depth in (4, 8, 20):
    plain(f"softplus-{depth}-default", nn.Softplus, depth)
plain("linear-40-orthogonal", None, 40, orthogonal(1.0))
plain("linear-10-default", None, 10)
plain("linear-40-default", None, 40)
plain("gelu-4-default", nn.GELU, 4)
plain("gelu-30-default", nn.GELU, 30)
plain("silu-6-default", nn.SiLU, 6)
plain("selu-40-lecun", nn.SELU, 40, gaussian(1.0))
plain("elu-8-default", nn.ELU, 8)
plain("hardtanh-40-orthogonal", nn.Hardtanh, 40, orthogonal(1.0))
plain("leaky-30-he", lambda: nn.LeakyReLU(0.2), 30, gaussian(math.sqrt(2 / 1.04)))
plain("relu-4-std-1", nn.ReLU, 4, flat(1.0))
plain("relu-20-std-1", nn.ReLU, 20, flat(1.0))
plain("relu-4-std-0.02", nn.ReLU, 4, flat(0.02))
plain("relu-16-std-0.02", nn.ReLU, 16, flat(0.02))
plain("tanh-4-std-1", nn.Tanh, 4, flat(1.0))
plain("tanh-4-std-1e-4", nn.Tanh, 4, flat(1e-4))
plain("tanh-14-std-1e-4", nn.Tanh, 14, flat(1e-4))
plain("relu-30-gain-3", nn.ReLU, 30, gaussian(3.0))
