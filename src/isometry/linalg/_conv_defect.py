"""How far a convolution is from an orthogonal one, from its kernel alone: L_orth, for every size of the image at once.

References:
    E. M. Achour, F. Malgouyres, F. Mamalet, Existence, stability and scalability of orthogonal convolutional neural
    networks, JMLR 23(347), 2022. arXiv:2108.05623
    J. Wang, Y. Chen, R. Chakraborty, S. X. Yu, Orthogonal convolutional neural networks, CVPR 2020. arXiv:1911.12207
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.linalg._conv_kernel import Kernel, check_kernel, half_shifts

__all__ = ["conv_defect", "defects"]

_SMALL = 256  # taps times channels of the correlated side: below, the number of calls is what costs


def conv_defect(
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Give L_orth of a kernel, the squared distance of the circular convolution from an orthogonal one, per position.

    Let G[p] = sum_i K[i + S p] K[i]^T, the kernel's correlation with itself at the displacement p between outputs; an
    M x M matrix for each of the prod(2 floor((k - 1) / S) + 1) displacements that share inputs. Then

        L_orth = sum_p |G[p] - delta_p I|_F^2                      (M <= C S^d: orthonormal rows)
        L_orth = sum_p |G[p] - delta_p I|_F^2 - (M - C S^d)        (M >= C S^d: orthonormal columns)

    and for every image whose output has N > 2 floor((k - 1) / S) positions a side, under circular padding, N^d L_orth
    is |A A^T - I|_F^2, or |A^T A - I|_F^2 for columns, of the whole layer A. The second line is computed as what it
    equals, the same sum over the columns' correlations, which are smaller matrices, never negative, and exact near zero
    where the published form subtracts two numbers of size M.

    Correlations at p and -p are transposes, so of large kernels half are formed: k^(2 d) / 2 products of matrices.

    Args:
        weight: Shape ``(out, in / groups, *kernel)``, one to three spatial dimensions of any lengths, odd or even. The
            weight of a transposed convolution, as stored, belongs to the adjoint map and has the same singular values.
        stride: The layer's stride.
        dilation: The layer's dilation.
        groups: The layer's groups; each is a convolution of its own, and they add up.

    Returns:
        A scalar, differentiable, float64 for a float64 weight and else float32; under autocast as well.

    Raises:
        TypeError: If a setting is not whole, or the weight not real floating point.
        ValueError: If the weight is no kernel, or the settings do not fit it.

    Example:
        >>> shift = torch.zeros(1, 1, 3)
        >>> shift[..., 2] = 1  # moves the signal by one place
        >>> float(conv_defect(shift)), float(conv_defect(2 * shift))
        (0.0, 9.0)
    """
    return defects(check_kernel(weight, stride=stride, dilation=dilation, groups=groups)).sum()


def defects(kernel: Kernel) -> Tensor:
    """Compute L_orth group by group.

    Returns:
        Shape ``(groups,)``.
    """
    taps = kernel.polyphase()
    rows, columns = kernel.channels
    if rows > columns:  # correlate columns: A^T is the convolution with the flipped, transposed kernel
        taps = taps.transpose(1, 2).flip(tuple(range(3, taps.ndim)))
    small = taps[:, :, 0].numel() <= _SMALL * len(taps)
    with torch.autocast(taps.device.type, enabled=False):  # matrix products only: convolutions may round to TF32
        return _of_all_pairs(taps, kernel) if small else _by_displacement(taps, kernel)


def _by_displacement(taps: Tensor, kernel: Kernel) -> Tensor:
    total = torch.zeros(len(taps), dtype=taps.dtype, device=taps.device)
    for shift in half_shifts(kernel.reach):
        ahead = behind = taps
        for axis, (p, n) in enumerate(zip(shift, taps.shape[3:], strict=True), start=3):
            ahead = ahead.narrow(axis, max(0, p), n - abs(p))
            behind = behind.narrow(axis, max(0, -p), n - abs(p))
        gram = ahead.flatten(2) @ behind.flatten(2).mT
        if any(shift):
            total = total + 2 * gram.square().sum(dim=(-2, -1))
        else:
            total = total + (gram - _identity(gram)).square().sum(dim=(-2, -1))
    return total


def _of_all_pairs(taps: Tensor, kernel: Kernel) -> Tensor:
    # One product of all taps with all taps, then sums over the pairs at equal displacement: few calls, more numbers.
    groups, side = taps.shape[:2]
    lengths = taps.shape[3:]
    count = lengths.numel()
    lines = taps.flatten(3).permute(0, 3, 1, 2).flatten(1, 2)  # (groups, taps * side, channels)
    pairs = (lines @ lines.mT).reshape(groups, count, side, count, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
    places = torch.cartesian_prod(*map(torch.arange, lengths)).reshape(count, -1)
    widths = [2 * r + 1 for r in kernel.reach]
    index = torch.zeros(count, count, dtype=torch.int64)
    for axis, (r, width) in enumerate(zip(kernel.reach, widths, strict=True)):
        index = index * width + (places[:, None, axis] - places[None, :, axis] + r)
    sums = torch.zeros(kernel.shifts, groups, side, side, dtype=taps.dtype, device=taps.device)
    grams = sums.index_add(0, index.flatten().to(taps.device), pairs)
    at_zero = torch.zeros(kernel.shifts, 1, 1, 1, dtype=taps.dtype, device=taps.device)
    at_zero[kernel.shifts // 2] = 1
    return (grams - at_zero * _identity(grams)).square().sum(dim=(0, 2, 3))


def _identity(gram: Tensor) -> Tensor:
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
