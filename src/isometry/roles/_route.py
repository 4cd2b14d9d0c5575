"""Route a model's parameters: hidden matrices to the method for matrices, the rest to AdamW, and write down why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, get_args

from torch import Tensor, nn

from isometry._base import unknown_name
from isometry.roles._routing import Route, RouteGroup, Routing
from isometry.roles._rows import ParameterRow
from isometry.roles._table import Override, table
from isometry.roles._verdicts import GroupRule, verdict

__all__ = ["route"]

# What route itself puts into a group.
_RESERVED = ("params", "param_names", "rule", "routes")


@dataclass(frozen=True)
class _Given:
    """A group as the user gave it: its parameters by identity, its options, its rule if it has one."""

    members: tuple[int, ...]
    options: Mapping[str, Any]
    rule: GroupRule | None


def route(
    model: nn.Module,
    overrides: Mapping[str, Override] | None = None,
    *,
    example: object = None,
    rules: Mapping[str, GroupRule] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    groups: Iterable[Mapping[str, Any]] | None = None,
    include_frozen: bool = False,
) -> Routing:
    """Say by which rule each parameter of a model is moved, and make the param groups of one optimizer.

    Hidden matrices (layers between units, recurrent weights, the projections of attention) go to the method for
    matrices: fused projections by their blocks, stacked experts one by one, convolutions as (out, in * taps) per group.
    Everything else goes to AdamW: the first linear or convolutional layer, the head, embeddings (an embedding tied to
    the head, too), norms, biases, scales, routers of experts, low-rank factors, depthwise kernels, parametrized weights
    and raw parameters whose dimensions nothing explains. What decides is the role (``isometry.roles.table``), never the
    number of dimensions; ``print(route(model))`` shows every decision with its reason.

    Args:
        model: Any module; meta tensors will do.
        overrides: Patterns of names to roles or axes, as in ``table``.
        example: An input for one forward pass, as in ``table``: which layers are first and last is known then.
        rules: Patterns of names to ``"matrix"`` or ``"adamw"``, against what the role says; later patterns win.
        options: Patterns of names to options of their group, such as ``{"*.bias": {"weight_decay": 0.0}}``. All that
            match apply; later ones win.
        groups: Param groups of your own, each ``{"params": tensors or (name, tensor) pairs, option: value, ...}``.
            Every option stays; a group is divided where its parameters take different rules or ``options``, which go
            before the group's. A group's ``"rule"`` holds for all of it, like a first entry of ``rules``. Parameters in
            none of them are not optimized. Default: one group of all.
        include_frozen: Whether parameters without ``requires_grad`` get into groups, to be unfrozen later.

    Returns:
        The table; iterating it gives the groups, matrices first. Names are those of the model.

    Raises:
        TypeError: If the model is no module, or a group or the options of a pattern are no mapping.
        ValueError: If a pattern matches nothing; if a parameter that is no matrix, or of unknown dimensions, is to take
            the rule "matrix"; if a group has a parameter of no model or one that another group has; if an option has a
            name that the groups need themselves.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
        >>> routing = route(model, options={"*.bias": {"weight_decay": 0.0}})
        >>> [row.name for row in routing.by_rule("matrix")]
        ['2.weight']
        >>> [(group["rule"], len(group["params"])) for group in routing]
        [('matrix', 1), ('adamw', 2), ('adamw', 3)]
    """
    rows = table(model, overrides, example=example).rows
    tensors = dict(model.named_parameters())
    modules = dict(model.named_modules(remove_duplicate=False))
    given = _given(groups, {id(tensors[row.name]): row for row in rows})
    patterns = _checked_options(options or {}, rows)
    routes = _ruled([_first(row, modules) for row in rows], rows, _group_rules(given, rows, tensors), rules or {})
    holders = {member: index for index, group in enumerate(given) for member in group.members} if given else None
    found = tuple(_settled(r, tensors[r.name], holders, include_frozen) for r in routes)
    return Routing(found, tuple(_divided(found, rows, tensors, given, holders, patterns)))


# -- rules -------------------------------------------------------------------------------------------------------------


def _first(row: ParameterRow, modules: dict[str, nn.Module]) -> Route:
    rule, reason = verdict(row, modules)
    return Route(row.name, row.shape, row.role, rule, reason, row.axes)


def _ruled(
    routes: list[Route], rows: Sequence[ParameterRow], group_rules: Mapping[str, GroupRule], rules: Mapping[str, object]
) -> list[Route]:
    for i, row in enumerate(rows):
        if row.name in group_rules:
            routes[i] = _told(routes[i], row, group_rules[row.name], "the rule of its group")
    for pattern, rule in rules.items():
        if rule not in get_args(GroupRule):
            raise unknown_name(f"rule in rules[{pattern!r}]:", rule, get_args(GroupRule))
        for i in _matching(pattern, rows, "rules"):
            routes[i] = _told(routes[i], rows[i], rule, f"rules[{pattern!r}]")  # type: ignore[arg-type]
    return routes


def _told(before: Route, row: ParameterRow, rule: GroupRule, who: str) -> Route:
    if rule == before.rule:
        return before
    if rule == "matrix" and not row.axes.known:
        if len(row.shape) < 2:
            todo = f"its role is {row.role!r}, and only matrices can be orthogonalized; leave it to 'adamw'"
        else:
            todo = (
                "and what its dimensions mean is not known; say so by overrides, such as "
                f"{{{row.name!r}: ('hidden', Axes(batch=(0,), out=(1,), in_=(2,)))}} for a stack of (out, in) matrices"
            )
        raise ValueError(f"{who}: {row.name!r} has shape {row.shape}, {todo}.")
    return replace(before, rule=rule, reason=f"{row.role}: by {who}")


def _group_rules(
    given: Sequence[_Given] | None, rows: Sequence[ParameterRow], tensors: Mapping[str, Tensor]
) -> dict[str, GroupRule]:
    by_id = {m: group.rule for group in given or () if group.rule is not None for m in group.members}
    return {row.name: by_id[id(tensors[row.name])] for row in rows if id(tensors[row.name]) in by_id}


def _settled(route: Route, tensor: Tensor, holders: Mapping[int, int] | None, include_frozen: bool) -> Route:
    if holders is not None and id(tensor) not in holders:
        return replace(route, rule="none", reason="not optimized: in none of the given groups")
    if not tensor.requires_grad and not include_frozen:
        return replace(route, rule="none", reason="frozen: requires_grad is False")
    return route


# -- groups ------------------------------------------------------------------------------------------------------------


def _divided(
    routes: Sequence[Route],
    rows: Sequence[ParameterRow],
    tensors: Mapping[str, Tensor],
    given: Sequence[_Given] | None,
    holders: Mapping[int, int] | None,
    patterns: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[RouteGroup]:
    parts: list[tuple[int, RouteGroup]] = []
    for found, row in zip(routes, rows, strict=True):
        if found.rule == "none":
            continue
        tensor = tensors[found.name]
        index = holders[id(tensor)] if holders is not None else 0
        mine = dict(given[index].options) if given is not None else {}
        for pattern, values in patterns:
            if _matches(pattern, row):
                mine.update(values)
        for i, (number, part) in enumerate(parts):
            if number == index and part.rule == found.rule and _same(part.options, mine):
                parts[i] = (number, replace(part, rows=(*part.rows, found), tensors=(*part.tensors, tensor)))
                break
        else:
            parts.append((index, RouteGroup(found.rule, (found,), (tensor,), mine)))
    return [part for _, part in sorted(parts, key=lambda p: (p[0], p[1].rule != "matrix"))]


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(
        a[k] is b[k] or (not isinstance(a[k], Tensor) and not isinstance(b[k], Tensor) and a[k] == b[k]) for k in a
    )


def _given(groups: object, known: Mapping[int, ParameterRow]) -> tuple[_Given, ...] | None:
    if groups is None:
        return None
    if isinstance(groups, Mapping | str) or not isinstance(groups, Iterable):
        raise TypeError(f"groups must be a list of param groups (dictionaries), got {type(groups).__name__}.")
    found: list[_Given] = []
    holders: dict[int, int] = {}
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"groups[{index}] must be a dictionary with 'params', got {type(group).__name__}.")
        members = tuple(_members(index, group["params"], known))
        for member in members:
            if member in holders:
                raise ValueError(
                    f"groups[{index}] has {known[member].name!r}, which groups[{holders[member]}] has too; "
                    "each parameter belongs to one group."
                )
            holders[member] = index
        own = {name: value for name, value in group.items() if name not in ("params", "param_names", "rule")}
        _check_names(f"groups[{index}]", own)
        rule = group.get("rule")
        if rule is not None and rule not in get_args(GroupRule):
            raise unknown_name(f"rule in groups[{index}]:", rule, get_args(GroupRule))
        found.append(_Given(members, own, rule))
    if not found:
        raise ValueError("groups is empty; pass the groups to divide, or None for one group of all parameters.")
    return tuple(found)


def _members(index: int, params: object, known: Mapping[int, ParameterRow]) -> Iterable[int]:
    if not isinstance(params, Iterable):
        raise TypeError(f"groups[{index}]['params'] must be parameters or pairs, got {type(params).__name__}.")
    for position, item in enumerate([params] if isinstance(params, Tensor) else params):
        tensor = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"groups[{index}]['params'][{position}] must be a parameter or a (name, parameter) pair, "
                f"got {type(item).__name__}."
            )
        if id(tensor) not in known:
            shape = tuple(tensor.shape)
            raise ValueError(
                f"groups[{index}]['params'][{position}] (shape {shape}) is no parameter of the model; pass the model "
                "that has it, or give it to the optimizer by add_param_group."
            )
        yield id(tensor)


# -- patterns ----------------------------------------------------------------------------------------------------------


def _matching(pattern: str, rows: Sequence[ParameterRow], argument: str) -> list[int]:
    hits = [i for i, row in enumerate(rows) if _matches(pattern, row)]
    if not hits:
        raise unknown_name(f"{argument} pattern", pattern, [name for row in rows for name in row.names])
    return hits


def _matches(pattern: str, row: ParameterRow) -> bool:
    return any(fnmatchcase(name, pattern) for name in row.names)


def _checked_options(
    options: Mapping[str, Mapping[str, Any]], rows: Sequence[ParameterRow]
) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(options, Mapping):
        raise TypeError(
            "options must be a mapping of name patterns to options such as {'*.bias': {'weight_decay': 0.0}}, "
            f"got {type(options).__name__}."
        )
    for pattern, values in options.items():
        if not isinstance(values, Mapping):
            raise TypeError(
                f"options[{pattern!r}] must be a mapping of option names to values such as {{'lr': 0.01}}, "
                f"got {type(values).__name__}."
            )
        _check_names(f"options[{pattern!r}]", values)
        _matching(pattern, rows, "options")
    return list(options.items())


def _check_names(where: str, values: Mapping[str, Any]) -> None:
    for name in values:
        if name in _RESERVED:
            hint = "choose rules by rules={pattern: 'matrix' or 'adamw'}" if name == "rule" else "leave it out"
            raise ValueError(f"{where} has the option {name!r}, which route writes into the groups itself; {hint}.")
