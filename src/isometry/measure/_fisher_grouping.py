"""Which parameters, or slices of them, belong to which group: by name pattern, layer, repeated block or head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from isometry._base import unknown_name
from isometry.measure._fisher_heads import head_groups
from isometry.measure._fisher_setup import Setup
from isometry.roles import ParameterSlice

__all__ = ["By", "Groups", "Patterns", "grouped", "repeated_blocks"]

By = Literal["layer", "block", "head"]
Patterns = Mapping[str, str | Iterable[str]]
Groups = dict[str, tuple[ParameterSlice, ...]]
REST = "rest"


def repeated_blocks(model: nn.Module) -> tuple[str, ...]:
    """Find the blocks that a model repeats.

    These are the children of an outermost ``ModuleList``, ``Sequential`` or ``ModuleDict`` of which it has at least two
    of one class; children without parameters do not count.

    Args:
        model: The model.

    Returns:
        Their names, in the model's order.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            continue
        if any(name == block or name.startswith(f"{block}.") for block in found):
            continue
        children = [(n, child) for n, child in module.named_children() if any(True for _ in child.parameters())]
        kinds = [type(child) for _, child in children]
        found += [f"{name}.{n}" if name else n for n, child in children if kinds.count(type(child)) > 1]
    return tuple(found)


def grouped(setup: Setup, patterns: Patterns | None, by: By | None, heads: int | None) -> Groups:
    """Say which parameters, or slices of them, each group has; the last group has the rest.

    Args:
        setup: The measurement.
        patterns: Names of groups to patterns of parameter names; None where ``by`` says how to group.
        by: How to group.
        heads: Attention heads in each block, for ``by="head"``.

    Returns:
        Groups to slices.

    Raises:
        ValueError: If a parameter that would be cut is not a linear layer's alone.
    """
    names = list(setup.plan.parameters)
    if patterns is not None:
        groups = _by_pattern(names, patterns)
    elif by == "head":
        groups = head_groups(setup, heads)
    elif by == "layer":
        groups = _by_owner(names, setup.plan.group_of)
    else:
        groups = _by_block(setup.model, names)
    cut = {s.name for slices in groups.values() for s in slices if s.dim is not None}
    for bundle in setup.plan.bundles:
        kinds = {setup.plan.calls[order].kind for order in bundle.calls}
        if kinds != {"linear"} and not cut.isdisjoint(bundle.names.values()):
            raise ValueError(
                f"by='head': {', '.join(bundle.names.values())} is used by more than a linear layer, and cannot be "
                "divided between heads; name groups by patterns instead."
            )
    taken = {s.name for slices in groups.values() for s in slices}
    rest = [ParameterSlice(name) for name in names if name not in taken]
    return groups | ({REST: tuple(rest)} if rest else {})


def _by_pattern(names: list[str], patterns: Patterns) -> Groups:
    if not isinstance(patterns, Mapping) or not patterns:
        raise TypeError(
            "groups must map the groups' names to patterns of parameter names, such as "
            f'{{"attention": "*.attn.*", "mlp": "*.mlp.*"}}, got {patterns!r}.'
        )
    if REST in patterns:
        raise ValueError(f"groups: {REST!r} is the name of what is in no group; call it something else.")
    groups: Groups = {}
    for group, given in patterns.items():
        several = [given] if isinstance(given, str) else list(given)
        for pattern in several:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown_name(f"pattern of groups[{group!r}]", pattern, names)
        groups[group] = tuple(ParameterSlice(n) for n in names if any(fnmatchcase(n, p) for p in several))
    return groups


def _by_owner(names: list[str], owner: Callable[[str], str]) -> Groups:
    groups: dict[str, list[ParameterSlice]] = {}
    for name in names:
        groups.setdefault(owner(name), []).append(ParameterSlice(name))
    return {group: tuple(slices) for group, slices in groups.items()}


def _by_block(model: nn.Module, names: list[str]) -> Groups:
    blocks = repeated_blocks(model)
    groups = {block: tuple(ParameterSlice(name) for name in names if name.startswith(f"{block}.")) for block in blocks}
    groups = {block: slices for block, slices in groups.items() if slices}
    if not groups:
        raise ValueError(
            "by='block': no ModuleList, Sequential or ModuleDict of the model has two children of one class among the "
            'chosen parameters; name groups by patterns instead, such as {"block1": "block1.*"}.'
        )
    return groups
