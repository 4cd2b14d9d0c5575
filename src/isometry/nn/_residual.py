"""Residual networks, convolutional or fully connected, with a fixed scale on every branch."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import Tensor, nn

from isometry.nn._activations import activation_module
from isometry.nn._images import AsImage, image_shape

__all__ = ["Residual", "residual_network"]


class Residual(nn.Module):
    """``x + scale * branch(x)``.

    Args:
        branch: A module that keeps the shape of its input.
        scale: The fixed factor on the branch.
    """

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.scale * self.branch(x)
        return total

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def residual_network(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 10,
    width: int = 32,
    activation: str = "relu",
    norm: str = "none",
    layers: str = "auto",
    branch_scale: float = 1.0,
) -> nn.Sequential:
    """Build a pre-activation residual network: stem, ``depth`` blocks of two weight layers, output layer.

    Args:
        in_shape: Shape of one input.
        classes: Number of outputs.
        depth: Number of residual blocks.
        width: Channels (convolutional) or units (linear).
        activation: Name of the activation.
        norm: "none", "layer" or "batch" normalization in front of each activation.
        layers: "conv" or "linear"; "auto" takes convolutions where the input is an image.
        branch_scale: The fixed factor on every branch.

    Returns:
        The model, with PyTorch's default initialization.
    """
    conv = layers == "conv" or (layers == "auto" and len(in_shape) in (2, 3))

    def weight(inputs: int) -> nn.Module:
        return nn.Conv2d(inputs, width, 3, padding=1) if conv else nn.Linear(inputs, width)

    def block() -> Residual:
        parts = OrderedDict[str, nn.Module]()
        for half in ("1", "2"):
            if norm != "none":
                parts["norm" + half] = _norm(norm, width, conv)
            parts["activation" + half] = activation_module(activation)
            parts[("conv" if conv else "linear") + half] = weight(width)
        return Residual(nn.Sequential(parts), branch_scale)

    parts = OrderedDict[str, nn.Module]()
    parts["image" if conv else "flatten"] = AsImage() if conv else nn.Flatten()
    parts["stem"] = weight(image_shape("resnet", in_shape)[0] if conv else prod(in_shape))
    parts["blocks"] = nn.Sequential(*(block() for _ in range(depth)))
    if norm != "none":
        parts["norm"] = _norm(norm, width, conv)
    parts["activation"] = activation_module(activation)
    if conv:
        parts["pool"] = nn.AdaptiveAvgPool2d(1)
        parts["features"] = nn.Flatten()
    parts["output"] = nn.Linear(width, classes)
    return nn.Sequential(parts)


def _norm(norm: str, width: int, conv: bool) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width) if conv else nn.BatchNorm1d(width)
    return nn.GroupNorm(1, width) if conv else nn.LayerNorm(width)
