"""Plain convolutional networks without shortcuts, as deep as one likes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from isometry.nn._activations import activation_module
from isometry.nn._images import AsImage, image_shape

__all__ = ["convolutional"]


def convolutional(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 10,
    channels: int = 32,
    kernel: int = 3,
    activation: str = "relu",
    bias: bool = True,
    norm: str = "none",
    padding: Literal["zeros", "circular"] = "zeros",
    stride: int = 1,
    pool: bool = True,
) -> nn.Sequential:
    """Build a plain convolutional network: ``depth`` convolutions that keep the size, pooling, output layer.

    Args:
        in_shape: Shape of one image, ``(C, H, W)`` or ``(H, W)``.
        classes: Number of outputs.
        depth: Number of convolutions.
        channels: Channels per convolution.
        kernel: Side of the kernels, odd.
        activation: Name of the activation.
        bias: Whether the convolutions have biases; the output layer always does.
        norm: "none", "layer" (over channels and positions) or "batch" normalization of the pre-activations.
        padding: "zeros" or "circular".
        stride: Stride of the first convolution; the others have stride 1.
        pool: Average over positions before the output layer; otherwise it sees all of them.

    Returns:
        The model, with PyTorch's default initialization.

    Raises:
        ValueError: If the kernel is even or the input is not an image.
    """
    if kernel % 2 == 0:
        raise ValueError(f"cnn: kernel must be odd, got {kernel}; an even kernel does not keep the image's size.")
    inputs, height, width = image_shape("cnn", in_shape)
    layers: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(
            inputs if index == 0 else channels,
            channels,
            kernel,
            stride=stride if index == 0 else 1,
            padding=kernel // 2,
            padding_mode=padding,
            bias=bias,
        )
        parts = OrderedDict[str, nn.Module](conv=conv)
        if norm != "none":
            parts["norm"] = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)
        parts["activation"] = activation_module(activation)
        layers.append(nn.Sequential(parts))
    model = OrderedDict[str, nn.Module](image=AsImage(), hidden=nn.Sequential(*layers))
    if pool:
        model["pool"] = nn.AdaptiveAvgPool2d(1)
    model["flatten"] = nn.Flatten()
    positions = 1 if pool else -(-height // stride) * -(-width // stride)
    model["output"] = nn.Linear(channels * positions, classes)
    return nn.Sequential(model)
