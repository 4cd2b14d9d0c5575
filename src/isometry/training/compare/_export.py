"""The results as tables of single numbers, for pandas and everything else."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isometry.training.compare._store import Store

__all__ = ["export"]

_RUN = 'runs.id AS run, runs.model, runs.init, runs."constraint", runs.optimizer, runs.lr, runs.seed, runs.status'
_TABLES = {
    "results": f"SELECT {_RUN}, epoch, split, metric, value FROM rows JOIN runs ON runs.id = rows.run "  # noqa: S608
    "ORDER BY runs.number, epoch, split, metric",
    "probe": f"SELECT {_RUN}, epoch, step, measure, quantity, value FROM probe JOIN runs ON runs.id = probe.run "  # noqa: S608
    "ORDER BY runs.number, step, measure, quantity",
}


def export(store: Store, folder: Path) -> tuple[str, ...]:
    """Write ``results`` and, where something was measured, ``probe`` as CSV and as Parquet.

    Args:
        store: The database.
        folder: Where the files go.

    Returns:
        What could not be written, and what to install.
    """
    lacking: list[str] = []
    for name, sql in _TABLES.items():
        rows = store.query(sql)
        if not rows and name == "probe":
            continue
        columns = list(rows[0]) if rows else []
        _in_one_step(folder / f"{name}.csv", lambda part, c=columns, r=rows: _csv(part, c, r))  # type: ignore[misc]
        try:
            arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        except ImportError:
            lacking.append(f"{name}.parquet was not written, since pyarrow is not installed; pip install pyarrow.")
            continue
        table = arrow.Table.from_pylist([dict(row) for row in rows])
        _in_one_step(folder / f"{name}.parquet", lambda part, t=table, p=parquet: p.write_table(t, part))  # type: ignore[misc]
    return tuple(lacking)


def _csv(path: Path, columns: list[str], rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _in_one_step(target: Path, write: Callable[[Path], object]) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        write(part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
