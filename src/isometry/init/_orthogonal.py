"""Orthogonal weights for layers that act as one matrix.

Dynamical isometry (all singular values of the input-output Jacobian near one) needs orthogonal weights; Gaussian ones
cannot have it at any depth.

References:
    A. M. Saxe, J. L. McClelland, S. Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks, ICLR 2014. arXiv:1312.6120
    J. Pennington, S. S. Schoenholz, S. Ganguli, Resurrecting the sigmoid in deep learning through dynamical isometry,
    NeurIPS 2017. arXiv:1711.04735
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry._base import check_positive
from isometry.init._writable import check_writable
from isometry.linalg import haar_

__all__ = ["orthogonal", "orthogonal_"]


def orthogonal_(
    tensor: Tensor, *, gain: float = 1.0, batch_dims: int = 0, generator: torch.Generator | None = None
) -> Tensor:
    """Overwrite a weight with ``gain`` times a Haar-distributed matrix with orthonormal rows or columns.

    The weight is read as ``(out, in)``: columns are orthonormal if out >= in, else rows. Random reflectors are
    multiplied out in float64 and rounded once to the weight's dtype (float16 and bfloat16 too). Compared with
    ``torch.nn.init.orthogonal_``, which factorizes in float32, ``|Q^T Q - I|_F`` at 1024 x 1024 is 1.1e-6 instead of
    2e-5, and large matrices take no more time: nothing is factorized, which saves what float64 costs. (A float64
    factorization is equally orthogonal, at 1.7 to 2.1 times the price.) Below a width of about 100 the fixed cost of
    some 20 microseconds per call shows; a stack of equal weights in one call (``batch_dims``) avoids it, and is faster
    than torch's loop at every width. ``benchmarks/orthogonal.py`` has the figures.

    With orthonormal columns ``|W x| = gain |x|``. In terms of the variance convention W ~ sigma_w^2 / fan_in, the mean
    square of the outputs is ``gain^2 min(1, in / out)`` times that of the inputs.

    A kernel ``(out, in, *kernel)`` is flattened to ``(out, in * prod(kernel))``, as torch does. That makes the *matrix*
    orthogonal, not the convolution: each output is an orthonormal read-out of its patch, but patches overlap, so the
    map does not keep norms. ``delta_orthogonal_`` gives a convolution that does. A transposed convolution stores
    ``(in, out, *kernel)`` and is better served there too.

    Args:
        tensor: Shape ``(*batch, out, in, *kernel)``; any real floating dtype; overwritten in place.
        gain: Factor on the orthonormal matrix (all its singular values).
        batch_dims: How many leading dimensions count independent matrices; a stack of equal weights is one call.
        generator: Source of randomness; torch's global one by default.

    Returns:
        ``tensor``.

    Raises:
        ValueError: If the tensor cannot be written to (parametrized, meta, expanded, empty), or has fewer than
            ``batch_dims + 2`` dimensions.

    Example:
        >>> w = orthogonal_(torch.empty(3, 5, dtype=torch.float64), gain=2.0)
        >>> torch.allclose(w @ w.T, 4 * torch.eye(3, dtype=torch.float64))
        True
    """
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, int) or batch_dims < 0:
        raise ValueError(f"batch_dims must be a whole number >= 0, got {batch_dims!r}.")
    check_writable("tensor", tensor, min_ndim=0)
    check_positive("gain", gain, zero=True)
    if tensor.ndim < batch_dims + 2:
        raise ValueError(
            f"tensor must have at least {batch_dims + 2} dimensions, two of them of a matrix (out, in), got shape "
            f"{tuple(tensor.shape)}; leave out biases, gains and other vectors."
        )
    with torch.no_grad():
        if tensor.is_contiguous():
            haar_(tensor.view(*tensor.shape[: batch_dims + 1], -1), scale=gain, generator=generator)
        else:
            matrix = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            haar_(matrix.view(*tensor.shape[: batch_dims + 1], -1), scale=gain, generator=generator)
            tensor.copy_(matrix)
    return tensor


def orthogonal(
    shape: Sequence[int],
    *,
    gain: float = 1.0,
    batch_dims: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make a new tensor and fill it as ``orthogonal_`` does.

    Args:
        shape: ``(*batch, out, in, *kernel)``.
        gain: Factor on the orthonormal matrix.
        batch_dims: How many leading dimensions count independent matrices.
        dtype: Dtype of the tensor; default: torch's default dtype.
        device: Device of the tensor; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The tensor.
    """
    empty = torch.empty(tuple(shape), dtype=dtype, device=device)
    return orthogonal_(empty, gain=gain, batch_dims=batch_dims, generator=generator)
