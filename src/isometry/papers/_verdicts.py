"""Verdicts, computed from the evidence by the pass rules and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from isometry._base import Result
from isometry.papers._claims import Claim
from isometry.papers._rules import Rule, RuleOutcome

__all__ = ["ClaimVerdict", "Verdict", "judge"]

Verdict = Literal["holds", "fails", "unclear at this scale"]


@dataclass(frozen=True)
class ClaimVerdict(Result):
    """What became of one claim.

    Attributes:
        id: The claim.
        verdict: ``holds``, ``fails`` or ``unclear at this scale``.
        why: One sentence.
        rules: What became of each pass rule.
        controls: What became of each control; a sound control fails.
    """

    id: str
    verdict: Verdict
    why: str
    rules: tuple[RuleOutcome, ...]
    controls: tuple[RuleOutcome, ...]


def judge(
    claim: Claim, quantities: Mapping[str, np.ndarray], skipped: Mapping[str, str], *, scale: str
) -> ClaimVerdict:
    """Compute a claim's verdict.

    A claim fails if one of its rules fails. It holds if all its rules hold and all its controls fail. Anything else is
    unclear: a rule that could not be decided, a control that passes too (then the check means nothing) or could not be
    decided.

    Args:
        claim: The claim.
        quantities: Values by name, (seeds,) or (seeds, entries).
        skipped: Why a quantity was not measured, by name.
        scale: The scale of the run; rules for other scales are left out.

    Returns:
        The verdict with its reasons.
    """

    def decide(rules: tuple[Rule, ...]) -> tuple[RuleOutcome, ...]:
        return tuple(r.outcome(quantities, skipped) for r in rules if not r.scales or scale in r.scales)

    rules, controls = decide(claim.rules), decide(claim.controls)
    verdict, why = _verdict(rules, controls, scale)
    return ClaimVerdict(claim.id, verdict, why, rules, controls)


def _verdict(rules: tuple[RuleOutcome, ...], controls: tuple[RuleOutcome, ...], scale: str) -> tuple[Verdict, str]:
    for outcome in rules:
        if outcome.outcome == "fails":
            return "fails", f"{outcome.rule}: not so; {outcome.why}"
    for outcome in rules:
        if outcome.outcome == "unclear":
            return "unclear at this scale", f"{outcome.rule}: cannot be decided; {outcome.why}"
    if not rules:
        return "unclear at this scale", f"no rule asks anything at scale {scale!r}"
    for outcome in controls:
        if outcome.outcome == "holds":
            return "unclear at this scale", f"the control passes too ({outcome.rule}); {outcome.why}"
        if outcome.outcome == "unclear":
            return "unclear at this scale", f"the control cannot be decided ({outcome.rule}); {outcome.why}"
    if not controls:
        return "unclear at this scale", f"no control is asked at scale {scale!r}"
    return "holds", rules[0].why if len(rules) == 1 else f"all {len(rules)} rules hold"
