"""Weights that were read from a checkpoint: measured and explained, never overwritten unasked."""

import copy
import json
import re

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from isometry import data
from isometry import nn as models
from isometry.cli import app
from isometry.diagnosis import CODES, diagnose, prescribe
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._pretrained import _REMEDIES, WITHHELD, spared
from isometry.report import render

transformers = pytest.importorskip("transformers")

SPEC = "gpt2,n_layer=2,n_embd=32,n_head=2"


def text():
    return data.load("shakespeare:length=16")


def spoiled(folder, *, factor=300.0):
    """A saved model whose readout is far too large: its diagnosis has a warning at least."""
    dataset = text()
    torch.manual_seed(0)
    model = models.resolve_model(f"transformers:{SPEC}", in_shape=dataset.shape, classes=dataset.outputs)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(factor)
    model.save_pretrained(folder)
    return dataset


def read(folder, dataset):
    return models.resolve_model(f"transformers:{folder}", in_shape=dataset.shape, classes=dataset.outputs)


def test_the_origin_of_weights(tmp_path):
    dataset = spoiled(tmp_path)
    assert models.is_pretrained(read(tmp_path, dataset))
    assert models.is_pretrained(copy.deepcopy(read(tmp_path, dataset)))
    assert models.is_pretrained(transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path)))
    headed = nn.Sequential(transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path)), nn.Linear(2, 2))
    assert models.is_pretrained(headed)  # inside another module too
    fresh = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(str(tmp_path)))
    assert fresh.name_or_path  # of the configuration alone: the weights are random
    assert not models.is_pretrained(fresh)
    assert not models.is_pretrained(nn.Linear(2, 2))


def test_no_prescription_is_made_and_the_reason_stands_everywhere(tmp_path):
    dataset = spoiled(tmp_path)
    model = read(tmp_path, dataset)
    found = diagnose(model, dataset, samples=8, prove=10)
    assert found.verdict != "healthy"
    assert found.prescription is None
    assert found.proof is None
    assert ("prescription", WITHHELD) in [(s.what, s.why) for s in found.skipped]
    assert WITHHELD in str(found)
    remedies = [f.remedy for f in found.findings if f.remedy]
    assert remedies
    assert not [r for r in remedies if re.search("[Pp]rescription|[Ii]nitializ", r)]
    assert found.to_dict()["prescription"] is None
    page = render(found.to_dict())
    assert "an initialization would overwrite what they have learned" in page
    assert "What to change" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    drawn = diagnose(fresh_copy(model), dataset, samples=8)
    assert drawn.verdict == found.verdict  # judged alike
    assert drawn.prescription is not None
    told = next(f for f in found.findings if f.code == "logits_too_large")
    assert told.message.startswith("The network as it was read is sure of its guesses")
    assert told.remedy == _REMEDIES["logits_too_large"]


def fresh_copy(model):
    """The same values without the marks of where they came from."""
    made = type(model)(model.config)
    made.load_state_dict(model.state_dict())
    return made.eval()


def test_who_asks_for_a_prescription_gets_it_with_a_warning(tmp_path):
    dataset = spoiled(tmp_path)
    done = prescribe(read(tmp_path, dataset), dataset, samples=8)
    assert done.notes[0] == "The model's weights were read from a checkpoint: this initialization overwrites them."
    assert not any("overwrites" in n for n in prescribe(fresh_copy(read(tmp_path, dataset)), dataset, samples=8).notes)


def test_a_healthy_one_needs_none(tmp_path):
    dataset = spoiled(tmp_path, factor=1.0)
    found = diagnose(read(tmp_path, dataset), dataset, samples=16)
    assert found.verdict == "healthy"
    assert ("prescription", "nothing needs to change") in [(s.what, s.why) for s in found.skipped]


@pytest.mark.parametrize("factor", [300.0, float("nan")])
def test_exit_codes_are_those_of_the_verdict(tmp_path, factor):
    spoiled(tmp_path / "saved", factor=factor)
    arguments = ["diagnose", f"transformers:{tmp_path / 'saved'}", "--data", "shakespeare:length=8", "--samples", "8"]
    told = CliRunner().invoke(app, [*arguments, "--json"])
    content = json.loads(told.stdout)
    assert content["prescription"] is None
    assert told.exit_code == (1 if content["verdict"] == "error" else 0)
    assert (told.exit_code == 1) == (factor != factor)  # NaN is an error
    if factor == factor:
        return
    plain = CliRunner().invoke(app, arguments)
    assert plain.exit_code == told.exit_code
    told = " ".join(plain.stdout.split())
    assert "not measured: prescription: the model's weights were read from a checkpoint" in told


def test_every_remedy_is_for_a_known_code_and_draws_nothing():
    assert set(_REMEDIES) <= set(CODES)
    for code, remedy in _REMEDIES.items():
        assert not re.search("prescri|initiali|orthogonal", remedy, re.I), code
    bare = Finding("info", "jacobian", "Fine.")
    assert spared((bare,)) == (bare,)  # no remedy where there was none
    asked = Finding("warning", "vanishing_signal", "It shrinks.", remedy="Initialize with the prescription.")
    assert spared((asked,))[0].remedy == _REMEDIES["vanishing_signal"]


def test_a_remedy_that_draws_nothing_stays():
    kept = Finding("error", "no_gradient", "Frozen.", remedy="Call requires_grad_(True) on the readout.")
    assert spared((kept,)) == (kept,)
    unknown = Finding("error", "another", "Bad.", remedy="Initialize it anew.")
    assert "freeze the layers that are named" in spared((unknown,))[0].remedy
