"""Worker processes and kills: whatever dies, what comes out is what an undisturbed run gives.

Seen to fail: with a worker's death taken for the end of its run; with torch.save straight to the disk, whose message
does not say that the disk is full.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isometry.training.compare import _run, read_results, run_experiment
from isometry.training.compare._store import DATABASE, Store
from tests.training.compare.experiments import SMALL, dying, small, tables

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_workers_and_their_deaths_change_nothing(tmp_path):
    """Two processes; one is killed in the second epoch of a run: the run goes on, the tables are the same bytes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    calm = run_experiment(dying(tmp_path / "a"), tmp_path / "a" / "out", workers=0)
    deaths = []

    def listen(run, event):
        deaths.extend([str(run)] if event.kind == "death" else [])

    found = run_experiment(dying(tmp_path / "b", 6), tmp_path / "b" / "out", workers=2, listener=listen)
    assert len(deaths) == 1
    assert tables(tmp_path / "a" / "out") == tables(tmp_path / "b" / "out")
    assert found.entries == calm.entries
    (note,) = found.notes
    assert note.endswith("its worker was killed by SIGKILL; it went on from its last whole epoch")


def test_a_run_whose_worker_is_lost_twice_fails_and_the_others_end(tmp_path):
    experiment = dying(tmp_path, 2, 2, lr="0.1")  # in the first epoch, so that the second try begins anew, and dies
    found = run_experiment(experiment, tmp_path / "out", workers=1)
    assert found.ended == 1
    ((run, why),) = found.failures
    assert run.endswith("seed 0")
    assert why == "its worker was killed by SIGKILL 2 times"
    found = run_experiment(experiment, tmp_path / "out", workers=0, resume=True)
    assert (found.ended, found.failures) == (2, ())


def until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


SLOW = """
import time
from pathlib import Path

from torch import nn


class Slow(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 10 and Path("slow").exists():
            time.sleep(60)
        return super().forward(x)
"""


@pytest.mark.usefixtures("_heeds_interrupts")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_the_whole_program_is_killed_and_resumed(tmp_path, how):
    """It is killed in the third epoch, in the middle of which the run waits."""
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    (tmp_path / "slow").touch()
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "slow.py:Slow")
    experiment, out = small(tmp_path, text, epochs="4", lr="[0.02, 0.1]", seeds="1"), tmp_path / "out"
    workers = "1" if how == signal.SIGKILL else "0"
    command = [sys.executable, "-m", "isometry", "compare", "small.toml", "--out", str(out), "--workers", workers]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path
    )

    def half_way():
        if not (out / DATABASE).exists():
            return False
        try:
            with Store(out / DATABASE) as store:
                return any(run["epochs"] == 2 for run in store.runs())
        except (ValueError, OSError):  # between making the file and its tables
            return False

    until(half_way, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "every whole epoch is safe; --resume goes on from there." in errors
        assert "Traceback" not in errors
    assert gone(workers)  # in the middle of an epoch of a minute
    assert read_results(out).ended == 0
    (tmp_path / "slow").unlink()
    first_told = []
    resumed = run_experiment(
        experiment, out, workers=0, resume=True, listener=lambda _, event: first_told.append(event.epoch)
    )
    assert first_told[0] == 2  # only the unfinished epoch was lost
    calm = run_experiment(experiment, tmp_path / "calm", workers=0)
    assert tables(out) == tables(tmp_path / "calm")
    assert resumed.entries == calm.entries
    assert (resumed.ended, resumed.notes) == (2, ())


def gone(processes, seconds=10):
    """Wait until processes have ended, or are only kept in the table for their parent."""

    def alive(process):
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    end = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, processes))


LIMITED = """
import resource

from torch import nn


def build():
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10))
"""


def test_a_disk_that_takes_no_more_fails_one_run_and_loses_nothing(tmp_path, monkeypatch):
    """The workers may write files of 60 kB: checkpoints of the small model fit, those of the large one do not."""
    pytest.importorskip("resource")
    for name, width in (("narrow", 8), ("broad", 300)):
        (tmp_path / f"{name}.py").write_text(LIMITED.replace("WIDTH", str(width)), encoding="utf-8")
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "narrow.py:build")
    text += '\n[[model]]\nname = "broad.py:build"\n'
    experiment = small(tmp_path, text, lr="0.1", seeds="1", epochs="2")
    monkeypatch.setattr(_run, "check_parts", lambda *_: None)  # it would build the models, and so limit this process
    found = run_experiment(experiment, tmp_path / "out", workers=1)
    assert found.ended == 1
    ((run, why),) = found.failures
    assert run.startswith("broad.py:build")
    assert why.endswith("checkpoint.pt' cannot be written: File too large; make room and go on with --resume.")
    assert not list((tmp_path / "out").rglob("*.part"))
