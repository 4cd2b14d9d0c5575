"""SGDP: SGD with momentum without the radial part of the steps of scale-invariant weights.

References:
    B. Heo et al., AdamP: slowing down the slowdown for momentum optimizers on scale-invariant weights, ICLR 2021.
    arXiv:2006.08217, and its released code, github.com/clovaai/AdamP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry.optim._base import ParameterSource, check_number
from isometry.optim._elementwise import momentum_direction
from isometry.optim._rule import Options, Rule, State
from isometry.optim._scale_invariance import Projecting, ProjectingRule, ScaleInvariant
from isometry.optim._update_size import UNBOUNDED, UpdateSize

__all__ = ["SGDP"]


class SGDP(Projecting):
    """SGD with momentum whose steps have no radial part, where a weight is scale-invariant.

    B <- momentum B + (1 - dampening) g; d = B, or g + momentum B with ``nesterov``. If a view of w passes (all its
    rows have |cos(g, w)| < delta / d^(1/2)), d loses its part along w in each row, and r = wd_ratio; else r = 1. Then
    w <- (1 - lr wd r / (1 - momentum)) w - lr d. The division makes the decoupled decay as strong as the usual one,
    which momentum multiplies. Dampening acts from the first step on, as in the released code; torch's SGD takes its
    first gradient undamped. What is a row, and which weights are never projected: as for ``AdamP``.

    With a constant and high learning rate plain SGD may end better: as its weights grow, its effective rate falls.
    Give SGDP a schedule that falls, as the paper does.

    Args:
        params: Parameters, pairs of names and parameters, or groups.
        lr: Learning rate.
        momentum: Decay rate of B, below 1.
        dampening: What of the gradient is left out.
        weight_decay: Decoupled, times lr / (1 - momentum) and, for projected weights, ``wd_ratio``.
        nesterov: Look ahead.
        eps: Added to norms in the test and the projection.
        delta: Threshold of the test; 0 projects nothing.
        wd_ratio: What is left of the weight decay of a projected weight.
        scale_invariant: As for ``AdamP``.
        maximize: Go uphill.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range, or ``scale_invariant`` has what is in no group.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[2.0, 0.0]]))
        >>> optimizer = SGDP([weight], lr=0.1)
        >>> weight.grad = torch.tensor([[0.001, 1.0]])
        >>> optimizer.step()
        >>> weight.data  # the part along the weight is gone
        tensor([[ 2.0000, -0.1000]])
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        scale_invariant: ScaleInvariant = "auto",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "eps": eps,
            "delta": delta,
            "wd_ratio": wd_ratio,
            "scale_invariant": scale_invariant,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_number("momentum", options["momentum"], below=1)
        check_number("dampening", options["dampening"])

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        return SGDPRule(self._mode(parameter, options)), None


@dataclass(frozen=True)
class SGDPRule(ProjectingRule):
    """SGDP's step."""

    moments = ("momentum",)

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape, options
        return UNBOUNDED

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        del step
        lr, momentum = options["lr"], options["momentum"]
        direction, buffer = momentum_direction(
            gradient,
            state["momentum"],
            momentum=momentum,
            dampening=options["dampening"],
            nesterov=options["nesterov"],
        )
        direction, taken, ratio = self._projected(direction, gradient, value, options, context)
        if options["weight_decay"]:
            value = value * (1 - lr * options["weight_decay"] / (1 - momentum) * ratio)
        return torch.add(value, direction, alpha=-lr), {"momentum": buffer, "projection": taken}
