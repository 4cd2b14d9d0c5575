"""From L_orth of a kernel to the whole layer: how far its matrix is from an isometry, for every image size.

References:
    E. M. Achour, F. Malgouyres, F. Mamalet, Existence, stability and scalability of orthogonal convolutional neural
    networks, JMLR 23(347), 2022. arXiv:2108.05623 (the Frobenius identity and the published spectral bound)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry._base import Result, unknown_name
from isometry.linalg._conv_defect import defects
from isometry.linalg._conv_existence import ConvCase
from isometry.linalg._conv_kernel import Kernel, check_kernel, per_dimension

__all__ = ["IsometryBound", "isometry_bound"]

Kind = Literal["frobenius", "spectral"]
Form = Literal["published", "tight"]


@dataclass(frozen=True)
class IsometryBound(Result):
    """A bound on the distance of a convolution layer from an isometry.

    Attributes:
        value: The bound on the norm of A A^T - I (rows) or A^T A - I (columns).
        kind: ``"frobenius"`` (then ``value`` is that norm itself) or ``"spectral"``.
        form: Which spectral bound; None for the Frobenius norm.
        case: The orthonormal side.
        penalty: L_orth, summed over groups.
        alpha: The factor on L_orth under the root: a count of displacements, or N^d.
        low: No singular value is smaller (0 where the bound says nothing).
        high: No singular value is larger.
    """

    value: float
    kind: Kind
    form: Form | None
    case: ConvCase
    penalty: float
    alpha: float
    low: float
    high: float


def isometry_bound(
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    kind: Kind = "spectral",
    *,
    form: Form = "published",
    size: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> IsometryBound:
    """Bound |A A^T - I| (rows) or |A^T A - I| (columns) of the circular convolution A by its kernel's L_orth.

    *Spectral*: at most sqrt(alpha L_orth) for every image size. Published, with n = prod(2 floor((k - 1) / S) + 1):
    alpha = M n for rows, C prod(2 k - 1) for columns, the smaller of both where M = C S^d. Tight (ours): alpha = n.
    At a frequency, A A^T - I (or A^T A - I, between cells) is a sum of n matrices, one per displacement between outputs
    that share inputs, so its norm is at most the sum of their Frobenius norms, and that at most sqrt(n L_orth).

    *Frobenius*: exactly sqrt(N^d L_orth), for N > 2 floor((k - 1) / S) outputs a side (below that, displacements
    meet). The paper asks for S N >= 2 k - 1, which implies it.

    All singular values then lie in [sqrt(1 - value), sqrt(1 + value)]: the layer keeps norms within these factors, in
    one direction for rows (its transpose keeps them both ways), in both for columns. Without padding, A A^T - I of rows
    is a principal part of the circular one, so the spectral bound holds there too; for columns, and for zero padding,
    only ``high`` holds.

    Args:
        weight: Shape ``(out, in / groups, *kernel)``; detached.
        stride: The layer's stride.
        kind: ``"spectral"`` or ``"frobenius"``.
        form: ``"published"`` or ``"tight"``; for the spectral norm.
        size: Side lengths of the input; for the Frobenius norm only, which grows with them.
        dilation: The layer's dilation; k is then the dilated length.
        groups: The layer's groups: the spectral norm is the largest of theirs.

    Returns:
        The bound.

    Raises:
        ValueError: If ``kind`` or ``form`` is unknown, or ``size`` is missing, superfluous, or too small for the
            identity.

    Example:
        >>> kernel = torch.zeros(4, 4, 3, 3)
        >>> kernel[:, :, 1, 1] = 1.01 * torch.eye(4)
        >>> bound = isometry_bound(kernel, form="tight")
        >>> f"{bound.low:.3f} <= 1.01 <= {bound.high:.3f}"
        '0.894 <= 1.01 <= 1.096'
    """
    for argument, given, known in (("kind", kind, get_args(Kind)), ("form", form, get_args(Form))):
        if given not in known:
            error = unknown_name(argument, given, known)
            raise error
    kernel = check_kernel(weight, stride=stride, dilation=dilation, groups=groups, finite=True)
    with torch.no_grad():
        parts = defects(Kernel(kernel.taps.detach().double(), kernel.stride))
    m, cells = kernel.channels
    case: ConvCase = "square" if m == cells else "rows" if m < cells else "columns"
    if kind == "frobenius":
        alpha = float(_positions(kernel, size))
        value, named = math.sqrt(alpha * float(parts.sum())), None
    else:
        if size is not None:
            raise ValueError(f"size={size!r} has no meaning for the spectral bound, which holds for all; leave it out.")
        alpha = float(kernel.shifts if form == "tight" else _published(kernel, case))
        value, named = math.sqrt(alpha * float(parts.max())), form
    low, high = math.sqrt(max(0.0, 1 - value)), math.sqrt(1 + value)
    return IsometryBound(value, kind, named, case, float(parts.sum()), alpha, low, high)


def _published(kernel: Kernel, case: ConvCase) -> int:
    m, c = kernel.taps.shape[1:3]
    rows = m * kernel.shifts
    columns = c * math.prod(2 * k - 1 for k in kernel.extent)
    return {"rows": rows, "columns": columns, "square": min(rows, columns)}[case]


def _positions(kernel: Kernel, size: int | Sequence[int] | None) -> int:
    if size is None:
        raise ValueError("size is missing: the Frobenius norm grows with the image; pass the input's side lengths.")
    sizes = per_dimension("size", size, len(kernel.stride))
    if any(n % s for n, s in zip(sizes, kernel.stride, strict=True)):
        raise ValueError(f"size {sizes} must be a multiple of the stride {kernel.stride}, as on any ring.")
    least = tuple(s * (2 * r + 1) for s, r in zip(kernel.stride, kernel.reach, strict=True))
    if any(n < needed for n, needed in zip(sizes, least, strict=True)):
        raise ValueError(
            f"size {sizes} is too small for the identity, which takes at least {least} for a kernel of extent "
            f'{kernel.extent} and stride {kernel.stride}; pass a larger size, or kind="spectral", which holds for all.'
        )
    return math.prod(n // s for n, s in zip(sizes, kernel.stride, strict=True))
