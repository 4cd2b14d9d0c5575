"""Embeddings with a ``max_norm``: torch shortens their weight's rows in place whenever it looks them up.

Inside the block the rows are shortened in passing instead: what is looked up is the same, and so are its derivatives
(torch differentiates in the shortened rows, too), but the weight keeps its values.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from isometry.tape._detours import Detour

__all__ = ["rows_kept"]

_guarded = threading.local()  # .weights: of the models whose blocks this thread is in


@contextmanager
def rows_kept(model: nn.Module) -> Iterator[None]:
    """Keep the rows of a model's embeddings as they are, whatever is looked up inside the block.

    Other models, copies of this one among them, are shortened as ever: they may be in training.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    before: tuple[Tensor, ...] = getattr(_guarded, "weights", ())
    _guarded.weights = (*before, *model.parameters(), *model.buffers())
    try:
        with ExitStack() as stack:
            for detour in _LOOKUPS:
                stack.enter_context(detour.taken())
            yield
    finally:
        _guarded.weights = before


def _look_up(original: Any, *args: Any, **kwargs: Any) -> Tensor:
    call = inspect.signature(original).bind(*args, **kwargs).arguments
    limit = call.get("max_norm")
    if limit is not None and _is_guarded(call["weight"]):
        call |= {"weight": _shortened(call["weight"], limit, call.get("norm_type", 2.0)), "max_norm": None}
    found: Tensor = original(**call)
    return found


_LOOKUPS = tuple(Detour(functional, name, _look_up) for name in ("embedding", "embedding_bag"))


def _is_guarded(weight: Tensor) -> bool:
    wrapped = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
    if wrapped is not None and wrapped(weight):  # a transformation's, which cannot be written to in place anyway
        return True
    place = weight.untyped_storage().data_ptr()
    return any(p.untyped_storage().data_ptr() == place for p in _guarded.weights)


def _shortened(weight: Tensor, limit: float, order: float) -> Tensor:
    """Shorten rows as ``torch.embedding_renorm_`` does, without writing to them.

    Returns:
        The weight with rows no longer than the limit; its derivative in the weight is taken for one, as torch does.
    """
    own = weight.detach()
    norms = torch.linalg.vector_norm(own, order, dim=1, keepdim=True)
    scale = torch.where(norms > limit, limit / (norms.double() + 1e-7), 1.0)  # torch's own guard
    return own * scale.to(own.dtype) + (weight - own)
