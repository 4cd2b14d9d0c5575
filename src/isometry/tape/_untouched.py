"""Leave no trace: run anything on a model and find the model afterwards as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from isometry._base import preserved_rng
from isometry.tape._max_norm import rows_kept

__all__ = ["untouched"]

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)


@contextmanager
def untouched(model: nn.Module, *, training: bool | None = None) -> Iterator[nn.Module]:
    """Restore a model's modes, gradients, hooks, buffers, ``requires_grad`` flags and the random states after a block.

    Gradients that the parameters carry are set aside, so that nothing accumulates into them; inside the block every
    ``.grad`` starts as None. Random states are torch's, NumPy's and Python's. Parameter *values* are not copied: a
    block that changes them is not a measurement. Rows of embeddings with a ``max_norm``, which torch shortens in place
    when it looks them up, are shortened in passing instead, with the same outputs and derivatives.

    Args:
        model: The model that the block works on.
        training: True or False puts the whole model in that mode inside the block; None leaves the modes alone.

    Yields:
        The model.
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    hooks = [
        (table, dict(table))
        for module in model.modules()
        for table in (getattr(module, name, None) for name in _HOOK_TABLES)
        if table is not None
    ]
    default_dtype = torch.get_default_dtype()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what is saved
    try:
        if training is not None:
            model.train(training)
        for parameter, _, _ in parameters:
            parameter.grad = None
        with preserved_rng(), rows_kept(model):
            yield model
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_default_dtype(default_dtype)
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        with torch.no_grad():
            for table, name, buffer, value in buffers:
                table[name] = buffer
                if not _same(buffer, value):
                    buffer.copy_(value)
        for table, entries in hooks:
            if table.keys() != entries.keys():
                table.clear()
                table.update(entries)


def _same(buffer: Tensor, value: Tensor) -> bool:
    """Compare values, of which NaN is one: a write would count as a change of the model.

    Returns:
        Whether they are equal.
    """
    if torch.equal(buffer, value):
        return True
    if not buffer.is_floating_point() or buffer.shape != value.shape or buffer.dtype != value.dtype:
        return False
    return bool(((buffer == value) | (buffer.isnan() & value.isnan())).all())
