"""Mixtures of experts as transformers stores them: raw parameters of three dimensions, a matrix an expert.

Their modules say themselves how their matrices lie (``is_transposed``, ``is_concatenated``); the few that do not are
known by class. Raw parameters of other modules are never taken for stacks of matrices.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from isometry.roles._axes import Axes

__all__ = ["GATE_UP", "expert_axes", "is_router"]

GATE_UP = ("gate", "up")
_PROJECTIONS = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
_INPUTS_FIRST = ("Llama4TextExperts",)  # (expert, in, out), as torch.bmm takes them
_OUTPUTS_FIRST = "ParallelExperts"  # (expert, out, in), under the name "weight"


def expert_axes(module: nn.Module, tensor_name: str, tensor: Tensor) -> Axes | None:
    """Say where the matrices of stacked experts are, or the vectors of their biases.

    Args:
        module: The module that uses the parameter.
        tensor_name: The attribute's name.
        tensor: The parameter.

    Returns:
        The axes; None for a parameter that is no stack of experts, as far as is known.
    """
    kind = type(module).__name__
    if kind.endswith(_OUTPUTS_FIRST) and tensor_name == "weight" and tensor.ndim == 3:
        return Axes(out=(1,), in_=(2,), batch=(0,))
    turned = kind in _INPUTS_FIRST
    if not turned and not (hasattr(module, "is_transposed") and hasattr(module, "has_gate")):
        return None
    if tensor.ndim == 2 and tensor_name.removesuffix("_bias") in _PROJECTIONS and tensor_name.endswith("_bias"):
        return Axes(out=(1,), batch=(0,))
    if tensor.ndim != 3 or tensor_name not in _PROJECTIONS:
        return None
    turned = turned or bool(getattr(module, "is_transposed", False))
    # Interleaved gates (gate, up, gate, up, ...) are no blocks: the projection is one matrix an expert then.
    stacked = tensor_name == "gate_up_proj" and bool(getattr(module, "is_concatenated", True))
    out, in_ = (2, 1) if turned else (1, 2)
    return Axes(out=(out,), in_=(in_,), batch=(0,), blocks=GATE_UP if stacked else ())


def is_router(module: nn.Module | None, name: str, siblings: Collection[str]) -> bool:
    """Tell whether a module chooses between experts.

    Args:
        module: The module; None where it is not known.
        name: Its qualified name.
        siblings: The names of its parent's children.

    Returns:
        True for modules whose class or path says so, and for a ``gate`` beside ``experts``.
    """
    parts = name.lower().split(".")
    named = "router" in parts or (parts[-1] == "gate" and "experts" in siblings)
    return named or (module is not None and type(module).__name__.lower().endswith("router"))
