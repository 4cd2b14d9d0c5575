"""Low-rank Adam in subspaces that are not columns of a fixed basis: the peers of DCT-AdamW, by dense projections.

The steps are those of ``isometry.optim.DCTAdamW`` with error feedback; only the subspace differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import isometry as iso

__all__ = ["ProjectedAdamW", "fixed_subspace", "singular_subspace"]

Subspace = Callable[[Tensor, int], Tensor]  # a matrix (m, n) and a rank r -> orthonormal columns (n, r)


def singular_subspace(matrix: Tensor, rank: int) -> Tensor:
    """Take the right singular vectors of the largest singular values.

    Args:
        matrix: Shape ``(m, n)``.
        rank: r.

    Returns:
        Shape ``(n, r)``.
    """
    right: Tensor = torch.linalg.svd(matrix, full_matrices=False).Vh[:rank]
    return right.T


def fixed_subspace(generator: torch.Generator) -> Subspace:
    """Draw a subspace of Haar's measure once for all steps, the same for all matrices of a size.

    Args:
        generator: Source of randomness.

    Returns:
        The subspace as a function of matrix and rank.
    """
    drawn: dict[tuple[int, int], Tensor] = {}

    def subspace(matrix: Tensor, rank: int) -> Tensor:
        size = (matrix.shape[1], rank)
        if size not in drawn:
            drawn[size] = iso.linalg.haar(*size, dtype=matrix.dtype, generator=generator)
        return drawn[size]

    return subspace


class ProjectedAdamW(torch.optim.Optimizer):
    """Adam in a subspace on the right that is chosen at every step, with error feedback and rotated states.

    Args:
        params: Matrices with at least as many rows as columns.
        lr: Learning rate.
        rank: r.
        subspace: Chooses the subspace.
    """

    def __init__(self, params: list[Tensor], lr: float, rank: int, subspace: Subspace) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8})
        self.rank, self.subspace = rank, subspace

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    ratio = _ratio(p.grad, self.state[p], self.subspace, self.rank, group["betas"], group["eps"])
                    p.sub_(ratio, alpha=group["lr"])


def _ratio(
    gradient: Tensor,
    state: dict[str, Any],
    subspace: Subspace,
    rank: int,
    betas: tuple[float, float],
    eps: float,
) -> Tensor:
    b1, b2 = betas
    a = gradient + state.get("error", 0)
    q = subspace(a, rank)
    low = a @ q
    mean, square = state.get("mean", torch.zeros_like(low)), state.get("square", torch.zeros_like(low))
    if "q" in state:
        turn = state["q"].T @ q
        mean, square = mean @ turn, (square @ turn).abs()
    mean, square = b1 * mean + (1 - b1) * low, b2 * square + (1 - b2) * low.square()
    step = state.get("step", 0) + 1
    state |= {"step": step, "error": a - low @ q.T, "q": q, "mean": mean, "square": square}
    ratio: Tensor = mean / (1 - b1**step) / ((square / (1 - b2**step)).sqrt() + eps) @ q.T
    return ratio
