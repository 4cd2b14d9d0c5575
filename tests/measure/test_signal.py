import itertools
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from isometry import measure


def mlp(depth=3, width=6, activation=nn.Tanh, inputs=5, outputs=4, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = [inputs, *[width] * depth]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers, nn.Linear(width, outputs)).to(dtype)


def batch(samples=7, inputs=5, dtype=torch.float64):
    return torch.randn(samples, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_forward_moments_against_plain_loops():
    model, x = mlp(), batch()
    result = measure.signal(model, x)
    assert [layer.name for layer in result.layers] == ["0", "2", "4", "6"]
    assert [layer.depth for layer in result.layers] == [1, 2, 3, 4]
    h = x
    for module, name in zip(model, map(str, range(7)), strict=True):
        h = module(h).detach()
        if isinstance(module, nn.Linear):
            layer = result[name]
            assert layer.q == pytest.approx(h.square().mean().item())
            gram = h @ h.T
            cosines = gram / torch.outer(gram.diagonal().sqrt(), gram.diagonal().sqrt())
            off = cosines[~torch.eye(7, dtype=torch.bool)]
            assert layer.correlation == pytest.approx(off.mean().item())
    assert result.input_q == pytest.approx(x.square().mean().item())


@pytest.mark.parametrize("likelihood", ["cross-entropy", "mse"])
def test_gradients_against_per_sample_autograd(likelihood):
    model, x = mlp(), batch()
    labels = torch.arange(7) % 4
    targets = labels if likelihood == "cross-entropy" else batch(inputs=4)
    result = measure.signal(model, x, targets)
    assert result.probe == likelihood

    squares = dict.fromkeys("0246", 0.0)
    total = 0.0
    for sample, target in zip(x, targets, strict=True):
        kept, h = {}, sample[None]
        for name, module in model.named_children():
            h = module(h)
            if name in squares:
                kept[name] = h
                h.retain_grad()
        loss = (
            functional.cross_entropy(h, target[None]) if likelihood == "cross-entropy" else (h - target).pow(2).mean()
        )
        loss.backward()
        total += loss.item()
        for name, value in kept.items():
            squares[name] += value.grad.square().sum().item()
    assert result.loss == pytest.approx(total / 7)
    for name, square in squares.items():
        assert result[name].gradient_norm == pytest.approx(math.sqrt(square / 7))
        assert result[name].gradient_second_moment == pytest.approx(square / 7 / result[name].units)
    # .grad now holds the sum of the samples' gradients
    weight = (model[2].weight.grad.square().sum() + model[2].bias.grad.square().sum()).sqrt() / 7
    assert result["2"].weight_gradient_norm == pytest.approx(weight.item())


def test_random_cotangents_have_unit_length_and_obey_the_generator():
    model, x = mlp(), batch()
    result = measure.signal(model, x, generator=torch.Generator().manual_seed(5))
    assert result.probe == "random cotangent"
    assert result["6"].gradient_norm == pytest.approx(1.0)
    again = measure.signal(model, x, generator=torch.Generator().manual_seed(5))
    assert again["0"].gradient_norm == result["0"].gradient_norm
    other = measure.signal(model, x, generator=torch.Generator().manual_seed(6))
    assert other["0"].gradient_norm != result["0"].gradient_norm


def test_gradient_of_an_isometry_is_constant():
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(5))).double()
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    result = measure.signal(model, batch(inputs=6))
    assert [layer.gradient_norm for layer in result.layers] == pytest.approx([1.0] * 5)
    assert [layer.q for layer in result.layers] == pytest.approx([result.input_q] * 5)
    assert result.input_gradient_norm == pytest.approx(1.0)


class Functional(nn.Module):
    """The same net as a chain of modules, with functions instead of activation modules."""

    def __init__(self, chain, function):
        super().__init__()
        self.layers = nn.ModuleList(m for m in chain if isinstance(m, nn.Linear))
        self.function = function

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.function(layer(x))
        return self.layers[-1](x)


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (nn.ReLU, functional.relu),
        (nn.ReLU, torch.relu_),
        (nn.ReLU, lambda h: h.relu()),
        (lambda: nn.ReLU(inplace=True), torch.relu),
        (nn.Tanh, torch.tanh),
        (nn.Sigmoid, lambda h: h.sigmoid_()),
        (nn.GELU, functional.gelu),
        (nn.SiLU, functional.silu),
    ],
)
def test_activations_are_found_as_modules_and_as_functions(module, function):
    chain = mlp(activation=module)
    with torch.no_grad():
        chain[0].bias[:2] = -100  # dead where it rectifies, saturated where it squashes
    one = measure.signal(chain, batch(), generator=torch.Generator().manual_seed(0))
    other = measure.signal(Functional(chain, function), batch(), generator=torch.Generator().manual_seed(0))
    assert len(one.activations) == len(other.activations) == 3
    for a, b in zip(one.layers, other.layers, strict=True):
        assert (a.q, a.gradient_norm, a.activation) == (b.q, b.gradient_norm, b.activation)
        assert (a.dead, a.saturated) == pytest.approx((b.dead, b.saturated), nan_ok=True)
    sick = one.layers[0].dead + one.layers[0].saturated
    assert sick >= 2 / 6 - 1e-12
    assert one.activations[0].follows == "0"
    assert math.isnan(one.layers[-1].dead)  # nothing follows the output


def test_activation_behind_a_sum_follows_no_layer():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, x):
            return functional.relu(self.linear(x) + x)

    result = measure.signal(Block().double(), batch())
    assert result.activations[0].follows is None
    assert result.layers[0].activation is None


@pytest.mark.parametrize("overwrites", [False, True])
def test_activation_behind_a_layer_that_was_overwritten(overwrites):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, x):
            h = self.linear(x)
            if overwrites:
                h += 100
            return torch.tanh(h)

    result = measure.signal(Shifted().double(), batch())
    assert result.activations[0].follows == (None if overwrites else "linear")
    assert math.isnan(result["linear"].saturated) == overwrites


def test_a_model_that_overwrites_its_input_leaves_the_callers_alone():
    x = batch()
    kept = x.clone()
    result = measure.signal(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 2)).double(), x)
    assert torch.equal(x, kept)
    assert result.input_gradient_norm > 0


def test_constant_units_and_zeroed_layer():
    model = mlp()
    nn.init.zeros_(model[2].weight)
    result = measure.signal(model, batch())
    assert result["2"].constant == 1.0
    assert result["0"].constant == 0.0
    assert result["4"].correlation == pytest.approx(1.0)
    assert result["0"].gradient_norm == 0.0
    assert result["0"].gradients.zero == 1.0


def test_non_finite_values_are_located():
    model = mlp(dtype=torch.float32)
    with torch.no_grad():
        model[2].weight.fill_(3e38)
    result = measure.signal(model, batch(dtype=torch.float32), torch.zeros(7, dtype=torch.long))
    assert result.nonfinite_at == "2"
    assert result["0"].nonfinite == 0
    assert result["2"].nonfinite > 0
    healthy = measure.signal(mlp(), batch())
    assert healthy.nonfinite_at is None
    assert healthy.gradient_nonfinite_at is None


def test_non_finite_gradients_are_located():
    class Root(nn.Module):
        def forward(self, h):
            return (h * 0).abs().sqrt() + h  # finite forward, infinite slope times zero backward

    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), Root(), nn.Linear(5, 2)).double()
    result = measure.signal(model, batch())
    assert result.nonfinite_at is None
    assert result.gradient_nonfinite_at == "1"
    assert result["3"].gradient_nonfinite == 0
    assert result["1"].gradient_nonfinite == 35


def test_narrow_formats():
    model = mlp(dtype=torch.float32)
    with torch.no_grad():
        model[6].weight.mul_(1e-8)
        model[0].weight.mul_(1e8)
    result = measure.signal(model, batch(dtype=torch.float32))
    assert result["2"].gradients.underflow_fp16 > 0.9
    assert result["2"].weight_gradients.underflow_fp16 > 0.9
    assert result["0"].values.overflow_fp16 > 0.9
    assert result["0"].values.overflow_bf16 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_agree_with_float64(dtype):
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    reference = measure.signal(mlp(), batch(), torch.arange(7) % 4)
    result = measure.signal(mlp(dtype=dtype), batch(dtype=dtype), torch.arange(7) % 4)
    assert result.dtype == str(dtype).removeprefix("torch.")
    for a, b in zip(result.layers, reference.layers, strict=True):
        assert a.q == pytest.approx(b.q, rel=tolerance)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=tolerance)


def test_reused_module_has_a_row_per_call():
    shared = nn.Linear(5, 5)
    result = measure.signal(nn.Sequential(shared, nn.Tanh(), shared).double(), batch())
    assert [(layer.name, layer.depth) for layer in result.layers] == [("0", 1), ("0#2", 2)]


def test_frozen_model_and_integer_inputs_are_measured():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    result = measure.signal(model, torch.arange(15).reshape(5, 3) % 10)
    assert [layer.kind for layer in result.layers] == ["embedding", "linear"]
    assert result.layers[0].gradient_norm > 0
    assert math.isnan(result.input_q)
    assert not model[2].weight.requires_grad


def test_kinds_of_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 6, 3)
            self.norm = nn.GroupNorm(2, 6)
            self.lstm = nn.LSTM(6, 4, batch_first=True)
            self.attention = nn.MultiheadAttention(4, 2)
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

        def forward(self, x):
            h, _ = self.lstm(torch.relu(self.norm(self.conv(x))).transpose(1, 2))
            h = h.transpose(0, 1)  # sequence first, as the attention wants it
            return self.head(self.attention(h, h, h)[0].mean(0))

    result = measure.signal(Net(), torch.randn(4, 2, 9))
    found = {layer.name: (layer.kind, layer.depth) for layer in result.layers}
    assert found == {
        "conv": ("conv", 1),
        "norm": ("norm", 1),
        "lstm": ("recurrent", 2),
        "attention": ("attention", 3),
        "head": ("linear", 4),
    }
    assert [layer.name for layer in result.weight_layers] == ["conv", "lstm", "attention", "head"]
    assert all(layer.gradient_norm > 0 and layer.correlation <= 1 for layer in result.layers)
    assert result.notes == ()


def test_batch_norm_needs_a_choice():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).double()
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm1d\) uses the batch's statistics. Pass training=True"):
        measure.signal(model, batch())
    training = measure.signal(model, batch(), training=True)
    assert training["1"].q == pytest.approx(1.0, rel=1e-3)
    assert training.training
    assert "samples mix: '1'" in training.notes[0]
    assert int(model[1].num_batches_tracked) == 0  # no trace
    evaluated = measure.signal(model, batch(), training=False)
    assert evaluated["1"].q == pytest.approx(evaluated["0"].q, rel=1e-3)
    assert "never saw a training batch" in evaluated.notes[0]
    assert model.training


def test_dropout_needs_a_choice():
    model = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 2)).double()
    with pytest.raises(ValueError, match="drops units at random"):
        measure.signal(model, batch())
    assert measure.signal(model, batch(), training=False).notes == ()
    assert measure.signal(model.eval(), batch()).notes == ()


def test_what_was_skipped_is_noted():
    class Folding(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd = nn.Linear(5, 4)
            self.unused = nn.Linear(5, 4)

        def forward(self, x):
            return self.odd(torch.cat([x, x[:1]]))[: len(x)]

    notes = measure.signal(Folding().double(), batch()).notes
    assert any("no batch dimension recognized in the output of odd" in note for note in notes)
    assert any("never called: unused" in note for note in notes)


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear = nn.Linear(5, 2)
        self.what = what

    def forward(self, x):
        return self.what(self.linear(x))


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        ("mlp", batch(), TypeError, r"model must be a torch.nn.Module, got str; build the model first"),
        (mlp(), [1.0], TypeError, r"x must be a torch.Tensor.*got list"),
        (mlp(), batch()[:0], ValueError, r"x is empty \(shape \(0, 5\)\)"),
        (mlp(), batch().index_fill(1, torch.tensor(0), math.nan), ValueError, "x holds 7 non-finite values"),
        (mlp(), batch(inputs=6), ValueError, r"raised RuntimeError on x of shape \(7, 6\) and dtype torch.float64"),
        (mlp(), batch().long(), ValueError, r"parameters are torch.float64; pass x.to\(torch.float64\)"),
        (mlp(), batch().float(), ValueError, r"parameters are torch.float64; pass x.to\(torch.float64\)"),
        (nn.Sequential(nn.LazyLinear(2)), batch(), ValueError, "'0.weight' is lazy and has no shape yet"),
        (mlp().to("meta"), batch(), ValueError, "'0.weight' is on the meta device and has no values"),
        (Returns(lambda h: {"a": h, "b": h}).double(), batch(), TypeError, "dict with keys 'a', 'b'; say which"),
        (Returns(lambda h: (1, "h")).double(), batch(), TypeError, "tuple of 2 elements, none of them a real"),
        (Returns(lambda h: h.argmax(1)).double(), batch(), TypeError, r"a tensor of torch.int64; measurements need"),
        (Returns(lambda h: h.sum(0)).double(), batch(), ValueError, r"returned shape \(2,\) for 7 inputs"),
    ],
)
def test_refusals(model, x, error, message):
    with pytest.raises(error, match=message):
        measure.signal(model, x)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([1], TypeError, r"targets must be a torch.Tensor, got list"),
        (torch.zeros(7, 3), ValueError, r"real-valued targets need the outputs' shape"),
        (torch.zeros(6, dtype=torch.long), ValueError, r"class indices need shape \(N,\)"),
        (torch.full((7,), 4), ValueError, r"targets lie in 4..4, but the model has 4 outputs; labels must be 0..3"),
    ],
)
def test_bad_targets(targets, error, message):
    with pytest.raises(error, match=message):
        measure.signal(mlp(), batch(), targets)


def test_single_sample_and_model_without_parameters():
    assert math.isnan(measure.signal(mlp(), batch(samples=1)).layers[0].correlation)
    result = measure.signal(nn.Sequential(nn.Tanh()), batch())
    assert [layer.kind for layer in result.layers] == ["other"]


def test_prints_and_dumps():
    result = measure.signal(mlp(depth=60), batch(), torch.arange(7) % 4)
    text = str(result)
    assert "correlation" in text
    assert "gradient of the cross-entropy" in text
    assert len(text.splitlines()) < 50
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["layers"][0]["gradients"]["zero"] == 0
    assert plain["layers"][-1]["dead"] is None
    with pytest.raises(KeyError, match="there is no layer 'x'; the layers are 0, 2"):
        result["x"]
