"""The runs of an experiment: the product of its parts, each run with an identity of its own.

A run's identity is a digest of everything that its result depends on, so it stays the same when the grid grows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from isometry._base import Result
from isometry.training.compare._choices import knows_manifolds
from isometry.training.compare._experiment import Entry, Experiment, OptimizerEntry

__all__ = ["Combination", "Grid", "MOST_RUNS", "Run", "expand", "identity", "insist_on_same", "short_names"]

MOST_RUNS = 100_000  # all of them are held in memory


class Combination(NamedTuple):
    """What is compared: everything but learning rate and seed, by label."""

    model: str
    init: str
    constraint: str
    optimizer: str

    def __str__(self) -> str:
        return " | ".join(part for part in self if part not in ("default", "none"))


def short_names(combinations: Sequence[Combination]) -> tuple[str, ...]:
    """Name combinations by the labels in which they differ.

    Args:
        combinations: All of them.

    Returns:
        Their names; a single one has its full name.
    """
    varying = [i for i, labels in enumerate(zip(*combinations, strict=True)) if len(set(labels)) > 1]
    return tuple(" | ".join(combination[i] for i in varying) or str(combination) for combination in combinations)


@dataclass(frozen=True)
class Run(Result):
    """One training.

    Attributes:
        id: Digest of all that its result depends on.
        combination: The labels of its parts.
        lr: Learning rate.
        seed: Seed.
        options: All that its result depends on, as plain data.
    """

    id: str
    combination: Combination
    lr: float
    seed: int
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.combination} | lr {self.lr:g} | seed {self.seed}"


@dataclass(frozen=True)
class Grid(Result):
    """The runs, and what of the product makes no sense.

    Attributes:
        runs: The runs.
        left_out: Combinations that are not trained, each with the reason.
    """

    runs: tuple[Run, ...]
    left_out: tuple[str, ...]

    @property
    def labels(self) -> dict[str, str]:
        """By the runs' ids: what tells one from the others, in short."""
        names = short_names([run.combination for run in self.runs])
        return {run.id: f"{name} | lr {run.lr:g} | seed {run.seed}" for run, name in zip(self.runs, names, strict=True)}


def expand(experiment: Experiment) -> Grid:
    """Multiply an experiment out.

    A constraint goes with optimizers that know manifolds alone; other pairs are left out, and listed.

    Args:
        experiment: The experiment.

    Returns:
        The runs, seeds innermost.

    Raises:
        ValueError: If nothing is left to train, two entries are the same but for their labels, or there are too many
            runs.
    """
    _insist_on_measure(experiment)
    for key, kind in _GRID.items():
        _insist_on_different(kind, getattr(experiment, key))
    runs, left_out = [], []
    parts = itertools.product(experiment.models, experiment.inits, experiment.constraints, experiment.optimizers)
    for model, init, constraint, optimizer in parts:
        labels = Combination(model.label, init.label, constraint.label, optimizer.label)
        if constraint.name != "none" and not knows_manifolds(optimizer.name):
            left_out.append(f"{labels}: {optimizer.name} does not keep weights on a manifold")
            continue
        for lr, seed in itertools.product(optimizer.lr, experiment.seeds):
            options = {
                **_shared(experiment),
                "model": _plain(model),
                "init": _plain(init),
                "constraint": _plain(constraint),
                "optimizer": {**_plain(optimizer), "schedule": optimizer.schedule},
                "lr": lr,
                "seed": seed,
            }
            runs.append(Run(_digest(options), labels, lr, seed, options))
    if not runs:
        raise ValueError(
            f"the experiment has nothing to train: {'; '.join(left_out)}. Add constraint 'none', or an optimizer of "
            "isometry.optim that knows manifolds."
        )
    return Grid(tuple(runs), tuple(left_out))


def _insist_on_measure(experiment: Experiment) -> None:
    """Refuse a grid that would not even fit into memory, before it is multiplied out.

    Raises:
        ValueError: If it has more than ``MOST_RUNS`` runs.
    """
    rates = sum(len(optimizer.lr) for optimizer in experiment.optimizers)
    parts = (experiment.models, experiment.inits, experiment.constraints, experiment.seeds)
    runs = rates * math.prod(map(len, parts))
    if runs > MOST_RUNS:
        raise ValueError(
            f"the experiment has {runs:,} runs, more than {MOST_RUNS:,}; take fewer seeds, learning rates or entries."
        )


def _insist_on_different(kind: str, entries: Sequence[Entry]) -> None:
    """Refuse entries that differ in their labels alone: their runs would be one and the same.

    Raises:
        ValueError: If there are two such entries.
    """
    for one, two in itertools.combinations(entries, 2):
        both = _plain(one) == _plain(two)
        what = f"name {one.name!r}" + "".join(f", {key} = {value!r}" for key, value in one.options.items())
        if isinstance(one, OptimizerEntry) and isinstance(two, OptimizerEntry):
            common = [f"{lr:g}" for lr in one.lr if lr in two.lr]
            both = both and one.schedule == two.schedule and bool(common)
            what += f" and lr {', '.join(common)}"
        if both:
            raise ValueError(
                f"the tables [[{kind}]] {one.label!r} and {two.label!r} have the same {what}, so they would train the "
                "same runs; leave one out, or change more than the label."
            )


def _shared(experiment: Experiment) -> dict[str, Any]:
    return {
        "data": experiment.data.to_dict(),
        "epochs": experiment.epochs,
        "batch_size": experiment.batch_size,
        "device": experiment.device,
    }


def _plain(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "options": dict(entry.options)}


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


_GRID = {"models": "model", "inits": "init", "constraints": "constraint", "optimizers": "optimizer"}


def identity(experiment: Experiment) -> dict[str, Any]:
    """Describe an experiment by what must not change under results that are there already.

    Args:
        experiment: The experiment.

    Returns:
        Plain data: settings, entries of the grid, and digests of the users' source files that it names.
    """
    plain: dict[str, Any] = json.loads(json.dumps(replace(experiment, folder=Path()).to_dict()))
    for key in ("folder", "loggers", "logger_options"):
        del plain[key]
    references = [experiment.data.name, *(m.name for m in experiment.models)]
    references += experiment.probe.measures if experiment.probe is not None else ()
    plain["sources"] = {}
    for reference in references:
        source, _, _ = reference.rpartition(":")
        if source.endswith(".py") and (experiment.folder / source).is_file():
            content = (experiment.folder / source).read_bytes()
            plain["sources"][source] = hashlib.blake2b(content, digest_size=12).hexdigest()
        elif (experiment.folder / reference).is_file():
            plain["sources"][reference] = f"{(experiment.folder / reference).stat().st_size} bytes"
    return plain


def insist_on_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Let an experiment grow between two calls, and refuse any other change.

    Entries, learning rates and seeds may be added, since no run depends on another one.

    Args:
        before: What the results were made by.
        now: What is asked for.

    Raises:
        _changed: A ValueError, if anything else differs; it says what was and is.
    """
    for key, value in before.items():
        if key in _GRID:
            _same_entries(_GRID[key], value, now[key])
        elif key == "seeds":
            gone = [seed for seed in value if seed not in now[key]]
            if gone:
                raise _changed(f"seeds {gone} are gone")
        elif key == "sources":
            for file, digest in value.items():
                if now[key].get(file, digest) != digest:
                    raise _changed(f"{file} is not the file that it was")
        elif value != now.get(key):
            inner = _first_difference(value, now.get(key), key)
            raise _changed(inner)


def _same_entries(kind: str, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    known = {entry["label"]: entry for entry in now}
    for entry in before:
        again = known.get(entry["label"])
        if again is None:
            raise _changed(f"the {kind} {entry['label']!r} is gone")
        gone = [lr for lr in entry.get("lr", []) if lr not in again.get("lr", [])]
        if gone:
            raise _changed(f"the {kind} {entry['label']!r} lost the learning rates {gone}")
        differing = [key for key in ("name", "options", "schedule") if entry.get(key) != again.get(key)]
        if differing:
            key = differing[0]
            raise _changed(f"the {kind} {entry['label']!r} had {key} {entry[key]!r}, now {again[key]!r}")


def _first_difference(before: Any, now: Any, key: str) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                return _first_difference(before.get(name), now.get(name), f"{key}.{name}")
    return f"{key} was {before!r}, now {now!r}"


def _changed(what: str) -> ValueError:
    return ValueError(
        f"the experiment is not the one that made these results: {what}. Put it back, or give another --out; only "
        "entries, learning rates and seeds may be added."
    )
