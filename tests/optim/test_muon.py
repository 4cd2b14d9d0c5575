"""Muon against its formulas written out, torch's Muon, and what its step promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import Muon
from isometry.optim._momentum import look_ahead
from isometry.optim._muon import muon_update

SHAPES = [(6, 6), (9, 4), (4, 9), (1, 7), (7, 1)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=gen(seed), dtype=dtype)


def polar_factor(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


class Textbook:
    """Muon one matrix at a time, as its release states it."""

    def __init__(self, lr, momentum, nesterov, weight_decay, factor):
        self.lr, self.mu, self.nesterov, self.wd, self.factor = lr, momentum, nesterov, weight_decay, factor
        self.buffers = {}

    def step(self, key, weight, gradient):
        buffer = self.buffers.get(key, torch.zeros_like(weight))
        buffer = self.mu * buffer + (1 - self.mu) * gradient
        self.buffers[key] = buffer
        used = (1 - self.mu) * gradient + self.mu * buffer if self.nesterov else buffer
        return (1 - self.lr * self.wd) * weight - self.lr * self.factor(*weight.shape) * polar_factor(used)


FACTORS = {
    "original": lambda m, n: max(1, m / n) ** 0.5,
    "spectral": lambda m, n: (m / n) ** 0.5,
    "match_rms_adamw": lambda m, n: 0.2 * max(m, n) ** 0.5,
    "none": lambda m, n: 1,
}


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", FACTORS)
def test_its_steps_are_those_of_the_formulas(scale, nesterov):
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    expected = [p.detach().clone() for p in parameters]
    options = {"lr": 0.03, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.1}
    optimizer = Muon(parameters, polar="exact", scale=scale, **options)
    textbook = Textbook(factor=FACTORS[scale], **options)
    for t in range(4):
        for i, p in enumerate(parameters):
            p.grad = draw(*p.shape, seed=100 * t + i)
            expected[i] = textbook.step(i, expected[i], p.grad)
        optimizer.step()
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(24, 24), (40, 12), (12, 40)])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_torchs_muon_takes_the_same_steps(shape, scale, compute_dtype, tolerance, monkeypatch):
    mine, other = (nn.Parameter(draw(*shape, dtype=torch.float32)) for _ in range(2))
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    optimizer = Muon([mine], polar="muon", compute_dtype=compute_dtype, scale=scale, **options)
    peer = torch.optim.Muon([other], adjust_lr_fn=scale, **options)
    if compute_dtype == "float32":  # torch rounds to bfloat16 at each of about 20 products; here it may not
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    start = mine.detach().clone()
    for t in range(3):
        mine.grad = draw(*shape, seed=t + 1, dtype=torch.float32)
        other.grad = mine.grad.clone()
        optimizer.step()
        peer.step()
    apart, way = (mine - other).detach().norm(), (other - start).detach().norm()
    assert float(apart / way) < tolerance


def test_the_published_iteration_in_float32_is_torchs_to_bfloat16():
    matrix = draw(30, 20, dtype=torch.float32)
    x = (matrix / matrix.norm()).T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    update = muon_update(matrix, polar="muon", scale="none")
    torch.testing.assert_close(update, x.T, rtol=0, atol=1e-5)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(list(FACTORS)),
    st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]),
    st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_the_step_has_the_size_that_the_scale_states_whatever_the_gradients(m, n, scale, size, seed):
    p = nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
    p.grad = size * draw(m, n, seed=seed)
    Muon([p], lr=0.5, polar="exact", scale=scale).step()
    factor = FACTORS[scale](m, n)
    singular = torch.linalg.svdvals(p.detach()) / 0.5
    torch.testing.assert_close(singular, torch.full_like(singular, factor), rtol=1e-6, atol=1e-9)
    assert float(p.detach().square().mean().sqrt()) == pytest.approx(0.5 * factor / math.sqrt(max(m, n)), rel=1e-6)


def test_turning_the_problem_turns_the_steps():
    left, right = polar_factor(draw(6, 6, seed=1)), polar_factor(draw(4, 4, seed=2))
    plain, turned = nn.Parameter(draw(6, 4)), nn.Parameter(left @ draw(6, 4) @ right)
    optimizers = [Muon([p], polar="exact", weight_decay=0.1) for p in (plain, turned)]
    for t in range(3):
        plain.grad = draw(6, 4, seed=10 + t)
        turned.grad = left @ plain.grad @ right
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(turned.detach(), left @ plain.detach() @ right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("polar", ["fast", "accurate", "muon", "dion", "exact"])
def test_a_zero_gradient_moves_by_decay_alone(polar):
    p = nn.Parameter(torch.ones(5, 3))
    p.grad = torch.zeros(5, 3)
    Muon([p], lr=0.1, weight_decay=0.5, polar=polar).step()
    assert torch.equal(p.detach(), torch.full((5, 3), 0.95))


def test_looking_ahead_mixes_gradient_and_new_momentum():
    used, buffer = look_ahead(torch.tensor(4.0), torch.tensor(2.0), momentum=0.75, nesterov=True)
    assert (float(buffer), float(used)) == (2.5, 0.25 * 4 + 0.75 * 2.5)
    used, buffer = look_ahead(torch.tensor(4.0), torch.tensor(2.0), momentum=0.75, nesterov=False)
    assert used is buffer


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        ({"momentum": "0.9"}, TypeError, "momentum must be a number, got str"),
        ({"lr": -1.0}, ValueError, "lr must be a finite number >= 0, got -1.0"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay must be a finite number >= 0, got nan"),
        ({"polar": "quickest"}, ValueError, "polar"),
        ({"compute_dtype": "float16"}, ValueError, "compute_dtype"),
        ({"scale": "rms"}, ValueError, "scale"),
        ({"nesterov": 1}, TypeError, "nesterov"),
    ],
)
def test_senseless_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        Muon([nn.Parameter(torch.ones(2, 2))], **options)
