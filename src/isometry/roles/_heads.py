"""Where the heads of an attention block lie in its projections' weights.

A head has a slice of the rows of the query, key and value projections and a slice of the columns of the output
projection. Names say which projections belong together, the block's attributes how many heads there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from isometry.roles._head_layouts import HeadLayout, Ranges, head_layouts, insist_on_parts
from isometry.roles._rows import ParameterRow
from isometry.roles._table import table

__all__ = ["AttentionBlock", "ParameterSlice", "attention_blocks"]

_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads", "nhead", "nheads", "heads", "attention_heads")


@dataclass(frozen=True)
class ParameterSlice:
    """A parameter, or a range of one of its dimensions.

    Attributes:
        name: The parameter's name.
        dim: The dimension that is cut; None for the whole parameter.
        start: First index of the range.
        stop: The index behind its last one.
        inputs: Whether the dimension is the layer's inputs (the columns of a weight) and not its outputs.
    """

    name: str
    dim: int | None = None
    start: int = 0
    stop: int = 0
    inputs: bool = False

    def numbers(self, shape: tuple[int, ...]) -> int:
        """Count the numbers in the slice of a parameter of this shape.

        Returns:
            How many there are.
        """
        total = 1
        for size in shape:
            total *= size
        return total if self.dim is None else total // shape[self.dim] * (self.stop - self.start)

    def __str__(self) -> str:
        if self.dim is None:
            return self.name
        return f"{self.name}[{':, ' * self.dim}{self.start}:{self.stop}]"


@dataclass(frozen=True)
class AttentionBlock:
    """An attention block and its heads.

    Attributes:
        name: What its modules' names begin with.
        heads: How many heads its queries have.
        shared: How many heads its keys and values have; fewer where several heads of queries share them.
        out: The output projection's module.
        columns: For every head, the range of the output projection's inputs.
        layouts: How the rows of the other projections may be divided, the usual way first.
        weights: Projection modules to their weights in the table, the output projection's among them.
        biases: Projection modules to the names of their biases.
        plain: Whether it is torch's own ``MultiheadAttention``, whose layout is known.
    """

    name: str
    heads: int
    shared: int
    out: str
    columns: tuple[tuple[int, int], ...]
    layouts: tuple[HeadLayout, ...]
    weights: dict[str, ParameterRow]
    biases: dict[str, str]
    plain: bool

    def slices(self, layout: HeadLayout) -> dict[str, tuple[ParameterSlice, ...]]:
        """Name the heads, and what belongs to each.

        Args:
            layout: One of ``layouts``.

        Returns:
            "<block>.head.<i>" to slices; where keys and values are shared between heads, they are apart, as
            "<block>.key_value_head.<j>".
        """
        found: dict[str, tuple[ParameterSlice, ...]] = {}
        for i, (queries, columns) in enumerate(zip(layout.queries, self.columns, strict=True)):
            rows = [*self._rows(queries), *(self._rows(layout.keys[i]) if self.shared == self.heads else ())]
            weight = self.weights[self.out]
            rows.append(ParameterSlice(weight.name, weight.axes.in_[0], *columns, inputs=True))
            found[_join(self.name, f"head.{i}")] = tuple(rows)
        if self.shared != self.heads:
            for j, keys in enumerate(layout.keys):
                found[_join(self.name, f"key_value_head.{j}")] = tuple(self._rows(keys))
        return found

    def _rows(self, ranges: dict[str, Ranges]) -> Iterator[ParameterSlice]:
        for module, spans in ranges.items():
            weight, bias = self.weights[module], self.biases.get(module)
            for start, stop in spans:
                yield ParameterSlice(weight.name, weight.axes.out[0], start, stop)
                if bias is not None:
                    yield ParameterSlice(bias, 0, start, stop)


def attention_blocks(model: nn.Module, heads: int | None = None) -> tuple[AttentionBlock, ...]:
    """Find the attention blocks of a model, with the slices of weights that belong to each head.

    Args:
        model: The model.
        heads: Heads of queries in each block; default: what the blocks' attributes or configurations say.

    Returns:
        The blocks, in the model's order; none where no layer's name is that of an attention projection.

    Raises:
        ValueError: If a block's number of heads is not known or does not fit its shapes, if a projection is missing, or
            if a weight is not a plain matrix.
    """
    if heads is not None and (isinstance(heads, bool) or not isinstance(heads, int) or heads < 1):
        raise ValueError(f"heads must be a whole number >= 1, got {heads!r}.")
    families: dict[str, list[ParameterRow]] = {}
    outs: dict[str, ParameterRow] = {}
    for row in table(model).rows:
        if row.role == "attention_out":
            outs[row.module_name] = row
        elif row.role.startswith("attention_"):
            own = row.tensor_name != "weight"  # torch's MultiheadAttention holds its projections itself
            parent = row.module_name if own else row.module_name.rpartition(".")[0]
            families.setdefault(parent, []).append(row)
    return tuple(_block(model, parent, rows, outs, heads) for parent, rows in families.items())


def _block(
    model: nn.Module, parent: str, rows: list[ParameterRow], outs: dict[str, ParameterRow], heads: int | None
) -> AttentionBlock:
    out = _out_of(parent, outs)
    for row in (*rows, out):
        if len(row.shape) != 2 or row.parametrized:
            what = "parametrized" if row.parametrized else f"of shape {row.shape}"
            raise ValueError(
                f"by='head': {row.name!r} is {what}, and heads are told apart in plain matrices only; name groups by "
                "patterns instead."
            )
    name = _common(parent, out.module_name)
    heads = _count(model, parent) if heads is None else heads
    inside = out.shape[out.axes.in_[0]]
    insist_on_parts(inside, heads, out.name, name)
    width = inside // heads
    columns = tuple((i * width, (i + 1) * width) for i in range(heads))
    keyed = {_key(row): row for row in rows}
    shared, layouts = head_layouts(keyed, heads, width, name)
    modules, names = dict(model.named_modules()), {id(p): n for n, p in model.named_parameters()}
    biases = {}
    for key, row in keyed.items():
        holder = modules[row.module_name]
        bias = holder._parameters.get("bias" if row.tensor_name == "weight" else "in_proj_bias")
        if bias is not None and bias.numel() == row.shape[row.axes.out[0]]:
            biases[key] = names[id(bias)]
    plain = isinstance(modules[parent], nn.MultiheadAttention) and all(r.tensor_name != "weight" for r in rows)
    return AttentionBlock(
        name, heads, shared, out.module_name, columns, layouts, {**keyed, out.module_name: out}, biases, plain
    )


def _key(row: ParameterRow) -> str:
    return row.module_name if row.tensor_name == "weight" else row.name


def _out_of(parent: str, outs: dict[str, ParameterRow]) -> ParameterRow:
    """Find the output projection that stands nearest to a block's queries.

    Returns:
        Its weight's row.

    Raises:
        ValueError: If there is none.
    """
    parts = parent.split(".")
    # BERT keeps the output beside the block of queries: attention.self.query and attention.output.dense.
    near = {name: row for name, row in outs.items() if len(_shared_parts(parent, name)) >= len(parts) - 1}
    if parent == "" or not near:
        near = {name: row for name, row in outs.items() if not parent or name.startswith(f"{parent}.")}
    if not near:
        raise ValueError(
            f"by='head': no output projection is recognised beside the queries of {parent!r}, so the size of a head is "
            "unknown; name groups by patterns instead."
        )
    return near[max(near, key=lambda name: len(_shared_parts(parent, name)))]


def _shared_parts(one: str, other: str) -> list[str]:
    shared = []
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        shared.append(a)
    return shared


def _common(one: str, other: str) -> str:
    return ".".join(_shared_parts(one, other))


def _count(model: nn.Module, parent: str) -> int:
    """Read the number of heads off the block, or the nearest module around it that says one.

    Returns:
        The number.

    Raises:
        ValueError: If none says it.
    """
    modules = dict(model.named_modules())
    parts = parent.split(".") if parent else []
    for length in range(len(parts), -1, -1):
        module = modules[".".join(parts[:length])]
        for holder in (module, getattr(module, "config", None)):
            for attribute in _HEADS:
                value = getattr(holder, attribute, None)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    raise ValueError(
        f"by='head': {parent!r} does not say how many heads it has (looked for {', '.join(_HEADS)} on it and around "
        "it); pass heads=."
    )


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child
