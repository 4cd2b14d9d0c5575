"""The order in which a model's modules are called, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isometry._base import preserved_rng

__all__ = ["call_order"]


def call_order(model: nn.Module, example: object) -> dict[str, int]:
    """Run a model once and number its modules by their first call.

    The pass runs in eval mode and without gradients; modes, buffers and the random state are afterwards as before.

    Args:
        model: The model.
        example: An input, a tuple of positional inputs, a dictionary of keyword inputs, or an object with both as
            ``args`` and ``kwargs`` (``isometry.Inputs``).

    Returns:
        The number by qualified name (all names of a module that has several); modules that were not called are left
        out, but for the output projection of ``nn.MultiheadAttention``, which its parent uses without calling it.

    Raises:
        ValueError: If the model raises on the example.
    """
    first: dict[int, int] = {}
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    handles = [module.register_forward_hook(_counter(first)) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), preserved_rng():
            _call(model, example)
    except Exception as error:
        raise ValueError(
            f"example: the model raised {type(error).__name__} on it ({error}); pass an input that the model accepts."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    order: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in first:
            order[name] = first[id(module)]
            if isinstance(module, nn.MultiheadAttention):
                order[f"{name}.out_proj" if name else "out_proj"] = first[id(module)]
    return order


def _counter(first: dict[int, int]) -> Callable[..., None]:
    def on_forward(module: nn.Module, _args: Any, _output: Any) -> None:
        first.setdefault(id(module), len(first))

    return on_forward


def _call(model: nn.Module, example: object) -> None:
    args, kwargs = getattr(example, "args", None), getattr(example, "kwargs", None)
    if isinstance(args, tuple) and isinstance(kwargs, dict):
        model(*args, **kwargs)
    elif isinstance(example, dict):
        model(**example)
    elif isinstance(example, tuple):
        model(*example)
    else:
        model(example)
