"""Two linear layers of rank one along the task: low-rank weights that nevertheless learn lazily.

References:
    Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown, G. Lajoie, How connectivity structure shapes rich and
    lazy learning in neural circuits, ICLR 2024. arXiv:2310.08513, Proposition 1
"""

from __future__ import annotations

import torch
from torch import Tensor

from isometry._base import check_finite, check_positive, check_tensor
from isometry.init._low_rank import write
from isometry.init._writable import check_writable
from isometry.linalg import standard_normal

__all__ = ["aligned_"]


def aligned_(
    first: Tensor, second: Tensor, direction: Tensor, *, sigma: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Overwrite two layers with W1 = sigma v b^T and W2 = sigma v^T, for a random unit vector v and b along the task.

    With white inputs and a single output beta^T x, b = beta / |beta|, the tangent kernel keeps its direction
    b b^T + I throughout gradient flow: its alignment before and after is 1, although the weights have rank one and may
    be small. For features z = F x the direction is that of F^T beta.

    Args:
        first: W1, (hidden, inputs); overwritten in place.
        second: W2, (1, hidden); overwritten in place.
        direction: beta, (inputs,); its length does not count.
        sigma: Norm of both layers.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``first`` and ``second``.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If a tensor cannot be written to, shapes do not fit, or the direction is zero.

    Example:
        >>> w1, w2 = aligned_(torch.empty(4, 2), torch.empty(1, 4), torch.tensor([3.0, 4.0]), sigma=0.5)
        >>> torch.allclose(w2 @ w1, torch.tensor([[0.15, 0.2]]))  # sigma^2 b
        True
    """
    check_writable("first", first)
    check_writable("second", second)
    check_positive("sigma", sigma, zero=True)
    beta = check_finite("direction", check_tensor("direction", direction, ndim=1))
    if first.ndim != 2 or first.shape[1] != len(beta) or second.shape != (1, len(first)):
        raise ValueError(
            f"first, second and direction have shapes {tuple(first.shape)}, {tuple(second.shape)} and "
            f"{tuple(beta.shape)}; they must be (hidden, inputs), (1, hidden) and (inputs,)."
        )
    wide = beta.detach().to(first.device, torch.float64)
    if not bool(wide.any()):
        raise ValueError("direction is zero and points nowhere; pass the target weights beta.")
    draw = standard_normal((len(first),), dtype=first.dtype, device=first.device, generator=generator).double()
    v, b = draw / draw.norm(), wide / wide.norm()
    write(first, sigma * torch.outer(v, b))
    write(second, sigma * v.unsqueeze(0).to(second.device))
    return first, second
