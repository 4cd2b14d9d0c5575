"""The probe's examples run as they stand, each in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isometry.training import read_probe

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"probe_bare_loop": (), "probe_lightning": ("lightning",), "probe_hf": ("transformers", "accelerate")}


@pytest.mark.parametrize("name", NEEDS)
def test_it_runs_and_leaves_a_file(tmp_path, name):
    for library in NEEDS[name]:
        pytest.importorskip(library)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "probe of " in done.stdout
    records = read_probe(tmp_path / f"{name}.jsonl").records  # a file each, so that all may run in one folder
    assert len({r["step"] for r in records if r["measure"] == "signal"}) > 3  # a curve, not a point
    assert {r["measure"] for r in records if r["step"] == 0} >= {"signal", "fisher"}
    assert not [r for r in records if not r["values"]]  # nothing was left out


def test_every_probe_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("probe_*.py")} == set(NEEDS)
