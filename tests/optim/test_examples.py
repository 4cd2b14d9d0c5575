"""The optimizers' examples run as they stand."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
NAMES = {"muon_lightning", "muon_hf", "muon_fsdp"}


def said(folder, name, *words):
    done = subprocess.run(
        [sys.executable, *words, EXAMPLES / f"{name}.py"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lightning(tmp_path):
    pytest.importorskip("lightning")
    text = said(tmp_path, "muon_lightning")
    assert "[('matrix', 3), ('adamw', 2), ('adamw', 5)]" in text
    step, accuracy = re.search(r"step (\d+): accuracy (\S+) on the test", text).groups()
    assert step == "120"
    assert float(accuracy) > 0.9  # a tenth is chance


def test_the_transformers_trainer(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    text = said(tmp_path, "muon_hf")
    assert "blocks q, k, v" in text
    first, last = re.search(r"step 60: loss (\S+) -> (\S+)", text).groups()
    assert float(last) < 0.7 * float(first)


def test_sharded_and_alone_say_the_same(tmp_path, capsys):
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / "muon_fsdp.py"))
    alone = capsys.readouterr().out
    pair = said(tmp_path, "muon_fsdp", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    losses = [[float(n) for n in re.findall(r"step \d+: loss (\S+)", text)] for text in (alone, pair)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert losses[0][1] < losses[0][0] - 0.8
    held = [[int(n) for n in re.findall(r"holds (\d+) bytes", text)] for text in (alone, pair)]
    assert len(held[1]) == 2
    assert max(held[1]) < 0.6 * held[0][0]  # half of what has an entry per entry, and all of what a row has


def test_every_example_of_an_optimizer_is_run():
    assert {path.stem for path in EXAMPLES.glob("muon_*.py")} == NAMES
