"""A batch: parameters of one rule, shape, dtype and device that are stepped as one stack.

The optimizer's state has a tensor per parameter, as everyone expects. Between steps these tensors are views of stacks,
so that nothing is gathered in the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from isometry.linalg._precision import working_dtype
from isometry.optim._polar_step import OffManifoldError
from isometry.optim._rule import MASTER, Member, Options, Rule, State, joined
from isometry.optim._sharded import is_sharded, local, versions

__all__ = ["Batch"]


class Batch:
    """Parameters that are stepped together, with their stacked state.

    Attributes:
        rule: How they move.
        members: The parameters, with what is known of each.
        parameters: The parameters themselves.
        group: The number of the first parameter group with their options.
        progress: How many steps they have taken.
    """

    def __init__(self, rule: Rule, members: Sequence[Member], group: int, states: Sequence[dict[str, Any]]) -> None:
        self.rule = rule
        self.members = tuple(members)
        self.parameters = [m.parameter for m in members]
        self.group = group
        self.states = tuple(states)
        self.storage = members[0].parameter.dtype
        self.dtype = working_dtype(self.storage)
        self.progress = int(states[0]["step"]) if "step" in states[0] else 0
        self.steps = torch.full((len(members),), float(self.progress))
        self.stacks: State = {}
        self._versions: tuple[int, ...] | None = None
        self._gather()
        self._scatter()

    def intact(self) -> bool:
        """Tell whether the optimizer's state still is what this batch keeps.

        Returns:
            False once somebody has put other tensors there.
        """
        return all(
            state.get(name) is view
            for state, views in zip(self.states, self._views, strict=True)
            for name, view in views
        )

    def compute(self, options: Options) -> tuple[Tensor, State]:
        """Compute a step without taking it.

        Args:
            options: The group's options.

        Returns:
            The new values and state, for ``commit``.
        """
        try:
            return self._update(options)
        except OffManifoldError:
            # Written to in a way that torch does not count (.data): taken in as what others have written.
            self._versions = None
            return self._update(options)

    def look(self, function: Callable[[Rule, Tensor, Tensor, State, Options], Tensor], options: Options) -> Tensor:
        """Compute something of what the next step will be made of, such as a norm; nothing is written.

        Args:
            function: Gets the rule, and the values, gradients and state that its ``update`` gets.
            options: The group's options.

        Returns:
            What the function gives.
        """
        return function(self.rule, *self._inputs(options), options)

    def _update(self, options: Options) -> tuple[Tensor, State]:
        value, gradient, state = self._inputs(options)
        return self.rule.update(value, gradient, state, self.progress + 1, options, self.context)

    def _inputs(self, options: Options) -> tuple[Tensor, Tensor, State]:
        value = self._values()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        gradient = self.rule.gather(self.members, gradients).to(self.dtype)
        if options.get("maximize", False):
            gradient = gradient.neg()
        elif self.rule.consumes and len(self.members) == 1 and self.storage == self.dtype:
            gradient = gradient.clone()  # else it is a copy already
        if self.rule.consumes and (len(self.members) == 1 or value is self.stacks.get(MASTER)):
            value = value.clone()
        return value, gradient, {name: stack for name, stack in self.stacks.items() if name != MASTER}

    def commit(self, value: Tensor, state: State) -> None:
        """Write a computed step.

        Args:
            value: The new values.
            state: The new state.
        """
        targets = [local(p) for p in self.parameters] if is_sharded(self.parameters[0]) else self.parameters
        torch._foreach_copy_(targets, self.rule.spread(self.members, value))
        self.progress += 1
        self.steps += 1
        self.stacks = dict(state)
        if self.storage != self.dtype:
            self.stacks[MASTER] = value
        self._scatter()
        self._versions = versions(self.parameters)

    def _values(self) -> Tensor:
        stored = self.rule.gather(self.members, self.parameters)
        # Whoever writes to a parameter moves its version counter, so between our own steps nothing is to be looked at.
        untouched = versions(self.parameters) == self._versions
        if self.storage == self.dtype:
            value = stored
        elif MASTER in self.stacks:
            value = self.stacks[MASTER]
            if not untouched:
                value = torch.where(stored == value.to(self.storage), value, stored.to(self.dtype))
        else:
            value = stored.to(self.dtype)
        return value if untouched else self.rule.admit(value, self.members, self.storage, self.context)

    def _gather(self) -> None:
        value = self.rule.gather(self.members, self.parameters).to(self.dtype)
        self.context = self.rule.context(self.members, value)
        wanted = self.rule.names()
        known = [name for name in wanted if all(name in state for state in self.states)]
        fresh = self.rule.begin(value, len(self.members)) if len(known) < len(wanted) else {}
        for name in wanted:
            stacked = [self.rule.unkeep(name, state[name]) for state in self.states] if name in known else None
            self.stacks[name] = joined(stacked) if stacked is not None else fresh[name]
        if self.storage != self.dtype and all(MASTER in state for state in self.states):
            self.stacks[MASTER] = joined([self.rule.unkeep(MASTER, state[MASTER]) for state in self.states])

    def _scatter(self) -> None:
        """Put views of the stacks into the optimizer's state."""
        columns: dict[str, Sequence[Tensor]] = {"step": self.steps.unbind()}
        for name, stack in self.stacks.items():
            columns[name] = self.rule.spread_state(self.members, name, stack)
        names = tuple(columns)
        self._views = [tuple(zip(names, views, strict=True)) for views in zip(*columns.values(), strict=True)]
        for state, views in zip(self.states, self._views, strict=True):
            state.update(views)
