"""The root mean square of cosh over the entries of matrices, which AuON divides by, and what it takes to be exact."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from isometry.optim._shards import Shards

__all__ = ["check_gamma", "frobenius", "over_largest_", "rms_cosh", "rms_cosh_of_unit"]


def over_largest_(matrices: Tensor, shards: Shards | None = None) -> tuple[Tensor, Tensor]:
    """Divide matrices by their largest absolute values, in place; then no square over- or underflows.

    Args:
        matrices: Shape ``(*batch, out, in)``.
        shards: Where the other rows are; None if there are none.

    Returns:
        The same tensor, and the largest values, shape ``(*batch, 1, 1)``; of a zero matrix a tiny number.
    """
    if matrices.numel():
        top, bottom = matrices.amax((-2, -1), keepdim=True), matrices.amin((-2, -1), keepdim=True)
        largest = torch.maximum(top, -bottom)
    else:  # this process has no rows
        largest = matrices.new_zeros(*matrices.shape[:-2], 1, 1)
    largest = largest if shards is None else shards.maximum(largest)
    largest = largest.clamp_min(torch.finfo(matrices.dtype).tiny)
    return matrices.div_(largest), largest


def frobenius(matrices: Tensor, shards: Shards | None = None) -> Tensor:
    """Give the Frobenius norms of matrices, row by row, which rounds less than all at once.

    Args:
        matrices: Shape ``(*batch, out, in)``.
        shards: Where the other rows are; None if there are none.

    Returns:
        Shape ``(*batch, 1, 1)``.
    """
    rows = torch.linalg.vector_norm(matrices, dim=-1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-2, keepdim=True)
    return norms if shards is None else shards.total(norms.square()).sqrt()


def rms_cosh(values: Tensor, *, entries: int, shards: Shards | None = None) -> Tensor:
    """Give the root mean square of cosh over the entries of matrices.

    Args:
        values: Shape ``(*batch, out, in)``.
        entries: How many entries a matrix has, on all processes.
        shards: Where the other rows are; None if there are none.

    Returns:
        Shape ``(*batch, 1, 1)``. What exceeds 1 is summed by itself (cosh^2 = 1 + sinh^2), not lost beside the ones.
    """
    return (1 + frobenius(torch.sinh(values), shards).square() / entries).sqrt()


def rms_cosh_of_unit(
    scaled: Tensor, norm: Tensor, inverse: Tensor, gamma: float, *, entries: int, shards: Shards | None = None
) -> Tensor:
    """Give the root mean square of cosh(gamma X) over X = ``scaled * inverse`` with |X|_F = 1, as exactly as it rounds.

    Its square is 1 + the mean of sinh(gamma x)^2. The ratio sinh(gamma x)^2 / x^2 rises with x^2 from gamma^2 to its
    value g at the largest entry, so, as the x^2 sum to 1, the sum over the N entries lies between gamma^2 and g. Where
    (g - gamma^2) / N is below a rounding, the middle of the two will do and no cosine is taken: in float32, unless
    one entry of a 400 x 400 matrix holds more than 5 % of the sum of all squares.

    Args:
        scaled: Shape ``(*batch, out, in)``; the largest absolute value of each matrix is 1.
        norm: Its Frobenius norms, shape ``(*batch, 1, 1)``.
        inverse: One over them, or less; same shape.
        gamma: The factor.
        entries: How many entries a matrix has, on all processes.
        shards: Where the other rows are; None if there are none.

    Returns:
        Shape ``(*batch, 1, 1)``.
    """
    if norm.device.type == "cpu":  # elsewhere a look from the host costs more than the cosines
        most = _most(gamma, float(norm.min()) if norm.numel() else 1.0)
        if most - gamma**2 <= entries * torch.finfo(norm.dtype).eps:
            # Half the gap over N is the error of the square, a quarter that of the root: a quarter of the epsilon.
            return (1 + (norm * inverse).square() * ((gamma**2 + most) / (2 * entries))).sqrt()
    return rms_cosh(scaled * (inverse * gamma), entries=entries, shards=shards)


def _most(gamma: float, norm: float) -> float:
    """Bound sinh(gamma x)^2 / x^2 over the entries of a matrix over its ``norm``; the largest entry of the matrix is 1.

    Returns:
        The bound; infinite for a zero matrix.
    """
    return (math.sinh(gamma / norm) * norm) ** 2 if norm >= 1 else math.inf


def check_gamma(gamma: Any, at_most: float) -> None:
    """Insist on a factor whose hyperbolic cosines stay finite, or None.

    Args:
        gamma: What was given.
        at_most: The largest that will do.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not in (0, at_most].
    """
    if gamma is None:
        return
    if isinstance(gamma, bool) or not isinstance(gamma, int | float):
        raise TypeError(f"gamma must be a number or None, got {type(gamma).__name__}; pass a float.")
    if not 0 < gamma <= at_most:
        raise ValueError(
            f"gamma must be above 0 and at most {at_most:g}, beyond which cosh overflows in float32, got {gamma}."
        )
