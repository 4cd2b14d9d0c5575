"""One stream per name: independent of order, other names and the global generator."""

from __future__ import annotations

import pytest
import torch

from isometry._base import base_seed, generator_for, preserved_rng, stream


def draw(seed, name):
    return torch.rand(4, generator=stream(seed, name))


def test_a_name_under_a_seed_always_draws_the_same():
    first = draw(1, "layers.0.weight")
    draw(1, "layers.1.weight")
    assert torch.equal(draw(1, "layers.0.weight"), first)


def test_names_and_seeds_differ():
    draws = [draw(s, n) for s in (0, 1, 2) for n in ("a", "b", "a.b")]
    assert all(not torch.equal(draws[i], draws[j]) for i in range(9) for j in range(i))


def test_seed_and_name_do_not_run_together():
    assert not torch.equal(draw(1, "2"), draw(12, ""))


def test_a_given_generator_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    seeds = base_seed(generator), base_seed(generator)
    stream(seeds[0], "w")
    assert torch.equal(torch.get_rng_state(), before)
    assert seeds[0] != seeds[1]
    assert base_seed(torch.Generator().manual_seed(5)) == seeds[0]
    assert 0 <= seeds[0] < 2**62


def test_without_one_the_global_state_decides():
    torch.manual_seed(3)
    first = base_seed(None)
    assert base_seed(None) != first
    torch.manual_seed(3)
    assert base_seed(None) == first


def test_generator_for():
    assert generator_for(None) is None
    assert generator_for(4).initial_seed() == 4


def test_preserved_rng_even_after_an_error():
    before = torch.get_rng_state()

    def drawing():
        with preserved_rng():
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        drawing()
    assert torch.equal(torch.get_rng_state(), before)
