"""When a probe measures: a schedule of steps, and a cap on its share of the training's time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from isometry._base import unknown_name

__all__ = ["GROWTH", "Pace", "Schedule", "make_schedule"]

Schedule: TypeAlias = Literal["geometric", "every"] | Callable[[int], bool]

LOOKS = 0.4  # of the cap
GROWTH = 2**0.25  # from one due step to the next: four in every doubling of the steps


def make_schedule(schedule: Schedule, every: int | None) -> Callable[[int], bool]:
    """Read the options that say at which steps a measurement is due.

    Args:
        schedule: "geometric", "every", or a function of the step.
        every: Steps from one to the next; given alone it means the schedule "every".

    Returns:
        Whether a measurement is due after so many steps. Step 0 is always due, whatever this says.

    Raises:
        ValueError: If the two contradict each other, or ``every`` is no positive whole number.
        TypeError: If the schedule is neither a name nor a function.
        unknown_name: A ValueError with near matches, for an unknown name.
    """
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"every must be a whole number of steps >= 1, got {every!r}; or leave it out.")
    if callable(schedule):
        if every is not None:
            raise ValueError(f"every={every} and a function as schedule were given; pass one of them.")
        return schedule
    if not isinstance(schedule, str):
        raise TypeError(
            f"schedule must be a name or a function of the step, got {type(schedule).__name__}; see the docstring."
        )
    names = get_args(get_args(Schedule)[0])
    if schedule not in names:
        raise unknown_name("schedule", schedule, names)
    if every is not None:
        return lambda step: step % every == 0
    if schedule == "every":
        raise ValueError('schedule="every" needs a number of steps; pass every=100, say.')
    return _geometric


def _geometric(step: int) -> bool:
    """Tell whether a step is one of 0, 1, 2, ..., 8, 10, 11, 13, 16, 19, ...: round(GROWTH^k) for whole k.

    Returns:
        Whether it is.
    """
    if step < 2:
        return True
    near = round(math.log(step) / math.log(GROWTH))
    return any(round(GROWTH**k) == step for k in (near - 1, near, near + 1))


@dataclass
class Pace:
    """Splits the wall-clock time between the training and the probe, and says what the probe can still afford.

    Attributes:
        clock: Seconds, as ``time.perf_counter``.
        cap: The probe's seconds over the training's, at most; None: whatever it takes.
        training: Seconds of the training so far.
        probing: Seconds of the probe so far.
        costs: Seconds that each measure took the last time.
        looking: Seconds of all looks at the parameters between measurements, a part of ``probing``.
        look_cost: Seconds of the last look.
    """

    clock: Callable[[], float]
    cap: float | None
    training: float = 0.0
    probing: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)
    looking: float = 0.0
    look_cost: float = 0.0
    _mark: float = 0.0  # when the present stretch of training or probing began

    def begin(self) -> None:
        """Start a stretch; the time since the last one belongs to nobody."""
        self._mark = self.clock()

    def to_probe(self) -> None:
        """End a stretch of training."""
        now = self.clock()
        self.training += now - self._mark
        self._mark = now

    def to_training(self) -> None:
        """End a stretch of probing."""
        now = self.clock()
        self.probing += now - self._mark
        self._mark = now

    def affords(self, name: str) -> bool:
        """Tell whether another run of a measure would keep the probe under its cap.

        Args:
            name: The measure; one that has not run yet costs nothing as far as anybody knows.

        Returns:
            Whether it would.
        """
        if self.cap is None:
            return True
        spent = self.probing + (self.clock() - self._mark)
        return spent + self.costs.get(name, 0.0) <= self.cap * self.training

    def affords_look(self) -> bool:
        """Tell whether another look at the parameters would stay within its own part of the cap.

        It has one of its own since the first measurement puts the probe in debt for a while, in which the training may
        well stop being finite.

        Returns:
            Whether it would.
        """
        return self.cap is None or self.looking + self.look_cost <= LOOKS * self.cap * self.training

    def looked(self, seconds: float) -> None:
        """Count a look at the parameters, which is part of the probing as well."""
        self.look_cost = seconds
        self.looking += seconds

    @property
    def overhead(self) -> float:
        """The probe's seconds over the training's; infinite before any training."""
        return self.probing / self.training if self.training > 0 else math.inf

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps.

        Returns:
            Plain data.
        """
        return {
            "training": self.training,
            "probing": self.probing,
            "costs": dict(self.costs),
            "looking": self.looking,
            "look_cost": self.look_cost,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.training, self.probing = float(state["training"]), float(state["probing"])
        self.looking, self.look_cost = float(state["looking"]), float(state["look_cost"])
        self.costs = {name: float(seconds) for name, seconds in state["costs"].items()}
