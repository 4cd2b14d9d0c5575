"""Leave no trace: run anything on a model and find the model afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from isometry._base import preserved_rng

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
    """Restore a model's modes, gradients, hooks, buffers, ``requires_grad`` flags and the RNG after a block.

    Parameter *values* are not copied: a block that changes them is not a measurement.

    Args:
        model: The model that the block works on.
        training: True or False puts the whole model in that mode inside the block; None leaves the modes alone.

    Yields:
        The model.
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    hooks = [
        (table, dict(table))
        for module in model.modules()
        for table in (getattr(module, name, None) for name in _HOOK_TABLES)
        if table is not None
    ]
    default_dtype = torch.get_default_dtype()
    try:
        if training is not None:
            model.train(training)
        with preserved_rng():
            yield model
    finally:
        torch.set_default_dtype(default_dtype)
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        for table, entries in hooks:
            if table.keys() != entries.keys():
                table.clear()
                table.update(entries)
