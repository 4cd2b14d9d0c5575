"""One process is the oracle of two: the same constrained weights under DDP and FSDP2, whole or in shards."""

from __future__ import annotations

import pytest
import torch

from tests.distributed import manifold_jobs as jobs
from tests.distributed import pair


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return pair.run("tests.distributed.manifold_jobs", tmp_path_factory.mktemp("manifolds"))


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
