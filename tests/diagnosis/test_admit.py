"""Models whose parameters hold no numbers or whose layers cannot be watched are refused; compiled ones are opened."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isometry.diagnosis import diagnose, prescribe

from .nets import CLASSES, SIZE, data, mlp


def scripted():
    return torch.jit.script(mlp(2))


def meta():
    with torch.device("meta"):
        return mlp(2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (meta, ValueError, r"on the meta device, first '0\.weight', which hold no numbers; .*to_empty"),
        (lambda: nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(CLASSES)), ValueError,
         r"wait for their shape, first '0\.weight' of a lazy layer; run the model once on a batch"),
        (scripted, TypeError, r"is a scripted module \(got RecursiveScriptModule\), .*pass the Python module"),
        (lambda: nn.Sequential(nn.Linear(SIZE, SIZE), scripted()), TypeError, r"has a scripted part, '1'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", [diagnose, prescribe])
def test_what_cannot_be_measured_is_refused_in_a_sentence(call, make, error, message):
    with pytest.raises(error, match=message):
        call(make(), data())


def compiled_inside():
    model = mlp(3)
    model[2] = torch.compile(model[2], backend="eager")
    return model


def compiled_in_place():
    model = mlp(3)
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda: torch.compile(mlp(3), backend="eager"), "torch.compile's wrapper was taken off"),
        (compiled_inside, "the model's compiled parts were run uncompiled"),
        (compiled_in_place, "the model's compiled parts were run uncompiled"),
    ],
)
def test_a_compiled_model_is_measured_like_the_module_inside(make, note):
    found, plain = diagnose(make(), data(), samples=16), diagnose(mlp(3), data(), samples=16)
    assert note in {s.what: s.why for s in found.skipped}["the model exactly as it is"]
    assert [f.code for f in found.findings] == [f.code for f in plain.findings]
    ours, theirs = found.to_dict()["signal"]["layers"], plain.to_dict()["signal"]["layers"]
    assert [row["q"] for row in ours] == [row["q"] for row in theirs]


def test_a_prescription_draws_the_same_weights_for_the_compiled_model():
    plain, compiled = mlp(3), torch.compile(mlp(3), backend="eager")
    prescription = prescribe(plain, data(), samples=16)
    prescription.apply_(plain)
    assert prescription.apply_(compiled) is compiled
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_frozen_model_is_told_so_and_gets_no_prescription():
    model = mlp(3).requires_grad_(False)
    found = diagnose(model, data(), samples=16)
    first = found.findings[0]
    assert first.code == "no_gradient"
    assert first.message == "Every parameter is frozen: none requires a gradient, so training would change nothing."
    assert "requires_grad_(True)" in first.remedy
    assert found.prescription is None
    assert "no parameter that requires a gradient" in {s.what: s.why for s in found.skipped}["prescription"]
    with pytest.raises(ValueError, match="model has no parameter that requires a gradient"):
        prescribe(model, data(), samples=16)


@pytest.mark.parametrize(
    ("left", "words"), [(["0.bias"], "1 vector (biases, scales) is"), (["0.bias", "2.bias"], "2 vectors")]
)
def test_frozen_weights_with_biases_left(left, words):
    model = mlp(2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in left)
    (message,) = [f.message for f in diagnose(model, data(), samples=16).findings if f.code == "no_gradient"]
    assert message.startswith(f"Every weight matrix is frozen: {words}")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Linear(SIZE, CLASSES), "the model has one layer with weights; mean-field theory"),
        (nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, CLASSES, 4), nn.Flatten()), "one layer with weights"),
        (mlp(1), "the model has one hidden layer; mean-field theory"),
    ],
)
def test_a_single_layer_is_not_called_two(model, why):
    skipped = {s.what: s.why for s in diagnose(model, data(), samples=16).skipped}
    assert why in skipped["mean-field theory"]
