"""What constraining a model did, and how far its constrained weights are from their manifolds."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from isometry._base import Result, unknown_name

__all__ = ["ConstraintRow", "ConstraintTable", "DefectRow", "DefectTable"]


@dataclass(frozen=True)
class ConstraintRow(Result):
    """What ``constrain_`` did to one parameter.

    Attributes:
        name: The parameter's name.
        role: Its role in the parameter table.
        shape: Its shape.
        action: ``"constrained"``, ``"left"`` (on purpose) or ``"skipped"`` (it could not be done); ``why`` tells.
        matrices: Number and size of the matrices that it was seen as, (k, n, p), upright; None if not constrained.
        manifold: The manifold's name; "" if not constrained.
        scale: The factor s of W = s Q; None if not constrained.
        scale_kind: ``"fixed"`` or ``"learned"``; "" if not constrained.
        before: Frobenius norm of the defect of W / s as it was; None if not constrained.
        after: The same after the projection.
        why: The reason, in words.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    action: Literal["constrained", "left", "skipped"]
    matrices: tuple[int, int, int] | None = None
    manifold: str = ""
    scale: float | None = None
    scale_kind: str = ""
    before: float | None = None
    after: float | None = None
    why: str = ""


@dataclass(frozen=True)
class ConstraintTable(Result):
    """What ``constrain_`` did to a model: one row per parameter, tied ones once; nothing is left out."""

    rows: tuple[ConstraintRow, ...]

    def __getitem__(self, name: str) -> ConstraintRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(str(unknown_name("parameter", name, [row.name for row in self.rows])))

    def __iter__(self) -> Iterator[ConstraintRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def constrained(self) -> tuple[ConstraintRow, ...]:
        """The rows of the parameters that are now on a manifold."""
        return tuple(row for row in self.rows if row.action == "constrained")

    @property
    def summary(self) -> str:
        """One sentence on what was done."""
        done = self.constrained
        names = ", ".join(dict.fromkeys(row.manifold for row in done))
        return f"{len(done)} of {len(self.rows)} parameters constrained: {names}"

    def __str__(self) -> str:
        return _printed(self)

    def __rich__(self) -> object:
        heads = ("parameter", "role", "shape", "action", "matrices", "manifold", "scale", "before", "after", "why")
        cells = (
            (
                row.name,
                row.role,
                _by(row.shape),
                row.action,
                _by(row.matrices or ()),
                row.manifold,
                f"{_number(row.scale)} {row.scale_kind}".strip(),
                _number(row.before),
                _number(row.after),
                row.why,
            )
            for row in self.rows
        )
        return _table(self.summary, heads, cells)


@dataclass(frozen=True)
class DefectRow(Result):
    """How far one constrained weight is from its manifold.

    Attributes:
        name: The parameter's name.
        manifold: The manifold's name.
        shape: The parameter's shape.
        dtype: The dtype in which it is stored.
        scale: The factor s of W = s Q that is in force.
        measured_scale: ``|W|_F / |Q|_F``: differs from ``scale`` where a weight of another scale was loaded.
        max_abs: Largest entry of the defect of W / s; see ``Defect``. None where it could not be measured.
        frobenius: Its Frobenius norm, the largest over the weight's matrices.
        tolerance: What ``ok`` asks for: at most this, which rounding to ``dtype`` explains.
        ok: Whether the weight is on its manifold.
        note: What else there is to say.
    """

    name: str
    manifold: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    scale: float | None
    measured_scale: float | None
    max_abs: float | None
    frobenius: float | None
    tolerance: float | None
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class DefectTable(Result):
    """How far a model's constrained weights are from their manifolds, one row each."""

    rows: tuple[DefectRow, ...]

    def __getitem__(self, name: str) -> DefectRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(str(unknown_name("constrained parameter", name, [row.name for row in self.rows])))

    def __iter__(self) -> Iterator[DefectRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ok(self) -> bool:
        """Whether all are on their manifolds, to the rounding of their dtypes."""
        return all(row.ok for row in self.rows)

    @property
    def summary(self) -> str:
        """One sentence on the state of the model."""
        off = sum(1 for row in self.rows if not row.ok)
        if not self.rows:
            return "no parameter is constrained"
        return f"{len(self.rows)} constrained parameters, " + (f"{off} OFF their manifold" if off else "all on it")

    def __str__(self) -> str:
        return _printed(self)

    def __rich__(self) -> object:
        heads = ("parameter", "manifold", "shape", "dtype", "scale", "defect", "allowed", "state", "note")
        cells = (
            (
                row.name,
                row.manifold,
                _by(row.shape),
                str(row.dtype or "").removeprefix("torch."),
                _number(row.scale),
                _number(row.frobenius),
                _number(row.tolerance),
                "ok" if row.ok else "OFF",
                row.note,
            )
            for row in self.rows
        )
        return _table(self.summary, heads, cells)


def _printed(result: object) -> str:
    from rich.console import Console  # only printing needs it

    stream = io.StringIO()
    # As wide as the content asks for: a name cut in half is of no use.
    Console(file=stream, width=400, color_system=None, emoji=False, markup=False).print(result)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
