"""Random probe vectors, and the products that estimators make with them: checked, counted, in blocks.

What a mean over probes says and how far off it may be is the business of the estimators.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from isometry._base import base_seed, stream
from isometry.linalg._extremes import check_product
from isometry.linalg._normal import standard_normal
from isometry.linalg._precision import check_real_dtype, check_size

__all__ = ["FEWEST_PROBES", "ProbedOperator", "check_probes", "mean_and_stderr"]

# A spread over fewer probes than this is itself too uncertain to stop on.
FEWEST_PROBES = 8


class ProbedOperator:
    """A symmetric operator that is only known by its products, together with a stream of random vectors.

    Args:
        matvec: Takes and returns shape ``(size,)``, or ``(size, block)`` if ``block > 1``.
        size: The operator's dimension.
        block: Vectors per product.
        dtype: float32 or float64.
        device: Device of the vectors.
        generator: Source of the seed; torch's global generator by default.

    Attributes:
        size: The operator's dimension.
        dtype: The dtype of the vectors.
        device: Their device.
        seed: All probes follow from it.
        matvecs: Products with one vector so far.
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor],
        size: int,
        *,
        block: int,
        dtype: torch.dtype,
        device: torch.device | str | None,
        generator: torch.Generator | None,
    ) -> None:
        self._matvec, self._block = matvec, check_size("block", block)
        self.size = check_size("size", size)
        if check_real_dtype("dtype", dtype) not in (torch.float32, torch.float64):
            raise TypeError(
                f"dtype must be float32 or float64, got {dtype}; let the product cast to and from lower precision "
                "itself."
            )
        self.dtype = dtype
        self.device = torch.device(device) if device is not None else torch.get_default_device()
        self.seed = base_seed(generator)
        self._generator = stream(self.seed, "probes", generator.device if generator is not None else self.device)
        self.matvecs = 0

    def signs(self, count: int) -> Tensor:
        """Draw rows of independent signs (Rademacher).

        Returns:
            Shape ``(count, size)``, of -1 and 1.
        """
        place = self._generator.device
        drawn = torch.randint(0, 2, (count, self.size), dtype=torch.int8, generator=self._generator, device=place)
        return drawn.to(self.device).to(self.dtype).mul_(2).sub_(1)

    def directions(self, count: int) -> Tensor:
        """Draw rows that are uniform on the sphere of radius sqrt(size).

        Returns:
            Shape ``(count, size)``.
        """
        rows = standard_normal((count, self.size), dtype=self.dtype, device=self.device, generator=self._generator)
        scaled: Tensor = rows * (math.sqrt(self.size) / torch.linalg.vector_norm(rows, dim=1, keepdim=True))
        return scaled

    def orthonormal(self, rows: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make rows orthonormal among themselves and to a basis, projecting twice.

        Rows that lie in the basis's span up to rounding get random directions in its complement.

        Args:
            rows: Shape ``(k, size)``; k is at most the dimension of the complement.
            basis: Orthonormal rows, shape ``(b, size)``.

        Returns:
            Q, R, C with ``rows.mT = basis.mT @ C + Q.mT @ R``, of shapes ``(k, size)``, ``(k, k)`` and ``(b, k)``.
        """
        first = basis @ rows.mT
        q, r = torch.linalg.qr(rows.mT - basis.mT @ first)
        second = basis @ q
        q = q - basis.mT @ second
        lost = torch.linalg.vector_norm(q, dim=0) < 0.5
        if bool(lost.any()):  # what belongs to them in R is rounding, so any direction will do
            drawn = self.directions(int(lost.sum())).mT
            for _ in range(2):
                drawn = drawn - basis.mT @ (basis @ drawn)
            q[:, lost] = drawn / torch.linalg.vector_norm(drawn, dim=0)
        q, again = torch.linalg.qr(q)
        if bool(lost.any()):
            q, once_more = torch.linalg.qr(q - basis.mT @ (basis @ q))
            again = once_more @ again
        return q.mT.contiguous(), again @ r, first + second @ r

    def times(self, rows: Tensor) -> Tensor:
        """Multiply every row by the operator.

        Returns:
            The products as rows.
        """
        self.matvecs += len(rows)
        if self._block == 1:
            return torch.stack([check_product("matvec", self._matvec(row), row) for row in rows])
        parts = []
        for first in range(0, len(rows), self._block):
            part = rows[first : first + self._block]
            padded = torch.cat([part, part.new_zeros(self._block - len(part), self.size)]).mT
            parts.append(check_product("matvec", self._matvec(padded), padded).mT[: len(part)])
        return torch.cat(parts)


def check_probes(max_probes: int) -> int:
    """Insist on enough probes for a spread.

    Returns:
        The number itself.

    Raises:
        ValueError: If there are fewer than two.
    """
    if check_size("max_probes", max_probes) < 2:
        raise ValueError("max_probes must be at least 2, since one probe says nothing about its error, got 1.")
    return max_probes


def mean_and_stderr(samples: Tensor) -> tuple[float, float]:
    """Average independent samples.

    Returns:
        The mean and its standard error; NaN for the error of a single sample.
    """
    count = len(samples)
    stderr = float(samples.std()) / math.sqrt(count) if count > 1 else float("nan")
    return float(samples.mean()), stderr
