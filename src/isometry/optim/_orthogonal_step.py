"""How optimizers orthogonalize: named settings of speed against error, and the dtype of the products.

The iteration X <- (a I + b A + c A^2) X with A = X X^T moves every singular value s of X by a s + b s^3 + c s^5. What a
setting reaches in a number of steps depends on two things: the polynomials, and how tight the bound is that X is
divided by at first. The Frobenius norm, which the first release divides by, is about ten times the largest singular
value of a Gaussian 400 x 400 matrix, and these factors of ten cost two of its five steps. The first A gives a tighter
bound for nothing: ``|A|_F^(1/2)``, the Schatten-4 norm of X, is within 2.7 of the largest singular value there.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isometry.linalg._coefficients import COEFFICIENTS, Step, minimax_polynomials, minimax_quintics
from isometry.linalg._precision import check_matrix, working_dtype
from isometry.optim._base import check_choice

__all__ = [
    "POLAR",
    "ComputeDtype",
    "Polar",
    "PolarSetting",
    "check_polar",
    "fix_dtype",
    "orthogonalized",
    "resolved_dtype",
]

Polar = Literal["quick", "fast", "accurate", "muon", "dion", "exact"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]

# bfloat16 products have to be this much faster than float32's to be chosen: they cost accuracy.
WORTHWHILE = 1.3


@dataclass(frozen=True)
class PolarSetting:
    """A way to the polar factor.

    Attributes:
        about: What it is, in words.
        steps: The polynomials (a, b, c), in order; none for the singular value decomposition.
        bound: What the matrix is divided by first: its ``"schatten-4"`` or its ``"frobenius"`` norm.
        corrects: Whether the last step is taken as a correction, with the sum and the diagonal in float32, so that
            bfloat16 products do not round its result.
        error: Root mean square of (singular value - 1) of Gaussian 400 x 400 matrices, as measured in bfloat16. That
            of the accurate setting comes from every third matrix, whose smallest value is not resolved.
    """

    about: str
    steps: tuple[Step, ...]
    bound: Literal["schatten-4", "frobenius"]
    corrects: bool
    error: float


POLAR: Mapping[str, PolarSetting] = MappingProxyType({
    "quick": PolarSetting(
        "a cubic and three minimax quintics for singular values down to 0.0055 of the bound, eleven products",
        minimax_polynomials(0.0055, (3, 5, 5, 5)),
        "schatten-4",
        corrects=False,
        error=0.15,
    ),
    "fast": PolarSetting(
        "four minimax quintics for singular values down to 0.0035 of the bound, twelve products",
        minimax_quintics(0.0035, steps=4),
        "schatten-4",
        corrects=False,
        error=0.14,
    ),
    "accurate": PolarSetting(
        "seven minimax quintics for singular values down to 0.0004 of the bound, twenty-one products",
        minimax_quintics(0.0004, steps=7),
        "schatten-4",
        corrects=True,
        error=0.018,
    ),
    "muon": PolarSetting(
        "five times the quintic of the first release of Muon (K. Jordan et al., 2024), fifteen products",
        COEFFICIENTS["muon"].steps * 5,
        "frobenius",
        corrects=False,
        error=0.2,
    ),
    "dion": PolarSetting(
        "the five quintics of the Muon in dion (K. Ahn et al., 2025, released code), fifteen products",
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        "frobenius",
        corrects=False,
        error=0.1,
    ),
    "exact": PolarSetting("the singular value decomposition", (), "frobenius", corrects=False, error=0.0),
})  # fmt: skip


@torch.no_grad()
def orthogonalized(matrices: Tensor, *, polar: Polar = "fast", compute_dtype: torch.dtype | None = None) -> Tensor:
    """Replace matrices by their polar factors, as well as the setting does; not differentiable.

    The number of products is fixed, and nothing is read back to the host. Whatever the scale of a matrix, its products
    neither overflow nor underflow, since it is divided by its largest entry first.

    Args:
        matrices: Shape ``(*batch, m, n)``.
        polar: The setting, a key of ``POLAR``.
        compute_dtype: Dtype of the products; default: at least float32.

    Returns:
        Same shape and dtype. Singular values of zero stay zero, so zero matrices do.

    Raises:
        TypeError: If ``matrices`` is no tensor of real floating point.
        ValueError: If it has less than two dimensions; if there is no such setting.

    Example:
        >>> matrices = torch.randn(8, 30, 20, generator=torch.Generator().manual_seed(0))
        >>> values = torch.linalg.svdvals(orthogonalized(matrices, polar="accurate"))
        >>> bool(((values - 1).abs() < 1e-2).all())
        True
    """
    check_matrix("matrices", matrices, finite=False)
    check_choice("polar", polar, get_args(Polar))
    setting = POLAR[polar]
    if not setting.steps:
        return _decomposed(matrices)
    dtype = compute_dtype if compute_dtype is not None else working_dtype(matrices.dtype)
    stack = matrices.flatten(end_dim=-3) if matrices.ndim > 2 else matrices.unsqueeze(0)
    return _iterated(_scaled(stack, dtype), setting).to(matrices.dtype).reshape(matrices.shape)


def _scaled(stack: Tensor, dtype: torch.dtype) -> Tensor:
    sides = (-2, -1)  # two passes, neither of which writes: an absolute value would
    largest = torch.maximum(stack.amax(sides, keepdim=True), stack.amin(sides, keepdim=True).neg_())
    wide = torch.promote_types(working_dtype(stack.dtype), dtype)
    return torch.div(
        stack.to(wide),
        torch.where(largest == 0, 1.0, largest.to(wide)),
        out=torch.empty(stack.shape, dtype=dtype, device=stack.device),
    )


def _iterated(x: Tensor, setting: PolarSetting) -> Tensor:
    gram = _gram(x)
    # A factor u on A and u^(1/2) on X: the rounding of u then scales both alike, and disturbs no polynomial.
    factor = _inverse_square(gram, setting.bound)
    gram.mul_(factor)
    x.mul_(factor.sqrt())
    polynomial, other = torch.empty_like(gram), torch.empty_like(x)
    last = len(setting.steps) - 1 if setting.corrects else None
    for index, (a, b, c) in enumerate(setting.steps):
        if index:
            _gram(x, out=gram)
        if index == last:
            return _corrected(x, gram, (a, b, c), polynomial)
        # The product's sum has more digits than a polynomial with a on its diagonal would have.
        if c == 0:
            torch.baddbmm(x, *_factors(gram, x), beta=a, alpha=b, out=other)
        else:
            torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
            torch.baddbmm(x, *_factors(polynomial, x), beta=a, out=other)
        x, other = other, x
    return x


# The Gram matrix of the smaller side, X X^T or, of upright matrices, X^T X; its polynomials stand before or behind X.
# Turning upright matrices would take two transposed copies, which cost more than a product's share.


def _upright(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.bmm(x.mT, x, out=out) if _upright(x) else torch.bmm(x, x.mT, out=out)


def _factors(polynomial: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return (x, polynomial) if _upright(x) else (polynomial, x)


def _inverse_square(gram: Tensor, bound: str) -> Tensor:
    wide = working_dtype(gram.dtype)
    if bound == "schatten-4":
        square = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True, dtype=wide)
    else:
        square = gram.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=wide)[..., None, None]
    return torch.where(square == 0, 1.0, square).reciprocal().to(gram.dtype)


def _corrected(x: Tensor, gram: Tensor, step: Step, polynomial: Tensor) -> Tensor:
    """Take a step near the end, where R = I - A is small: X <- (a + b + c) X + (-(b + 2 c) R + c R^2) X.

    Returns:
        The result, in at least float32.
    """
    a, b, c = step
    wide = x.to(working_dtype(x.dtype))
    rest = gram.neg_()
    rest.diagonal(dim1=-2, dim2=-1).copy_(1 - wide.square().sum(-2 if _upright(x) else -1))
    torch.baddbmm(rest, rest, rest, beta=-(b + 2 * c), alpha=c, out=polynomial)
    return wide.mul(a + b + c).add_(torch.bmm(*_factors(polynomial, x)))


def _decomposed(matrices: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(matrices.to(working_dtype(matrices.dtype)), full_matrices=False)
    noise = s[..., :1] * (max(matrices.shape[-2:]) * torch.finfo(s.dtype).eps)
    factor: Tensor = (u * (s > noise)[..., None, :]) @ vh
    return factor.to(matrices.dtype)


def check_polar(options: Mapping[str, Any]) -> None:
    """Insist on a known setting and dtype."""
    check_choice("polar", options["polar"], get_args(Polar))
    check_choice("compute_dtype", options["compute_dtype"], get_args(ComputeDtype))


def fix_dtype(group: MutableMapping[str, Any]) -> None:
    """Write the dtype of the products into a group that leaves it open, so that a resumed run computes alike."""
    if group.get("compute_dtype") == "auto" and group["params"]:
        group["compute_dtype"] = _faster_dtype(group["params"][0].device.type)


def resolved_dtype(options: Mapping[str, Any], matrices: Tensor) -> torch.dtype:
    """Give the dtype of the products for matrices of a dtype.

    Returns:
        float64 for float64; else what the option says.
    """
    if matrices.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if options["compute_dtype"] == "bfloat16" else torch.float32


def _faster_dtype(device: str) -> str:
    if device != "cpu":
        return "bfloat16"
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        return "float32"  # each process would measure for itself, and replicas must not come to different answers
    return "bfloat16" if _gain() > WORTHWHILE else "float32"


@functools.lru_cache(maxsize=1)
def _gain() -> float:
    """Measure, once a process, how many times faster bfloat16 products are on this processor.

    Returns:
        The ratio of the best times, taken in turns for 30 ms: longer than another program keeps a core at a stretch,
        which would otherwise be taken for the speed of one of the two.
    """
    matrices = [torch.ones(384, 384, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    best = [math.inf, math.inf]
    end = time.perf_counter() + 0.03
    rounds = 0
    while rounds < 5 or time.perf_counter() < end:
        for i, a in enumerate(matrices):
            started = time.perf_counter()
            torch.mm(a, a)
            best[i] = min(best[i], time.perf_counter() - started)
        rounds += 1
    return best[0] / best[1]
