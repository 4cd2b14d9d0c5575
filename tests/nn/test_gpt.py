"""The reference language model: causal, fused projections, a head that may be tied."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from isometry.nn import CausalAttention, reference_model
from isometry.roles import route

SPEC = "gpt:depth=2,width=16,heads=4"


def gpt(spec=SPEC, steps=9, vocabulary=11):
    return reference_model(spec, in_shape=(steps,), classes=vocabulary, generator=torch.Generator().manual_seed(0))


def tokens(count=3, steps=9, seed=1):
    return torch.randint(11, (count, steps), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", ["", ",norm=post", ",norm=none", ",tied=true", ",activation=relu"])
def test_it_scores_the_next_token_at_every_position(options):
    model = gpt(SPEC + options)
    logits = model(tokens())
    assert logits.shape == (3, 9, 11)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model(tokens()[:, :4]).shape == (3, 4, 11)


def test_the_future_is_not_seen():
    model, x = gpt().double(), tokens(1)
    for t in range(1, 9):
        changed = x.clone()
        changed[:, t:] = (changed[:, t:] + 3) % 11
        assert torch.equal(model(changed)[:, :t], model(x)[:, :t])
        assert not torch.equal(model(changed)[:, t:], model(x)[:, t:])


def test_attention_is_torchs():
    torch.manual_seed(0)
    mine, theirs = CausalAttention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = mine.qkv.weight.data, mine.qkv.bias.data
    theirs.out_proj.load_state_dict(mine.out.state_dict())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    torch.testing.assert_close(mine(x), theirs(x, x, x, attn_mask=mask)[0])


def test_a_tied_head_is_the_embedding_and_starts_near_chance():
    model = gpt("gpt:width=64,tied=true")
    assert model.output.weight is model.embedding.weight
    loss = functional.cross_entropy(model(tokens(64)).flatten(0, 1), tokens(64, seed=2).flatten())
    # Logits of unit variance: E log sum exp = log C + 1/2, from which the labels, independent, take nothing.
    assert float(loss.detach()) == pytest.approx(torch.tensor(11.0).log().item() + 0.5, abs=0.25)
    assert route(model)["embedding.weight"].rule == "adamw"


def test_fused_projections_are_routed_by_their_blocks():
    row = route(gpt())["blocks.0.attention.qkv.weight"]
    assert (row.rule, row.matrices) == ("matrix", (3, 16, 16))


@pytest.mark.parametrize(
    ("spec", "in_shape", "words"),
    [
        ("gpt:heads=3", (9,), "gpt: heads must divide width, got heads=3 and width=64"),
        ("gpt", (9, 2), r"inputs are tokens, so in_shape must be \(T,\), got \(9, 2\)"),
    ],
)
def test_refusals(spec, in_shape, words):
    with pytest.raises(ValueError, match=words):
        reference_model(spec, in_shape=in_shape, classes=5)
