"""The QR decomposition's unique orthonormal factor, as retractions and samplers need it."""

from __future__ import annotations

import torch
from torch import Tensor

from isometry.linalg._precision import check_matrix, working_dtype

__all__ = ["qf"]


def qf(a: Tensor) -> Tensor:
    """Give the Q of the QR decomposition whose R has a non-negative diagonal.

    A wide matrix is treated through its transpose, so its rows come out orthonormal. For a matrix of full rank the
    factor is unique; columns that depend on earlier ones get some orthonormal completion. Runs in float32 or float64
    and casts back. Differentiable where ``torch.linalg.qr`` is.

    Args:
        a: Shape ``(*batch, m, n)``, real.

    Returns:
        Same shape and dtype as ``a``; orthonormal columns if m >= n, else orthonormal rows.

    Example:
        >>> qf(torch.tensor([[-3.0, 0.0], [0.0, 2.0]]))
        tensor([[-1.,  0.],
                [ 0.,  1.]])
    """
    check_matrix("a", a)
    work = a.to(working_dtype(a.dtype))
    wide = a.shape[-2] < a.shape[-1]
    q, r = torch.linalg.qr(work.mT if wide else work)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    # A zero on the diagonal (dependent column) keeps its sign: torch.sign would wipe the column out.
    q = q * torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype).unsqueeze(-2)
    # Adding zero turns -0. into 0., which the sign fix makes.
    out: Tensor = (q.mT if wide else q) + 0.0
    return out.to(a.dtype)
