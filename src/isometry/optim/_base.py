"""The base of every optimizer here: one step, in batches of equal parameters.

What all of them share, so that no method repeats it:

- parameters without gradients are skipped; sparse gradients and complex parameters are refused; gradients with NaN or
  infinity are refused before anything has changed, by one look at all of them;
- parameters of equal shape, dtype, device and options are one stack and one call;
- state is kept in float32 (float64 for float64); parameters of lower precision have a float32 ``master`` there;
- ``p.grad`` is not written to; ``maximize``, learning rates as numbers or tensors, closures, schedulers;
- ``state_dict`` has plain tensors per parameter and keeps their dtypes on loading, so a resumed run is the same run.

A method supplies rules (``Rule``): pure functions of stacks. It does not override ``step``.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from isometry.manifolds._warn import listed, warn_user
from isometry.optim._batch import Batch
from isometry.optim._gradients import GradientLook
from isometry.optim._intake import check_group, check_parameter, check_source
from isometry.optim._polar_step import RotationError
from isometry.optim._rule import MASTER, Member, Rule, State
from isometry.optim._saved import check_held, check_saved
from isometry.optim._sharded import is_sharded, local

__all__ = ["Optimizer", "ParameterSource", "check_betas", "check_choice", "check_number", "check_switch"]

ParameterSource: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

# Stacks are made of parts of about this many bytes, so that a step needs no more than a few of them at once.
STACK_BYTES = {"cpu": 32 << 20}
STACK_BYTES_ELSEWHERE = 256 << 20
CACHED_BYTES = 1 << 20  # the unit of Rule.cached


class Optimizer(torch.optim.Optimizer):
    """What the optimizers of this library have in common.

    Attributes:
        manifold_aware: Whether constrained weights (``isometry.manifolds.constrain_``) stay on their manifold.
    """

    manifold_aware: ClassVar[bool] = False
    _batches: list[Batch] | None = None
    _signature: object = None

    def __init__(self, params: ParameterSource, defaults: dict[str, Any]) -> None:
        check_source(params)
        super().__init__(params, defaults)

    # -- what a method supplies ----------------------------------------------------------------------------------------

    @abstractmethod
    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        """Choose how a parameter moves.

        Args:
            parameter: The parameter.
            options: Its group.

        Returns:
            The rule, and what it needs to know about this parameter alone (``Member.tie``).
        """

    @abstractmethod
    def _check_options(self, options: dict[str, Any]) -> None:
        """Refuse senseless options by a sentence.

        Args:
            options: A group with all its options.
        """

    @abstractmethod
    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        """Give what of a group's options decides about its rules (not the numbers in their formulas).

        Args:
            options: A group.

        Returns:
            Something hashable.
        """

    def _check_parameters(self, index: int) -> None:
        """Refuse parameters that a method cannot move, by a sentence; what is refused is taken out again.

        Args:
            index: The number of the group that was added.
        """

    def _ties(self) -> object:
        """Give what tells whether parameters may have got other rules since the last step.

        Returns:
            Something that compares unequal then.
        """
        return None

    def _about_all(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Give what formulas need to know about all parameters at once, such as a norm; it is added to their options.

        Args:
            batches: All parameters that move in this step.

        Returns:
            Names that no option has.
        """
        del batches
        return {}

    # -- the step ------------------------------------------------------------------------------------------------------

    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Evaluates the model anew and returns the loss.

        Returns:
            The closure's loss; None without one.

        Raises:
            ValueError: If a gradient is sparse or holds NaN or infinity: then no parameter and no state has changed.
                If a constrained weight cannot take its step, since that is too long for the dtype: the same holds.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_rates()
        batches = self._current_batches()
        look = GradientLook([member for batch in batches for member in batch.members])
        shared = self._about_all(batches)
        ready: dict[int, tuple[Tensor, State]] = {}
        try:
            if look.is_under_way:  # the device would have nothing to do while the host waits for it
                ready = self._computed(next(([b] for b in batches if not b.rule.refuses), []), shared)
        finally:
            look.insist()
        # What may be refused is computed as a whole before any of it is written.
        ready |= self._computed([batch for batch in batches if batch.rule.refuses], shared)
        for batch in sorted(batches, key=lambda b: not b.rule.refuses):
            batch.commit(*(ready.pop(id(batch), None) or self._compute(batch, shared)))
        return loss

    def _computed(self, batches: Sequence[Batch], shared: dict[str, Any]) -> dict[int, tuple[Tensor, State]]:
        return {id(batch): self._compute(batch, shared) for batch in batches}

    def _compute(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, State]:
        try:
            return batch.compute(self._options(batch.group) | shared)
        except RotationError as error:
            raise RotationError(  # of this type still: it tells a step that is too long from other refusals
                f"{error} for {listed([member.name for member in batch.members])}: the gradient or learning rate is "
                "too large for the dtype; lower the learning rate or clip the gradients. No parameter was changed."
            ) from None

    def _check_rates(self) -> None:
        # Constructors refuse such a rate, but schedules and users write into groups.
        for index, group in enumerate(self.param_groups):
            if not 0 <= float(group["lr"]) < math.inf:
                raise ValueError(
                    f"lr of group {index} has become {float(group['lr'])}; no parameter was changed. Look at the "
                    "schedule, or set a finite number >= 0."
                )

    def _options(self, index: int) -> dict[str, Any]:
        # A learning rate may be a tensor; formulas decide by its size, so it is read once.
        group = self.param_groups[index]
        return {
            k: float(v) if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in group.items() if k != "params"
        }

    # -- batches -------------------------------------------------------------------------------------------------------

    def _current_batches(self) -> list[Batch]:
        first_alike = self._alike()
        forms = tuple(self._form(group) for group in self.param_groups)
        given = tuple(tuple(id(p) for p in group["params"] if p.grad is not None) for group in self.param_groups)
        signature = (given, first_alike, forms, self._ties())
        batches = self._batches
        if batches is None or signature != self._signature or not all(batch.intact() for batch in batches):
            self._batches = batches = self._new_batches(first_alike)
            self._signature = signature
        return batches

    def _alike(self) -> tuple[int, ...]:
        """For each group, find the first group with equal options: their parameters may share batches.

        Returns:
            The numbers of groups.
        """
        seen: list[tuple[int, dict[str, Any]]] = []
        found = []
        for index, group in enumerate(self.param_groups):
            mine = {k: v for k, v in group.items() if k not in ("params", "param_names", "name", "routes")}
            same = next((i for i, options in seen if _equal(options, mine)), None)
            if same is None:
                seen.append((index, mine))
            found.append(index if same is None else same)
        return tuple(found)

    def _new_batches(self, first_alike: Sequence[int]) -> list[Batch]:
        members: dict[Any, list[Member]] = {}
        rules: dict[Any, tuple[Rule, int]] = {}
        restarted: dict[tuple[str, ...], list[str]] = {}
        for index, group in enumerate(self.param_groups):
            for position, parameter in enumerate(group["params"]):
                if parameter.grad is None or not parameter.numel():
                    continue
                rule, tie = self._rule(parameter, group)
                member = Member(parameter, self._name(index, position), tie)
                state = self.state[parameter]
                if dropped := _drop_foreign(state, rule):
                    restarted.setdefault(dropped, []).append(member.name)
                key = (
                    rule,
                    first_alike[index],
                    tuple(parameter.shape),
                    tuple(local(parameter).shape),
                    parameter.dtype,
                    parameter.device,
                    is_sharded(parameter) and (parameter.device_mesh, parameter.placements),
                    int(state.get("step", 0)),
                    frozenset(state),
                )
                members.setdefault(key, []).append(member)
                rules[key] = (rule, first_alike[index])
        for dropped, names in restarted.items():
            verb, of = ("moves", "its") if len(names) == 1 else ("move", "their")
            warn_user(
                f"{listed(names)} {verb} by another rule than before ({of} state has {', '.join(dropped)}), so {of} "
                "state begins anew; if constraints were to stay, copy the model and the optimizer together "
                "(copy.deepcopy((model, optimizer)))."
            )
        return [
            Batch(rules[key][0], part, rules[key][1], [self.state[m.parameter] for m in part])
            for key, found in members.items()
            for part in self._parts(found, rules[key][0])
        ]

    def _parts(self, members: list[Member], rule: Rule) -> Iterable[list[Member]]:
        first = members[0].parameter
        limit = STACK_BYTES.get(first.device.type, STACK_BYTES_ELSEWHERE)
        if rule.cached is not None and first.device.type == "cpu":
            limit = min(limit, rule.cached * CACHED_BYTES)
        count = max(1, limit // max(1, 4 * first.numel()))
        for begin in range(0, len(members), count):
            yield members[begin : begin + count]

    def _name(self, index: int, position: int, *, shape: bool = True) -> str:
        group = self.param_groups[index]
        names = group.get("param_names")
        if names is not None:
            return f"parameter {names[position]!r}"
        shown = f" (shape {tuple(group['params'][position].shape)})" if shape else ""
        return f"parameter {position} of group {index}{shown}"

    # -- groups and state ----------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own where they have any.

        Args:
            param_group: ``{"params": ..., option: value, ...}``.

        Raises:
            TypeError: If the group is none, or a parameter is not real floating point.
            ValueError: If an option makes no sense, or looks like another one's misspelt name; if a parameter is not
                initialized yet.
        """
        check_group(param_group, self.defaults)
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        try:
            for position, parameter in enumerate(added["params"]):
                check_parameter(parameter, self._name(len(self.param_groups) - 1, position, shape=False))
            self._check_options(added)
            self._check_parameters(len(self.param_groups) - 1)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._batches = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave; state keeps the dtype that it was saved with.

        Args:
            state_dict: The saved state.

        Raises:
            ValueError: If it is another optimizer's or another model's, if a part of it is missing or holds NaN, or an
                option in it is out of its range; nothing has changed then.
            TypeError: If it is no state, or an option in it is of a wrong type.
        """
        check_saved(state_dict, self.defaults, self.param_groups, type(self).__name__)
        for group in state_dict["param_groups"]:
            self._check_options(group)
        before = {"state": self.state, "param_groups": self.param_groups}
        super().load_state_dict(state_dict)
        self._batches = None
        # torch casts state to the parameter's dtype, which would round the float32 state of a bfloat16 parameter, and
        # shares the rest with whoever gave it.
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in zip(saved_ids, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    place = value.device if name == "step" else parameter.device
                    self.state[parameter][name] = value.to(device=place, copy=True)
        try:
            self._check_state()
        except ValueError:
            self.__setstate__(before)
            raise

    def _check_state(self) -> None:
        for index, group in enumerate(self.param_groups):
            for position, parameter in enumerate(group["params"]):
                if self.state.get(parameter):
                    rule, _ = self._rule(parameter, group)
                    check_held(rule, parameter, self.state[parameter], self._name(index, position))

    def state_bytes(self) -> dict[str, int]:
        """Count the memory that the state takes on this process; parameters have a state from their first step on.

        Returns:
            Bytes by the name of the state, summed over the parameters.
        """
        counted: dict[str, int] = {}
        for state in self.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    held = local(value)
                    counted[name] = counted.get(name, 0) + held.numel() * held.element_size()
        return counted

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._batches = None


def _drop_foreign(state: dict[str, Any], rule: Rule) -> tuple[str, ...]:
    """Forget the state that another rule has left behind.

    Returns:
        Its names, if nothing is left of the state.
    """
    known = {*rule.names(), "step", MASTER}
    foreign = sorted(set(state) - known)
    if foreign and not any(name in state for name in rule.names()):
        state.clear()
        return tuple(foreign)
    for name in foreign:
        state.pop(name, None)
    return ()


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(
        a[k] is b[k] or (not isinstance(a[k], Tensor) and not isinstance(b[k], Tensor) and a[k] == b[k]) for k in a
    )


def check_number(argument: str, value: Any, *, below: float = math.inf, optional: bool = False) -> None:
    """Insist on a finite number, or a tensor of one, that is at least zero.

    Args:
        argument: The option's name.
        value: What was given.
        below: It must also be less than this.
        optional: Whether None will do.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of its range.
    """
    if optional and value is None:
        return
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, got {type(value).__name__}; pass a float.")
    if isinstance(value, int) and value > sys.float_info.max:
        raise ValueError(f"{argument} must be a finite number, got an integer beyond the range of floats.")
    if not (math.isfinite(value) and 0 <= value < below):
        wanted = "a finite number >= 0" if below == math.inf else f"at least 0 and below {below:g}"
        raise ValueError(f"{argument} must be {wanted}, got {value}.")


def check_betas(value: Any) -> None:
    """Insist on two decay rates in [0, 1).

    Args:
        value: What was given.

    Raises:
        TypeError: If it is not two numbers.
    """
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"betas must be two numbers, got {value!r}.")
    for i, beta in enumerate(value):
        check_number(f"betas[{i}]", beta, below=1)


def check_switch(argument: str, value: Any) -> None:
    """Insist on True or False.

    Args:
        argument: The option's name.
        value: What was given.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}.")


def check_choice(argument: str, value: Any, known: Sequence[str]) -> None:
    """Insist on one of some names.

    Args:
        argument: The option's name.
        value: What was given.
        known: The names.

    Raises:
        ValueError: If it is none of them; the message has near matches.
    """
    if value not in known:
        from isometry._base import unknown_name

        error = unknown_name(argument, value, known)
        raise error
