"""Operations that get into the way of derivatives, in forms that do not: the same values, at the cost of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import checkpoint

from isometry.tape._detours import Detour

__all__ = ["plain_operations"]


@contextmanager
def plain_operations() -> Iterator[None]:
    """Switch activation checkpointing off, and PReLU and bags of embeddings to their plain forms, inside the block.

    A checkpoint runs modules again on the way back, where functions cannot be transformed; inside the block it calls
    its function directly, whoever imported ``torch.utils.checkpoint.checkpoint`` and when. PReLU's derivative is wrong
    for many directions at once: torch 2.13 lines them up with the wrong dimension, which raises, or where the sizes
    happen to fit (one direction, say) gives wrong gradients without a word. The gradient of bags (``nn.EmbeddingBag``)
    has no derivative in torch, and bags have none in forward mode; sums and means of looked-up rows have both.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        for detour in _DETOURS:
            stack.enter_context(detour.taken())
        yield


def _called(_original: Any, function: Any, _preserve: Any, *args: Any) -> Any:
    return function(*args)


def _around_nothing(_original: Any, *_args: Any, **_kwargs: Any) -> Iterator[None]:
    yield  # between what torch does before the function and what after it


def _prelu(original: Any, input: Tensor, weight: Tensor) -> Tensor:
    channels = 1 if input.ndim < 2 else input.shape[1]
    if weight.ndim > 1 or weight.numel() not in {1, channels}:
        found: Tensor = original(input, weight)  # which says what is wrong
        return found
    shape = [1] * input.ndim
    if input.ndim > 1:
        shape[1] = weight.numel()
    return torch.where(input > 0, input, weight.reshape(shape) * input)


def _bags(
    original: Any,
    weight: Tensor,
    input: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...]:
    if scale_grad_by_freq or mode not in {_SUM, _MEAN}:
        found: tuple[Tensor, ...] = original(
            weight,
            input,
            offsets,
            scale_grad_by_freq,
            mode,
            sparse,
            per_sample_weights,
            include_last_offset,
            padding_idx,
        )
        return found
    starts = offsets[:-1] if include_last_offset else offsets
    place = torch.arange(len(input), device=input.device)
    bag = torch.searchsorted(starts.to(place.dtype), place, right=True) - 1
    counts = input != (-1 if padding_idx is None else padding_idx)
    if include_last_offset:
        counts = counts & (place < offsets[-1])
    rows = torch.embedding(weight, input)
    wide = torch.promote_types(rows.dtype, torch.float32)  # sums of half precision are rounded once, as torch does it
    factor = counts.to(wide) if per_sample_weights is None else counts * per_sample_weights.to(wide)
    total = torch.zeros(len(starts), rows.shape[1], dtype=wide, device=rows.device)
    total = total.index_add(0, bag, rows * factor[:, None])
    if mode == _MEAN:
        size = torch.zeros(len(starts), dtype=wide, device=rows.device).index_add(0, bag, counts.to(wide))
        total = total / size.clamp_min(1)[:, None]
    return total.to(rows.dtype), bag, bag, bag  # the others are for torch's own way back


_SUM, _MEAN = 0, 1  # as functional.embedding_bag calls them

# What ``checkpoint`` itself looks up when it is called: models hold on to ``checkpoint`` under names of their own.
_LOOKED_UP = (
    (checkpoint.CheckpointFunction, "apply", _called),
    (checkpoint, "_checkpoint_without_reentrant_generator", _around_nothing),  # torch's own: another may lack it
)
_DETOURS = (
    Detour(functional, "prelu", _prelu),
    Detour(torch, "embedding_bag", _bags),
    *(Detour(owner, name, instead) for owner, name, instead in _LOOKED_UP if hasattr(owner, name)),
)
