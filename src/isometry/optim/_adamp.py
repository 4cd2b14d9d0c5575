"""AdamP: AdamW without the radial part of the steps of scale-invariant weights.

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

from isometry.optim._base import ParameterSource, check_betas
from isometry.optim._elementwise import adam_ratio
from isometry.optim._rule import Options, Rule, State
from isometry.optim._scale_invariance import Projecting, ProjectingRule, ScaleInvariant
from isometry.optim._update_size import UpdateSize, adamw_size

__all__ = ["AdamP"]


class AdamP(Projecting):
    """AdamW whose steps have no radial part, where a weight is scale-invariant.

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; p = m / (v^(1/2) / (1 - b2^t)^(1/2) + eps). If a view of w passes
    (all its rows have |cos(g, w)| < delta / d^(1/2)), p loses its part along w in each row, and r = wd_ratio; else
    r = 1. Then w <- (1 - lr wd r) w - lr / (1 - b1^t) p. Momentum makes the length of a scale-invariant weight grow up
    to (1 + b1) / (1 - b1) times as fast as plain steps do, and so slows it down; a projected step does not.

    The rows are dimension 0 of a parameter, as in the released code: the output channels of ``Linear`` and ``Conv``.
    For transposed convolutions, and for the ``Conv1D`` of transformers' GPT-2, dimension 0 counts inputs: there the
    view of the layer may pass, and ``scale_invariant`` should not force anything. Vectors are never projected.

    Args:
        params: Parameters, pairs of names and parameters, or groups.
        lr: Learning rate.
        betas: Decay rates b1 and b2 of the two means.
        eps: Added to the root, and to norms in the test and the projection.
        weight_decay: Decoupled, times lr and, for projected weights, ``wd_ratio``.
        delta: Threshold of the test; 0 is AdamW.
        wd_ratio: What is left of the weight decay of a projected weight.
        nesterov: p = (b1 m + (1 - b1) g) / ..., as in the released code; not NAdam.
        scale_invariant: ``"auto"``: the test decides. Else the parameters (or their names) whose rows are projected at
            every step; no others are.
        maximize: Go uphill.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range, or ``scale_invariant`` has what is in no group.

    Example:
        >>> from isometry.optim import projection_report
        >>> weight = torch.nn.Parameter(torch.tensor([[2.0, 0.0]]))
        >>> optimizer = AdamP([weight], lr=0.1)
        >>> weight.grad = torch.tensor([[0.0, 1.0]])  # at a right angle: the loss may not depend on the length
        >>> optimizer.step()
        >>> projection_report(optimizer)
        {'0.0': 'channel'}
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        scale_invariant: ScaleInvariant = "auto",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "delta": delta,
            "wd_ratio": wd_ratio,
            "nesterov": nesterov,
            "scale_invariant": scale_invariant,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_betas(options["betas"])

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        return AdamPRule(self._mode(parameter, options)), None


@dataclass(frozen=True)
class AdamPRule(ProjectingRule):
    """AdamP's step."""

    moments = ("exp_avg", "exp_avg_sq")

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape, options
        return adamw_size()

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        betas, lr = options["betas"], options["lr"]
        mean = torch.lerp(state["exp_avg"], gradient, 1 - betas[0])
        square = (betas[1] * state["exp_avg_sq"]).addcmul_(gradient, gradient, value=1 - betas[1])
        denominator, factor = adam_ratio(square, step=step, betas=betas, eps=options["eps"])
        ahead = torch.lerp(mean, gradient, 1 - betas[0]) if options["nesterov"] else mean
        direction, taken, ratio = self._projected(ahead / denominator, gradient, value, options, context)
        if options["weight_decay"]:
            value = value * (1 - lr * options["weight_decay"] * ratio)
        new = {"exp_avg": mean, "exp_avg_sq": square, "projection": taken}
        return torch.add(value, direction, alpha=-lr * factor), new
