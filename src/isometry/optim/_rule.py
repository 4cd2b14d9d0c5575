"""What a method says about itself: how parameters become a stack of equal values, and the pure update of a stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isometry.optim._sharded import local, same_placement

__all__ = ["Elementwise", "Member", "Options", "Rule", "State"]

Options = Mapping[str, Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """A parameter in a batch.

    Attributes:
        parameter: The parameter.
        name: What messages call it.
        tie: What its rule knows about it alone, such as the constraint that it is under.
    """

    parameter: Tensor
    name: str
    tie: Any = None


class Rule(ABC):
    """How the parameters of one batch move. Subclasses are frozen dataclasses: equal rules share a batch.

    A rule reads parameters and gradients as values with a leading dimension, which are concatenated, and updates the
    stack by a function that overwrites no state. Whatever decides about its formulas (not merely about their numbers)
    is a field.

    Attributes:
        consumes: Whether ``update`` may overwrite the values and gradients that it is given, which are copies then.
            Fresh memory for a large stack costs more than a pass over it.
        refuses: Whether ``update`` or ``admit`` may refuse; such batches are all computed before one is written.
    """

    consumes: ClassVar[bool] = False
    refuses: ClassVar[bool] = False

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Name the tensors that the rule keeps for every parameter.

        Returns:
            Their keys in the optimizer's state, ``step`` and ``master`` apart.
        """

    def context(self, members: Sequence[Member], value: Tensor) -> State:
        """Give what the formulas need to know about these parameters besides their values; asked for once a batch.

        Args:
            members: The parameters.
            value: Their stack.

        Returns:
            Tensors by name.
        """
        del members, value
        return {}

    @abstractmethod
    def begin(self, value: Tensor, members: int) -> State:
        """Make the state of parameters that are about to take their first step.

        Args:
            value: The stack, in its working dtype.
            members: How many parameters are in it.

        Returns:
            A tensor per name; the leading dimension of each is a multiple of ``members``.
        """

    @abstractmethod
    def read(self, member: Member, tensor: Tensor) -> Tensor:
        """Lay a parameter, or a tensor like it, out as a value.

        Args:
            member: The parameter.
            tensor: The parameter itself, or its gradient.

        Returns:
            A value with a leading dimension to be concatenated along; a view where possible.
        """

    @abstractmethod
    def write(self, member: Member, value: Tensor) -> Tensor:
        """Undo ``read``, for this process's share of the parameter.

        Args:
            member: The parameter.
            value: Its part of the stack.

        Returns:
            What its local tensor is to hold.
        """

    def admit(self, value: Tensor, members: Sequence[Member], storage: torch.dtype, context: State) -> Tensor:
        """Look at values that others have written: at the first step, after loading, after assignments.

        Args:
            value: The stack, in its working dtype.
            members: Its parameters.
            storage: The dtype in which the values came.
            context: What ``context`` gave.

        Returns:
            The values to go on from.
        """
        del members, storage, context
        return value

    @abstractmethod
    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        """Take one step.

        Args:
            value: The stack.
            gradient: The gradients, laid out in the same way, in the direction of descent. A rule that ``consumes``
                gets copies of both and may overwrite them.
            state: The tensors of ``names``.
            step: Which step it is for these parameters, from 1.
            options: The group's options; learning rates are floats.
            context: What ``context`` gave.

        Returns:
            The new values and the new state.
        """


class Elementwise(Rule):
    """A rule that treats every entry alike; sharded parameters are updated shard by shard."""

    def read(self, member: Member, tensor: Tensor) -> Tensor:
        """Add a leading dimension.

        Args:
            member: The parameter.
            tensor: The parameter or its gradient.

        Returns:
            Shape ``(1, *shape)``.
        """
        return local(same_placement(tensor, member.parameter)).unsqueeze(0)

    def write(self, member: Member, value: Tensor) -> Tensor:
        """Drop the leading dimension.

        Args:
            member: The parameter.
            value: Shape ``(1, *shape)``.

        Returns:
            Shape ``shape``.
        """
        del member
        return value.squeeze(0)
