"""Trion against its formulas written out, and Muon, which it is at full rank."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import Muon, Trion, explain
from tests.optim.low_rank_textbook import TextbookTrion, cosines

SHAPES = [(6, 6), (9, 4), (4, 9)]
FACTORS = {
    "spectral": lambda m, n: (m / n) ** 0.5,
    "original": lambda m, n: max(1, m / n) ** 0.5,
    "match_rms_adamw": lambda m, n: 0.2 * max(m, n) ** 0.5,
    "none": lambda m, n: 1,
}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("scale", FACTORS)
@pytest.mark.parametrize("p", [1, 2])
def test_its_steps_are_those_of_the_formulas(scale, p):
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES * 2)]
    expected = [w.detach().clone() for w in parameters]
    options = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.1, "p": p}
    optimizer = Trion(parameters, rank=2, polar="exact", scale=scale, **options)
    textbooks = [TextbookTrion(cosines(min(w.shape)), 2, factor=FACTORS[scale], **options) for w in parameters]
    for t in range(6):
        for i, w in enumerate(parameters):
            w.grad = draw(*w.shape, seed=100 * t + i)
            expected[i] = textbooks[i].step(expected[i], w.grad)
        optimizer.step()
    for w, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(w.detach(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_of_full_rank_it_is_muon_without_looking_ahead(shape):
    mine, other = (nn.Parameter(draw(*shape)) for _ in range(2))
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "scale": "original", "polar": "exact"}
    ours, muon = Trion([mine], rank=1.0, **options), Muon([other], nesterov=False, **options)
    for t in range(5):
        mine.grad, other.grad = draw(*shape, seed=t), draw(*shape, seed=t)
        ours.step()
        muon.step()
    torch.testing.assert_close(mine.detach(), other.detach(), rtol=0, atol=1e-12)


def test_what_is_left_out_waits_for_its_turn():
    """A gradient that keeps still has all its columns used in turn: the steps add up to full rank."""
    w = nn.Parameter(torch.zeros(8, 6, dtype=torch.float64))
    optimizer = Trion([w], lr=1.0, rank=2, momentum=0.5, polar="exact", scale="none")
    g = draw(8, 6, seed=1)
    for _ in range(12):
        w.grad = g.clone()
        optimizer.step()
    assert float(torch.linalg.svdvals(w.detach()).min()) > 0.1  # 0 from the third on, were it left out for good


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-30, 1.0, 1e30]), st.integers(0, 10_000), st.data())
@settings(max_examples=50, deadline=None)
def test_the_step_has_the_size_that_explain_states(m, n, size, seed, data):
    rank = data.draw(st.integers(1, min(m, n)))
    w = nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
    w.grad = size * draw(m, n, seed=seed)
    optimizer = Trion([w], lr=0.5, rank=rank, polar="exact")
    optimizer.step()
    (row,) = explain(optimizer)
    values = torch.linalg.svdvals(w.detach())
    torch.testing.assert_close(values[:rank], torch.full_like(values[:rank], row.spectral_norm), rtol=1e-6, atol=1e-9)
    assert float(values[rank:].sum()) < 1e-9
    assert float(w.detach().square().mean().sqrt()) == pytest.approx(row.rms, rel=1e-6)


def test_the_momentum_is_all_that_is_kept():
    w = nn.Parameter(draw(12, 8, dtype=torch.float32))
    w.grad = draw(12, 8, seed=1, dtype=torch.float32)
    optimizer = Trion([w], rank=2)
    optimizer.step()
    assert optimizer.state_bytes() == {"step": 4, "momentum_buffer": 4 * 12 * 8}


def test_the_rank_may_be_changed_on_the_way():
    w = nn.Parameter(draw(8, 8))
    optimizer = Trion([w], lr=1.0, rank=2, polar="exact", scale="none")
    for rank in (2, 5, 1):
        optimizer.param_groups[0]["rank"] = rank
        before, w.grad = w.detach().clone(), draw(8, 8, seed=rank)
        optimizer.step()
        assert float(torch.linalg.matrix_rank(before - w.detach(), atol=1e-8)) == rank


@pytest.mark.parametrize("polar", ["fast", "accurate", "muon", "dion", "exact"])
def test_a_zero_gradient_moves_by_decay_alone(polar):
    w = nn.Parameter(torch.ones(5, 3))
    w.grad = torch.zeros(5, 3)
    Trion([w], lr=0.1, rank=2, weight_decay=0.5, polar=polar).step()
    assert torch.equal(w.detach(), torch.full((5, 3), 0.95))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 4}, ValueError, r"rank must be from 1 to 3 for parameter 0 of group 0 .* got 4"),
        ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        ({"lr": -1.0}, ValueError, "lr must be a finite number >= 0, got -1.0"),
        ({"weight_decay": math.inf}, ValueError, "weight_decay must be a finite number >= 0"),
        ({"scale": "dion"}, ValueError, "scale"),
        ({"polar": "quickest"}, ValueError, "polar"),
        ({"compute_dtype": "float16"}, ValueError, "compute_dtype"),
        ({"p": True}, ValueError, "p must be 1 or 2, got True"),
        ({"basis": "haar"}, ValueError, "basis"),
    ],
)
def test_senseless_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        Trion([nn.Parameter(torch.ones(5, 3))], **options)
