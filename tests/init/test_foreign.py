"""Models of the transformers library: every weight is set, signals and gradients keep their size through the depth."""

import math

import pytest
import torch
from torch import nn

from isometry.init import critical_
from isometry.nn import named_inputs

transformers = pytest.importorskip("transformers")

LENGTH, WORDS = 12, 17


def gpt2(depth):
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=depth, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama(depth):
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=depth, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=48, max_position_embeddings=LENGTH, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert(depth):
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=depth, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


def batch(model):
    ids = torch.randint(WORDS, (8, LENGTH), generator=torch.Generator().manual_seed(0))
    return named_inputs(model, {"input_ids": ids}), ids.roll(-1, 1)


@pytest.mark.parametrize("build", [gpt2, llama, bert])
def test_outputs_are_small_and_gradients_level(build):
    torch.manual_seed(0)
    model = build(12).eval()
    inputs, labels = batch(model)
    done = critical_(model, data=inputs, generator=torch.Generator().manual_seed(0))
    assert done.converged
    assert not [row.name for row in done.rows if row.action == "skipped"]
    logits = inputs.run(model)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert abs(float(loss.detach()) - math.log(WORDS)) < 0.2
    loss.backward()
    norms = [float(p.grad.norm()) for n, p in model.named_parameters() if n.endswith(("c_fc.weight", "up_proj.weight",
             "intermediate.dense.weight"))]  # fmt: skip
    assert len(norms) == 12
    assert max(norms) < 10 * min(norms)


def test_calibration_leaves_modes_and_the_random_state_alone():
    torch.manual_seed(0)
    model = gpt2(2).train()
    inputs, _ = batch(model)
    before = torch.get_rng_state()
    critical_(model, data=inputs, generator=torch.Generator().manual_seed(0))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
