"""Generalized SignSGD against the authors' lines, its exact bound, and its limits: signs, Adam's neighbour, zero."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import GeneralizedSignSGD, explain, generalized_signsgd_update
from isometry.optim import _generalized_signsgd as module


@pytest.fixture(autouse=True)
def _warned_already(monkeypatch):
    monkeypatch.setattr(module, "_warned", True)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=gen(seed), dtype=dtype)


def released(w, gradients, lr, betas, eps, weight_decay, corrected):
    """The loop of the released code, without its in-place tricks."""
    m = v = torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        d = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * d
        v = betas[1] * v + (1 - betas[1]) * m * m
        first, second = (1 - betas[0] ** t, 1 - betas[1] ** t) if corrected else (1.0, 1.0)
        w = w - lr * (m / first) / ((v / second).sqrt() + eps)
    return w


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.0), (0.0, 0.9), (0.9, 0.8)])
@pytest.mark.parametrize("corrected", [False, True])
def test_its_steps_are_those_of_the_released_code(betas, corrected):
    w = nn.Parameter(draw(5, 7))
    gradients = [draw(5, 7, seed=t) for t in range(1, 7)]
    wanted = released(w.detach(), gradients, 0.02, betas, 1e-8, 0.1, corrected)
    optimizer = GeneralizedSignSGD([w], 0.02, betas=betas, weight_decay=0.1, bias_correction=corrected)
    for g in gradients:
        w.grad = g
        optimizer.step()
    torch.testing.assert_close(w.detach(), wanted, rtol=0, atol=1e-12)


def test_decoupled_decay_shrinks_the_weight_and_stays_out_of_the_momentum():
    a, b = nn.Parameter(draw(4)), nn.Parameter(draw(4))
    x = GeneralizedSignSGD([a], 0.1, betas=(0.9, 0.5), weight_decay=0.2, decoupled=True)
    y = GeneralizedSignSGD([b], 0.1, betas=(0.9, 0.5))
    for t in range(3):
        a.grad = b.grad = draw(4, seed=t + 1)
        with torch.no_grad():
            b.mul_(1 - 0.1 * 0.2)
        x.step()
        y.step()
    torch.testing.assert_close(a.detach(), b.detach())
    assert torch.equal(x.state[a]["exp_avg"], y.state[b]["exp_avg"])


@given(
    st.floats(0, 0.999),
    st.floats(0, 0.999),
    st.sampled_from([1e-38, 1e-30, 1e-12, 1.0, 1e12, 1e30]),
    st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_no_entry_moves_farther_than_the_bound_whatever_the_scale(b1, b2, size, seed):
    m = r = torch.zeros(50)
    for t in range(5):
        g = torch.randn(50, generator=gen(seed + t)) * size * 10.0 ** (t % 3)
        update, m, r = generalized_signsgd_update(g, m, r, betas=(b1, b2), eps=0.0)
        assert torch.isfinite(update).all()
        # below 1e-36 the momentum itself has lost digits
        assert float(update.abs().max()) <= (1 - b2) ** -0.5 * (1 + 1e-5 if size > 1e-38 else 1.1)
        if t == 0 and size > 1e-38:
            torch.testing.assert_close(update.abs(), torch.full((50,), (1 - b2) ** -0.5), rtol=1e-4, atol=0)


def test_without_either_memory_it_is_the_sign():
    g = torch.tensor([3.0, -1e-30, 0.0, 1e30])
    update, _, _ = generalized_signsgd_update(g, torch.zeros(4), torch.zeros(4), betas=(0.0, 0.0), eps=0.0)
    assert torch.equal(update, g.sign())


def test_bias_correction_does_not_correct_the_momentum_within_the_root_and_is_saved():
    w = nn.Parameter(torch.zeros(3))
    optimizer = GeneralizedSignSGD([w], 0.1, bias_correction=True)
    w.grad = torch.tensor([5.0, -1e-3, 2.0])
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([-1.0, 1.0, -1.0]), rtol=1e-4, atol=0)
    other = GeneralizedSignSGD([nn.Parameter(torch.zeros(3))], 0.1)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["bias_correction"] is True


def test_it_states_its_bound():
    w = nn.Parameter(torch.ones(2, 2))
    text = str(explain(GeneralizedSignSGD([w], 0.1, betas=(0.95, 0.75))))
    assert "at most, in every entry" in text
    assert "0.2" in text  # 0.1 / (1 - 0.75)^(1/2)


def test_what_is_outside_the_theory_is_said_once(monkeypatch):
    monkeypatch.setattr(module, "_warned", False)
    w = nn.Parameter(torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GeneralizedSignSGD([w], betas=(0.9, 0.8))
        GeneralizedSignSGD([w], betas=(0.0, 0.0))  # signs of the gradient: large batches, but no theory is broken
    with pytest.warns(UserWarning, match=r"betas=\(0.9, 0.999\) is outside .* 31.6 times lr .* warm-up"):
        GeneralizedSignSGD([w])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GeneralizedSignSGD([w])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be at least 0 and below 1"),
        ({"betas": (-0.1, 0.5)}, ValueError, r"betas\[0\] must be"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers"),
        ({"eps": -1.0}, ValueError, "eps must be a finite number >= 0"),
        ({"lr": float("nan")}, ValueError, "lr must be a finite number"),
        ({"bias_correction": 1}, TypeError, "bias_correction must be True or False"),
        ({"decoupled": None}, TypeError, "decoupled must be True or False"),
    ],
)
def test_what_makes_no_sense_is_refused_by_a_sentence(options, error, message):
    with pytest.raises(error, match=message):
        GeneralizedSignSGD([nn.Parameter(torch.ones(2))], **options)
