"""Jobs on Ray: a task for each, on one machine or on a cluster.

The process that started the experiment keeps the results; tasks stream their events to it. Checkpoints lie in the
experiment's folder, which all machines must see under the same path.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from isometry.training.compare._engine import at_home
from isometry.training.compare._events import Event, Job
from isometry.training.compare._train import perform

__all__ = ["RayTasks"]


class RayTasks:
    """Jobs as tasks of Ray.

    Where Ray is not running yet it is started, or joined if RAY_ADDRESS names a cluster; what was started here is
    stopped at the end.

    Args:
        count: How many tasks at a time, at most; None: as many as Ray has CPUs for.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, count: int | None) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError("--engine ray needs Ray, which is not installed; pip install 'isometry[ray]'.") from error
        self._started = not self._ray.is_initialized()
        if self._started:
            self._ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        self._count = count
        self._jobs: deque[Job] = deque()
        self._running: dict[Any, Job] = {}

    def submit(self, job: Job, *, first: bool = False) -> None:
        """Take a job."""
        (self._jobs.appendleft if first else self._jobs.append)(job)

    def next(self) -> Event:
        """Hand out what can be begun, and wait for the next event.

        Returns:
            The event.
        """
        while True:
            while self._jobs and (self._count is None or len(self._running) < self._count):
                self._begin(self._jobs.popleft())
            (stream,), _ = self._ray.wait(list(self._running), num_returns=1)
            job = self._running[stream]
            try:
                event: Event = self._ray.get(next(stream))
            except StopIteration:
                del self._running[stream]
                continue
            except self._ray.exceptions.RayError as error:
                del self._running[stream]
                cause = getattr(error, "cause", None)  # of an error in the task, outside of the run itself
                why = type(error).__name__ if cause is None else f"{type(cause).__name__}: {cause}"
                return Event("death", job.run, notes=(f"its Ray task was lost ({why})",))
            if event.kind == "end":
                del self._running[stream]
            return event

    def _begin(self, job: Job) -> None:
        gpus = 1 if job.options["device"].startswith("cuda") else 0
        # Retries are ours: Ray's own would begin the stream of events again.
        task = self._ray.remote(num_cpus=job.threads, num_gpus=gpus, max_retries=0, num_returns="streaming")(_events)
        self._running[task.remote(job)] = job

    def close(self) -> None:
        """Cancel what runs."""
        for stream in self._running:
            self._ray.cancel(stream, force=True)
        self._running.clear()
        self._jobs.clear()
        if self._started:
            self._ray.shutdown()


def _events(job: Job) -> Iterator[Event]:
    with at_home(job):
        yield from perform(job)
