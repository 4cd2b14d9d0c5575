"""From the database of an experiment to what it has found."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isometry.training.compare._choose import Choice, Interval, choose_lr, interval
from isometry.training.compare._grid import Combination
from isometry.training.compare._results import Band, Comparison, Entered
from isometry.training.compare._store import DATABASE, Store

__all__ = ["choices", "read_results", "scores_by_lr", "summarize"]


def read_results(folder: str | Path) -> Comparison:
    """Read what an experiment has found so far; it may still be running.

    Args:
        folder: The folder of its results.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If the database is damaged, or not one of these.
    """
    with Store(Path(folder) / DATABASE) as store:
        return summarize(store, Path(folder))


def scores_by_lr(store: Store, select: str) -> dict[Combination, dict[float, dict[str, float | None]]]:
    """Give the validation loss by which each run is judged.

    Args:
        store: The database.
        select: ``"final"`` or ``"best"``.

    Returns:
        By combination, learning rate and run: the loss, infinite if it diverged, None if it failed or has not ended.
    """
    losses: dict[str, list[float]] = defaultdict(list)
    rows = store.query(
        "SELECT run, value FROM rows WHERE split = 'validation' AND metric = 'loss' AND epoch > 0 ORDER BY run, epoch"
    )
    for row in rows:
        losses[row["run"]].append(math.nan if row["value"] is None else row["value"])
    found: dict[Combination, dict[float, dict[str, float | None]]] = {}
    for run in store.runs():
        score: float | None = None
        if run["status"] == "diverged":
            score = math.inf
        elif run["status"] == "finished":
            score = min(losses[run["id"]]) if select == "best" else losses[run["id"]][-1]
        found.setdefault(combination_of(run), {}).setdefault(run["lr"], {})[run["id"]] = score
    return found


def choices(scores: Mapping[Combination, Mapping[float, Mapping[str, float | None]]]) -> dict[Combination, Choice]:
    """Choose a learning rate for every combination that can be judged.

    Args:
        scores: From ``scores_by_lr``.

    Returns:
        Choices by combination.
    """
    found = {c: choose_lr({lr: list(runs.values()) for lr, runs in rates.items()}) for c, rates in scores.items()}
    return {combination: choice for combination, choice in found.items() if choice is not None}


def combination_of(run: Mapping[str, Any]) -> Combination:
    """Read the labels in a row of the table ``runs``.

    Args:
        run: The row.

    Returns:
        The combination.
    """
    return Combination(run["model"], run["init"], run["constraint"], run["optimizer"])


def summarize(store: Store, folder: Path) -> Comparison:
    """Read everything that tables and figures show.

    Args:
        store: The database.
        folder: Where it lies.

    Returns:
        The comparison.
    """
    settings = json.loads(store.recall("experiment") or "{}")
    runs = store.runs()
    scores = scores_by_lr(store, settings.get("select", "final"))
    chosen = choices(scores)
    entries = tuple(_entered(store, c, rates, chosen.get(c), settings) for c, rates in scores.items())
    texts = {(n["run"], n["text"]): n["text"] for n in store.query("SELECT run, text FROM notes")}
    failed = [run for run in runs if run["status"] == "failed"]
    failures = [
        (_named(run), "; ".join(t for (r, t) in texts if r == run["id"]) or "no reason known") for run in failed
    ]
    others = [(run, text) for run in runs if run["status"] != "failed" for (r, text) in texts if r == run["id"]]
    seconds = sum(run["seconds"] for run in runs)
    return Comparison(
        name=settings.get("name", folder.name),
        folder=str(folder),
        settings=settings,
        entries=entries,
        runs=len(runs),
        ended=sum(run["status"] in ("finished", "diverged") for run in runs),
        failures=tuple(failures),
        notes=_gathered(others),
        left_out=tuple(json.loads(store.recall("left_out") or "[]")),
        versions=json.loads(runs[0]["versions"]) if runs else {},
        seconds=seconds,
    )


def _named(run: Mapping[str, Any]) -> str:
    return f"{combination_of(run)} | lr {run['lr']:g} | seed {run['seed']}"


def _gathered(notes: Sequence[tuple[Mapping[str, Any], str]]) -> tuple[str, ...]:
    """Put equal notes of several runs into one.

    Returns:
        Sentences.
    """
    by_text: dict[str, list[Mapping[str, Any]]] = {}
    for run, text in notes:
        by_text.setdefault(text, []).append(run)
    return tuple(
        f"{_named(runs[0])}{f' and {len(runs) - 1} more' if len(runs) > 1 else ''}: {text}"
        for text, runs in by_text.items()
    )


def _entered(
    store: Store,
    combination: Combination,
    rates: Mapping[float, Mapping[str, float | None]],
    choice: Choice | None,
    settings: Mapping[str, Any],
) -> Entered:
    runs = rates[choice.lr] if choice is not None else {}
    good = [run for run, score in runs.items() if score is not None and math.isfinite(score)]
    sensitivity = {
        lr: interval([s for s in of.values() if s is not None and math.isfinite(s)]) for lr, of in rates.items()
    }
    return Entered(
        combination=combination,
        choice=choice,
        runs=len(runs),
        diverged=_diverged(runs),
        numbers=_numbers(store, good, settings.get("select", "final")),
        sensitivity=dict(sorted(sensitivity.items())),
        diverged_by_lr={lr: _diverged(of) for lr, of in sorted(rates.items())},
        curves=_bands(store, list(runs), "SELECT run, epoch, split || '/' || metric AS name, value FROM rows"),
        probe=_bands(store, list(runs), "SELECT run, epoch, measure || '/' || quantity AS name, value FROM probe"),
    )


def _diverged(runs: Mapping[str, float | None]) -> int:
    return sum(score == math.inf for score in runs.values())


def _numbers(store: Store, runs: Sequence[str], select: str) -> dict[str, Interval]:
    """Take every number of some runs at the epoch that counts: the last, or the one of the lowest validation loss.

    Returns:
        Intervals over the runs.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        rows = store.query("SELECT epoch, split, metric, value FROM rows WHERE run = ? ORDER BY epoch", (run,))
        losses = {r["epoch"]: r["value"] for r in rows if (r["split"], r["metric"]) == ("validation", "loss")}
        losses.pop(0, None)
        at = min(losses, key=lambda e: losses[e]) if select == "best" else max(losses)
        for split in ("train", "validation", "test"):
            for r in rows:
                if r["split"] == split and (split == "test" or r["epoch"] == at) and r["value"] is not None:
                    values.setdefault(f"{split}/{r['metric']}", []).append(r["value"])
    return {name: interval(found) for name, found in values.items()}


def _bands(store: Store, runs: Sequence[str], sql: str) -> tuple[Band, ...]:
    marks = ", ".join("?" * len(runs))
    series: dict[str, dict[int, list[float]]] = {}
    for row in store.query(f"{sql} WHERE run IN ({marks}) ORDER BY name, epoch", list(runs)):
        if row["value"] is not None and math.isfinite(row["value"]):
            series.setdefault(row["name"], {}).setdefault(row["epoch"], []).append(row["value"])
    return tuple(
        Band(
            name,
            tuple(epochs),
            tuple(sum(v) / len(v) for v in epochs.values()),
            tuple(map(min, epochs.values())),
            tuple(map(max, epochs.values())),
        )
        for name, epochs in series.items()
        if not name.startswith("test/")
    )
