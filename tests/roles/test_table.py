import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from isometry import roles


def by_name(model, **kwargs):
    return {row.name: row for row in roles.table(model, **kwargs)}


def roles_of(model, **kwargs):
    return {row.name: row.role for row in roles.table(model, **kwargs) if row.role != "bias"}


def chain():
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def test_chain_has_input_hidden_output():
    assert roles_of(chain()) == {"0.weight": "input", "2.weight": "hidden", "4.weight": "output"}
    row = roles.table(chain())["2.weight"]
    assert (row.shape, row.fan_in, row.fan_out, row.module_name, row.module_type) == ((5, 6), 6, 5, "2", "Linear")
    assert row.axes == roles.Axes(out=(0,), in_=(1,))
    assert row.trainable
    assert not row.parametrized
    assert row.numel == 30


def test_single_matrix_is_output():
    assert roles_of(nn.Linear(3, 2)) == {"weight": "output"}
    assert roles.table(nn.Linear(3, 2))["weight"].module_name == ""


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out", "text"),
    [
        (nn.Linear(3, 7), 3, 7, "(out, in)"),
        (nn.Conv1d(4, 6, 5), 20, 30, "(out, in, k)"),
        (nn.Conv2d(8, 16, 3, groups=4), 18, 36, "(out, in/4, k, k)"),
        (nn.Conv3d(2, 4, (1, 2, 3)), 12, 24, "(out, in, k, k, k)"),
        (nn.ConvTranspose2d(8, 12, 3, groups=2), 36, 54, "(in, out/2, k, k)"),
        (nn.Bilinear(3, 4, 5), 12, 5, "(out, in, in)"),
        (nn.Embedding(10, 6), 1, 6, "(in, out)"),
    ],
)
def test_fans_and_axes(layer, fan_in, fan_out, text):
    row = roles.table(layer)["weight"]
    assert (row.fan_in, row.fan_out, str(row.axes)) == (fan_in, fan_out, text)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_both_directions_of_a_first_recurrent_layer_read_the_data(kind):
    model = nn.ModuleDict({"body": getattr(nn, kind)(5, 7, num_layers=2, bidirectional=True), "head": nn.Linear(14, 3)})
    found = roles.table(model)
    assert {row.name for row in found.rows if row.role == "input"} == {"body.weight_ih_l0", "body.weight_ih_l0_reverse"}
    assert found["body.weight_ih_l1_reverse"].role == "hidden"


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_and_cells(kind):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    layer = getattr(nn, kind)(5, 7, num_layers=2, bidirectional=True)
    rows = by_name(nn.Sequential(layer, nn.Linear(14, 2)))
    assert rows["0.weight_ih_l0"].role == "input"
    assert rows["0.weight_ih_l1_reverse"].role == "hidden"
    assert rows["0.weight_hh_l0"].role == "recurrent"
    assert rows["0.bias_hh_l1"].role == "bias"
    assert len(rows["0.weight_hh_l0"].axes.blocks) == (gates if gates > 1 else 0)
    assert (rows["0.weight_ih_l0"].fan_in, rows["0.weight_ih_l0"].fan_out) == (5, 7)
    cell = by_name(getattr(nn, f"{kind}Cell")(5, 7))
    assert cell["weight_hh"].role == "recurrent"
    assert cell["weight_ih"].fan_out == 7


def test_lstm_projection_has_no_gates():
    row = roles.table(nn.LSTM(4, 6, proj_size=3))["weight_hr_l0"]
    assert (row.role, row.axes.blocks, row.fan_in, row.fan_out) == ("recurrent", (), 6, 3)


def test_multihead_attention():
    rows = by_name(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    assert rows["in_proj_weight"].role == "attention_qkv"
    assert rows["in_proj_weight"].axes.blocks == ("q", "k", "v")
    assert rows["in_proj_weight"].fan_out == 8
    assert rows["out_proj.weight"].role == "attention_out"
    assert rows["bias_k"].role == "other"
    apart = by_name(nn.MultiheadAttention(8, 2, kdim=4, vdim=5))
    assert [apart[f"{x}_proj_weight"].role for x in "qkv"] == ["attention_q", "attention_k", "attention_v"]


def nest(path, layer):
    for part in reversed(path.split(".")):
        layer = nn.ModuleDict({part: layer})
    return layer


def attention(**layers):
    block = nn.ModuleDict({name: nn.Linear(6, width) for name, width in layers.items()})
    return nn.Sequential(nn.Linear(3, 6), nn.ModuleDict({"attn": block}), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({"q_proj": 6, "k_proj": 6, "v_proj": 6, "o_proj": 6}, ["q", "k", "v", "out"]),
        ({"qkv": 18, "proj": 6}, ["qkv", "out"]),
        ({"to_q": 6, "to_k": 6, "to_v": 6, "to_out": 6}, ["q", "k", "v", "out"]),
        ({"query": 6, "key": 6, "value": 6}, ["q", "k", "v"]),
        ({"q": 6, "k": 6, "v": 6, "o": 6}, ["q", "k", "v", "out"]),
        ({"wq": 6, "wk": 6, "wv": 6, "wo": 6}, ["q", "k", "v", "out"]),
        ({"c_attn": 18, "c_proj": 6}, ["qkv", "out"]),
        ({"Wqkv": 18, "out_proj": 6}, ["qkv", "out"]),
    ],
)
def test_attention_by_name(layers, expected):
    rows = by_name(attention(**layers))
    found = [rows[f"1.attn.{name}.weight"].role for name in layers]
    assert found == [f"attention_{e}" for e in expected]


def test_names_alone_do_not_make_attention():
    rows = by_name(attention(key=6, proj=6, value=6))  # no query: a memory, not an attention
    assert {rows[f"1.attn.{n}.weight"].role for n in ("key", "proj", "value")} == {"hidden"}


def test_stacked_blocks_only_where_sizes_say_so():
    rows = by_name(attention(qkv=18, to_kv=12))
    assert rows["1.attn.qkv.weight"].axes.blocks == ("q", "k", "v")
    assert rows["1.attn.to_kv.weight"].axes.blocks == ("k", "v")
    assert by_name(attention(qkv=10))["1.attn.qkv.weight"].axes.blocks == ()


def test_transposed_linear_of_gpt2():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.nf = 9
            self.weight = nn.Parameter(torch.zeros(4, 9))

    row = roles.table(nn.Sequential(Conv1D(), nn.Linear(9, 2)))["0.weight"]
    assert (row.role, str(row.axes), row.fan_in, row.fan_out) == ("input", "(in, out)", 4, 9)


def test_tied_parameters_stand_once():
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 10, bias=False))
    model[2].weight = model[0].weight
    table = roles.table(model)
    assert [row.name for row in table] == ["0.weight", "1.weight", "1.bias"]
    assert table["2.weight"] is table["0.weight"]
    assert table["0.weight"].aliases == ("2.weight",)
    assert table["0.weight"].role == "embedding"
    assert table["1.weight"].role == "hidden"  # neither first nor last: the tied matrix is both
    assert "1 tied" in str(table)


def test_shared_module_under_two_names_keeps_output():
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model.head = model.body[1]
    row = roles.table(model)["head.weight"]
    assert (row.name, row.role, row.aliases) == ("body.1.weight", "output", ("head.weight",))


def test_norms_scales_and_others():
    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(3))
            self.mixing_bias = nn.Parameter(torch.ones(3))
            self.matrix = nn.Parameter(torch.ones(3, 4))
            self.pos_embed = nn.Parameter(torch.ones(1, 5, 4))
            self.temperature = nn.Parameter(torch.tensor(1.0))
            self.parts = nn.ParameterList([nn.Parameter(torch.ones(2, 2))])

    class MyRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    norms = nn.ModuleList([nn.LayerNorm(3), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.RMSNorm(3), MyRMSNorm()])
    found = {r.name: r.role for r in roles.table(nn.ModuleDict({"c": Custom(), "n": norms, "p": nn.PReLU()}))}
    assert {found[n] for n in found if n.startswith("n.")} == {"norm"}
    assert found["c.gamma"] == found["c.temperature"] == found["p.weight"] == "scale"
    assert found["c.mixing_bias"] == "bias"
    assert found["c.matrix"] == found["c.parts.0"] == "other"
    assert found["c.pos_embed"] == "embedding"


def test_learned_positions_do_not_start_the_chain():
    model = nn.Module()
    model.pos_embed = nn.Parameter(torch.zeros(1, 4, 6))
    model.patch = nn.Conv2d(3, 6, 4)
    model.head = nn.Linear(6, 2)
    assert roles_of(model) == {"pos_embed": "embedding", "patch.weight": "input", "head.weight": "output"}


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_parametrized(wrap):
    rows = roles.table(nn.Sequential(wrap(nn.Linear(4, 4)), nn.Linear(4, 2)))
    matrix = next(r for r in rows if r.parametrized and r.role == "input")
    assert matrix.module_name == "0"
    assert matrix.module_type == "Linear"
    assert matrix.tensor_name == "weight"
    assert rows["0.weight"].parametrized  # found under the name that the layer uses, too


def test_weight_norm_pieces_new_and_old():
    new = by_name(parametrizations.weight_norm(nn.Linear(3, 4)))
    assert new["parametrizations.weight.original0"].role == "scale"
    assert new["parametrizations.weight.original1"].role == "output"
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(3, 4))
    old = by_name(layer)
    assert (old["weight_g"].role, old["weight_v"].role, old["weight_v"].parametrized) == ("scale", "output", True)
    spectral = by_name(nn.utils.spectral_norm(nn.Linear(3, 4)))
    assert (spectral["weight_orig"].role, spectral["weight_orig"].tensor_name) == ("output", "weight")


def test_unknown_construction_of_a_weight_is_other():
    class LowRank(nn.Module):
        def forward(self, left, right):
            return left @ right

        def right_inverse(self, weight):
            return weight[:, :1], weight[:1]

    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", LowRank(), unsafe=True)
    assert {r.role for r in roles.table(layer) if r.parametrized} == {"other"}


def test_overrides():
    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(3, 4))
            self.experts = nn.Parameter(torch.ones(2, 4, 3))

    stacked = ("hidden", roles.Axes(out=(2,), in_=(1,), batch=(0,)))
    table = roles.table(Custom(), {"m*": "hidden", "experts": stacked})
    assert (table["matrix"].role, table["matrix"].fan_in) == ("hidden", 4)
    assert (table["experts"].role, table["experts"].fan_in, table["experts"].fan_out) == ("hidden", 4, 3)
    later = roles.table(chain(), {"*.weight": "hidden", "4.w*": "output"})
    assert [r.role for r in later.matrices] == ["hidden", "hidden", "output"]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"5.weight": "hidden"}, ValueError, "unknown overrides pattern '5.weight'; did you mean"),
        ({"0.weight": "hiden"}, ValueError, r"role in overrides\['0.weight'\]: 'hiden'; did you mean 'hidden'"),
        ({"0.weight": 3}, TypeError, "must be a role, an Axes or a"),
        ({"0.bias": "hidden"}, ValueError, "which is no matrix; give it a role such as"),
        ({"0.weight": roles.Axes(out=(0,), in_=(2,))}, ValueError, "do not fit '0.weight' of shape"),
    ],
)
def test_bad_overrides(overrides, error, message):
    with pytest.raises(error, match=message):
        roles.table(chain(), overrides)


def test_order_of_calls_refines_first_and_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 2)
            self.body = nn.Linear(5, 5)
            self.stem = nn.Linear(3, 5)
            self.unused = nn.Linear(2, 2)
            self.drop = nn.Dropout()

        def forward(self, x):
            return self.head(self.drop(self.body(self.stem(x))))

    model = Backwards().train()
    state = torch.get_rng_state()
    assert roles_of(model)["head.weight"] == "input"
    table = roles.table(model, example=torch.zeros(1, 3))
    assert table.order == "forward"
    assert {r.name: r.role for r in table.matrices} == {
        "head.weight": "output",
        "body.weight": "hidden",
        "stem.weight": "input",
        "unused.weight": "hidden",
    }
    assert model.training
    assert not model.stem._forward_hooks
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="example: the model raised RuntimeError"):
        roles.table(model, example=torch.zeros(1, 4))
    assert model.training


def test_refusals():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got dict; build the model first"):
        roles.table({})
    with pytest.raises(ValueError, match=r"lazy parameters without a shape yet \(0.weight, 0.bias\); run the model"):
        roles.table(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(KeyError, match=r"did you mean '0.weight'"):
        roles.table(chain())["0.wieght"]
    with pytest.raises(ValueError, match="unknown role 'hiden'; did you mean 'hidden'"):
        roles.table(chain()).by_role("hiden")


def test_meta_frozen_and_empty_models():
    with torch.device("meta"):
        model = chain()
    model[0].requires_grad_(False)
    table = roles.table(model)
    assert not table["0.weight"].trainable
    assert "frozen" in str(table)
    assert len(roles.table(nn.Tanh())) == 0


def test_prints_and_dumps():
    table = roles.table(nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.Flatten(), nn.Linear(8, 2)))
    text = str(table)
    assert "8 x 3 x 3 x 3" in text
    assert "(out, in, k, k)" in text
    assert "4 parameters, 242 numbers" in text
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["axes"]["kernel"] == [2, 3]
    assert "0.weight" in table
    assert "9.weight" not in table


class Stacked(nn.Module):
    """Experts as transformers has them, the attributes included that say how their matrices lie."""

    def __init__(self, *, turned, concatenated=True):
        super().__init__()
        self.is_transposed, self.is_concatenated, self.has_gate = turned, concatenated, True
        self.gate_up_proj = nn.Parameter(torch.zeros(3, 4, 10) if turned else torch.zeros(3, 10, 4))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(3, 10))
        self.down_proj = nn.Parameter(torch.zeros(3, 5, 4) if turned else torch.zeros(3, 4, 5))
        self.other = nn.Parameter(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("turned", [False, True])
def test_stacked_experts(turned):
    model = nn.Sequential(nn.Linear(4, 4), Stacked(turned=turned), nn.Linear(4, 4))
    rows = by_name(model)
    up, down, bias = (rows[f"1.{name}"] for name in ("gate_up_proj", "down_proj", "gate_up_proj_bias"))
    assert [row.role for row in (up, down, bias, rows["1.other"])] == ["hidden", "hidden", "bias", "other"]
    assert up.axes.matrices(torch.zeros(up.shape)).shape == (6, 5, 4)  # a gate and what it gates, an expert
    assert down.axes.matrices(torch.zeros(down.shape)).shape == (3, 4, 5)
    assert (up.fan_in, up.fan_out, down.fan_in, down.fan_out) == (4, 5, 5, 4)
    mixed = by_name(nn.Sequential(nn.Linear(4, 4), Stacked(turned=turned, concatenated=False), nn.Linear(4, 4)))
    assert mixed["1.gate_up_proj"].axes.blocks == ()


def test_a_gate_stacked_on_what_it_gates():
    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_up_proj, self.down_proj = nn.Linear(4, 12), nn.Linear(6, 4)

    row = by_name(nn.Sequential(nn.Linear(4, 4), Mlp(), nn.Linear(4, 4)))["1.gate_up_proj.weight"]
    assert (row.axes.blocks, row.fan_out) == (("gate", "up"), 6)
