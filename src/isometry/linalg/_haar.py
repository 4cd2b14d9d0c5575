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
from isometry.linalg._precision import check_matrix, check_real_dtype, check_size

__all__ = ["haar", "haar_"]

# Entries per chunk of a batch. On a CPU LAPACK takes the matrices one by one anyway, so what counts is that a chunk
# stays in the cache; elsewhere only the memory is bounded.
_CPU_CHUNK, _CHUNK = 2**17, 2**26


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

    place = torch.device(device) if device is not None else torch.get_default_device()
    return haar_(torch.empty(*batch, rows, cols, dtype=dtype, device=place), scale=scale, generator=generator)


def haar_(out: Tensor, *, scale: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Overwrite matrices with Haar-distributed ones, as ``haar`` draws them.

    Large batches are worked on in chunks, so that little more memory is needed than the output's.

    Args:
        out: Shape ``(*batch, rows, cols)``, real floating point.
        scale: Factor on the matrix, applied before the rounding.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``out``.
    """
    check_matrix("out", out, finite=False)
    check_positive("scale", scale, zero=True)
    rows, cols = out.shape[-2:]
    with torch.no_grad():
        contiguous = out.is_contiguous()
        flat = out.view(-1, rows, cols) if contiguous else out.new_empty(out.shape[:-2].numel(), rows, cols)
        chunk = max(1, (_CPU_CHUNK if out.is_cpu else _CHUNK) // (rows * cols))
        for first in range(0, len(flat), chunk):
            part = flat[first : first + chunk]
            x = _trapezoid(len(part), min(rows, cols), max(rows, cols), out, generator)
            tall = _multiply_out(x, scale)
            # The factor is column-major, so its transpose is the cheaper one to store; for square matrices the law is
            # the same.
            part.copy_(tall if rows > cols else tall.mT)
        if not contiguous:
            out.copy_(flat.view(out.shape))
    return out


def _trapezoid(count: int, n: int, m: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    # Independent N(0, 1) entries (i, j), j >= i, as float64 of shape (count, n, m), with anything below the diagonal.
    # Rows i and n - 1 - i together use 2 m - n + 1 numbers, so half as many rows of that length are drawn: the first
    # row of such a pair is read from the front, backwards, the second one from where the first one ends.
    half, extra = (n + 1) // 2, m - n + 1
    drawn = standard_normal((count, half, m + extra), dtype=like.dtype, device=like.device, generator=generator)
    x = torch.empty(count, n, m, dtype=torch.float64, device=like.device)
    x[:, :half] = drawn[..., :m].flip(-1)
    x[:, half:] = drawn[:, : n - half, extra:].flip(-2)
    return x


def _multiply_out(x: Tensor, scale: float) -> Tensor:
    """Turn Gaussian rows into reflectors and multiply these out.

    Args:
        x: Shape ``(*batch, n, m)``, float64, n <= m; of row i only the entries from i on are used; overwritten.
        scale: Factor on the output.

    Returns:
        float64, shape ``(*batch, m, n)``, orthonormal columns times ``scale``.
    """
    x.triu_()
    # Far below any entry drawn, so it only matters for a vector of zeros, which it makes a multiple of e_1.
    head = x.diagonal(dim1=-2, dim2=-1).add_(1e-150)
    # LAPACK's convention: H = 1 - tau v v^T with v_1 = 1 maps x onto -beta e_1, beta = sign(x_1) |x|.
    beta = torch.copysign(torch.linalg.vector_norm(x, dim=-1), head)
    tau = 1 + head / beta
    x /= (head + beta).unsqueeze(-1)
    # LAPACK works in place; on a CPU that is worth a tenth, as the matrix then stays in the cache.
    q: Tensor = torch.linalg.householder_product(x.mT, tau, out=x.mT if x.is_cpu else None)
    q *= (beta.sign_() * -scale).unsqueeze(-2)  # the sign fix: -beta is R's diagonal
    return q
