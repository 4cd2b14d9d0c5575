"""Which rule moves which parameter, and what happens to groups, options, ties, frozen and unexplained parameters."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from isometry.nn import reference_model
from isometry.optim import Muon
from isometry.roles import Axes, Routing, route


def chain():
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


def rules_of(model, **kwargs):
    return {row.name: row.rule for row in route(model, **kwargs).rows if row.role not in ("bias", "norm")}


def matrices_of(model, **kwargs):
    return [row.name for row in route(model, **kwargs).by_rule("matrix")]


class Raw(nn.Module):
    """A layer of raw parameters, which no table can explain."""

    def __init__(self, *shape):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.stack = nn.Parameter(torch.ones(*shape))
        self.middle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)


# -- by role -----------------------------------------------------------------------------------------------------------


def test_only_hidden_matrices_go_to_the_method():
    assert rules_of(chain()) == {"0.weight": "adamw", "2.weight": "matrix", "4.weight": "adamw"}
    assert {row.rule for row in route(chain()).rows if row.role == "bias"} == {"adamw"}


def test_two_dimensions_do_not_make_a_hidden_matrix():
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 10))
    assert rules_of(model) == {"0.weight": "adamw", "1.weight": "matrix", "3.weight": "adamw"}


def test_an_embedding_tied_to_the_head_is_routed_once_as_an_embedding():
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 10, bias=False))
    model[2].weight = model[0].weight
    rows = [row for row in route(model).rows if row.shape == (10, 6)]
    assert [(row.name, row.rule) for row in rows] == [("0.weight", "adamw")]
    assert rows[0].reason == "embedding: rows are looked up, not multiplied; tied to 2.weight"
    assert sum(len(group["params"]) for group in route(model)) == 3


@pytest.mark.parametrize(
    ("layer", "rule", "sizes", "told"),
    [
        (nn.Conv2d(4, 8, 3), "matrix", (1, 8, 36), "as 8 x 36"),
        (nn.Conv2d(4, 8, 3, groups=2), "matrix", (2, 4, 18), "2 groups, as 4 x 18"),
        (nn.ConvTranspose2d(4, 8, 2), "matrix", (1, 8, 16), "as 8 x 16"),
        (nn.Conv2d(4, 4, 3, groups=4), "adamw", None, "depthwise: 4 matrices of 1 x 9"),
        (nn.Bilinear(4, 3, 5), "matrix", (1, 5, 12), "as 5 x 12"),
        (nn.Linear(4, 1), "adamw", None, "vector: a matrix of 1 x 4"),
        (nn.LSTM(4, 5), "matrix", (4, 5, 4), "blocks input, forget, cell, output"),
        (nn.MultiheadAttention(4, 2), "matrix", (3, 4, 4), "blocks q, k, v"),
    ],
)
def test_layers_are_taken_by_their_axes(layer, rule, sizes, told):
    rows = route(nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 4))).rows
    row = next(row for row in rows if row.name in ("1.weight", "1.weight_ih_l0", "1.in_proj_weight"))
    assert (row.rule, row.matrices) == (rule, sizes)
    assert told in row.reason


def test_first_and_last_are_known_from_an_example():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.last(self.middle(self.first(x)))

    assert matrices_of(Backwards(), example=torch.ones(1, 4)) == ["middle.weight"]
    assert route(Backwards(), example=torch.ones(1, 4))["first.weight"].role == "input"


def test_low_rank_factors_stay_with_adamw():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = nn.Linear(6, 6)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
            self.lora_B = nn.Parameter(torch.zeros(6, 2))

    routing = route(nn.Sequential(nn.Linear(6, 6), Adapted(), nn.Linear(6, 6)))
    assert [row.name for row in routing.by_rule("matrix")] == ["1.base_layer.weight"]
    for name in ("1.lora_A.default.weight", "1.lora_B"):
        assert routing[name].reason.startswith("low-rank factor: the layer moves by the product of two factors")


def test_a_parametrized_weight_is_not_the_matrix_itself():
    model = chain()
    parametrizations.orthogonal(model[2])
    row = route(model)["2.parametrizations.weight.original"]
    assert (row.rule, row.reason[:14]) == ("adamw", "parametrized: ")


def test_reference_models():
    mlp = reference_model("mlp:depth=3,width=8", in_shape=(5,), classes=2)
    assert matrices_of(mlp) == ["hidden.1.linear.weight", "hidden.2.linear.weight"]
    cnn = reference_model("cnn:depth=3,channels=4", in_shape=(1, 8, 8), classes=2)
    shapes = [row.matrices for row in route(cnn).by_rule("matrix")]
    assert shapes == [(1, 4, 36)] * 2
    transformer = reference_model("transformer", in_shape=(1, 8, 8), classes=2)
    names = matrices_of(transformer)
    assert len(names) == 12
    assert all(name.startswith("blocks.") for name in names)


# -- transformers ------------------------------------------------------------------------------------------------------

SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
SHARED = {**SMALL, "num_key_value_heads": 2}


def named(kind, **config):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        return getattr(transformers, kind)(getattr(transformers, kind).config_class(**config))


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        (
            "GPT2LMHeadModel",
            {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2},
            {"c_attn": (3, 16, 16), "attn.c_proj": (1, 16, 16), "c_fc": (1, 64, 16), "mlp.c_proj": (1, 16, 64)},
        ),
        ("BertForMaskedLM", SMALL, {"query": (1, 16, 16), "0.output.dense": (1, 16, 24), "transform": (1, 16, 16)}),
        ("LlamaForCausalLM", SHARED, {"k_proj": (1, 8, 16), "gate_proj": (1, 24, 16), "down_proj": (1, 16, 24)}),
        ("Phi3ForCausalLM", {**SHARED, "pad_token_id": 0}, {"qkv_proj": (1, 32, 16), "gate_up_proj": (2, 24, 16)}),
        (
            "ViTForImageClassification",
            {**SMALL, "image_size": 16, "patch_size": 8},
            {"q_proj": (1, 16, 16), "o_proj": (1, 16, 16), "fc1": (1, 24, 16)},
        ),
        (
            "ResNetForImageClassification",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
            {"stages.0.layers.0.layer.0": (1, 8, 72), "shortcut": (1, 16, 8)},
        ),
        (
            "ConvNextForImageClassification",
            {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
            {"downsampling_layer.1": (1, 16, 32), "0.layers.0.pwconv1": (1, 32, 8)},
        ),
        (
            "T5ForConditionalGeneration",
            {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
            {"encoder.block.0.layer.0.SelfAttention.q": (1, 16, 16), "EncDecAttention.o": (1, 16, 16)},
        ),
        (
            "MixtralForCausalLM",
            {**SHARED, "num_local_experts": 3},
            {"experts.gate_up_proj": (6, 24, 16), "experts.down_proj": (3, 16, 24)},
        ),
        (
            "Qwen3MoeForCausalLM",
            {**SHARED, "moe_intermediate_size": 12, "num_experts": 3, "head_dim": 4},
            {"experts.gate_up_proj": (6, 12, 16), "experts.down_proj": (3, 16, 12)},
        ),
        (
            "GptOssForCausalLM",  # inputs first, and gates between what they gate
            {**SHARED, "num_local_experts": 3, "head_dim": 4},
            {"experts.gate_up_proj": (3, 48, 16), "experts.down_proj": (3, 16, 24)},
        ),
        (
            "Llama4ForCausalLM",  # inputs first
            {**SHARED, "intermediate_size_mlp": 24, "num_local_experts": 3, "head_dim": 4},
            {"experts.gate_up_proj": (6, 24, 16), "experts.down_proj": (3, 16, 24)},
        ),
        (
            "JetMoeForCausalLM",
            {**SMALL, "num_key_value_heads": 2, "kv_channels": 4, "num_local_experts": 3},
            {"mlp.input_linear": (3, 48, 16), "mlp.output_linear": (3, 16, 24)},
        ),
    ],
)
def test_transformers(kind, config, expected):
    rows = route(named(kind, **config)).rows
    for part, sizes in expected.items():
        found = [row for row in rows if part in row.name and "bias" not in row.name and row.role != "norm"]
        assert [row.matrices for row in found] == [sizes] * len(found), part
        assert found
    # Whatever is no hidden matrix of a layer is with AdamW: embeddings, heads, patches, routers, depthwise kernels.
    words = ("embed", "wte", "wpe", "lm_head", "classifier", "router", "gate.weight", "dwconv", "norm", "bias", "token")
    for row in rows:
        if any(word in row.name.lower() for word in words) or "decoder.weight" in row.name:
            assert row.rule == "adamw", row


def test_heads_stacked_one_after_the_other_are_not_called_query_key_and_value():
    config = {**SMALL, "num_attention_heads": 2}
    reasons = [row.reason for row in route(named("GPTNeoXForCausalLM", **config)).rows if "query_key" in row.name]
    assert reasons[0] == "attention_qkv: makes queries, keys and values of units; 3 blocks of heads"


def test_experts_move_each_for_itself():
    model = pytest.importorskip("transformers")
    config = model.MixtralConfig(**SHARED, num_local_experts=3)
    mixtral = model.MixtralForCausalLM(config).double()
    optimizer = Muon(route(mixtral), lr=1.0, momentum=0.0, polar="exact", scale="none")
    weight = next(p for n, p in mixtral.named_parameters() if n.endswith("experts.gate_up_proj"))
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer.step()
    step = before - weight.detach()
    for expert in range(3):
        for half in range(2):
            u, _, vh = torch.linalg.svd(weight.grad[expert, 24 * half : 24 * half + 24], full_matrices=False)
            torch.testing.assert_close(step[expert, 24 * half : 24 * half + 24], u @ vh)


# -- what the user says ------------------------------------------------------------------------------------------------


def test_rules_win_and_the_later_one_wins():
    assert matrices_of(chain(), rules={"0.*": "adamw", "*.weight": "matrix", "4.*": "adamw"}) == [
        "0.weight",
        "2.weight",
    ]
    row = route(chain(), rules={"0.weight": "matrix"})["0.weight"]
    assert row.reason == "input: by rules['0.weight']"


def test_overrides_explain_raw_parameters():
    model = Raw(3, 4, 4)
    told = "other: a raw parameter, whose dimensions nothing explains; if it holds matrices, say so: overrides="
    assert route(model)["stack"].reason.startswith(told)
    experts = {"stack": ("hidden", Axes(batch=(0,), out=(1,), in_=(2,)))}
    assert route(model, experts)["stack"].matrices == (3, 4, 4)


def test_options_reach_their_parameters_and_equal_ones_share_a_group():
    options = {"*.bias": {"weight_decay": 0.0}, "4.*": {"lr": 0.01, "weight_decay": 0.0}, "2.bias": {"lr": 0.01}}
    found = [
        (group["rule"], group.get("lr"), group.get("weight_decay"), [name for name, _ in group["params"]])
        for group in route(chain(), options=options)
    ]
    assert found == [
        ("matrix", None, None, ["2.weight"]),
        ("adamw", None, None, ["0.weight"]),
        ("adamw", None, 0.0, ["0.bias"]),
        ("adamw", 0.01, 0.0, ["2.bias", "4.weight", "4.bias"]),
    ]


def test_groups_of_the_users_survive_with_all_their_options():
    model = chain()
    lr = torch.tensor(0.3)
    groups = [
        {"params": model[0].parameters(), "lr": lr, "name": "first"},
        {"params": [("any", model[2].weight), ("name", model[2].bias)], "initial_lr": 0.5},
        {"params": model[4].weight, "rule": "matrix"},
    ]
    found = list(route(model, groups=groups, options={"2.bias": {"initial_lr": 0.25}}))
    assert [(g["rule"], [n for n, _ in g["params"]]) for g in found] == [
        ("adamw", ["0.weight", "0.bias"]),
        ("matrix", ["2.weight"]),
        ("adamw", ["2.bias"]),
        ("matrix", ["4.weight"]),
    ]
    assert found[0]["lr"] is lr
    assert found[0]["name"] == "first"
    assert [found[1]["initial_lr"], found[2]["initial_lr"]] == [0.5, 0.25]
    row = route(model, groups=groups)["4.bias"]
    assert (row.rule, row.reason) == ("none", "not optimized: in none of the given groups")
    assert route(model, groups=groups)["4.weight"].reason == "output: by the rule of its group"


def test_groups_of_the_users_stay_apart_with_equal_options():
    model = chain()
    groups = [{"params": model[0].parameters()}, {"params": model[4].parameters()}]
    found = [[name for name, _ in group["params"]] for group in route(model, groups=groups, rules={"4.*t": "matrix"})]
    assert found == [["0.weight", "0.bias"], ["4.weight"], ["4.bias"]]


def test_frozen_parameters_are_shown_but_in_no_group():
    model = chain()
    model[2].requires_grad_(requires_grad=False)
    routing = route(model)
    assert (routing["2.weight"].rule, routing["2.weight"].reason) == ("none", "frozen: requires_grad is False")
    assert all(p.requires_grad for group in routing for _, p in group["params"])
    assert matrices_of(model, include_frozen=True) == ["2.weight"]
    with pytest.raises(ValueError, match="there is nothing to optimize: no parameter of the model is in a group"):
        Muon(route(model.requires_grad_(requires_grad=False)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rules": {"5.weight": "matrix"}}, "unknown rules pattern '5.weight'; did you mean"),
        ({"rules": {"2.weight": "muon"}}, r"unknown rule in rules\['2.weight'\]: 'muon'; .*adamw, matrix"),
        (
            {"rules": {"*.bias": "matrix"}},
            r"rules\['\*.bias'\]: '0.bias' has shape \(6,\), its role is 'bias', and only",
        ),
        ({"options": {"6.*": {"lr": 1.0}}}, "unknown options pattern"),
        ({"options": {"0.*": {"rule": "adamw"}}}, "option 'rule', which route writes .* choose rules by rules="),
        ({"options": {"0.*": {"params": []}}}, "option 'params', which route writes into the groups itself; leave it"),
        ({"groups": []}, "groups is empty"),
        ({"groups": [{"params": [torch.ones(2)]}]}, r"\['params'\]\[0\] \(shape \(2,\)\) is no parameter of the model"),
        ({"groups": [{"params": [], "routes": []}]}, r"groups\[0\] has the option 'routes'"),
        ({"groups": [{"params": [], "rule": "sgd"}]}, r"unknown rule in groups\[0\]: 'sgd'"),
    ],
)
def test_senseless_requests_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        route(chain(), **given)


def test_wrong_types_are_refused():
    for wrong, message in (
        ({"options": {"0.*": 0.1}}, r"options\['0.\*'\] must be a mapping of option names to values"),
        ({"groups": {"params": []}}, "groups must be a list of param groups"),
        ({"groups": [torch.ones(2)]}, r"groups\[0\] must be a dictionary with 'params', got Tensor"),
        ({"groups": [{"params": ["0.weight"]}]}, r"must be a parameter or a \(name, parameter\) pair, got str"),
        ({"groups": [{"params": 3}]}, "must be parameters or pairs, got int"),
    ):
        with pytest.raises(TypeError, match=message):
            route(chain(), **wrong)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module"):
        route(chain().state_dict())


def test_a_parameter_of_two_groups_is_refused():
    model = chain()
    with pytest.raises(ValueError, match=r"groups\[1\] has '2.weight', which groups\[0\] has too"):
        route(model, groups=[{"params": model.parameters()}, {"params": [model[2].weight]}])


def test_a_matrix_rule_for_unknown_dimensions_is_refused_with_what_to_do():
    told = r"'stack' has shape \(3, 4, 4\), and what its dimensions mean is not known; say so by overrides, such as"
    with pytest.raises(ValueError, match=told):
        route(Raw(3, 4, 4), rules={"stack": "matrix"})
    model = Raw(3, 4, 4)
    with pytest.raises(ValueError, match="the rule of its group: 'stack' has shape"):
        route(model, groups=[{"params": [model.stack], "rule": "matrix"}])


# -- with an optimizer -------------------------------------------------------------------------------------------------


def test_a_model_without_hidden_matrices_is_refused_with_what_went_where():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    told = (
        r"no parameter takes Muon's own rule: parameter '0.weight' goes to 'adamw' \(input: its inputs are .*"
        r"'1.weight' goes to 'adamw' \(output: .* route them by overrides"
    )
    with pytest.raises(ValueError, match=told):
        Muon(route(model))


def stepped(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        model(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()


def test_the_table_is_saved_with_the_checkpoint_and_a_resumed_run_goes_on(tmp_path):
    model = chain()
    optimizer = Muon(route(model), lr=0.1)
    stepped(model, optimizer, range(3))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    stepped(model, optimizer, range(3, 6))
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    rows = [row for group in saved["optimizer"]["param_groups"] for row in group["routes"]]
    assert {row["name"]: row for row in rows} == {row.name: row.to_dict() for row in route(model).rows}
    assert len(rows) == 6
    assert Axes.from_dict(rows[0]["axes"]) == Axes(out=(0,), in_=(1,))
    other = copy.deepcopy(model)
    other.load_state_dict(saved["model"])
    resumed = Muon(route(other), lr=0.1)
    resumed.load_state_dict(saved["optimizer"])
    stepped(other, resumed, range(3, 6))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_routing_on_resume_is_refused():
    model = chain()
    optimizer = Muon(route(model), lr=0.1)
    stepped(model, optimizer, range(2))
    other = Muon(route(model, rules={"0.weight": "matrix"}), lr=0.1)
    told = "another routing: group 0 had 1 parameters of the rule 'matrix', and has 2. Route the model as it was"
    with pytest.raises(ValueError, match=told):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@given(
    widths=st.lists(st.integers(2, 4), min_size=3, max_size=6),
    options=st.lists(
        st.tuples(
            st.sampled_from(["*", "*.bias", "0.*", "1.*", "*.weight"]), st.sampled_from(["lr", "eps"]), st.floats(0, 1)
        ),
        max_size=4,
        unique_by=lambda option: option[0],
    ),
    frozen=st.sets(st.integers(0, 3), max_size=3),
)
def test_every_parameter_is_in_one_group_with_the_options_that_match_it(widths, options, frozen):
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index not in frozen)
    asked = {pattern: {name: value} for pattern, name, value in options}
    groups = list(route(model, options=asked))
    found = {name: (tensor, group) for group in groups for name, tensor in group["params"]}
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name: id(tensor) for name, (tensor, _) in found.items()} == {n: id(p) for n, p in expected.items()}
    assert sum(len(group["params"]) for group in groups) == len(expected)
    for name, (_, group) in found.items():
        wanted = {}
        for pattern, values in asked.items():
            wanted |= values if fnmatchcase(name, pattern) else {}
        assert {k: v for k, v in group.items() if k not in ("params", "rule", "routes")} == wanted
        assert [row["name"] for row in group["routes"]] == [n for n, _ in group["params"]]


def test_iterating_gives_new_groups_each_time():
    routing = route(chain())
    first, second = list(routing), list(routing)
    first[0]["params"].clear()
    first[0]["routes"][0]["rule"] = "changed"
    assert second[0]["routes"][0]["rule"] == "matrix"
    assert len(next(iter(routing))["params"]) == 1
    assert routing == route(chain())  # the rows decide


def test_printing_and_plain_data():
    routing = route(chain())
    assert isinstance(routing, Routing)
    text = str(routing)
    assert "2.weight" in text
    assert "hidden: between layers of units" in text
    assert text.endswith("6 parameters: 1 by matrix, 5 by adamw; 2 groups")
    assert routing.to_dict() == {"rows": [row.to_dict() for row in routing.rows]}
    with pytest.raises(KeyError, match="unknown parameter"):
        routing["2.wight"]
    with pytest.raises(ValueError, match="unknown rule 'muon'"):
        routing.by_rule("muon")
