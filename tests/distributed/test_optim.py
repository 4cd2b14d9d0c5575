"""One process is the oracle of two: the same training on manifolds under DDP and FSDP2."""

from __future__ import annotations

import pytest
import torch

from tests.distributed import optim_jobs as jobs
from tests.distributed import pair


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return pair.run("tests.distributed.optim_jobs", tmp_path_factory.mktemp("optim"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("method", jobs.MAKERS)
@pytest.mark.parametrize("how", ["ddp", "fsdp2, fixed", "fsdp2, learned", "resumed"])
def test_two_processes_train_as_one(found, how, method, rank):
    wanted = jobs.alone(method, "learned" if "learned" in how else "fixed")
    got = found[rank][f"{method}, {how}"]
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(got[name], value, atol=2e-6), name
        assert torch.equal(got[name], found[0][f"{method}, {how}"][name]), name


@pytest.mark.parametrize("method", jobs.MAKERS)
def test_sharded_bfloat16_weights_have_masters(found, method):
    wanted = jobs.alone(method, dtype=torch.bfloat16)
    for name, value in wanted.items():
        # Gradients in bfloat16 are averaged in another order: an eighth bit.
        assert torch.allclose(found[0][f"{method}, bfloat16"][name], value, atol=0.02), name


def test_a_bad_shard_stops_both_and_nothing_has_changed(found):
    for rank in range(2):
        words, unchanged = found[rank]["not finite"]
        assert "the gradient of parameter '5.weight'" in words
        assert ("holds 1 non-finite value (NaN or infinity)", "on another process")[rank == 0] in words
        assert "no parameter was changed" in words
        assert unchanged
