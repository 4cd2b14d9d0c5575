"""Dion against its formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry.optim import Dion, dion_update, explain
from tests.optim.low_rank_textbook import TextbookDion

SHAPES = [(6, 6), (9, 4), (4, 9)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def first_right(n, rank, shape):
    """The first Q, as a step with no momentum before it shows: it is not touched by a zero gradient."""
    w = nn.Parameter(torch.zeros(*shape, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    optimizer = Dion([w], rank=rank)
    optimizer.step()
    right = optimizer.state[w]["right"][0]
    assert right.shape == (n, rank)
    torch.testing.assert_close(right.T @ right, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-6)
    return right.clone()


def test_its_steps_are_those_of_the_formulas():
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES * 2)]
    expected = [w.detach().clone() for w in parameters]
    options = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.1}
    optimizer = Dion(parameters, rank=2, **options)
    factor = lambda m, n: (m / n) ** 0.5  # noqa: E731
    textbooks = [TextbookDion(first_right(w.shape[1], 2, tuple(w.shape)), factor=factor, **options) for w in parameters]
    for t in range(6):
        for i, w in enumerate(parameters):
            w.grad = draw(*w.shape, seed=100 * t + i)
            expected[i] = textbooks[i].step(expected[i], w.grad)
        optimizer.step()
    for w, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(w.detach(), wanted, rtol=0, atol=1e-10)


def test_under_a_still_momentum_the_subspace_settles_on_the_singular_vectors():
    u, _s, vh = torch.linalg.svd(draw(9, 5))
    b = u[:, :5] @ torch.diag(torch.tensor([10.0, 9.0, 1.0, 0.5, 0.1], dtype=torch.float64)) @ vh
    right = draw(5, 2, seed=1)
    for _ in range(60):
        update, part, right = dion_update(b, right, scale="none")
    torch.testing.assert_close(update, u[:, :2] @ vh[:2], rtol=0, atol=1e-3)  # (9 / 10)^(2 * 60) = 3e-6
    torch.testing.assert_close(part, u[:, :2] @ u[:, :2].T @ b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_the_gradient_does_not_matter(size):
    w, other = (nn.Parameter(torch.zeros(7, 5)) for _ in range(2))
    w.grad, other.grad = draw(7, 5, dtype=torch.float32), size * draw(7, 5, dtype=torch.float32)
    for p in (w, other):
        Dion([p], rank=2).step()
    torch.testing.assert_close(w, other, rtol=1e-3, atol=1e-5)


def test_zero_gradients_move_nothing_and_the_next_step_is_as_usual():
    w, other = (nn.Parameter(torch.ones(6, 4)) for _ in range(2))
    late, prompt = Dion([w], rank=2), Dion([other], rank=2)
    w.grad = torch.zeros(6, 4)
    late.step()
    assert torch.equal(w.detach(), torch.ones(6, 4))
    w.grad, other.grad = draw(6, 4, dtype=torch.float32), draw(6, 4, dtype=torch.float32)
    late.step()
    prompt.step()
    assert torch.equal(w, other)


def test_states_are_momentum_and_right_factors():
    w = nn.Parameter(draw(12, 8, dtype=torch.float32))
    w.grad = draw(12, 8, seed=1, dtype=torch.float32)
    optimizer = Dion([w], rank=0.25)
    optimizer.step()
    assert optimizer.state_bytes() == {"step": 4, "momentum_buffer": 4 * 12 * 8, "right": 4 * 8 * 2}
    (row,) = explain(optimizer)
    moved = (w.detach() - draw(12, 8, dtype=torch.float32)).square().mean().sqrt()
    assert float(moved) == pytest.approx(row.rms, rel=1e-4)


def test_the_rank_may_be_changed_on_the_way():
    w = nn.Parameter(draw(8, 8))
    optimizer = Dion([w], lr=1.0, rank=2, scale="none")
    for rank in (2, 5, 1):
        optimizer.param_groups[0]["rank"] = rank
        before, w.grad = w.detach().clone(), draw(8, 8, seed=rank)
        optimizer.step()
        assert float(torch.linalg.matrix_rank(before - w.detach(), atol=1e-8)) == rank
        assert optimizer.state[w]["right"].shape == (1, 8, rank)


def test_a_seed_draws_the_first_subspace():
    ends = []
    for seed in (0, 0, 1):
        w = nn.Parameter(torch.zeros(6, 4))
        w.grad = draw(6, 4, dtype=torch.float32)
        state = torch.random.get_rng_state()
        Dion([w], rank=1, seed=seed).step()
        assert torch.equal(state, torch.random.get_rng_state())
        ends.append(w.detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 4}, ValueError, r"rank must be from 1 to 3 for parameter 0 of group 0"),
        ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        ({"scale": "dion"}, ValueError, "scale"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got float"),
    ],
)
def test_senseless_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        Dion([nn.Parameter(torch.ones(5, 3))], **options)
