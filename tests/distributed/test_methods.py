"""One process is the oracle of two: low-rank optimizers, and those that look at all parameters, under FSDP2."""

from __future__ import annotations

import pytest
import torch

from tests.distributed import method_jobs as jobs
from tests.distributed import pair


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return pair.run("tests.distributed.method_jobs", tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("method", jobs.MAKERS)
def test_two_processes_train_as_one(found, method):
    wanted, _ = jobs.alone(method)
    for name, value in wanted.items():
        got = [found[rank][method][0][name] for rank in range(2)]
        assert torch.equal(*got), name
        assert torch.allclose(got[0], value, atol=1e-6), name  # gathered as float32


@pytest.mark.parametrize("method", jobs.MAKERS)
def test_a_resumed_run_is_the_same_run(found, method):
    for name, value in found[0][method][0].items():
        assert torch.equal(found[1][f"{method}, resumed"][name], value), name


def test_what_has_an_entry_per_entry_is_sharded_and_small_states_are_whole(found):
    for method, names in (("dct-adamw", ("error",)), ("dct-adamw, 4 bits", ("error_codes", "error_levels"))):
        _, whole = jobs.alone(method)
        parts = [found[rank][method][1] for rank in range(2)]
        for name in names:
            assert sum(part[name] for part in parts) == whole[name]
        assert all(part["indices"] == whole["indices"] for part in parts)
