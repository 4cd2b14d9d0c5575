"""Projection of matrices onto a few columns of one fixed orthonormal basis, chosen by how much they hold.

A matrix G of m rows and n <= m columns (a wide one is taken as its transpose) has the coefficients S = G Q in the basis
Q; the columns of S of largest norm are kept. Nothing is decomposed, the low-rank matrix S_I needs no second product, a
subspace is r numbers.

References:
    I.-V. Modoranu et al., SVD-free low-rank adaptive gradient optimization for large language models, 2025.
    arXiv:2505.17967
    Its released code, IST-DASLab/ISTA-DASLab-Optimizers, folder fft_low_rank
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry.linalg import dct, haar
from isometry.linalg._dct import DCTRoute, check_route, shared_dct_matrix
from isometry.linalg._precision import check_matrix, check_size, working_dtype
from isometry.optim._base import check_choice
from isometry.optim._low_rank import Rank, resolved_rank

__all__ = [
    "Basis",
    "DCTProjector",
    "basis_columns",
    "check_projection",
    "coefficients",
    "strongest_columns",
    "taken",
    "tall",
]

Basis = Literal["dct2", "dct3", "random", "identity"]


class DCTProjector:
    """Project matrices of a shape onto the r columns of a fixed basis that hold most of them, and back.

    For a (R, K) matrix G with R >= K: S = G Q, I = the r columns of S of largest p-norm, g = S_I, and back g Q_I^T.
    With R < K the left side is projected, S = Q^T G, rows are chosen, and back Q_I g. With p = 2 no other choice of r
    columns loses less, and |G - g Q_I^T|_F^2 <= (1 - r/n) |G|_F^2 with n = min(R, K).

    Args:
        shape: ``(R, K)``.
        rank: r, an int, or as a float the fraction of n, rounded half up.
        p: Norm of the columns, 2 or 1. The paper's analysis takes any, its code 1; with 1 the bound above may fail, so
            2 is the default.
        basis: ``"dct2"``, Q = C^T with C = ``isometry.linalg.dct_matrix(n)``; ``"dct3"``, Q = C; ``"random"``, a Haar
            matrix that depends on n alone; ``"identity"``. The released code takes ``"dct3"`` when it multiplies and
            ``"dct2"`` when it takes the FFT; here the route never changes the basis.
        route: How the DCT-II is computed, see ``isometry.linalg.dct``; other bases are always multiplied by.

    Attributes:
        shape: As given.
        rank: r as a number of columns.
        indices: The chosen columns in increasing order, shape ``(*batch, r)``; None before the first choice.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> g = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> projector = DCTProjector((6, 4), rank=2)
        >>> lost = g - projector.up(projector.project(g))
        >>> bool(lost.square().sum() <= (1 - 2 / 4) * g.square().sum())
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        rank: Rank,
        *,
        p: Literal[1, 2] = 2,
        basis: Basis = "dct2",
        route: DCTRoute = "auto",
    ) -> None:
        if len(shape) != 2:
            raise ValueError(f"shape must be (rows, columns), got {tuple(shape)}; flatten kernels first.")
        for size in shape:
            check_size("shape", size)
        check_projection(p, basis, route)
        self.shape = (shape[0], shape[1])
        self.rank = resolved_rank(rank, self.shape)
        self.p: Literal[1, 2] = p
        self.basis: Basis = basis
        self.route: DCTRoute = route
        self.indices: Tensor | None = None

    def project(self, matrix: Tensor) -> Tensor:
        """Choose columns for a matrix and give its part in them; one transform does both.

        Args:
            matrix: G, shape ``(*batch, R, K)``; each matrix of a batch has its own choice.

        Returns:
            g, shape ``(*batch, R, r)`` if R >= K, else ``(*batch, r, K)``.
        """
        spectrum = coefficients(tall(self._checked(matrix)), basis=self.basis, route=self.route)
        self.indices = strongest_columns(spectrum, self.rank, p=self.p)
        return self._turned(taken(spectrum, self.indices))

    def select(self, matrix: Tensor) -> Tensor:
        """Choose columns for a matrix.

        Args:
            matrix: G, shape ``(*batch, R, K)``.

        Returns:
            The indices.
        """
        spectrum = coefficients(tall(self._checked(matrix)), basis=self.basis, route=self.route)
        self.indices = strongest_columns(spectrum, self.rank, p=self.p)
        return self.indices

    def down(self, matrix: Tensor) -> Tensor:
        """Project a matrix onto the columns chosen last.

        Args:
            matrix: G, shape ``(*batch, R, K)``.

        Returns:
            As ``project``.
        """
        matrix = self._checked(matrix)
        return self._turned(tall(matrix) @ self._columns(matrix).mT)

    def up(self, low: Tensor) -> Tensor:
        """Bring a low-rank matrix back to the full shape.

        Args:
            low: g, as ``down`` gives it.

        Returns:
            Shape ``(*batch, R, K)``.

        Raises:
            ValueError: If it is of another shape.
        """
        check_matrix("low", low, finite=False)
        rows, columns = self.shape
        wanted = (rows, self.rank) if rows >= columns else (self.rank, columns)
        if low.shape[-2:] != wanted:
            raise ValueError(f"low must have the shape (*batch, {wanted[0]}, {wanted[1]}), got {tuple(low.shape)}.")
        back: Tensor = self._turned(self._turned(low) @ self._columns(low))
        return back

    def _turned(self, matrix: Tensor) -> Tensor:
        return matrix if self.shape[0] >= self.shape[1] else matrix.mT

    def _columns(self, like: Tensor) -> Tensor:
        if self.indices is None:
            raise ValueError("no columns are chosen yet; call select or project first.")
        return basis_columns(self.indices, min(self.shape), basis=self.basis, dtype=like.dtype)

    def _checked(self, matrix: Tensor) -> Tensor:
        check_matrix("matrix", matrix, finite=False)
        if matrix.shape[-2:] != self.shape:
            raise ValueError(
                f"matrix must have the shape (*batch, {self.shape[0]}, {self.shape[1]}), got {tuple(matrix.shape)}; "
                "flatten kernels first."
            )
        return matrix


def tall(matrices: Tensor) -> Tensor:
    """Take wide matrices as their transposes, so that there is one case below.

    Returns:
        Shape ``(*batch, m, n)``, m >= n; a view.
    """
    return matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mT


def coefficients(matrices: Tensor, *, basis: Basis = "dct2", route: DCTRoute = "auto") -> Tensor:
    """Give the coefficients S = G Q of matrices in a basis.

    Args:
        matrices: G, shape ``(*batch, m, n)``.
        basis: Which basis.
        route: How the DCT-II is computed.

    Returns:
        Same shape and dtype.
    """
    if basis == "identity":
        return matrices
    if basis == "dct2":
        return dct(matrices, route=route)
    work = matrices.to(working_dtype(matrices.dtype))
    return (work @ _transposed_basis(basis, work.shape[-1], work.dtype, work.device).mT).to(matrices.dtype)


def strongest_columns(spectrum: Tensor, rank: int, *, p: Literal[1, 2] = 2) -> Tensor:
    """Choose the columns of largest norm; of equal ones the first.

    Args:
        spectrum: S, shape ``(*batch, m, n)``.
        rank: How many.
        p: Norm, 1 or 2.

    Returns:
        Their indices in increasing order, int32 (what is kept of a subspace), shape ``(*batch, rank)``.

    Example:
        >>> strongest_columns(torch.tensor([[1.0, 0.0, 2.0, 1.0]]), 2)
        tensor([0, 2], dtype=torch.int32)
    """
    work = spectrum.to(working_dtype(spectrum.dtype))
    if p == 1:
        scores = work.abs().sum(dim=-2)
    else:
        # Divided by the largest entry, squares neither overflow nor vanish; only the order of the norms matters.
        largest = work.abs().amax(dim=(-2, -1), keepdim=True)
        scores = (work / torch.where(largest == 0, 1.0, largest)).square().sum(dim=-2)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[..., :rank].sort(dim=-1).values.int()


def basis_columns(indices: Tensor, n: int, *, basis: Basis = "dct2", dtype: torch.dtype) -> Tensor:
    """Give chosen columns of a basis, as rows.

    Args:
        indices: Shape ``(*batch, r)``.
        n: Size of the basis.
        basis: Which basis.
        dtype: Dtype of the output.

    Returns:
        Q_I^T, shape ``(*batch, r, n)``.
    """
    return _transposed_basis(basis, n, dtype, indices.device)[indices.long()]


def check_projection(p: object, basis: object, route: object) -> None:
    """Insist on known options.

    Args:
        p: The norm.
        basis: The basis.
        route: How the DCT is computed.

    Raises:
        ValueError: If one is unknown.
    """
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}.")
    check_choice("basis", basis, get_args(Basis))
    check_route(route)


def taken(matrices: Tensor, indices: Tensor) -> Tensor:
    """Take chosen columns of matrices.

    Args:
        matrices: Shape ``(*batch, m, n)``.
        indices: Shape ``(*batch, r)``.

    Returns:
        Shape ``(*batch, m, r)``.
    """
    wanted = indices.long().unsqueeze(-2).expand(*matrices.shape[:-1], indices.shape[-1])
    return matrices.gather(-1, wanted)


@lru_cache(maxsize=64)
def _transposed_basis(basis: Basis, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give Q^T, whose rows are the basis; the same tensor each time, not to be written to.

    Returns:
        Shape ``(n, n)``.
    """
    with torch.inference_mode(False):
        if basis == "dct2":
            return shared_dct_matrix(n, dtype, device)
        if basis == "dct3":
            return shared_dct_matrix(n, dtype, device).T
        if basis == "identity":
            return torch.eye(n, dtype=dtype, device=device)
        generator = torch.Generator().manual_seed(n)
        return haar(n, n, dtype=torch.float64, device="cpu", generator=generator).to(device=device, dtype=dtype)
