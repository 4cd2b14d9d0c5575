"""Models of the transformers library and models of several inputs, from reference to prescription."""

import json

import pytest
import torch
from torch import nn

from isometry import Inputs, data
from isometry.diagnosis import diagnose
from isometry.nn import resolve_model

from .nets import assert_same, fingerprint

transformers = pytest.importorskip("transformers")


def text(length=16):
    return data.load(f"shakespeare:length={length}")


def foreign(spec, dataset):
    torch.manual_seed(0)
    return resolve_model(f"transformers:{spec}", in_shape=dataset.shape, classes=dataset.outputs)


def test_a_language_model_is_measured_and_left_alone():
    dataset = text()
    model = foreign("gpt2,n_layer=2,n_embd=32,n_head=2", dataset)
    before = fingerprint(model)
    found = diagnose(model, dataset, samples=16)
    assert_same(before, fingerprint(model))
    assert found.verdict == "healthy"
    assert found.evidence.fisher.kind == "monte-carlo"
    assert found.evidence.fisher.positions == 16 * 16
    assert found.evidence.signal.loss == pytest.approx(found.evidence.response.loss, rel=1e-4)
    assert "labels were drawn from the model instead, 8 for each" in str([s.why for s in found.skipped])
    assert json.dumps(found.to_dict())


def test_a_sick_language_model_is_cured():
    dataset = text()
    model = foreign("gpt2,n_layer=2,n_embd=32,n_head=2", dataset)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    found = diagnose(model, dataset, samples=8)
    assert found.verdict == "error"
    assert not found.prescription.remaining
    found.prescription.apply_(model)
    assert diagnose(model, dataset, samples=8).verdict != "error"


def test_hidden_states_are_measured_without_targets():
    dataset = text()
    model = foreign("bert,num_hidden_layers=1,hidden_size=16,intermediate_size=16,num_attention_heads=2,head=none,"
                    "vocab_size=62", dataset)  # fmt: skip
    found = diagnose(model, dataset, samples=4)
    assert found.evidence.case.likelihood == "gaussian"
    assert found.evidence.case.y is None
    assert any("no head for the targets" in s.why for s in found.skipped)


class Scored(nn.Module):
    """Two inputs by position and keyword, a dictionary of outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, *, gate):
        return {"hidden": x, "scores": self.head(torch.tanh(self.first(x)) * gate)}


def test_several_inputs_and_a_chosen_output():
    g = torch.Generator().manual_seed(0)
    inputs = Inputs((torch.randn(40, 6, generator=g),), {"gate": torch.rand(40, 1, generator=g)}, output="scores")
    found = diagnose(Scored(), (inputs, torch.arange(40) % 3), prove=20)
    assert found.evidence.fisher.samples == 40
    assert len(found.proof.before.loss) == 20
    with pytest.raises(TypeError, match="keys 'hidden', 'scores'; say which one is measured"):
        diagnose(Scored(), (inputs.changed(output=None), torch.arange(40) % 3))


def test_inputs_without_targets():
    inputs = Inputs((torch.randn(10, 6),), {"gate": torch.ones(10, 1)}, output="scores")
    assert diagnose(Scored(), inputs).evidence.case.y is None


def test_images_with_a_label_per_pixel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))
    x = torch.randn(8, 1, 4, 4)
    labels = torch.arange(8 * 16).reshape(8, 4, 4) % 3
    found = diagnose(model, (x, labels), prove=10)
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(model(x), labels)
    assert found.evidence.response.loss == pytest.approx(float(wanted), rel=1e-5)
    assert found.evidence.fisher.outputs == 3
    assert len(found.proof.after.loss) == 10


def test_labels_at_each_position_name_the_reference_to_type():
    dataset = text(8)
    spec = "bert,num_hidden_layers=1,hidden_size=16,intermediate_size=16,num_attention_heads=2"
    model = foreign(spec, dataset)
    with pytest.raises(ValueError, match="labels of shape") as told:
        diagnose(model, dataset, samples=4)
    wanted = f"transformers:{spec},head=masked-lm"
    assert str(told.value).endswith(f"for one a position the MODEL is {wanted!r}.")
    assert type(resolve_model(wanted, in_shape=dataset.shape, classes=dataset.outputs)).__name__ == "BertForMaskedLM"
    model = foreign("gpt2,n_layer=1,n_embd=8,n_head=2,head=sequence-classification,pad_token_id=0", dataset)
    with pytest.raises(ValueError, match=r"'transformers:gpt2,n_layer=1,n_embd=8,n_head=2,pad_token_id=0,head=causal"):
        diagnose(model, dataset, samples=4)
    made = transformers.AutoModelForSequenceClassification.from_config(foreign(spec, dataset).config)
    with pytest.raises(ValueError, match="of the transformers library AutoModelForMaskedLM and"):
        diagnose(made, dataset, samples=4)


def test_small_branches_are_no_exploding_gradient():
    digits = data.load("digits")
    model = foreign("convnext,hidden_sizes=8-16,depths=1-1,num_stages=2,patch_size=2", digits)
    before = fingerprint(model)
    found = diagnose(model, digits, samples=16)
    assert_same(before, fingerprint(model))
    trunk = {"convnext.embeddings.patch_embeddings", "convnext.encoder.stages.1.downsampling_layer.1", "classifier"}
    weights = {layer.name for layer in found.evidence.signal.weight_layers}
    assert found.evidence.branches == weights - trunk
    assert "exploding_gradient" not in [f.code for f in found.findings]


def test_an_embedding_before_a_normalization_is_no_exploding_gradient():
    dataset = text()
    spec = "bert,num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=64,head=masked-lm"
    found = diagnose(foreign(spec, dataset), dataset, samples=8)
    assert "exploding_gradient" not in [f.code for f in found.findings]


def test_an_activation_is_named_as_its_library_does():
    dataset = text()
    found = diagnose(foreign("gpt2,n_layer=1,n_embd=32,n_head=2", dataset), dataset, samples=4)
    assert found.to_dict()["subject"]["activation"] == "gelu_new"
