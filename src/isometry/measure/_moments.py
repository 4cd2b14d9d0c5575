"""Second moments, correlations, unit health and number ranges: pure functions of one tensor of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "FLAT",
    "MOST",
    "SATURATED",
    "RangeRisk",
    "UnitHealth",
    "by_sample",
    "constant_units",
    "mean_cosine",
    "range_risk",
    "second_moment",
    "unit_health",
]

SATURATED = 0.01  # of the steepest slope: tanh reaches it at |h| = 3
FLAT = 1e-6  # of the steepest slope: no gradient worth the name passes
MOST = 0.9  # of the batch
_FP16 = torch.finfo(torch.float16)
_BF16 = torch.finfo(torch.bfloat16)


@dataclass(frozen=True)
class RangeRisk:
    """Which shares of a tensor's elements narrow number formats would lose.

    Attributes:
        underflow_fp16: Nonzero but below float16's smallest normal number, 6.1e-5.
        underflow_bf16: Nonzero but below bfloat16's (and float32's) smallest normal number, 1.2e-38.
        overflow_fp16: Beyond float16's largest number, 65504.
        overflow_bf16: Beyond bfloat16's largest number, 3.4e38.
        zero: Exactly zero.
    """

    underflow_fp16: float
    underflow_bf16: float
    overflow_fp16: float
    overflow_bf16: float
    zero: float


@dataclass(frozen=True)
class UnitHealth:
    """Shares of the units of an activation.

    Attributes:
        dead: Behind a rectifier (ReLU, GELU, ...): output and slope zero for the whole batch. 0 for the others.
        saturated: Behind a squashing function (tanh, sigmoid, ...): slope below 1% of the steepest on at least 90% of
            the batch. 0 for the others.
        saturation: Share of all elements whose slope is below 1% of the steepest, whatever the activation.
    """

    dead: float
    saturated: float
    saturation: float


def by_sample(tensor: Tensor, samples: int, batch_dim: int = 0) -> Tensor | None:
    """Lay activations out with one row per sample.

    Args:
        tensor: Activations; the batch may be folded into the first dimension together with positions or windows,
            the sample being the slow index.
        samples: Number of samples.
        batch_dim: The batch dimension.

    Returns:
        Shape ``(samples, features)`` in float64, or None where the dimension is no multiple of the batch.
    """
    if tensor.ndim <= batch_dim or tensor.shape[batch_dim] % samples or tensor.numel() == 0:
        return None
    return tensor.detach().movedim(batch_dim, 0).reshape(samples, -1).double()


def second_moment(rows: Tensor) -> tuple[float, float]:
    """Average the squares over samples and units.

    Args:
        rows: Shape ``(samples, features)``.

    Returns:
        The mean square, and its standard error over samples (NaN for a single one).
    """
    each = rows.square().mean(1)
    error = each.std().item() / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return each.mean().item(), error


def mean_cosine(rows: Tensor) -> float:
    """Average the cosine over all pairs of different samples.

    ``c = <h_a, h_b> / sqrt(q_a q_b)`` without centring, as in mean field theory. The mean over pairs is
    ``(|sum_a u_a|^2 - n) / (n (n - 1))`` of the unit vectors u_a, so no Gram matrix is formed.

    Args:
        rows: Shape ``(samples, features)``.

    Returns:
        The mean, or NaN with fewer than two samples of finite, nonzero length.
    """
    # Scaled by its largest element first, so that squares neither overflow nor vanish.
    scale = rows.abs().amax(1, keepdim=True)
    usable = (scale[:, 0] > 0) & scale[:, 0].isfinite()
    n = int(usable.sum())
    if n < 2:
        return math.nan
    units = torch.nn.functional.normalize(rows[usable] / scale[usable], dim=1)
    total = units.sum(0).square().sum().item()
    return min(1.0, (total - n) / (n * (n - 1)))


def constant_units(units: Tensor) -> float:
    """Count the units that say the same of every sample.

    Args:
        units: Shape ``(observations, units)``.

    Returns:
        The share of units whose range is within rounding of their size; NaN with a single observation.
    """
    if units.shape[0] < 2:
        return math.nan
    values = units.detach()
    rounding = 8 * torch.finfo(values.dtype).eps
    spread = values.amax(0) - values.amin(0)
    return (spread <= rounding * values.abs().amax(0)).double().mean().item()


def range_risk(tensor: Tensor, divisor: float = 1.0) -> RangeRisk:
    """Count the elements that float16 or bfloat16 would lose.

    Args:
        tensor: Any floating-point tensor.
        divisor: The elements are those of ``tensor / divisor``.

    Returns:
        Shares of the elements.
    """
    size = tensor.detach().abs()
    size = size if size.dtype == torch.float64 else size.float()
    if not size.numel():
        return RangeRisk(math.nan, math.nan, math.nan, math.nan, math.nan)

    def share(count: Tensor | int) -> float:
        return int(count) / size.numel()

    def above(limit: float) -> float:
        return share((size > limit * divisor).sum()) if not largest <= limit * divisor else 0.0

    largest = size.amax().item()  # NaN if any is, and then nothing is skipped
    zeros = int((size == 0).sum())
    return RangeRisk(
        underflow_fp16=share((size < _FP16.smallest_normal * divisor).sum() - zeros),
        underflow_bf16=share((size < _BF16.smallest_normal * divisor).sum() - zeros),
        overflow_fp16=above(_FP16.max),
        overflow_bf16=above(_BF16.max),
        zero=share(zeros),
    )


def unit_health(
    function: Callable[[Tensor], Tensor], h: Tensor, unit_dim: int, *, rectifies: bool, squashes: bool, steepest: float
) -> UnitHealth:
    """Find the dead and saturated units of an elementwise activation from its slope at the pre-activations.

    Args:
        function: The activation.
        h: Its input; the first dimension is the batch.
        unit_dim: Which dimension counts the units (channels of images, features otherwise).
        rectifies: Whether its units can die.
        squashes: Whether its units can saturate.
        steepest: Its largest slope, to which slopes are compared.

    Returns:
        Shares of units.
    """
    with torch.enable_grad():
        leaf = h.detach().clone().requires_grad_()
        output = function(leaf * 1)  # not the leaf itself: the function may work in place
        (slope,) = torch.autograd.grad(output.sum(), leaf)
    size = slope.abs().movedim(unit_dim, -1).flatten(0, -2)
    value = output.detach().abs().movedim(unit_dim, -1).flatten(0, -2)
    dead = ((size <= FLAT * steepest) & (value <= FLAT)).all(0)
    flat = size < SATURATED * steepest
    saturated = flat.double().mean(0) >= MOST
    return UnitHealth(
        dead=dead.double().mean().item() if rectifies else 0.0,
        saturated=saturated.double().mean().item() if squashes else 0.0,
        saturation=flat.double().mean().item(),
    )
