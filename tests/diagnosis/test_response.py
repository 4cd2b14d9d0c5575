from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isometry.diagnosis._case import open_case
from isometry.diagnosis._response import SMALL_STEP, USUAL_STEP, measure_response

from .nets import assert_same, data, fingerprint, mlp


def response(model, **options):
    return measure_response(open_case(model, data(), **{"samples": 32, "seed": 0, "likelihood": None, **options}))


def test_distinguishability_is_one_minus_the_correlation_of_centred_copies():
    model = mlp(3, gain=1.0)
    case = open_case(model, data(), samples=32, seed=0, likelihood=None)
    found = measure_response(case)
    h = case.x.first
    for layer, seen in zip(model[::2], found.inputs, strict=True):
        varies = (h - h.mean(0)).double().square().mean() / h.double().square().mean()
        assert seen.distinguishability == pytest.approx(float(varies), rel=1e-5)
        assert seen.q == pytest.approx(float(h.double().square().mean()), rel=1e-5)
        h = torch.tanh(layer(h)).detach()


def test_curvature_of_a_step_matches_a_transcription():
    model = mlp(2, gain=1.5)
    case = open_case(model, data(), samples=32, seed=0, likelihood=None)
    found = measure_response(case)
    loss = nn.functional.cross_entropy(model(case.x.first), case.y)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    outs = {}
    for t in (SMALL_STEP, 0.0, -SMALL_STEP):
        moved = {
            n: p.detach() - t * g / (g.abs() + 1e-8) for (n, p), g in zip(model.named_parameters(), grads, strict=True)
        }
        outs[t] = torch.func.functional_call(model, moved, case.x.first).detach().double()
    even, odd = outs[SMALL_STEP] + outs[-SMALL_STEP] - 2 * outs[0.0], outs[SMALL_STEP] - outs[-SMALL_STEP]
    kappa = (even - even.mean(0)).norm() / (odd - odd.mean(0)).norm()
    assert found.curvature == pytest.approx(float(kappa), rel=0.05)  # differences of float32 outputs
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-5)


def test_linear_in_its_parameters_has_no_curvature_and_chaos_has_all():
    linear = nn.Linear(16, 4)
    assert response(linear).unruliness < 0.01
    chaotic = response(mlp(60, gain=3.0))
    assert chaotic.curvature == pytest.approx(math.sqrt(3), abs=0.4)  # unrelated outputs
    assert chaotic.unruliness == pytest.approx(math.sqrt(6) / 2, abs=0.25)


def test_a_zero_readout_wakes_up_after_a_step():
    model = mlp(2, gain=1.0)
    nn.init.zeros_(model[2].weight)
    found = response(model)
    assert found.inputs[-1].q == 0
    assert math.isnan(found.terminal)
    assert found.after is not None
    assert found.after.distinguishability > 0.1
    assert USUAL_STEP > SMALL_STEP


def test_detached_and_frozen_parameters_are_told_apart():
    class Cut(nn.Sequential):
        def forward(self, x):
            return self[2](self[1](self[0](x)).detach())

    model = Cut(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    model[2].bias.requires_grad_(False)
    found = {g.name: g for g in response(model).gradients}
    assert set(found) == {"0.weight", "0.bias", "2.weight"}
    assert not found["0.weight"].reached
    assert found["2.weight"].rms > 0


def test_the_model_is_left_alone_and_noise_counts_products():
    model = mlp(4)
    before = fingerprint(model)
    found = response(model)
    assert_same(before, fingerprint(model))
    assert found.noise == pytest.approx(torch.finfo(torch.float32).eps ** 2 * 5 * 16)


def test_probabilities_are_recognised():
    found = response(nn.Sequential(*mlp(1), nn.Softmax(1)))
    assert found.rows_sum_to_one
    assert found.output_function == "SoftmaxBackward0"
    assert not response(mlp(1)).rows_sum_to_one


def test_two_samples_say_nothing_about_the_rank():
    two = measure_response(open_case(mlp(2), data(2), samples=2, seed=0, likelihood=None))
    three = measure_response(open_case(mlp(2), data(3), samples=3, seed=0, likelihood=None))
    assert math.isnan(two.inputs[-1].rank_ratio)
    assert 0 < three.inputs[-1].rank_ratio <= 1
