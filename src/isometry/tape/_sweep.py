"""One backward pass for many cotangents at once, and how they are taken out of it on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Deliver", "Seed", "sweep_at_once", "unwrapped"]


def sweep_at_once(output: Tensor, anchors: list[Tensor], cotangents: Tensor, retain_graph: bool) -> None:
    """Send all cotangents back in one batched backward pass; what hears them are hooks on the way.

    Args:
        output: The tensor to start from.
        anchors: The leaves of its graph.
        cotangents: Shape ``(V, *output.shape)``.
        retain_graph: Keep the graph.
    """
    seed: list[Tensor] = []
    planted = Seed.apply(output, seed)  # type: ignore[no-untyped-call]

    def sweep(cotangent: Tensor) -> Tensor:
        seed.clear()
        seed.append(cotangent)
        torch.autograd.grad(planted, anchors, retain_graph=retain_graph, allow_unused=True)
        return cotangent.sum()  # anything small: the listeners have had what matters

    with warnings.catch_warnings():
        # Operations without a batching rule are looped over by vmap itself: slower, not wrong.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        torch.vmap(sweep)(cotangents)


class Seed(torch.autograd.Function):
    """A scalar whose gradient in the output is whatever cotangent lies in the list when the backward pass comes by.

    ``autograd.grad(output, ..., grad_outputs=cotangent)`` would do the same, but makes torch import its symbolic shapes
    and sympy first, which takes seconds.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, seed: list[Tensor]) -> Tensor:
        ctx.seed = seed
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_ones: Tensor) -> tuple[Tensor, None]:
        return ctx.seed[0], None


def unwrapped(cotangent: Tensor) -> Tensor | None:
    """Take the whole batch of cotangents out of vmap's wrapper, by torch's own inner functions where they exist.

    Returns:
        The batch, directions first; None if this torch has no such functions, or the tensor is in more than one vmap.
    """
    functorch = getattr(torch._C, "_functorch", None)
    try:
        if not functorch.is_batchedtensor(cotangent):  # type: ignore[union-attr]
            return None
        inner: Tensor = functorch.get_unwrapped(cotangent)  # type: ignore[union-attr]
        if functorch.is_functorch_wrapped_tensor(inner):  # type: ignore[union-attr]
            return None
        return inner.movedim(functorch.maybe_get_bdim(cotangent), 0)  # type: ignore[union-attr]
    except AttributeError:
        return None


class Deliver(torch.autograd.Function):
    """Hands a cotangent to a listener by public means; under vmap the listener sees the whole batch of them."""

    @staticmethod
    def forward(cotangent: Tensor, deliver: Callable[[Tensor], None]) -> Tensor:
        deliver(cotangent.unsqueeze(0))
        return cotangent.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is saved: no gradient flows through a delivery."""

    @staticmethod
    def vmap(_info: Any, in_dims: Any, cotangent: Tensor, deliver: Callable[[Tensor], None]) -> tuple[Tensor, None]:
        deliver(cotangent.movedim(in_dims[0], 0))
        return cotangent.new_zeros(()), None
