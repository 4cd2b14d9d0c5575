"""Which of a model's parameters an orthogonality penalty counts, by which formula, and why it leaves the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from isometry._base import Result, unknown_name
from isometry.linalg import orthogonal_convolution_exists
from isometry.roles import MATRIX_ROLES, ParameterRow, ParameterTable

__all__ = ["PenaltyKind", "PenaltyRow", "Selection"]

PenaltyKind = Literal["so", "double-sided", "mc", "srip", "convolution"]
_FREE = ("output", "embedding")  # unless named


@dataclass(frozen=True)
class PenaltyRow(Result):
    """What a regularizer does with one parameter.

    Attributes:
        name: The parameter's name.
        role: Its role in the parameter table.
        shape: Its shape.
        action: ``"counted"``, ``"left"`` (on purpose) or ``"skipped"`` (it could not be counted).
        formula: The penalty's name; "" if it is not counted.
        why: The reason if it is not counted; what to know about it if it is.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    action: Literal["counted", "left", "skipped"]
    formula: str = ""
    why: str = ""


@dataclass(frozen=True)
class Selection:
    """Which parameters a user asked for.

    Attributes:
        names: Patterns of names to count; None for the matrices between hidden layers.
        skip: Patterns of names to leave out.
        lone: The name of the only matrix of a model that has no other.
    """

    names: tuple[str, ...] | None
    skip: tuple[str, ...] | None
    lone: str | None

    @classmethod
    def read(
        cls, rows: ParameterTable, names: str | Sequence[str] | None, skip: str | Sequence[str] | None
    ) -> Selection:
        """Check the patterns against a model's parameters.

        Returns:
            The selection.
        """
        lone = rows.matrices[0].name if len(rows.matrices) == 1 else None
        return cls(_patterns("names", names, rows), _patterns("skip", skip, rows), lone)

    def plan(self, row: ParameterRow, module: nn.Module, kind: PenaltyKind) -> PenaltyRow:
        """Decide what becomes of a parameter.

        Args:
            row: Its row of the parameter table.
            module: The module that uses it.
            kind: The penalty asked for.

        Returns:
            The decision with its reason.
        """
        left = self._left(row)
        if left:
            return PenaltyRow(row.name, row.role, row.shape, "left", why=left)
        if not row.trainable:
            frozen = "frozen (requires_grad is False), so a penalty would not move it"
            return PenaltyRow(row.name, row.role, row.shape, "skipped", why=frozen)
        convolution = kind == "convolution" and isinstance(module, _ConvNd)
        formula = "L_orth" if convolution else "so" if kind == "convolution" else kind
        notes = [_conv_note(module)] if convolution and isinstance(module, _ConvNd) else []
        if row.aliases:
            notes.append(f"once for all of {', '.join(row.aliases)}")
        return PenaltyRow(row.name, row.role, row.shape, "counted", formula, "; ".join(filter(None, notes)))

    def _left(self, row: ParameterRow) -> str:
        if self.skip is not None and _hit(row, self.skip):
            return "named in skip="
        if self.names is not None and not _hit(row, self.names):
            return "not named"
        if self.names is None and row.role in _FREE and row.name != self.lone:
            return f"the {row.role} stays free; name it in names= to count it"
        if self.names is None and row.role not in MATRIX_ROLES:
            return f"its role is {row.role!r}, not a matrix between layers"
        if row.axes.known:
            return ""
        if self.names is not None and any(name in self.names for name in row.names):
            raise ValueError(
                f"{row.name} cannot be counted: its output and input dimensions are not known, or it has none; give "
                "them in overrides= (a role, or Axes), or leave it out."
            )
        return "its output and input dimensions are not known; give them in overrides="


def _patterns(argument: str, names: str | Sequence[str] | None, rows: ParameterTable) -> tuple[str, ...] | None:
    if names is None:
        return None
    patterns = (names,) if isinstance(names, str) else tuple(names)
    if not patterns or not all(isinstance(name, str) for name in patterns):
        raise TypeError(f"{argument} must be a name, a pattern or a non-empty sequence of these, got {names!r}.")
    available = [name for row in rows for name in row.names]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in available):
            error = unknown_name(f"{argument} pattern", pattern, available)
            raise error
    return patterns


def _hit(row: ParameterRow, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in row.names for pattern in patterns)


def _conv_note(module: _ConvNd) -> str:
    outputs, inputs = module.out_channels // module.groups, module.in_channels // module.groups
    if module.transposed:
        outputs, inputs = inputs, outputs  # the penalty is that of the adjoint map
    answer = orthogonal_convolution_exists(outputs, inputs, module.kernel_size, module.stride, dilation=module.dilation)
    if not answer:
        return f"cannot reach zero: {answer.reason.rstrip('.')}"
    pointwise = all(k == 1 for k in module.kernel_size)
    if module.padding_mode != "circular" and not pointwise:
        return f"exact for circular padding; with padding_mode={module.padding_mode!r} it governs all but the border"
    return ""
