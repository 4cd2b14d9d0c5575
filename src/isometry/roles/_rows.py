"""Rows of the parameter table, and the table itself."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from isometry._base import Result, unknown_name
from isometry.roles._axes import Axes

__all__ = ["MATRIX_ROLES", "ROLES", "ParameterRow", "ParameterTable", "Role"]

Role = Literal[
    "input",
    "hidden",
    "output",
    "recurrent",
    "attention_q",
    "attention_k",
    "attention_v",
    "attention_qkv",
    "attention_out",
    "embedding",
    "norm",
    "bias",
    "scale",
    "other",
]
ROLES: tuple[Role, ...] = get_args(Role)
MATRIX_ROLES: tuple[Role, ...] = ROLES[:9]


@dataclass(frozen=True)
class ParameterRow(Result):
    """One parameter of a model.

    Attributes:
        name: Its name in ``model.named_parameters()``.
        shape: Its shape.
        role: What it does in the model; one of ``ROLES``.
        axes: What its dimensions are.
        module_name: Qualified name of the module that uses it (for a parametrized weight the layer, not the
            parametrization); "" for the model itself.
        module_type: Class name of that module.
        tensor_name: The attribute of that module that it is, or makes ("weight" for a parametrized weight).
        fan_in: Inputs that reach one output unit, kernel taps included; groups and stacked blocks counted apart.
        fan_out: Output units that one input unit reaches.
        aliases: The other names of a tied parameter.
        parametrized: Whether the module uses a function of it instead of itself (weight norm, ``parametrize``, ...).
        trainable: Its ``requires_grad``.
        numel: Number of elements.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    axes: Axes
    module_name: str
    module_type: str
    tensor_name: str
    fan_in: int
    fan_out: int
    aliases: tuple[str, ...] = ()
    parametrized: bool = False
    trainable: bool = True
    numel: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which the parameter can be asked for."""
        effective = f"{self.module_name}.{self.tensor_name}" if self.module_name else self.tensor_name
        return tuple(dict.fromkeys((self.name, *self.aliases, effective)))


@dataclass(frozen=True)
class ParameterTable(Result):
    """The parameters of a model, each once, in the order of ``named_parameters()``.

    Attributes:
        rows: The rows.
        order: ``"definition"`` or ``"forward"``: what decided which matrix is first and last.
    """

    rows: tuple[ParameterRow, ...]
    order: Literal["definition", "forward"] = "definition"

    def __iter__(self) -> Iterator[ParameterRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return any(name in row.names for row in self.rows)

    def __getitem__(self, name: str) -> ParameterRow:
        for row in self.rows:
            if name in row.names:
                return row
        raise KeyError(str(unknown_name("parameter", name, [n for row in self.rows for n in row.names])))

    def by_role(self, *roles: Role) -> tuple[ParameterRow, ...]:
        """Select the rows of some roles.

        Args:
            *roles: One or more of ``ROLES``.

        Returns:
            The rows, in order.

        Raises:
            ValueError: If a role does not exist.
        """  # noqa: DOC501
        for role in roles:
            if role not in ROLES:
                raise unknown_name("role", role, ROLES)
        return tuple(row for row in self.rows if row.role in roles)

    @property
    def matrices(self) -> tuple[ParameterRow, ...]:
        """The rows that are matrices between layers of units: input, hidden, output, recurrent, attention."""
        return self.by_role(*MATRIX_ROLES)

    @property
    def numel(self) -> int:
        """Number of elements of all parameters; tied ones count once."""
        return sum(row.numel for row in self.rows)

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        # As wide as the content asks for: a name cut in half is of no use.
        Console(file=stream, width=400, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        tied = sum(1 for row in self.rows if row.aliases)
        caption = f"{len(self)} parameters, {self.numel:,} numbers"
        caption += f", {tied} tied" if tied else ""
        table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
        for head, justify in (("parameter", "left"), ("shape", "left"), ("axes", "left"), ("role", "left")):
            table.add_column(head, justify=justify, overflow="fold")  # type: ignore[arg-type]
        table.add_column("fan in", justify="right")
        table.add_column("fan out", justify="right")
        table.add_column("notes", overflow="fold")
        for row in self.rows:
            shape = " x ".join(map(str, row.shape)) or "scalar"
            cells = (row.name, shape, str(row.axes), row.role, str(row.fan_in), str(row.fan_out), _notes(row))
            table.add_row(*(Text(cell) for cell in cells))
        return table


def _notes(row: ParameterRow) -> str:
    notes = []
    if row.axes.blocks:
        notes.append("blocks " + ", ".join(row.axes.blocks))
    if row.axes.groups > 1:
        notes.append(f"{row.axes.groups} groups")
    if row.aliases:
        notes.append("tied to " + ", ".join(row.aliases))
    if row.parametrized:
        notes.append(f"parametrizes {row.tensor_name}")
    if not row.trainable:
        notes.append("frozen")
    return "; ".join(notes)
