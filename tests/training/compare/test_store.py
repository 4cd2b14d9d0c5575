"""The results database: whole transactions, rows once, readers beside the writer."""

from __future__ import annotations

import math
import os
import sqlite3

import pytest

from isometry.training.compare import expand
from isometry.training.compare._events import Event, Measured, Row
from isometry.training.compare._store import DATABASE, Store
from tests.training.compare.experiments import small


@pytest.fixture
def runs(tmp_path):
    return expand(small(tmp_path)).runs


@pytest.fixture
def store(tmp_path, runs):
    with Store(tmp_path / DATABASE, write=True) as opened:
        opened.enter(runs)
        yield opened


def test_what_is_told_twice_is_there_once(store, runs):
    event = Event(
        "epoch",
        runs[0].id,
        2,
        (Row(1, "train", "loss", 0.5), Row(2, "train", "loss", math.nan)),
        (Measured(1, 4, "fisher", "lambda_max", math.inf),),
        ("a note",),
        seconds=0.25,
    )
    store.apply(event)
    store.apply(event)
    assert [tuple(r.values())[1:] for r in store.query("SELECT * FROM rows")] == [
        (1, "train", "loss", 0.5),
        (2, "train", "loss", None),  # SQLite has no NaN
    ]
    assert [r["value"] for r in store.query("SELECT * FROM probe")] == [math.inf]
    assert len(store.query("SELECT * FROM notes")) == 1
    assert store.runs()[0]["epochs"] == 2
    again = store.past(runs[0].id)
    assert again.rows[0] == event.rows[0]
    assert math.isnan(again.rows[1].value)
    assert again.probe == event.probe


def test_runs_keep_their_results_while_the_grid_grows(store, runs, tmp_path):
    store.set_status(runs[-1].id, "finished", attempt=True)
    grown = expand(small(tmp_path, seeds="[7, 0, 3]")).runs
    store.enter(grown)
    known = store.runs()
    assert [run["id"] for run in known] == [run.id for run in grown]
    assert {run["status"] for run in known if run["id"] == runs[-1].id} == {"finished"}
    assert sum(run["attempts"] for run in known) == 1


def test_a_reader_sees_whole_events_while_another_process_could_write(store, runs, tmp_path):
    with Store(tmp_path / DATABASE) as reader:
        store.apply(Event("epoch", runs[0].id, 1, (Row(1, "train", "loss", 0.5),)))
        assert len(reader.query("SELECT * FROM rows")) == 1
    assert store.query("PRAGMA journal_mode")[0]["journal_mode"] == "wal"


def test_half_an_event_is_none(store, runs):
    bad = Event("epoch", runs[0].id, 1, (Row(1, "train", "loss", 0.5),), (("too", "short"),))
    with pytest.raises(sqlite3.ProgrammingError):
        store.apply(bad)
    assert store.query("SELECT * FROM rows") == []
    store.apply(Event("epoch", runs[0].id, 1, (Row(1, "train", "loss", 0.5),)))  # and it goes on


def test_a_full_disk_is_a_sentence_and_loses_nothing(store, runs):
    store.apply(Event("epoch", runs[0].id, 1, (Row(1, "train", "loss", 0.5),)))
    pages = store.query("PRAGMA page_count")[0]["page_count"]
    store.query(f"PRAGMA max_page_count = {pages}")  # to SQLite a full disk
    many = tuple(Row(epoch, "validation", "accuracy", 0.5) for epoch in range(2, 4000))
    with pytest.raises(OSError, match=r"cannot be written: database or disk is full. What was stored before is safe"):
        store.apply(Event("epoch", runs[0].id, 4000, many))
    assert [row["epoch"] for row in store.query("SELECT * FROM rows")] == [1]  # of the second event nothing
    assert store.query("PRAGMA integrity_check")[0]["integrity_check"] == "ok"


def test_what_is_no_database_of_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no results in '.*'; run the experiment first"):
        Store(tmp_path / DATABASE)
    (tmp_path / "other").write_text("something else entirely, and long enough for a header" * 10, encoding="utf-8")
    with pytest.raises(ValueError, match=r"other' is no results database \(file is not a database\)"):
        Store(tmp_path / "other")
    with Store(tmp_path / "old", write=True) as old:
        old.remember("format", "0")
    with pytest.raises(ValueError, match=r"old' has format 0, this version reads 1; give another folder"):
        Store(tmp_path / "old")


@pytest.fixture
def closed(tmp_path, runs):
    """A folder of results that nobody may write to, root neither."""
    folder = tmp_path / "results # 1"
    folder.mkdir()
    with Store(folder / DATABASE, write=True) as store:
        store.enter(runs)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_a_folder_that_is_closed_to_writing_is_read(closed, runs, monkeypatch):
    free = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and free(path, mode))  # root may do all
    with Store(closed / DATABASE) as store:
        assert [run["id"] for run in store.runs()] == [run.id for run in runs]
        assert [path.name for path in closed.iterdir()] == [DATABASE]
        with pytest.raises(OSError, match="cannot be written"):
            store.remember("key", "value")


def test_what_another_process_writes_now_is_read_without_the_right_to_write(store, runs, monkeypatch):
    store.set_status(runs[0].id, "finished")
    assert store.path.with_name(f"{DATABASE}-wal").stat().st_size
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with Store(store.path) as reader:
        assert reader.runs()[0]["status"] == "finished"
