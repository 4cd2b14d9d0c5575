"""Weights of low rank at the norm of full-rank ones: a Gaussian matrix, cut to its leading singular directions.

At equal Frobenius norm low-rank recurrent weights push learning towards the rich regime (features change), full-rank
ones towards the lazy regime; see ``measure.laziness``.

References:
    Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown, G. Lajoie, How connectivity structure shapes rich and
    lazy learning in neural circuits, ICLR 2024. arXiv:2310.08513
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from isometry._base import check_positive, unknown_name
from isometry.init._writable import check_writable
from isometry.linalg import standard_normal, svd

__all__ = ["Preserve", "check_preserve", "check_rank", "low_rank", "low_rank_", "truncated", "write"]

Preserve: TypeAlias = Literal["frobenius", "spectral", "none"]


def low_rank_(
    tensor: Tensor,
    rank: int,
    *,
    preserve: Preserve = "frobenius",
    sigma: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Overwrite a weight with a matrix of the given rank: W0 = U S V^T with entries N(0, sigma^2 / fan_in), cut to W_r.

    W_r = U_r S_r V_r^T is then scaled by |W0| / |W_r|. The norm decides what ranks are compared at: at equal Frobenius
    norm a lower rank has larger singular values (its largest grows by about sqrt(fan_in / (4 rank)) for square
    weights), and a recurrent network may become unstable.

    Args:
        tensor: Shape ``(out, in, *kernel)``, read as the matrix ``(out, in * prod(kernel))``; overwritten in place.
        rank: From 1 to the smaller side of the matrix.
        preserve: The norm that stays that of W0: "frobenius", or "spectral", which cutting keeps by itself, so that it
            is the same as "none" here.
        sigma: Standard deviation of W0's entries times sqrt(fan_in); g in the paper.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``tensor``.

    Raises:
        TypeError: If the tensor is not real floating point.
        ValueError: If the tensor cannot be written to, or an option is out of range.

    Example:
        >>> w = low_rank_(torch.empty(50, 50, dtype=torch.float64), 3, generator=torch.Generator().manual_seed(0))
        >>> int(torch.linalg.matrix_rank(w)), round(float(w.norm()) / 50**0.5, 1)
        (3, 1.0)
    """
    check_writable("tensor", tensor, min_ndim=0)
    check_positive("sigma", sigma, zero=True)
    check_preserve(preserve)
    if tensor.ndim < 2:
        raise ValueError(
            f"tensor must have at least 2 dimensions (out, in), got shape {tuple(tensor.shape)}; vectors have no rank."
        )
    rows, columns = tensor.shape[0], tensor[0].numel()
    check_rank(rank, rows, columns)
    draw = standard_normal((rows, columns), dtype=tensor.dtype, device=tensor.device, generator=generator)
    matrix = truncated(draw.double(), rank)
    if preserve == "frobenius":
        matrix *= draw.double().norm() / matrix.norm()
    matrix *= sigma / math.sqrt(columns)
    return write(tensor, matrix)


def low_rank(
    shape: Sequence[int],
    rank: int,
    *,
    preserve: Preserve = "frobenius",
    sigma: float = 1.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make a new tensor and fill it as ``low_rank_`` does.

    Args:
        shape: ``(out, in, *kernel)``.
        rank: From 1 to the smaller side of the matrix.
        preserve: The norm that stays that of a full-rank draw.
        sigma: Standard deviation of that draw's entries times sqrt(fan_in).
        dtype: Dtype of the tensor; default: torch's default dtype.
        device: Device of the tensor; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The tensor.
    """
    empty = torch.empty(tuple(shape), dtype=dtype, device=device)
    return low_rank_(empty, rank, preserve=preserve, sigma=sigma, generator=generator)


def check_preserve(preserve: str) -> None:
    """Insist on a known norm.

    Raises:
        unknown_name: If it is not known (a ValueError).
    """
    if preserve not in get_args(Preserve):
        raise unknown_name("preserve", preserve, get_args(Preserve))


def check_rank(rank: int, rows: int, columns: int) -> None:
    """Insist on a rank that a matrix can have.

    Raises:
        ValueError: If it is not a whole number from 1 to the smaller side.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(rows, columns):
        raise ValueError(
            f"rank must be a whole number from 1 to {min(rows, columns)}, the smaller side of {rows} x {columns}, got "
            f"{rank!r}."
        )


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Give the best approximation of a rank: U_r S_r V_r^T.

    Returns:
        A new matrix; exactly the given one's values at full rank.
    """
    if rank == min(matrix.shape):
        return matrix.clone()
    found = svd(matrix)
    return (found.u[:, :rank] * found.values[:rank]) @ found.vh[:rank]


def write(tensor: Tensor, matrix: Tensor) -> Tensor:
    """Write a float64 matrix into a weight, rounded to float32 first where the weight is of lower precision.

    Returns:
        The weight.
    """
    with torch.no_grad():
        return tensor.copy_((matrix if tensor.dtype == torch.float64 else matrix.float()).view(tensor.shape))
