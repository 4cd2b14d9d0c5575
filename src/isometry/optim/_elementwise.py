"""SGD with momentum and AdamW, entry by entry: how ordinary parameters move in every optimizer of this room.

The formulas are those of ``torch.optim.SGD`` and ``torch.optim.AdamW``.

References:
    I. Sutskever, J. Martens, G. Dahl, G. Hinton, On the importance of initialization and momentum in deep learning,
    ICML 2013.
    D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR 2015. arXiv:1412.6980
    I. Loshchilov, F. Hutter, Decoupled weight decay regularization, ICLR 2019. arXiv:1711.05101
    S. J. Reddi, S. Kale, S. Kumar, On the convergence of Adam and beyond, ICLR 2018. arXiv:1904.09237 (amsgrad)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isometry.optim._rule import Elementwise, Options, State
from isometry.optim._update_size import UNBOUNDED, UpdateSize, adamw_size

__all__ = ["ElementwiseAdam", "ElementwiseSGD", "adam_ratio", "momentum_direction"]


def momentum_direction(
    gradient: Tensor, buffer: Tensor | None, *, momentum: float, dampening: float, nesterov: bool
) -> tuple[Tensor, Tensor]:
    """Mix a gradient into the momentum.

    Args:
        gradient: The gradient.
        buffer: The momentum so far; None at the first step, which takes the gradient undamped.
        momentum: Its decay rate.
        dampening: What of the gradient is left out.
        nesterov: Look ahead.

    Returns:
        The direction to step against, and the new momentum.
    """
    fresh = gradient if buffer is None else torch.add(momentum * buffer, gradient, alpha=1 - dampening)
    return (torch.add(gradient, fresh, alpha=momentum) if nesterov else fresh), fresh


def adam_ratio(square: Tensor, *, step: int, betas: tuple[float, float], eps: float) -> tuple[Tensor, float]:
    """Give Adam's denominator and the factor of its numerator: the direction is factor * mean / denominator.

    Args:
        square: Running mean of their squares (or its running maximum), not yet corrected.
        step: From 1.
        betas: The two decay rates.
        eps: Added to the corrected root.

    Returns:
        The denominator, and the factor 1 / (1 - beta_1^t).
    """
    root = (1 - betas[1] ** step) ** 0.5
    return square.sqrt().div_(root).add_(eps), 1 / (1 - betas[0] ** step)


@dataclass(frozen=True)
class ElementwiseSGD(Elementwise):
    """Stochastic gradient descent, with momentum if asked for."""

    momentum: bool
    nesterov: bool

    def names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def begin(self, value: Tensor, members: int) -> State:
        del members
        return {"momentum_buffer": torch.zeros_like(value)} if self.momentum else {}

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape, options
        return UNBOUNDED

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        del context
        if options["weight_decay"]:
            gradient = torch.add(gradient, value, alpha=options["weight_decay"])
        if self.momentum:
            gradient, buffer = momentum_direction(
                gradient,
                state["momentum_buffer"] if step > 1 else None,
                momentum=options["momentum"],
                dampening=options["dampening"],
                nesterov=self.nesterov,
            )
            state = {"momentum_buffer": buffer}
        return torch.add(value, gradient, alpha=-options["lr"]), state


@dataclass(frozen=True)
class ElementwiseAdam(Elementwise):
    """Adam with decoupled weight decay."""

    amsgrad: bool

    def names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 2 + self.amsgrad]

    def begin(self, value: Tensor, members: int) -> State:
        del members
        return {name: torch.zeros_like(value) for name in self.names()}

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape, options
        return adamw_size()

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        del context
        betas, lr = options["betas"], options["lr"]
        if options["weight_decay"]:
            value = value * (1 - lr * options["weight_decay"])
        mean = torch.lerp(state["exp_avg"], gradient, 1 - betas[0])
        square = (betas[1] * state["exp_avg_sq"]).addcmul_(gradient, gradient, value=1 - betas[1])
        new = {"exp_avg": mean, "exp_avg_sq": square}
        if self.amsgrad:
            new["max_exp_avg_sq"] = square = torch.maximum(state["max_exp_avg_sq"], square)
        denominator, factor = adam_ratio(square, step=step, betas=betas, eps=options["eps"])
        return torch.addcdiv(value, mean, denominator, value=-lr * factor), new
