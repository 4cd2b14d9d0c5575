"""Haar-distributed orthogonal matrices: the Q factor of a Gaussian matrix, with the sign fix, at half of QR's price.

The reflectors that a Householder QR makes from a Gaussian matrix are independent: the i-th one maps a fresh Gaussian
vector of length m - i + 1 onto its first axis, since what is left of the matrix stays Gaussian under the earlier ones.
So the reflectors are drawn directly and only multiplied out (LAPACK's orgqr); the factorization itself (geqrf) is
never run. What results is Q diag(sign(diag R)) of a Gaussian matrix, and that is Haar; without the signs it is not.

References:
    G. W. Stewart, The efficient generation of random orthogonal matrices, SIAM J. Numer. Anal. 17(3), 1980.
    F. Mezzadri, How to generate random matrices from the classical compact groups, 2007. arXiv:math-ph/0609050
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry._base import check_positive
from isometry.linalg._normal import standard_normal
from isometry.linalg._precision import check_real_dtype, check_size

__all__ = ["haar"]


def haar(
    rows: int,
    cols: int,
    *,
    batch: Sequence[int] = (),
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw matrices with orthonormal columns (rows >= cols) or rows (rows < cols) from the Haar measure.

    The arithmetic is float64 whatever ``dtype`` is; the Gaussian numbers behind it are float32 unless ``dtype`` is
    float64 (their granularity does not touch orthogonality, and they are six times cheaper). The output is rounded
    once. A wide matrix is the transpose of a tall one.

    Args:
        rows: Number of rows.
        cols: Number of columns.
        batch: Leading shape; the matrices of a batch are independent.
        scale: Factor on the matrix, applied before the rounding (a gain, not a variance).
        dtype: Dtype of the output; real floating point.
        device: Device of the output; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        A contiguous tensor of shape ``(*batch, rows, cols)``.

    Example:
        >>> q = haar(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(q.mT @ q, torch.eye(3, dtype=torch.float64))
        True
    """
    check_size("rows", rows)
    check_size("cols", cols)
    for i, length in enumerate(batch):
        check_size(f"batch[{i}]", length)
    check_positive("scale", scale, zero=True)
    check_real_dtype("dtype", dtype)

    shape = (*batch, min(rows, cols), max(rows, cols))
    drawn = standard_normal(shape, dtype=dtype, device=device, generator=generator)
    tall = _multiply_out(drawn, scale)
    # The factor is column-major, so its transpose costs no copy; for square matrices the law is the same.
    out = tall if rows > cols else tall.mT
    return out.to(dtype).contiguous()


def _multiply_out(gaussian: Tensor, scale: float) -> Tensor:
    """Turn Gaussian rows into reflectors and multiply these out.

    Args:
        gaussian: Shape ``(*batch, n, m)``, n <= m; of row i only the entries from i on are used.
        scale: Factor on the output.

    Returns:
        float64, shape ``(*batch, m, n)``, orthonormal columns times ``scale``.
    """
    x = gaussian.to(torch.float64).triu_() if gaussian.dtype != torch.float64 else gaussian.triu_()
    head = x.diagonal(dim1=-2, dim2=-1).clone()
    norm = torch.linalg.vector_norm(x, dim=-1)
    degenerate = norm == 0  # possible in principle for the one-element vector of a square matrix
    head, norm = head.masked_fill(degenerate, 1.0), norm.masked_fill(degenerate, 1.0)
    sign = torch.where(head < 0, -1.0, 1.0).to(torch.float64)
    # LAPACK's convention: H = 1 - tau v v^T with v_1 = 1 maps x onto beta e_1, beta = -sign(x_1) |x|.
    tau = 1 + head.abs() / norm
    x /= (head + sign * norm).unsqueeze(-1)
    q: Tensor = torch.linalg.householder_product(x.mT, tau)
    q *= (-scale * sign).unsqueeze(-2)  # the sign fix: beta is R's diagonal
    return q
