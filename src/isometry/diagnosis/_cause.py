"""Cause before symptoms: would the network be well if its inputs were standardized?"""

from __future__ import annotations

from dataclasses import replace

from isometry.diagnosis._case import reopen
from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._response import measure_response
from isometry.diagnosis.rules import judge

__all__ = ["blame_inputs"]


def blame_inputs(evidence: Evidence, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Put unscaled inputs before the errors that they cause.

    The response is measured again on the same inputs, standardized over the batch. If none of the errors is left,
    the inputs are their cause, and the finding that names them becomes the first error.

    Args:
        evidence: What was measured.
        findings: What the rules said.

    Returns:
        The findings, errors first; the same ones unless the inputs are to blame.
    """
    raw = next((f for f in findings if f.code == "input_scale" and f.severity == "warning"), None)
    errors = [f for f in findings if f.severity == "error"]
    if raw is None or not errors:
        return findings
    case, leaf = evidence.case, evidence.case.x.leaf
    spread = 0.0 if leaf is None else float(leaf.std())
    if leaf is None or spread == 0:
        return findings
    scaled = replace(case, x=case.x.with_leaf((leaf - leaf.mean()) / spread))
    second = reopen(scaled, case.original)
    if any(f.severity == "error" for f in judge(Evidence(second, measure_response(second)))):
        return findings
    others = "other errors" if len(errors) > 1 else "other error"
    why = f"They are the cause of the {others}: on the same inputs, standardized, the network shows none."
    cause = replace(raw, severity="error", message=f"{raw.message} {why}")
    return (cause, *(f for f in findings if f is not raw))
