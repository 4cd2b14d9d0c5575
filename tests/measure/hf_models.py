"""Small random copies of the model families of the transformers library, each with a batch."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

TOKENS = {"vocab_size": 11}


def tokens(samples=3, length=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(11, (samples, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0  # the last sequence is shorter
    return {"input_ids": ids, "attention_mask": mask, "use_cache": False}


def images(samples=3, size=8, seed=0):
    return {"pixel_values": torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(seed))}


def gpt2():
    config = transformers.GPT2Config(
        **TOKENS, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    batch = tokens()
    return transformers.GPT2LMHeadModel(config), {**batch, "position_ids": torch.arange(5).expand(3, 5)}


def bert():
    config = transformers.BertConfig(
        **TOKENS, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    batch = {k: v for k, v in tokens().items() if k != "use_cache"}
    return transformers.BertForSequenceClassification(config), batch


def llama(tied=True):
    config = transformers.LlamaConfig(
        **TOKENS, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=12, max_position_embeddings=8, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), tokens()


def resnet():
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3)
    return transformers.ResNetForImageClassification(config), images(size=16)


def convnext():
    config = transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3, patch_size=2, layer_scale_init_value=0.5
    )
    return transformers.ConvNextForImageClassification(config), images()


def vit():
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config), images()


FAMILIES = {"gpt2": gpt2, "bert": bert, "llama": llama, "resnet": resnet, "convnext": convnext, "vit": vit}


def build(name, dtype=torch.float64):
    """Give a model in evaluation mode, with weights of order one, and its batch."""
    torch.manual_seed(0)
    model, batch = FAMILIES[name]()
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # their default, 0.02, leaves nothing to see at this size
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
