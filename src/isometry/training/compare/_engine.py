"""Who does the jobs: this process, or worker processes of this machine.

An engine takes jobs and gives events back, whichever worker they come from. That a worker died is an event, too; what
follows from it is decided by whoever keeps the results.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch

from isometry.training.compare._events import Event, Job
from isometry.training.compare._train import perform

__all__ = ["Engine", "Inline", "Workers", "at_home"]


class Engine(Protocol):
    """What does jobs."""

    def submit(self, job: Job, *, first: bool = False) -> None:
        """Take a job; it is begun when there is room, with ``first`` before those that wait already."""

    def next(self) -> Event:
        """Wait for the next event of any job."""

    def close(self) -> None:
        """Stop; jobs that are not done are left as their checkpoints have them."""


@contextlib.contextmanager
def at_home(job: Job) -> Iterator[None]:
    """Do something in the folder of the experiment, with the job's number of threads.

    Yields:
        Nothing.
    """
    before, threads = os.getcwd(), torch.get_num_threads()
    os.chdir(job.base)
    torch.set_num_threads(job.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.chdir(before)


class Inline:
    """Does one job after the other in this process."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._current: Iterator[Event] | None = None

    def submit(self, job: Job, *, first: bool = False) -> None:
        """Take a job."""
        (self._jobs.appendleft if first else self._jobs.append)(job)

    def next(self) -> Event:
        """Go on with the current job to its next event.

        Returns:
            The event.
        """
        job = self._jobs[0]
        with at_home(job):
            if self._current is None:
                self._current = perform(job)
            event = next(self._current)
        if event.kind == "end":
            self._jobs.popleft()
            self._current = None
        return event

    def close(self) -> None:
        """Leave the current job."""
        self._current = None
        self._jobs.clear()


class _Worker:
    """A process that does one job at a time."""

    def __init__(self, context: multiprocessing.context.SpawnContext) -> None:
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the death of the process ends the pipe
        self.job: Job | None = None


class Workers:
    """Spawned processes, each with its own pipe: one that is killed can then neither hold a lock nor spoil a queue.

    Args:
        count: How many at most; they are started as there is work.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job, *, first: bool = False) -> None:
        """Take a job."""
        (self._jobs.appendleft if first else self._jobs.append)(job)

    def next(self) -> Event:
        """Hand out what can be begun, and wait for the next event.

        Returns:
            The event.
        """
        while True:
            self._hand_out()
            busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                try:
                    event: Event = worker.connection.recv()
                except (EOFError, OSError):
                    return self._bury(worker)
                if event.kind == "end":
                    worker.job = None
                return event

    def _hand_out(self) -> None:
        while self._jobs:
            idle = next((w for w in self._workers if w.job is None), None)
            if idle is None and len(self._workers) >= self._count:
                return
            if idle is None:
                idle = _Worker(self._context)
                self._workers.append(idle)
            try:
                idle.connection.send(self._jobs[0])
            except (BrokenPipeError, OSError):  # it died while it had nothing to do
                self._workers.remove(idle)
                continue
            idle.job = self._jobs.popleft()

    def _bury(self, worker: _Worker) -> Event:
        assert worker.job is not None  # noqa: S101 - idle workers are not waited for
        worker.process.join()
        self._workers.remove(worker)
        worker.connection.close()
        code = worker.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Event("death", worker.job.run, notes=(f"its worker was {how}" if code < 0 else f"its worker {how}",))

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.process.kill()  # what they have done is on the disk
            worker.process.join()
            worker.connection.close()
        self._workers.clear()
        self._jobs.clear()


def _work(connection: Connection) -> None:
    """Do jobs until the pipe ends; Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job: Job = connection.recv()
            with at_home(job):
                for event in perform(job):
                    connection.send(event)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, in the middle of an epoch, too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
