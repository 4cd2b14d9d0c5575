"""How the convolution routines read a kernel: groups apart, taps of a dilated one spread out, strides folded away.

A convolution of stride S is one of stride 1 between the cells of S input positions that it jumps over: with the cell's
positions as further channels, ``P[(c, r)][j] = K[c][S j + r]`` (its polyphase components). All that is said about
stride 1 then holds for every stride.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from isometry._base import check_finite
from isometry.linalg._precision import check_matrix, check_size, working_dtype

__all__ = ["Kernel", "check_kernel", "conv_extent", "cosets", "half_shifts", "per_dimension"]

_SPATIAL = (1, 2, 3)


class Kernel(NamedTuple):
    """A checked kernel.

    Attributes:
        taps: Shape ``(groups, out / groups, in / groups, *kernel)``, dilation written out as zeros, float32 or float64.
        stride: One stride per spatial dimension.
    """

    taps: Tensor
    stride: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Input positions from the first to the last tap, per dimension."""
        return tuple(self.taps.shape[3:])

    @property
    def reach(self) -> tuple[int, ...]:
        """How many output positions away two outputs still share an input: floor((k - 1) / S), per dimension."""
        return tuple((k - 1) // s for k, s in zip(self.extent, self.stride, strict=True))

    @property
    def shifts(self) -> int:
        """Number of displacements between outputs that share inputs, both signs and zero: prod(2 reach + 1)."""
        return math.prod(2 * r + 1 for r in self.reach)

    @property
    def channels(self) -> tuple[int, int]:
        """Output channels, and input channels times the positions of a cell, in one group: M and C S^d."""
        return self.taps.shape[1], self.taps.shape[2] * math.prod(self.stride)

    def polyphase(self) -> Tensor:
        """Fold the stride away.

        Returns:
            Shape ``(groups, out / groups, in / groups * prod(stride), *taps)``, the kernel between cells.
        """
        taps = self.taps
        lengths = [r + 1 for r in self.reach]
        short = [n * s - k for n, s, k in zip(lengths, self.stride, self.extent, strict=True)]
        if any(short):
            taps = functional.pad(taps, [amount for length in reversed(short) for amount in (0, length)])
        split = [part for n, s in zip(lengths, self.stride, strict=True) for part in (n, s)]
        taps = taps.reshape(*taps.shape[:3], *split)
        dims = range(len(self.stride))
        taps = taps.permute(0, 1, 2, *(4 + 2 * d for d in dims), *(3 + 2 * d for d in dims))
        return taps.reshape(*taps.shape[:2], -1, *lengths)


def check_kernel(
    weight: object,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    finite: bool = False,
) -> Kernel:
    """Check a kernel and its layer's settings.

    Returns:
        The kernel, differentiably, in float32 or float64.

    Raises:
        ValueError: If it is no kernel of a convolution of one to three dimensions, or its groups do not fit.
    """
    tensor = check_matrix("weight", weight, finite=False)
    shape = tuple(tensor.shape)
    if tensor.ndim - 2 not in _SPATIAL:
        raise ValueError(
            f"weight must have 3, 4 or 5 dimensions (out, in / groups, *kernel), got shape {shape}; a matrix is the "
            "weight of a dense layer, or of a pointwise convolution once it is reshaped to (out, in, 1, 1)."
        )
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or shape[0] % groups:
        raise ValueError(
            f"groups must be a whole number >= 1 that divides the first dimension, got {groups!r} for shape {shape}; "
            "pass the layer's own groups."
        )
    strides = per_dimension("stride", stride, len(shape) - 2)
    gaps = per_dimension("dilation", dilation, len(shape) - 2)
    if finite:
        check_finite("weight", tensor)
    taps = tensor.to(working_dtype(tensor.dtype)).reshape(groups, shape[0] // groups, *shape[1:])
    return Kernel(_spread(taps, gaps), strides)


def per_dimension(argument: str, value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """Read a setting that is one number or one per spatial dimension.

    Returns:
        One number per dimension.

    Raises:
        ValueError: If there are more or fewer numbers than dimensions.
    """
    values = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(values) != dimensions:
        raise ValueError(
            f"{argument} must be one number, or one for each of the {dimensions} spatial dimensions, got {value!r}."
        )
    for number in values:
        check_size(argument, number)
    return values


def conv_extent(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Give the input positions that a kernel spans.

    Returns:
        dilation (k - 1) + 1 per dimension.
    """
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


def cosets(kernel: int, stride: int, dilation: int) -> int:
    """Count the positions of a cell of ``stride`` inputs that some tap reads, in one dimension.

    Returns:
        min(k, S) without dilation; in general min(k, S / gcd(S, dilation)).
    """
    return min(kernel, stride // math.gcd(stride, dilation))


def half_shifts(reach: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Go through one of each pair of opposite displacements, zero first.

    Yields:
        Displacements in output positions.
    """
    zero = (0,) * len(reach)
    yield zero
    for shift in itertools.product(*(range(-r, r + 1) for r in reach)):
        if shift > zero:
            yield shift


def _spread(taps: Tensor, dilation: tuple[int, ...]) -> Tensor:
    if all(d == 1 for d in dilation):
        return taps
    extent = conv_extent(taps.shape[3:], dilation)
    spread = torch.zeros(*taps.shape[:3], *extent, dtype=taps.dtype, device=taps.device)
    places = (slice(None),) * 3 + tuple(slice(None, None, d) for d in dilation)
    spread[places] = taps
    return spread
