"""Extreme eigenvalues of a symmetric operator that is only known by its products with vectors.

Lanczos with full reorthogonalization and thick restarts, in blocks if wanted. The projected matrix is taken from the
orthogonalization coefficients themselves, so restarts need no special case, and the returned residuals are computed
with products of their own instead of being inferred from the recurrence.

References:
    C. Lanczos, An iteration method for the solution of the eigenvalue problem of linear differential and integral
    operators, J. Res. Natl. Bur. Stand. 45, 1950.
    K. Wu, H. Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIAM J. Matrix Anal. Appl.
    22(2), 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_budget, progress, stopwatch
from isometry.linalg._extremes import FEWEST_STEPS, Basis, Which, check_extremes, check_product, closing, wanted
from isometry.linalg._precision import check_size

__all__ = ["LanczosResult", "lanczos"]


@dataclass(frozen=True)
class LanczosResult(Result):
    """Extreme eigenvalues with vectors and residuals.

    Attributes:
        eigenvalues: Descending; the largest first, then the smallest; shape ``(k,)``.
        eigenvectors: Orthonormal columns, shape ``(size, k)``.
        residuals: ``|A v - w v|`` per pair, by a product made at the end, shape ``(k,)``. Some eigenvalue of A lies
            within that distance of w.
        tolerance: What ``converged`` asks for: residuals of at most ``tolerance * norm``.
        norm: The largest absolute eigenvalue seen, which stands for the operator's norm.
        converged: Whether all residuals are within the tolerance.
        asymmetry: Largest deviation from symmetry seen, relative to ``norm``.
        exhausted: Whether an invariant subspace was found (the recurrence broke down) on the way.
        dtype: The dtype of vectors and products.
        cost: What it took; ``matvecs`` counts vectors, a block of b as b.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor = field(repr=False)
    residuals: Tensor
    tolerance: float
    norm: float
    converged: bool
    asymmetry: float
    exhausted: bool
    dtype: torch.dtype
    cost: Cost


def lanczos(
    matvec: Callable[[Tensor], Tensor],
    size: int,
    *,
    count: int = 1,
    which: Which = "largest",
    tolerance: float | None = None,
    max_steps: int | None = None,
    block: int = 1,
    basis: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> LanczosResult:
    """Compute the largest or smallest eigenvalues (algebraically) of a symmetric operator, or both ends.

    A Krylov space holds one vector per distinct eigenvalue and block column, so of a multiple eigenvalue ``block``
    copies are found at first. Where the space closes (a breakdown: low rank, clustered spectra, isometries), the
    search goes on from a fresh random vector in its complement, until one more invariant subspace changes nothing.

    Args:
        matvec: The product with the operator: takes and returns shape ``(size,)``, or ``(size, block)`` if
            ``block > 1``.
        size: The operator's dimension.
        count: How many eigenvalues at each wanted end.
        which: ``"largest"``, ``"smallest"`` or ``"both"``.
        tolerance: Residual that is small enough, relative to the operator's norm; default: square root of the dtype's
            epsilon (1.5e-8 in float64, 3.5e-4 in float32).
        max_steps: Most vectors to multiply before giving up (the final residuals not counted); default:
            min(10 * size, 1000).
        block: Vectors per product.
        basis: Most vectors to keep before restarting; default: four times the wanted number plus 20 blocks.
        dtype: float32 or float64.
        device: Device of the vectors.
        budget: Bytes that the basis may take; default: the package's.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The eigenvalues with true residuals; ``converged`` is False where the steps ran out.

    Raises:
        ValueError: If the operator is visibly not symmetric, or returns a wrong shape or non-finite values.

    Example:
        >>> a = torch.diag(torch.arange(1.0, 101.0, dtype=torch.float64))
        >>> result = lanczos(lambda v: a @ v, 100, which="both", generator=torch.Generator().manual_seed(0))
        >>> [round(float(w), 6) for w in result.eigenvalues], result.converged
        ([100.0, 1.0], True)
    """
    check_size("size", size)
    check_size("block", block)
    allowed = check_extremes(count, which, tolerance, max_steps, dtype, size)
    ends = count * (2 if which == "both" else 1)
    limit = check_size("basis", basis) if basis is not None else 4 * ends + 20 * block
    if basis is not None and limit < ends + 2 * block:
        raise ValueError(f"basis must hold the {ends} wanted vectors and two blocks, so at least {ends + 2 * block}.")
    limit = min(limit, size)
    place = torch.device(device) if device is not None else torch.get_default_device()
    needed = check_budget(
        2 * limit * size * dtype.itemsize,
        budget,
        what=f"a Lanczos basis of {limit} vectors of {size} entries",
        instead="Pass a smaller basis=, or dtype=torch.float32,",
    )
    with torch.no_grad(), stopwatch() as watch:
        search = _Search(matvec, size, count, which, allowed, block, limit, Basis(size, dtype, place, generator))
        search.run(min(10 * size, 1000) if max_steps is None else max_steps)
        values, vectors = search.pairs()
        products = search.multiply(vectors)
        residuals = torch.linalg.vector_norm(products - values.to(vectors)[:, None] * vectors, dim=1)
    return LanczosResult(
        eigenvalues=values.to(vectors),
        eigenvectors=vectors.mT.contiguous(),
        residuals=residuals,
        tolerance=allowed,
        norm=search.norm,
        converged=len(values) >= min(ends, size) and bool((residuals <= allowed * search.norm).all()),
        asymmetry=search.asymmetry,
        exhausted=search.exhausted,
        dtype=dtype,
        cost=Cost(matvecs=search.matvecs, bytes=needed, seconds=watch.seconds),
    )


class _Search:
    """The state of one Lanczos run: basis V, projected matrix T = V A V^T, next block q, coupling q A V^T.

    Rows before ``start`` span closed invariant subspaces; those from ``start`` on belong to the running Krylov space.
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor],
        size: int,
        count: int,
        which: str,
        tolerance: float,
        block: int,
        limit: int,
        basis: Basis,
    ) -> None:
        self.matvec, self.size, self.count, self.which = matvec, size, count, which
        self.tolerance, self.block, self.limit, self.basis = tolerance, block, limit, basis
        self.T = torch.zeros(0, 0, dtype=torch.float64)
        self.start = 0
        self.matvecs = 0
        self.norm = 0.0
        self.asymmetry = 0.0
        self.exhausted = False

    def run(self, max_steps: int) -> None:
        """Build Krylov spaces until the wanted pairs have converged, nothing is left, or the steps ran out."""
        q = self.basis.random_rows(self.block)
        coupling = torch.zeros(len(q), 0, dtype=torch.float64)
        while self.matvecs < max_steps:
            progress("Lanczos", self.matvecs, max_steps)
            q, coupling = self._extend(q, coupling)
            if len(q):
                values, rotation = torch.linalg.eigh(self.T[self.start :, self.start :])
                self.norm = max(self.norm, float(values.abs().max()))
                errors = torch.linalg.vector_norm(coupling[:, self.start :] @ rotation, dim=0)
                if self._converged(errors, wanted(values, self.count, self.which)):
                    break
                if len(values) + len(q) > self.limit:
                    coupling = self._restart(values, rotation, coupling)
                continue
            # The Krylov space has closed: its Ritz pairs are exact. Look into its complement.
            self.exhausted = True
            if self.basis.rank == self.size or not self._changed():
                break
            self.start = self.basis.rank
            q = self.basis.random_rows(self.block)
            coupling = torch.zeros(len(q), self.start, dtype=torch.float64)
        progress("Lanczos", max_steps, max_steps)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Give the wanted Ritz values (float64, descending) and vectors (rows).

        Returns:
            Values and vectors.
        """
        values, rotation = torch.linalg.eigh(self.T)
        chosen = wanted(values, self.count, self.which)
        rows = self.basis.rows
        return values[chosen], rotation[:, chosen].mT.to(rows) @ rows

    def multiply(self, rows: Tensor) -> Tensor:
        """Multiply every row by the operator, in blocks, and count.

        Returns:
            The products as rows.
        """
        self.matvecs += len(rows)
        if self.block == 1:
            return torch.stack([check_product("matvec", self.matvec(row), row) for row in rows])
        parts = []
        for first in range(0, len(rows), self.block):
            part = rows[first : first + self.block]
            padded = torch.cat([part, part.new_zeros(self.block - len(part), self.size)]).mT
            parts.append(check_product("matvec", self.matvec(padded), padded).mT[: len(part)])
        return torch.cat(parts)

    def _extend(self, q: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
        # Adds a block to the basis and makes the next one from its products.
        old = self.basis.rank
        products = self.multiply(q)
        self.basis.append(q)
        rest, coefficients = self.basis.project_out(products)
        h = coefficients.to(device="cpu", dtype=torch.float64)
        # Any product with a unit vector bounds the operator's norm from below.
        self.norm = max(self.norm, float(torch.linalg.vector_norm(products, dim=1).max()))
        if not math.isfinite(self.norm):
            raise ValueError(
                f"matvec gives products whose norm overflows {products.dtype}; scale the operator down, or compute in "
                "float64."
            )
        self._check_symmetry(h, coupling, old)

        grown = torch.zeros(self.basis.rank, self.basis.rank, dtype=torch.float64)
        grown[:old, :old] = self.T
        grown[old:, :old], grown[:old, old:] = h[:, :old], h[:, :old].mT
        grown[old:, old:] = (h[:, old:] + h[:, old:].mT) / 2
        self.T = grown

        _, sizes, directions = torch.linalg.svd(rest, full_matrices=False)
        noise = closing(self.tolerance, rest.dtype) * self.norm
        alive = int((sizes > noise).sum()) if self.basis.rank < self.size else 0
        fresh = directions[:alive]
        if alive:  # what is left may be mostly rounding: make it orthogonal to the basis once more
            fresh = torch.linalg.qr(self.basis.project_out(fresh)[0].mT).Q.mT
            overlap = fresh @ rest.mT  # (alive, b): q A v for the block's own vectors
        else:
            overlap = rest.new_zeros(0, len(q))
        next_coupling = torch.zeros(alive, self.basis.rank, dtype=torch.float64)
        next_coupling[:, old:] = overlap.to(device="cpu", dtype=torch.float64)
        return fresh.contiguous(), next_coupling

    def _check_symmetry(self, h: Tensor, coupling: Tensor, old: int) -> None:
        if not self.norm:
            return
        deviation = float((h[:, :old] - coupling).abs().max()) if old else 0.0
        deviation = max(deviation, float((h[:, old:] - h[:, old:].mT).abs().max()))
        self.asymmetry = max(self.asymmetry, deviation / self.norm)
        if self.asymmetry > 1e-2:
            raise ValueError(
                f"matvec is not a symmetric operator: v^T A w and w^T A v differ by {self.asymmetry:.1e} of its norm; "
                "pass the product with (A + A^T) / 2, or use golub_kahan for singular values."
            )

    def _converged(self, errors: Tensor, chosen: list[int]) -> bool:
        ends = self.count * (2 if self.which == "both" else 1)
        enough = len(chosen) >= min(ends, self.size - self.start)
        enough = enough and self.matvecs >= min(FEWEST_STEPS, self.size)
        return enough and bool((errors[chosen] <= self.tolerance * self.norm).all())

    def _restart(self, values: Tensor, rotation: Tensor, coupling: Tensor) -> Tensor:
        # Thick restart: shrinks the running Krylov space to its most wanted half.
        room = (self.limit - self.block) // 2
        per_end = room // 2 if self.which == "both" else room
        kept = wanted(values, max(per_end, self.count), self.which)
        rows = self.basis.rows[self.start :]
        self.basis.replace(self.start, rotation[:, kept].mT.to(rows) @ rows)
        shrunk = torch.zeros(self.basis.rank, self.basis.rank, dtype=torch.float64)
        shrunk[: self.start, : self.start] = self.T[: self.start, : self.start]
        shrunk[self.start :, self.start :] = torch.diag(values[kept])
        self.T = shrunk
        return torch.cat([coupling[:, : self.start], coupling[:, self.start :] @ rotation[:, kept]], dim=1)

    def _changed(self) -> bool:
        # Whether the Krylov space that just closed has changed the wanted values.
        if not self.start:
            return True
        before = torch.linalg.eigvalsh(self.T[: self.start, : self.start])
        after = torch.linalg.eigvalsh(self.T)
        self.norm = max(self.norm, float(after.abs().max()))
        first, second = (v[wanted(v, self.count, self.which)] for v in (before, after))
        return len(first) != len(second) or bool(((first - second).abs() > self.tolerance * self.norm).any())
