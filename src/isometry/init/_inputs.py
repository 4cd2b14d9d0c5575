"""Scale inputs so that the first pre-activations have variance q*."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from isometry._base import check_finite, check_positive, check_tensor

__all__ = ["scale_inputs"]


def scale_inputs(
    x: Tensor,
    *,
    q_star: float,
    sigma_w: float,
    sigma_b: float = 0.0,
    fan_out: int | None = None,
    weights: Literal["orthogonal", "gaussian"] = "orthogonal",
    per_sample: bool = True,
) -> Tensor:
    """Scale inputs to the norm at which the first layer's outputs have variance q*.

    An entry of W x has variance sigma_w^2 |x|^2 / D with D = max(N0, N1) for an orthogonal W (orthonormal rows or
    columns) of shape N1 x N0 and D = N0 for a Gaussian one of variance sigma_w^2 / N0, so

        |x|^2 = D (q* - sigma_b^2) / sigma_w^2.

    Args:
        x: Shape ``(B, ...)``; all axes but the first belong to one sample of N0 numbers.
        q_star: Variance that the first pre-activations should have.
        sigma_w: Gain of the first layer (a standard deviation, not a variance).
        sigma_b: Standard deviation of its biases.
        fan_out: N1; needed for orthogonal weights, where a widening layer dilutes its input.
        weights: Kind of the first layer's weights.
        per_sample: Give every sample that norm; otherwise one factor for all brings their mean square there, which
            keeps the differences of scale between samples.

    Returns:
        A tensor of x's shape.

    Raises:
        ValueError: If x holds a zero sample or non-finite values, ``sigma_b^2 >= q_star``, or ``fan_out`` is missing.

    Example:
        >>> x = scale_inputs(torch.randn(5, 64), q_star=1 / 64, sigma_w=1.0, fan_out=100)
        >>> [round(float(n), 2) for n in x.square().sum(1)]  # 100 / 64
        [1.56, 1.56, 1.56, 1.56, 1.56]

    References:
        P. A. Sokol, I. M. Park, Information geometry of orthogonal initializations and training, ICLR 2020.
        arXiv:1810.03785
    """
    check_finite("x", check_tensor("x", x, min_ndim=2))
    check_positive("q_star", q_star)
    check_positive("sigma_w", sigma_w)
    check_positive("sigma_b", sigma_b, zero=True)
    if weights not in ("orthogonal", "gaussian"):
        raise ValueError(f"weights must be 'orthogonal' or 'gaussian', got {weights!r}.")
    if sigma_b**2 >= q_star:
        raise ValueError(
            f"sigma_b must be below sqrt(q_star) = {q_star**0.5:.4g}, got {sigma_b}; the biases alone would exceed q*."
        )
    inputs = x[0].numel()
    if weights == "orthogonal" and fan_out is None:
        raise ValueError("fan_out is needed for orthogonal weights; pass the number of the first layer's outputs.")
    size = inputs if weights == "gaussian" or fan_out is None else max(inputs, fan_out)
    wanted = size * (q_star - sigma_b**2) / sigma_w**2
    flat = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1)
    norms = flat.square().sum(1, keepdim=True)
    if per_sample and bool((norms == 0).any()):
        raise ValueError(
            f"x holds {int((norms == 0).sum())} samples that are zero and have no direction; drop them, or pass "
            "per_sample=False."
        )
    if bool((norms == 0).all()):
        raise ValueError("x is zero; pass inputs that differ from zero.")
    factor = (wanted / (norms if per_sample else norms.mean())).sqrt()
    return (flat * factor).to(x.dtype).view(x.shape)
