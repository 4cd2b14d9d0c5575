"""Where the heads of attention blocks lie, by names, attributes and shapes."""

import pytest
import torch
from torch import nn

from isometry import roles


class Attention(nn.Module):
    """Projections of given sizes; what it computes does not matter here."""

    def __init__(self, sizes, **attributes):
        super().__init__()
        for name, (inside, outside) in sizes.items():
            setattr(self, name, nn.Linear(inside, outside))
        for name, value in attributes.items():
            setattr(self, name, value)


def test_separate_projections_share_keys_and_values():
    sizes = {"q_proj": (6, 8), "k_proj": (6, 4), "v_proj": (6, 4), "o_proj": (8, 6)}
    (block,) = roles.attention_blocks(nn.ModuleDict({"attn": Attention(sizes, n_heads=4)}))
    assert (block.name, block.heads, block.shared, block.out) == ("attn", 4, 2, "attn.o_proj")
    slices = block.slices(block.layouts[0])
    assert list(slices) == [*(f"attn.head.{i}" for i in range(4)), "attn.key_value_head.0", "attn.key_value_head.1"]
    assert [str(s) for s in slices["attn.head.3"]] == [
        "attn.q_proj.weight[6:8]",
        "attn.q_proj.bias[6:8]",
        "attn.o_proj.weight[:, 6:8]",
    ]
    assert [str(s) for s in slices["attn.key_value_head.1"]] == [
        f"attn.{p}_proj.{t}[2:4]" for p in "kv" for t in ("weight", "bias")
    ]
    shapes = {name: tuple(p.shape) for name, p in block_parameters(sizes).items()}
    assert sum(s.numbers(shapes[s.name]) for part in slices.values() for s in part) == 8 * 7 + 2 * 4 * 7 + 8 * 6


def block_parameters(sizes):
    return dict(nn.ModuleDict({"attn": Attention(sizes)}).named_parameters())


def test_queries_apart_from_stacked_keys_and_values():
    sizes = {"to_q": (6, 8), "to_kv": (6, 8), "to_out": (8, 6)}
    (block,) = roles.attention_blocks(nn.ModuleDict({"attn": Attention(sizes)}), heads=2)
    first, second = (block.slices(layout)["attn.head.0"] for layout in block.layouts)
    assert [str(s) for s in first if s.name == "attn.to_kv.weight"] == []  # (6, 8): one key and value for two heads
    assert block.shared == 1
    assert [str(s) for s in block.slices(block.layouts[0])["attn.key_value_head.0"]][::2] == [
        "attn.to_kv.weight[0:4]",
        "attn.to_kv.weight[4:8]",
    ]
    assert first == second


def test_the_nearest_module_says_how_many_heads():
    class Config:
        num_attention_heads = 2

    sizes = {"q_proj": (4, 4), "k_proj": (4, 4), "v_proj": (4, 4), "out_proj": (4, 4)}
    model = nn.ModuleDict({"inner": Attention(sizes, heads=4), "outer": Attention(sizes)})
    model.config = Config()
    assert [block.heads for block in roles.attention_blocks(model)] == [4, 2]
    assert [block.heads for block in roles.attention_blocks(model, heads=1)] == [1, 1]


def test_torchs_own_attention_without_biases():
    model = nn.MultiheadAttention(6, 3, bias=False)
    (block,) = roles.attention_blocks(model)
    assert block.plain
    assert [str(s) for s in block.slices(block.layouts[0])["head.2"]] == [
        "in_proj_weight[4:6]",
        "in_proj_weight[10:12]",
        "in_proj_weight[16:18]",
        "out_proj.weight[:, 4:6]",
    ]
    (apart,) = roles.attention_blocks(nn.MultiheadAttention(6, 3, kdim=4, vdim=5))
    assert [str(s) for s in apart.slices(apart.layouts[0])["head.1"]] == [
        *(f"{p}_proj_weight[2:4]" for p in "qkv"),
        "out_proj.weight[:, 2:4]",
    ]


def test_models_without_attention_have_no_blocks():
    assert roles.attention_blocks(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))) == ()


def test_what_cannot_be_divided_is_refused():
    fused = {"qkv": (4, 12), "proj": (4, 4)}
    with pytest.raises(ValueError, match=r"'attn' does not say how many heads it has.*num_heads.*pass heads="):
        roles.attention_blocks(nn.ModuleDict({"attn": Attention(fused)}))
    with pytest.raises(ValueError, match=r"'attn\.proj\.weight' cannot be divided evenly.*\(4 by 3\)"):
        roles.attention_blocks(nn.ModuleDict({"attn": Attention(fused)}), heads=3)
    with pytest.raises(ValueError, match="no output projection is recognised beside the queries of 'attn'"):
        roles.attention_blocks(nn.ModuleDict({"attn": Attention({"qkv": (4, 12)})}), heads=2)
    with pytest.raises(ValueError, match=r"only the projections attn\.q_proj, where queries, keys and values"):
        roles.attention_blocks(nn.ModuleDict({"attn": Attention({"q_proj": (4, 4), "o_proj": (4, 4)})}), heads=2)
    model = nn.ModuleDict({"attn": Attention(fused)})
    torch.nn.utils.parametrizations.orthogonal(model["attn"].proj)
    with pytest.raises(ValueError, match=r"is parametrized, and heads are told apart in plain matrices only"):
        roles.attention_blocks(model, heads=2)
    with pytest.raises(ValueError, match="heads must be a whole number >= 1, got True"):
        roles.attention_blocks(model, heads=True)
