"""A small language model: tokens in, logits of the next token at every position out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isometry.nn._transformer import Block

__all__ = ["GPT", "CausalAttention", "gpt"]


class CausalAttention(nn.Module):
    """Multi-head self-attention to the past, with one fused projection for queries, keys and values.

    Args:
        width: Features per token.
        heads: Number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class GPT(nn.Module):
    """Embedded tokens plus learned positions, causal blocks, and a head that scores the next token.

    Args:
        steps: The largest number of tokens of an input.
        vocabulary: How many tokens there are.
        depth: Number of blocks.
        width: Features per token inside.
        heads: Number of heads.
        activation: Name of the activation.
        norm: "pre", "post" or "none".
        tied: Whether the head's weight is the embedding's.
    """

    def __init__(
        self,
        steps: int,
        vocabulary: int,
        *,
        depth: int,
        width: int,
        heads: int,
        activation: str,
        norm: str,
        tied: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(steps, width))
        self.blocks = nn.Sequential(*(Block(width, heads, activation, norm, CausalAttention) for _ in range(depth)))
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.output = nn.Linear(width, vocabulary, bias=False)
        if tied:
            # Entries of size 1, as embeddings have by default, would make logits of size width^(1/2).
            self.embedding.weight.data.mul_(width**-0.5)
            self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x) + self.position[: x.shape[1]]
        logits: Tensor = self.output(self.norm(self.blocks(tokens)))
        return logits


def gpt(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 2,
    width: int = 64,
    heads: int = 4,
    activation: str = "gelu",
    norm: str = "pre",
    tied: bool = False,
) -> GPT:
    """Build a small causal language model.

    Args:
        in_shape: Shape (T,) of one input, which are integer tokens.
        classes: Number of tokens in the vocabulary, of the inputs as of the outputs.
        depth: Number of blocks.
        width: Features per token.
        heads: Number of heads.
        activation: Name of the activation.
        norm: "pre", "post" or "none".
        tied: Whether head and embedding share their weight, which starts width^(1/2) times smaller then.

    Returns:
        The model, with PyTorch's default initialization else; its outputs have the shape (B, T, classes).

    Raises:
        ValueError: If the heads do not divide the width, or the input is not a sequence of tokens.
    """
    if width % heads:
        raise ValueError(f"gpt: heads must divide width, got heads={heads} and width={width}.")
    if len(in_shape) != 1:
        raise ValueError(
            f"gpt: inputs are tokens, so in_shape must be (T,), got {in_shape}; give (64,), or a text as data."
        )
    return GPT(in_shape[0], classes, depth=depth, width=width, heads=heads, activation=activation, norm=norm, tied=tied)
