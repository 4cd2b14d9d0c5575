"""Modules whose parameter Jacobians are known in closed form: what goes in, what comes back, what to multiply.

With a cotangent ``a`` at a module's output, the gradient of a weight is a sum over positions of ``a (x) f``, where
``f`` is the input (Linear), its patches (convolution) or a one-hot token (Embedding); of a normalization's scale it
is the sum of ``a`` times the normalized input. Everything here puts samples first and positions second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

__all__ = [
    "Kind",
    "Layout",
    "by_sample",
    "find_layout",
    "is_scale",
    "kind_of",
    "leading_dimensions",
    "outer_backs",
    "outer_features",
    "scale_rows",
    "token_features",
]

Kind = Literal["linear", "conv", "embedding", "norm"]

_CONVS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_CHANNEL_NORMS = (
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
_INSTANCE: dict[type[nn.Module], int] = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}
_SHAPE_NORMS = (nn.LayerNorm, nn.RMSNorm)
_OWN_SHAPE = (nn.LayerNorm.forward, nn.RMSNorm.forward)
_OWN_FORWARD = (*_OWN_SHAPE, *(norm.forward for norm in _CHANNEL_NORMS))
# Closed forms of classes that other packages define, by the module that defines them: known without importing it.
_FOREIGN: dict[tuple[str, str], Kind] = {("transformers.pytorch_utils", "Conv1D"): "linear"}  # weight (in, out)


@dataclass(frozen=True)
class Layout:
    """Where the samples are in a module's tensors: dimension ``axis`` has size ``outer * samples * inner``."""

    axis: int
    outer: int
    inner: int


def kind_of(module: nn.Module) -> Kind | None:
    """Say which closed form a module's own ``forward`` obeys; a subclass with another forward has none.

    A module of anybody's that holds nothing but a vector ``weight`` (and ``bias``) may be a normalization: that remains
    to be seen by ``is_scale``.

    Returns:
        The kind, or None.
    """
    table: list[tuple[tuple[type[nn.Module], ...], Kind]] = [
        ((nn.Linear,), "linear"),
        (tuple(_CONVS), "conv"),
        ((nn.Embedding,), "embedding"),
        (_CHANNEL_NORMS, "norm"),
        (_SHAPE_NORMS, "norm"),
    ]
    for bases, kind in table:
        for base in bases:
            if isinstance(module, base) and type(module).forward is base.forward:
                if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
                    return None
                return kind
    owner = getattr(type(module).forward, "__module__", ""), type(module).forward.__qualname__.partition(".")[0]
    return _FOREIGN.get(owner, "norm" if _holds_vectors(module) else None)


def _holds_vectors(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    names = {name for name, p in module._parameters.items() if p is not None}
    return not module._modules and weight is not None and weight.ndim == 1 and names <= {"weight", "bias"}


def is_scale(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> bool:
    """See by trying whether a module is a scale and a shift of something that its parameters do not enter.

    Args:
        module: A module that ``kind_of`` takes for a normalization.
        inputs: The tensors that it was called with.
        output: What it returned.

    Returns:
        True for torch's own normalizations; for others whether out = n(x) * weight + bias along the last dimension.
    """
    if type(module).forward in _OWN_FORWARD:
        return True
    weight, bias = module.get_parameter("weight").detach(), module._parameters.get("bias")
    if len(inputs) != 1 or output.ndim < 2 or output.shape[-1] != weight.numel():
        return False
    other = torch.linspace(-1.5, 2.0, weight.numel(), dtype=weight.dtype, device=weight.device)
    shift = {} if bias is None else {"bias": torch.zeros_like(bias)}
    try:
        at_zero = functional_call(module, {"weight": torch.zeros_like(weight), **shift}, inputs)
        at_other = functional_call(module, {"weight": other, **shift}, inputs)
        wanted = at_zero + other * _plain(module, inputs[0])
        whole = at_zero + weight * _plain(module, inputs[0]) + (0 if bias is None else bias.detach())
    except (RuntimeError, TypeError, ValueError):
        return False
    slack = 1e-3 * float(output.detach().abs().max())
    pairs = ((at_other, wanted), (output, whole))
    return all(torch.allclose(a, b, rtol=1e-3, atol=slack) for a, b in pairs)


def find_layout(module: nn.Module, shape: torch.Size, other: torch.Size, samples: tuple[int, int]) -> Layout | None:
    """Find the dimension that holds the samples, by comparing a call's output shapes at two batch sizes.

    Args:
        module: The module that was called.
        shape: Its output's shape at the first batch size.
        other: Its output's shape at the second.
        samples: The two batch sizes.

    Returns:
        The layout (with everything else in the dimension counted as inner), or None where there is no such dimension
        or it is one that the closed form needs.
    """
    if len(shape) != len(other):
        return None
    differing = [d for d in range(len(shape)) if shape[d] != other[d]]
    if len(differing) != 1 or differing[0] >= leading_dimensions(module, len(shape)):
        return None
    axis = differing[0]
    ratio, rest = divmod(shape[axis], samples[0])
    if rest or ratio * samples[1] != other[axis]:
        return None
    return Layout(axis, 1, ratio)


def by_sample(tensor: Tensor, layout: Layout, samples: int, trailing: int, *, lead: int = 0) -> Tensor:
    """Bring the samples to the front and merge all other leading dimensions behind them.

    Args:
        tensor: Shape ``(*lead dims, ..., *trailing dims)``.
        layout: Where the samples are (not counting the lead dimensions).
        samples: How many there are.
        trailing: How many last dimensions to keep.
        lead: How many first dimensions to leave in front (1 for the directions of cotangents).

    Returns:
        Shape ``(*lead dims, samples, positions, *trailing dims)``.
    """
    axis = layout.axis + lead
    shape = tensor.shape
    split = tensor.reshape(*shape[:axis], layout.outer, samples, layout.inner, *shape[axis + 1 :])
    split = split.movedim(axis + 1, lead)
    return split.reshape(*shape[:lead], samples, -1, *shape[tensor.ndim - trailing :])


def leading_dimensions(module: nn.Module, ndim: int) -> int:
    """Count the first dimensions of a module's output among which the samples may be.

    Returns:
        All but the features, the channels and what follows them, or the normalized shape.
    """
    for base, spatial in _CONVS.items():
        if isinstance(module, base):
            return ndim - spatial - 1
    if isinstance(module, _SHAPE_NORMS) and type(module).forward in _OWN_SHAPE:
        return ndim - len(module.normalized_shape)
    if isinstance(module, _CHANNEL_NORMS):
        spatial = next((s for base, s in _INSTANCE.items() if isinstance(module, base)), ndim - 2)
        return ndim - spatial - 1
    return ndim - 1


def outer_features(module: nn.Module, x: Tensor, layout: Layout, samples: int) -> Tensor:
    """Give what a weight's rows are outer products with: the inputs of a Linear, the patches of a convolution.

    Args:
        module: A Linear or a convolution.
        x: Its input.
        layout: Where the samples are.
        samples: How many there are.

    Returns:
        Shape (samples, positions, groups, in).
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return _patches(module, by_sample(x, layout, samples, len(module.kernel_size) + 1))
    return by_sample(x, layout, samples, 1).unsqueeze(-2)


def outer_backs(module: nn.Module, a: Tensor, layout: Layout, samples: int) -> Tensor:
    """Bring cotangents at the output of a Linear or a convolution into the order of ``outer_features``.

    Args:
        module: A Linear or a convolution.
        a: Cotangents, shape (V, *output).
        layout: Where the samples are.
        samples: How many there are.

    Returns:
        Shape (V, samples, positions, groups, out).
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        back = by_sample(a, layout, samples, len(module.kernel_size) + 1, lead=1)  # (V, N, Q, O, *out)
        back = back.movedim(3, -1).flatten(2, -2)  # (V, N, P, O)
        return back.reshape(*back.shape[:3], module.groups, -1)
    return by_sample(a, layout, samples, 1, lead=1).unsqueeze(-2)


def _patches(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Cut a convolution's input into the patches that its kernel meets.

    Returns:
        Shape (samples, positions, groups, in per group times kernel size).
    """
    spatial = len(module.kernel_size)
    pads = module._reversed_padding_repeated_twice
    samples = x.shape[0]
    flat = x.flatten(0, 1)
    if any(pads):
        flat = functional.pad(flat, pads, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    for d, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
    ):
        flat = flat.unfold(d, (size - 1) * dilation + 1, stride)[..., ::dilation]
    # now (N Q, C, *out, *kernel): positions before channels, kernel behind them
    order = [0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial)]
    patches = flat.permute(order)
    return patches.reshape(samples, -1, module.groups, module.weight.shape[1:].numel())


def token_features(module: nn.Module, tokens: Tensor, layout: Layout, samples: int) -> Tensor:
    """Give an embedding's tokens by sample; a padding token becomes -1, since it has no gradient.

    Returns:
        Shape (samples, positions).
    """
    padding = getattr(module, "padding_idx", None)
    if padding is not None:
        tokens = torch.where(tokens == padding, -1, tokens)
    return by_sample(tokens.unsqueeze(-1), layout, samples, 1).squeeze(-1)


def scale_rows(
    module: nn.Module, x: Tensor, a: Tensor, layout: Layout, samples: int, wanted: tuple[str, ...]
) -> dict[str, Tensor]:
    """Give the Jacobian rows of a normalization's scale ("weight") and shift ("bias").

    Returns:
        For each wanted name, rows of shape ``(V, samples, parameter size)``.
    """
    if not isinstance(module, _CHANNEL_NORMS):
        own = isinstance(module, _SHAPE_NORMS) and type(module).forward in _OWN_SHAPE
        keep = len(module.normalized_shape) if own else 1  # type: ignore[arg-type]
        back = by_sample(a, layout, samples, keep, lead=1)  # (V, N, Q, *shape)
        rows = {
            "bias": lambda: back.sum(2),
            # Normalized in the shape in which the module was called: another may mean something else to it (PReLU).
            "weight": lambda: (back * by_sample(_plain(module, x), layout, samples, keep)).sum(2),
        }
        return {name: rows[name]().flatten(2) for name in wanted}
    # The channels follow the samples; what is behind them are positions.
    normal = _plain(module, x).flatten(2) if x.ndim > 2 else _plain(module, x).unsqueeze(-1)  # (N', C, positions)
    back = a.flatten(3) if a.ndim > 3 else a.unsqueeze(-1)  # (V, N', C, positions)
    rows = {"bias": lambda: back.sum(-1), "weight": lambda: (back * normal).sum(-1)}
    return {name: by_sample(rows[name](), layout, samples, 1, lead=1).sum(2) for name in wanted}


def _plain(module: nn.Module, x: Tensor) -> Tensor:
    """Normalize as the module does, without its scale and shift.

    Returns:
        The normalized input.
    """
    if isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward:
        return functional.layer_norm(x, module.normalized_shape, None, None, module.eps)
    if isinstance(module, nn.RMSNorm) and type(module).forward is nn.RMSNorm.forward:
        return functional.rms_norm(x, list(module.normalized_shape), None, module.eps)
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(x, module.num_groups, None, None, module.eps)
    if isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d):
        own = module.training or not module.track_running_stats
        return functional.instance_norm(x, module.running_mean, module.running_var, None, None, own, 0.0, module.eps)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return functional.batch_norm(x, module.running_mean, module.running_var, None, None, False, 0.0, module.eps)
    # Anybody's: it is linear in its weight, as ``is_scale`` has seen.
    weight = module.get_parameter("weight").detach()
    one: Tensor = functional_call(module, {"weight": torch.ones_like(weight)}, (x,))
    zero: Tensor = functional_call(module, {"weight": torch.zeros_like(weight)}, (x,))
    return one - zero
