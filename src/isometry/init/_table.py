"""What a model-wide initialization did: one row per parameter, and what it then measured."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import Literal

from isometry._base import Cost, Result
from isometry.init._operating_point import OperatingPoint

__all__ = ["Action", "InitRow", "InitTable", "LayerCheck"]

Action = Literal["set", "scaled", "kept", "skipped"]


@dataclass(frozen=True)
class InitRow(Result):
    """What was done to one parameter.

    Attributes:
        name: The parameter's name.
        role: Its role in the parameter table.
        action: "set" (overwritten), "scaled" (overwritten, then rescaled to what was measured on the data), "kept"
            (left alone on purpose) or "skipped" (could not or should not be touched); ``why`` tells.
        scheme: "orthogonal", "delta-orthogonal", "gaussian", "constant", "zero", or "-".
        sigma_w: The factor sigma_w of a weight (its gain where the layer does not widen); None for others.
        sigma_b: Standard deviation of a bias's random part; None for others.
        why: The reason, in words.
    """

    name: str
    role: str
    action: Action
    scheme: str = "-"
    sigma_w: float | None = None
    sigma_b: float | None = None
    why: str = ""


@dataclass(frozen=True)
class LayerCheck(Result):
    """A layer's output on the data after the initialization.

    Attributes:
        name: The layer.
        q: Measured mean square of its output about ``shift``.
        target: What q should be; None where nothing was aimed at.
        shift: The mean that the biases were to give the output.
    """

    name: str
    q: float
    target: float | None
    shift: float = 0.0


@dataclass(frozen=True)
class InitTable(Result):
    """What ``critical_`` did to a model.

    Attributes:
        rows: One row per parameter, tied ones once; nothing is left out.
        method: "analytic" or "data".
        weights: "orthogonal" or "gaussian".
        operating_point: The operating point of the hidden layers (that of the first activation if there are several);
            None where no activation was recognised.
        input_scale: The factor that the inputs must *still* be multiplied with; None when nothing is left to do.
        absorbed_scale: The factor on the inputs that the first layer has absorbed; None when there is none.
        checks: Each layer's measured second moment on the data; empty without data.
        residual: Largest |log(q / target)| over the layers that have a target; None without data.
        converged: Whether every such layer is within a factor 1.5 of its target, and all values are finite; None
            without data.
        notes: Remarks on the model as a whole.
        seed: The seed from which each parameter's stream was derived.
        cost: What it took.
    """

    rows: tuple[InitRow, ...]
    method: Literal["analytic", "data"]
    weights: str
    operating_point: OperatingPoint | None
    input_scale: float | None = None
    absorbed_scale: float | None = None
    checks: tuple[LayerCheck, ...] = ()
    residual: float | None = None
    converged: bool | None = None
    notes: tuple[str, ...] = ()
    seed: int = 0
    cost: Cost = field(default_factory=Cost)

    def __getitem__(self, name: str) -> InitRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def by_action(self, *actions: Action) -> tuple[InitRow, ...]:
        """Select the rows of some actions.

        Args:
            *actions: "set", "scaled", "kept", "skipped".

        Returns:
            The rows, in order.
        """
        return tuple(row for row in self.rows if row.action in actions)

    @property
    def q_star(self) -> float | None:
        """Variance of the hidden pre-activations that was aimed at."""
        return None if self.operating_point is None else self.operating_point.q_star

    @property
    def sigma_w(self) -> float | None:
        """sigma_w of the hidden layers."""
        return None if self.operating_point is None else self.operating_point.sigma_w

    @property
    def sigma_b(self) -> float | None:
        """sigma_b of the hidden layers."""
        return None if self.operating_point is None else self.operating_point.sigma_b

    @property
    def summary(self) -> str:
        """One sentence on what was done."""
        if not self.by_action("set", "scaled"):
            return "nothing was written; the table says of each parameter why"
        point = self.operating_point
        text = f"{self.weights} weights, {'by theory' if self.method == 'analytic' else 'calibrated on data'}"
        if point is not None:
            text += f", {point.activation}: q* = {point.q_star:.4g}"
            if self.method == "analytic":
                text += f", sigma_w = {point.sigma_w:.4g}, sigma_b = {point.sigma_b:.3g}"
            if point.shift:
                text += f", pre-activations shifted to {point.shift:.3g}"
        return text

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        Console(file=stream, width=400, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, title=self.summary, title_justify="left", caption=self._caption())
        table.caption_justify = "left"
        for head in ("parameter", "role", "action", "scheme"):
            table.add_column(head, overflow="fold")
        table.add_column("sigma_w", justify="right")
        table.add_column("sigma_b", justify="right")
        table.add_column("why", overflow="fold")
        for row in self.rows:
            cells = (row.name, row.role, row.action, row.scheme, _number(row.sigma_w), _number(row.sigma_b), row.why)
            table.add_row(*(Text(cell) for cell in cells))
        return table

    def _caption(self) -> str:
        lines = list(self.notes)
        if self.input_scale is not None:
            lines.append(f"multiply the inputs by {self.input_scale:.4g}")
        if self.residual is not None:
            verdict = "all layers on target" if self.converged else "NOT all layers on target"
            lines.append(f"measured on the data: {verdict}, worst factor {math.exp(self.residual):.3g}")
        return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
