"""Loggers of Lightning, fed from the results as they are stored: one logger a run.

They live in the process that keeps the results, so none of them has to cope with several processes.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isometry.training.compare._events import Event

__all__ = ["Loggers"]

_CLASSES = {"csv": "CSVLogger", "tensorboard": "TensorBoardLogger", "mlflow": "MLFlowLogger", "wandb": "WandbLogger"}


class Loggers:
    """What the loggers of an experiment are told.

    Args:
        names: Of ``csv``, ``tensorboard``, ``mlflow``, ``wandb``.
        options: More for each logger's constructor.
        folder: Where those that write files write them.
        experiment: Its name.

    Raises:
        ImportError: If there are names and Lightning is not installed.
    """

    def __init__(
        self, names: Sequence[str], options: Mapping[str, Mapping[str, Any]], folder: Path, experiment: str
    ) -> None:
        self._names, self._options, self._folder, self._experiment = names, options, folder, experiment
        self._open: dict[str, dict[str, Any]] = {}
        # Of each logger and run. A run that goes on tells its past once more.
        self._told: dict[tuple[str, str], set[tuple[int, str]]] = {}
        if names:
            try:
                self._library: Any = importlib.import_module("lightning.pytorch.loggers")
            except ImportError as error:
                raise ImportError(
                    f"the loggers {', '.join(names)} are Lightning's, which is not installed; pip install "
                    "'isometry[train]', or leave [log] out: the results database needs no logger."
                ) from error

    def begin(self, run: str, label: str, options: Mapping[str, Any], past: Callable[[], Event]) -> None:
        """Open a run's loggers, if there are any.

        Args:
            run: Its id.
            label: Its name.
            options: What it depends on.
            past: Gives all that is stored of it, for a logger that begins its file anew.
        """
        if not self._names or run in self._open:
            return
        self._open[run] = {name: self._make(name, run, label) for name in self._names}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # it is written anew, with the past
            for logger in self._open[run].values():
                logger.log_hyperparams(_flat(options))
        if "csv" in self._names:
            self._told.pop(("csv", run), None)
            self._pass_on("csv", past())

    def _make(self, name: str, run: str, label: str) -> Any:
        where = {"save_dir": str(self._folder)}
        own = {
            "csv": {**where, "name": "csv", "version": run},
            "tensorboard": {**where, "name": "tensorboard", "version": run},
            "mlflow": {
                "save_dir": str(self._folder / "mlruns"),
                "experiment_name": self._experiment,
                "run_name": label,
            },
            "wandb": {
                **where,
                "project": self._experiment,
                "id": run,
                "name": label,
                "resume": "allow",
                "reinit": "create_new",
            },
        }[name]
        make = getattr(self._library, _CLASSES[name])
        return make(**(own | dict(self._options.get(name, {}))))

    def tell(self, event: Event) -> None:
        """Pass a run's numbers on: the step is the epoch."""
        for name in self._open.get(event.run, ()):
            self._pass_on(name, event)

    def _pass_on(self, name: str, event: Event) -> None:
        told = self._told.setdefault((name, event.run), set())
        by_epoch: dict[int, dict[str, float]] = {}
        for row in event.rows:
            by_epoch.setdefault(row.epoch, {})[f"{row.split}/{row.metric}"] = row.value
        for found in event.probe:
            by_epoch.setdefault(found.epoch, {})[f"probe/{found.measure}/{found.quantity}"] = found.value
        for epoch, numbers in sorted(by_epoch.items()):
            fresh = {key: value for key, value in numbers.items() if (epoch, key) not in told}
            told.update((epoch, key) for key in fresh)
            if fresh:
                self._open[event.run][name].log_metrics(fresh, step=epoch)

    def end(self, run: str, status: str) -> None:
        """Close a run's loggers."""
        for logger in self._open.pop(run, {}).values():
            logger.save()
            logger.finalize("success" if status == "finished" else "failed")

    def close(self) -> None:
        """Close what is open."""
        for run in list(self._open):
            self.end(run, "interrupted")


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
