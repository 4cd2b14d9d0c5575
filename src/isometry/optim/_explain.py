"""Say how far an optimizer's next step moves each kind of parameter: spectral norm and root mean square, with the rate.

Learning rates of different optimizers, and of different scales of one, are different units. Two optimizers whose
steps have the same two numbers for the same parameters move them equally far.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry._base import Result
from isometry.optim._base import Optimizer
from isometry.optim._elementwise import ElementwiseAdam, ElementwiseSGD
from isometry.optim._matrix import MatrixRule
from isometry.optim._rule import Rule
from isometry.optim._update_scale import orthogonalized_size
from isometry.optim._update_size import UNBOUNDED, UpdateSize, adamw_size
from isometry.roles._verdicts import matrix_sizes

__all__ = ["StepRow", "StepTable", "explain"]


@dataclass(frozen=True)
class StepRow(Result):
    """The step of the parameters of one group that have matrices of one size, or that have no matrices.

    Attributes:
        group: The number of the param group.
        rule: The method's name, ``"adamw"`` or ``"sgd"``.
        shape: ``(out, in)`` of a matrix; None where parameters move entry by entry.
        parameters: How many parameters.
        matrices: How many matrices they hold; 0 where ``shape`` is None.
        numel: How many numbers.
        lr: The group's learning rate.
        factor: The factor c of the method's ``scale``; None where it has none.
        spectral_norm: Of a matrix's step, the learning rate included; None where it is not bounded.
        rms: Root mean square of the entries of the step, the learning rate included; None where it is not bounded.
        weight_decay: The group's; a step shrinks the weights by lr times it where it is decoupled.
        holds: When the sizes are these.
    """

    group: int
    rule: str
    shape: tuple[int, int] | None
    parameters: int
    matrices: int
    numel: int
    lr: float
    factor: float | None
    spectral_norm: float | None
    rms: float | None
    weight_decay: float
    holds: str


@dataclass(frozen=True)
class StepTable(Result):
    """How far an optimizer's next step moves each kind of parameter; see ``explain``.

    Attributes:
        optimizer: The optimizer's class.
        rows: The rows, by group.
    """

    optimizer: str
    rows: tuple[StepRow, ...]

    def __iter__(self) -> Iterator[StepRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        Console(file=stream, width=400, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        caption = f"{self.optimizer}: sizes are those of one step, the learning rate included, weight decay apart"
        table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
        for head in (
            "group",
            "rule",
            "moves",
            "numbers",
            "lr",
            "scale",
            "spectral norm",
            "element RMS",
            "weight decay",
        ):
            table.add_column(head, justify="left" if head in ("rule", "moves") else "right", overflow="fold")
        table.add_column("holds for", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in _cells(row)))
        return table


def explain(optimizer: torch.optim.Optimizer) -> StepTable:
    """Tell how far an optimizer's next step moves each kind of parameter.

    For every group, and every size of matrix in it: the learning rate, the factor of the method's ``scale``, and the
    spectral norm and the root mean square of the entries of the step. What depends on the size of the gradient (SGD,
    for one) is "not bounded". AdamW's root mean square is a typical one, see ``isometry.optim.scale_factor``.

    Args:
        optimizer: One of ``isometry.optim``, or ``torch.optim.Muon``, ``Adam``, ``AdamW``; of others nothing is stated.

    Returns:
        The table; print it.

    Raises:
        TypeError: If it is no optimizer.

    Example:
        >>> from isometry.optim import Muon
        >>> weights = [torch.nn.Parameter(torch.zeros(400, 100)) for _ in range(3)]
        >>> (row,) = explain(Muon(weights, lr=0.1, scale="match_rms_adamw"))
        >>> (row.shape, row.matrices, row.spectral_norm, round(row.rms, 12))
        ((400, 100), 3, 0.4, 0.02)
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    rows: list[StepRow] = []
    for index, group in enumerate(optimizer.param_groups):
        found: dict[tuple[str, tuple[int, int] | None, UpdateSize | None], list[tuple[int, int]]] = {}
        for parameter in group["params"]:
            rule, shape, count, size = _look(optimizer, parameter, group)
            found.setdefault((rule, shape, size), []).append((count, parameter.numel()))
        rows += [_row(index, group, *key, counted) for key, counted in found.items()]
    return StepTable(type(optimizer).__name__, tuple(rows))


def _look(
    optimizer: torch.optim.Optimizer, parameter: Tensor, group: dict[str, Any]
) -> tuple[str, tuple[int, int] | None, int, UpdateSize | None]:
    """Look at one parameter.

    Returns:
        The rule's name, the size of a matrix, the number of matrices, the size of the update.
    """
    if not parameter.numel():
        return "no entries", None, 0, None
    if isinstance(optimizer, Optimizer):
        rule, _ = optimizer._rule(parameter, group)
        if not isinstance(rule, MatrixRule):
            size = rule.update_size(tuple(parameter.shape), group)
            return _title(rule, optimizer), None, 0, size
        shape = tuple(parameter.shape)
        # A method that takes vectors, too, takes them as matrices of one row.
        count, out, in_ = matrix_sizes(rule.axes, shape) if rule.axes.known else (1, 1, parameter.numel())
        return type(optimizer).__name__, (out, in_), count, rule.update_size((out, in_), group)
    if isinstance(optimizer, torch.optim.Muon):
        out, in_ = parameter.shape
        # "original" is what torch takes for None.
        return "Muon", (out, in_), 1, orthogonalized_size(group["adjust_lr_fn"] or "original", out, in_)
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return type(optimizer).__name__.lower(), None, 0, adamw_size()
    name = type(optimizer).__name__.lower()
    return name, None, 0, UNBOUNDED if isinstance(optimizer, torch.optim.SGD) else None


def _title(rule: Rule, optimizer: Optimizer) -> str:
    if isinstance(rule, ElementwiseAdam):
        return "adamw"
    return "sgd" if isinstance(rule, ElementwiseSGD) else type(optimizer).__name__


def _row(
    index: int,
    group: Mapping[str, Any],
    rule: str,
    shape: tuple[int, int] | None,
    size: UpdateSize | None,
    counted: list[tuple[int, int]],
) -> StepRow:
    lr = float(group["lr"])
    size = size or UpdateSize(holds="not stated by this method")
    return StepRow(
        group=index,
        rule=rule,
        shape=shape,
        parameters=len(counted),
        matrices=sum(count for count, _ in counted),
        numel=sum(numel for _, numel in counted),
        lr=lr,
        factor=size.factor,
        spectral_norm=None if size.spectral_norm is None else lr * size.spectral_norm,
        rms=None if size.rms is None else lr * size.rms,
        weight_decay=float(group.get("weight_decay", 0.0)),
        holds=size.holds,
    )


def _cells(row: StepRow) -> tuple[str, ...]:
    if row.shape is None:
        moves = f"{row.parameters} parameters" if row.parameters > 1 else "1 parameter"
    else:
        moves = f"{row.matrices} of {row.shape[0]} x {row.shape[1]}"
    numbers = (row.lr, row.factor, row.spectral_norm, row.rms, row.weight_decay)
    lr, factor, spectral, rms, decay = ("-" if value is None else f"{value:.3g}" for value in numbers)
    return str(row.group), row.rule, moves, f"{row.numel:,}", lr, factor, spectral, rms, decay, row.holds
