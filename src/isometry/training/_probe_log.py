"""The file of a probe: one line that says what was measured, then one line a measurement, each safe once written.

A line is JSON. What is not finite is written as a string ("NaN", "Infinity"), since JSON has no word for it. One line
holds one measurement with all its quantities, since that is what an interrupted run writes whole or not at all; a table
of single quantities is a view of it (``ProbeLog.rows``).
"""

from __future__ import annotations

import importlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from isometry._base import Result

__all__ = ["FORMAT", "VERSION", "ProbeLog", "Record", "read_probe"]

FORMAT = "isometry-probe"
VERSION = 1

Record: TypeAlias = dict[str, Any]  # {"step", "seconds", "measure", "values": {quantity: float}, "cost", "note"}
COLUMNS = ("step", "seconds", "measure", "quantity", "value", "note")


@dataclass(frozen=True, repr=False)
class ProbeLog(Result):
    """What a probe has measured.

    Attributes:
        header: Versions, measures, seed, and fingerprints of batch and model.
        records: One for each measurement: step, seconds of training, measure, values by quantity, the measurement's own
            seconds as ``cost``, and a ``note`` in words or None.
    """

    header: dict[str, Any]
    records: tuple[Record, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Lay the measurements out as a table with a row for each quantity.

        Returns:
            Rows with the keys step, seconds, measure, quantity, value and note.
        """
        return [
            {**{key: record[key] for key in COLUMNS[:3]}, "quantity": name, "value": value, "note": record["note"]}
            for record in self.records
            for name, value in (record["values"] or {None: math.nan}).items()
        ]

    def __repr__(self) -> str:
        return f"<ProbeLog of {self.header.get('model', 'a model')}: {len(self.records)} records>"

    def __str__(self) -> str:
        last: dict[tuple[str, str], tuple[int, float]] = {}
        for row in self.rows():
            if row["quantity"] is not None and row["measure"] != "skipped":
                last[row["measure"], row["quantity"]] = (row["step"], row["value"])
        end = max((record["step"] for record in self.records), default=0)
        seconds = max((record["seconds"] for record in self.records), default=0.0)
        lines = [
            f"probe of {self.header.get('model', 'a model')}: {len(self.records)} records to step {end}, "
            f"{seconds:.3g} s of training"
        ]
        lines += [f"  {measure:<10} {name:<16} {v:<11.4g} at step {s}" for (measure, name), (s, v) in last.items()]
        for record in self.records:
            if record["measure"] == "nonfinite" or not record["values"]:
                lines.append(f"  {record['measure']}, step {record['step']}: {record['note']}")
        return "\n".join(lines)

    def to_pandas(self) -> Any:
        """Give the table of ``rows`` as a data frame.

        Returns:
            A ``pandas.DataFrame``.
        """
        return _library("pandas", "to_pandas").DataFrame(self.rows(), columns=list(COLUMNS))

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write the table of ``rows`` as a Parquet file, with the header in its metadata.

        Args:
            path: The file; ``read_probe`` and ``isometry report`` read it.

        Returns:
            The path.
        """
        arrow, parquet = _library("pyarrow", "to_parquet"), _library("pyarrow.parquet", "to_parquet")
        kinds = (arrow.int64(), arrow.float64(), arrow.string(), arrow.string(), arrow.float64(), arrow.string())
        kept = {"isometry": json.dumps({"header": self.header, "costs": [r["cost"] for r in self.records]})}
        schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)), metadata=kept)
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        parquet.write_table(arrow.Table.from_pylist(self.rows(), schema=schema), part)
        os.replace(part, target)
        return target


def read_probe(path: str | os.PathLike[str]) -> ProbeLog:
    """Read the file of a probe. A last line that an interrupted run left unfinished is left out.

    Args:
        path: The JSON lines that a probe writes, or the Parquet file of ``to_parquet``.

    Returns:
        Header and measurements.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no probe's file, or is damaged elsewhere than at its end.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {str(source)!r}; give the path that the probe was given.")
    if source.suffix == ".parquet":
        return _read_parquet(source)
    *lines, rest = source.read_bytes().split(b"\n")  # a whole line ends with a line feed, so the rest is torn or empty
    if not lines and not rest:
        raise ValueError(f"{str(source)!r} is empty; give a probe's file.")
    entries: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(_finite_back(json.loads(line)))
        except ValueError as error:
            raise ValueError(
                f"{str(source)!r}: line {number} is not JSON; the file is damaged, or no probe's file."
            ) from error
    if not entries or not isinstance(entries[0], dict) or entries[0].get("format") != FORMAT:
        raise ValueError(f"{str(source)!r} is no probe's file: its first line is no header; give a file of a Probe.")
    for number, entry in enumerate(entries[1:], 2):
        if not isinstance(entry, dict) or not {"step", "seconds", "measure", "values"} <= entry.keys():
            raise ValueError(f"{str(source)!r}: line {number} is no measurement; the file is damaged.")
    return ProbeLog(entries[0], tuple({"cost": 0.0, "note": None, **entry} for entry in entries[1:]))


def _read_parquet(path: Path) -> ProbeLog:
    table = _library("pyarrow.parquet", "reading a .parquet file").read_table(path)
    kept = (table.schema.metadata or {}).get(b"isometry")
    if kept is None:
        raise ValueError(f"{str(path)!r} is no probe's file: it lacks the header; write it with to_parquet.")
    known = json.loads(kept)
    records: list[Record] = []
    before: tuple[Any, ...] | None = None
    for row in table.to_pylist():
        key = (row["step"], row["measure"], row["note"])
        fresh = key != before or row["quantity"] is None or row["quantity"] in records[-1]["values"]
        if fresh:
            records.append({"step": row["step"], "seconds": row["seconds"], "measure": row["measure"], "values": {}})
            records[-1] |= {"cost": known["costs"][len(records) - 1], "note": row["note"]}
        if row["quantity"] is not None:
            records[-1]["values"][row["quantity"]] = row["value"]
        before = key
    return ProbeLog(known["header"], tuple(records))


_SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _finite_back(entry: Any) -> Any:
    if isinstance(entry, dict) and isinstance(entry.get("values"), dict):
        entry["values"] = {k: _SPELLED.get(v, v) if isinstance(v, str) else v for k, v in entry["values"].items()}
    return entry


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"{what} needs {package}, which is not installed; pip install {package}, or use the JSON lines."
        ) from error
