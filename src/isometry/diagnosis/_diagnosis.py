"""The diagnosis: findings, prescription and proof of one model, in a form that prints, saves and shows itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from isometry._base import Cost, Result
from isometry.diagnosis._evidence import Evidence, Skipped
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._prescription import Prescription
from isometry.diagnosis._proof import Proof

__all__ = ["Diagnosis"]


@dataclass(frozen=True, eq=False)
class Diagnosis(Result):
    """What is wrong with a model, what theory says beside it, and what to do.

    Attributes:
        verdict: "error" if it will not train as it stands, "warning" if it trains worse or riskier than it need,
            "healthy" otherwise.
        findings: One entry for each thing found, errors first.
        prescription: An initialization to apply; None if there is nothing to change or nothing that helps, and for
            weights that were read from a checkpoint, which it would overwrite. ``skipped`` has the reason.
        proof: Training before and after; None if it was not asked for.
        skipped: What was not measured, and why.
        evidence: All measurements and predictions.
        cost: What it took.
    """

    verdict: Literal["error", "warning", "healthy"]
    findings: tuple[Finding, ...]
    prescription: Prescription | None
    proof: Proof | None
    skipped: tuple[Skipped, ...]
    evidence: Evidence = field(repr=False)
    cost: Cost
    _content: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Give the diagnosis as plain JSON data, the content of diagnosis.json.

        Returns:
            A dictionary of numbers, strings, lists and dictionaries; numbers that are not finite are None.
        """
        copied: dict[str, Any] = json.loads(json.dumps(self._content))
        return copied

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write index.html and diagnosis.json; each is there whole or not at all, also after Ctrl-C.

        Args:
            directory: Where to; made if it is missing.

        Returns:
            The directory.

        Raises:
            NotADirectoryError: If the path is a file.
        """
        from isometry import report

        target = Path(directory)
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(f"directory {str(target)!r} is a file; give a folder for the report.")
        page = report.render(self._content)  # everything is computed before anything is written
        data = json.dumps(self._content, indent=1, allow_nan=False) + "\n"
        report.write_text(data, target / "diagnosis.json")
        report.write_text(page, target / "index.html")
        return target

    def _repr_html_(self) -> str:
        from isometry import report

        return report.notebook_html(self._content)

    def __str__(self) -> str:
        lines = [f"verdict: {self.verdict}", *(f"  {f}" for f in self.findings)]
        if self.prescription is not None:
            lines.append(f"prescription: {self.prescription.summary}")
        if self.proof is not None:
            lines.append(f"proof: {self.proof.verdict}")
        lines += [f"not measured: {s.what}: {s.why}" for s in self.skipped]
        return "\n".join(lines)
