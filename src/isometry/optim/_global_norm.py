"""Steps whose length depends on one norm over all parameters: what ``ClippedSGD`` and ``NormalizedSGD`` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry.optim._base import Optimizer, check_number, check_switch
from isometry.optim._batch import Batch
from isometry.optim._elementwise import momentum_direction
from isometry.optim._rule import Elementwise, Options, State
from isometry.optim._sharded import total_over_shards

__all__ = ["TINY", "GlobalNorm", "GlobalNormRule"]

TINY = 1e-10  # added to the norm, as in the authors' code


class GlobalNorm(Optimizer):
    """SGD with momentum whose step is multiplied by a function of the norm of all directions together."""

    def _check_options(self, options: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            check_number(name, options[name])
        check_number("momentum", options["momentum"], below=1)
        for name in ("nesterov", "maximize"):
            check_switch(name, options[name])
        if options["nesterov"] and not options["momentum"]:
            raise ValueError("nesterov looks ahead along the momentum, but momentum is 0; give it, or nesterov=False.")

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return (options["momentum"] != 0, options["nesterov"])

    def _about_all(self, batches: Sequence[Batch]) -> dict[str, Any]:
        squares = [batch.look(_square, self._options(batch.group)) for batch in batches]
        members = [batch.members[0].parameter for batch in batches]  # all of a batch are placed alike
        return {"global_norm": total_over_shards(squares, members).sqrt()} if batches else {}


def _square(rule: Any, value: Tensor, gradient: Tensor, state: State, options: Options) -> Tensor:
    # In float64 where there is such a thing, since the squares of float32 overflow and the sum is over a whole model.
    direction = rule.direction(value, gradient, state, options)[0]
    dtype = direction.dtype if direction.device.type == "mps" else torch.float64
    square: Tensor = torch.linalg.vector_norm(direction, dtype=dtype).square()
    return square


@dataclass(frozen=True)
class GlobalNormRule(Elementwise):
    """A step along the direction of SGD with momentum."""

    momentum: bool
    nesterov: bool

    def names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def begin(self, value: Tensor, members: int) -> State:
        del members
        return {name: torch.zeros_like(value) for name in self.names()}

    def direction(self, value: Tensor, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        """Mix the gradient, with its L2 penalty, into the momentum.

        Args:
            value: The stack.
            gradient: Its gradients.
            state: Its momentum, if there is one.
            options: The group's options.

        Returns:
            The direction to step against, and the new state.
        """
        if options["weight_decay"]:
            gradient = torch.add(gradient, value, alpha=options["weight_decay"])
        if not self.momentum:
            return gradient, {}
        direction, buffer = momentum_direction(
            gradient, state["momentum_buffer"], momentum=options["momentum"], dampening=0.0, nesterov=self.nesterov
        )
        return direction, {"momentum_buffer": buffer}

    @abstractmethod
    def size(self, norm: Tensor, options: Options) -> Tensor:
        """Give what the direction is multiplied by.

        Args:
            norm: Of all directions together, shape ``()``.
            options: The group's options.

        Returns:
            Shape ``()``.
        """

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        del step, context
        direction, new = self.direction(value, gradient, state, options)
        size = self.size(options["global_norm"].to(value.device), options).to(value.dtype)
        return torch.addcmul(value, direction, size, value=-1), new
