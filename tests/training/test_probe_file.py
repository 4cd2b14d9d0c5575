"""The probe's file: whole after an interruption, without loss and without duplicates, and refused if it is another's.

Seen to fail: with the torn line kept, with ``take_over`` ignoring the gaps, with rows after the checkpoint's step kept.
"""

import errno
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from isometry.training import Probe, read_probe
from tests.training.probe_nets import STEP, Clock, Training

STEPS, SAVED, CRASHED = 60, 23, 41


def make(training, clock, path, **options):
    def dear(model, x, y):
        clock.pass_by(2.0)
        return {"norm": model[0].weight.norm(), "odd": math.inf}

    measures = options.pop("measures", {"signal": True, "dear": dear})
    return Probe(
        training.model,
        training.x,
        training.y,
        path=path,
        measures=measures,
        clock=clock,
        **{"max_overhead": 0.3, **options},
    )


def advance(training, clock, probe, until):
    while probe.steps < until:
        loss = training.step()
        clock.pass_by(STEP)
        probe.step(loss)


def uninterrupted(path, **options):
    training, clock = Training(), Clock()
    with make(training, clock, path, **options) as probe:
        advance(training, clock, probe, STEPS)
    return probe


def crash(path, kept, **options):
    """Train to the checkpoint, save it, train on, and stop in the middle of writing a line."""
    training, clock = Training(), Clock()
    probe = make(training, clock, path, **options).start()
    advance(training, clock, probe, SAVED)
    torch.save({"training": training.state(), "probe": probe.state_dict()}, kept)
    advance(training, clock, probe, CRASHED)
    if path is not None:
        with path.open("a") as file:
            file.write('{"step": 41, "seconds": 41.0, "mea')


@pytest.mark.parametrize("where", ["file", "memory", "file lost"])
@pytest.mark.parametrize("options", [{}, {"every": 2}, {"every": 3, "max_overhead": 1e9}], ids=str)
def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(tmp_path, where, options):
    path = None if where == "memory" else tmp_path / "resumed.jsonl"
    crash(path, tmp_path / "checkpoint.pt", **options)
    if where == "file lost":
        path.unlink()
    training, clock = Training(seed=5), Clock()
    again = Training()  # the batch of the probe is the first run's
    training.x, training.y = again.x, again.y
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    training.load(checkpoint["training"])
    probe = make(training, clock, path, **options)
    probe.load_state_dict(checkpoint["probe"])
    with probe:
        advance(training, clock, probe, STEPS)
    whole = uninterrupted(tmp_path / "whole.jsonl", **options)
    assert probe.history.records == whole.history.records
    assert probe.skipped == whole.skipped
    assert probe.overhead == whole.overhead
    if path is not None:
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_resumed_run_without_the_state_needs_the_step_alone(tmp_path):
    path = tmp_path / "probe.jsonl"
    crash(path, tmp_path / "checkpoint.pt", max_overhead=1e9)
    training, clock = Training(), Clock()
    training.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["training"])
    with make(training, clock, path, max_overhead=1e9).start(step=SAVED) as probe:
        assert [r["step"] for r in probe.rows()][-1] <= SAVED
        advance(training, clock, probe, STEPS)
    whole = uninterrupted(tmp_path / "whole.jsonl", max_overhead=1e9)
    kept = [(r["step"], r["measure"], r["values"]) for r in read_probe(path).records if r["measure"] != "training"]
    wanted = [(r["step"], r["measure"], r["values"]) for r in whole.history.records if r["measure"] != "training"]
    assert kept == wanted
    assert sorted({r["seconds"] for r in read_probe(path).records}) != []


def test_a_measurement_is_on_the_disk_at_once_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "probe.jsonl"
    training, clock = Training(), Clock()
    probe = make(training, clock, path).start()
    before = path.read_bytes()
    log = read_probe(path)  # while the training runs
    assert [r["measure"] for r in log.records] == ["signal", "dear"]
    assert log.records == probe.history.records
    assert log.records[1]["values"]["odd"] == math.inf
    assert '"odd": "Infinity"' in before.decode()
    for cut in (1, 10, len(before.splitlines()[-1])):
        path.write_bytes(before[:-cut])
        assert len(read_probe(path).records) == 1
    path.write_bytes(before[:-5])
    with make(training, clock, path).start(step=0):
        pass
    assert path.read_bytes() == before  # measured anew, and no trace of the torn line


def test_nobodys_measurements_are_overwritten_unasked(tmp_path):
    path = tmp_path / "probe.jsonl"
    uninterrupted(path)
    before = path.read_bytes()
    training = Training()
    probe = make(training, Clock(), path)
    with pytest.raises(
        RuntimeError, match=r"holds measurements up to step \d+; say where the training goes on: load_st"
    ):
        probe.start()
    probe.load_state_dict(uninterrupted(None).state_dict())  # loading alone, to test a model say, writes nothing
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"the loaded state stands at step 60, got step=3; leave step out"):
        probe.start(step=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"belongs to another probe: its seed 0, here 1; give another path, or make the probe as it was"),
        ({"samples": 3}, r"its samples are 32, here 3"),
        ({"measures": ["signal"]}, r"its measures are \['signal', 'dear'\], here \['signal'\]"),
        ({"x": 2.0}, r"its batch x, y has the fingerprint '\w{24}', here '\w{24}'"),
        ({"model": True}, r"its model's parameters \(names, shapes, roles\) have the fingerprint"),
    ],
)
def test_another_probes_file_and_state_are_refused(tmp_path, change, message):
    path = tmp_path / "probe.jsonl"
    state = uninterrupted(path).state_dict()
    training, options = Training(), dict(change)
    if options.pop("x", None):
        training.x = training.x * 2
    if options.pop("model", None):
        training.model = torch.nn.Sequential(training.model[0], *training.model[1:4], torch.nn.Linear(8, 4))
    with pytest.raises(ValueError, match=message):
        make(training, Clock(), path, **options)
    with pytest.raises(ValueError, match=message):
        make(training, Clock(), None, **options).load_state_dict(state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is empty; give a probe's file"),
        ("text\n", r"line 1 is not JSON; the file is damaged, or no probe's file"),
        ('{"a": 1}\n', r"is no probe's file: its first line is no header"),
        ('{"format": "isometry-probe"}\n{"step": 1}\n', r"line 2 is no measurement; the file is damaged"),
        ('{"format": "isometry-probe"}\n{"st\n{}\n', r"line 2 is not JSON"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "probe.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_probe(path)


def test_paths(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no file '.*none.jsonl'; give the path that the probe was given"
    ):
        read_probe(tmp_path / "none.jsonl")
    with pytest.raises(IsADirectoryError, match=r"is a folder; give a file in it, '.*probe.jsonl' say"):
        make(Training(), Clock(), tmp_path)
    make(Training(), Clock(), tmp_path / "new" / "folder" / "probe.jsonl").start()
    assert (tmp_path / "new" / "folder" / "probe.jsonl").is_file()
    inside = tmp_path / "new" / "folder" / "probe.jsonl" / "other.jsonl"
    with pytest.raises(OSError, match=r"path '.*other.jsonl' cannot be written: .*; give a path in a folder that can"):
        make(Training(), Clock(), inside).start()


def test_a_folder_that_cannot_be_written_to_is_told_by_the_path_that_was_given(tmp_path, monkeypatch):
    own = Path.open

    def refuse(self, mode="r", **options):
        if "w" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return own(self, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=r"path '[^']*/probe.jsonl' cannot be written: Permission denied; give") as caught:
        make(Training(), Clock(), tmp_path / "probe.jsonl").start()
    assert ".part" not in str(caught.value)


def test_the_table_and_the_printed_summary(tmp_path):
    probe = uninterrupted(tmp_path / "probe.jsonl")
    rows = probe.rows()
    assert set(rows[0]) == {"step", "seconds", "measure", "quantity", "value", "note"}
    assert len(rows) == sum(len(r["values"]) for r in probe.history.records)
    assert json.dumps(probe.history.to_dict(), allow_nan=False)  # infinity has become None
    text = str(probe.history)
    assert text.startswith("probe of Sequential: ")
    assert "dear       norm" in text


def test_tables_need_their_libraries_and_say_so(tmp_path, monkeypatch):
    log = uninterrupted(None).history
    for name in ("pandas", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=r"to_pandas needs pandas, which is not installed; pip install pandas, or use"
    ):
        log.to_pandas()
    with pytest.raises(ImportError, match=r"to_parquet needs pyarrow, which is not installed"):
        log.to_parquet(tmp_path / "probe.parquet")
    (tmp_path / "probe.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"reading a .parquet file needs pyarrow"):
        read_probe(tmp_path / "probe.parquet")


def test_a_parquet_file_holds_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    log = uninterrupted(None).history
    again = read_probe(log.to_parquet(tmp_path / "probe.parquet"))
    assert again.records == log.records
    assert again.header == log.header


def test_a_data_frame_has_the_rows():
    pytest.importorskip("pandas")
    log = uninterrupted(None).history
    frame = log.to_pandas()
    assert len(frame) == len(log.rows())
    assert list(frame.columns) == ["step", "seconds", "measure", "quantity", "value", "note"]
