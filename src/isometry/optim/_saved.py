"""What is asked of a saved state before it is taken for this optimizer's."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isometry.optim._intake import TORCHS
from isometry.optim._rule import MASTER, Rule, Shaped
from isometry.optim._sharded import local

__all__ = ["check_held", "check_saved"]


def check_saved(
    state_dict: object, defaults: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], kind: str
) -> None:
    """Insist on a state of this kind of optimizer, by the options of its groups.

    Args:
        state_dict: What the user has passed.
        defaults: The optimizer's options.
        groups: Its groups.
        kind: Its class's name.

    Raises:
        TypeError: If it is no state of an optimizer at all.
        ValueError: If a group lacks an option of this optimizer, or has one that only others have.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        held = f"one with {sorted(map(str, state_dict))}" if isinstance(state_dict, Mapping) else repr(state_dict)[:80]
        raise TypeError(
            f"state_dict must be a dictionary with 'state' and 'param_groups', got {held}; pass what "
            f"{kind}.state_dict() gave."
        )
    for index, group in enumerate(state_dict["param_groups"]):
        # torch puts "differentiable" among the defaults of an optimizer into which a state has been loaded.
        missing = [name for name in defaults if name not in group and name != "differentiable"]
        own = {*defaults, *TORCHS, *(groups[index] if index < len(groups) else ())}
        surplus = sorted(name for name in set(group) - own if name in _option_names())
        if missing or surplus:
            wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(surplus)}"] * bool(surplus)
            raise ValueError(
                f"state_dict is not one of {kind}: its group {index} {' and '.join(wrong)}; "
                f"load what {kind}.state_dict() gave, or begin with a new optimizer."
            )


def check_held(rule: Rule, parameter: Tensor, state: Mapping[str, Any], name: str) -> None:
    """Insist on a state from which a parameter can go on.

    Args:
        rule: How the parameter moves.
        parameter: The parameter.
        state: Its state; an empty one will do, and so will that of another rule, which begins anew.
        name: What messages call the parameter.

    Raises:
        ValueError: If a part of the state is missing, has another shape than the parameter, or holds NaN.
    """
    known = {*rule.names(), "step", MASTER}
    if not state or not known >= set(state):
        return
    missing = [key for key in rule.names() if key not in state]
    if missing:
        raise ValueError(f"the state of {name} lacks {', '.join(missing)}; load a whole state, or begin without one.")
    for key in (*rule.names(), MASTER):
        value = state.get(key)
        if not isinstance(value, Tensor):
            continue
        if isinstance(rule, Shaped) and (key == MASTER or rule.entrywise(key)) and value.shape != parameter.shape:
            raise ValueError(
                f"{key} of {name} has shape {tuple(value.shape)} in the state, the parameter has "
                f"{tuple(parameter.shape)}: the state is that of another model; load the one that was saved with it."
            )
        if value.is_floating_point() and bool(torch.isnan(local(value)).any()):
            raise ValueError(f"{key} of {name} holds NaN in the state; load one that was saved before that.")


def _option_names() -> frozenset[str]:
    """Collect the options of all optimizers of torch and of this library.

    Returns:
        Names of arguments.
    """
    makers = [*_subclasses(torch.optim.Optimizer)]
    return frozenset(name for maker in makers for name in inspect.signature(maker.__init__).parameters)  # type: ignore[misc]


def _subclasses(kind: type) -> Iterator[type]:
    below: type
    for below in kind.__subclasses__():
        if below.__module__.split(".")[0] in ("torch", "isometry"):
            yield below
            yield from _subclasses(below)
