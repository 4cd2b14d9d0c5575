"""Extreme singular values of an operator that is only known by its products and its transpose's.

Golub-Kahan bidiagonalization with full reorthogonalization of both bases: A V = U B, A^T U = V B^T + remainder.

References:
    G. Golub, W. Kahan, Calculating the singular values and pseudo-inverse of a matrix, SIAM J. Numer. Anal. 2(2), 1965.
    H. D. Simon, H. Zha, Low-rank matrix approximation using the Lanczos bidiagonalization process with applications,
    SIAM J. Sci. Comput. 21(6), 2000.
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

__all__ = ["SingularExtremes", "golub_kahan"]

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SingularExtremes(Result):
    """Extreme singular values with vectors and residuals.

    Attributes:
        values: Descending; the largest first, then the smallest; shape ``(k,)``.
        left: Orthonormal columns, shape ``(m, k)``.
        right: Orthonormal columns, shape ``(n, k)``.
        residuals: ``sqrt(|A v - s u|^2 + |A^T u - s v|^2)`` per triplet, by products made at the end, shape ``(k,)``.
            Some singular value of A lies within that distance of s. For a zero singular value it is the product on
            the smaller side alone, which suffices, and the vector on the longer side is some orthonormal completion.
        tolerance: What ``converged`` asks for: residuals of at most ``tolerance * norm``.
        norm: The largest singular value seen.
        converged: Whether all residuals are within the tolerance.
        steps: Dimension of the Krylov spaces.
        exhausted: Whether the whole space was searched, or an invariant subspace was found on the way.
        dtype: The dtype of vectors and products.
        cost: What it took; ``matvecs`` counts products with A and with its transpose alike.
    """

    values: Tensor
    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    residuals: Tensor
    tolerance: float
    norm: float
    converged: bool
    steps: int
    exhausted: bool
    dtype: torch.dtype
    cost: Cost


def golub_kahan(
    matvec: Product,
    rmatvec: Product,
    shape: tuple[int, int],
    *,
    count: int = 1,
    which: Which = "largest",
    tolerance: float | None = None,
    max_steps: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> SingularExtremes:
    """Compute the largest or smallest singular values of an operator, or both ends, without forming it.

    Largest values converge in a few steps. Smallest ones converge late, often only when the Krylov space fills the
    smaller side, so give them ``max_steps`` of that size where you can; before that, a small residual proves that there
    is a singular value nearby, not that it is the smallest. Where the Krylov space closes (an isometry closes it in one
    step), the search goes on in the complement until another closed subspace changes nothing.

    Args:
        matvec: The product with A: takes shape ``(n,)``, returns shape ``(m,)``.
        rmatvec: The product with the transpose of A: takes shape ``(m,)``, returns shape ``(n,)``.
        shape: (m, n).
        count: How many singular values at each wanted end; of min(m, n) in all.
        which: ``"largest"``, ``"smallest"`` or ``"both"``.
        tolerance: Residual that is small enough, relative to the largest singular value; default: square root of the
            dtype's epsilon (1.5e-8 in float64, 3.5e-4 in float32).
        max_steps: Most steps, of one product with A and one with its transpose each; default: min(m, n, 1000).
        dtype: float32 or float64.
        device: Device of the vectors.
        budget: Bytes that both bases may take; default: the package's.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The singular values with true residuals; ``converged`` is False where the steps ran out.

    Raises:
        ValueError: If ``rmatvec`` is visibly not the transpose of ``matvec``, or a product is wrong in shape or not
            finite.

    Example:
        >>> a = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
        >>> result = golub_kahan(lambda v: a @ v, lambda u: a.mT @ u, (8, 8), which="both")
        >>> [round(float(s), 6) for s in result.values], result.converged
        ([8.0, 1.0], True)
    """
    m, n = (check_size(f"shape[{i}]", length) for i, length in enumerate(shape))
    small = min(m, n)
    allowed = check_extremes(count, which, tolerance, max_steps, dtype, small)
    steps = min(small, 1000 if max_steps is None else max_steps)
    place = torch.device(device) if device is not None else torch.get_default_device()
    needed = check_budget(
        steps * (m + n) * dtype.itemsize,
        budget,
        what=f"a Golub-Kahan basis of {steps} vectors of {m} + {n} entries",
        instead="Pass a smaller max_steps=, or dtype=torch.float32,",
    )
    with torch.no_grad(), stopwatch() as watch:
        # The chain starts on the smaller side, where it cannot run into the null space by dimension alone.
        flip = n > m
        forward, backward = (rmatvec, matvec) if flip else (matvec, rmatvec)
        names = ("rmatvec", "matvec") if flip else ("matvec", "rmatvec")
        search = _Search(
            lambda v: check_product(names[0], forward(v), torch.empty(max(m, n), dtype=dtype, device=place)),
            lambda u: check_product(names[1], backward(u), torch.empty(small, dtype=dtype, device=place)),
            count,
            which,
            allowed,
            Basis(max(m, n), dtype, place, generator),
            Basis(small, dtype, place, generator),
        )
        search.run(steps)
        values, long, short = search.triplets()
        residuals = search.residuals(values, long, short)
    left, right = (short, long) if flip else (long, short)
    ends = min(count * (2 if which == "both" else 1), small)
    return SingularExtremes(
        values=values.to(long),
        left=left.mT.contiguous(),
        right=right.mT.contiguous(),
        residuals=residuals,
        tolerance=allowed,
        norm=search.norm,
        converged=len(values) >= ends and bool((residuals <= allowed * search.norm).all()),
        steps=search.V.rank,
        exhausted=search.exhausted,
        dtype=dtype,
        cost=Cost(matvecs=search.products, bytes=needed, seconds=watch.seconds),
    )


class _Search:
    """The state of one run: bases U and V (rows), and B = U A V^T, with at most as many rows as columns.

    A right vector that A maps into the left basis gets no left partner; it shows up as a zero singular value of B.
    The first ``closed`` rows and columns belong to invariant subspaces, the others to the running Krylov space.
    """

    def __init__(
        self, forward: Product, backward: Product, count: int, which: str, tolerance: float, U: Basis, V: Basis
    ) -> None:
        self.forward, self.backward, self.count, self.which = forward, backward, count, which
        self.tolerance, self.U, self.V = tolerance, U, V
        self.B = torch.zeros(0, 0, dtype=torch.float64)
        self.closed = (0, 0)
        self.products = 0
        self.norm = 0.0
        self.exhausted = False

    def run(self, max_steps: int) -> None:
        """Extend the bases until the wanted triplets have converged, nothing is left, or the steps ran out."""
        v = self.V.random_rows(1)
        fresh = False  # whether the running space began with a random vector from the closed ones' complement
        check_at = 1
        for step in range(1, max_steps + 1):
            progress("Golub-Kahan", step - 1, max_steps)
            rest, alpha = self._extend(v)
            beta = float(torch.linalg.vector_norm(rest))
            full = step == self.V.rows.shape[1]
            negligible = closing(self.tolerance, rest.dtype) * self.norm
            if full or beta <= negligible or 0 < alpha <= negligible:
                self.exhausted = True
                # With a tiny alpha the space closed before the last left vector, which opens the next one.
                rows = self.U.rank - (beta > negligible)
                if full or (fresh and not self._changed(rows)):
                    break
                self.closed = (rows, self.V.rank)
                # A space that a left vector opens does not see A's null space, so it settles nothing.
                fresh = beta <= negligible
            elif step >= check_at:
                # A small SVD costs step^3: look every tenth of the way.
                check_at = step + max(1, step // 10)
                if self._converged(beta):
                    break
            if beta > negligible:
                v = self.V.project_out(rest / beta)[0]
                v = v / torch.linalg.vector_norm(v)
            else:
                v = self.V.random_rows(1)
        progress("Golub-Kahan", max_steps, max_steps)

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give the wanted singular values (float64, descending), and left and right vectors (rows).

        Returns:
            Values, left vectors, right vectors.
        """
        p, s, qh = torch.linalg.svd(self.B)
        missing = self.V.rank - self.U.rank
        values = torch.cat([s, s.new_zeros(missing)])
        chosen = [len(values) - 1 - i for i in wanted(values.flip(0), self.count, self.which)]
        u, v = self.U.rows, self.V.rows
        left = torch.cat([p.mT.to(u) @ u, self.U.random_rows(missing)]) if missing else p.mT.to(u) @ u
        return values[chosen], left[chosen], qh[chosen].to(v) @ v

    def residuals(self, values: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Compute the residual of every triplet with fresh products.

        Returns:
            One number per triplet.
        """
        out = []
        for s, u, v in zip(values.to(left), left, right, strict=True):
            self.products += 2
            error = torch.linalg.vector_norm(self.forward(v) - s * u)
            other = torch.linalg.vector_norm(self.backward(u) - s * v)
            # On the smaller side |A v| <= r alone proves a singular value of at most r.
            null = float(s) <= self.tolerance * self.norm
            out.append(error if null else torch.hypot(error, other))
        return torch.stack(out)

    def _extend(self, v: Tensor) -> tuple[Tensor, float]:
        # Adds a right and a left vector; gives what the transpose's product leaves outside the right basis, and what
        # the product left outside the left basis in size.
        self.products += 1
        rest, coefficients = self.U.project_out(self.forward(v[0])[None])
        above = coefficients[0].to(device="cpu", dtype=torch.float64)
        alpha = float(torch.linalg.vector_norm(rest))
        # Any product with a unit vector bounds the operator's norm from below.
        self.norm = max(self.norm, math.hypot(float(torch.linalg.vector_norm(above)), alpha))
        self.V.append(v)
        self.B = torch.cat([self.B, above[:, None]], dim=1)
        if alpha <= 50 * torch.finfo(rest.dtype).eps * self.norm:
            return torch.zeros_like(v), 0.0  # v is mapped into the left basis, or to zero: the space is closed

        u = self.U.project_out(rest / alpha)[0]
        u = u / torch.linalg.vector_norm(u)
        self.U.append(u)
        below = torch.zeros(1, self.V.rank, dtype=torch.float64)
        below[0, -1] = alpha
        self.B = torch.cat([self.B, below])
        self.products += 1
        product = self.backward(u[0])[None]
        self.norm = max(self.norm, float(torch.linalg.vector_norm(product)))
        remainder, row = self.V.project_out(product)
        self._check_transpose(row[0].to(device="cpu", dtype=torch.float64))
        return remainder, alpha

    def _check_transpose(self, row: Tensor) -> None:
        deviation = float((row - self.B[-1]).abs().max())
        if deviation > 1e-2 * self.norm:
            raise ValueError(
                f"rmatvec is not the transpose of matvec: u^T (A v) and (A^T u)^T v differ by {deviation:.1e} where "
                f"the norm is {self.norm:.1e}; check that both belong to the same operator, without conjugation, "
                "scaling or dropout."
            )

    def _converged(self, beta: float) -> bool:
        rows, cols = self.closed
        p, s, _ = torch.linalg.svd(self.B[rows:, cols:])
        chosen = [len(s) - 1 - i for i in wanted(s.flip(0), self.count, self.which)]
        ends = self.count * (2 if self.which == "both" else 1)
        size = self.V.rows.shape[1]
        if len(chosen) < min(ends, size - cols) or self.V.rank < min(FEWEST_STEPS, size):
            return False
        self.norm = max(self.norm, float(s[0]))
        return bool((beta * p[-1, chosen].abs() <= self.tolerance * self.norm).all())

    def _changed(self, rows: int) -> bool:
        # Whether the Krylov space that just closed, up to this row, has changed the wanted values.
        before, after = self._values(*self.closed), self._values(rows, self.V.rank)
        return len(before) != len(after) or bool(((before - after).abs() > self.tolerance * self.norm).any())

    def _values(self, rows: int, cols: int) -> Tensor:
        s = torch.linalg.svdvals(self.B[:rows, :cols]) if rows else self.B.new_zeros(0)
        ascending = torch.cat([s, s.new_zeros(cols - rows)]).flip(0)
        return ascending[wanted(ascending, self.count, self.which)]
