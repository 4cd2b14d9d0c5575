"""What a probe does when it is due: takes what the cap allows, writes it down, and tells what went wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from isometry.tape import untouched
from isometry.training._probe_health import Health, Sighting, as_number
from isometry.training._probe_journal import Journal
from isometry.training._probe_log import Record
from isometry.training._probe_measures import BUILT_IN, checked_values
from isometry.training._probe_pace import Pace
from isometry.training._probe_setup import Subject, Taker

__all__ = ["Gap", "Log", "Recorder"]

Log: TypeAlias = Callable[[dict[str, float], int], None]  # (numbers by full name, step)

LEFT_OUT = "left out"
COST, BROKEN = "over the cap", "the model is not finite"


class Gap(NamedTuple):
    """Due measurements in a row that were not taken.

    Attributes:
        first: Step of the first.
        last: Step of the last.
        times: How many.
        reason: Why.
    """

    first: int
    last: int
    times: int
    reason: str


@dataclass
class Recorder:
    """Takes measurements of a subject and writes them down.

    Attributes:
        subject: Model and batch.
        measures: What to take, by name.
        pace: The clock and the cap.
        journal: Where it is written.
        health: The watch for NaN.
        listeners: Who is told the numbers.
        step: Steps of the training so far.
        gaps: What was skipped since the last record of each measure.
        left_out: Measures that cannot be taken, with the reason.
        worked: Measures that could be taken.
    """

    subject: Subject
    measures: dict[str, Taker]
    pace: Pace
    journal: Journal
    health: Health
    listeners: list[Log]
    step: int = 0
    gaps: dict[str, Gap] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    worked: set[str] = field(default_factory=set)

    def take_over(self, records: list[Record], gaps: Mapping[str, Gap]) -> None:
        """Go on from other records than the present ones."""
        self.journal.records = list(records)
        self.gaps = dict(gaps)
        self.worked = {r["measure"] for r in records if r["values"]} & self.measures.keys()
        failed = {r["measure"]: r["note"] for r in records if str(r["note"]).startswith(LEFT_OUT)}
        self.left_out = {name: note.partition(": ")[2] for name, note in failed.items() if name in self.measures}
        self.health.found = any(r["measure"] == "nonfinite" for r in records)

    def look(self, loss: Any, *, due: bool) -> None:
        """Watch for NaN: the loss in every step, the parameters as often as a part of the cap allows."""
        began = self.pace.clock()
        parameters = not self.health.found and self.pace.affords_look()
        seen = self.health.look(self.step, loss, parameters=parameters, now=due)
        if parameters:
            self.pace.looked(self.pace.clock() - began)
        if seen is not None:
            self._tell_nonfinite(seen)

    def measure(self, loss: Any = None, *, forced: bool = False) -> dict[str, float]:
        """Take the measures that the cap allows, or all.

        Args:
            loss: The step's loss, to be written down with them.
            forced: Whatever the cap says.

        Returns:
            The numbers by full name.
        """
        metrics: dict[str, float] = {}
        broken: bool | None = None
        self.health.forget()
        for name in [name for name in self.measures if name not in self.left_out]:
            if not (forced or self.pace.affords(name)):
                self._skip(name, COST)
                continue
            broken = self._is_broken() if broken is None else broken
            if broken and name in BUILT_IN and name != "signal":  # the signal says where; the others have no value
                self._skip(name, BROKEN)
                continue
            self.close_gap(name)
            metrics |= {f"probe/{name}/{key}": value for key, value in self._take(name).items()}
        if metrics:
            about = {} if math.isinf(self.pace.overhead) else {"overhead": self.pace.overhead}
            about |= {} if loss is None else {"loss": as_number(loss)}
            if about:
                self._add("training", about)
            metrics |= {f"probe/training/{key}": value for key, value in about.items()}
            for listener in list(self.listeners):
                listener(dict(metrics), self.step)
        return metrics

    def close_gap(self, name: str) -> None:
        """Write down how often a measure was skipped until now."""
        gap = self.gaps.pop(name, None)
        if gap is not None:
            numbers = {"first": float(gap.first), "last": float(gap.last), "times": float(gap.times)}
            self._add("skipped", numbers, note=f"{name}: {gap.reason}")

    def _skip(self, name: str, reason: str) -> None:
        gap = self.gaps.get(name)
        if gap is not None and gap.reason != reason:
            self.close_gap(name)
            gap = None
        self.gaps[name] = Gap(gap.first if gap else self.step, self.step, gap.times + 1 if gap else 1, reason)

    def _is_broken(self) -> bool:
        if not self.health.nonfinite():
            return False
        seen = self.health.look(self.step, None, parameters=True, now=True)
        if seen is not None:
            self._tell_nonfinite(seen)
        return True

    def _take(self, name: str) -> dict[str, float]:
        """Take one measure, and write it down; an error is told and does not end the training.

        Returns:
            Its numbers; none if it failed.
        """
        values: dict[str, float] = {}
        began = self.pace.clock()
        try:
            with untouched(self.subject.model, training=False):
                given, note = self.measures[name](self.subject)
            values = checked_values(name, given)
            self.worked |= {name}
        except Exception as error:  # noqa: BLE001 - whatever a measure raises must not end a training of days
            reason = str(error) or type(error).__name__
            note = f"failed: {reason}" if name in self.worked else f"{LEFT_OUT}: {reason}"
            if name not in self.worked:
                self.left_out[name] = reason
        self.subject.synchronize(True)
        self.pace.costs[name] = self.pace.clock() - began
        self._add(name, values, cost=self.pace.costs[name], note=note)
        if not values:
            warnings.warn(f"probe, step {self.step}: measure {name!r} {note}", stacklevel=5)
        if name == "signal" and values.get("nonfinite") and not self.health.found:
            self.health.found = True
            words = "the signal of the probe's batch is not finite though all parameters are"
            self._tell_nonfinite(Sighting(self.step, note or "", words))
        return values

    def _add(
        self,
        measure: str,
        values: dict[str, float],
        *,
        cost: float = 0.0,
        note: str | None = None,
        step: int | None = None,
    ) -> None:
        about = {"step": self.step if step is None else step, "seconds": self.pace.training, "measure": measure}
        self.journal.add({**about, "values": values, "cost": cost, "note": note})

    def _tell_nonfinite(self, seen: Sighting) -> None:
        place = f", first in layer {seen.where!r}" if seen.where else ""
        # A loss that waited on an accelerator belongs to an earlier step than this one.
        layer = f"; layer {seen.where!r}" if seen.where else ""
        self._add("nonfinite", {"first": float(seen.step)}, note=f"{seen.words}{layer}", step=seen.step)
        warnings.warn(
            f"probe: not finite at step {seen.step}{place}: {seen.words}. The training goes on.", stacklevel=5
        )
