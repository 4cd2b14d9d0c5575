"""Pass rules: what a quantity must satisfy, and over which seeds.

Every comparison is turned into margins that are linear in the values: the rule holds where a margin is positive (or
zero, where equality passes). One number is a margin for ``<`` and the like; a series has one margin an entry, or, for
``increasing``, one for each step. Means and intervals are then taken of the margins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from isometry._base import Result

__all__ = ["COMPARISONS", "OVERS", "Comparison", "Outcome", "Over", "Rule", "RuleOutcome", "interval"]

Outcome = Literal["holds", "fails", "unclear"]
Comparison = Literal["<", "<=", ">", ">=", "within", "increasing", "decreasing"]
Over = Literal["all", "mean", "interval"]

COMPARISONS: tuple[Comparison, ...] = ("<", "<=", ">", ">=", "within", "increasing", "decreasing")
OVERS: tuple[Over, ...] = ("all", "mean", "interval")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class RuleOutcome(Result):
    """What became of one rule.

    Attributes:
        rule: The rule in words.
        outcome: ``holds``, ``fails`` or ``unclear``.
        why: The numbers behind it.
    """

    rule: str
    outcome: Outcome
    why: str


@dataclass(frozen=True)
class Rule(Result):
    """One line of a claim's pass rule.

    Attributes:
        quantity: Name of a quantity in the evidence.
        comparison: ``<``, ``<=``, ``>``, ``>=``, ``within`` (threshold ``[low, high]``), or ``increasing`` or
            ``decreasing`` along a series (strictly; no threshold).
        over: ``all``: every seed must satisfy it; ``mean``: the mean over the seeds must; ``interval``: the 95 %
            interval of the mean (Student's t) must lie on the passing side. A rule whose interval has both sides is
            unclear.
        threshold: A number, ``(low, high)`` for ``within``, None for ``increasing`` and ``decreasing``.
        scales: Scales at which the rule is asked; empty for all.
    """

    quantity: str
    comparison: Comparison
    over: Over = "all"
    threshold: float | tuple[float, float] | None = None
    scales: tuple[str, ...] = ()

    def __str__(self) -> str:
        if isinstance(self.threshold, tuple):
            tail = f" [{self.threshold[0]:g}, {self.threshold[1]:g}]"
        else:
            tail = "" if self.threshold is None else f" {self.threshold:g}"
        spread = {"all": "for every seed", "mean": "on average", "interval": "with its whole 95 % interval"}[self.over]
        return f"{self.quantity} {self.comparison}{tail} {spread}"

    def outcome(self, quantities: Mapping[str, np.ndarray], skipped: Mapping[str, str]) -> RuleOutcome:
        """Decide the rule.

        Args:
            quantities: Values by name, (seeds,) or (seeds, entries); pooled ones have one row.
            skipped: Why a quantity was not measured, by name.

        Returns:
            Holds, fails or unclear, with the numbers behind it.

        Raises:
            ValueError: If the quantity is neither measured nor listed as skipped, or a comparison along a series
                meets single numbers.
        """
        if self.quantity not in quantities:
            if self.quantity in skipped:
                return RuleOutcome(str(self), "unclear", f"not measured: {skipped[self.quantity]}")
            raise ValueError(
                f"the rule {str(self)!r} asks for a quantity that the evidence lacks; it holds "
                f"{', '.join(quantities) or 'nothing'}. Name it in study.py or list it in Evidence.skipped."
            )
        values = np.asarray(quantities[self.quantity], dtype=np.float64)
        if np.isnan(values).any():
            return RuleOutcome(str(self), "unclear", f"{self.quantity} holds NaN")
        margins = self._margins(values)
        decided = _decide(margins, self.over, strict=self.comparison not in ("<=", ">=", "within"))
        return RuleOutcome(str(self), decided, describe(self.quantity, values))

    def _margins(self, values: np.ndarray) -> np.ndarray:
        """Turn values into margins.

        Returns:
            (seeds, entries), positive where the rule holds.

        Raises:
            ValueError: If the rule needs a series and there are single numbers.
        """
        if self.comparison in ("increasing", "decreasing"):
            if values.ndim < 2 or values.shape[1] < 2:
                raise ValueError(f"the rule {str(self)!r} needs a series for each seed, got single numbers.")
            steps = np.diff(values, axis=1)
            return steps if self.comparison == "increasing" else -steps
        rows = values.reshape(len(values), -1)
        if self.comparison == "within":
            low, high = cast("tuple[float, float]", self.threshold)
            return np.concatenate([rows - low, high - rows], axis=1)
        threshold = cast("float", self.threshold)
        return threshold - rows if self.comparison in ("<", "<=") else rows - threshold


def _decide(margins: np.ndarray, over: Over, *, strict: bool) -> Outcome:
    """Decide a rule from its margins.

    Returns:
        Holds, fails, or unclear where an interval has both sides.
    """
    if over == "interval":
        if len(margins) < 2:
            return "unclear"  # one seed gives no interval
        low, high = interval(margins)
        if bool((_passes(low, strict)).all()):
            return "holds"
        return "fails" if bool((~_passes(high, strict)).any()) else "unclear"
    tested = margins.mean(axis=0) if over == "mean" else margins
    return "holds" if bool(_passes(tested, strict).all()) else "fails"


def _passes(margins: np.ndarray, strict: bool) -> np.ndarray:
    return margins > 0 if strict else margins >= 0


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bound the mean over the seeds.

    Args:
        values: (seeds, ...), at least two seeds.

    Returns:
        The ends of the 95 % interval by Student's t, each of shape (...).
    """
    from scipy.stats import t

    mean = values.mean(axis=0)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return mean - half, mean + half


def describe(name: str, values: np.ndarray) -> str:
    """Say in one line what was measured.

    Returns:
        Mean and range of a number, or the means of a series.
    """
    if values.ndim > 1:
        return f"{name}: means {', '.join(f'{v:.4g}' for v in values.mean(axis=0))} over {len(values)} seeds"
    if len(values) == 1:
        return f"{name}: {values[0]:.4g}"
    return f"{name}: mean {values.mean():.4g}, from {values.min():.4g} to {values.max():.4g} over {len(values)} seeds"
