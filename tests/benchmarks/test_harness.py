"""A meter that cannot be wrong is no meter: each is shown something whose answer is known."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "_harness.py"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("_harness", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["_harness"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["_harness"]


def test_the_tally_sees_peaks_not_sums(harness):
    def sequence():
        for _ in range(5):
            torch.empty(1000, dtype=torch.float64)  # freed at once

    def together():
        return [torch.empty(1000, dtype=torch.float64) for _ in range(5)]

    assert harness.peak_tensor_bytes(sequence) == 8000
    assert harness.peak_tensor_bytes(together) == 40_000


def test_the_tally_ignores_views_in_place_work_and_what_was_there(harness):
    before = torch.zeros(1000)
    assert harness.peak_tensor_bytes(lambda: before.view(10, 100).add_(1).t()) == 0
    assert harness.peak_tensor_bytes(lambda: before + 1) == 4000


def test_interleaving_takes_turns_and_compares_within_a_round(harness):
    calls = []
    timing = harness.interleave(
        {
            "slow": lambda: (calls.append("slow"), time.sleep(0.02)),
            "fast": lambda: (calls.append("fast"), time.sleep(0.005)),
        },
        rounds=3,
        warmup=1,
    )
    assert calls == ["slow", "fast"] * 2 + ["fast", "slow"] + ["slow", "fast"]
    assert timing.ratio("slow", "fast") > 1.5
    assert timing.median("slow") >= 0.02
    report = timing.report("fast")
    assert set(report["slow"]) == {"median_s", "best_s", "ratio_to_fast", "cpu_ratio_to_fast"}
    assert report["fast"]["ratio_to_fast"] == 1


def test_resident_memory_of_a_fresh_process(harness, tmp_path):
    script = tmp_path / "hungry.py"
    script.write_text("import torch\ndef eat(mib):\n    return torch.ones(mib * 2**18).sum()\n")
    assert harness.peak_rss(script, "eat", 300) == pytest.approx(300 * 2**20, rel=0.2)
    with pytest.raises(RuntimeError, match=r"hungry.py:missing failed in its own process"):
        harness.peak_rss(script, "missing")


def test_results_carry_the_machine(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    content = json.loads(harness.write("trial", {"figure": 1.5}).read_text())
    assert content["benchmark"] == "trial"
    assert content["figure"] == 1.5
    assert content["machine"]["torch"] == torch.__version__
    assert content["machine"]["threads"] >= 1
    assert harness.matmul_rate(size=128, rounds=2) > 1e6
