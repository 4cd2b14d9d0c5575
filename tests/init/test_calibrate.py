"""Everything that is no plain chain, calibrated on data."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from isometry.init import critical_
from isometry.nn import reference_model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*shape):
    return torch.randn(64, *shape, generator=seeded(1))


def loss_and_gradients(model, x, classes=10):
    y = torch.randint(0, classes, (len(x),), generator=seeded(2))
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    sizes = {
        n: (p.grad.norm() / p.numel() ** 0.5).item()
        for n, p in model.named_parameters()
        if p.ndim > 1 and "key" not in n
    }
    return loss.item(), sizes


SPECS = [
    ("mlp:depth=40,width=60,activation=relu,norm=batch", (64,)),
    ("mlp:depth=40,width=60,activation=tanh,norm=layer", (64,)),
    ("mlp:depth=40,width=60,activation=relu,residual=true", (64,)),
    ("mlp:depth=40,width=60,activation=tanh,residual=true", (64,)),
    ("cnn:depth=20,channels=12,norm=batch", (1, 6, 6)),
    ("resnet:depth=15,width=12", (1, 6, 6)),
    ("resnet:depth=15,width=12,norm=batch", (1, 6, 6)),
    ("resnet:depth=20,width=40,layers=linear", (64,)),
    ("rnn:width=32", (20, 4)),
    ("rnn:width=32,activation=relu", (20, 4)),
    ("gru:width=32", (20, 4)),
    ("lstm:width=32,depth=2", (20, 4)),
    ("transformer:depth=3", (8, 8)),
    ("transformer:depth=8,norm=none", (8, 8)),
    ("transformer:depth=3,norm=post", (8, 8)),
]


@pytest.mark.parametrize(("spec", "in_shape"), SPECS)
def test_signal_and_gradient_after_calibration(spec, in_shape):
    model = reference_model(spec, in_shape=in_shape, classes=10, generator=seeded())
    x = batch(*in_shape)
    table = critical_(model, data=x, generator=seeded())
    assert table.method == "data"
    assert table.converged
    assert table.residual < 0.05
    assert {row.name for row in table.rows} == {name for name, _ in model.named_parameters()}
    loss, sizes = loss_and_gradients(model, x)
    assert loss == pytest.approx(math.log(10), abs=0.35)
    assert min(sizes.values()) > 0
    assert max(sizes.values()) / min(sizes.values()) < 500


def test_a_zeroed_layer_is_set_again():
    model = reference_model("resnet:depth=4,width=20,layers=linear", in_shape=(10,), classes=10)
    with torch.no_grad():
        model.blocks[1].branch.linear2.weight.zero_()
        model.stem.weight.zero_()
    critical_(model, data=batch(10), generator=seeded())
    assert all(p.abs().sum() > 0 for n, p in model.named_parameters() if n.endswith("weight"))


def test_residual_branches_share_the_growth_of_the_trunk():
    model = reference_model("resnet:depth=25,width=30,layers=linear", in_shape=(10,), classes=10)
    x = batch(10)
    critical_(model, data=x, generator=seeded())
    with torch.no_grad():
        trunk = [model.stem(model.flatten(x))]
        for block in model.blocks:
            trunk.append(block(trunk[-1]))
    q = [t.square().mean().item() for t in trunk]
    assert q[-1] / q[0] == pytest.approx((1 + 1 / 25) ** 25, rel=1e-3)
    assert all(b / a == pytest.approx(1 + 1 / 25, rel=1e-3) for a, b in pairwise(q))


@pytest.mark.parametrize(("activation", "linear"), [("tanh", False), ("relu", True)])
def test_branches_that_end_in_a_bounded_activation_still_bend(activation, linear):
    blocks = 40
    spec = f"mlp:depth={blocks + 1},width=64,activation={activation},residual=true"
    model = reference_model(spec, in_shape=(64,), classes=10, generator=seeded())
    x = batch(64)
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    front = []
    for block in model.hidden[1:]:
        block.branch.linear.register_forward_hook(lambda _m, _a, out: front.append(out.detach()))
    seen = []
    with torch.no_grad():
        h = model.hidden[0](model.flatten(x))
        for block in model.hidden[1:]:
            seen.append(h.square().mean().item())
            h = block(h)
        seen.append(h.square().mean().item())
    if linear:  # ReLU bends at any size, so its branches share the growth
        assert seen[-1] / seen[0] == pytest.approx((1 + 1 / blocks) ** blocks, rel=0.05)
        return
    # tanh works at q* = 1/2 in every block: what is left of it beside its best linear fit does not shrink with 1/K^2.
    for u in front[:: blocks // 4]:
        assert u.square().mean().item() == pytest.approx(0.5, rel=0.02)
        slope = (u * u.tanh()).mean() / u.square().mean()
        assert (u.tanh() - slope * u).square().mean() > 0.01 * u.tanh().square().mean()
    # The trunk grows by E tanh(u)^2 per block, not by a factor.
    added = math.fsum((u.tanh().square().mean().item()) for u in front)
    assert seen[-1] - seen[0] == pytest.approx(added, rel=0.5)


@pytest.mark.parametrize("in_place", ["x += y", "x.add_(y)", "y + x", "torch.add"])
def test_sums_are_recognised_however_they_are_written(in_place):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            y = self.b(torch.relu(self.a(x)))
            if in_place == "x += y":
                y += x
                return y
            if in_place == "x.add_(y)":
                return y.add_(x)
            return y + x if in_place == "y + x" else torch.add(x, y)

    model = nn.Sequential(nn.Linear(8, 16), *(Block() for _ in range(10)), nn.Linear(16, 3))
    x = batch(8)
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    with torch.no_grad():
        start, end = model[0](x), model[:-1](x)
    assert (end.square().mean() / start.square().mean()).item() == pytest.approx(1.1**10, rel=1e-3)
    assert "ends a residual branch, one of 10" in table["3.b.weight"].why


def test_deep_normalized_chains_get_the_operating_point_in_the_normalization():
    model = reference_model("mlp:depth=30,width=40,activation=tanh,norm=layer", in_shape=(10,), classes=3)
    table = critical_(model, data=batch(10), generator=seeded())
    q = table.q_star
    assert q < 0.5
    torch.testing.assert_close(model.hidden[7].norm.weight, torch.full((40,), q**0.5))
    shallow = reference_model("mlp:depth=3,width=40,activation=tanh,norm=layer", in_shape=(10,), classes=3)
    critical_(shallow, data=batch(10), generator=seeded())
    assert shallow.hidden[1].norm.weight.eq(1).all()


def test_running_statistics_become_those_of_the_batch():
    model = reference_model("mlp:depth=3,width=20,norm=batch", in_shape=(10,), classes=3)
    x = 3 * batch(10) + 1
    table = critical_(model, data=x, generator=seeded())
    assert any("running statistics" in note for note in table.notes)
    model.train()
    train = model(x)
    model.eval()
    # the running variance is the unbiased one
    torch.testing.assert_close(model(x), train, rtol=0.05, atol=0.02)
    assert model.hidden[0].norm.momentum == 0.1


def test_gates():
    model = reference_model("lstm:width=16", in_shape=(12, 3), classes=4)
    table = critical_(model, data=10 * batch(12, 3), generator=seeded())
    recurrent = model.hidden.recurrent
    for block in recurrent.weight_hh_l0.detach().double().chunk(4):
        torch.testing.assert_close(block @ block.T, torch.eye(16, dtype=torch.float64), atol=1e-5, rtol=0)
    assert recurrent.bias_ih_l0[32:].eq(0).all()
    assert recurrent.bias_hh_l0.eq(0).all()
    assert "forget gate starts with memories of 1 to 6 steps" in table["hidden.recurrent.bias_ih_l0"].why
    gates = (10 * batch(12, 3)) @ recurrent.weight_ih_l0.T
    assert gates.square().mean().item() == pytest.approx(1, rel=0.15)


def test_torchs_own_transformer_layer_and_multihead_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False
            )
            self.out = nn.Linear(16, 5)

        def forward(self, x):
            return self.out(self.encoder(x).mean(1))

    model = Net()
    x = batch(6, 16)
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    weight = model.encoder.layers[0].self_attn.in_proj_weight.detach().double()
    for block in weight.chunk(3):
        torch.testing.assert_close(block @ block.T, torch.eye(16, dtype=torch.float64), atol=1e-5, rtol=0)
    assert table["encoder.layers.1.self_attn.out_proj.weight"].action == "scaled"
    loss, _ = loss_and_gradients(model, x, 5)
    assert loss == pytest.approx(math.log(5), abs=0.35)


def test_embeddings_and_tied_outputs():
    class Language(nn.Module):
        def __init__(self, tied):
            super().__init__()
            self.embed = nn.Embedding(50, 24, padding_idx=0)
            self.mix = nn.Linear(24, 24)
            self.norm = nn.LayerNorm(24)
            self.head = nn.Linear(24, 50, bias=False)
            if tied:
                self.head.weight = self.embed.weight

        def forward(self, tokens):
            x = self.embed(tokens)
            return self.head(self.norm(x + torch.relu(self.mix(x))))

    tokens = torch.randint(0, 50, (16, 9), generator=seeded())
    for tied in (False, True):
        model = Language(tied)
        table = critical_(model, data=tokens, generator=seeded())
        assert table.converged
        assert model.embed.weight[0].eq(0).all()
        logits = model(tokens)
        assert logits.square().mean().item() < 0.3
        assert ("tied to head.weight: set once" in table["embed.weight"].why) == tied


def test_logits_differ_between_inputs_from_the_start():
    model = reference_model("resnet:depth=6,width=12", in_shape=(1, 6, 6), classes=10)
    x = batch(1, 6, 6)
    table = critical_(model, data=x, generator=seeded())
    with torch.no_grad():
        logits = model(x)
    assert logits.mean(0).abs().max() < 1e-4
    assert logits.square().mean().item() == pytest.approx(1 / 16, rel=1e-3)
    assert "takes away the mean of the activations" in table["output.bias"].why


def test_raw_parameters_are_listed_as_kept():
    model = reference_model("transformer:depth=1", in_shape=(8, 8), classes=3)
    before = model.position.detach().clone()
    table = critical_(model, data=batch(8, 8), generator=seeded())
    assert table["position"].action == "kept"
    assert table["position"].why
    assert torch.equal(model.position, before)


def test_what_cannot_be_calibrated_is_said_and_not_called_converged():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(8, 4))
            self.out = nn.Linear(8, 2)
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            return self.out(torch.tanh(nn.functional.linear(x, self.w)))

    table = critical_(Raw(), data=batch(4), generator=seeded())
    assert table["w"].action == "kept"
    assert "name its role in overrides=" in table["w"].why
    assert "its output is zero on this batch" in table["out.weight"].why
    assert "not used in the forward pass on this batch" in table["unused.weight"].why
    assert not table.converged
    assert "NOT all layers on target" in str(table)
    named = critical_(Raw(), data=batch(4), overrides={"w": "hidden"}, generator=seeded())
    assert named.converged
    assert named["w"].action == "scaled"


def test_errors_name_the_data_and_the_device():
    with pytest.raises(ValueError, match=r"^data: the model raised RuntimeError on it"):
        critical_(nn.Linear(4, 2), data=torch.randn(3, 5))
    with torch.device("meta"):
        model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"model has parameters on the meta device \(weight, \.\.\.\)"):
        critical_(model, data=torch.randn(3, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    for spec, in_shape in (("mlp:depth=6,width=32", (20,)), ("gru:width=16", (5, 4)), ("resnet:depth=2", (1, 6, 6))):
        model = reference_model(spec, in_shape=in_shape, classes=3).to(dtype)
        table = critical_(model, data=batch(*in_shape), generator=seeded())
        assert table.converged
        assert all(p.dtype == dtype for p in model.parameters())


def test_frozen_layers_are_used_as_they_are():
    model = reference_model("resnet:depth=3,width=16,layers=linear", in_shape=(10,), classes=3)
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    before = model.stem.weight.clone()
    table = critical_(model, data=batch(10), generator=seeded())
    assert torch.equal(model.stem.weight, before)
    assert table["stem.weight"].action == "skipped"


def test_raw_pixel_inputs_are_centred_and_scaled_by_the_first_layer():
    model = reference_model("resnet:depth=3,width=16,layers=linear", in_shape=(64,), classes=3)
    x = 255 * torch.rand(64, 64, generator=seeded())
    table = critical_(model, data=x, generator=seeded())
    first = model.stem(x)
    assert first.mean(0).abs().max() < 0.2
    assert "takes away the inputs' mean" in table["stem.bias"].why


def test_conv_nets_with_pooling_between_layers():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(inplace=True)
    )
    model.append(nn.Flatten())
    model.append(nn.Linear(64, 5))
    x = batch(1, 8, 8)
    table = critical_(model, data=x, generator=seeded())
    assert table.method == "data"
    assert table.converged
    assert [c.target for c in table.checks] == [0.5, 0.5, 1 / 16]
    assert any("calibrated on data, since '2' (pool)" in note for note in table.notes)
