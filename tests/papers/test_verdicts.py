"""Verdicts follow from rules and controls, and a check whose control passes means nothing."""

from __future__ import annotations

import numpy as np
import pytest

from isometry.papers import Claim, Rule, judge

ABOVE = Rule("x", ">", "all", 0.0)
CONTROL = Rule("c", ">", "all", 0.0)


def claim(rules=(ABOVE,), controls=(CONTROL,)):
    return Claim("id", "s", "w", "q", "p", "c", tuple(rules), tuple(controls), "note")


@pytest.mark.parametrize(
    ("x", "c", "verdict", "why"),
    [
        (1.0, -1.0, "holds", "x: 1"),
        (-1.0, -1.0, "fails", "x > 0 for every seed: not so; x: -1"),
        (-1.0, 1.0, "fails", "x > 0"),
        (1.0, 1.0, "unclear at this scale", "the control passes too (c > 0 for every seed); c: 1"),
        (np.nan, -1.0, "unclear at this scale", "cannot be decided; x holds NaN"),
        (1.0, np.nan, "unclear at this scale", "the control cannot be decided"),
    ],
)
def test_the_table(x, c, verdict, why):
    judged = judge(claim(), {"x": np.array([x]), "c": np.array([c])}, {}, scale="smoke")
    assert judged.verdict == verdict
    assert why in judged.why
    assert (len(judged.rules), len(judged.controls)) == (1, 1)


def test_one_failing_rule_is_enough():
    values = {"x": np.array([1.0]), "y": np.array([-1.0]), "c": np.array([-1.0])}
    rules = (ABOVE, Rule("y", ">", "all", 0.0))
    assert judge(claim(rules), values, {}, scale="smoke").verdict == "fails"
    values["y"] = np.array([1.0])
    judged = judge(claim(rules), values, {}, scale="smoke")
    assert (judged.verdict, judged.why) == ("holds", "all 2 rules hold")


def test_rules_for_other_scales_are_not_asked():
    rules = (ABOVE, Rule("only-full", ">", "all", 0.0, ("full",)))
    values = {"x": np.array([1.0]), "c": np.array([-1.0])}
    assert judge(claim(rules), values, {}, scale="smoke").verdict == "holds"
    with pytest.raises(ValueError, match="asks for a quantity that the evidence lacks"):
        judge(claim(rules), values, {}, scale="full")
    nothing = judge(claim((rules[1],)), values, {}, scale="smoke")
    assert nothing.why == "no rule asks anything at scale 'smoke'"
    uncontrolled = judge(claim(controls=(Rule("c", ">", "all", 0.0, ("full",)),)), values, {}, scale="smoke")
    assert uncontrolled.verdict == "unclear at this scale"
