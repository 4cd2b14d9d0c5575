"""One process is the oracle of two: the same constrained weights under DDP and FSDP2, whole or in shards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import manifold_jobs as jobs

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifolds")
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.manifold_jobs", str(folder / "store"), str(folder / str(rank))],
            cwd=ROOT,
            env=ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], said
    return [torch.load(folder / str(rank)) for rank in range(2)]


def same(shared, alone):
    assert shared["ok"]
    assert list(shared["records"]) == list(alone["records"]) == ["1.weight", "3.weight", "5.weight"]
    for name, record in shared["records"].items():
        wanted = alone["records"][name]
        assert record["found"], name
        assert record["in the model"], name
        # Projected by one thread there and by several here: equal up to rounding.
        assert torch.allclose(record["weight"], wanted["weight"], rtol=0, atol=1e-6), name
        assert record["scale"] == pytest.approx(wanted["scale"], rel=1e-6)
        assert torch.allclose(record["point"], wanted["point"], atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("order", ["before", "after"])
def test_data_parallel(found, order, rank):
    same(found[rank][f"ddp, constrained {order}"], jobs.alone())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("job", ["fsdp2, constrained before", "fsdp2, constrained after", "fsdp2, learned scale"])
def test_sharded(found, job, rank):
    alone = jobs.alone(scale="learned" if "learned" in job else "fixed")
    result = found[rank][job]
    same(result["before"], alone)
    same(result["after"], alone)  # a pass gathers the parameters and gives them back
    assert [text[:35] for text in result["warnings"]] == ["SGD steps 3 constrained parameters "]
    # a learned scale follows the weight, a fixed one does not
    assert result["noticed"] == ("learned" not in job)
    assert result["left"] == 0
    factor = 1.01 if "learned" in job else 1.0
    for name, weight in result["baked"].items():
        assert torch.allclose(weight, factor * alone["records"][name]["weight"], atol=2e-6)


def test_a_gathered_state_dict_is_on_the_manifold_in_a_plain_model(found):
    same(found[0]["state dict"], jobs.alone())
    assert found[1]["state dict"] is None
