"""Put a model into a state in which anything can be measured on it, and find it afterwards as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isometry.tape._denormals import flushed_denormals
from isometry.tape._plain_operations import plain_operations
from isometry.tape._untouched import untouched

__all__ = ["measuring"]

_DIFFERENTIABLE = ("eager", "sdpa")  # attention of the transformers library that autograd can differentiate twice


@contextmanager
def measuring(model: nn.Module, *, training: bool | None = False, denormals: bool = False) -> Iterator[nn.Module]:
    """Make a model fit for derivatives of any order and for many directions at once, inside a block.

    Inside the block

    - attention runs in its plain form: the fused kernels have no second derivative, no forward mode and no batch rule;
    - activation checkpointing is off: it runs modules again on the way back, where nothing can be transformed;
    - statistics are frozen: batch normalization uses its running ones and does not update them, dropout is off (unless
      ``training`` says otherwise);
    - modules with an ``inplace`` option work out of place, so that what the tape has recorded stays as it was;
    - gradients are recorded, even inside ``torch.inference_mode``;
    - numbers below the normal range count as zero, unless ``denormals``: they are slow, and squares of them are zero.

    Operations that ``torch.vmap`` cannot take (recurrent layers, data-dependent branches) stay as they are: the
    measurements loop over samples there. After the block modes, gradients, hooks, buffers, flags, options and random
    states are as before.

    Args:
        model: The model.
        training: True or False puts the whole model into that mode; None leaves the modes alone.
        denormals: Keep them, for measurements that are about small numbers.

    Yields:
        The model.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Dropout(0.5)).train()
        >>> with measuring(net):
        ...     net[1].inplace, net[2].training
        (False, False)
        >>> net[1].inplace, net[2].training
        (True, True)
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(untouched(model, training=training))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(plain_operations())
        if not denormals:
            stack.enter_context(flushed_denormals())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="There is a performance drop")
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)  # it goes round the modules inside
        for owner, name, value in _options(model):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield model


def _options(model: nn.Module) -> list[tuple[Any, str, Any]]:
    """List what has to be set: on which object, which attribute, to what.

    Returns:
        Triples, each object once.
    """
    found: dict[tuple[int, str], tuple[Any, str, Any]] = {}
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            found[id(module), "inplace"] = (module, "inplace", False)
        config = getattr(module, "config", None)
        attention = getattr(config, "_attn_implementation", None)
        if isinstance(attention, str) and attention not in _DIFFERENTIABLE:
            found[id(config), "attention"] = (config, "_attn_implementation", "sdpa")
    return list(found.values())
