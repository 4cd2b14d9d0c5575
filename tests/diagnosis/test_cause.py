"""Unscaled inputs are named before what they do; the words count right; the theorem's bound goes through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry import measure
from isometry.diagnosis import diagnose
from isometry.diagnosis._words import count, several

from .nets import CLASSES, SIZE, data, mlp


def pixels():
    x, y = data()
    return ((x - x.min()) / (x.max() - x.min()) * 255).round(), y


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_raw_pixels_are_named_first_and_in_the_remedy(activation):
    found = diagnose(mlp(5, activation), pixels(), samples=32)
    first = found.findings[0]
    assert first.code == "input_scale"
    assert "8-bit pixels, it seems" in first.message
    assert "divide by 255" in first.remedy
    assert found.prescription.summary.startswith("standardize the inputs, then ")


def test_the_inputs_are_blamed_for_errors_only_if_standardizing_removes_them():
    x, y = data()
    huge = diagnose(mlp(2, nn.ReLU, gain=1.4), (x * 1e9, y), samples=32)
    assert huge.findings[0].code == "input_scale"
    assert huge.findings[0].severity == "error"
    assert "They are the cause of the other error" in huge.findings[0].message
    assert "features_unresolved" in [f.code for f in huge.findings if f.severity == "error"]
    deep = {f.code: f for f in diagnose(mlp(60), pixels(), samples=32).findings}
    assert deep["input_scale"].severity == "warning"
    assert deep["correlation_collapse"].severity == "error"


def test_a_model_that_rescales_its_inputs_is_left_alone():
    class Rescale(nn.Module):
        def forward(self, x):
            return x / 128 - 1

    found = diagnose(nn.Sequential(Rescale(), *mlp(2)), pixels(), samples=32)
    assert "input_scale" not in [f.code for f in found.findings if f.severity != "info"]


def test_hidden_layers_eigenvalue_and_theorem_are_measured_for_chains():
    model, (x, y) = mlp(5, gain=1.0), data()
    found = diagnose(model, (x, y), samples=64)
    hidden = found.evidence.hidden
    fisher = measure.fisher(model.eval(), found.evidence.case.x, params="hidden")
    assert hidden.lambda_max == pytest.approx(fisher.lambda_max)
    assert hidden.theorem == pytest.approx(float(fisher.bound("theorem")))
    assert hidden.holds == (fisher.lambda_max <= float(fisher.bound("theorem")))
    section = found.to_dict()["fisher"]
    assert section["hidden"] == {"lambda_max": hidden.lambda_max, "bound_theorem": hidden.theorem}
    assert section["hidden"]["lambda_max"] < section["lambda_max"] <= section["bound_rigorous"]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(3))
        self.head = nn.Linear(SIZE, CLASSES)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def test_the_theorem_takes_a_function_that_is_no_module():
    assert diagnose(Functional(), data(), samples=16).evidence.hidden.theorem > 0


def test_where_the_theorem_does_not_apply_the_reason_is_listed():
    convolutions = [m for i in (1, 4, 4) for m in (nn.Conv2d(i, 4, 3, padding=1), nn.Tanh())]
    cnn = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), *convolutions, nn.Flatten(), nn.Linear(64, CLASSES))
    found = diagnose(cnn, data(), samples=16)
    assert found.evidence.chain is not None
    assert found.to_dict()["fisher"]["hidden"] is None
    why = {s.what: s.why for s in found.skipped}["theorem's bound on the hidden layers"]
    assert why.startswith("the theorem is about chains of linear layers")
    normed = nn.Sequential(nn.Linear(SIZE, SIZE), nn.LayerNorm(SIZE), nn.Tanh(), nn.Linear(SIZE, CLASSES))
    listed = {s.what: s.why for s in diagnose(normed, data(), samples=16).skipped}
    assert [why for what, why in listed.items() if "theorem's bound" in what] == [
        "only for chains that mean-field theory describes"
    ]


def test_amounts_agree_with_their_nouns():
    assert count(1, "weight") == "1 weight"
    assert count(0, "weight") == "0 weights"
    assert several(1.0004, "layer") == "1 layer"
    assert several(1.04, "layer") == "1.04 layers"


@pytest.mark.parametrize(("broken", "words"), [((0,), "1 parameter holds NaN"), ((0, 2), "2 parameters hold NaN")])
def test_one_broken_parameter_is_singular(broken, words):
    model = mlp(2)
    with torch.no_grad():
        for i in broken:
            model[i].weight[0] = torch.nan
    assert diagnose(model, data(), samples=16).findings[0].message.startswith(words)


@pytest.mark.parametrize(("zeroed", "words"), [((0,), "The weight 0.weight holds"), ((0, 2), "2 weights hold one")])
def test_one_constant_weight_is_singular(zeroed, words):
    model = mlp(2)
    with torch.no_grad():
        for i in zeroed:
            model[i].weight.fill_(0.1)
    found = {f.code: f.message for f in diagnose(model, data(), samples=16).findings}
    assert found["constant_weights"].startswith(words)
