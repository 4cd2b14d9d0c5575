"""Delta-orthogonal convolution kernels: an orthogonal matrix on the centre tap, zero elsewhere.

With stride 1 such a convolution is an exact isometry (times the gain), which a flattened orthogonal kernel is not.

References:
    L. Xiao, Y. Bahri, J. Sohl-Dickstein, S. S. Schoenholz, J. Pennington, Dynamical isometry and a mean field theory
    of CNNs: how to train 10,000-layer vanilla convolutional neural networks, ICML 2018. arXiv:1806.05393
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry._base import check_positive
from isometry.init._writable import check_writable
from isometry.linalg import haar

__all__ = ["delta_orthogonal", "delta_orthogonal_"]


def delta_orthogonal_(
    kernel: Tensor,
    *,
    gain: float = 1.0,
    groups: int = 1,
    transposed: bool = False,
    contracting: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Overwrite a convolution kernel so that the convolution keeps norms, up to the factor ``gain``.

    Only the centre tap is set: per group, to ``gain`` times a Haar-distributed matrix with orthonormal columns. The
    centre is tap ``(k - 1) // 2`` in every direction: the middle one of an odd kernel, the left one of the two middle
    ones of an even kernel, which is the tap that ``padding="same"`` leaves unshifted. Under circular padding any tap
    would keep norms; under zero padding of ``(k - 1) // 2`` or more this one does too, as it never reads the padding.
    A strided convolution drops positions and so keeps no norms; a strided *transposed* one does.

    A convolution with fewer output than input channels (per group) cannot keep norms: its null space is not trivial,
    so some inputs go to zero. That is refused, unless ``contracting=True`` asks for what comes nearest: orthonormal
    *rows*, so that the map stretches nothing, and keeps the norm of what it does not drop.

    Args:
        kernel: Shape ``(out, in / groups, *kernel)`` of Conv1d, Conv2d or Conv3d, or with ``transposed``
            ``(in, out / groups, *kernel)``; any real floating dtype; overwritten in place.
        gain: Factor on the orthonormal matrix (all its singular values).
        groups: The layer's ``groups``; each group gets its own independent matrix.
        transposed: Whether the kernel belongs to a transposed convolution.
        contracting: Accept fewer output than input channels and make the rows orthonormal then.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``kernel``.

    Raises:
        ValueError: If the kernel cannot be written to, has no spatial dimension or more than three, is not divisible
            by ``groups``, or maps to fewer channels than it reads.

    Example:
        >>> conv = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False, dtype=torch.float64)
        >>> _ = delta_orthogonal_(conv.weight, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(1, 4, 5, 5, dtype=torch.float64)
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
    first, second = shape[0] // groups, shape[1]
    out, in_ = (second, first) if transposed else (first, second)
    if out < in_ and not contracting:
        raise ValueError(
            f"kernel (shape {shape}, groups={groups}, transposed={transposed}) maps {in_} channels to {out} in each "
            "group, and no such map keeps norms: some inputs go to zero. Widen the layer, or pass contracting=True for "
            "orthonormal rows (nothing is stretched, some directions are dropped)."
        )
    taps = haar(out, in_, batch=(groups,), scale=gain, dtype=kernel.dtype, device=kernel.device, generator=generator)
    stored = taps.mT if transposed else taps
    with torch.no_grad():
        tap = kernel.zero_()
        for length in shape[2:]:
            tap = tap.select(2, (length - 1) // 2)
        tap.copy_(stored.reshape(shape[0], shape[1]))
    return kernel


def delta_orthogonal(
    shape: Sequence[int],
    *,
    gain: float = 1.0,
    groups: int = 1,
    transposed: bool = False,
    contracting: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make a new kernel and fill it as ``delta_orthogonal_`` does.

    Args:
        shape: ``(out, in / groups, *kernel)``, or with ``transposed`` ``(in, out / groups, *kernel)``.
        gain: Factor on the orthonormal matrix.
        groups: The layer's ``groups``.
        transposed: Whether the kernel belongs to a transposed convolution.
        contracting: Accept fewer output than input channels and make the rows orthonormal then.
        dtype: Dtype of the tensor; default: torch's default dtype.
        device: Device of the tensor; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The kernel.
    """
    empty = torch.empty(tuple(shape), dtype=dtype, device=device)
    return delta_orthogonal_(
        empty, gain=gain, groups=groups, transposed=transposed, contracting=contracting, generator=generator
    )
