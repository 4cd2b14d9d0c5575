"""Which gradients are compared: single samples or mini-batches, all pairs of them or pairs drawn at random.

The two mini-batches of a pair are always disjoint: a sample that both share would lift their inner product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isometry._base import base_seed, check_budget, preserved_rng, stream

__all__ = ["PAIR_BYTES", "Draw", "all_pairs", "draw_batches"]

PAIR_BYTES = 48  # its two numbers, inner product, cosine, and the cosine again when they are put in order


@dataclass(frozen=True, eq=False)
class Draw:
    """Mini-batches and the pairs of them that are compared.

    Attributes:
        batches: Samples of every mini-batch, shape (K, batch size).
        pairs: Pairs of mini-batches, shape (M, 2).
        complete: Whether these are all pairs of the K mini-batches, which are then disjoint.
        left_out: How many samples belong to no mini-batch because too few were left to fill one; 0 for drawn pairs.
    """

    batches: Tensor
    pairs: Tensor
    complete: bool
    left_out: int


def draw_batches(
    samples: int, batch_size: int, pairs: int | None, *, budget: int | None, generator: torch.Generator | None
) -> Draw:
    """Choose the mini-batches and pairs.

    Args:
        samples: How many samples there are.
        batch_size: Samples per mini-batch.
        pairs: How many pairs to draw, each of two disjoint mini-batches, independently of the other pairs; None splits
            the samples into disjoint mini-batches and takes all pairs of those.
        budget: Bytes that the pairs may take.
        generator: Source of the draws; None for torch's global one, whose state stays as it was.

    Returns:
        The choice.

    Raises:
        ValueError: If a number makes no sense, or there are not enough samples for two mini-batches.
    """
    for name, value in (("batch_size", batch_size), ("pairs", 1 if pairs is None else pairs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {value!r}.")
    if samples < 2:
        raise ValueError(f"x holds {samples} sample; gradient confusion compares at least two.")
    if samples < 2 * batch_size:
        raise ValueError(
            f"batch_size={batch_size} needs {2 * batch_size} samples for two disjoint mini-batches, x holds {samples}; "
            "pass more samples or a smaller batch_size."
        )
    if pairs is None:
        count = samples // batch_size
        check_budget(
            count * (count - 1) // 2 * PAIR_BYTES,
            budget,
            what=f"comparing all {count * (count - 1) // 2} pairs of {count} gradients",
            instead="Draw some of them by pairs=,",
        )
        order = torch.arange(samples) if batch_size == 1 else torch.randperm(samples, generator=_stream(generator))
        batches = order[: count * batch_size].view(count, batch_size)
        return Draw(batches, all_pairs(count), True, samples - count * batch_size)
    chance = _stream(generator)
    both = torch.stack([torch.randperm(samples, generator=chance)[: 2 * batch_size] for _ in range(pairs)])
    return Draw(both.view(2 * pairs, batch_size), torch.arange(2 * pairs).view(pairs, 2), False, 0)


def all_pairs(count: int) -> Tensor:
    """List the pairs i < j.

    Returns:
        Shape (count (count - 1) / 2, 2).
    """
    return torch.triu_indices(count, count, 1).T


def _stream(generator: torch.Generator | None) -> torch.Generator:
    with preserved_rng():  # of the global generator; one that is given moves on
        return stream(base_seed(generator), "mini-batches")
