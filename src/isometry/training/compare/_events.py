"""What passes between the process that keeps the results and those that train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["Event", "Job", "Measured", "Row"]


class Row(NamedTuple):
    """One number of a training."""

    epoch: int
    split: str  # "train", "validation", "test"
    metric: str
    value: float


class Measured(NamedTuple):
    """One number of the probe."""

    epoch: int
    step: int
    measure: str
    quantity: str
    value: float


@dataclass(frozen=True)
class Job:
    """What a worker is to do; it crosses to other processes and machines.

    Attributes:
        task: Train a run, or evaluate a trained one on the test set.
        run: The run's id.
        options: All that its result depends on.
        folder: The run's own folder, absolute.
        base: Where relative paths of the experiment start.
        weights: Which weights the test set sees, and whether the best ones must be kept on the way.
        probe: What to measure, or None.
        threads: Of torch.
    """

    task: Literal["train", "test"]
    run: str
    options: Mapping[str, Any]
    folder: str
    base: str
    weights: Literal["final", "best"] = "final"
    probe: Mapping[str, Any] | None = None
    threads: int = 1


@dataclass(frozen=True)
class Event:
    """What a worker tells.

    Attributes:
        kind: ``"epoch"``: rows to store, and the epochs that are done. ``"end"``: the job has ended. ``"death"``: the
            worker was lost.
        run: The run's id.
        epoch: Epochs done.
        rows: Numbers; storing them twice changes nothing.
        probe: Measurements.
        notes: What there is to say.
        status: At the end: ``"finished"``, ``"diverged"`` or ``"failed"``.
        seconds: Time of training since the last event.
    """

    kind: Literal["epoch", "end", "death"]
    run: str
    epoch: int = 0
    rows: tuple[Row, ...] = ()
    probe: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()
    status: str = ""
    seconds: float = 0.0
