"""Kernels that can be differentiated twice in the place of those that cannot, or give wrong second derivatives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["PlainWeightNorm", "plain_kernels"]


@contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Run recurrent layers, sparse embeddings and compiled models in their plain form inside the block.

    Neither cuDNN's recurrent kernels nor sparse gradients nor compiled graphs have a second derivative.

    Args:
        model: The model; what it does not contain is left alone.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            backend: Any = torch.backends.cudnn
            stack.callback(setattr, backend, "enabled", backend.enabled)
            backend.enabled = False
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
        for embedding in embeddings:
            stack.callback(setattr, embedding, "sparse", True)
            embedding.sparse = False
        if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and loading it takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


class PlainWeightNorm(TorchFunctionMode):
    """Replace the fused weight normalization inside the block.

    Its second derivative is wrong: it takes the norm that the first derivative has saved for a constant.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))
