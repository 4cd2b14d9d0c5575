from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load_model
from torch import nn

from isometry.diagnosis import diagnose, prescribe

from .nets import CLASSES, assert_same, data, fingerprint, mlp


def test_applying_gives_the_same_draw_every_time_and_hits_criticality():
    model = mlp(30)
    before = fingerprint(model)
    prescription = prescribe(model, data(), seed=5)
    assert_same(before, fingerprint(model))
    first, second = (prescription.apply_(copy.deepcopy(model)) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    gram = first[4].weight @ first[4].weight.T / prescription.sigma_w**2
    torch.testing.assert_close(gram.detach(), torch.eye(16), atol=0.3, rtol=0)
    assert prescription.sigma_w > 1
    codes = {f.code for f in diagnose(first, data()).findings if f.severity == "error"}
    assert codes == set()


def test_saved_state_loads_into_the_model(tmp_path):
    model = mlp(10)
    prescription = prescribe(model, data())
    path = prescription.save(tmp_path / "deep" / "init.safetensors")
    assert [p.name for p in path.parent.iterdir()] == ["init.safetensors"]
    loaded, applied = copy.deepcopy(model), prescription.apply_(copy.deepcopy(model))
    load_model(loaded, path)
    assert_same(fingerprint(applied), fingerprint(loaded))


def test_a_place_that_takes_no_files_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"nothing can be written to '.*file/deep' \(Not a directory\); give another"):
        prescribe(mlp(2), data()).save(tmp_path / "file" / "deep" / "init.safetensors")


def test_other_seed_other_draw_and_q_star_is_obeyed():
    model = mlp(10)
    a, b = prescribe(model, data(), seed=0), prescribe(model, data(), seed=1)
    assert not torch.equal(a.apply_(copy.deepcopy(model))[2].weight, b.apply_(copy.deepcopy(model))[2].weight)
    assert prescribe(model, data(), q_star=1 / 64).q_star == pytest.approx(1 / 64)


def test_nan_weights_are_cleared():
    model = mlp(5)
    model[2].weight.data.fill_(math.nan)
    found = diagnose(model, data())
    assert found.prescription is not None
    cured = found.prescription.apply_(copy.deepcopy(model))
    assert all(bool(torch.isfinite(p).all()) for p in cured.parameters())


def test_what_no_initialization_cures_is_said():
    found = diagnose(nn.Sequential(*mlp(2), nn.Softmax(1)), data())
    assert any("Return logits" in note for note in found.prescription.notes)
    assert f"{CLASSES}" in str(len(data()[1].unique()))
    assert (
        "This initialization alone does not cure the model: bounded_outputs would remain." in found.prescription.notes
    )


def test_what_is_left_of_a_model_that_was_not_judged_is_no_cure_that_failed():
    told = prescribe(nn.Sequential(*mlp(2), nn.Softmax(1)), data())
    assert told.notes[0].startswith("Measured as prescribed, the model shows bounded_outputs")


def test_prints_its_changes():
    text = str(prescribe(mlp(3), data()))
    assert "sigma_w" in text
    assert "0.weight: " in text


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (nn.Sequential(nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 4)), "parameter '0.weight' has shape (9, 16), the"),
        (
            nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)),
            "parameter '2.weight' has shape (16, 16),",
        ),
        (nn.Sequential(nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 4)), "it has no parameter '0.weight'"),
        (nn.Sequential(*mlp(1), nn.Linear(4, 4)), "its parameter '3.weight' is not in the diagnosed model"),
    ],
)
def test_another_model_is_refused_and_left_alone(other, difference):
    prescription = prescribe(mlp(1), data())
    before = fingerprint(other)
    with pytest.raises(ValueError, match="is not the one that this prescription was made for") as told:
        prescription.apply_(other)
    assert difference in str(told.value)
    assert "or call isometry.prescribe on this one" in str(told.value)
    assert_same(before, fingerprint(other))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"):
        prescription.apply_("model")


def test_a_model_that_is_built_alike_takes_it():
    made = prescribe(mlp(2, seed=0), data())
    first, second = made.apply_(mlp(2, seed=0)), made.apply_(mlp(2, seed=1))
    assert torch.equal(first[2].weight, second[2].weight)
    compiled = made.apply_(torch.compile(mlp(2, seed=1)))
    assert torch.equal(first[2].weight, compiled._orig_mod[2].weight)


def test_the_summary_tells_the_setting_of_most_layers():
    model = nn.Sequential(nn.Linear(16, 16), *mlp(60))  # two affine maps in a row: the first has no activation
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), *model[1:])
    found = diagnose(model, data()).prescription
    told = [c.detail for c in found.changes if c.name.endswith("weight")]
    assert sum(f"sigma_w = {found.sigma_w:.4g}" in detail for detail in told) > 50
    assert f"sigma_w = {found.sigma_w:.4g}, sigma_b = {found.sigma_b:.3g} in 59 of 61 hidden layers" in found.summary
    assert "linear" not in found.summary
    plain = prescribe(mlp(60), data())
    assert f"tanh: q* = {plain.q_star:.4g}, sigma_w = {plain.sigma_w:.4g}, sigma_b" in plain.summary


class Wrapped(nn.Module):
    def __init__(self, how, depth=2):
        super().__init__()
        self.net, self.how = mlp(depth), how

    def forward(self, x):
        return self.how(self.net, x)


@torch.no_grad()
def ungraded(net, x):
    return net(x)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda net, x: net(x).detach(), "If a detach(), a no_grad() or a frozen readout cuts the gradient, remove"),
        (ungraded, "If a detach(), a no_grad() or a frozen readout cuts the gradient, remove"),
        (lambda net, x: net[3:](net[:3](x).detach()), "Reconnect or freeze the parameters that no gradient reaches."),
        (lambda net, x: net(x) * math.nan, "If the model's code makes values that are not finite"),
        (lambda net, x: net(x) + torch.randn(len(x), CLASSES), "Draw random numbers in training mode only"),
        (lambda net, x: net(x) - net(x).mean(0), "Take statistics within a sample, or running ones"),
    ],
    ids=["detach", "no_grad", "detach within", "nan", "random", "batch"],
)
def test_where_weights_cannot_help_the_summary_says_what_to_do(how, words):
    found = diagnose(Wrapped(how), data())
    assert found.verdict != "healthy"
    assert found.prescription.summary.startswith(words)
    assert "orthogonal" not in found.prescription.summary
    assert any(note.startswith(words) for note in found.prescription.notes)


def test_weights_come_second_where_both_are_to_be_mended():
    found = diagnose(nn.Sequential(*mlp(60), nn.Softmax(1)), data()).prescription
    assert found.summary.startswith("Return logits: ")
    assert " Then orthogonal weights, by theory, tanh: q*" in found.summary
