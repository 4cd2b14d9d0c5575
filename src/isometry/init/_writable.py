"""What an in-place initializer insists on before it writes, so that a write never goes nowhere."""

from __future__ import annotations

import torch
from torch import Tensor

from isometry._base import check_tensor

__all__ = ["check_writable"]


def check_writable(argument: str, value: object, *, min_ndim: int = 2) -> Tensor:
    """Insist on a tensor whose values can be overwritten and will stay.

    A parametrized weight (``torch.nn.utils.parametrize``, weight norm, spectral norm) is computed anew at every access,
    so writing into it would change nothing; it is recognised by its autograd history. (A computed tensor that was made
    under ``torch.no_grad`` carries no history and cannot be told from an ordinary one.) Views of parameters are fine.

    Args:
        argument: The argument's name, for the message.
        value: What was given.
        min_ndim: Fewest dimensions allowed.

    Returns:
        The tensor itself.

    Raises:
        TypeError: If it is no tensor, or not real floating point.
        ValueError: If it has no storage of its own (lazy, meta device, computed, expanded), is an inference tensor
            outside inference mode, is empty, or has too few dimensions.
    """
    if isinstance(value, Tensor) and torch.nn.parameter.is_lazy(value):
        raise ValueError(
            f"{argument} is a lazy parameter without a shape yet; run one batch through the model first, then "
            "initialize it."
        )
    tensor = check_tensor(argument, value, min_ndim=min_ndim)
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        raise TypeError(
            f"{argument} must be real floating point, got {tensor.dtype}; initialize a floating-point tensor and "
            "convert it afterwards."
        )
    if tensor.is_meta:
        raise ValueError(
            f"{argument} (shape {shape}) is on the meta device and has no storage to write to; materialize it first, "
            'for example with module.to_empty(device="cpu").'
        )
    if _computed(tensor):
        raise ValueError(
            f"{argument} (shape {shape}) is the result of a computation, not a stored weight, so writing to it would "
            "change nothing: the module is probably parametrized. Remove the parametrization first "
            "(torch.nn.utils.parametrize.remove_parametrizations), or assign the module's attribute."
        )
    if any(stride == 0 and length > 1 for stride, length in zip(tensor.stride(), shape, strict=True)):
        raise ValueError(
            f"{argument} (shape {shape}) is expanded: several of its entries share one memory cell. Pass .clone()."
        )
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"{argument} (shape {shape}) is an inference tensor, which torch does not let change outside of inference "
            "mode; pass .clone()."
        )
    return tensor


def _computed(tensor: Tensor) -> bool:
    # Made by autograd from other tensors, and not merely a view of a leaf (a write to which reaches the leaf).
    if tensor.grad_fn is None:
        return False
    base = tensor._base
    return base is None or base.grad_fn is not None
