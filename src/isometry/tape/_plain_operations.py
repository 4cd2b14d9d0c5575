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
    """Switch activation checkpointing off, and PReLU to its plain form, inside the block.

    A checkpoint runs modules again on the way back, where functions cannot be transformed; inside the block it calls
    its function directly, whoever imported ``torch.utils.checkpoint.checkpoint`` and when. PReLU's derivative is wrong
    for many directions at once: torch 2.13 lines them up with the wrong dimension, which raises, or where the sizes
    happen to fit (one direction, say) gives wrong gradients without a word.

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


# What ``checkpoint`` itself looks up when it is called: models hold on to ``checkpoint`` under names of their own.
_LOOKED_UP = (
    (checkpoint.CheckpointFunction, "apply", _called),
    (checkpoint, "_checkpoint_without_reentrant_generator", _around_nothing),  # torch's own: another may lack it
)
_DETOURS = (
    Detour(functional, "prelu", _prelu),
    *(Detour(owner, name, instead) for owner, name, instead in _LOOKED_UP if hasattr(owner, name)),
)
