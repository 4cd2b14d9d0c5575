"""References to models of the transformers library, and what they are called with."""

import sys

import pytest
import torch
from torch import nn

from isometry._base import BadReferenceError
from isometry.nn import default_data, named_inputs, resolve_model, tokenizer_of

transformers = pytest.importorskip("transformers")

SMALL = {
    "gpt2": "n_layer=1,n_embd=8,n_head=2",
    "llama": "num_hidden_layers=1,hidden_size=8,intermediate_size=8,num_attention_heads=2,num_key_value_heads=1",
    "bert": "num_hidden_layers=1,hidden_size=8,intermediate_size=8,num_attention_heads=2",
    "resnet": "embedding_size=4,hidden_sizes=4-8,depths=1-1",
    "vit": "hidden_size=8,num_hidden_layers=1,num_attention_heads=2,intermediate_size=8,patch_size=4",
}
IDS = torch.arange(10).reshape(2, 5)


def build(name, more="", in_shape=(5,), classes=11):
    return resolve_model(f"transformers:{name},{SMALL[name]}{more}", in_shape=in_shape, classes=classes)


@pytest.mark.parametrize(
    ("name", "more", "kind", "shape"),
    [
        ("gpt2", "", "GPT2LMHeadModel", (2, 5, 11)),
        ("llama", "", "LlamaForCausalLM", (2, 5, 11)),
        ("bert", "", "BertForSequenceClassification", (2, 11)),
        ("bert", ",head=masked-lm", "BertForMaskedLM", (2, 5, 11)),
        ("bert", ",head=none", "BertModel", (2, 5, 8)),
        ("gpt2", ",vocab_size=13", "GPT2LMHeadModel", (2, 5, 13)),
    ],
)
def test_architectures_with_random_weights(name, more, kind, shape):
    torch.manual_seed(0)
    model = build(name, more).eval()
    assert type(model).__name__ == kind
    assert tuple(named_inputs(model, IDS).run(model).shape) == shape


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_image_models_take_their_sizes_from_the_data(name):
    model = build(name, in_shape=(1, 8, 8), classes=3).eval()
    assert tuple(named_inputs(model, torch.randn(2, 1, 8, 8)).run(model).shape) == (2, 3)


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_spelling_out_positions_changes_nothing(name):
    model = build(name).eval()
    inputs = named_inputs(model, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)})
    assert "position_ids" in inputs.kwargs
    plain = model(IDS, attention_mask=torch.ones_like(IDS)).logits
    assert torch.allclose(inputs.run(model), plain, atol=1e-6)


def test_other_models_get_their_inputs_as_they_are():
    x = torch.ones(2, 3)
    assert named_inputs(nn.Linear(3, 2), x).args[0] is x


def test_a_saved_model_and_its_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    model = build("llama").eval()
    model.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"to": 0, "be": 1, "or": 2, "not": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(tmp_path)
    reference = f"transformers:{tmp_path}"
    again = resolve_model(reference, in_shape=(5,), classes=11)
    assert not again.training
    assert torch.equal(named_inputs(model, IDS).run(model), named_inputs(again, IDS).run(again))
    tokenize, size = tokenizer_of(reference)
    assert (tokenize("to be or not to bee"), size) == ([0, 1, 2, 3, 0, 4], 5)
    assert tokenizer_of("transformers:gpt2") is None
    assert type(resolve_model(f"{reference},head=none", in_shape=(5,), classes=11)).__name__ == "LlamaModel"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("transformers:gpt3", "unknown architecture 'gpt3'; did you mean .*'gpt2'"),
        ("transformers:./nowhere", r"there is no folder './nowhere' \(nothing is downloaded\)"),
        ("transformers:", "MODEL 'transformers:' names no model; write transformers:gpt2"),
        ("transformers:gpt2,n_layer=abc", "field 'n_layer': TypeError: Field 'n_layer' expected int, got str"),
        ("transformers:gpt2,n_layer", "option 'n_layer' has no value; write key=value"),
        ("transformers:gpt2,n_layers=2", "unknown configuration field 'n_layers'; did you mean 'n_layer'"),
        ("transformers:gpt2,head=lm", "unknown head 'lm'"),
        ("transformers:gpt2,n_embd=7,n_head=2", "must be divisible by"),
        ("transformers:gpt2,head=image-classification", "ValueError: Unrecognized configuration class"),
        ("transformers:t5,head=sequence-classification", "has an encoder and a decoder, each with an input of its own"),
    ],
)
def test_refusals(reference, message):
    with pytest.raises(BadReferenceError, match=message):
        resolve_model(reference, in_shape=(5,), classes=11)


def test_a_folder_without_safe_weights_is_refused(tmp_path):
    model = build("gpt2")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadReferenceError, match="safetensors"):
        resolve_model(f"transformers:{tmp_path}", in_shape=(5,), classes=11)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadReferenceError, match=r"pip install isometry\[hf\]"):
        resolve_model("transformers:gpt2", in_shape=(5,), classes=11)


def test_a_damaged_file_of_weights_is_named(tmp_path):
    build("gpt2").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(BadReferenceError, match=r"model\.safetensors' is damaged \(.*header.*copy or save the weights"):
        resolve_model(f"transformers:{tmp_path}", in_shape=(5,), classes=11)


def test_the_data_of_a_reference_without_a_name_do_not_stand_in_its_way():
    assert default_data("transformers:") == "digits"
