"""A small transformer encoder for classification; every weight sits in a module of its own that is called."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isometry.nn._activations import activation_module
from isometry.nn._images import AsSequence, sequence_shape

__all__ = ["Attention", "Block", "Transformer", "transformer"]


class Attention(nn.Module):
    """Multi-head self-attention with separate query, key, value and output projections.

    Args:
        width: Features per token.
        heads: Number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on a residual branch.

    Args:
        width: Features per token.
        heads: Number of heads.
        activation: Name of the perceptron's activation.
        norm: "pre" normalizes the branches' inputs, "post" the sums, "none" nothing.
        attention: Makes the attention of a width and a number of heads.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        activation: str,
        norm: str,
        attention: Callable[[int, int], nn.Module] = Attention,
    ) -> None:
        super().__init__()
        self.norm = norm
        if norm != "none":
            self.norm1 = nn.LayerNorm(width)
            self.norm2 = nn.LayerNorm(width)
        self.attention = attention(width, heads)
        self.mlp = nn.Sequential(
            OrderedDict[str, nn.Module](
                linear1=nn.Linear(width, 4 * width),
                activation=activation_module(activation),
                linear2=nn.Linear(4 * width, width),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "pre":
            x = x + self.attention(self.norm1(x))
            x = x + self.mlp(self.norm2(x))
        elif self.norm == "post":
            x = self.norm1(x + self.attention(x))
            x = self.norm2(x + self.mlp(x))
        else:
            x = x + self.attention(x)
            x = x + self.mlp(x)
        return x


class Transformer(nn.Module):
    """Tokens plus learned positions, blocks, mean over tokens, output layer.

    Args:
        steps: Tokens per input.
        features: Features per token of the input, for the linear embedding.
        classes: Number of outputs.
        depth: Number of blocks.
        width: Features per token inside.
        heads: Number of heads.
        activation: Name of the activation.
        norm: "pre", "post" or "none".
        vocabulary: Above 0, inputs are integer tokens ``(B, T)`` below this number; otherwise numbers.
    """

    def __init__(
        self,
        steps: int,
        features: int,
        classes: int,
        *,
        depth: int,
        width: int,
        heads: int,
        activation: str,
        norm: str,
        vocabulary: int,
    ) -> None:
        super().__init__()
        self.sequence = nn.Identity() if vocabulary else AsSequence()
        self.embedding = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(steps, width))
        self.blocks = nn.Sequential(*(Block(width, heads, activation, norm) for _ in range(depth)))
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(self.sequence(x)) + self.position
        logits: Tensor = self.output(self.norm(self.blocks(tokens)).mean(1))
        return logits


def transformer(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 2,
    width: int = 32,
    heads: int = 4,
    activation: str = "gelu",
    norm: str = "pre",
    vocabulary: int = 0,
) -> Transformer:
    """Build a small transformer encoder classifier.

    Args:
        in_shape: Shape of one input, read as a sequence.
        classes: Number of outputs.
        depth: Number of blocks.
        width: Features per token.
        heads: Number of heads.
        activation: Name of the activation.
        norm: "pre", "post" or "none".
        vocabulary: Above 0, inputs are integer tokens below this number.

    Returns:
        The model, with PyTorch's default initialization.

    Raises:
        ValueError: If the heads do not divide the width, or the input is not a sequence.
    """
    if width % heads:
        raise ValueError(f"transformer: heads must divide width, got heads={heads} and width={width}.")
    if vocabulary and len(in_shape) != 1:
        raise ValueError(f"transformer: with vocabulary={vocabulary} in_shape must be (T,), got {in_shape}.")
    steps, features = sequence_shape("transformer", in_shape)
    return Transformer(
        steps,
        features,
        classes,
        depth=depth,
        width=width,
        heads=heads,
        activation=activation,
        norm=norm,
        vocabulary=vocabulary,
    )
