"""The orthonormal discrete cosine transform (DCT-II) of the rows of a matrix, by FFT or by a product.

References:
    N. Ahmed, T. Natarajan, K. R. Rao, Discrete cosine transform, IEEE Transactions on Computers C-23, 1974.
    J. Makhoul, A fast cosine transform in one and two dimensions, IEEE Transactions on Acoustics, Speech, and Signal
    Processing 28(1), 1980. (the route by one FFT of the same length)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry._base import unknown_name
from isometry.linalg._precision import check_matrix, check_real_dtype, check_size, working_dtype

__all__ = ["DCTRoute", "by_fft_pays", "check_route", "dct", "dct_matrix", "shared_dct_matrix"]

DCTRoute = Literal["auto", "fft", "matmul"]

# Rows at least this long are transformed by FFT where the route is "auto". On one core of a processor the FFT of 256 or
# more rows takes the time of the product with the matrix at n = 100 to 128, a fifth of it at 512 and a tenth at 1024.
# Lengths with a large prime factor break even near 512. The bound for accelerators is a guess, not measured.
FFT_FROM = {"cpu": 128}
FFT_FROM_ELSEWHERE = 1024
SMOOTH, ROUGH = (2, 3, 5, 7, 11, 13), 4  # a length with other prime factors has to be this many times as long


def dct_matrix(n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """Give the orthonormal DCT-II matrix C, whose rows are sampled cosines.

    C[i, j] = sqrt(2 / n) cos(pi i (2 j + 1) / (2 n)), the row i = 0 divided by sqrt(2); C C^T = I. ``x @ C.T`` is the
    DCT-II of the rows of x, ``x @ C`` the DCT-III.

    Args:
        n: Its size.
        dtype: Dtype of the output; it is computed in float64 and rounded once.
        device: Device of the output; default: torch's default device.

    Returns:
        Shape ``(n, n)``, a tensor of one's own.

    Example:
        >>> c = dct_matrix(3, dtype=torch.float64)
        >>> torch.allclose(c @ c.T, torch.eye(3, dtype=torch.float64))
        True
    """
    check_size("n", n)
    check_real_dtype("dtype", dtype)
    place = torch.get_default_device() if device is None else torch.device(device)
    return shared_dct_matrix(n, dtype, place).clone()


def dct(x: Tensor, *, route: DCTRoute = "auto") -> Tensor:
    """Transform rows by the orthonormal DCT-II, x C^T with C = ``dct_matrix(n)``.

    Args:
        x: Shape ``(*batch, m, n)``, real.
        route: ``"matmul"`` multiplies by the matrix, 2 m n^2 operations that run at full speed; ``"fft"`` takes of the
            order of m n log n operations. ``"auto"`` takes the FFT for long rows, on a processor from n = 128 (from 512
            where n has a prime factor above 13). Both give the same numbers up to rounding.

    Returns:
        Same shape and dtype; the arithmetic is float32 at least.

    Example:
        >>> dct(torch.ones(1, 4)).round(decimals=4)  # a constant has the frequency 0 alone; its norm stays
        tensor([[2., 0., 0., 0.]])
    """
    check_matrix("x", x, finite=False)
    check_route(route)
    work, n = x.to(working_dtype(x.dtype)), x.shape[-1]
    if route == "fft" or (route == "auto" and by_fft_pays(n, x.device)):
        return _by_fft(work).to(x.dtype)
    return (work @ shared_dct_matrix(n, work.dtype, work.device).mT).to(x.dtype)


@lru_cache(maxsize=512)
def by_fft_pays(n: int, device: torch.device) -> bool:
    """Tell whether rows of this length are faster transformed by FFT.

    Returns:
        Whether they are.
    """
    rest = n
    for prime in SMOOTH:
        while rest % prime == 0:
            rest //= prime
    return n >= FFT_FROM.get(device.type, FFT_FROM_ELSEWHERE) * (1 if rest == 1 else ROUGH)


def check_route(route: object) -> None:
    """Insist on a known route."""
    if route not in get_args(DCTRoute):
        error = unknown_name("route", str(route), get_args(DCTRoute))
        raise error


@lru_cache(maxsize=128)
def shared_dct_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give ``dct_matrix``, the same tensor each time; not to be written to.

    Returns:
        The matrix.
    """
    with torch.inference_mode(False):
        index = torch.arange(n, dtype=torch.int64)
        # The cosine has the period 4 n in these whole numbers, so its argument is exact.
        phase = torch.outer(index, 2 * index + 1) % (4 * n)
        matrix = (math.pi / (2 * n) * phase.double()).cos_().mul_(math.sqrt(2 / n))
        matrix[0] = math.sqrt(1 / n)
        return matrix.to(device=device, dtype=dtype)


def _by_fft(x: Tensor) -> Tensor:
    n = x.shape[-1]
    # Makhoul: the even entries, then the odd ones backwards; z_k = w_k FFT_k holds entry k in its real part and entry
    # n - k in its imaginary part, so half of the frequencies do.
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    z = torch.fft.rfft(folded) * _twiddles(n, x.dtype, x.device)
    return torch.cat([z.real, -z.imag[..., 1 : (n + 1) // 2].flip(-1)], dim=-1)


@lru_cache(maxsize=128)
def _twiddles(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        angle = torch.arange(n // 2 + 1, dtype=torch.float64) * (-math.pi / (2 * n))
        size = torch.full_like(angle, math.sqrt(2 / n))
        size[0] = math.sqrt(1 / n)
        return torch.polar(size, angle).to(device=device, dtype=dtype.to_complex())
