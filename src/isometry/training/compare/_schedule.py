"""Learning rates over a run: functions of the step alone, so that a run that goes on needs no state of them."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

__all__ = ["SCHEDULES", "Schedule", "factor"]

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "cosine")


def factor(schedule: str, step: int, steps: int) -> float:
    """Give what the learning rate is multiplied with.

    Args:
        schedule: ``"constant"``; ``"linear"`` or ``"cosine"``: from 1 at the first step down to 0 after the last.
        step: How many steps are done.
        steps: How many there will be in all.

    Returns:
        A number between 0 and 1.

    Example:
        >>> [round(factor("cosine", step, 4), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if schedule == "constant":
        return 1.0
    share = step / steps
    return 1.0 - share if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
