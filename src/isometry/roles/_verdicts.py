"""By which rule an optimizer for hidden matrices should move a parameter, and why."""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import nn

from isometry.roles._axes import Axes
from isometry.roles._experts import is_router
from isometry.roles._rows import ParameterRow, Role

__all__ = ["GroupRule", "matrix_sizes", "verdict"]

GroupRule = Literal["matrix", "adamw"]

_MATRICES: dict[Role, str] = {
    "hidden": "between layers of units",
    "recurrent": "from units to the same units, a step later",
    "attention_q": "makes queries of units",
    "attention_k": "makes keys of units",
    "attention_v": "makes values of units",
    "attention_qkv": "makes queries, keys and values of units",
    "attention_out": "from the heads back to units",
}
_OTHERS: dict[Role, str] = {
    "input": "its inputs are the data's own features, not units of a layer",
    "output": "its outputs are the answers themselves (classes, tokens), not units of a layer",
    "embedding": "rows are looked up, not multiplied",
    "norm": "acts entry by entry",
    "bias": "is added, entry by entry",
    "scale": "acts entry by entry",
}
# The factors of low-rank adapters, as peft, diffusers and loralib name them.
_LOW_RANK = re.compile(r"(^|[._])(lora_(a|b|down|up|embedding_a|embedding_b|magnitude_vector))($|[._])", re.IGNORECASE)


def verdict(row: ParameterRow, modules: dict[str, nn.Module]) -> tuple[GroupRule, str]:
    """Choose a parameter's rule by its role; the number of its dimensions decides nothing.

    Args:
        row: The parameter's row of the table.
        modules: The model's modules by name.

    Returns:
        The rule and the reason, in words that a table can show.
    """
    if 0 in row.shape:
        return "adamw", f"{row.role}: has no entries"
    exception = _exception(row, modules)
    if exception is not None:
        return "adamw", exception
    if row.role not in _MATRICES:
        ties = f"; tied to {', '.join(row.aliases)}" if row.aliases and row.role in ("embedding", "output") else ""
        return "adamw", f"{row.role}: {_OTHERS[row.role]}{ties}"
    return "matrix", f"{row.role}: {_MATRICES[row.role]}{_division(row)}"


def matrix_sizes(axes: Axes, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Count a parameter's matrices and measure them.

    Args:
        axes: Its axes, which must be known.
        shape: Its shape.

    Returns:
        How many matrices it holds, their rows, their columns.
    """
    count, rows, columns = axes.matrices(torch.empty(shape, device="meta")).shape
    return int(count), int(rows), int(columns)


def _exception(row: ParameterRow, modules: dict[str, nn.Module]) -> str | None:
    """Give what speaks against taking a parameter for a hidden matrix, whatever its role.

    Returns:
        The reason; None if nothing does.
    """
    if row.role not in _MATRICES and row.role != "other":
        return None
    if any(_LOW_RANK.search(name) for name in row.names):
        return "low-rank factor: the layer moves by the product of two factors, and neither is its matrix"
    parent = modules.get(row.module_name.rpartition(".")[0])
    siblings = dict(parent.named_children()) if parent is not None else {}
    if row.role in ("hidden", "other") and is_router(modules.get(row.module_name), row.module_name, siblings):
        return "router: its outputs choose between experts, as a head's choose between classes"
    if row.role == "other" or not row.axes.known:
        return _unknown(row)
    if row.parametrized:
        return f"parametrized: the layer uses a function of it as {row.tensor_name}, not the matrix itself"
    count, rows, columns = matrix_sizes(row.axes, row.shape)
    if min(rows, columns) == 1:
        many = f"{count} matrices of {rows} x {columns}" if count > 1 else f"a matrix of {rows} x {columns}"
        kind = "depthwise" if count > 1 and row.axes.kernel and row.axes.groups > 1 else "vector"
        return f"{kind}: {many}, which orthogonalization would only normalize"
    return None


def _unknown(row: ParameterRow) -> str:
    if len(row.shape) < 2:
        return "other: is no matrix"
    given = "batch=(0,), out=(1,), in_=(2,)" if len(row.shape) == 3 else "out=(0,), in_=(1,)"
    known = " of unknown use" if row.axes.known else ", whose dimensions nothing explains"
    say = f"overrides={{{row.name!r}: ('hidden', Axes({given}))}}"
    return f"other: a raw parameter{known}; if it holds matrices, say so: {say}"


def _division(row: ParameterRow) -> str:
    count, rows, columns = matrix_sizes(row.axes, row.shape)
    parts = []
    if row.axes.blocks and row.module_name.endswith("query_key_value"):  # a head's query, key and value, head by head
        parts.append(f"{len(row.axes.blocks)} blocks of heads")
    elif row.axes.blocks:
        parts.append(f"blocks {', '.join(row.axes.blocks)}")
    elif row.role == "attention_qkv":
        parts.append("as one matrix, since where its blocks lie is not known")
    if row.axes.batch:
        parts.append(f"a stack of {count // max(1, len(row.axes.blocks))}")
    if row.axes.groups > 1:
        parts.append(f"{row.axes.groups} groups")
    if row.axes.kernel or len(row.axes.in_) > 1:
        parts.append(f"as {rows} x {columns}")
    return f"; {', '.join(parts)}" if parts else ""
