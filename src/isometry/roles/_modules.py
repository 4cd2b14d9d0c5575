"""What each module type's parameters are: a first role and the axes, before position and naming refine the role."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from isometry.roles._axes import Axes
from isometry.roles._experts import expert_axes
from isometry.roles._rows import Role

__all__ = ["VECTOR", "Description", "conventional_axes", "describe"]

VECTOR = Axes(out=(0,))
_GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}
_QKV = ("q", "k", "v")
_LAYER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)


class Description(NamedTuple):
    """A parameter as its module alone tells it: "hidden" stands for any matrix between layers."""

    role: Role
    axes: Axes


def conventional_axes(ndim: int) -> Axes:
    """Give the axes of the convention (out, in, *kernel).

    Returns:
        The axes; for vectors and scalars those of a vector.
    """
    return Axes(out=(0,), in_=(1,), kernel=tuple(range(2, ndim))) if ndim >= 2 else vector_axes(ndim)


def vector_axes(ndim: int, blocks: tuple[str, ...] = ()) -> Axes:
    """Give the axes of a bias or a scale.

    Returns:
        All dimensions are output dimensions.
    """
    return Axes(out=tuple(range(ndim)), blocks=blocks)


def describe(module: nn.Module, tensor_name: str, tensor: Tensor) -> Description:
    """Say what a parameter of a module is.

    Args:
        module: The module that uses the parameter.
        tensor_name: The attribute's name.
        tensor: The parameter; only its number of dimensions and shape are read.

    Returns:
        Its role, "hidden" for every matrix between layers, and its axes.
    """
    for kinds, rule in _RULES:
        if isinstance(module, kinds):
            found = rule(module, tensor_name, tensor)
            return found if found is not None else _by_name(module, tensor_name, tensor)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf") and tensor_name == "weight":
        return Description("hidden", Axes(out=(1,), in_=(0,)))  # a Linear stored as (in, out), as in GPT-2
    stacked = expert_axes(module, tensor_name, tensor)
    if stacked is not None:
        return Description("hidden" if stacked.known else "bias", stacked)
    return _by_name(module, tensor_name, tensor)


def _linear(_module: nn.Module, name: str, _tensor: Tensor) -> Description | None:
    return Description("hidden", Axes(out=(0,), in_=(1,))) if name == "weight" else None


def _conv(module: nn.Module, name: str, tensor: Tensor) -> Description | None:
    if name != "weight" or not isinstance(module, _ConvNd):
        return None
    kernel = tuple(range(2, tensor.ndim))
    if module.transposed:
        return Description("hidden", Axes((1,), (0,), kernel, groups=module.groups, groups_along="in"))
    return Description("hidden", Axes((0,), (1,), kernel, groups=module.groups))


def _bilinear(_module: nn.Module, name: str, _tensor: Tensor) -> Description | None:
    return Description("hidden", Axes(out=(0,), in_=(1, 2))) if name == "weight" else None


def _embedding(_module: nn.Module, name: str, _tensor: Tensor) -> Description | None:
    return Description("embedding", Axes(out=(1,), in_=(0,))) if name == "weight" else None


def _recurrent(module: nn.Module, name: str, tensor: Tensor) -> Description | None:
    kind = str(getattr(module, "mode", type(module).__name__)).removesuffix("Cell").upper()
    blocks = _GATES.get(kind, ())
    if name.startswith("bias"):
        return Description("bias", vector_axes(tensor.ndim, blocks))
    if name.startswith("weight_hr"):  # an LSTM's projection has no gates
        return Description("recurrent", Axes(out=(0,), in_=(1,)))
    if name.startswith("weight"):
        role: Role = "recurrent" if name.startswith("weight_hh") else "hidden"
        return Description(role, Axes(out=(0,), in_=(1,), blocks=blocks))
    return None


def _multihead(_module: nn.Module, name: str, tensor: Tensor) -> Description | None:
    matrix = Axes(out=(0,), in_=(1,))
    rows: dict[str, Description] = {
        "in_proj_weight": Description("attention_qkv", Axes(out=(0,), in_=(1,), blocks=_QKV)),
        "q_proj_weight": Description("attention_q", matrix),
        "k_proj_weight": Description("attention_k", matrix),
        "v_proj_weight": Description("attention_v", matrix),
        "in_proj_bias": Description("bias", vector_axes(tensor.ndim, _QKV)),
        "bias_k": Description("other", Axes()),  # a learned token appended to the keys, not a bias of a layer
        "bias_v": Description("other", Axes()),
    }
    return rows.get(name)


def _norm(_module: nn.Module, _name: str, tensor: Tensor) -> Description | None:
    return Description("norm", vector_axes(tensor.ndim))


def _by_name(module: nn.Module, name: str, tensor: Tensor) -> Description:
    """Describe a parameter of an unknown module by its own name; matrices of unknown use stay "other".

    Returns:
        A cautious description.
    """
    lowered = name.lower()
    if "norm" in type(module).__name__.lower() and tensor.ndim <= 1:
        return Description("norm", vector_axes(tensor.ndim))
    if "bias" in lowered and tensor.ndim <= 1:
        return Description("bias", vector_axes(tensor.ndim))
    if "embed" in lowered and tensor.ndim >= 2:
        return Description("embedding", Axes())
    if tensor.ndim <= 1 or tensor.numel() == max(tensor.shape):
        return Description("scale", vector_axes(tensor.ndim))
    return Description("other", Axes())


_Rule = Callable[[nn.Module, str, Tensor], Description | None]
_RULES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], _Rule], ...] = (
    (nn.Linear, _linear),
    (_ConvNd, _conv),
    (nn.Bilinear, _bilinear),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    (nn.MultiheadAttention, _multihead),
    (_LAYER_NORMS, _norm),
)
