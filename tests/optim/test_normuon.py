"""NorMuon against its formulas written out, and what its rows promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import Muon, NorMuon, normuon_update
from isometry.roles import Axes

SHAPES = [(6, 6), (12, 4), (4, 12), (1, 7), (7, 1)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def polar_factor(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


class Textbook:
    """NorMuon one matrix at a time, as its released code and its paper state it."""

    def __init__(self, lr, momentum, beta2, weight_decay, nesterov, norm):
        self.lr, self.mu, self.beta2, self.wd = lr, momentum, beta2, weight_decay
        self.nesterov, self.norm = nesterov, norm
        self.state = {}

    def step(self, key, weight, gradient):
        m, n = weight.shape
        buffer, v = self.state.get(key, (torch.zeros_like(weight), torch.zeros(m, 1, dtype=weight.dtype)))
        buffer = self.mu * buffer + (1 - self.mu) * gradient
        used = (1 - self.mu) * gradient + self.mu * buffer if self.nesterov else buffer
        o = polar_factor(used)
        v = self.beta2 * v + (1 - self.beta2) * (o * o).mean(1, keepdim=True)
        self.state[key] = (buffer, v)
        y = o / (v.sqrt() + 1e-10)
        weight = weight - self.lr * self.wd * weight
        if self.norm == "rms_match":
            return weight - 0.2 * self.lr * math.sqrt(m * n) / y.norm() * y
        y = y * o.norm() / (y.norm() + 1e-10)
        return weight - self.lr * max(1, m / n) ** 0.5 * y


@pytest.mark.parametrize("norm", ["norm_preserving", "rms_match"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_its_steps_are_those_of_the_formulas(norm, nesterov):
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    expected = [p.detach().clone() for p in parameters]
    options = {"momentum": 0.8, "beta2": 0.9, "weight_decay": 0.1, "nesterov": nesterov, "norm": norm}
    optimizer = NorMuon(parameters, 0.03, polar="exact", **options)
    textbook = Textbook(0.03, **options)
    for t in range(5):
        for i, p in enumerate(parameters):
            p.grad = draw(*p.shape, seed=100 * t + i)
            expected[i] = textbook.step(i, expected[i], p.grad)
        optimizer.step()
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-11)


def test_wide_matrices_move_as_by_muon():
    """The rows of a wide polar factor all have norm 1, so there is nothing to make alike."""
    ours, theirs = (nn.Parameter(draw(4, 9)) for _ in range(2))
    optimizers = [kind([p], 0.05, polar="exact") for kind, p in ((NorMuon, ours), (Muon, theirs))]
    for t in range(3):
        ours.grad = draw(4, 9, seed=t)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-10)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-30, 1.0, 1e30]), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_norm_is_muons_and_the_first_steps_rows_are_equal(m, n, size, seed):
    p = nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
    p.grad = size * draw(m, n, seed=seed)
    NorMuon([p], 1.0, polar="exact").step()
    wanted = math.sqrt(min(m, n)) * max(1, m / n) ** 0.5
    rows = p.detach().norm(dim=1)
    assert float(p.detach().norm()) == pytest.approx(wanted, rel=1e-6)
    torch.testing.assert_close(rows, torch.full_like(rows, wanted / math.sqrt(m)), rtol=1e-6, atol=0)


def test_rows_of_a_tall_matrix_come_closer_to_each_other_than_muons():
    """Leverage scores of an ill-scaled tall matrix vary; v, a mean over time, evens out what stays the same."""
    gradient = draw(64, 16) * torch.logspace(0, 2, 64, dtype=torch.float64)[:, None]
    spread = {}
    for kind in (NorMuon, Muon):
        p = nn.Parameter(torch.zeros(64, 16, dtype=torch.float64))
        optimizer = kind([p], 1.0, polar="exact")
        for t in range(30):
            before = p.detach().clone()
            p.grad = gradient + 0.3 * gradient * draw(64, 16, seed=t)
            optimizer.step()
        rows = (p.detach() - before).norm(dim=1)
        spread[kind] = float(rows.std() / rows.mean())
    assert spread[NorMuon] < 0.3 * spread[Muon]


@pytest.mark.parametrize("norm", ["norm_preserving", "rms_match"])
def test_zeros_give_zero_and_leave_no_trace(norm):
    p = nn.Parameter(torch.ones(4, 3))
    p.grad = torch.zeros(4, 3)
    optimizer = NorMuon([p], norm=norm)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4, 3))
    p.grad = torch.ones(4, 3)
    optimizer.step()
    assert bool(torch.isfinite(p).all())
    assert bool((p < 1).all())


def test_blocks_have_rows_and_norms_of_their_own():
    axes = Axes((0,), (1,), blocks=("q", "k", "v")).to_dict()
    fused = nn.Parameter(draw(12, 3))
    routes = [{"name": "qkv", "rule": "matrix", "role": "attention_qkv", "reason": "fused", "axes": axes}]
    parts = [nn.Parameter(part.clone()) for part in fused.detach().chunk(3)]
    together = NorMuon([{"params": [fused], "routes": routes}], polar="exact")
    apart = NorMuon(parts, polar="exact")
    for t in range(3):
        fused.grad = draw(12, 3, seed=t)
        for part, gradient in zip(parts, fused.grad.chunk(3), strict=True):
            part.grad = gradient.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in parts]), rtol=0, atol=1e-10)
    assert together.state[fused]["row_squares"].shape == (3, 4, 1)


def test_the_state_is_muons_and_a_number_per_row():
    p = nn.Parameter(torch.ones(40, 30))
    p.grad = torch.ones(40, 30)
    optimizer = NorMuon([p])
    optimizer.step()
    held = optimizer.state_bytes()
    assert (held["momentum_buffer"], held["row_squares"]) == (4 * 40 * 30, 4 * 40)


def test_the_update_alone_leaves_its_arguments():
    o, v = draw(2, 5, 3), draw(2, 5, 1, seed=1).square()
    kept = o.clone(), v.clone()
    update, fresh = normuon_update(o, v, beta2=0.9)
    assert torch.equal(o, kept[0])
    assert torch.equal(v, kept[1])
    torch.testing.assert_close(fresh, 0.9 * v + 0.1 * o.square().mean(-1, keepdim=True))
    torch.testing.assert_close(update.norm(dim=(-2, -1)), o.norm(dim=(-2, -1)) * (5 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta2": 1.0}, ValueError, "beta2 must be at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, ValueError, "momentum must be at least 0 and below 1"),
        ({"eps": math.inf}, ValueError, "eps must be a finite number"),
        ({"norm": "rms"}, ValueError, "norm"),
        ({"norm": "rms_match", "scale": "spectral"}, ValueError, "scale='spectral' has no effect under norm='rms_"),
        ({"nesterov": "yes"}, TypeError, "nesterov"),
    ],
)
def test_senseless_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        NorMuon([nn.Parameter(torch.ones(2, 2))], **options)
