"""What may enter an optimizer: parameters and their groups."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["TORCHS", "check_group", "check_parameter", "check_source"]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# What torch and its schedulers write into groups.
TORCHS = {"params", "param_names", "initial_lr", "min_lr", "max_lr", "base_momentum", "max_momentum", "differentiable"}


def check_source(params: object) -> None:
    """Insist on something that may hold parameters.

    Args:
        params: What the user has passed; it is not gone through.

    Raises:
        TypeError: If it is a module, or cannot be gone through.
    """
    if isinstance(params, nn.Module):
        raise TypeError(
            f"params must be parameters, got a {type(params).__name__}; pass its named_parameters(), or for hidden "
            "matrices isometry.roles.route(model)."
        )
    if not isinstance(params, Iterable):
        raise TypeError(
            f"params must be parameters or groups of them, got {type(params).__name__}; pass model.parameters()."
        )


def check_group(group: object, options: Mapping[str, Any]) -> None:
    """Insist on a group: parameters, and options of which none is nearly the name of another.

    Groups may hold notes of the user's own, as torch's may. A name that is one or two letters away from an option's is
    taken for a slip.

    Args:
        group: What the user has passed.
        options: The optimizer's options.

    Raises:
        TypeError: If it is no dictionary with "params".
        ValueError: If a name in it looks like a misspelt option.
    """
    if not isinstance(group, Mapping):
        raise TypeError(
            f"a group must be a dictionary, got {type(group).__name__}; pass {{'params': [...], 'lr': ...}}."
        )
    if "params" not in group:
        held = ", ".join(map(repr, group)) or "nothing"
        raise TypeError(f"a group lacks 'params', it has {held}; say which parameters are in it.")
    for name in group:
        if name in options or name in TORCHS:
            continue
        near = difflib.get_close_matches(str(name), options, n=1, cutoff=0.8)
        if near:
            raise ValueError(
                f"a group has {name!r}, which is no option; did you mean {near[0]!r}? "
                "Notes of your own need other names."
            )


def check_parameter(parameter: Tensor, name: str) -> None:
    """Insist on a parameter of real floating point in memory.

    Args:
        parameter: The parameter.
        name: What messages call it.

    Raises:
        TypeError: If it has another dtype or layout.
        ValueError: If it is not initialized yet.
    """
    if is_lazy(parameter):
        raise ValueError(
            f"{name} is not initialized yet (a lazy layer's): run the model once on an input, then make the optimizer."
        )
    if parameter.dtype not in DTYPES:
        raise TypeError(
            f"{name} has dtype {parameter.dtype}, but the steps are made of real numbers of at least 16 bits; pass "
            "float32, float64, bfloat16 or float16 parameters only (torch.view_as_real shows a complex one as such)."
        )
    if parameter.layout != torch.strided:
        raise TypeError(f"{name} has layout {parameter.layout}, but the steps are dense; pass its to_dense().")
