"""Penalties that draw a matrix towards orthonormal rows or columns, from the Gram matrix of its shorter side.

References:
    N. Bansal, X. Chen, Z. Wang, Can we gain more from orthogonality regularizations in training deep CNNs?, NeurIPS
    2018. arXiv:1810.09102

Departures, for W of shape (out, in), whose transpose is the paper's W:

1. The paper takes the Gram matrix of the filters, here W W^T, always. With more filters than inputs that cannot be the
   identity: SO then stays above out - in, and SRIP at 1, without a gradient. Here G is the shorter side's Gram matrix.
   SO differs from the paper's by that constant alone; the double-sided SO is the paper's, constant included.
2. MC's norm is the largest entry in magnitude, as in the definition of mutual coherence.
3. SRIP's vector is held fixed in the gradient (the released code differentiates through the iteration), which is the
   gradient of the spectral norm itself once the iteration has converged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from isometry.linalg import standard_normal

__all__ = ["SoftKind", "soft_penalty"]

SoftKind = Literal["so", "double-sided", "mc", "srip"]


def soft_penalty(
    matrices: Tensor, kind: SoftKind, *, steps: int = 2, generator: torch.Generator | None = None
) -> Tensor:
    """Sum a penalty over a stack of matrices.

    Args:
        matrices: Shape ``(*batch, out, in)``.
        kind: Which one; the formulas are in ``orthogonality_penalty``.
        steps: Power iterations of ``"srip"``.
        generator: Source of its starting vectors.

    Returns:
        A scalar, float64 for float64 matrices and else float32.
    """
    wide = matrices.to(torch.float64 if matrices.dtype == torch.float64 else torch.float32)
    with torch.autocast(wide.device.type, enabled=False):
        gram = wide @ wide.mT if wide.shape[-2] <= wide.shape[-1] else wide.mT @ wide
        gap = gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        if kind == "srip":
            return _srip(gap, steps, generator).sum()
        return _FORMULAS[kind](gap, abs(wide.shape[-2] - wide.shape[-1])).sum()


def _so(gap: Tensor, _difference: int) -> Tensor:
    return gap.square().sum(dim=(-2, -1))  # Bansal et al., Section 3.1


def _double_sided(gap: Tensor, difference: int) -> Tensor:
    # Section 3.2: |W^T W - I|^2 + |W W^T - I|^2; the longer side's square exceeds the shorter one's by |out - in|.
    return 2 * gap.square().sum(dim=(-2, -1)) + difference


def _mc(gap: Tensor, _difference: int) -> Tensor:
    return gap.abs().amax(dim=(-2, -1))  # Section 3.3


_FORMULAS: dict[str, Callable[[Tensor, int], Tensor]] = {"so": _so, "double-sided": _double_sided, "mc": _mc}


def _srip(gap: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    # Section 3.4: the largest | |W z|^2 / |z|^2 - 1 |, which is the spectral norm of G - I, by power iteration.
    with torch.no_grad():
        v = standard_normal((*gap.shape[:-1], 1), dtype=gap.dtype, device=gap.device, generator=generator)
        for _ in range(steps):
            v = gap @ v
            v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    image: Tensor = torch.linalg.vector_norm(gap @ v, dim=-2)
    return image
