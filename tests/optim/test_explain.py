"""What an optimizer says about the size of its steps is the size of its steps, measured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isometry.optim import Muon, RiemannianAdam, RiemannianSGD, explain
from isometry.optim._update_size import ADAMW_RMS
from isometry.roles import route

SCALES = ("original", "spectral", "match_rms_adamw", "none")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step_of(parameter, optimizer, seed=0):
    before = parameter.detach().clone()
    parameter.grad = draw(*parameter.shape, seed=seed)
    optimizer.step()
    return before - parameter.detach()


def sizes(step):
    return float(torch.linalg.matrix_norm(step, 2)), float(step.square().mean().sqrt())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(24, 24), (12, 48), (48, 12)])
def test_muons_steps_are_as_large_as_it_says(scale, shape):
    p = nn.Parameter(draw(*shape, seed=1))
    optimizer = Muon([p], lr=0.3, scale=scale, polar="exact", weight_decay=0.0)
    (row,) = explain(optimizer)
    assert (row.rule, row.shape, row.matrices, row.parameters, row.numel) == ("Muon", shape, 1, 1, math.prod(shape))
    assert sizes(step_of(p, optimizer)) == pytest.approx((row.spectral_norm, row.rms), rel=1e-4)
    assert row.spectral_norm == pytest.approx(0.3 * row.factor)


def test_fast_polar_factors_come_near():
    p = nn.Parameter(draw(64, 128, seed=1))
    optimizer = Muon([p], lr=0.3)
    (row,) = explain(optimizer)
    spectral, rms = sizes(step_of(p, optimizer))
    # Five steps leave singular values between 0.68 and 1.2.
    assert 0.68 * row.spectral_norm <= spectral <= 1.21 * row.spectral_norm
    assert 0.68 * row.rms <= rms <= 1.21 * row.rms


def test_blocks_and_kernels_are_counted_as_their_matrices():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)
    )
    found = explain(Muon(route(model), lr=0.1, polar="exact", scale="none"))
    first, rest = found.rows
    assert (first.shape, first.matrices, first.parameters, first.numel) == ((3, 36), 2, 1, 216)
    assert (rest.rule, rest.shape, rest.parameters, rest.matrices, rest.lr) == ("adamw", None, 7, 0, 3e-4)
    kernel = model[1].weight
    p = nn.Parameter(kernel.detach().clone())
    group = {"params": [p], "routes": next(iter(route(model)))["routes"]}
    step = step_of(p, Muon([group], lr=0.1, polar="exact", scale="none", momentum=0.0))
    for part in step.reshape(2, 3, 36):
        assert sizes(part) == pytest.approx((first.spectral_norm, first.rms), rel=1e-4)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
def test_torchs_muon(adjust):
    p = nn.Parameter(draw(64, 4, seed=1))  # factors 4 and 1.6
    optimizer = torch.optim.Muon([p], lr=0.3, weight_decay=0.0, adjust_lr_fn=adjust)
    (row,) = explain(optimizer)
    spectral, rms = sizes(step_of(p, optimizer))
    assert 0.65 * row.spectral_norm <= spectral <= 1.25 * row.spectral_norm
    assert 0.65 * row.rms <= rms <= 1.25 * row.rms


@pytest.mark.parametrize("kind", ["torch", "ours"])
def test_adamws_typical_size_is_that_of_noise(kind):
    p = nn.Parameter(torch.zeros(40, 50))
    spare = nn.Parameter(torch.zeros(2, 2))
    groups = [{"params": [spare]}, {"params": [p], "rule": "adamw", "lr": 0.1, "betas": (0.9, 0.95)}]
    optimizer = torch.optim.AdamW([p], lr=0.1, weight_decay=0.0) if kind == "torch" else Muon(groups)
    row = explain(optimizer).rows[-1]
    assert (row.rule, row.spectral_norm, row.rms) == ("adamw", None, pytest.approx(0.1 * ADAMW_RMS))
    assert sizes(step_of(p, optimizer))[1] == pytest.approx(0.1, rel=1e-3)  # the first step: signs
    for seed in range(1, 100):
        step = step_of(p, optimizer, seed=seed)
    # ((1 - beta_1) / (1 + beta_1))^(1/2) = 0.229 of gradients that are noise, and a little more by the noise of v.
    assert 0.2 * 0.1 <= sizes(step)[1] <= 0.26 * 0.1


def test_what_the_gradient_decides_is_not_bounded():
    p = nn.Parameter(torch.zeros(3, 3))
    for optimizer in (torch.optim.SGD([p], lr=0.1), RiemannianSGD([p], lr=0.1)):
        (row,) = explain(optimizer)
        assert (row.rule, row.spectral_norm, row.rms) == ("sgd", None, None)
        assert row.holds == "not bounded: as large as the gradient makes it"
    (row,) = explain(torch.optim.Adagrad([p]))
    assert (row.rule, row.holds) == ("adagrad", "not stated by this method")


def test_every_optimizer_here_can_be_asked():
    import isometry.optim as rooms

    needed = {"ClippedSGD": {"clip": 1.0}, "GeneralizedSignSGD": {"betas": (0.9, 0.8)}}  # the default warns once
    for name in rooms.__all__:
        kind = getattr(rooms, name)
        if isinstance(kind, type) and issubclass(kind, rooms.Optimizer) and kind is not rooms.Optimizer:
            if kind is rooms.MatrixOptimizer:
                continue
            p = nn.Parameter(torch.ones(4, 4))
            table = explain(kind([p], lr=0.1, **needed.get(name, {})))
            assert len(table) == 1, name
            assert name in str(table)
            assert table.rows[0].lr == pytest.approx(0.1)


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)])
def test_what_methods_state_is_what_they_do(shape):
    import isometry.optim as rooms

    for name in rooms.__all__:
        kind = getattr(rooms, name)
        if not isinstance(kind, type) or not issubclass(kind, rooms.MatrixOptimizer) or kind is rooms.MatrixOptimizer:
            continue
        p = nn.Parameter(draw(*shape, seed=1))
        optimizer = kind([p], lr=0.1, weight_decay=0.0)
        (row,) = explain(optimizer)
        if row.rms is not None and "typical" not in row.holds:
            # A Gaussian gradient has full rank; five Newton-Schulz steps leave singular values from 0.68 to 1.2.
            assert 0.68 <= sizes(step_of(p, optimizer))[1] / row.rms <= 1.21, name


def test_constrained_weights_are_rows_of_their_own():
    from isometry import manifolds

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    manifolds.constrain_(model, "stiefel")
    rules = {row.rule for row in explain(RiemannianAdam(model.parameters(), lr=0.1))}
    assert rules == {"adamw", "RiemannianAdam"}


def test_learning_rates_as_tensors_and_the_table():
    p = nn.Parameter(torch.zeros(8, 2))
    table = explain(Muon([p], lr=torch.tensor(0.5), weight_decay=0.1))
    assert table.rows[0].lr == 0.5
    text = str(table)
    assert "1 of 8 x 2" in text
    assert "momentum of full rank" in text
    assert table.to_dict()["rows"][0]["shape"] == [8, 2]
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got Linear"):
        explain(nn.Linear(2, 2))
