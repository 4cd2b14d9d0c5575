"""Weights of low rank, of a given wiring, and along a task: against dense decompositions and gradient flow."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.init import aligned_, from_connectivity_, gaussian, low_rank, low_rank_
from isometry.theory import tangent_form
from isometry.theory.linear_dynamics import simulate


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, max_examples=40)
def test_it_is_the_best_approximation_of_the_gaussian_draw(rows, columns, seed, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    full = gaussian((rows, columns), sigma=1.3, dtype=torch.float64, generator=gen(seed))
    u, s, vh = torch.linalg.svd(full, full_matrices=False)
    cut = (u[:, :rank] * s[:rank]) @ vh[:rank]
    for preserve, factor in (("none", 1.0), ("spectral", 1.0), ("frobenius", full.norm() / cut.norm())):
        w = low_rank((rows, columns), rank, preserve=preserve, sigma=1.3, dtype=torch.float64, generator=gen(seed))
        torch.testing.assert_close(w, factor * cut, atol=1e-12, rtol=1e-9)


def test_full_rank_is_the_gaussian_weight_itself():
    shape = (6, 4, 3, 3)
    torch.testing.assert_close(low_rank(shape, 6, generator=gen()), gaussian(shape, generator=gen()))


def test_real_layers_are_taken_with_more_outputs_and_fewer():
    for layer in (nn.Linear(20, 8), nn.Linear(8, 20), nn.Conv2d(3, 12, 3), nn.RNN(4, 10)):
        weight = layer.weight_hh_l0 if isinstance(layer, nn.RNN) else layer.weight
        low_rank_(weight, 2, generator=gen())
        values = torch.linalg.svdvals(weight.detach().flatten(1).double())
        assert float(values[2] / values[0]) < 1e-6
        # |W0|_F^2 is a chi-square of out x in degrees over in: within 5 standard deviations of out.
        rows, entries = weight.shape[0], weight.numel()
        assert abs(float(values.square().sum()) / rows - 1) < 5 * math.sqrt(2 / entries)


@pytest.mark.parametrize("rank", [0, 4, -1, 2.0, True])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(
        ValueError, match=re.escape(f"rank must be a whole number from 1 to 3, the smaller side of 3 x 8, got {rank!r}")
    ):
        low_rank_(torch.empty(3, 2, 4), rank)


def test_unknown_norms_are_refused():
    with pytest.raises(ValueError, match="unknown preserve 'frobenious'; did you mean 'frobenius'"):
        low_rank_(torch.empty(3, 3), 1, preserve="frobenious")


def wiring(n=12):
    chain = torch.zeros(n, n, dtype=torch.bool)
    chain[range(1, n), range(n - 1)] = True
    return chain | torch.eye(n, dtype=torch.bool)


def test_a_mask_says_where_and_a_matrix_says_how_much():
    w = from_connectivity_(torch.empty(12, 12, dtype=torch.float64), wiring(), generator=gen())
    assert torch.equal(w != 0, wiring())
    assert float(w.norm()) == pytest.approx(math.sqrt(12), rel=1e-12)
    matrix = torch.randn(12, 12, generator=gen(1), dtype=torch.float64)
    w = from_connectivity_(torch.empty(12, 12, dtype=torch.float64), matrix, preserve="none", sigma=2.0)
    assert torch.equal(w, 2 * matrix)


def test_the_norms_are_those_of_a_gaussian_weight():
    rows, columns, sigma = 300, 200, 1.5
    null = gaussian((rows, columns), sigma=sigma, dtype=torch.float64, generator=gen())
    mask = torch.rand(rows, columns, generator=gen(1)) < 0.2
    for preserve, order in (("frobenius", "fro"), ("spectral", 2)):
        w = from_connectivity_(
            torch.empty(rows, columns).double(), mask, preserve=preserve, sigma=sigma, generator=gen(2)
        )
        # Relative fluctuations: 1 / sqrt(2 out in) of the one, (out in)^(-1/3)-like of the other's edge.
        assert float(torch.linalg.matrix_norm(w, order) / torch.linalg.matrix_norm(null, order)) == pytest.approx(
            1, abs=0.03
        )


def test_dales_law_holds_by_columns_and_survives_its_own_null():
    signs = torch.tensor([1, 1, -1] * 4)
    for shuffle in ("none", "within-columns"):
        w = from_connectivity_(torch.empty(12, 12), wiring(), signs=signs, shuffle=shuffle, generator=gen())
        assert bool((w * signs >= 0).all())
        assert torch.equal((w != 0).sum(0), wiring().sum(0))
    plain = from_connectivity_(torch.empty(12, 12), wiring(), signs=signs, generator=gen())
    mixed = from_connectivity_(torch.empty(12, 12), wiring(), signs=signs, shuffle="entries", generator=gen())
    assert not torch.equal(mixed != 0, wiring())
    torch.testing.assert_close(mixed.flatten().sort().values, plain.flatten().sort().values)


def test_a_block_structure_has_its_rank_and_loses_it_in_the_null():
    blocks = torch.block_diag(*[torch.ones(4, 4)] * 3).double()
    w = from_connectivity_(torch.empty(12, 12).double(), blocks)
    assert int(torch.linalg.matrix_rank(w)) == 3
    w = from_connectivity_(torch.empty(12, 12).double(), blocks, shuffle="entries", generator=gen())
    assert int(torch.linalg.matrix_rank(w)) > 6
    w = from_connectivity_(torch.empty(12, 12).double(), blocks + 0.1 * torch.eye(12).double(), rank=2)
    assert int(torch.linalg.matrix_rank(w)) == 2


@pytest.mark.parametrize(("kwargs", "error", "message"), [
    ({"connectivity": torch.ones(3, 4)}, ValueError, r"connectivity has shape \(3, 4\), the weight \(4, 3\); both"),
    ({"connectivity": torch.zeros(4, 3)}, ValueError, r"connectivity holds no connection, so there is no norm to"),
    ({"connectivity": torch.full((4, 3), math.nan)}, ValueError, r"connectivity holds 12 non-finite values"),
    ({"connectivity": torch.ones(4, 3, dtype=torch.cfloat)}, TypeError, r"connectivity must be boolean or real, got"),
    ({"signs": torch.ones(4)}, ValueError, r"signs must hold \+1 or -1 for each of the 3 input units \(columns\),"),
    ({"signs": torch.tensor([1, 0, -1])}, ValueError, r"signs must hold .* with other values"),
    ({"rank": 4}, ValueError, r"rank must be a whole number from 1 to 3"),
    ({"shuffle": "all"}, ValueError, r"unknown shuffle 'all'"),
    ({"preserve": "max"}, ValueError, r"unknown preserve 'max'"),
])  # fmt: skip
def test_bad_wirings_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        from_connectivity_(torch.zeros(4, 3), **{"connectivity": torch.ones(4, 3), **kwargs})


def test_aligned_layers_keep_the_kernels_direction_all_along():
    beta = torch.randn(5, generator=gen(), dtype=torch.float64)
    pair = torch.empty(9, 5, dtype=torch.float64), torch.empty(1, 9, dtype=torch.float64)
    w1, w2 = aligned_(*pair, beta, sigma=0.01, generator=gen(1))
    assert (w1 is pair[0], w2 is pair[1]) == (True, True)
    assert float(w1.norm()) == pytest.approx(0.01)
    assert float(w2.norm()) == pytest.approx(0.01)
    b = beta / beta.norm()
    for steps in (1, 200, 2000):
        path = simulate([w1, w2], torch.eye(5), beta.unsqueeze(0), lr=0.01, steps=steps, every=steps)
        m = tangent_form(*path.weights)
        torch.testing.assert_close(m / m.norm(), (torch.outer(b, b) + torch.eye(5)) / math.sqrt(8), check_dtype=False)
    torch.testing.assert_close(path.weights[1] @ path.weights[0], beta.unsqueeze(0), rtol=1e-6, atol=1e-8)


def test_aligned_draws_once_and_leaves_the_global_stream():
    before = torch.get_rng_state()
    one = aligned_(torch.empty(4, 2), torch.empty(1, 4), torch.ones(2), generator=gen(5))
    two = aligned_(torch.empty(4, 2), torch.empty(1, 4), torch.ones(2), generator=gen(5))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one[0], two[0])


@pytest.mark.parametrize(("arguments", "message"), [
    ((torch.empty(4, 3), torch.empty(1, 4), torch.zeros(3)), r"direction is zero and points nowhere"),
    ((torch.empty(4, 3), torch.empty(1, 4), torch.ones(2)), r"have shapes \(4, 3\), \(1, 4\) and \(2,\); they must be"),
    ((torch.empty(4, 3), torch.empty(2, 4), torch.ones(3)), r"have shapes \(4, 3\), \(2, 4\) and \(3,\)"),
    ((torch.empty(4, 3, device="meta"), torch.empty(1, 4), torch.ones(3)), r"first \(shape \(4, 3\)\) is on the meta"),
])  # fmt: skip
def test_bad_pairs_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        aligned_(*arguments)
