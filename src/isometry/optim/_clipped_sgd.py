"""ClippedSGD: SGD with momentum, its step clipped by the norm of all directions together.

References:
    M. Crawshaw et al., Robustness to unbounded smoothness of generalized SignSGD, NeurIPS 2022. arXiv:2208.11195 (the
    baseline SGDClipGrad of its released code)
    J. Zhang, T. He, S. Sra, A. Jadbabaie, Why gradient clipping accelerates training, ICLR 2020. arXiv:1905.11881
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isometry.optim._base import ParameterSource, check_number
from isometry.optim._global_norm import TINY, GlobalNorm, GlobalNormRule
from isometry.optim._rule import Options, Rule
from isometry.optim._update_size import UNBOUNDED, UpdateSize

__all__ = ["ClippedSGD"]


class ClippedSGD(GlobalNorm):
    """SGD whose step is at most ``clip`` long: w <- w - min(lr, clip / (N + 1e-10)) d.

    d is the gradient with its L2 penalty, or the momentum B <- mu B + d, or d + mu B with ``nesterov``; N is the norm
    of d over the parameters of all groups, and over all processes if parameters are sharded. So with momentum it is the
    momentum that is clipped, and ``clip`` is the length of a step, which does not depend on lr;
    ``torch.nn.utils.clip_grad_norm_`` clips gradients before they enter the momentum.

    Args:
        params: Parameters, pairs of names and parameters, or groups.
        lr: Learning rate of steps that are not clipped.
        clip: Length of those that are, gamma. A schedule multiplies lr alone.
        momentum: Decay rate mu, below 1.
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Look ahead.
        maximize: Go uphill.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = ClippedSGD([weight], lr=0.1, clip=0.5)
        >>> weight.grad = torch.tensor([30.0, 40.0])  # lr times it would be 5 long
        >>> optimizer.step()
        >>> weight.data
        tensor([-0.3000, -0.4000])
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor,
        *,
        clip: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "clip": clip,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_number("clip", options["clip"])

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        del parameter
        return ClippedRule(*self._form(options)), None


class ClippedRule(GlobalNormRule):
    """A step of bounded length."""

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape, options
        return UNBOUNDED

    def size(self, norm: Tensor, options: Options) -> Tensor:
        return torch.clamp(options["clip"] / (norm + TINY), max=options["lr"])
