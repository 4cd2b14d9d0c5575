"""What a diagnosis says: one frozen finding for each thing it found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from isometry._base import Result

__all__ = ["SEVERITIES", "Finding", "Severity", "verdict_of"]

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding(Result):
    """One finding: a number that was measured, the number that theory expects beside it, and what to do.

    Attributes:
        severity: "error": as it stands the network will not train (a few hundred steps of SGD or Adam at any sensible
            step size do not bring the training loss below half of chance). "warning": it trains, but worse or riskier
            than it need. "info": worth knowing.
        code: A stable name of the kind of finding, a key of `isometry.diagnosis.CODES`.
        message: One or two sentences with the measured value in words.
        value: What was measured.
        expected: What theory, or the limit that was crossed, says.
        unit: Unit of both, or what they are.
        remedy: What to do, as an imperative sentence.
        where: Names of the layers or parameters it concerns, at most a dozen.
    """

    severity: Severity
    code: str
    message: str
    value: float | str | None = None
    expected: float | str | None = None
    unit: str | None = None
    remedy: str | None = None
    where: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        pair = ""
        if self.value is not None:
            pair = f" [{_text(self.value)}" + (
                f", expected {_text(self.expected)}]" if self.expected is not None else "]"
            )
        return f"{self.severity}: {self.code}: {self.message}{pair}"


def verdict_of(findings: tuple[Finding, ...]) -> Literal["error", "warning", "healthy"]:
    """Sum findings up: the worst severity, or "healthy" without errors and warnings.

    Returns:
        The verdict.
    """
    found = {f.severity for f in findings}
    return "error" if "error" in found else "warning" if "warning" in found else "healthy"


def _text(value: float | str | None) -> str:
    if isinstance(value, float):
        return "not finite" if not math.isfinite(value) else f"{value:.3g}"
    return str(value)
