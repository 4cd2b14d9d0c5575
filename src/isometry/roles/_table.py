"""Build the parameter table of a model: who uses each parameter, what its axes are, and what part it plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isometry._base import unknown_name
from isometry.roles._attention import attention_role
from isometry.roles._axes import Axes
from isometry.roles._experts import GATE_UP
from isometry.roles._modules import Description, conventional_axes, describe, vector_axes
from isometry.roles._order import call_order
from isometry.roles._rows import MATRIX_ROLES, ROLES, ParameterRow, ParameterTable, Role

__all__ = ["Override", "table"]

Override = Role | Axes | tuple[Role, Axes]
# Old-style reparametrizations by name: what the module really uses -> the names of its pieces.
_PIECES = {"_g": "_v", "_v": "_g", "_orig": None}


_TELLING: tuple[Role, ...] = ("embedding", "output", "input")


@dataclass
class _Use:
    """One occurrence of a parameter in a module; tied parameters have several."""

    name: str
    tensor: Tensor
    owner: str
    module: nn.Module
    tensor_name: str
    parametrized: bool
    description: Description
    position: int


def table(
    model: nn.Module, overrides: Mapping[str, Override] | None = None, *, example: object = None
) -> ParameterTable:
    """Describe every parameter of a model: its axes, its role, its fans, its ties.

    The input and output roles go to the first and the last matrix, in the order of definition, or, with an
    ``example``, in the order in which the modules are called (modules that are not called then get neither). Where
    the first matrix is an embedding or an attention projection it keeps that role and there is no "input"; a model
    with a single matrix has an "output" only. Raw parameters of modules of unknown type are never taken for matrices:
    they are "scale" (vectors), "bias", "norm" or "embedding" by name, else "other", until an override says otherwise.

    Args:
        model: Any module; meta tensors will do.
        overrides: Patterns (as in ``fnmatch``) of parameter names to a role, an ``Axes``, or both as a pair; later
            patterns win. A matrix role given to a parameter of unknown axes makes it (out, in, *kernel).
        example: An input (or a tuple of inputs) for one forward pass, run in eval mode, without a trace on the model.

    Returns:
        The table.

    Raises:
        TypeError: If the model is not a module.
        ValueError: If parameters are not initialized yet, or an override matches nothing or names an unknown role.

    Example:
        >>> from torch import nn
        >>> rows = table(nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)))
        >>> [(row.name, row.role, row.fan_in) for row in rows.matrices]
        [('0.weight', 'input', 8), ('2.weight', 'output', 4)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; build the model first.")
    uses = _uses(model)
    order = None if example is None else call_order(model, example)
    roles = _roles(uses, order)
    groups: dict[int, list[_Use]] = {}
    for use in uses:
        groups.setdefault(id(use.tensor), []).append(use)
    rows = [_row(group, roles) for group in groups.values()]
    return ParameterTable(tuple(_overridden(rows, overrides or {})), order="definition" if order is None else "forward")


def _uses(model: nn.Module) -> list[_Use]:
    named = list(model.named_parameters(remove_duplicate=False))
    lazy = [name for name, tensor in named if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"model has lazy parameters without a shape yet ({', '.join(lazy[:3])}{', ...' if len(lazy) > 3 else ''}); "
            "run the model once on an example input first."
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    uses: list[_Use] = []
    for name, tensor in named:
        owner, tensor_name, parametrized = _owner(name, modules)
        module = modules[owner]
        description = _describe_use(name, tensor, module, tensor_name, parametrized)
        uses.append(_Use(name, tensor, owner, module, tensor_name, parametrized, description, len(uses)))
    layers = {use.owner for use in uses}
    for use in uses:
        _name_attention(use, modules, layers)
    return uses


def _owner(name: str, modules: Mapping[str, nn.Module]) -> tuple[str, str, bool]:
    """Find the module that uses a parameter, and under which attribute.

    Returns:
        The module's name, the attribute, and whether a function of the parameter stands between.
    """
    owner, _, tensor_name = name.rpartition(".")
    parts = name.split(".")
    if len(parts) >= 3 and parts[-3] == "parametrizations" and parts[-1].startswith("original"):
        return ".".join(parts[:-3]), parts[-2], True
    module = modules[owner]
    for suffix, companion in _PIECES.items():
        base = tensor_name.removesuffix(suffix)
        made = tensor_name.endswith(suffix) and base not in module._parameters and hasattr(module, base)
        if made and (companion is None or base + companion in module._parameters):
            return owner, base, True
    return owner, tensor_name, "parametrizations" in parts


def _describe_use(name: str, tensor: Tensor, module: nn.Module, tensor_name: str, parametrized: bool) -> Description:
    piece = name.rpartition(".")[2]
    described = describe(module, tensor_name, tensor)
    if not parametrized or piece == tensor_name:
        return described
    if piece.endswith("_g") or (piece == "original0" and _is_weight_norm(module, tensor_name)):
        return Description("scale", vector_axes(tensor.ndim))
    if piece.startswith("original") and piece != "original" and not _is_weight_norm(module, tensor_name):
        return Description("other", Axes())  # one of several pieces, of a construction that we do not know
    return described if _fits(described.axes, tensor, module) else Description("other", Axes())


def _is_weight_norm(module: nn.Module, tensor_name: str) -> bool:
    pieces = getattr(module, "parametrizations", {})
    return tensor_name in pieces and any(type(p).__name__ == "_WeightNorm" for p in pieces[tensor_name])


def _fits(axes: Axes, tensor: Tensor, module: nn.Module) -> bool:
    """Tell whether an unconstrained tensor has the shape of the weight that is made of it.

    Returns:
        False where dimensions are missing or a linear layer's sizes contradict.
    """
    if max((*axes.out, *axes.in_, *axes.kernel), default=-1) != tensor.ndim - 1:
        return False
    if isinstance(module, nn.Linear) and tensor.ndim == 2:
        return tuple(tensor.shape) == (module.out_features, module.in_features)
    return True


def _name_attention(use: _Use, modules: Mapping[str, nn.Module], layers: set[str]) -> None:
    axes = use.description.axes
    if use.description.role != "hidden" or use.tensor_name != "weight" or len(axes.in_) != 1 or not axes.known:
        return
    if isinstance(modules.get(use.owner.rpartition(".")[0]), nn.MultiheadAttention):
        use.description = Description("attention_out", axes)
        return
    shape = (int(use.tensor.shape[axes.out[0]]), int(use.tensor.shape[axes.in_[0]]))
    found = attention_role(use.owner, shape, layers)
    if found is not None:
        use.description = Description(found.role, replace(axes, blocks=found.blocks))
    elif use.owner.rpartition(".")[2] == "gate_up_proj" and shape[0] % 2 == 0:  # a gate and what it gates, stacked
        use.description = Description("hidden", replace(axes, blocks=GATE_UP))


def _roles(uses: list[_Use], order: Mapping[str, int] | None) -> dict[str, Role]:
    """Settle the roles: the first and last of the matrices that are in use become input and output.

    Returns:
        The role by parameter name.
    """
    roles: dict[str, Role] = {use.name: use.description.role for use in uses}
    # Raw embeddings (learned positions) have no known axes and start no chain.
    chain = [u for u in uses if u.description.role in (*MATRIX_ROLES, "embedding") and u.description.axes.known]
    if order is not None:
        chain = sorted((u for u in chain if u.owner in order), key=lambda u: (order[u.owner], u.position))
    if chain and roles[chain[0].name] == "hidden":
        roles[chain[0].name] = "input"
        roles |= dict.fromkeys(_backwards(chain[0], uses), "input")
    if chain and roles[chain[-1].name] in ("hidden", "input"):
        roles[chain[-1].name] = "output"
    return roles


def _backwards(first: _Use, uses: list[_Use]) -> list[str]:
    # The other direction of a bidirectional layer reads the same inputs.
    return [u.name for u in uses if u.owner == first.owner and u.tensor_name == f"{first.tensor_name}_reverse"]


def _row(group: list[_Use], roles: Mapping[str, Role]) -> ParameterRow:
    # Of a tied parameter's uses, these say most about how it should be treated.
    telling = next((use for role in _TELLING for use in group if roles[use.name] == role), group[0])
    tensor, axes = telling.tensor, telling.description.axes
    shape = tuple(int(n) for n in tensor.shape)
    role = roles[telling.name]
    fan_in, fan_out = _fans(role, axes, shape)
    return ParameterRow(
        name=group[0].name,
        shape=shape,
        role=role,
        axes=axes,
        module_name=telling.owner,
        module_type=type(telling.module).__name__ if not telling.parametrized else _unparametrized(telling.module),
        tensor_name=telling.tensor_name,
        fan_in=fan_in,
        fan_out=fan_out,
        aliases=tuple(use.name for use in group[1:]),
        parametrized=any(use.parametrized for use in group),
        trainable=bool(tensor.requires_grad),
        numel=tensor.numel(),
    )


def _fans(role: Role, axes: Axes, shape: tuple[int, ...]) -> tuple[int, int]:
    if not axes.known:
        return 1, 1  # each unit is reached by one constant (a bias) or by itself (a scale)
    fan_in, fan_out = axes.fans(shape)
    return (1, fan_out) if role == "embedding" else (fan_in, fan_out)  # of a one-hot input one unit is on


def _unparametrized(module: nn.Module) -> str:
    # parametrize replaces the class by a subclass named ParametrizedLinear
    name = type(module).__name__
    base = type(module).__mro__[1].__name__
    return base if name == f"Parametrized{base}" else name


def _overridden(rows: list[ParameterRow], overrides: Mapping[str, Override]) -> list[ParameterRow]:
    for pattern, override in overrides.items():
        role, axes = _parse(pattern, override)
        hits = [i for i, row in enumerate(rows) if any(fnmatchcase(name, pattern) for name in row.names)]
        if not hits:
            raise unknown_name("overrides pattern", pattern, [name for row in rows for name in row.names])
        for i in hits:
            rows[i] = _with(rows[i], role, axes)
    return rows


def _parse(pattern: str, override: object) -> tuple[Role | None, Axes | None]:
    pair = override if isinstance(override, tuple) else (override,)
    role = next((part for part in pair if isinstance(part, str)), None)
    axes = next((part for part in pair if isinstance(part, Axes)), None)
    if len(pair) != (role is not None) + (axes is not None) or not pair:
        raise TypeError(
            f"overrides[{pattern!r}] must be a role, an Axes or a (role, Axes) pair, got {override!r}; "
            f"roles are {', '.join(ROLES)}."
        )
    if role is not None and role not in ROLES:
        raise unknown_name(f"role in overrides[{pattern!r}]:", role, ROLES)
    return role, axes


def _with(row: ParameterRow, role: Role | None, axes: Axes | None) -> ParameterRow:
    role = row.role if role is None else role
    if axes is None:
        axes = row.axes
        if role in MATRIX_ROLES and not axes.known:
            axes = conventional_axes(len(row.shape))
    if role in MATRIX_ROLES and not axes.known:
        raise ValueError(
            f"overrides: {row.name!r} has shape {row.shape}, which is no matrix; give it a role such as 'scale' or "
            "'bias', or a (role, Axes) pair that names its out and in_ dimensions."
        )
    named = (*axes.batch, *axes.out, *axes.in_, *axes.kernel)
    if any(d < 0 or d >= len(row.shape) for d in named) or len(set(named)) < len(named):
        raise ValueError(
            f"overrides: the axes {axes} do not fit {row.name!r} of shape {row.shape}; "
            "name each dimension once, counted from 0."
        )
    fan_in, fan_out = _fans(role, axes, row.shape)
    return replace(row, role=role, axes=axes, fan_in=fan_in, fan_out=fan_out)
