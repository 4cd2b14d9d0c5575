"""The routing table of a model: which rule moves each parameter, and why; and the param groups that say so."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from isometry._base import Result, unknown_name
from isometry.roles._axes import Axes
from isometry.roles._rows import Role
from isometry.roles._verdicts import matrix_sizes

__all__ = ["Route", "RouteGroup", "Routing"]


@dataclass(frozen=True)
class Route(Result):
    """How one parameter is moved.

    Attributes:
        name: Its name in ``model.named_parameters()``.
        shape: Its shape.
        role: What it does in the model.
        rule: ``"matrix"``, ``"adamw"``, or ``"none"`` for a parameter that is in no group.
        reason: Why.
        axes: Where its matrices are.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    rule: Literal["matrix", "adamw", "none"]
    reason: str
    axes: Axes

    @property
    def matrices(self) -> tuple[int, int, int] | None:
        """How many matrices it holds, their rows and columns; None where the method for matrices does not move it."""
        return matrix_sizes(self.axes, self.shape) if self.rule == "matrix" else None

    def to_dict(self) -> dict[str, Any]:
        """Write the row as plain data, as groups and checkpoints have it.

        Returns:
            Lists, numbers and strings by name; ``Axes.from_dict`` reads the axes.
        """
        axes = self.axes.to_dict() if self.axes.known else None
        return {
            "name": self.name,
            "shape": list(self.shape),
            "role": self.role,
            "rule": self.rule,
            "reason": self.reason,
            "axes": axes,
        }


@dataclass(frozen=True)
class RouteGroup:
    """Parameters of one rule with the same options.

    Attributes:
        rule: The rule.
        rows: Their rows.
        tensors: They themselves.
        options: Options of their group, by name.
    """

    rule: Literal["matrix", "adamw"]
    rows: tuple[Route, ...]
    tensors: tuple[Tensor, ...]
    options: Mapping[str, Any]

    def to_group(self) -> dict[str, Any]:
        """Make a param group for an optimizer.

        Returns:
            A new dictionary.
        """
        params = [(row.name, tensor) for row, tensor in zip(self.rows, self.tensors, strict=True)]
        return {
            "params": params,
            "rule": self.rule,
            "routes": [row.to_dict() for row in self.rows],
            **self.options,
        }


@dataclass(frozen=True)
class Routing(Result):
    """Which rule moves each parameter of a model, and why.

    Iterating gives param groups, so an optimizer of ``isometry.optim`` for hidden matrices takes it as its parameters:
    ``Muon(route(model), lr=0.02)``. The groups have the rows with them under ``"routes"``, as plain data, which
    ``state_dict`` saves; an optimizer that loads another routing's state refuses it.

    Attributes:
        rows: A row per parameter, each once, in the order of ``named_parameters()``.
    """

    rows: tuple[Route, ...]
    _groups: tuple[RouteGroup, ...] = field(default=(), repr=False, compare=False)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._groups:
            why = "; ".join(f"{row.name!r}: {row.reason}" for row in self.rows[:5]) or "it has none"
            raise ValueError(f"there is nothing to optimize: no parameter of the model is in a group ({why}).")
        return iter([group.to_group() for group in self._groups])

    def __getitem__(self, name: str) -> Route:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(str(unknown_name("parameter", name, [row.name for row in self.rows])))

    def by_rule(self, rule: Literal["matrix", "adamw", "none"]) -> tuple[Route, ...]:
        """Select the rows of a rule.

        Args:
            rule: ``"matrix"``, ``"adamw"`` or ``"none"``.

        Returns:
            The rows, in order.

        Raises:
            ValueError: If there is no such rule.
        """  # noqa: DOC501
        if rule not in ("matrix", "adamw", "none"):
            raise unknown_name("rule", rule, ("matrix", "adamw", "none"))
        return tuple(row for row in self.rows if row.rule == rule)

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        # As wide as the content asks for: a name or a reason cut in half is of no use.
        Console(file=stream, width=400, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, caption=self._caption(), caption_justify="left")
        for head in ("parameter", "shape", "role", "rule", "reason"):
            table.add_column(head, overflow="fold")
        for row in self.rows:
            shape = " x ".join(map(str, row.shape)) or "scalar"
            table.add_row(*(Text(cell) for cell in (row.name, shape, row.role, row.rule, row.reason)))
        return table

    def _caption(self) -> str:
        counts = {rule: len(self.by_rule(rule)) for rule in ("matrix", "adamw", "none")}
        told = [f"{count} by {rule}" for rule, count in counts.items() if rule != "none"]
        told += [f"{counts['none']} in no group"] if counts["none"] else []
        count = len(self._groups)
        return f"{len(self.rows)} parameters: {', '.join(told)}; {count} {'group' if count == 1 else 'groups'}"
