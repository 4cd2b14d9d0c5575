"""Three readings of a matrix's rank.

References:
    M. Rudelson, R. Vershynin, Sampling from large matrices, 2007 (stable rank). arXiv:math/0503442
    O. Roy, M. Vetterli, The effective rank: a measure of effective dimensionality, 2007 (entropy).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from isometry._base import check_finite, check_positive, check_tensor, unknown_name
from isometry.linalg import svdvals

__all__ = ["RankKind", "effective_rank"]

RankKind: TypeAlias = Literal["algebraic", "stable", "entropy"]


def effective_rank(matrix: Tensor, kind: RankKind = "stable", *, tol: float | None = None) -> float:
    """Read the rank of a matrix.

    Args:
        matrix: (out, in); kernels (out, in, ...) are flattened to it.
        kind: "stable" is |W|_F^2 / |W|_2^2; "entropy" is exp of the entropy of the singular values' shares s / SUM s;
            "algebraic" counts singular values above ``tol`` times the largest. The first is at most the last.
        tol: For "algebraic" only; default: the larger side times the rounding unit of the matrix's dtype.

    Returns:
        From 1 to the smaller side.

    Raises:
        TypeError: If it is not a real floating-point tensor.
        ValueError: If it is zero or not finite, or ``tol`` is out of place.
        unknown_name: If ``kind`` is unknown (a ValueError).

    Example:
        >>> w = torch.diag(torch.tensor([2.0, 1.0, 0.0]))
        >>> [round(effective_rank(w, kind), 2) for kind in ("stable", "entropy", "algebraic")]
        [1.25, 1.89, 2.0]
    """
    if kind not in get_args(RankKind):
        raise unknown_name("kind", kind, get_args(RankKind))
    given = check_finite("matrix", check_tensor("matrix", matrix, min_ndim=2))
    if not given.is_floating_point():
        raise TypeError(f"matrix must be real floating point, got {given.dtype}; convert it with .float().")
    if tol is not None and kind != "algebraic":
        raise ValueError(f'tol is for kind="algebraic" only, got kind={kind!r}; leave it out.')
    flat = given.detach().flatten(1)
    values = svdvals(flat, dtype=torch.float64).values
    if float(values[0]) == 0:
        raise ValueError("matrix is zero, so it has no singular directions to count; pass one that is not.")
    if kind == "stable":
        return float((values / values[0]).square().sum())
    if kind == "entropy":
        share = values / values.sum()
        return float(torch.special.entr(share).sum().exp())
    unit = max(flat.shape) * torch.finfo(given.dtype).eps if tol is None else check_positive("tol", tol, zero=True)
    return float((values > unit * values[0]).sum())
