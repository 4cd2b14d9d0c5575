"""The file of a probe while it is written: every measurement is on the disk before the training goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isometry.training._probe_log import Record, read_probe

__all__ = ["Journal"]

IDENTITY = ("format", "version", "measures", "seed", "samples", "likelihood", "batch", "parameters")
_WORDS = {
    "batch": "batch x, y has the fingerprint",
    "parameters": "model's parameters (names, shapes, roles) have the fingerprint",
    "measures": "measures are",
    "samples": "samples are",
}


class Journal:
    """A probe's file while it is written; without a path the records are kept in memory alone.

    Args:
        path: The file, or None.
        header: What the probe is.

    Raises:
        IsADirectoryError: If the path is a folder.
    """

    def __init__(self, path: Path | None, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.records: list[Record] = []
        if path is not None and path.is_dir():
            raise IsADirectoryError(
                f"path {str(path)!r} is a folder; give a file in it, {str(path / 'probe.jsonl')!r} say."
            )
        if path is not None and path.exists() and path.stat().st_size:
            before = read_probe(path)
            self.insist_on_same(before.header, f"path {str(path)!r}")
            self.records = list(before.records)

    def insist_on_same(self, header: Mapping[str, Any], what: str) -> None:
        """Refuse what another probe has written.

        Args:
            header: What was written.
            what: Where, as the subject of a sentence.

        Raises:
            ValueError: If measures, batch, model, seed or format differ; the message says which.
        """
        for key in IDENTITY:
            if header.get(key) != self.header[key]:
                raise ValueError(
                    f"{what} belongs to another probe: its {_WORDS.get(key, key)} {header.get(key)!r}, here "
                    f"{self.header[key]!r}; give another path, or make the probe as it was."
                )

    def add(self, record: Record) -> None:
        """Append a measurement; it is on the disk when this returns."""
        self.records.append(record)
        if self.path is None:
            return
        with _named(self.path), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, records: Iterable[Record]) -> None:
        """Make these records the whole content, in one step: the old file or the new one is there, never half of it."""
        self.records = list(records)
        if self.path is None:
            return
        with _named(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_name(f".{self.path.name}.part")
            with part.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(_line(entry) for entry in (self.header, *self.records))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file could not be written, in the words of the user, who knows nothing of the one beside it.

    Yields:
        Nothing.

    Raises:
        OSError: If the block does.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"path {str(path)!r} cannot be written: {error.strerror or error}; give a path in a folder that can be "
            "written to, with room on its disk, or path=None to keep the measurements in memory."
        ) from error


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(_spelled(entry), ensure_ascii=False, allow_nan=False) + "\n"


def _spelled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # NaN, Infinity, -Infinity
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    return value
