"""The penalty that draws a convolution towards an orthogonal map: L_orth, with what each padding makes of it.

References:
    J. Wang, Y. Chen, R. Chakraborty, S. X. Yu, Orthogonal convolutional neural networks, CVPR 2020. arXiv:1911.12207
    E. M. Achour, F. Malgouyres, F. Mamalet, Existence, stability and scalability of orthogonal convolutional neural
    networks, JMLR 23(347), 2022. arXiv:2108.05623
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from isometry._base import unknown_name
from isometry.linalg import ConvPadding, conv_defect, orthogonal_convolution_exists

__all__ = ["orthogonal_convolution_penalty"]


def orthogonal_convolution_penalty(
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding_mode: ConvPadding = "circular",
    *,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Give a penalty that is zero exactly where the convolution is orthogonal, whatever the image's size.

    Orthogonal means orthonormal rows for M <= C S^d (M outputs, C inputs, stride S), and else orthonormal columns.

    *Circular*: L_orth of ``linalg.conv_defect``, which is |A A^T - I|_F^2 or |A^T A - I|_F^2 of the layer's matrix per
    output position. Use it in training for zero padding too: it then governs all of the image but its border, and
    bounds the largest singular value (``linalg.isometry_bound``); it is not exact there. A kernel that shifts by one
    pixel has L_orth = 0, and loses a line of pixels under zero padding.

    *Zeros* (that keep the size): L_orth plus the squares of all taps outside the stride's cell, |K_outside|^2. A zero
    padded convolution can only be orthogonal without these taps: with stride 1 only the centre is left, and the
    penalty makes the convolution pointwise. That is the mathematics of exactness, and seldom what one wants to train.

    *Valid* (no padding): L_orth for M <= C S^d, where it is exact. For more output channels it can only be exact where
    windows tile the image (kernel = stride), and is refused otherwise.

    Where no orthogonal convolution of these sizes exists (``orthogonal_convolution_exists``), the penalty is still
    defined and stays above zero.

    Args:
        weight: Shape ``(out, in / groups, *kernel)``, one to three spatial dimensions of any lengths, odd or even. A
            transposed convolution's weight, as stored, gives the penalty of its adjoint, which is its own.
        stride: The layer's stride.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"valid"``.
        dilation: The layer's dilation.
        groups: The layer's groups; their penalties add up.

    Returns:
        A scalar, differentiable; computed in float32 at the least, under autocast as well.

    Raises:
        TypeError: If a setting is not whole, or the weight not real floating point.
        ValueError: If the weight is no kernel, the settings do not fit it, or no orthogonal convolution exists without
            padding.

    Example:
        >>> shift = torch.zeros(1, 1, 3)
        >>> shift[..., 2] = 1
        >>> [float(orthogonal_convolution_penalty(shift, padding_mode=mode)) for mode in ("circular", "zeros", "valid")]
        [0.0, 1.0, 0.0]
    """
    if padding_mode not in get_args(ConvPadding):
        error = unknown_name("padding_mode", padding_mode, get_args(ConvPadding))
        raise error
    penalty = conv_defect(weight, stride=stride, dilation=dilation, groups=groups)
    if padding_mode == "valid":
        _check_valid(weight, stride, dilation, groups)
    if padding_mode == "zeros":
        penalty = penalty + _outside_the_cell(weight, stride, dilation).to(penalty.dtype)
    return penalty


def _check_valid(weight: Tensor, stride: int | Sequence[int], dilation: int | Sequence[int], groups: int) -> None:
    outputs, inputs, *kernel = weight.shape
    answer = orthogonal_convolution_exists(outputs // groups, inputs, kernel, stride, "valid", dilation=dilation)
    if answer.case == "columns" and not answer:
        raise ValueError(
            f'padding_mode="valid": no such convolution is orthogonal; {answer.reason} Pass padding_mode="circular" '
            "for the penalty that governs the image without its border."
        )


def _outside_the_cell(weight: Tensor, stride: int | Sequence[int], dilation: int | Sequence[int]) -> Tensor:
    kernel = weight.shape[2:]
    strides = (stride,) * len(kernel) if isinstance(stride, int) else tuple(stride)
    gaps = (dilation,) * len(kernel) if isinstance(dilation, int) else tuple(dilation)
    inside = torch.ones(kernel, dtype=torch.bool)
    for axis, (k, s, d) in enumerate(zip(kernel, strides, gaps, strict=True)):
        offsets = d * torch.arange(k) - d * (k - 1) // 2  # from the first input of the output's own cell
        inside &= ((offsets >= 0) & (offsets < s)).reshape(-1, *[1] * (len(kernel) - axis - 1))
    wide = weight.to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    return wide[..., ~inside.to(weight.device)].square().sum()
