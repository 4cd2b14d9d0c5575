"""Momentum as the methods for hidden matrices take it: a running mean, and a look one step ahead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isometry.optim._matrix import MatrixRule
from isometry.optim._rule import Options, State

__all__ = ["MomentumRule", "look_ahead"]


def look_ahead(gradient: Tensor, buffer: Tensor, *, momentum: float, nesterov: bool) -> tuple[Tensor, Tensor]:
    """Average a gradient into the momentum, M <- mu M + (1 - mu) G, and look one step ahead if asked to.

    Args:
        gradient: The gradient G.
        buffer: The momentum M; zeros before the first step.
        momentum: Its decay rate mu.
        nesterov: Give (1 - mu) G + mu M instead of the new M.

    Returns:
        The direction, and the new momentum.
    """
    mean = torch.lerp(buffer, gradient, 1 - momentum)
    return (torch.lerp(mean, gradient, 1 - momentum) if nesterov else mean), mean


@dataclass(frozen=True)
class MomentumRule(MatrixRule):
    """A step of which ``move`` sees the momentum; the options have ``momentum`` and ``nesterov``."""

    def names(self) -> tuple[str, ...]:
        return ("momentum_buffer", *self.small)

    def prepare(self, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        used, buffer = look_ahead(
            gradient, state["momentum_buffer"], momentum=options["momentum"], nesterov=options["nesterov"]
        )
        return used, {"momentum_buffer": buffer}
