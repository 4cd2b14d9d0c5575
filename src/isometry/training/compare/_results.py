"""What an experiment has found: choices, tables, curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isometry._base import Result
from isometry.training.compare._choose import Choice, Interval
from isometry.training.compare._grid import Combination, short_names

__all__ = ["Band", "Comparison", "Entered"]


@dataclass(frozen=True)
class Band(Result):
    """A quantity over the epochs: the mean over the seeds, and the lowest and highest of them.

    Attributes:
        name: ``train/loss``, ``validation/accuracy``, ``fisher/lambda_max``, ...
        epochs: Epochs.
        mean: Mean over the seeds that have a finite value there.
        low: The lowest.
        high: The highest.
    """

    name: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Entered(Result):
    """One combination of the grid.

    Attributes:
        combination: The labels of model, init, constraint and optimizer.
        choice: Its learning rate; None where none can be judged.
        runs: How many runs the chosen learning rate has, one a seed.
        diverged: How many of them diverged; the numbers below are of the others.
        numbers: By ``validation/loss``, ``test/accuracy``, ...: at the epoch that counts.
        sensitivity: For each learning rate the validation loss over the seeds that did not diverge.
        diverged_by_lr: For each learning rate how many seeds diverged.
        curves: Losses and accuracies of the chosen learning rate over the epochs.
        probe: What the probe measured there.
    """

    combination: Combination
    choice: Choice | None
    runs: int
    diverged: int
    numbers: Mapping[str, Interval]
    sensitivity: Mapping[float, Interval]
    diverged_by_lr: Mapping[float, int]
    curves: tuple[Band, ...]
    probe: tuple[Band, ...]


@dataclass(frozen=True)
class Comparison(Result):
    """The results of an experiment.

    Attributes:
        name: The experiment's name.
        folder: Where its results are.
        settings: The experiment, as plain data.
        entries: The combinations, in the grid's order.
        runs: How many runs there are.
        ended: How many have ended, diverged ones included.
        failures: Runs that failed, each with what it said.
        notes: What else there is to say.
        left_out: What of the grid was not trained, and why.
        versions: Of isometry and torch.
        seconds: Time of training, summed over the runs.
    """

    name: str
    folder: str
    settings: Mapping[str, Any]
    entries: tuple[Entered, ...]
    runs: int
    ended: int
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: float

    @property
    def names(self) -> tuple[str, ...]:
        """A short name for each combination: the labels in which they differ."""
        return short_names([entry.combination for entry in self.entries])

    def table(self) -> list[dict[str, Any]]:
        """Lay the combinations out as rows.

        Returns:
            One mapping a combination: its labels, ``lr``, ``edge``, ``runs``, ``diverged``, and for each number its
            mean with ``_low`` and ``_high``.
        """
        rows = []
        for entry in self.entries:
            row: dict[str, Any] = dict(zip(Combination._fields, entry.combination, strict=True))
            row["lr"] = None if entry.choice is None else entry.choice.lr
            row["edge"] = None if entry.choice is None else entry.choice.edge
            row |= {"runs": entry.runs, "diverged": entry.diverged}
            for name, found in entry.numbers.items():
                row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_n": found.n}
            rows.append(row)
        return rows

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.ended} of {self.runs} runs have ended"]
        for entry in self.entries:
            lr = "no learning rate yet" if entry.choice is None else f"lr {entry.choice.lr:g}"
            numbers = ", ".join(f"{name} {found}" for name, found in entry.numbers.items())
            lines.append(f"  {entry.combination}: {lr}; {numbers or 'no numbers yet'}")
        lines += [f"  failed: {run}: {why}" for run, why in self.failures]
        return "\n".join(lines)
