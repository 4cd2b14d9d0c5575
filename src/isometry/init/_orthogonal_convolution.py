"""Exactly orthogonal convolution kernels of any sizes that allow one, strides included.

One tap for each position of a stride's cell that the kernel can read; on these taps a Haar-distributed matrix with
orthonormal rows or columns, zero elsewhere. Outputs then share no inputs, so that the layer is orthogonal.

References:
    E. M. Achour, F. Malgouyres, F. Mamalet, Existence, stability and scalability of orthogonal convolutional neural
    networks, JMLR 23(347), 2022. arXiv:2108.05623 (the one-hot kernels of the existence proof, here mixed at random)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isometry._base import check_positive
from isometry.init._writable import check_writable
from isometry.linalg import haar, orthogonal_convolution_exists

__all__ = ["orthogonal_convolution", "orthogonal_convolution_"]


def orthogonal_convolution_(
    kernel: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Overwrite a kernel so that the circular convolution is ``gain`` times an orthogonal map, for every image size.

    The layer has orthonormal rows where out < in * prod(stride) (per group), orthonormal columns where it is greater,
    and both where they are equal. With stride 1 this is ``delta_orthogonal_``, which sets the centre tap, and refuses
    fewer outputs than inputs unless told; a strided layer takes S taps per dimension from the centre on, as far as the
    kernel reaches. Without padding rows stay orthonormal. Under zero padding of (k - 1) // 2 the map is orthogonal too
    if those taps lie within the cell, which starts at the centre: kernels of 2 S - 1 and more.

    The weight of a transposed convolution, as stored, makes its adjoint orthogonal, so with its stride given the layer
    has orthonormal columns where it widens.

    Args:
        kernel: Shape ``(out, in / groups, *kernel)``, one to three spatial dimensions, any lengths; any real floating
            dtype; overwritten in place.
        stride: The layer's stride.
        dilation: The layer's dilation.
        groups: The layer's groups; each gets a matrix of its own.
        gain: Factor on the orthogonal map (all its singular values but the zeros of its longer side).
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``kernel``.

    Raises:
        ValueError: If the kernel cannot be written to, has no one to three spatial dimensions, is not divisible by
            ``groups``, or no orthogonal convolution of these sizes exists; the message tells why.

    Example:
        >>> conv = torch.nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False, dtype=torch.float64)
        >>> _ = orthogonal_convolution_(conv.weight, stride=2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(1, 3, 8, 8, dtype=torch.float64)
        >>> torch.allclose(conv(x).norm(), x.norm())
        True
    """
    check_writable("kernel", kernel, min_ndim=0)
    check_positive("gain", gain, zero=True)
    shape = tuple(kernel.shape)
    if not 3 <= kernel.ndim <= 5:
        raise ValueError(
            f"kernel must have 3, 4 or 5 dimensions (Conv1d, Conv2d, Conv3d), got shape {shape}; "
            "use orthogonal_ for a matrix."
        )
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or shape[0] % groups:
        raise ValueError(
            f"groups must be a whole number >= 1 that divides the first dimension, got {groups!r} for shape {shape}; "
            "pass the layer's own groups."
        )
    out, in_, lengths = shape[0] // groups, shape[1], shape[2:]
    answer = orthogonal_convolution_exists(out, in_, lengths, stride, dilation=dilation)
    if not answer:
        raise ValueError(
            f"no orthogonal convolution has a kernel of shape {shape} with stride {stride} (groups={groups}, "
            f"dilation={dilation}); {answer.reason} Change the channels, the kernel or the stride."
        )
    strides = (stride,) * len(lengths) if isinstance(stride, int) else tuple(stride)
    gaps = (dilation,) * len(lengths) if isinstance(dilation, int) else tuple(dilation)
    taken = [_taps(k, s, d) for k, s, d in zip(lengths, strides, gaps, strict=True)]
    counts = [window.stop - window.start for window in taken]
    mixing = haar(
        out,
        in_ * math.prod(counts),
        batch=(groups,),
        scale=gain,
        dtype=kernel.dtype,
        device=kernel.device,
        generator=generator,
    )
    with torch.no_grad():
        kernel.zero_()[(slice(None), slice(None), *taken)] = mixing.reshape(shape[0], in_, *counts)
    return kernel


def orthogonal_convolution(
    shape: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    gain: float = 1.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make a new kernel and fill it as ``orthogonal_convolution_`` does.

    Args:
        shape: ``(out, in / groups, *kernel)``.
        stride: The layer's stride.
        dilation: The layer's dilation.
        groups: The layer's groups.
        gain: Factor on the orthogonal map.
        dtype: Dtype of the tensor; default: torch's default dtype.
        device: Device of the tensor; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The kernel.
    """
    empty = torch.empty(tuple(shape), dtype=dtype, device=device)
    return orthogonal_convolution_(
        empty, stride=stride, dilation=dilation, groups=groups, gain=gain, generator=generator
    )


def _taps(length: int, stride: int, dilation: int) -> slice:
    # Neighbouring taps read different positions of a cell until all that the dilation can reach are read.
    count = min(length, stride // math.gcd(stride, dilation))
    first = min((length - 1) // 2, length - count)
    return slice(first, first + count)
