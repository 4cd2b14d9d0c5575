"""What an operation does to a signal, as far as an initialization needs to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from isometry.init._foreign import is_foreign_activation, is_foreign_linear, is_foreign_norm
from isometry.init._graph import Node
from isometry.theory import Activation, activation_of
from isometry.theory._resolve import resolve_activation

__all__ = ["ENDINGS", "Kind", "NormFamily", "activation_at", "kind_of", "norm_family"]

Kind = Literal[
    "input", "weight", "recurrent", "attention", "norm", "activation", "dropout", "reshape", "pool", "scale", "add",
    "embedding", "other",
]  # fmt: skip
NormFamily = Literal["batch", "layer", "rms"]

# What may follow the last weight without being a layer.
ENDINGS = {"log_softmax", "softmax", "LogSoftmax", "Softmax"}
_RESHAPES = {
    "flatten", "reshape", "view", "view_as", "reshape_as", "permute", "transpose", "swapaxes", "movedim", "moveaxis",
    "unsqueeze", "squeeze", "contiguous", "unflatten", "to", "float", "clone", "detach", "type_as", "expand", "t",
    "mT", "T", "Flatten", "Unflatten", "Identity", "rearrange", "__get__",
}  # fmt: skip
_DROPOUTS = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "Dropout", "Dropout1d",
    "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout",
}  # fmt: skip
_POOLS = ("mean", "pool", "sum", "getitem", "select", "narrow", "index_select", "chunk", "split", "unbind", "pad")
_SCALES = {"mul", "mul_", "div", "div_", "truediv", "imul", "itruediv", "neg", "multiply", "divide"}
_ADDS = {"add", "add_", "iadd", "sub", "radd"}
_ACTIVATIONS = {
    "tanh", "relu", "gelu", "silu", "sigmoid", "softplus", "elu", "selu", "celu", "leaky_relu", "hardtanh",
    "hardsigmoid", "hardswish", "mish", "softsign", "tanhshrink", "softshrink", "hardshrink", "relu6", "logsigmoid",
    "sin", "cos", "erf", "rrelu", "clamp", "clip", "log_sigmoid", "atan", "arctan", "sinh", "asinh",
}  # fmt: skip
_WEIGHTED = {"linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "addmm", "bilinear", "einsum", "bmm"}
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_WEIGHT_MODULES = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)


def kind_of(node: Node) -> Kind:
    """Say what kind of operation a node is.

    Returns:
        The kind; "other" for anything that mixes or changes signals in a way that is not known.
    """
    if node.index == 0 or node.op == "input":
        return "input"
    if node.module is not None:
        return _module_kind(node)
    op = node.op.strip("_")
    if node.params and op in _WEIGHTED:
        return "weight"
    if op.rstrip("_") in _ACTIVATIONS and node.function is not None:
        return "activation"
    if op in _DROPOUTS:
        return "dropout"
    if op in _RESHAPES:
        return "reshape"
    if op in ("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "normalize"):
        return "norm"
    if op in _ADDS:
        return "add" if len(node.parents) > 1 else "scale"
    if op in _SCALES and len(node.parents) == 1:
        return "scale"
    if op == "embedding":
        return "embedding"
    if any(part in op for part in _POOLS):
        return "pool"
    return "other"


def _module_kind(node: Node) -> Kind:
    module = node.module
    assert module is not None  # noqa: S101 - the caller has looked
    if isinstance(module, nn.Identity):
        return "reshape"
    if activation_of(module) is not None or isinstance(module, nn.PReLU) or is_foreign_activation(module):
        return "activation"
    if isinstance(module, _WEIGHT_MODULES) or is_foreign_linear(module):
        return "weight"
    if isinstance(module, _RECURRENT):
        return "recurrent"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if isinstance(module, _NORMS) or is_foreign_norm(module):
        return "norm"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if node.op in _DROPOUTS:
        return "dropout"
    if node.op in _RESHAPES:
        return "reshape"
    if "Pool" in node.op:
        return "pool"
    return "other"


def norm_family(node: Node) -> NormFamily:
    """Say what a normalization does to a mean that all samples share.

    Returns:
        "batch" if each channel loses its own mean, so that the shared part is gone; "layer" if only the mean over
        channels is taken away, so that the shared part counts as signal; "rms" if nothing is taken away.
    """
    op = node.op.lower().replace("_", "")
    if op.startswith(("batchnorm", "syncbatchnorm", "lazybatchnorm", "instancenorm", "lazyinstancenorm")):
        return "batch"
    return "rms" if "rms" in op or op == "normalize" else "layer"


def activation_at(node: Node) -> Activation | None:
    """Give what the theory knows of the activation that a node computes.

    Returns:
        The activation, or None where it cannot be resolved (slopes that differ between channels, ...).
    """
    if node.module is not None:
        known = activation_of(node.module)
        if known is None and is_foreign_activation(node.module):
            return resolve_activation(node.module)
        return None if known is None else resolve_activation(known)
    if node.function is None:
        return None
    try:
        known = resolve_activation(node.op.strip("_"))
        if _same(known, node.function):
            return known
    except ValueError:
        pass
    try:
        return resolve_activation(node.function)
    except (TypeError, ValueError):
        return None


def _same(activation: Activation, function: Callable[[Tensor], Tensor]) -> bool:
    """Tell whether a call computes an activation with its default parameters.

    Returns:
        False also where the call fails on float64 numbers.
    """
    probes = np.linspace(-5, 5, 41) + 0.013
    try:
        found = function(torch.from_numpy(probes.copy()))
    except (TypeError, RuntimeError):
        return False
    return bool(np.allclose(activation.value(probes), found.detach().numpy(), rtol=1e-9, atol=1e-12))
