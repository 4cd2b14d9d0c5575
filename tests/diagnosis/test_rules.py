from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isometry.diagnosis import CODES, Finding, diagnose
from isometry.diagnosis._finding import verdict_of

from .nets import CLASSES, SIZE, data, mlp


def found(model, pair=None):
    return {f.code: f for f in diagnose(model, data() if pair is None else pair, samples=32).findings}


def errors(model, pair=None):
    return {code for code, f in found(model, pair).items() if f.severity == "error"}


def edited(edit, activation=nn.ReLU, depth=4):
    model = mlp(depth, activation, gain=1.4)
    with torch.no_grad():
        edit(model)
    return model


class Dim(nn.Module):
    def forward(self, x):
        return 1e-18 * x


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


def test_a_critical_net_has_no_errors():
    assert errors(mlp(30, gain=1.02)) == set()


def test_default_tanh_collapses_as_theory_says():
    findings = found(mlp(50))
    collapse = findings["correlation_collapse"]
    assert collapse.severity == "error"
    assert collapse.value > 20
    assert collapse.expected == 6
    assert "6 xi_c" in collapse.message
    gradient = findings["vanishing_gradient"]
    assert gradient.severity == "error"
    assert gradient.value == pytest.approx(gradient.expected, rel=0.2)  # layers per e-fold, measured and predicted
    assert gradient.value == pytest.approx(1 / math.log(3), rel=0.2)  # chi = 1/3


def test_a_shallow_default_net_is_no_error():
    assert errors(mlp(4)) == set()


def test_chaos_explodes():
    assert {"exploding_gradient", "unruly_step"} <= errors(mlp(60, gain=3.0))


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (lambda: edited(lambda m: m[4].bias.fill_(-1e3)), "no_gradient"),
        (lambda: edited(lambda m: [p.zero_() for p in m[4].parameters()]), "no_gradient"),
        (lambda: nn.Sequential(*mlp(2), Detach()), "no_gradient"),
        (lambda: mlp(2).requires_grad_(False), "no_gradient"),
        (lambda: edited(lambda m: m[2].bias.fill_(60.0), nn.Sigmoid), "constant_output"),
        (lambda: edited(lambda m: [p.fill_(0.1) for p in m.parameters()]), "identical_units"),
        (lambda: nn.Sequential(*mlp(2), nn.Softmax(1)), "bounded_outputs"),
        (lambda: nn.Sequential(*list(mlp(2, gain=1.0))[:2], Dim(), *list(mlp(2, gain=1.0))[2:]), "gradient_underflow"),
        (lambda: edited(lambda m: [m[i].weight.mul_(100) for i in (0, 2, 4, 6)]), "features_unresolved"),
        (lambda: edited(lambda m: m[2].weight[0].fill_(math.nan)), "nonfinite_parameters"),
        (lambda: edited(lambda m: [m[i].weight.mul_(1e15) for i in (0, 2, 4)]), "nonfinite_signal"),
        (lambda: nn.Sequential(*list(mlp(2))[:-1], nn.Dropout(1.0), nn.Linear(SIZE, CLASSES)), "dropout"),
    ],
)
def test_bugs_are_errors_with_a_remedy(model, code):
    finding = found(model())[code]
    assert finding.severity == "error"
    assert finding.remedy
    assert finding.value is not None


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (lambda: edited(lambda m: m[8].weight.mul_(100)), "logits_too_large"),
        (lambda: edited(lambda m: m[4].bias[:12].fill_(-1e3)), "dead_units"),
        (lambda: edited(lambda m: m[2].weight.mul_(1e3), nn.Tanh), "saturated_units"),
        (lambda: nn.Sequential(*list(mlp(2))[:2], Detach(), *list(mlp(2))[2:]), "unreachable_parameters"),
    ],
)
def test_flaws_are_warnings(model, code):
    assert found(model())[code].severity == "warning"


def test_a_zero_readout_is_no_error_and_raw_inputs_are_a_warning():
    assert errors(edited(lambda m: m[8].weight.zero_())) == set()
    x, y = data()
    raw = found(mlp(2), ((x * 40 + 100).clamp(0, 255), y))
    assert raw["input_scale"].severity == "warning"
    assert "divide by 255" in raw["input_scale"].remedy


def test_dropout_beside_a_skip_is_no_error():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.drop = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, CLASSES), nn.Dropout(1.0)

        def forward(self, x):
            return self.b(x + self.drop(self.a(x)))

    assert found(Skip())["dropout"].severity == "warning"


def test_every_code_that_appears_is_in_the_table():
    assert set(found(mlp(50))) <= set(CODES)
    assert all(text and not text.endswith(".") for text in CODES.values())


def test_verdict_is_the_worst_severity():
    info, warning, error = (Finding(s, "step_size", "m") for s in ("info", "warning", "error"))
    assert verdict_of(()) == verdict_of((info,)) == "healthy"
    assert verdict_of((info, warning)) == "warning"
    assert verdict_of((warning, error, info)) == "error"
    assert str(Finding("info", "step_size", "m", 2.0, 3.0)) == "info: step_size: m [2, expected 3]"
