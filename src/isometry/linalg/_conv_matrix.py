"""The dense matrix of a convolution layer: small, exact, for every padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from isometry._base import check_budget, unknown_name
from isometry.linalg._conv_existence import ConvPadding
from isometry.linalg._conv_kernel import Kernel, check_kernel, per_dimension

__all__ = ["check_padding", "conv_matrix", "dense_matrix", "output_size"]

_AXES = ("ipa", "jqb", "krd")  # tap, output position, input position, for each dimension
_OTHER_WAY = (
    "Ask conv_singular_values for circular padding, pass the layer to golub_kahan as a product, choose a smaller size,"
)


def conv_matrix(
    weight: Tensor,
    size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding_mode: ConvPadding = "circular",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    budget: int | None = None,
) -> Tensor:
    """Write a convolution as a matrix between whole images.

    Args:
        weight: Shape ``(out, in / groups, *kernel)``, one to three spatial dimensions.
        size: Side lengths of the *input*; one number stands for equal ones.
        stride: The layer's stride.
        padding_mode: ``"circular"`` or ``"zeros"``: (k - 1) // 2 positions in front (k the dilated kernel's length) and
            as many behind as give ceil(size / stride) outputs; what ``padding=k // 2`` gives an odd kernel.
            ``"valid"``: none, floor((size - k) / stride) + 1 outputs.
        dilation: The layer's dilation.
        groups: The layer's groups.
        budget: Bytes that the matrix may take; default: the package's.

    Returns:
        Shape ``(out * prod(output sizes), in * prod(sizes))``; rows and columns in the order of flattened images;
        differentiable; float64 for a float64 weight and else float32.

    Raises:
        MemoryBudgetError: If the matrix is larger than the budget; nothing has been computed then.
        ValueError: If the weight is no kernel, the settings do not fit it, or no output is left without padding.

    Example:
        >>> conv_matrix(torch.tensor([[[1.0, 2.0, 3.0]]]), 4)
        tensor([[2., 3., 0., 1.],
                [1., 2., 3., 0.],
                [0., 1., 2., 3.],
                [3., 0., 1., 2.]])
    """
    check_padding(padding_mode)
    kernel = check_kernel(weight, stride=stride, dilation=dilation, groups=groups)
    sizes = per_dimension("size", size, len(kernel.stride))
    outputs = output_size(kernel, sizes, padding_mode)
    check_budget(
        _elements(kernel, sizes, outputs) * kernel.taps.dtype.itemsize,
        budget,
        what=f"the matrix of a convolution from {_times(sizes)} to {_times(outputs)} positions",
        instead=_OTHER_WAY,
    )
    blocks = dense_matrix(kernel, sizes, padding_mode)
    return blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)  # type: ignore[no-untyped-call]


def check_padding(padding_mode: object) -> None:
    """Insist on a known padding.

    Raises:
        ValueError: If it is none of the three.
    """
    if padding_mode not in get_args(ConvPadding):
        error = unknown_name("padding_mode", padding_mode, get_args(ConvPadding))
        raise error


def output_size(kernel: Kernel, size: Sequence[int], padding_mode: str) -> tuple[int, ...]:
    """Count output positions.

    Returns:
        One number per dimension.

    Raises:
        ValueError: If there would be none.
    """
    if padding_mode != "valid":
        return tuple(-(-n // s) for n, s in zip(size, kernel.stride, strict=True))
    outputs = tuple((n - k) // s + 1 for n, k, s in zip(size, kernel.extent, kernel.stride, strict=True))
    if min(outputs) < 1:
        raise ValueError(
            f"size {tuple(size)} is smaller than the kernel, which spans {kernel.extent} positions, and nothing is "
            "padded; pass a larger size."
        )
    return outputs


def dense_matrix(kernel: Kernel, size: Sequence[int], padding_mode: str) -> Tensor:
    """Build the matrix of each group.

    Returns:
        Shape ``(groups, out / groups * outputs, in / groups * inputs)``.
    """
    outputs = output_size(kernel, size, padding_mode)
    where = [_incidence(kernel, d, n, p, padding_mode) for d, (n, p) in enumerate(zip(size, outputs, strict=True))]
    axes = _AXES[: len(size)]
    taps, rows, columns = ("".join(a[i] for a in axes) for i in range(3))
    with torch.autocast(kernel.taps.device.type, enabled=False):
        matrix: Tensor = torch.einsum(f"gmc{taps},{','.join(axes)}->gm{rows}c{columns}", kernel.taps, *where)
    groups, m, c = kernel.taps.shape[:3]
    return matrix.reshape(groups, m * math.prod(outputs), c * math.prod(size))


def _incidence(kernel: Kernel, dimension: int, inputs: int, outputs: int, padding_mode: str) -> Tensor:
    # Entry (i, p, q): how often output p reads input q through tap i (more than once where a kernel wraps around).
    taps = kernel.taps
    extent, stride = kernel.extent[dimension], kernel.stride[dimension]
    before = 0 if padding_mode == "valid" else (extent - 1) // 2
    read = stride * torch.arange(outputs)[None, :] + torch.arange(extent)[:, None] - before
    if padding_mode == "circular":
        read = read % inputs
    return (read[..., None] == torch.arange(inputs)).to(taps.device, taps.dtype)


def _elements(kernel: Kernel, size: Sequence[int], outputs: Sequence[int]) -> int:
    # The blocks, and with more than one of them the matrix that they go into; the products on the way are no larger.
    groups, m, c = kernel.taps.shape[:3]
    block = m * math.prod(outputs) * c * math.prod(size)
    return groups * block + (groups * groups * block if groups > 1 else 0)


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))
