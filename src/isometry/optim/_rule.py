"""What a method says about itself: how parameters become a stack of equal values, and the pure update of a stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isometry.optim._polar_step import lies_down
from isometry.optim._sharded import is_sharded, local, same_placement, sharded_like
from isometry.optim._update_size import UpdateSize

__all__ = ["MASTER", "Elementwise", "Member", "Options", "Rule", "Shaped", "State", "joined"]

MASTER = "master"

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
        cached: On a processor, the size of stacks in MiB at which a step does best (1 for a few passes over the
            entries, 4 with products of matrices): beyond it, fresh memory and memory from farther away cost more than
            the arithmetic. None: as large as anywhere.
        refuses: Whether ``update`` or ``admit`` may refuse; such batches are all computed before one is written.
    """

    consumes: ClassVar[bool] = False
    cached: ClassVar[int | None] = None
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

    def keep(self, member: Member, name: str, part: Tensor) -> Tensor:
        """Show a parameter's part of a stack of state as the optimizer's state has it.

        Args:
            member: The parameter.
            name: Which state it is.
            part: Its part, with a leading dimension.

        Returns:
            A view.
        """
        del member, name
        return part

    def unkeep(self, name: str, kept: Tensor) -> Tensor:
        """Undo ``keep``.

        Args:
            name: Which state it is.
            kept: What the optimizer's state has.

        Returns:
            Its part of a stack, with a leading dimension; a view.
        """
        del name
        return kept

    # The same for all parameters of a batch at once. Small parameters are many, and what is done for each on the host
    # takes longer than the arithmetic then; so rules that can, do it in one operation.

    def gather(self, members: Sequence[Member], tensors: Sequence[Tensor]) -> Tensor:
        """Lay parameters, or their gradients, out as a stack.

        Args:
            members: The parameters.
            tensors: A tensor for each, as for ``read``.

        Returns:
            The stack; of a single parameter it may be a view.
        """
        return joined([self.read(m, t) for m, t in zip(members, tensors, strict=True)])

    def spread(self, members: Sequence[Member], value: Tensor) -> list[Tensor]:
        """Undo ``gather``.

        Args:
            members: The parameters.
            value: Their stack.

        Returns:
            What the local tensor of each is to hold.
        """
        return [self.write(m, part) for m, part in zip(members, value.chunk(len(members)), strict=True)]

    def spread_state(self, members: Sequence[Member], name: str, stack: Tensor) -> Sequence[Tensor]:
        """Show a stack of state as the optimizer's state has it.

        Args:
            members: The parameters.
            name: Which state it is.
            stack: All of it.

        Returns:
            A view for each.
        """
        return [self.keep(m, name, part) for m, part in zip(members, stack.chunk(len(members)), strict=True)]

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

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize | None:
        """State how large an update is, before the learning rate, for ``explain``.

        A method states what its formula gives for a momentum of full rank, for one matrix of a parameter; it says in
        ``holds`` when that is so.

        Args:
            shape: ``(out, in)`` of one matrix, for rules of matrices; else the parameter's shape.
            options: The group's options.

        Returns:
            The size (``UNBOUNDED`` where the gradient's size decides); None where a method states nothing.
        """
        del shape, options
        return None

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


class Shaped(Rule):
    """A rule whose values, and the states in ``shaped``, are shaped and sharded as the parameter is."""

    def shaped(self, name: str) -> bool:
        """Tell whether a state has an entry per entry of the parameter.

        Args:
            name: The state's name.

        Returns:
            Whether it does; so do all, unless a method says otherwise.
        """
        del name
        return True

    def entrywise(self, name: str) -> bool:
        """Tell whether a state, as it is kept, has the parameter's own shape.

        Args:
            name: The state's name.

        Returns:
            Whether it does; so do those that are ``shaped``, unless a method packs them.
        """
        return self.shaped(name)

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

    def keep(self, member: Member, name: str, part: Tensor) -> Tensor:
        """Shape a state with an entry per entry of the parameter as the parameter is; checkpoints gather it then.

        Args:
            member: The parameter.
            name: Which state it is.
            part: Shape ``(1, *local shape)``, or the state's own.

        Returns:
            A view, sharded as the parameter is.
        """
        return sharded_like(part.squeeze(0), member.parameter) if name == MASTER or self.shaped(name) else part

    def unkeep(self, name: str, kept: Tensor) -> Tensor:
        """Undo ``keep``.

        Args:
            name: Which state it is.
            kept: What the optimizer's state has.

        Returns:
            Shape ``(1, *local shape)``, or the state's own.
        """
        return local(kept).unsqueeze(0) if name == MASTER or self.shaped(name) else kept

    def gather(self, members: Sequence[Member], tensors: Sequence[Tensor]) -> Tensor:
        first = tensors[0]
        turned = first.ndim == 2 and not first.is_contiguous()
        if len(members) == 1 or turned or is_sharded(members[0].parameter):
            return super().gather(members, tensors)
        return torch.stack(list(tensors))

    def spread(self, members: Sequence[Member], value: Tensor) -> list[Tensor]:
        del members
        return list(value.unbind())

    def spread_state(self, members: Sequence[Member], name: str, stack: Tensor) -> Sequence[Tensor]:
        if is_sharded(members[0].parameter):
            return super().spread_state(members, name, stack)
        return stack.unbind() if name == MASTER or self.shaped(name) else stack.chunk(len(members))


class Elementwise(Shaped):
    """A rule that treats every entry alike; sharded parameters are updated shard by shard."""

    cached = 1


def joined(values: Sequence[Tensor]) -> Tensor:
    """Concatenate values along their leading dimension.

    Args:
        values: At least one.

    Returns:
        The stack; the value itself if it is one.
    """
    if len(values) == 1:
        return values[0]
    if all(lies_down(v) for v in values):  # copied as they are stored, not entry by entry across the rows
        return torch.cat([v.mT for v in values]).mT
    return torch.cat(list(values))
