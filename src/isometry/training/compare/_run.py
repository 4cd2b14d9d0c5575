"""Run an experiment: train the grid, choose learning rates, look at the test set, write the results.

One process keeps the results; engines train. A run that has ended is safe, whatever happens afterwards, and one that
was interrupted goes on from its last whole epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from isometry._base import unknown_name
from isometry.training.compare._engine import Engine, Inline, Workers
from isometry.training.compare._experiment import Experiment
from isometry.training.compare._export import export
from isometry.training.compare._grid import Grid, expand, identity, insist_on_same
from isometry.training.compare._keeper import Keeper, Listener, inside
from isometry.training.compare._loggers import Loggers
from isometry.training.compare._parts import check_parts
from isometry.training.compare._results import Comparison
from isometry.training.compare._store import DATABASE, Store
from isometry.training.compare._summary import summarize

__all__ = ["EngineName", "Listener", "run_experiment"]

EngineName: TypeAlias = Literal["local", "ray"]


def run_experiment(
    experiment: Experiment,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    engine: EngineName = "local",
    workers: int | None = None,
    threads: int = 1,
    listener: Listener | None = None,
    started: Callable[[], None] | None = None,
) -> Comparison:
    """Train every run of an experiment, choose a learning rate for each combination, and evaluate those on test data.

    The learning rate with the lowest mean validation loss over the seeds is chosen; the test set is looked at for it
    alone. Results do not depend on the number of workers, on the engine, on their order or on interruptions; on a GPU
    this holds as far as its kernels are deterministic.

    Workers are spawned, so a script that calls this must do so under ``if __name__ == "__main__":``.

    Args:
        experiment: What to run.
        out: The folder of the results: ``results.sqlite`` while it runs, CSV and Parquet at the end.
        resume: Go on with the results that are there, if any. The experiment may have grown, but not changed otherwise.
        engine: ``"local"``: processes of this machine; ``"ray"``: tasks of Ray.
        workers: How many runs at a time; 0 trains in this process. Default: with "local" as many as this process may
            use CPUs, at most 8 and at most one a run; with "ray" what Ray has room for.
        threads: Of torch, for each run.
        listener: Called with every event of every run, after it was stored.
        started: Called once, when nothing was refused and the folder of the results is open.

    Returns:
        What was found.

    Raises:
        FileExistsError: If there are results and ``resume`` is off.
        ValueError: If an option is out of range, a part of the grid cannot be built, or the results are of another
            experiment.
        OSError: If the results cannot be written; what was stored is safe.
        unknown_name: A ValueError with near matches, for an unknown engine.

    Example:
        >>> from isometry.training import compare
        >>> experiment = compare.read_experiment("examples/compare_inits.toml")  # doctest: +SKIP
        >>> print(compare.run_experiment(experiment, "results"))  # doctest: +SKIP
    """
    if engine not in get_args(EngineName):
        raise unknown_name("engine", engine, get_args(EngineName))
    if threads < 1 or (workers is not None and workers < 0):
        raise ValueError(f"threads must be at least 1 and workers at least 0, got {threads} and {workers}.")
    if engine == "ray" and workers == 0:
        raise ValueError("workers = 0 trains in this process, which Ray does not; leave it out, or give at least 1.")
    grid = expand(experiment)
    folder = Path(out).resolve()
    if (folder / DATABASE).exists() and not resume:
        raise FileExistsError(
            f"{str(folder)!r} holds results already; go on with them (--resume), or give another folder (--out)."
        )
    with inside(experiment.folder):
        check_parts(experiment, grid)
    # What may be missing is missed here, before there is a folder of results.
    loggers = Loggers(experiment.loggers, experiment.logger_options, folder / "logs", experiment.name)
    with contextlib.closing(loggers), contextlib.closing(_engine(engine, workers, len(grid.runs))) as working:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder), Store(folder / DATABASE, write=True) as store:
            _enter(store, experiment, grid)
            if started is not None:
                started()
            keeper = Keeper(store, folder, experiment, grid, threads, loggers, listener or (lambda *_: None))
            keeper.train(working)
            keeper.test(working)
            keeper.clean()
            lacking = export(store, folder)
            found = summarize(store, folder)
    return dataclasses.replace(found, notes=(*found.notes, *lacking))


def _engine(name: EngineName, workers: int | None, runs: int) -> Engine:
    if name == "ray":
        from isometry.training.compare._ray import RayTasks

        return RayTasks(workers)
    if workers == 0:
        return Inline()
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return Workers(min(workers, runs))


def _enter(store: Store, experiment: Experiment, grid: Grid) -> None:
    now = identity(experiment)
    before = store.recall("experiment")
    if before is not None:
        insist_on_same(json.loads(before), now)
    store.remember("experiment", json.dumps(now))
    store.remember("left_out", json.dumps(grid.left_out))
    store.enter(grid.runs)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process from writing to the same results; the system lifts the lock when this one ends.

    Yields:
        Nothing.

    Raises:
        OSError: If another process runs this experiment.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows; SQLite keeps the database whole there, too
        yield
        return
    file: Any
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(
                f"another process is running the experiment in {str(folder)!r}; wait for it, or give another --out."
            ) from error
        yield
