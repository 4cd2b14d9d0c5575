"""NormalizedSGD: SGD with momentum, all its steps of one length.

References:
    M. Crawshaw et al., Robustness to unbounded smoothness of generalized SignSGD, NeurIPS 2022. arXiv:2208.11195 (the
    baseline SGDNormalized of its released code)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from isometry.optim._base import ParameterSource
from isometry.optim._global_norm import TINY, GlobalNorm, GlobalNormRule
from isometry.optim._rule import Options, Rule
from isometry.optim._update_size import UpdateSize

__all__ = ["NormalizedSGD"]


class NormalizedSGD(GlobalNorm):
    """SGD whose step is lr long: w <- w - lr d / (N + 1e-10).

    d is the gradient with its L2 penalty, or the momentum B <- mu B + d, or d + mu B with ``nesterov``; N is the norm
    of d over the parameters of all groups, and over all processes if parameters are sharded.

    Args:
        params: Parameters, pairs of names and parameters, or groups.
        lr: Learning rate: the length of a step, if all groups have the same.
        momentum: Decay rate mu, below 1.
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Look ahead.
        maximize: Go uphill.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = NormalizedSGD([weight], lr=0.5)
        >>> weight.grad = torch.tensor([0.003, 0.004])
        >>> optimizer.step()
        >>> weight.data
        tensor([-0.3000, -0.4000])
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        del parameter
        return NormalizedRule(*self._form(options)), None


class NormalizedRule(GlobalNormRule):
    """A step of given length."""

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape, options
        return UpdateSize(spectral_norm=1.0, holds="at most; the norm of all parameters' updates together is 1")

    def size(self, norm: Tensor, options: Options) -> Tensor:
        size: Tensor = options["lr"] / (norm + TINY)
        return size
