"""What Lanczos and Golub-Kahan share: which values are wanted, and a basis that stays orthonormal."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry._base import check_positive, unknown_name
from isometry.linalg._normal import standard_normal
from isometry.linalg._precision import check_real_dtype, check_size

__all__ = [
    "FEWEST_STEPS",
    "Basis",
    "Which",
    "check_extremes",
    "check_product",
    "closing",
    "default_tolerance",
    "wanted",
]

Which = Literal["largest", "smallest", "both"]

# A start vector that lies near an eigenvector by chance looks converged at once. No Krylov space is believed before it
# has so many dimensions (or all); spaces of up to this size are therefore always searched completely.
FEWEST_STEPS = 12


def wanted(values: Tensor, count: int, which: str) -> list[int]:
    """Select the indices of extreme values.

    Args:
        values: Ascending, shape ``(k,)``.
        count: How many at each end.
        which: ``"largest"``, ``"smallest"`` or ``"both"``.

    Returns:
        Indices, those of the largest values first and descending, then those of the smallest, descending too.
    """
    k = len(values)
    count = min(count, k)
    largest = list(range(k - 1, k - count - 1, -1)) if which != "smallest" else []
    smallest = list(range(count - 1, -1, -1)) if which != "largest" else []
    return largest + [i for i in smallest if i not in largest]


def default_tolerance(dtype: torch.dtype) -> float:
    """Give the relative residual that is asked for by default.

    Returns:
        The square root of the dtype's epsilon; the error of a well-separated eigenvalue is then at rounding level.
    """
    return math.sqrt(torch.finfo(dtype).eps)


def closing(tolerance: float, dtype: torch.dtype) -> float:
    """Give the size, relative to the norm, below which a Krylov space's remainder counts as none.

    Rounding leaves remainders of some hundred epsilons. A tenth of the tolerance is negligible by the caller's own
    word, and never more than a tenth of the root of epsilon.

    Returns:
        The relative size.
    """
    return max(50 * torch.finfo(dtype).eps, 0.1 * min(tolerance, default_tolerance(dtype)))


def check_extremes(
    count: int, which: str, tolerance: float | None, max_steps: int | None, dtype: torch.dtype, size: int
) -> float:
    """Check the arguments that both methods share.

    Returns:
        The relative tolerance.

    Raises:
        TypeError: If the dtype is below float32.
        ValueError: If a number is out of its range or a name unknown.
    """
    check_size("count", count)
    if which not in get_args(Which):
        error = unknown_name("which", which, get_args(Which))
        raise error
    if count > size:
        raise ValueError(f"count must be at most {size}, the smaller side of the operator, got {count}.")
    if max_steps is not None:
        check_size("max_steps", max_steps)
    if check_real_dtype("dtype", dtype) not in (torch.float32, torch.float64):
        raise TypeError(
            f"dtype must be float32 or float64, got {dtype}; let the product cast to and from lower precision itself."
        )
    return default_tolerance(dtype) if tolerance is None else check_positive("tolerance", tolerance)


def check_product(name: str, product: object, like: Tensor) -> Tensor:
    """Insist that a user's product returned a finite tensor of the right shape.

    Returns:
        The product, detached, in the dtype and on the device of ``like``.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If its shape is wrong or it holds non-finite values.
    """
    if not isinstance(product, Tensor):
        raise TypeError(f"{name} must return a torch.Tensor, got {type(product).__name__}.")
    if product.shape != like.shape:
        raise ValueError(
            f"{name} must return shape {tuple(like.shape)}, got {tuple(product.shape)}; flatten what it returns."
        )
    out = product.detach().to(dtype=like.dtype, device=like.device)
    if not bool(torch.isfinite(out).all()):
        raise ValueError(f"{name} returned NaN or infinity; check the operator (and scale it, if it overflows).")
    return out


class Basis:
    """Orthonormal rows in one growing block of memory, kept orthonormal by projecting twice.

    Attributes:
        rank: How many rows there are.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None) -> None:
        self.rank = 0
        self._size, self._dtype, self._device, self._generator = size, dtype, device, generator
        self._rows = torch.empty(0, size, dtype=dtype, device=device)

    @property
    def rows(self) -> Tensor:
        """The vectors, shape ``(rank, size)``."""
        return self._rows[: self.rank]

    def append(self, block: Tensor) -> None:
        """Add orthonormal rows, shape ``(b, size)``, that are orthogonal to all there are."""
        needed = self.rank + len(block)
        if needed > len(self._rows):
            capacity = min(max(needed, 2 * len(self._rows), 8), max(self._size, needed))
            grown = torch.empty(capacity, self._size, dtype=self._dtype, device=self._device)
            grown[: self.rank] = self.rows
            self._rows = grown
        self._rows[self.rank : needed] = block
        self.rank = needed

    def replace(self, start: int, block: Tensor) -> None:
        """Put other rows in the place of those from ``start`` on."""
        self.rank = start
        self.append(block)

    def project_out(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Remove from the rows of a block what lies in the basis; twice is enough (Kahan).

        Returns:
            The remainder, and the coefficients, shape ``(b, rank)``.
        """
        first = block @ self.rows.mT
        rest = block - first @ self.rows
        second = rest @ self.rows.mT
        return rest - second @ self.rows, first + second

    def random_rows(self, count: int) -> Tensor:
        """Draw orthonormal rows that are orthogonal to the basis.

        Returns:
            Shape ``(min(count, size - rank), size)``.
        """
        count = min(count, self._size - self.rank)
        draw = standard_normal((count, self._size), dtype=self._dtype, device=self._device, generator=self._generator)
        for _ in range(2):  # the second round cleans up after draws that were nearly inside the basis
            draw = torch.linalg.qr(self.project_out(draw)[0].mT).Q.mT
        return draw.contiguous()
