"""Which learning rate each combination is judged by, and how sure the numbers are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from isometry._base import Result

__all__ = ["CONFIDENCE", "Choice", "Interval", "choose_lr", "interval"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval(Result):
    """A mean over seeds with Student's t interval, which takes the seeds' values for normal.

    Attributes:
        mean: The mean; NaN without values.
        low: Lower end of the interval at 95 %; NaN for fewer than two values.
        high: Upper end.
        n: How many values.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return "-"
        if self.n == 1:
            return f"{self.mean:.4g}"
        half = (self.high - self.low) / 2
        return f"{self.mean:.4g} ± {half:.2g}"


def interval(values: Sequence[float]) -> Interval:
    """Average, with the interval mean ± t s / sqrt(n), t the quantile of Student's law with n - 1 degrees of freedom.

    Args:
        values: One a seed.

    Returns:
        The mean and its interval.

    Example:
        >>> found = interval([1.0, 2.0, 3.0])
        >>> found.mean, round(found.high - found.mean, 3)  # 4.303 / sqrt(3)
        (2.0, 2.484)
    """
    n = len(values)
    mean = sum(values) / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Choice(Result):
    """The learning rate of a combination.

    Attributes:
        lr: The one with the lowest mean validation loss over the seeds; where all diverged, the lowest.
        edge: Whether it is the lowest or the highest of several that were tried, so that a better one may lie beyond.
        scores: Mean validation loss by learning rate; infinite where a seed diverged.
        left_out: Learning rates that could not be judged, since a run failed or has not ended.
    """

    lr: float
    edge: Literal["lowest", "highest"] | None
    scores: Mapping[float, float]
    left_out: tuple[float, ...] = ()


def choose_lr(scores: Mapping[float, Sequence[float | None]]) -> Choice | None:
    """Choose by the mean validation loss over the seeds. Learning rates with a diverged seed rank last.

    Args:
        scores: For each learning rate the validation loss of each seed: infinite if it diverged, None if it failed or
            has not ended.

    Returns:
        The choice; None where no learning rate can be judged.
    """
    judged = {lr: sum(v) / len(v) for lr, values in scores.items() if (v := _all_known(values))}
    if not judged:
        return None
    best = min(sorted(judged), key=lambda lr: judged[lr])  # of equals the lowest
    edge: Literal["lowest", "highest"] | None = None
    if len(scores) > 1 and best in (min(scores), max(scores)):
        edge = "lowest" if best == min(scores) else "highest"
    return Choice(best, edge, judged, tuple(sorted(lr for lr in scores if lr not in judged)))


def _all_known(values: Sequence[float | None]) -> list[float]:
    known = [v for v in values if v is not None]
    return known if len(known) == len(values) else []
