"""The process that keeps the results: it hands out jobs, stores what comes back, and decides what follows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from isometry.training.compare._checkpoint import drop_checkpoint, weights_path
from isometry.training.compare._engine import Engine
from isometry.training.compare._events import Event, Job
from isometry.training.compare._experiment import Experiment
from isometry.training.compare._grid import Grid, Run
from isometry.training.compare._loggers import Loggers
from isometry.training.compare._samples import load_samples
from isometry.training.compare._store import Store
from isometry.training.compare._summary import choices, scores_by_lr

__all__ = ["Keeper", "Listener", "inside"]

Listener: TypeAlias = Callable[[Run, Event], None]
ATTEMPTS = 2  # of a run whose worker is lost


@dataclass
class Keeper:
    """Keeps the results while engines work."""

    store: Store
    folder: Path
    experiment: Experiment
    grid: Grid
    threads: int
    loggers: Loggers
    listener: Listener

    def train(self, engine: Engine) -> None:
        """Train what has not ended."""
        for run in self.store.runs():
            if run["status"] == "failed" and run["epochs"] == self.experiment.epochs:  # on the test set, that is
                place = self.folder / "runs" / run["id"]
                if weights_path(place, self.experiment.select).is_file():
                    self.store.forget_notes(run["id"])
                    self.store.set_status(run["id"], "finished")
        status = {run["id"]: run["status"] for run in self.store.runs()}
        self._drain(engine, [run for run in self.grid.runs if status[run.id] not in ("finished", "diverged")], "train")

    def test(self, engine: Engine) -> None:
        """Evaluate the runs of the chosen learning rates on the test set, if there is one."""
        tested = {row["run"] for row in self.store.query("SELECT DISTINCT run FROM rows WHERE split = 'test'")}
        scores = scores_by_lr(self.store, self.experiment.select)
        known = {run.id: run for run in self.grid.runs}
        wanted = [
            known[run]
            for combination, choice in choices(scores).items()
            for run, score in scores[combination][choice.lr].items()
            if score is not None and math.isfinite(score) and run in known and run not in tested
        ]
        if not wanted or not self._has_test():
            return
        gone = [run for run in wanted if not weights_path(self._place(run), self.experiment.select).is_file()]
        self._drain(engine, gone, "train")  # chosen anew by seeds that came later: trained again, to the same end
        self._drain(engine, [run for run in wanted if self._status(run) == "finished"], "test")

    def _has_test(self) -> bool:
        data = self.experiment.data
        with inside(self.experiment.folder):
            first = self.experiment.models[0].name
            return load_samples(data.name, data.validation, data.samples, data.split_seed, first).test is not None

    def _drain(self, engine: Engine, runs: list[Run], task: Literal["train", "test"]) -> None:
        """Hand jobs to the engine and store what it tells until all have ended."""
        jobs = {run.id: self._job(run, task) for run in runs}
        known = {run.id: run for run in runs}
        lost: Counter[str] = Counter()
        begun: set[str] = set()
        for run in runs:
            engine.submit(jobs[run.id])
        while jobs:
            event = engine.next()
            run = known[event.run]
            if task == "train" and run.id not in begun:
                begun.add(run.id)
                self._begin(run)
            if event.kind == "death":
                lost[run.id] += 1
                if lost[run.id] < ATTEMPTS:
                    note = f"{event.notes[0]}; it went on from its last whole epoch"
                    self.store.apply(dataclasses.replace(event, notes=(note,)))
                    self.listener(run, event)
                    engine.submit(jobs[run.id], first=True)
                    continue
                why = f"{event.notes[0]} {lost[run.id]} times"
                event = Event("end", run.id, notes=(why,), status="failed")
                self.store.forget_notes(run.id)  # that it went on
            self._store(run, event, task)
            self.listener(run, event)
            if event.kind == "end":
                del jobs[run.id]

    def _begin(self, run: Run) -> None:
        if self._status(run) == "failed":  # it is tried again
            self.store.forget_notes(run.id)
        self.store.set_status(run.id, "running", attempt=True)

    def _store(self, run: Run, event: Event, task: str) -> None:
        self.loggers.begin(run.id, str(run), run.options, lambda: self.store.past(run.id))
        self.store.apply(event)
        self.loggers.tell(event)
        if event.kind == "end":
            if task == "train" or event.status == "failed":
                self.store.set_status(run.id, event.status)
            self.loggers.end(run.id, event.status)
            if event.status != "failed" and task == "train":
                drop_checkpoint(self._place(run))

    def _status(self, run: Run) -> str:
        return str(self.store.query("SELECT status FROM runs WHERE id = ?", (run.id,))[0]["status"])

    def _job(self, run: Run, task: Literal["train", "test"]) -> Job:
        probe = self.experiment.probe
        return Job(
            task=task,
            run=run.id,
            options=run.options,
            folder=str(self._place(run)),
            base=str(self.experiment.folder.resolve()),
            weights=self.experiment.select,
            probe=None if probe is None else probe.to_dict(),
            threads=self.threads,
        )

    def _place(self, run: Run) -> Path:
        return self.folder / "runs" / run.id

    def clean(self) -> None:
        """Remove the folders of runs that have ended, unless their weights are to be kept."""
        for run in self.grid.runs:
            if self._status(run) not in ("finished", "diverged"):
                continue
            if not self.experiment.keep_weights:
                shutil.rmtree(self._place(run), ignore_errors=True)
            for part in self._place(run).glob(".*.part"):  # of a process that was killed while it wrote
                part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are left in it
            (self.folder / "runs").rmdir()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Do something in a folder, where the experiment's relative paths start.

    Yields:
        Nothing.
    """
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
