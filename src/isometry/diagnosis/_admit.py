"""Which modules can be measured at all: whose parameters hold numbers, and whose layers can be watched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

__all__ = ["admit", "eagerly"]


def admit(model: object) -> tuple[nn.Module, tuple[str, ...]]:
    """Take a model in, or say why it cannot be measured.

    The wrapper that ``torch.compile`` puts around a module is taken off: the module inside has the same parameters,
    and its layers can be watched.

    Args:
        model: What the user passed.

    Returns:
        The module to measure, and what a reader should know of it.

    Raises:
        TypeError: If the model is no module, or a scripted one.
        ValueError: If it has no parameters, or parameters without numbers.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; build the model first.")
    inner = uncompiled(model)
    _check_watchable(inner)
    _check_numbers(inner)
    if inner is not model:
        return inner, ("torch.compile's wrapper was taken off: the module inside it was measured, uncompiled",)
    if _compiled_parts(inner):
        return inner, ("the model's compiled parts were run uncompiled, so that their layers could be watched",)
    return inner, ()


def uncompiled(model: nn.Module) -> nn.Module:
    """Take off the wrapper of ``torch.compile``, which keeps the module as ``_orig_mod``.

    Returns:
        The module inside, or the model itself.
    """
    while _is_wrapper(model):
        model = model.get_submodule("_orig_mod")
    return model


@contextlib.contextmanager
def eagerly(model: object) -> Iterator[None]:
    """Run what is compiled within a model as plain Python inside the block: compiled code passes the hooks by.

    Yields:
        Nothing.
    """
    if isinstance(model, nn.Module) and _compiled_parts(model):  # else the compiler need not even be imported
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module)


def _compiled_parts(model: nn.Module) -> bool:
    return any(_is_wrapper(m) or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def _check_watchable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"has a scripted part, {name!r}" if name else "is a scripted module"
            raise TypeError(
                f"model {what} (got {type(module).__name__}), whose layers cannot be watched; pass the Python module "
                "that it was scripted or traced from."
            )


def _check_numbers(model: nn.Module) -> None:
    if not any(True for _ in model.parameters()):
        raise ValueError(f"model ({type(model).__name__}) has no parameters; there is nothing to diagnose.")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    lazy = [name for name, t in tensors.items() if is_lazy(t)]
    if lazy:
        raise ValueError(
            f"model has parameters that still wait for their shape, first {lazy[0]!r} of a lazy layer; run the model "
            "once on a batch of the data, then diagnose it."
        )
    meta = [name for name, t in tensors.items() if t.is_meta]
    if meta:
        raise ValueError(
            f"model has parameters or buffers on the meta device, first {meta[0]!r}, which hold no numbers; build it "
            "on a real device, or call model.to_empty(device='cpu') and then initialize or load its weights."
        )
