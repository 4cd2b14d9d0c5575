"""What the methods for hidden matrices share: matrices by the method, everything else by AdamW, in one object.

A parameter group's ``rule`` says which: ``"matrix"`` or ``"adamw"``. ``isometry.roles.route`` makes such groups from a
model and writes down why; groups by hand work too. The matrices of a parameter are found by its axes (blocks of fused
projections, groups and taps of convolutions, stacked experts), never by its number of dimensions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from isometry._base import unknown_name
from isometry.optim._base import Optimizer, ParameterSource, check_betas, check_choice, check_number, check_switch
from isometry.optim._elementwise import ElementwiseAdam
from isometry.optim._orthogonal_step import fix_dtype
from isometry.optim._rule import Member, Options, Rule, Shaped, State
from isometry.optim._saved import check_saved
from isometry.optim._shards import Shards, shards_of
from isometry.roles import Axes
from isometry.roles._modules import conventional_axes
from isometry.roles._verdicts import matrix_sizes

__all__ = ["ADAMW", "Layout", "MatrixOptimizer", "MatrixRule"]

GroupRule = Literal["matrix", "adamw"]
Layout = Literal["conv", "batch"]

# How everything that is no hidden matrix moves; the defaults of the first release of Muon.
ADAMW: Mapping[str, Any] = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}


class MatrixOptimizer(Optimizer):
    """An optimizer that moves hidden matrices by a method of its own, and the rest by AdamW.

    Groups have the options of the method, and besides:

    - ``rule``: ``"matrix"`` (default) or ``"adamw"``; AdamW's ``lr``, ``betas``, ``eps`` and ``weight_decay`` are the
      group's, with defaults from the argument ``adamw``;
    - ``layout``: what more than two dimensions mean where no routing says it: ``"conv"``, (out, in, *kernel), one
      matrix (out, in * kernel); or ``"batch"``, (*batch, out, in);
    - ``routes``: the rows of the routing table, as plain data, one per parameter; saved with the state.

    Args:
        params: Parameters or groups.
        defaults: The method's options.
        adamw: What differs from the defaults of AdamW.

    Raises:
        ValueError: If no parameter at all takes the rule "matrix".
    """

    def __init__(self, params: ParameterSource, defaults: dict[str, Any], adamw: Mapping[str, Any] | None) -> None:
        self._adamw = _adamw_options(adamw)
        shared = {"betas": ADAMW["betas"], "eps": ADAMW["eps"], "rule": "matrix", "layout": None, "routes": None}
        super().__init__(params, {**shared, **defaults})
        self._insist_on_matrices()

    # -- what a method supplies ----------------------------------------------------------------------------------------

    @abstractmethod
    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        """Refuse senseless options of the method by a sentence.

        Args:
            options: A group of the rule "matrix" with all its options.
        """

    @abstractmethod
    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        """Give the rule of a parameter of these axes.

        Args:
            axes: Where its matrices are.
            options: Its group.

        Returns:
            The rule.
        """

    # -- groups --------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own where they have any.

        Args:
            param_group: ``{"params": ..., "rule": "matrix" or "adamw", option: value, ...}``.
        """
        if isinstance(param_group, Mapping) and param_group.get("rule") == "adamw":
            param_group = {**self._adamw, **param_group}
        super().add_param_group(param_group)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_choice("rule", options["rule"], get_args(GroupRule))
        check_number("lr", options["lr"])
        check_number("weight_decay", options["weight_decay"])
        check_switch("maximize", options["maximize"])
        if options["layout"] is not None:
            check_choice("layout", options["layout"], get_args(Layout))
        if options["rule"] == "matrix":
            self._check_matrix_options(options)
        else:
            check_betas(options["betas"])
            check_number("eps", options["eps"])

    def _check_parameters(self, index: int) -> None:
        group = self.param_groups[index]
        routes = group["routes"]
        if routes is not None and len(routes) != len(group["params"]):
            raise ValueError(
                f"routes has {len(routes)} rows for {len(group['params'])} parameters; pass the groups as route gave "
                "them, or leave routes out."
            )
        if group["rule"] == "matrix":
            fix_dtype(group)
            for position in range(len(group["params"])):
                self._axes(index, position)

    def _axes(self, index: int, position: int) -> Axes:
        group = self.param_groups[index]
        parameter = group["params"][position]
        if group["routes"] is not None:
            return Axes.from_dict(group["routes"][position]["axes"])
        ndim = parameter.ndim
        if ndim == 2:
            return conventional_axes(2)
        name, shape = self._name(index, position, shape=False), tuple(parameter.shape)
        if ndim < 2:
            raise ValueError(
                f"{name} has shape {shape} and is no matrix, but its group has rule='matrix'; give it to a group with "
                "rule='adamw', or let isometry.roles.route(model) make the groups."
            )
        if group["layout"] is None:
            raise ValueError(
                f"{name} has shape {shape}, which may be a kernel or a stack of matrices; say layout='conv' or "
                "layout='batch' in its group, or let isometry.roles.route(model) make the groups."
            )
        return conventional_axes(ndim) if group["layout"] == "conv" else _batch_axes(ndim)

    def _insist_on_matrices(self) -> None:
        if any(group["rule"] == "matrix" and group["params"] for group in self.param_groups):
            return
        found = [
            _reason(group, self._name(index, position), position)
            for index, group in enumerate(self.param_groups)
            for position in range(len(group["params"]))
        ]
        if not found:
            raise ValueError(
                f"{type(self).__name__} got groups without any parameter; pass isometry.roles.route(model) of a model "
                "that has matrices, or leave the optimizer out."
            )
        raise ValueError(
            f"no parameter takes {type(self).__name__}'s own rule: {'; '.join(found[:20])}"
            f"{f'; and {len(found) - 20} more' if len(found) > 20 else ''}. Give some group rule='matrix', route "
            "them by overrides, or use torch.optim.AdamW."
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave.

        Args:
            state_dict: The saved state.

        Raises:
            ValueError: If it is another optimizer's, or parameters were routed in another way when it was saved;
                nothing has changed then.
        """
        check_saved(state_dict, self.defaults, self.param_groups, type(self).__name__)
        for index, (mine, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            self._insist_on_routes(index, mine, saved)
        super().load_state_dict(state_dict)

    def _insist_on_routes(self, index: int, mine: dict[str, Any], saved: dict[str, Any]) -> None:
        count, counted = len(mine["params"]), len(saved["params"])
        if count == counted:
            changed = [
                f"{self._name(index, position)} was {before}, and is {now}"
                for position, (before, now) in enumerate(zip(_routing(saved), _routing(mine), strict=True))
                if before != now
            ]
        else:
            changed = [f"group {index} had {counted} parameters of the rule {saved['rule']!r}, and has {count}"]
        if changed:
            raise ValueError(
                f"the state was saved with another routing: {'; '.join(changed[:5])}"
                f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}. Route the model as it was "
                "(its table is in the saved param_groups, under 'routes'), or begin with a new optimizer."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_adamw": self._adamw}

    # -- rules ---------------------------------------------------------------------------------------------------------

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        if options["rule"] == "adamw":
            return ElementwiseAdam(amsgrad=False), None
        index = next(i for i, group in enumerate(self.param_groups) if group is options)
        position = next(i for i, p in enumerate(options["params"]) if p is parameter)
        rule = self._matrix_rule(self._axes(index, position), options)
        if rule.axes.known and parameter.numel():
            rule = replace(rule, shape=matrix_sizes(rule.axes, tuple(parameter.shape)))
        return rule, None

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return options["rule"], options["layout"], id(options["routes"])


@dataclass(frozen=True)
class MatrixRule(Shaped):
    """A rule that sees a parameter as its matrices.

    A step has three parts. ``prepare`` works entry by entry, on this process's share of a sharded parameter; ``move``
    sees whole matrices, of which every process then has some; ``finish`` works entry by entry again.

    States that are shaped as the parameter is (momentum) belong to the first and the last part, and are sharded; the
    others belong to ``move``, have the number of the matrix as their leading dimension, and are whole on every process.

    Attributes:
        axes: Where the matrices of such a parameter are.
        shape: ``(count, out, in)``: how many matrices such a parameter holds, and their sizes, where it holds any.
    """

    cached = 4
    small: ClassVar[tuple[str, ...]] = ()  # the names of the states that belong to matrices

    axes: Axes
    shape: tuple[int, int, int] = (1, 1, 1)

    def shaped(self, name: str) -> bool:
        return name not in self.small

    def begin(self, value: Tensor, members: int) -> State:
        state = {name: torch.zeros_like(value) for name in self.names() if self.shaped(name)}
        return state | self.begin_small(value, members)

    def begin_small(self, value: Tensor, members: int) -> State:
        """Make the states of matrices before the first step.

        Args:
            value: The stack of parameters (or this process's share); gives dtype and device.
            members: How many parameters are in it.

        Returns:
            A tensor per name in ``small``, of leading dimension ``members`` times the number of matrices in each.
        """
        del value, members
        return {}

    def context(self, members: Sequence[Member], value: Tensor) -> dict[str, Any]:
        del value
        shape = tuple(members[0].parameter.shape)
        return {"shape": shape, "shards": shards_of([m.parameter for m in members], [m.name for m in members])}

    @abstractmethod
    def prepare(self, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        """Mix the gradient into the state.

        Args:
            gradient: Shape ``(members, *shape)``.
            state: The states shaped like it.
            options: The group's options.

        Returns:
            What ``move`` is to see the matrices of, and the new states.
        """

    @abstractmethod
    def move(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, State]:
        """Make the update of whole matrices; the step is minus the learning rate times it.

        Args:
            matrices: Shape ``(count, out, in)``.
            small: The states of these matrices.
            options: The group's options.

        Returns:
            The update, of the same shape, and the new states of the matrices.
        """

    @property
    def in_parts(self) -> bool:
        """Whether ``move_part`` says which part of the matrices it has used."""
        return False

    def move_part(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, Tensor | None, State]:
        """Make the update of whole matrices from a part of them; for methods that keep the rest.

        Args:
            matrices: As for ``move``.
            small: The states of these matrices.
            options: The group's options.

        Returns:
            The update; the part that it has used up, of the same shape (None, if not ``in_parts``); the new states.
        """
        update, new = self.move(matrices, small, options)
        return update, None, new

    def finish(self, update: Tensor, used: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        """Change the states by what the update has used up (error feedback).

        Args:
            update: What ``move`` gave, in the shape of the parameters.
            used: What the update has used: the part that ``move_part`` gave, else all that ``prepare`` gave.
            state: Its new states.
            options: The group's options.

        Returns:
            The update and the states to keep.
        """
        del used, options
        return update, state

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: Mapping[str, Any]
    ) -> tuple[Tensor, State]:
        del step
        lr, decay = options["lr"], options["weight_decay"]
        used, new = self.prepare(gradient, {k: v for k, v in state.items() if self.shaped(k)}, options)
        update, part, small = self._moved(used, {k: state[k] for k in self.small}, options, context)
        update, new = self.finish(update, used if part is None else part, new, options)
        # Decoupled weight decay, W <- (1 - lr wd) W - lr U.
        return torch.add(value * (1 - lr * decay) if decay else value, update, alpha=-lr), new | small

    def _moved(
        self, used: Tensor, small: State, options: Options, context: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None, State]:
        shape, shards = context["shape"], context["shards"]
        if shards is None:
            return self._move_whole(used, small, options, shape)
        return self._move_shared(used, small, options, shape, shards)

    def _move_whole(
        self, used: Tensor, small: State, options: Options, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None, State]:
        axes = self.axes.stacked()
        update, part, new = self.move_part(axes.matrices(used), small, options)
        whole = (len(used), *shape)
        return axes.restore(update, whole), None if part is None else axes.restore(part, whole), new

    def _move_shared(
        self, used: Tensor, small: State, options: Options, shape: tuple[int, ...], shards: Shards
    ) -> tuple[Tensor, Tensor | None, State]:
        """Let every process move some of the parameters, whole, and give everyone its rows of all of them.

        Returns:
            As ``move_part``, for this process's share.
        """
        mine = {name: shards.mine(stack) for name, stack in small.items()}
        whole = shards.gather(used)
        update, part, new = whole, whole if self.in_parts else None, mine
        if len(whole):
            update, part, new = self._move_whole(whole, mine, options, shape)
        rows = shards.scatter(update), None if part is None else shards.scatter(part)
        return *rows, {name: shards.everyones(new[name], small[name]) for name in small}


def _adamw_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"adamw must be a mapping such as {{'lr': 3e-4}}, got {type(given).__name__}.")
    for name in given or {}:
        if name not in ADAMW:
            raise unknown_name("adamw option", str(name), ADAMW)
    options = {**ADAMW, **(given or {})}
    for name in ("lr", "eps", "weight_decay"):
        check_number(f"adamw[{name!r}]", options[name])
    check_betas(options["betas"])
    return options


def _batch_axes(ndim: int) -> Axes:
    return Axes(out=(ndim - 2,), in_=(ndim - 1,), batch=tuple(range(ndim - 2)))


def _routing(group: Mapping[str, Any]) -> list[str]:
    """Say in words how each parameter of a group is routed; equal words, equal routing.

    Returns:
        A phrase per parameter.
    """
    count = len(group["params"])
    layout = f" as {group['layout']}" if group.get("layout") else ""
    rows = group.get("routes") or [{}] * count
    return [
        f"routed to {group['rule']!r}{layout}"
        + (f" with shape {tuple(row['shape'])}" if row.get("shape") else "")
        + (f" with axes {Axes.from_dict(row['axes'])}" if row.get("axes") and group["rule"] == "matrix" else "")
        + (f" under the name {row['name']!r}" if row.get("name") else "")
        for row in rows
    ]


def _reason(group: Mapping[str, Any], name: str, position: int) -> str:
    reason = group["routes"][position]["reason"] if group["routes"] else f"its group has rule={group['rule']!r}"
    return f"{name} goes to {group['rule']!r} ({reason})"
