"""The results database of an experiment: SQLite, written by one process, readable by all while it grows.

Every call of ``apply`` is one transaction on the disk when it returns, so that a kill loses nothing that was told. Rows
have keys; the same row told twice is there once.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from isometry._version import __version__
from isometry.training.compare._events import Event, Measured, Row
from isometry.training.compare._grid import Run

__all__ = ["DATABASE", "Store"]

DATABASE = "results.sqlite"
FORMAT = "1"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, model TEXT NOT NULL, init TEXT NOT NULL, "constraint" TEXT NOT NULL,
    optimizer TEXT NOT NULL, lr REAL NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'pending',
    epochs INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
    options TEXT NOT NULL, versions TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    run TEXT NOT NULL REFERENCES runs(id), epoch INTEGER NOT NULL, split TEXT NOT NULL, metric TEXT NOT NULL,
    value REAL, PRIMARY KEY (run, epoch, split, metric)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS probe (
    run TEXT NOT NULL REFERENCES runs(id), epoch INTEGER NOT NULL, step INTEGER NOT NULL, measure TEXT NOT NULL,
    quantity TEXT NOT NULL, value REAL, PRIMARY KEY (run, step, measure, quantity)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    run TEXT NOT NULL REFERENCES runs(id), text TEXT NOT NULL, PRIMARY KEY (run, text)) WITHOUT ROWID;
"""


def _connect(path: Path) -> sqlite3.Connection:
    """Open the database; in a folder that is closed to writing without the files that SQLite makes beside it.

    Returns:
        The connection.
    """
    if not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return sqlite3.connect(path, isolation_level=None, timeout=30)
    # Somebody else may write to it now; then what is not in the database yet is in the files beside it.
    beside = Path(f"{path}-wal")
    how = "mode=ro" if beside.is_file() and beside.stat().st_size else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", isolation_level=None, timeout=30, uri=True)


class Store:
    """The database, open.

    Args:
        path: Its file.
        write: Make it where it is missing, and write. Otherwise it is only read.

    Raises:
        FileNotFoundError: If it is to be read and is not there.
        ValueError: If it is no results database, or one of another version.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        if not write and not path.is_file():
            raise FileNotFoundError(f"there are no results in {str(path.parent)!r}; run the experiment first.")
        self.path = path
        try:
            self._connection = _connect(path)
            self._connection.row_factory = sqlite3.Row
            if write:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
                self.remember("format", FORMAT, keep=True)
            known = self.recall("format")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{str(path)!r} is no results database ({error}); give another folder.") from error
        if known != FORMAT:
            raise ValueError(f"{str(path)!r} has format {known}, this version reads {FORMAT}; give another folder.")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of a block or nothing.

        Yields:
            The connection.

        Raises:
            OSError: If the disk does not take it.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(
                f"{str(self.path)!r} cannot be written: {error}. What was stored before is safe; mend it and go on "
                "with --resume."
            ) from error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # -- written by the process that keeps the results -----------------------------------------------------------------

    def remember(self, key: str, value: str, *, keep: bool = False) -> None:
        """Store a fact of the experiment; with ``keep`` only if it is not there yet."""
        with self._transaction() as connection:
            how = "IGNORE" if keep else "REPLACE"
            connection.execute(f"INSERT OR {how} INTO meta VALUES (?, ?)", (key, value))  # noqa: S608 - two constants

    def enter(self, runs: Iterable[Run]) -> None:
        """Enter runs that are not there yet, and number all in the grid's order."""
        versions = json.dumps({"isometry": str(__version__), "torch": str(torch.__version__)})
        with self._transaction() as connection:
            for number, run in enumerate(runs):
                what = (run.id, number, *run.combination, run.lr, run.seed, json.dumps(run.options), versions)
                connection.execute(
                    'INSERT OR IGNORE INTO runs (id, number, model, init, "constraint", optimizer, lr, seed, options, '
                    "versions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    what,
                )
                connection.execute("UPDATE runs SET number = ? WHERE id = ?", (number, run.id))

    def apply(self, event: Event) -> None:
        """Store what a worker tells."""
        with self._transaction() as connection:
            run = event.run
            connection.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", [(run, *row) for row in event.rows]
            )
            connection.executemany(
                "INSERT OR REPLACE INTO probe VALUES (?, ?, ?, ?, ?, ?)", [(run, *row) for row in event.probe]
            )
            connection.executemany("INSERT OR IGNORE INTO notes VALUES (?, ?)", [(run, note) for note in event.notes])
            if event.kind == "epoch":
                connection.execute(
                    "UPDATE runs SET epochs = ?, seconds = seconds + ? WHERE id = ?", (event.epoch, event.seconds, run)
                )

    def set_status(self, run: str, status: str, *, attempt: bool = False, note: str = "") -> None:
        """Say where a run stands; ``attempt`` counts one more begin."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE runs SET status = ?, attempts = attempts + ? WHERE id = ?", (status, int(attempt), run)
            )
            if note:
                connection.execute("INSERT OR IGNORE INTO notes VALUES (?, ?)", (run, note))

    def forget_notes(self, run: str) -> None:
        """Drop what was said of a run that failed and is tried again."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM notes WHERE run = ?", (run,))

    # -- read by anybody -----------------------------------------------------------------------------------------------

    def recall(self, key: str) -> str | None:
        """Give a fact of the experiment.

        Returns:
            What was remembered, or None.
        """
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """Ask the database.

        Returns:
            Rows as mappings.
        """
        return [dict(row) for row in self._connection.execute(sql, parameters)]

    def past(self, run: str) -> Event:
        """Give all numbers of a run once more.

        Returns:
            One event.
        """
        rows = self.query("SELECT epoch, split, metric, value FROM rows WHERE run = ? ORDER BY epoch", (run,))
        probe = self.query(
            "SELECT epoch, step, measure, quantity, value FROM probe WHERE run = ? ORDER BY step", (run,)
        )
        return Event(
            "epoch",
            run,
            rows=tuple(Row(**{**row, "value": _number(row["value"])}) for row in rows),
            probe=tuple(Measured(**{**row, "value": _number(row["value"])}) for row in probe),
        )

    def runs(self) -> list[Mapping[str, Any]]:
        """List the runs in the grid's order.

        Returns:
            Their rows of the table ``runs``.
        """
        return self.query("SELECT * FROM runs ORDER BY number")


def _number(value: float | None) -> float:
    return math.nan if value is None else value  # SQLite has no NaN
