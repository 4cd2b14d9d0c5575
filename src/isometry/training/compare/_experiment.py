"""An experiment as frozen dataclasses: a grid, and how it is trained.

Every entry of the grid has a ``name``, which says what it is, and a ``label``, by which tables and figures call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from isometry._base import Result
from isometry.training.compare._schedule import Schedule

__all__ = ["Data", "Entry", "Experiment", "OptimizerEntry", "ProbeSettings", "Select"]

Select: TypeAlias = Literal["final", "best"]


@dataclass(frozen=True)
class Data(Result):
    """Where the samples come from.

    Attributes:
        name: A DATA reference.
        validation: Share of the training samples that is kept for choosing the learning rate.
        samples: How many training samples to take at most, those for validation included; None: all.
        split_seed: Seed of the division, the same for all runs.
    """

    name: str
    validation: float = 0.2
    samples: int | None = None
    split_seed: int = 0


@dataclass(frozen=True)
class Entry(Result):
    """A model, an initialization or a constraint.

    Attributes:
        name: What it is.
        label: What tables call it.
        options: What else was said of it.
    """

    name: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerEntry(Entry):
    """An optimizer with the learning rates among which the best is chosen.

    Attributes:
        lr: The learning rates, ascending.
        schedule: How the learning rate goes on during a run: ``"constant"``, or ``"linear"`` or ``"cosine"`` to zero.
    """

    lr: tuple[float, ...] = ()
    schedule: Schedule = "constant"


@dataclass(frozen=True)
class ProbeSettings(Result):
    """What is measured during each training.

    Attributes:
        measures: Names of measures, or references to functions ``file.py:name``.
        every: After how many epochs; epoch 0 is always measured.
        samples: Of how many samples.
    """

    measures: tuple[str, ...]
    every: int = 1
    samples: int = 32


@dataclass(frozen=True)
class Experiment(Result):
    """A grid of models x initializations x constraints x optimizers x learning rates x seeds on one data set.

    Attributes:
        name: What it is called.
        seeds: The seeds.
        epochs: Passes over the training samples.
        batch_size: Samples per step.
        data: The data set.
        models: MODEL references.
        inits: Initializations.
        constraints: Manifolds, or "none".
        optimizers: Optimizers with their learning rates.
        select: Whether a learning rate is judged by the validation loss of the last epoch or of the best one.
        device: Where the runs are trained.
        keep_weights: Keep each run's final weights.
        probe: What is measured during training; None: nothing.
        loggers: Names of loggers that get every run's numbers.
        logger_options: Options of loggers, by name.
        folder: Where relative paths start.
    """

    name: str
    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    data: Data
    models: tuple[Entry, ...]
    inits: tuple[Entry, ...]
    constraints: tuple[Entry, ...]
    optimizers: tuple[OptimizerEntry, ...]
    select: Select = "final"
    device: str = "cpu"
    keep_weights: bool = False
    probe: ProbeSettings | None = None
    loggers: tuple[str, ...] = ()
    logger_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)
