"""Layers that other packages define and that stand for one of torch's own: recognised without importing anything."""

from __future__ import annotations

from torch import nn

__all__ = ["is_foreign_activation", "is_foreign_linear", "is_foreign_norm"]


def is_foreign_linear(module: nn.Module) -> bool:
    """Tell a linear layer whose weight is stored as (in, out): ``transformers.pytorch_utils.Conv1D``, as in GPT-2.

    Returns:
        Whether it is one.
    """
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and "weight" in module._parameters


def is_foreign_norm(module: nn.Module) -> bool:
    """Tell a normalization by its name and by holding nothing but a vector ``weight``, and perhaps a ``bias``.

    Returns:
        Whether it is one (``LlamaRMSNorm``, ``T5LayerNorm``, ``ConvNextLayerNorm``, ...).
    """
    weight = module._parameters.get("weight")
    names = {name for name, parameter in module._parameters.items() if parameter is not None}
    return (
        "norm" in type(module).__name__.lower()
        and not module._modules
        and weight is not None
        and weight.ndim == 1
        and names <= {"weight", "bias"}
    )


def is_foreign_activation(module: nn.Module) -> bool:
    """Tell an elementwise activation of the transformers library: a module without parameters from its own list.

    Returns:
        Whether it is one.
    """
    return type(module).__module__ == "transformers.activations" and not module._parameters and not module._modules
