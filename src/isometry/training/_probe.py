"""Follow any measurement during a training, at a cost that is capped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from isometry._base import check_positive
from isometry.tape import Inputs
from isometry.training._objective import Likelihood
from isometry.training._probe_health import Health
from isometry.training._probe_journal import Journal
from isometry.training._probe_log import ProbeLog, Record
from isometry.training._probe_pace import Pace, Schedule, make_schedule
from isometry.training._probe_record import Gap, Log, Recorder
from isometry.training._probe_setup import Measure, Subject, choose_measures, make_header

__all__ = ["Probe"]


class Probe:
    """Follows measurements of a model while it is trained; the training is bit for bit what it would be without.

    A measurement is due at step 0, before the training, and then on the schedule. Whether a due one is taken, its cost
    decides: the probe times itself and the training, and skips a measure while its seconds, with those that the measure
    took the last time, would exceed ``max_overhead`` of the training's. The first measurement is always taken; a short
    training may therefore end above the cap. What is skipped is counted and listed; ``max_overhead=None`` skips none.

    A function of your own must leave the weights alone. If it does not, they are put back, and a warning says so; for
    this there is a copy of them while the function runs.

    A measure that cannot be taken of this model is reported once, with its reason, and left out from then on; one that
    fails later is reported and tried again. The first loss or parameter that is not finite is reported with the step
    and the layer. None of this ends the training.

    Args:
        model: The model that is trained.
        x: The batch at which it is measured: a tensor, a tuple of positional or a dict of keyword arguments, or
            ``Inputs``. It is moved to the model's device when the training starts.
        y: Its targets; "confusion" and "curvature" need them.
        measures: Names ("signal", "fisher", "jacobian", "ntk", "confusion", "curvature"), or a mapping of names to
            functions of ``(model, x, y)`` that return a dict of numbers. A mapping may hold both: under a name of the
            list above the value True takes that measure.
        schedule: "geometric" (four measurements in every doubling of the steps); "every"; or a function of the step.
        every: Measure after every so many steps.
        max_overhead: The probe's seconds over the training's, at most; None takes every measurement that is due.
        samples: How many samples of the batch the named measures take; functions get all.
        path: A file of JSON lines, written as the training goes on; None keeps the measurements in memory. If it is
            there already, the same probe goes on with it: see ``start``.
        log: Called with the numbers ("probe/signal/q_max", ...) and the step after each measurement.
        likelihood: "categorical" or "gaussian"; default: from the targets, categorical without.
        seed: Of everything that a measure draws; the same at every step, so that curves are smooth.
        clock: What tells the seconds.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an option is out of range, a measure needs targets and there are none, or the file belongs to
            another probe.

    Example:
        >>> from torch import ones
        >>> model = nn.Linear(4, 2)
        >>> with Probe(model, ones(8, 4), measures=["signal"], every=2, max_overhead=1e9) as probe:
        ...     for loss in (0.9, 0.7, 0.6, 0.5):  # after each step of the optimizer
        ...         _ = probe.step(loss)
        >>> [row["step"] for row in probe.rows() if row["quantity"] == "q_max"]
        [0, 2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor | Inputs | Mapping[str, Any] | tuple[Any, ...],
        y: Any = None,
        *,
        measures: Iterable[str] | Mapping[str, Measure | bool] = ("signal", "fisher"),
        schedule: Schedule = "geometric",
        every: int | None = None,
        max_overhead: float | None = 0.05,
        samples: int = 32,
        path: str | os.PathLike[str] | None = None,
        log: Log | None = None,
        likelihood: Likelihood | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        subject = Subject(model, x, y, samples=samples, likelihood=likelihood, seed=seed)
        chosen = choose_measures(measures, subject)
        self._due = make_schedule(schedule, every)
        self._pace = Pace(clock, None if max_overhead is None else _cap(max_overhead))
        header = make_header(subject, chosen, schedule=schedule, every=every, max_overhead=max_overhead)
        self._journal = Journal(None if path is None else Path(path), header)
        listeners = [] if log is None else [log]
        self._recorder = Recorder(subject, chosen, self._pace, self._journal, Health(model), listeners)
        self._recorder.take_over(self._journal.records, {})
        self._running = False
        self._placed = False  # whether it is settled at which step the training goes on

    # -- the training loop -------------------------------------------------------------------------------------------

    def start(self, step: int | None = None) -> Probe:
        """Begin, before the first step of the training: step 0 is measured here.

        Args:
            step: Steps that are done already, for a training that goes on from a checkpoint without the probe's own
                ``state_dict``: measurements of later steps, which will come again, are dropped. 0 starts the file anew.

        Returns:
            The probe, for ``with probe.start(step=...)``.

        Raises:
            RuntimeError: If it runs already, or it holds measurements and nothing says where the training goes on.
            ValueError: If the step is negative, or contradicts a loaded state.
        """
        if self._running:
            raise RuntimeError("the probe runs already; call start() once, or use `with probe:` alone.")
        if step is not None and step < 0:
            raise ValueError(f"step must be the number of steps done, got {step}.")
        if step is None and self._journal.records and not self._placed:
            where = "the probe" if self._journal.path is None else repr(str(self._journal.path))
            raise RuntimeError(
                f"{where} holds measurements up to step {self._journal.records[-1]['step']}; say where the training "
                "goes on: load_state_dict() of the checkpoint, or start(step=...) with its steps (0 starts anew), or "
                "make a probe with another path."
            )
        if step is not None and self._placed and step != self.steps:
            raise ValueError(f"the loaded state stands at step {self.steps}, got step={step}; leave step out.")
        if step is not None and not self._placed and (step == 0 or step != self.steps):
            self._rewind(step)
        self._journal.replace(self._journal.records)
        self._recorder.subject.settle()
        self._running, self._placed = True, False
        self._pace.begin()
        if not self._recorder.worked and not self._recorder.left_out:
            self._recorder.measure(forced=True)
        self._pace.to_training()
        return self

    def step(self, loss: Any = None, *, step: int | None = None) -> dict[str, float]:
        """Count a step of the training, and measure if it is time.

        Args:
            loss: The step's loss, a number or a tensor with one element; it is recorded and watched for NaN.
            step: How many steps are done, where the trainer counts itself; default: one more than before.

        Returns:
            What was measured now, by name as for ``log``; mostly nothing.

        Raises:
            RuntimeError: If the probe was not started.
            ValueError: If the steps do not grow.
        """
        if not self._running:
            raise RuntimeError(
                "the probe is not running; put the loop into `with probe:`, or call probe.start() before its first "
                "step, so that step 0 is measured."
            )
        recorder = self._recorder
        done = recorder.step + 1 if step is None else step
        if done <= recorder.step:
            raise ValueError(f"step must grow: {step} was given after {recorder.step}; pass the steps done so far.")
        due = any(self._due(passed) for passed in range(recorder.step + 1, done + 1))
        recorder.subject.synchronize(due)
        self._pace.to_probe()
        recorder.step = done
        recorder.look(loss, due=due)
        metrics = recorder.measure(loss) if due else {}
        self._pace.to_training()
        return metrics

    def close(self) -> None:
        """End: write down what was skipped last. The probe may be asked for its measurements afterwards."""
        if self._running:
            for name in list(self._recorder.gaps):
                self._recorder.close_gap(name)
            self._running = False

    def __enter__(self) -> Probe:
        return self if self._running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listen(self, log: Log) -> Callable[[], None]:
        """Send the numbers to one more listener.

        Args:
            log: Called as the constructor's ``log``.

        Returns:
            A function that ends it.
        """
        self._recorder.listeners.append(log)
        return lambda: self._recorder.listeners.remove(log)

    # -- what it has found -------------------------------------------------------------------------------------------

    @property
    def history(self) -> ProbeLog:
        """All measurements so far, with what writes them elsewhere: ``to_pandas``, ``to_parquet``."""
        return ProbeLog(self._journal.header, tuple(self._journal.records))

    def rows(self) -> list[dict[str, Any]]:
        """Give all measurements so far as a table with a row for each quantity, as ``ProbeLog.rows`` does.

        Returns:
            Rows with the keys step, seconds (of training), measure, quantity, value and note.
        """
        return self.history.rows()

    @property
    def steps(self) -> int:
        """Steps of the training so far."""
        return self._recorder.step

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return self._running

    @property
    def overhead(self) -> float:
        """The probe's seconds over the training's, so far; infinite before the first step."""
        return self._pace.overhead

    @property
    def skipped(self) -> dict[str, tuple[Gap, ...]]:
        """Due measurements that were not taken, by measure: the steps, how many, and why."""
        found: dict[str, list[Gap]] = {}
        for record in self._journal.records:
            if record["measure"] == "skipped":
                name, _, reason = record["note"].rpartition(": ")
                first, last, times = (int(record["values"][key]) for key in ("first", "last", "times"))
                found.setdefault(name, []).append(Gap(first, last, times, reason))
        for name, gap in self._recorder.gaps.items():
            found.setdefault(name, []).append(gap)
        return {name: tuple(gaps) for name, gaps in found.items()}

    @property
    def left_out(self) -> dict[str, str]:
        """The measures that cannot be taken of this model, each with the reason."""
        return dict(self._recorder.left_out)

    @property
    def nonfinite(self) -> Record | None:
        """The record of the first loss or parameter that was not finite; None while all are."""
        return next((r for r in self._journal.records if r["measure"] == "nonfinite"), None)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint needs: steps, seconds, and all measurements, so that it stands alone.

        Returns:
            Plain data.
        """
        return {
            "header": dict(self._journal.header),
            "step": self.steps,
            "pace": self._pace.state(),
            "gaps": {name: list(gap) for name, gap in self._recorder.gaps.items()},
            "records": [{**record, "values": dict(record["values"])} for record in self._journal.records],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: from ``start`` on the file holds what it held when the checkpoint was made.

        Args:
            state: From ``state_dict``.

        Raises:
            RuntimeError: If the probe runs.
            ValueError: If it is the state of another probe.
        """
        if self._running:
            raise RuntimeError("the probe runs; load its state before it starts.")
        self._journal.insist_on_same(state["header"], "the state")
        self._pace.restore(state["pace"])
        self._recorder.step = int(state["step"])
        self._recorder.take_over(state["records"], {name: Gap(*gap) for name, gap in state["gaps"].items()})
        self._placed = True

    def _rewind(self, step: int) -> None:
        kept = [record for record in self._journal.records if record["step"] <= step] if step else []
        self._recorder.step = step
        self._recorder.take_over(kept, {})
        seconds = max((record["seconds"] for record in kept), default=0.0)
        spent = sum(record["cost"] for record in kept)
        costs = {record["measure"]: record["cost"] for record in kept if record["cost"]}
        looks = {"looking": 0.0, "look_cost": 0.0}
        self._pace.restore({"training": seconds, "probing": spent, "costs": costs, **looks})


def _cap(max_overhead: float) -> float:
    if isinstance(max_overhead, float) and math.isinf(max_overhead) and max_overhead > 0:
        raise ValueError(f"max_overhead must be finite, got {max_overhead}; pass None to measure whenever it is due.")
    return check_positive("max_overhead", max_overhead)
