"""All singular values of a convolution layer: by Fourier transform under circular padding, dense for the others.

Under circular padding the layer is block diagonal in frequency. With the stride folded away (cells of S^d positions as
channels) there is one matrix of size M x (C S^d) for each of the N^d output frequencies, the sum over taps j of
P[j] exp(2 pi i f j / N); its singular values are the layer's. That is the same as putting the S^d input frequencies
that alias to one output frequency side by side, divided by S^(d / 2).

References:
    H. Sedghi, V. Gupta, P. M. Long, The singular values of convolutional layers, ICLR 2019. arXiv:1805.10408 (stride 1)
    E. M. Achour, F. Malgouyres, F. Mamalet, Existence, stability and scalability of orthogonal convolutional neural
    networks, JMLR 23(347), 2022. arXiv:2108.05623
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_budget, stopwatch
from isometry.linalg._conv_existence import ConvPadding
from isometry.linalg._conv_kernel import Kernel, check_kernel, per_dimension
from isometry.linalg._conv_matrix import check_padding, dense_matrix, output_size
from isometry.linalg._svd import svdvals

__all__ = ["ConvSingularValues", "conv_singular_values"]

_CHUNK = 1 << 22  # entries of the frequencies' matrices that are held at once


@dataclass(frozen=True)
class ConvSingularValues(Result):
    """The singular values of a convolution layer.

    Attributes:
        values: All of them, descending; as many as the shorter side of the layer's matrix has.
        shape: Rows and columns of the layer's matrix.
        method: ``"fourier"`` or ``"dense"``.
        residual: ``abs(|values|^2 - |A|_F^2) / |A|_F^2``, the norm taken from the kernel.
        dtype: The dtype of the decompositions.
        cost: What it took.
    """

    values: Tensor
    shape: tuple[int, int]
    method: Literal["fourier", "dense"]
    residual: float
    dtype: torch.dtype
    cost: Cost

    @property
    def largest(self) -> float:
        """The spectral norm of the layer: its Lipschitz constant."""
        return float(self.values[0])

    @property
    def smallest(self) -> float:
        """The smallest of the singular values."""
        return float(self.values[-1])

    @property
    def defect(self) -> float:
        """The largest abs(s^2 - 1): the spectral norm of A A^T - I, or of A^T A - I where that is smaller."""
        return float((self.values.double().square() - 1).abs().max())


def conv_singular_values(
    weight: Tensor,
    size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding_mode: ConvPadding = "circular",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    budget: int | None = None,
) -> ConvSingularValues:
    """Compute every singular value of a convolution between images of a given size.

    Circular padding with a stride that divides the size costs N^d small decompositions, half of them by conjugate
    symmetry, and little memory. Other paddings (and other sizes) have no such structure: the dense matrix is formed.

    Args:
        weight: Shape ``(out, in / groups, *kernel)``, one to three spatial dimensions; detached.
        size: Side lengths of the *input*; one number stands for equal ones. The kernel may be longer: it wraps around.
        stride: The layer's stride.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"valid"``, as in ``conv_matrix``.
        dilation: The layer's dilation.
        groups: The layer's groups.
        budget: Bytes that may be held; default: the package's.

    Returns:
        The values with a check on their sum of squares.

    Raises:
        MemoryBudgetError: If more than the budget would be held; nothing has been computed then.
        ValueError: If the weight is no kernel or not finite, or the settings do not fit it.

    Example:
        >>> found = conv_singular_values(torch.tensor([[[2.0, 1.0]]]), 4)
        >>> found.values, found.method
        (tensor([3.0000, 2.2361, 2.2361, 1.0000]), 'fourier')
    """
    check_padding(padding_mode)
    kernel = check_kernel(weight, stride=stride, dilation=dilation, groups=groups, finite=True)
    kernel = Kernel(kernel.taps.detach(), kernel.stride)
    sizes = per_dimension("size", size, len(kernel.stride))
    outputs = output_size(kernel, sizes, padding_mode)
    count, m, c = kernel.taps.shape[:3]
    shape = (count * m * math.prod(outputs), count * c * math.prod(sizes))
    block = (shape[0] // count) * (shape[1] // count)
    divides = all(n % s == 0 for n, s in zip(sizes, kernel.stride, strict=True))
    fourier = padding_mode == "circular" and divides
    with torch.no_grad(), stopwatch() as watch:
        held = _entries(kernel, outputs) if fourier else 3 * block * count
        allowed = check_budget(
            held * kernel.taps.dtype.itemsize,
            budget,
            what=f"the spectrum of a convolution with a matrix of {shape[0]} x {shape[1]} ({padding_mode} padding)",
            instead='Pass padding_mode="circular" (which bounds the others\' largest value), ask golub_kahan for the '
            "extremes with the layer as a product, choose a smaller size,",
        )
        values = (
            _by_frequency(kernel, outputs) if fourier else svdvals(dense_matrix(kernel, sizes, padding_mode)).values
        )
        values = values.flatten().sort(descending=True).values
        norm = _frobenius(kernel, sizes, outputs, padding_mode)
        found = float(values.double().square().sum())
    residual = abs(found - norm) / norm if norm > 0 else found
    cost = Cost(bytes=allowed, seconds=watch.seconds)
    return ConvSingularValues(values, shape, "fourier" if fourier else "dense", residual, kernel.taps.dtype, cost)


def _entries(kernel: Kernel, outputs: Sequence[int]) -> int:
    # A chunk of complex matrices, their copy in the decomposition, and twice the values.
    m, c = kernel.channels
    half = math.prod(outputs[:-1]) * (outputs[-1] // 2 + 1)
    matrices = min(half, _frequencies_at_once(kernel)) * len(kernel.taps) * m * c
    return 4 * matrices + 2 * len(kernel.taps) * min(m, c) * math.prod(outputs)


def _frequencies_at_once(kernel: Kernel) -> int:
    m, c = kernel.channels
    return max(1, _CHUNK // max(len(kernel.taps) * m * c, math.prod(r + 1 for r in kernel.reach)))


def _by_frequency(kernel: Kernel, outputs: Sequence[int]) -> Tensor:
    taps = kernel.polyphase()
    lengths = taps.shape[3:]
    matrices = taps.flatten(3).movedim(3, 0).flatten(1)  # (taps, groups * M * C S^d)
    places = torch.cartesian_prod(*(torch.arange(n) for n in lengths)).reshape(-1, len(lengths))
    half = [*outputs[:-1], outputs[-1] // 2 + 1]  # the other half are complex conjugates
    frequencies = torch.cartesian_prod(*(torch.arange(n) for n in half)).reshape(-1, len(half))
    # A turn f j / N, taken modulo one while it is still exact in integers.
    common = math.lcm(*outputs)
    weights = torch.tensor([common // n for n in outputs])
    found = []
    for part in torch.split(frequencies, _frequencies_at_once(kernel)):
        angle = 2 * math.pi / common * ((part * weights) @ places.mT % common).double()
        phases = torch.polar(torch.ones_like(angle), angle).to(taps.device, taps.dtype.to_complex())
        transfer = (phases @ matrices.to(phases.dtype)).reshape(len(part), *taps.shape[:3])
        # LAPACK's complex routine answers NaN to denormal numbers: what is below a rounding of a rounding is zero.
        size = transfer.abs()
        unit = size.amax().clamp_min(torch.finfo(size.dtype).tiny)
        transfer = torch.where(size < unit * torch.finfo(size.dtype).eps ** 2, 0, transfer)
        values = torch.linalg.svdvals(transfer)
        last = part[:, -1].to(taps.device)
        alone = (last == 0) | (2 * last == outputs[-1])
        found += [values, values[~alone]]
    return torch.cat([v.flatten() for v in found])


def _frobenius(kernel: Kernel, size: Sequence[int], outputs: Sequence[int], padding_mode: str) -> float:
    # |A|_F^2: every tap counts as often as it falls on the image; on a ring taps that meet add up first.
    taps = kernel.taps.double()
    if padding_mode == "circular":
        for d, n in enumerate(size):
            place = torch.arange(taps.shape[3 + d], device=taps.device) % n
            taps = torch.zeros_like(taps.narrow(3 + d, 0, 1)).repeat_interleave(n, 3 + d).index_add(3 + d, place, taps)
        return float(taps.square().sum()) * math.prod(outputs)
    square = taps.square()
    for d, (n, p) in enumerate(zip(size, outputs, strict=True)):
        extent, stride = kernel.extent[d], kernel.stride[d]
        before = 0 if padding_mode == "valid" else (extent - 1) // 2
        read = stride * torch.arange(p)[None, :] + torch.arange(extent)[:, None] - before
        times = ((read >= 0) & (read < n)).sum(1).to(square.device, square.dtype)
        square = square * times.reshape(-1, *[1] * (len(size) - d - 1))
    return float(square.sum())
