"""Weights from a given connectivity: blocks, chains, clusters, measured wiring, Dale's law, and their shuffled nulls.

The structure comes from a matrix, the scale from the norm that a Gaussian weight of the same shape has on average, so
that structured and unstructured networks start at equal norm and differ in structure alone.

References:
    Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown, G. Lajoie, How connectivity structure shapes rich and
    lazy learning in neural circuits, ICLR 2024. arXiv:2310.08513
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from isometry._base import check_finite, check_positive, check_tensor, unknown_name
from isometry.init._low_rank import Preserve, check_preserve, check_rank, truncated, write
from isometry.init._writable import check_writable
from isometry.linalg import standard_normal, svdvals

__all__ = ["Shuffle", "from_connectivity", "from_connectivity_"]

Shuffle: TypeAlias = Literal["none", "entries", "within-columns"]


def from_connectivity_(
    tensor: Tensor,
    connectivity: Tensor,
    *,
    signs: Tensor | None = None,
    rank: int | None = None,
    shuffle: Shuffle = "none",
    preserve: Preserve = "frobenius",
    sigma: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Overwrite a weight with a given connectivity, at the norm of a Gaussian weight.

    A boolean connectivity says which connections exist; their strengths are drawn from N(0, 1). A real-valued one gives
    the strengths themselves. Then, in this order: ``signs`` replaces the signs column by column (Dale's law: a unit
    excites or inhibits all that it projects to), ``rank`` cuts to the leading singular directions, ``shuffle`` permutes
    entries, and the whole is scaled to ``preserve``. Cutting fills in connections that were not there and does not keep
    signs.

    Args:
        tensor: The weight, (out, in); a column holds what one input unit projects to. Overwritten in place.
        connectivity: (out, in), boolean or real.
        signs: (in,), +1 for excitatory and -1 for inhibitory units.
        rank: Cut to this rank; None keeps the connectivity's own.
        shuffle: "entries" permutes all entries, the null that keeps the distribution of strengths but no structure;
            "within-columns" permutes each column by itself, which keeps Dale's law; "none" does neither.
        preserve: "frobenius" gives the norm sigma sqrt(out) that N(0, sigma^2 / in) entries have on average; "spectral"
            the largest singular value sigma (1 + sqrt(out / in)) that they have at large sizes; "none" leaves the
            connectivity's own scale, times sigma.
        sigma: The scale, g in the paper.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``tensor``.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the tensor cannot be written to, shapes do not fit, an option is out of range, or no connection
            is left.
        unknown_name: If ``shuffle`` is unknown (a ValueError).

    Example:
        >>> clusters = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2)).bool()
        >>> w = from_connectivity_(torch.empty(5, 5), clusters, signs=torch.tensor([1, 1, -1, 1, -1]))
        >>> bool((w[:, 2] <= 0).all()), bool((w[3:, :3] == 0).all()), round(float(w.norm()), 4)  # sqrt(5)
        (True, True, 2.2361)
    """
    check_writable("tensor", tensor, min_ndim=0)
    check_preserve(preserve)
    check_positive("sigma", sigma, zero=True)
    if shuffle not in get_args(Shuffle):
        raise unknown_name("shuffle", shuffle, get_args(Shuffle))
    if tensor.ndim != 2:
        raise ValueError(f"tensor must have 2 dimensions (out, in), got shape {tuple(tensor.shape)}; pass one matrix.")
    matrix = _strengths(tensor, connectivity, generator)
    if signs is not None:
        matrix = matrix.abs() * _check_signs(signs, matrix)
    if rank is not None:
        check_rank(rank, *matrix.shape)
        matrix = truncated(matrix, rank)
    if shuffle != "none":
        matrix = _shuffled(matrix, shuffle, generator)
    return write(tensor, sigma * _target(matrix, preserve) * matrix)


def from_connectivity(
    connectivity: Tensor,
    *,
    signs: Tensor | None = None,
    rank: int | None = None,
    shuffle: Shuffle = "none",
    preserve: Preserve = "frobenius",
    sigma: float = 1.0,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make a new tensor on the connectivity's device and fill it as ``from_connectivity_`` does.

    Args:
        connectivity: (out, in), boolean or real.
        signs: (in,), +1 for excitatory and -1 for inhibitory units.
        rank: Cut to this rank.
        shuffle: "entries", "within-columns" or "none".
        preserve: Which norm of a Gaussian weight the tensor gets.
        sigma: The scale.
        dtype: Dtype of the tensor; default: torch's default dtype.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The tensor, (out, in).
    """
    given = check_tensor("connectivity", connectivity, ndim=2)
    empty = torch.empty(given.shape, dtype=dtype, device=given.device)
    return from_connectivity_(
        empty, given, signs=signs, rank=rank, shuffle=shuffle, preserve=preserve, sigma=sigma, generator=generator
    )


def _strengths(tensor: Tensor, connectivity: Tensor, generator: torch.Generator | None) -> Tensor:
    given = check_finite("connectivity", check_tensor("connectivity", connectivity, ndim=2))
    if given.shape != tensor.shape:
        raise ValueError(
            f"connectivity has shape {tuple(given.shape)}, the weight {tuple(tensor.shape)}; both are (out, in), with "
            "a column for each input unit. Transpose a matrix that is stored from row to column."
        )
    if given.is_complex():
        raise TypeError(f"connectivity must be boolean or real, got {given.dtype}; take its real part.")
    matrix = given.detach().to(tensor.device, torch.float64)
    if given.dtype == torch.bool:
        draw = standard_normal(tensor.shape, dtype=tensor.dtype, device=tensor.device, generator=generator)
        matrix = matrix * draw.double()
    if not bool(matrix.any()):
        raise ValueError("connectivity holds no connection, so there is no norm to match; mark at least one.")
    return matrix


def _check_signs(signs: Tensor, matrix: Tensor) -> Tensor:
    given = check_tensor("signs", signs, ndim=1).detach().to(matrix)
    if len(given) != matrix.shape[1] or not bool((given.abs() == 1).all()):
        raise ValueError(
            f"signs must hold +1 or -1 for each of the {matrix.shape[1]} input units (columns), got shape "
            f"{tuple(signs.shape)}" + ("." if len(given) != matrix.shape[1] else " with other values.")
        )
    return given


def _shuffled(matrix: Tensor, shuffle: Shuffle, generator: torch.Generator | None) -> Tensor:
    draw = standard_normal(matrix.shape, dtype=torch.float64, device=matrix.device, generator=generator)
    if shuffle == "entries":
        return matrix.flatten()[draw.flatten().argsort()].view_as(matrix)
    return matrix.gather(0, draw.argsort(0))


def _target(matrix: Tensor, preserve: Preserve) -> float:
    # The factor that gives the matrix the norm of independent N(0, 1 / in) entries.
    rows, columns = matrix.shape
    if preserve == "frobenius":
        return math.sqrt(rows) / float(matrix.norm())
    if preserve == "spectral":
        return (1 + math.sqrt(rows / columns)) / float(svdvals(matrix).values[0])
    return 1.0
