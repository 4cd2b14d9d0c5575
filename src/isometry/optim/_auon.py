"""AuON: momentum over its Frobenius norm, and over the root mean square of its hyperbolic cosines.

References:
    D. Maity, AuON: a linear-time alternative to semi-orthogonal momentum updates, 2025. arXiv:2509.24320 (version 1)
    Its released code, https://github.com/ryyzn9/AuON (``variant="released"``)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isometry.linalg._precision import check_matrix, working_dtype
from isometry.optim._base import ParameterSource, check_choice, check_number, check_switch
from isometry.optim._matrix import MatrixOptimizer, MatrixRule
from isometry.optim._momentum import MomentumRule
from isometry.optim._rms_cosh import check_gamma, frobenius, over_largest_, rms_cosh_of_unit
from isometry.optim._rule import Options, State
from isometry.optim._shards import Shards
from isometry.optim._update_scale import scale_factor
from isometry.optim._update_size import UpdateSize
from isometry.roles import Axes
from isometry.roles._modules import conventional_axes

__all__ = [
    "DELTA",
    "GAMMA",
    "AuON",
    "AuONScale",
    "Variant",
    "auon_update",
    "auon_update_",
    "check_auon_options",
]

Variant = Literal["paper", "released"]
AuONScale = Literal["none", "original"]

GAMMA: Mapping[Variant, float] = {"paper": 1.0, "released": 1.5}
DELTA = 1e-8  # added to the root mean square, which is 1 at least
PLAIN = conventional_axes(2)
LARGEST_GAMMA = 40.0  # sinh(40)^2 is a float32


def auon_update(
    momentum: Tensor, *, variant: Variant = "paper", gamma: float | None = None, eps: float = 1e-7
) -> tuple[Tensor, Tensor]:
    """Make AuON's update of momentum matrices: each is multiplied by one positive number.

    X = U / (|U|_F + eps); rms = (mean of cosh(gamma X)^2 over the N entries)^(1/2); the update is X / (rms + 1e-8), or
    U / (rms + 1e-8) in the released code. As |X|_F = 1, rms^2 - 1 lies between gamma^2 / N and sinh(gamma)^2 / N: of a
    matrix of a thousand entries and more the update is U over its Frobenius norm, to three digits and better.

    Args:
        momentum: U, shape ``(*batch, out, in)``.
        variant: ``"paper"``, or ``"released"``, whose update has the size of U.
        gamma: Factor of X under the cosine, in (0, 40]; default 1 for the paper, 1.5 for the released code.
        eps: Added to the Frobenius norm.

    Returns:
        The update, of the same shape and dtype, and rms, shape ``(*batch,)``, in float32 at least. A zero matrix has a
        zero update and rms 1.

    Example:
        >>> update, rms = auon_update(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> expected = ((2 + math.cosh(0.6) ** 2 + math.cosh(0.8) ** 2) / 4) ** 0.5
        >>> math.isclose(rms, expected, rel_tol=1e-6) and math.isclose(update.norm() * rms, 1.0, rel_tol=1e-6)
        True
    """
    check_matrix("momentum", momentum, finite=False)
    check_choice("variant", variant, get_args(Variant))
    check_gamma(gamma, LARGEST_GAMMA)
    copy = momentum.to(working_dtype(momentum.dtype), copy=True)
    update, rms = auon_update_(copy, variant=variant, gamma=GAMMA[variant] if gamma is None else gamma, eps=eps)
    return update.to(momentum.dtype), rms[..., 0, 0]


def auon_update_(
    momentum: Tensor,
    *,
    variant: Variant,
    gamma: float,
    eps: float,
    entries: int | None = None,
    shards: Shards | None = None,
) -> tuple[Tensor, Tensor]:
    """Overwrite momentum matrices by AuON's update; memory that is not in the cache costs more than the arithmetic.

    Args:
        momentum: U, shape ``(*batch, out, in)``, float32 or float64; or some of its rows.
        variant: As for ``auon_update``.
        gamma: As for ``auon_update``.
        eps: As for ``auon_update``.
        entries: How many entries a matrix has, if these are not all.
        shards: Where the other rows are; None if there are none.

    Returns:
        The same tensor, and rms, shape ``(*batch, 1, 1)``.
    """
    n = momentum.shape[-2] * momentum.shape[-1] if entries is None else entries
    scaled, largest = over_largest_(momentum, shards)
    norm = frobenius(scaled, shards)
    inverse = torch.add(norm, largest.reciprocal(), alpha=eps).clamp_min(torch.finfo(norm.dtype).tiny).reciprocal()
    # Steps 1 and 2: X = scaled * inverse.
    rms = rms_cosh_of_unit(scaled, norm, inverse, gamma, entries=n, shards=shards)
    size = inverse if variant == "paper" else largest
    return scaled.mul_(size / (rms + DELTA)), rms  # step 3


def check_auon_options(options: Mapping[str, Any]) -> None:
    """Refuse senseless options that AuON and HybridAuON share."""
    check_number("momentum", options["momentum"], below=1)
    check_switch("nesterov", options["nesterov"])
    check_choice("variant", options["variant"], get_args(Variant))
    check_choice("scale", options["scale"], get_args(AuONScale))
    check_number("eps", options["eps"])


class AuON(MatrixOptimizer):
    """Momentum over its Frobenius norm: the direction of SGD with momentum, in steps of equal length.

    M <- mu M + (1 - mu) G; U = (1 - mu) G + mu M; X = U / (|U|_F + eps); Y = X / (mean of cosh(X)^2)^(1/2);
    W <- (1 - lr wd) W - lr c Y. The parameters of other groups (``rule="adamw"``) move by AdamW.

    What follows from the formula, and is good to know before choosing it. Y is a positive multiple of U: no singular
    value moves against another, and Y is as ill-conditioned as the momentum; ``Muon`` and ``HybridAuON`` recondition.
    The cosines do next to nothing: N ((mean of cosh(X)^2)^(1/2) - 1) lies between 0.50 and 0.70 whatever U is, N the
    number of entries. So AuON on a layer of 400 x 400 is SGD on momentum normalized to |U|_F = 1, up to five
    millionths. The spectral norm of Y is below 1, as its Frobenius norm is; it comes near 1 if U is of rank one, and is
    0.09 for a Gaussian U of 512 x 512. The released code does not normalize what it divides: ``variant="released"`` is
    SGD with momentum, whose learning rate depends on the gradient's size as SGD's does. A step costs a few passes over
    the entries, like one of SGD with momentum; the state is one buffer.

    Every matrix has its own norm: the blocks of a fused projection, the groups of a convolution and stacked experts are
    matrices each where the routing says so, as they would be unfused; a kernel is one matrix, and so is a vector. Of a
    sharded parameter that is one matrix, processes exchange three numbers, not the matrix.

    Args:
        params: ``isometry.roles.route(model)``, parameters of any shape, or groups; see ``MatrixOptimizer`` for their
            options.
        lr: Learning rate: the Frobenius norm of a matrix's step (``variant="paper"``).
        momentum: Decay rate mu.
        nesterov: Look ahead; else U = M.
        weight_decay: Decoupled; W shrinks by lr times it.
        variant: ``"paper"`` as above, the default since it is what the paper describes and compares; ``"released"``
            as the code that came with it: Y = U / (mean of cosh(1.5 X)^2)^(1/2).
        gamma: Factor of X under the cosine, in (0, 40]; None is the variant's, 1 or 1.5.
        scale: The factor c: ``"none"`` 1, as in the paper; ``"original"`` max(1, out/in)^(1/2), as in a
            re-implementation. Vectors have none.
        eps: Added to the Frobenius norm.
        maximize: Go uphill.
        adamw: AdamW's ``lr``, ``betas``, ``eps``, ``weight_decay`` for the other groups, where they do not say it
            themselves; default 3e-4, (0.9, 0.95), 1e-10, 0.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range; if a parameter has more than two dimensions and no ``layout``; if
            every group has ``rule="adamw"``.

    Example:
        >>> layer = torch.nn.Linear(3, 3)
        >>> optimizer = AuON(layer.parameters(), lr=0.1)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(5, 3)).square().sum().backward()
        >>> optimizer.step()
        >>> step, direction = (before - layer.weight.detach()) / 0.1, layer.weight.grad / layer.weight.grad.norm()
        >>> torch.allclose(step / step.norm(), direction, atol=1e-5)
        True
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 0.08,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        variant: Variant = "paper",
        gamma: float | None = None,
        scale: AuONScale = "none",
        eps: float = 1e-7,
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "variant": variant,
            "gamma": gamma,
            "scale": scale,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults, adamw)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        check_auon_options(options)
        check_gamma(options["gamma"], LARGEST_GAMMA)

    def _axes(self, index: int, position: int) -> Axes:
        group = self.param_groups[index]
        if group["routes"] is None and group["params"][position].ndim < 2:
            return Axes()
        return super()._axes(index, position)

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        del options
        return AuONRule(axes)


@dataclass(frozen=True)
class AuONRule(MomentumRule):
    """AuON's step of the matrices of a parameter; one of unknown axes (a vector, a scalar) is a matrix of one row."""

    cached = 1

    def prepare(self, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        used, new = super().prepare(gradient, state, options)
        return (used if options["nesterov"] else used.clone()), new  # move overwrites it

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize | None:
        if options["variant"] == "released":
            return None
        factor = scale_factor(options["scale"], *shape)
        return UpdateSize(factor, factor, factor / math.prod(shape) ** 0.5, "the spectral norm at most, at rank one")

    def move(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, State]:
        return self._overwritten(matrices, options, *matrices.shape[-2:]), small

    def _overwritten(self, rows: Tensor, options: Options, out: int, in_: int, shards: Shards | None = None) -> Tensor:
        variant, gamma = options["variant"], options["gamma"]
        update, _ = auon_update_(
            rows,
            variant=variant,
            gamma=GAMMA[variant] if gamma is None else gamma,
            eps=options["eps"],
            entries=out * in_,
            shards=shards,
        )
        factor = scale_factor(options["scale"], out, in_)
        return update if factor == 1 else update.mul_(factor)

    def _move_whole(
        self, used: Tensor, small: State, options: Options, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None, State]:
        if self.axes.known and self.axes != PLAIN:
            return super()._move_whole(used, small, options, shape)
        update, new = self.move(used.reshape(len(used), -1, shape[-1] if shape else 1), small, options)
        return update.reshape(used.shape), None, new

    def _move_shared(
        self, used: Tensor, small: State, options: Options, shape: tuple[int, ...], shards: Shards
    ) -> tuple[Tensor, Tensor | None, State]:
        count, out, in_ = (1, 1, math.prod(shape))
        if self.axes.known:
            count, out, in_ = self.axes.matrices(torch.empty(shape, device="meta")).shape
        if count > 1:
            return super()._move_shared(used, small, options, shape, shards)
        # Norms and cosines are sums over rows: of one matrix a parameter, processes exchange three numbers.
        rows = used.flatten(2) if used.ndim > 2 else used.unsqueeze(1)
        return self._overwritten(rows, options, out, in_, shards).reshape(used.shape), None, small
