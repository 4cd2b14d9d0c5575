"""Spectra of groups of parameters against slices of dense Jacobians."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from isometry import measure
from isometry._base import MemoryBudgetError
from isometry.measure import _fisher_slices
from isometry.measure._fisher_grouping import repeated_blocks
from tests.measure.fisher_models import case
from tests.measure.test_ntk_family import Tally

D = torch.float64


class Block(nn.Module):
    """Attention with fused projections, stacked in one way or the other, and a small multilayer perceptron."""

    def __init__(self, width, heads, stacking="blocks", mixing=False):
        super().__init__()
        self.num_heads, self.stacking, self.mixing = heads, stacking, mixing
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 5), nn.Linear(5, width)

    def forward(self, x):
        n, t, c = x.shape
        packed = self.qkv(self.norm(x))
        if self.stacking == "blocks":
            q, k, v = packed.view(n, t, 3, self.num_heads, -1).unbind(2)
        else:
            q, k, v = packed.view(n, t, self.num_heads, 3, -1).unbind(3)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.transpose(-1, -2) / c**0.5).softmax(-1) @ v
        if self.mixing:
            mixed = mixed + mixed.flip(1)
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, t, c))
        return x + self.down(self.up(x).tanh())


class Net(nn.Module):
    """A few blocks and a head."""

    def __init__(self, width=6, **options):
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList([Block(width, 2, **options) for _ in range(2)])
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def net(**options):
    torch.manual_seed(0)
    return Net(**options).to(D), torch.randn(3, 4, 3, dtype=D)


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True, activation="gelu")
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    return model.to(D), torch.randn(3, 4, 3, dtype=D)


def rows_by_name(model, x, run):
    """Dense Jacobian rows of every parameter, (samples times outputs, *shape), by one sample at a time."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no batch rule
        each = [jacrev(lambda p, n=n: run(p, n).flatten())(parameters) for n in range(len(x))]
    return {name: torch.cat([rows[name] for rows in each]) for name in parameters}


def of_tensor(model, x):
    return rows_by_name(model, x, lambda p, n: functional_call(model, p, (x[n : n + 1],)))


def of_batch(model, batch):
    def run(p, n):
        own = {k: v[n : n + 1] if torch.is_tensor(v) else v for k, v in batch.items()}
        return functional_call(model, p, (), own).logits

    return rows_by_name(model, next(v for v in batch.values() if torch.is_tensor(v)), run)


def cut(rows, text):
    """Read "name[a:b]" or "name[:, a:b]", as results print it."""
    name, dims, start, stop = re.fullmatch(r"([^\[]+)(?:\[((?:: ?, ?)*)(\d+):(\d+)\])?", text).groups()
    if start is None:
        return rows[name].flatten(1)
    return rows[name].narrow(1 + dims.count(":"), int(start), int(stop) - int(start)).flatten(1)


def check(spectra, rows, samples, tolerance=1e-8):
    """Each group's eigenvalues are those of its slice of the dense Jacobian, and together they are the whole."""
    scale = max(g.lambda_max for g in spectra)
    for group in spectra:
        own = torch.cat([cut(rows, text) for text in group.parameters], 1)
        assert own.shape[1] == group.size
        wanted = torch.linalg.svdvals(own).square() / samples
        kept = min(len(wanted), len(group.eigenvalues))
        assert torch.allclose(group.eigenvalues[:kept], wanted[:kept], rtol=0, atol=tolerance * scale), group.name
        assert group.trace == pytest.approx(float(own.square().sum()) / samples, rel=tolerance)
    if not spectra.overlapping:
        whole = sum(float(r.square().sum()) for r in rows.values()) / samples
        assert spectra.trace == pytest.approx(whole, rel=tolerance)
        assert sum(g.size for g in spectra) == sum(r[0].numel() for r in rows.values())


def test_patterns_layers_and_blocks_against_dense_slices():
    model, x = net()
    fim, rows = measure.fisher(model, x, likelihood="gaussian"), of_tensor(model, x)
    by_pattern = fim.per_group({"attention": ["*.qkv.*", "*.proj.*"], "mlp": ["*.up.*", "*.down.*"]})
    assert [g.name for g in by_pattern] == ["attention", "mlp", "rest"]
    check(by_pattern, rows, 3)
    blocks = fim.per_group(by="block")
    assert [g.name for g in blocks] == ["blocks.0", "blocks.1", "rest"]
    check(blocks, rows, 3)
    layers = fim.per_group(by="layer")
    assert [g.name for g in layers] == [g.name for g in fim.per_layer()]
    check(layers, rows, 3)
    assert by_pattern.trace == pytest.approx(fim.trace, rel=1e-12)
    assert by_pattern["mlp"].size == sum(p.numel() for n, p in model.named_parameters() if "up" in n or "down" in n)


def test_groups_may_overlap_and_split_a_layers_weight_from_its_bias():
    model, x = net()
    fim, rows = measure.fisher(model, x, likelihood="gaussian"), of_tensor(model, x)
    spectra = fim.per_group({"all": "*", "biases": "*.bias", "first": "blocks.0.*"})
    assert spectra.overlapping
    assert "groups overlap, so shares may sum to more than 100 %" in str(spectra)
    assert "overlap" not in str(fim.per_group(by="layer"))
    assert spectra["all"].trace == pytest.approx(spectra.trace, rel=1e-12)
    assert torch.allclose(spectra["all"].eigenvalues, fim.eigenvalues(), rtol=0, atol=1e-12 * fim.lambda_max)
    check(spectra, rows, 3)


@pytest.mark.parametrize("name", ["cnn", "tied head", "gru", "reused and tied", "merged, positions first"])
def test_every_kind_of_layer_falls_into_groups(name):
    model, x, _ = case(name)
    names = [n for n, _ in model.named_parameters()]
    fim, rows = measure.fisher(model, x, likelihood="gaussian"), of_tensor(model, x)
    check(fim.per_group({"even": names[::2], "last": names[-2:], "odd": names[1::2]}), rows, len(x))


@pytest.mark.parametrize("stacking", ["blocks", "heads"])
def test_heads_of_fused_projections_are_found_however_they_are_stacked(stacking):
    model, x = net(stacking=stacking)
    fim, rows = measure.fisher(model, x, likelihood="gaussian"), of_tensor(model, x)
    heads = fim.per_group(by="head")
    assert [g.name for g in heads] == [f"blocks.{b}.head.{h}" for b in range(2) for h in range(2)] + ["rest"]
    check(heads, rows, 3)
    first = [p for p in heads["blocks.0.head.1"].parameters if "qkv.weight" in p]
    wanted = [(3, 6), (9, 12), (15, 18)] if stacking == "blocks" else [(9, 12), (12, 18)]
    assert first == [f"blocks.0.qkv.weight[{a}:{b}]" for a, b in wanted]
    assert "blocks.0.proj.weight[:, 3:6]" in heads["blocks.0.head.1"].parameters
    assert "blocks.0.proj.bias" in heads["rest"].parameters


@pytest.mark.parametrize("positions", [1, 2])
def test_heads_where_products_of_positions_are_cheaper_than_rows(positions, monkeypatch):
    model, x = net(width=40)
    known, asked = _fisher_slices._KnownFeatures, []
    products = known.products
    monkeypatch.setattr(known, "products", lambda self, *which: asked.append(which) or products(self, *which))
    x = x[:, :positions]
    check(measure.fisher(model, x, likelihood="gaussian").per_group(by="head"), of_tensor(model, x), 3)
    assert len(asked) >= 2 * 6  # once for every slice of rows, in each block


def test_finding_the_heads_leaves_no_trace():
    model, x = net()
    model.head.weight.requires_grad_(False)
    fim = measure.fisher(model, x)
    before = {name: (p.requires_grad, p._version) for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    fim.per_group(by="head")
    assert {name: (p.requires_grad, p._version) for name, p in model.named_parameters()} == before
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.blocks[1].up.forward = None  # fails between the blocks
    with pytest.raises(TypeError):
        fim.per_group(by="head")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_heads_of_torchs_own_encoder():
    model, x = encoder()
    fim, rows = measure.fisher(model, x, likelihood="gaussian"), of_tensor(model, x)
    heads = fim.per_group(by="head")
    assert len(heads) == 5
    assert "1.layers.0.self_attn.in_proj_weight[4:8]" in heads["1.layers.0.self_attn.head.1"].parameters
    assert "1.layers.0.self_attn.in_proj_bias[12:16]" in heads["1.layers.0.self_attn.head.1"].parameters
    check(heads, rows, 3)
    assert [g.name for g in fim.per_group(by="block")] == ["1.layers.0", "1.layers.1", "rest"]


FIRST = {
    "gpt2": ("transformer.h.0.attn.head.1", "transformer.h.0.attn.c_attn.weight[:, 4:8]"),
    "llama": ("model.layers.0.self_attn.head.1", "model.layers.0.self_attn.q_proj.weight[4:8]"),
    "bert": None,
    "vit": None,
}


@pytest.mark.parametrize("name", list(FIRST))
def test_heads_of_the_families(name, monkeypatch):
    from tests.measure import hf_models

    transformers = hf_models.transformers
    # Its own computes in float32, whatever it is given, which leaves 1e-7 between any two ways.
    norm = transformers.models.llama.modeling_llama.LlamaRMSNorm
    monkeypatch.setattr(
        norm, "forward", lambda m, x: m.weight * x * (x.square().mean(-1, True) + m.variance_epsilon).rsqrt()
    )
    model, batch = hf_models.build(name)
    batch.pop("attention_mask", None)
    fim, rows = measure.fisher(model, batch, likelihood="gaussian"), of_batch(model, batch)
    heads = fim.per_group(by="head")
    check(heads, rows, 3)
    kinds = [re.sub(r"\d+", "#", g.name.rpartition(".head.")[1] or g.name) for g in heads]
    assert kinds.count(".head.") == 4
    if FIRST[name] is not None:
        group, text = FIRST[name]
        assert text in heads[group].parameters
    if name == "llama":  # two heads of queries share one of keys and values
        shared = heads["model.layers.0.self_attn.key_value_head.0"].parameters
        assert shared == tuple(f"model.layers.0.self_attn.{p}_proj.weight[0:4]" for p in "kv")
    assert len([g for g in fim.per_group(by="block") if g.name != "rest"]) == 2


SIZES = {
    "vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 4, "intermediate_size": 6, "max_position_embeddings": 8,
}  # fmt: skip
STACKED = {
    # one projection: all queries, all keys, all values, of which two heads of queries share one each
    "Phi3ForCausalLM": ({"num_key_value_heads": 2}, "qkv_proj.weight", [(2, 4)], [(10, 12), (14, 16)]),
    # query, key and value of a head, then the next head
    "GPTNeoXForCausalLM": ({}, "query_key_value.weight", [(6, 8), (8, 12)], None),
    # two queries, their key, their value, then the next two
    "FalconForCausalLM": (
        {"num_kv_heads": 2, "new_decoder_architecture": True, "ffn_hidden_size": 6},
        "query_key_value.weight", [(2, 4)], [(12, 16)],
    ),
    # query, key, value and output side by side, used by all layers
    "AlbertForSequenceClassification": ({"embedding_size": 4}, "query.weight", [(2, 4)], None),
}  # fmt: skip


@pytest.mark.parametrize("name", list(STACKED))
def test_ways_to_stack_projections_in_use(name):
    transformers = pytest.importorskip("transformers")
    options, weight, head, shared = STACKED[name]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**SIZES, **options)).to(D).eval()
    batch = {"input_ids": torch.randint(1, 11, (2, 3))}
    fim = measure.fisher(model, batch, kind="monte-carlo", draws=2, generator=torch.Generator().manual_seed(0))
    spectra = fim.per_group(by="head")
    assert spectra.trace == pytest.approx(fim.trace, rel=1e-10)
    found = [text for text in next(g for g in spectra if g.name.endswith(".head.1")).parameters if weight in text]
    assert [text.partition("[")[2] for text in found] == [f"{a}:{b}]" for a, b in head]
    keys = [g for g in spectra if g.name.endswith("key_value_head.1")]
    assert bool(keys) is (shared is not None)
    if shared is not None:
        assert [t.partition("[")[2] for t in keys[0].parameters if weight in t] == [f"{a}:{b}]" for a, b in shared]


def test_chosen_parameters_alone_are_grouped():
    model, x = net()
    fim = measure.fisher(model, x, likelihood="gaussian", params=["blocks.1.*", "head.*"])
    heads = fim.per_group(by="head")
    assert [g.name for g in heads] == ["blocks.1.head.0", "blocks.1.head.1", "rest"]
    assert heads.trace == pytest.approx(fim.trace, rel=1e-12)
    with pytest.raises(ValueError, match=r"pattern of groups\['a'\].*embed"):
        fim.per_group({"a": "embed.*"})


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_partition_adds_up_and_any_block_interlaces(data):
    """Traces of a partition add up; a principal submatrix's eigenvalues are at most the whole's (Cauchy)."""
    model, x = net()
    names = [n for n, _ in model.named_parameters()]
    fim = measure.fisher(model, x)
    groups = {}
    for name in names:
        groups.setdefault(f"{data.draw(st.integers(0, 3))}", []).append(name)
    spectra = fim.per_group(groups)
    assert spectra.trace == pytest.approx(fim.trace, rel=1e-10)
    for group in spectra:
        kept = min(len(group.eigenvalues), len(fim.eigenvalues()))
        assert bool((group.eigenvalues[:kept] <= fim.eigenvalues()[:kept] + 1e-12 * fim.lambda_max).all())
    assert fim.lambda_max <= sum(g.lambda_max for g in spectra) * (1 + 1e-12)


def test_the_model_runs_once_for_all_groups():
    model, x = net()
    fim = measure.fisher(model, x, likelihood="gaussian", dense=False)
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    fim.per_group({f"{i}": f"blocks.{i}.*" for i in range(2)} | {"head": "head.*"})
    handle.remove()
    assert len(runs) == 1


def test_blocks_are_the_repeated_children_of_containers():
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))) == ("0", "2")
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([inner, inner.__class__(inner)]))) == (
        "1.0", "1.1",
    )  # fmt: skip
    assert repeated_blocks(nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2))) == ()
    model = nn.Sequential(nn.Linear(3, 2)).to(D)
    fim = measure.fisher(model, torch.randn(3, 3, dtype=D))
    with pytest.raises(ValueError, match=r"by='block': no ModuleList.*name groups by patterns"):
        fim.per_group(by="block")


def test_heads_that_cannot_be_told_are_refused():
    model, x = net()
    fim = measure.fisher(model, x, likelihood="gaussian")
    with pytest.raises(ValueError, match=r"heads of 'blocks\.0' are not where 3 heads would be.*blocks\.0\.proj"):
        fim.per_group(by="head", heads=3)
    with pytest.raises(ValueError, match="cannot be divided evenly"):
        fim.per_group(by="head", heads=4)
    mixed, _ = net(mixing=True)
    with pytest.raises(ValueError, match="depends on rows of others"):
        measure.fisher(mixed, x).per_group(by="head")
    for block in model.blocks:
        block.count, block.num_heads = block.num_heads, None
        block.forward = lambda x, b=block: _with_count(b, x)
    with pytest.raises(ValueError, match=r"'blocks\.0' does not say how many heads.*pass heads="):
        fim.per_group(by="head")
    assert len(fim.per_group(by="head", heads=2)) == 5
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="has the name of an attention projection"):
        measure.fisher(plain, torch.randn(3, 3)).per_group(by="head")


def _with_count(block, x):
    block.num_heads = block.count
    try:
        return Block.forward(block, x)
    finally:
        block.num_heads = None


def test_questions_that_make_no_sense_are_refused():
    model, x = net()
    fim = measure.fisher(model, x)
    with pytest.raises(ValueError, match=r"either groups=\{name: pattern\} or by="):
        fim.per_group()
    with pytest.raises(ValueError, match="either groups="):
        fim.per_group({"a": "*"}, by="head")
    with pytest.raises(ValueError, match="'layer'"):
        fim.per_group(by="layers")
    with pytest.raises(ValueError, match=r'heads=2 is for by="head"'):
        fim.per_group(by="block", heads=2)
    with pytest.raises(TypeError, match="groups must map the groups' names to patterns"):
        fim.per_group({})
    with pytest.raises(ValueError, match="'rest' is the name of what is in no group"):
        fim.per_group({"rest": "*"})
    with pytest.raises(ValueError, match="heads must be a whole number >= 1, got 0"):
        fim.per_group(by="head", heads=0)
    with pytest.raises(KeyError, match="blocks"):
        fim.per_group(by="block")["blocks.2"]


def test_the_budget_holds_and_counts_what_is_held_at_a_time():
    model, x = net()
    fim = measure.fisher(model, x)
    few = fim.per_group(by="block")
    many = fim.per_group({f"{i}": n for i, (n, _) in enumerate(model.named_parameters())})
    assert many.cost.bytes == pytest.approx(few.cost.bytes, rel=0.5)  # one after the other, not all at a time
    at_once = fim.per_group({f"{i}": "*" for i in range(20)})
    size = (x.shape[0] * fim.rows) ** 2 * 8
    assert at_once.cost.bytes > few.cost.bytes + 17 * size
    with pytest.raises(MemoryBudgetError, match=r"spectra of 20 groups.*20 of them at a time.*dense=False\)\.top\(k\)"):
        fim.per_group({f"{i}": "*" for i in range(20)}, budget=few.cost.bytes)
    assert "foreseen" in str(few)
    assert "share" in str(few).splitlines()[0]


@pytest.mark.parametrize("how", ["overlapping", "head", "block"])
def test_the_bytes_foreseen_are_enough_and_not_far_off(how, monkeypatch):
    for module in ("_fisher_setup", "_gram", "_fisher_slices"):
        monkeypatch.setattr(f"isometry.measure.{module}.CHUNK_BYTES", 2**18)  # 64 MiB would hide all else
    monkeypatch.setattr("isometry.measure._gram_sums._BLOCK_BYTES", 2**18)
    model, _ = net()
    x = torch.randn(150, 2, 3, dtype=D)
    fim = measure.fisher(model, x, likelihood="gaussian", dense=False)
    with Tally(x) as tally:
        found = fim.per_group({f"{i}": "*" for i in range(8)}) if how == "overlapping" else fim.per_group(by=how)
    assert 0.4 * found.cost.bytes < tally.peak <= found.cost.bytes


def test_to_dict_is_plain_data():
    import json

    model, x = net()
    plain = json.loads(json.dumps(measure.fisher(model, x).per_group(by="block").to_dict()))
    assert [g["name"] for g in plain["groups"]] == ["blocks.0", "blocks.1", "rest"]
    assert plain["by"] == "block"
