"""One process is the oracle of two: optimizers for hidden matrices under FSDP2 and HSDP, and on gradients by hand.

Seen to fail: with parts of whole matrices put together in another order; where rows are taken for whole matrices, or
partial sums for gradients, the processes end with an error.
"""

from __future__ import annotations

import pytest
import torch

from tests.distributed import matrix_jobs as jobs
from tests.distributed import pair


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return pair.run("tests.distributed.matrix_jobs", tmp_path_factory.mktemp("matrix"))


def same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        # In float64, gathered as float32; the gradients' mean over the processes has another order of sums.
        assert torch.allclose(got[name], value, atol=1e-6), name


@pytest.mark.parametrize("name", jobs.METHODS)
def test_two_processes_train_as_one(found, name):
    wanted, _ = jobs.alone(name)
    for rank in range(2):
        same(found[rank][name][0], wanted)
        assert all(torch.equal(found[rank][name][0][key], found[0][name][0][key]) for key in wanted)


@pytest.mark.parametrize("name", jobs.METHODS)
def test_a_sharded_model_is_routed_as_the_whole(found, name):
    assert found[1][name][3] == jobs.table(jobs.net(name))


@pytest.mark.parametrize("name", jobs.METHODS)
def test_the_state_is_sharded_as_the_parameters_are(found, name):
    _, bytes_ = jobs.alone(name)
    for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
        assert sum(found[rank][name][1][key] for rank in range(2)) == bytes_[key]
    assert all(found[rank][name][2] for rank in range(2))
    if "row_squares" in bytes_:
        assert all(found[rank][name][1]["row_squares"] == bytes_["row_squares"] for rank in range(2))


@pytest.mark.parametrize("name", jobs.METHODS)
@pytest.mark.parametrize("how", [0, 1], ids=["gathered state", "shards in files"])
def test_a_resumed_run_is_the_same_run(found, name, how):
    for key, value in found[0][name][0].items():
        assert torch.equal(found[1][f"{name}, resumed"][how][key], value), key


def test_replicas_of_shards_train_as_one(found):
    wanted, _ = jobs.alone("gpt")
    for rank in range(2):
        for got in found[rank]["gpt, replicated"]:
            same(got, wanted)


def test_gradients_that_are_partial_sums_are_added_up(found):
    for rank in range(2):
        by_hand = found[rank]["by hand"]
        for how in ("rows", "replicated"):
            torch.testing.assert_close(by_hand[how], by_hand["alone"])


def test_other_placements_are_refused_for_matrices_and_not_for_adamw(found):
    words = found[1]["by hand"]["refusal"]
    assert words.startswith(
        "parameter 'w' is sharded as (Shard(dim=1),), but whole matrices are put together from rows"
    )
    assert "shard its first dimension over one dimension of the mesh (as fully_shard does)" in words
    assert "rule='adamw'" in words
    assert found[1]["by hand"]["columns by AdamW"]


def test_stacks_are_shared_by_their_matrices(found):
    for rank in range(2):
        alone, shared = found[rank]["experts"]
        torch.testing.assert_close(shared, alone)
