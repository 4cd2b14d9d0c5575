"""An experiment file (TOML), read and checked; what is not understood is an error that names it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from isometry._base import TomlTable, read_toml, unknown_name
from isometry.training._probe_measures import BUILT_IN
from isometry.training.compare._choices import CONSTRAINTS, INITS, needed_options, optimizer_class, optimizer_options
from isometry.training.compare._experiment import Data, Entry, Experiment, OptimizerEntry, ProbeSettings, Select
from isometry.training.compare._grid import MOST_RUNS
from isometry.training.compare._schedule import SCHEDULES, Schedule

__all__ = ["read_experiment"]

LOGGERS = ("csv", "tensorboard", "mlflow", "wandb")


def read_experiment(path: str | Path) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: The TOML file.

    Returns:
        The experiment.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, or a key or value is missing, unknown or out of range; the message names the
            table, the key and the nearest match.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no experiment file {str(file)!r}; check the path (now in {Path.cwd()}).")
    top = read_toml(file)
    log = top.table("log") if "log" in top.values else TomlTable({}, file.name)
    found = Experiment(
        name=top.take("name", str, file.stem),
        seeds=_seeds(top),
        epochs=_whole(top, "epochs"),
        batch_size=_whole(top, "batch_size", 64),
        select=cast("Select", top.choice("select", ("final", "best"), "final")),
        device=_device(top),
        keep_weights=top.take("keep_weights", bool, False),
        data=_data(top.table("data")),
        models=_entries(top, "model", None),
        inits=_entries(top, "init", {name: init.options for name, init in INITS.items()}),
        constraints=_entries(top, "constraint", CONSTRAINTS, default="none"),
        optimizers=_optimizers(top),
        probe=_probe(top.table("probe")) if "probe" in top.values else None,
        loggers=_loggers(log),
        logger_options=_logger_options(log),
        folder=file.resolve().parent,
    )
    top.read.extend(("probe", "log"))  # both may be missing; a misspelt one is still to be told so
    top.done()
    log.done()
    return found


def _seeds(top: TomlTable) -> tuple[int, ...]:
    given: Any = top.take("seeds", object)
    if type(given) is int and given > MOST_RUNS:
        raise ValueError(
            f"{top.where}: seeds = {given} asks for that many runs of each combination, more than {MOST_RUNS:,}; take "
            "fewer. Certain seeds are written as a list: seeds = [7, 8]."
        )
    if type(given) is int and given >= 1:
        return tuple(range(given))
    if not isinstance(given, list) or not given or not all(type(s) is int and s >= 0 for s in given):
        raise ValueError(f"{top.where}: seeds must be a number of seeds or a list of whole numbers, got {given!r}.")
    if max(given) >= 2**63:
        raise ValueError(f"{top.where}: seeds must be below 2^63, got {max(given)}; take smaller ones.")
    if len(set(given)) < len(given):
        raise ValueError(f"{top.where}: seeds {given!r} names a seed twice; give each once.")
    return tuple(given)


def _whole(table: TomlTable, key: str, default: Any = ...) -> int:
    value = table.take(key, int) if default is ... else table.take(key, int, default)
    if value < 1:
        raise ValueError(f"{table.where}: {key} must be at least 1, got {value}.")
    return value


def _device(top: TomlTable) -> str:
    import torch

    name = top.take("device", str, "cpu")
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{top.where}: device {name!r} is no device of torch; write 'cpu' or 'cuda'.") from error
    return name


def _data(table: TomlTable) -> Data:
    share = float(table.take("validation", float, 0.2))
    if not 0 < share < 1:
        raise ValueError(
            f"{table.where}: validation must be a share between 0 and 1, got {share}; learning rates are chosen on it."
        )
    samples = None if "samples" not in table.values else _whole(table, "samples")
    found = Data(table.text("name"), share, samples, table.take("split_seed", int, 0))
    table.read.append("samples")
    table.done()
    return found


def _entries(
    top: TomlTable, key: str, known: Mapping[str, Mapping[str, type]] | None, default: str = "default"
) -> tuple[Entry, ...]:
    """Read the tables of one part of the grid.

    Args:
        top: The whole file.
        key: The part.
        known: The options of each name; None: any name, no options.
        default: The name where the part is missing.

    Returns:
        At least one entry.

    Raises:
        unknown_name: A ValueError, for an unknown name.
    """
    if known is not None and key not in top.values:
        top.read.append(key)
        return (Entry(default, default),)
    found = []
    for table in top.tables(key):
        name = table.text("name")
        if known is not None and name not in known:
            raise unknown_name(f"name in {table.where}:", name, known)
        options = _options(table, known[name] if known is not None else {})
        found.append(Entry(name, table.take("label", str, _label(name, options)), options))
        table.done()
    _insist_on_labels(top, key, found)
    return tuple(found)


def _options(table: TomlTable, kinds: Mapping[str, type]) -> dict[str, Any]:
    options: dict[str, Any] = {key: table.take(key, kind) for key, kind in kinds.items() if key in table.values}
    table.read.extend(kinds)
    return options


def _optimizers(top: TomlTable) -> tuple[OptimizerEntry, ...]:
    found = []
    for table in top.tables("optimizer"):
        given = table.text("name")
        try:
            name, kind = optimizer_class(given)
        except ValueError as error:
            raise ValueError(f"{table.where}: {error}") from None
        rates = _rates(table)
        options = _options(table, optimizer_options(kind))
        lacking = [key for key in needed_options(kind) if key not in options]
        if lacking:
            raise ValueError(f"{table.where}: {name} needs the option {', '.join(lacking)}; add it to the entry.")
        schedule = cast("Schedule", table.choice("schedule", SCHEDULES, "constant"))
        said = options if schedule == "constant" else {**options, "schedule": schedule}
        label = table.take("label", str, _label(name, said))
        table.done()
        found.append(OptimizerEntry(name, label, options, rates, schedule))
    _insist_on_labels(top, "optimizer", found)
    return tuple(found)


def _rates(table: TomlTable) -> tuple[float, ...]:
    given: Any = table.take("lr", object)
    rates = given if isinstance(given, list) else [given]
    if not rates or not all(
        isinstance(r, int | float) and not isinstance(r, bool) and math.isfinite(r) and r > 0 for r in rates
    ):
        raise ValueError(f"{table.where}: lr must be a number > 0 or a list of such, got {given!r}.")
    if len(set(rates)) < len(rates):
        raise ValueError(f"{table.where}: lr {given!r} names a learning rate twice; give each once.")
    return tuple(sorted(float(r) for r in rates))


def _label(name: str, options: Mapping[str, Any]) -> str:
    return name if not options else f"{name} ({', '.join(f'{k}={_short(v)}' for k, v in options.items())})"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _insist_on_labels(top: TomlTable, key: str, entries: Sequence[Entry]) -> None:
    labels = [entry.label for entry in entries]
    for label in labels:
        if not label or labels.count(label) > 1:
            raise ValueError(
                f"{top.where}: two of the tables [[{key}]] are called {label!r}; leave one out, or give each its label."
            )


def _probe(table: TomlTable) -> ProbeSettings:
    measures = tuple(table.words("measures", ["signal", "fisher"]))
    for measure in measures:
        if ":" not in measure and measure not in BUILT_IN:
            raise unknown_name(f"measure in {table.where}:", measure, BUILT_IN)
    found = ProbeSettings(measures, _whole(table, "every", 1), _whole(table, "samples", 32))
    table.done()
    return found


def _loggers(log: TomlTable) -> tuple[str, ...]:
    names = log.words("loggers", [])
    for name in names:
        if name not in LOGGERS:
            raise unknown_name(f"logger in {log.where}:", name, LOGGERS)
    return tuple(names)


def _logger_options(log: TomlTable) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {name: log.take(name, dict) for name in LOGGERS if name in log.values}
    log.read.extend(LOGGERS)
    return options
