"""Gaussian weights in the mean-field convention: independent entries of variance sigma^2 / fan_in.

References:
    B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein, S. Ganguli, Exponential expressivity in deep neural networks
    through transient chaos, NeurIPS 2016. arXiv:1606.05340
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isometry._base import check_positive
from isometry.init._writable import check_writable
from isometry.linalg import standard_normal

__all__ = ["gaussian", "gaussian_"]


def gaussian_(
    tensor: Tensor, *, sigma: float = 1.0, fan_in: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Overwrite a weight with independent draws W ~ N(0, sigma^2 / fan_in).

    ``sigma`` is the theory's sigma_w, a standard deviation: one entry has the standard deviation
    ``sigma / sqrt(fan_in)``, and the mean square of the outputs is ``sigma^2`` times that of the inputs. The draw is
    float32 (float64 for float64) and rounded once to the weight's dtype.

    Args:
        tensor: Shape ``(out, in / groups, *kernel)``; any real floating dtype; overwritten in place.
        sigma: Standard deviation of an output per unit root mean square of the inputs (sigma_w).
        fan_in: How many inputs feed one output; default: ``in / groups * prod(kernel)``. A transposed convolution,
            which stores ``(in, out / groups, *kernel)``, needs it: ``in / groups * prod(kernel)`` at stride 1.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``tensor``.

    Raises:
        ValueError: If the tensor cannot be written to, or is a vector and no ``fan_in`` is given.

    Example:
        >>> w = gaussian_(torch.empty(100, 400), sigma=2.0, generator=torch.Generator().manual_seed(0))
        >>> round(float(w.std()), 2)  # 2 / sqrt(400)
        0.1
    """
    check_writable("tensor", tensor, min_ndim=0)
    check_positive("sigma", sigma, zero=True)
    if fan_in is None:
        if tensor.ndim < 2:
            raise ValueError(
                f"tensor must have at least 2 dimensions (out, in), got shape {tuple(tensor.shape)}; pass fan_in= for "
                "a vector."
            )
        fan_in = tensor[0].numel()
    if isinstance(fan_in, bool) or not isinstance(fan_in, int) or fan_in < 1:
        raise ValueError(f"fan_in must be a whole number >= 1, got {fan_in!r}.")
    draw = standard_normal(tensor.shape, dtype=tensor.dtype, device=tensor.device, generator=generator)
    with torch.no_grad():
        return tensor.copy_(draw.mul_(sigma / math.sqrt(fan_in)))


def gaussian(
    shape: Sequence[int],
    *,
    sigma: float = 1.0,
    fan_in: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make a new tensor and fill it as ``gaussian_`` does.

    Args:
        shape: ``(out, in / groups, *kernel)``.
        sigma: Standard deviation of an output per unit root mean square of the inputs (sigma_w).
        fan_in: How many inputs feed one output; default: ``in / groups * prod(kernel)``.
        dtype: Dtype of the tensor; default: torch's default dtype.
        device: Device of the tensor; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The tensor.
    """
    empty = torch.empty(tuple(shape), dtype=dtype, device=device)
    return gaussian_(empty, sigma=sigma, fan_in=fan_in, generator=generator)
