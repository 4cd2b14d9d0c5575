"""Chains by theory: measured through real layers, wide and narrow."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from isometry.init import critical_
from isometry.nn import reference_model
from isometry.theory import MeanField


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pre_activations(model, x, kinds=(nn.Linear, nn.Conv2d)):
    seen = []
    handles = [
        m.register_forward_hook(lambda _m, _i, out: seen.append(out.square().mean().item()))
        for m in model.modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("weights", ["orthogonal", "gaussian"])
def test_q_is_constant_over_fifty_layers(weights):
    model = reference_model("mlp:depth=50,width=200", in_shape=(64,), classes=10)
    x = torch.randn(100, 64, generator=seeded(1))
    critical_(model, q_star=0.25, data=x, weights=weights, method="analytic", generator=seeded())
    q = pre_activations(model, x)[:-1]
    assert len(q) == 50
    # finite width: q wanders with a relative step of about sqrt(2 / width) (less for orthogonal weights), pulled back
    # to q*
    tolerance = 0.12 if weights == "orthogonal" else 0.45
    assert max(abs(v / 0.25 - 1) for v in q) < tolerance


@pytest.mark.parametrize("widths", [(30, 100, 40, 160, 25), (200, 50, 100, 100, 10)])
def test_q_is_kept_through_widening_and_narrowing_layers(widths):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(300, widths[0], generator=seeded(1))
    table = critical_(model, q_star=0.1, data=x, method="analytic", generator=seeded())
    assert table.method == "analytic"
    q = pre_activations(model, x)[:-1]
    assert all(v == pytest.approx(0.1, rel=0.35) for v in q)
    for layer in model:
        if isinstance(layer, nn.Linear):
            w = layer.weight.detach().double()
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, gram[0, 0] * torch.eye(len(gram), dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("inputs", "channels"), [(1, 24), (32, 24)])
def test_q_is_kept_through_real_convolutions(inputs, channels):
    model = reference_model(
        f"cnn:depth=12,channels={channels},activation=tanh,padding=zeros", in_shape=(inputs, 6, 6), classes=5
    )
    x = torch.randn(64, inputs, 6, 6, generator=seeded(1))
    table = critical_(model, q_star=0.1, data=x, method="analytic", generator=seeded())
    assert table["hidden.3.conv.weight"].scheme == "delta-orthogonal"
    assert all(v == pytest.approx(0.1, rel=0.4) for v in pre_activations(model, x, nn.Conv2d))


def test_the_jacobian_is_near_an_isometry():
    width, depth, q_star = 150, 30, 1 / 64
    model = reference_model(f"mlp:depth={depth},width={width}", in_shape=(width,), classes=10)
    x = torch.randn(1, width, generator=seeded(1))
    critical_(model, q_star=q_star, data=x, method="analytic", generator=seeded())
    hidden = nn.Sequential(model.hidden[1:], nn.Identity())
    start = model.hidden[0](x)[0].detach()
    jacobian = torch.func.jacrev(lambda h: hidden(h[None])[0])(start)
    squared = torch.linalg.svdvals(jacobian.double()).square()
    assert squared.mean().item() == pytest.approx(1, abs=0.1)
    mu = MeanField("tanh").mu
    predicted = (depth - 1) * (mu(2, q_star) / mu(1, q_star) ** 2 - 1)
    assert squared.var().item() == pytest.approx(predicted, rel=0.6)


def test_sigma_and_biases_are_those_of_criticality():
    model = reference_model("mlp:depth=20,width=100", in_shape=(50,), classes=10)
    table = critical_(model, q_star=0.5, generator=seeded())
    point = MeanField("tanh").critical(q_star=0.5)
    assert (table.sigma_w, table.sigma_b) == (point.sigma_w, point.sigma_b)
    assert torch.linalg.matrix_norm(model.hidden[3].linear.weight, 2).item() == pytest.approx(point.sigma_w, rel=1e-4)
    biases = torch.cat([layer.linear.bias for layer in model.hidden])
    assert biases.std().item() == pytest.approx(point.sigma_b, rel=0.08)  # 2,000 draws: 1.6 % standard error


def test_input_scale_and_mean_are_absorbed():
    torch.manual_seed(0)
    model = reference_model("mlp:depth=5,width=80", in_shape=(64,), classes=10)
    x = 20 * torch.rand(200, 64, generator=seeded(1)) + 100
    table = critical_(model, q_star=0.2, data=x, generator=seeded())
    assert table.input_scale is None
    assert table.absorbed_scale < 0.2
    assert "takes away the inputs' mean" in table["hidden.0.linear.weight"].why
    assert pre_activations(model, x)[0] == pytest.approx(0.2, rel=0.1)
    h = model.hidden[0].linear(x)
    assert h.mean(0).abs().max() < 0.3


def test_input_scale_can_be_left_to_the_caller_as_in_the_paper():
    model = reference_model("mlp:depth=5,width=80", in_shape=(20,), classes=10)
    x = 7 * torch.randn(200, 20, generator=seeded(1))
    table = critical_(model, q_star=0.2, data=x, absorb_inputs=False, generator=seeded())
    gain = torch.linalg.matrix_norm(model.hidden[0].linear.weight, 2).item()
    assert gain == pytest.approx(table.sigma_w, rel=1e-4)
    wanted = 80 * (0.2 - table.sigma_b**2) / table.sigma_w**2
    assert (table.input_scale * x).square().sum(1).mean().item() == pytest.approx(wanted, rel=1e-4)
    assert "expects inputs multiplied by" in table["hidden.0.linear.weight"].why
    assert table.converged


def test_without_data_the_first_layer_is_left_to_scaled_inputs():
    model = reference_model("mlp:depth=5,width=80", in_shape=(20,), classes=10)
    table = critical_(model, q_star=0.2, absorb_inputs=False, generator=seeded())
    gain = torch.linalg.matrix_norm(model.hidden[0].linear.weight, 2).item()
    assert gain == pytest.approx(table.sigma_w, rel=1e-4)
    assert table.input_scale is None
    assert "scale_inputs" in table["hidden.0.linear.weight"].why


@pytest.mark.parametrize("name", ["relu", "sigmoid", "softplus", "gelu", "leaky-relu", "hardtanh", "sin"])
def test_every_kind_of_activation_keeps_signal_and_gradient_at_depth_fifty(name):
    model = reference_model(f"mlp:depth=50,width=100,activation={name}", in_shape=(64,), classes=10, generator=seeded())
    x = torch.randn(100, 64, generator=seeded(1))
    table = critical_(model, data=x, generator=seeded())
    assert table.method == "analytic"
    assert table.converged
    y = torch.randint(0, 10, (100,), generator=seeded(2))
    loss = nn.functional.cross_entropy(model(x), y)
    assert loss.item() == pytest.approx(math.log(10), abs=0.6)
    loss.backward()
    norms = [layer.linear.weight.grad.norm().item() for layer in model.hidden]
    assert max(norms) / min(norms) < 60  # PyTorch's default: above 1e9 for all of these


def test_functional_activations_and_custom_modules_are_followed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(30, 30) for _ in range(6))
            self.out = nn.Linear(30, 3)

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return nn.functional.log_softmax(self.out(x), -1)

    for data in (None, torch.randn(20, 30)):
        table = critical_(Net(), q_star=0.1, data=data, generator=seeded())
        assert table.method == "analytic"
        assert table.operating_point.activation == "tanh"


def test_mixed_activations_share_one_q_star():
    model = nn.Sequential(
        nn.Linear(20, 60), nn.Tanh(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 60), nn.Linear(60, 4)
    )
    x = torch.randn(300, 20, generator=seeded(1))
    table = critical_(model, q_star=0.3, data=x, generator=seeded())
    assert [c.target for c in table.checks] == [0.3, 0.3, 0.3, None]
    assert table.converged


def test_same_seed_same_draw_and_one_stream_per_name():
    def net(extra):
        layers = [nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4)]
        model = nn.Sequential(*layers)
        if extra:
            model.register_parameter("unused", nn.Parameter(torch.zeros(5, 5)))
        return model

    plain, again, larger = net(False), net(False), net(True)
    for model in (plain, again, larger):
        critical_(model, q_star=0.1, generator=seeded(3))
    for name, value in plain.named_parameters():
        assert torch.equal(value, dict(again.named_parameters())[name])
        assert torch.equal(value, dict(larger.named_parameters())[name])
    other = net(False)
    critical_(other, q_star=0.1, generator=seeded(4))
    assert not torch.equal(plain[0].weight, other[0].weight)
    assert not torch.equal(plain[0].weight, plain[2].weight)


@pytest.mark.parametrize("spec", ["mlp:depth=3", "mlp:depth=3,norm=batch", "lstm", "transformer:depth=1"])
def test_the_global_generator_the_modes_and_the_gradients_are_left_alone(spec):
    model = reference_model(spec, in_shape=(8, 8), classes=4)
    model.eval()
    next(iter(model.children())).train()
    modes = [m.training for m in model.modules()]
    before = torch.random.get_rng_state()
    critical_(model, data=torch.randn(16, 8, 8, generator=seeded()), generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_frozen_parameters_are_skipped_with_the_reason():
    model = reference_model("mlp:depth=3,width=10", in_shape=(10,), classes=3)
    frozen = model.hidden[1].linear.weight.requires_grad_(False)
    before = frozen.clone()
    table = critical_(model, q_star=0.1, generator=seeded())
    assert torch.equal(frozen, before)
    row = table["hidden.1.linear.weight"]
    assert row.action == "skipped"
    assert row.why == "frozen (requires_grad is False), so its value is taken to be meant"


def test_frozen_biases_and_raw_parameters_are_called_frozen():
    model = reference_model("mlp:depth=3,width=10", in_shape=(10,), classes=3)
    model.raw = nn.Parameter(torch.zeros(3, 3), requires_grad=False)  # of which nothing is known either
    for layer in model.hidden:
        layer.linear.requires_grad_(False)
    table = critical_(model, q_star=0.1, generator=seeded())
    names = ["hidden.0.linear.bias", "hidden.2.linear.bias", "raw"]
    assert {(table[n].action, table[n].why) for n in names} == {
        ("skipped", "frozen (requires_grad is False), so its value is taken to be meant")
    }
    assert table["output.weight"].action == "set"


@pytest.mark.parametrize("data", [None, torch.ones(4, 10)])
def test_a_wholly_frozen_model_is_refused(data):
    model = reference_model("mlp:depth=3,width=10", in_shape=(10,), classes=3).requires_grad_(False)
    with pytest.raises(ValueError, match=r"so nothing would be written; call requires_grad_\(True\)"):
        critical_(model, data=data, generator=seeded())


def test_a_table_of_nothing_says_so():
    model = reference_model("mlp:depth=3,width=10", in_shape=(10,), classes=3).requires_grad_(False)
    model.spare = nn.Parameter(torch.zeros(3, 3))
    table = critical_(model, q_star=0.1, generator=seeded())
    assert table.summary == "nothing was written; the table says of each parameter why"


def test_parametrized_weights_are_set_through_their_right_inverse_or_skipped():
    model = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh())
    model.append(nn.Linear(12, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    nn.utils.parametrizations.spectral_norm(model[2])
    before = model[2].parametrizations.weight.original.detach().clone()
    table = critical_(model, q_star=0.2, generator=seeded())
    assert {row.name for row in table.rows} == {name for name, _ in model.named_parameters()}
    actions = {row.name: row.action for row in table.rows}
    assert actions["0.parametrizations.weight.original0"] == "set"
    assert actions["0.parametrizations.weight.original1"] == "set"
    w = model[0].weight.detach().double()
    torch.testing.assert_close(w @ w.T, float((w @ w.T)[0, 0]) * torch.eye(12, dtype=torch.float64), atol=1e-5, rtol=0)
    assert actions["2.parametrizations.weight.original"] == "skipped"
    assert "parametrization cannot be set to this value" in table["2.parametrizations.weight.original"].why
    assert torch.equal(model[2].parametrizations.weight.original, before)


def test_the_table_prints_every_parameter():
    model = reference_model("mlp:depth=3,width=10", in_shape=(10,), classes=3)
    table = critical_(model, q_star=1 / 64, data=torch.randn(50, 10), generator=seeded())
    text = str(table)
    assert all(name in text for name, _ in model.named_parameters())
    assert "orthogonal weights, by theory, tanh: q* = 0.01562, sigma_w = 1.015, sigma_b = 0.00216" in text
    assert "measured on the data: all layers on target" in text
    assert "absorbs the input scale" in text
    plain = table.to_dict()
    assert plain["operating_point"]["q_star"] == 1 / 64


def test_narrow_relu_chains_without_bias_are_rescaled_on_the_data():
    model = reference_model("mlp:depth=60,width=30,activation=relu,bias=false", in_shape=(20,), classes=3)
    x = torch.randn(64, 20, generator=seeded(1))
    table = critical_(model, data=x, generator=seeded())
    assert table.converged
    assert any("rescaled on the data" in note for note in table.notes)
    assert all(v == pytest.approx(0.5, rel=0.05) for v in pre_activations(model, x)[:-1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"q_star": 0.0}, ValueError, "q_star must be a finite number > 0, got 0.0"),
        ({"weights": "haar"}, ValueError, "weights must be one of 'orthogonal', 'gaussian', got 'haar'"),
        ({"method": "magic"}, ValueError, "method must be one of 'auto', 'analytic', 'data', got 'magic'"),
        ({"activation": "tahn"}, ValueError, "unknown activation 'tahn'; did you mean 'tanh'"),
        ({"data": torch.full((2, 10), float("nan"))}, ValueError, "data holds 20 non-finite values"),
        ({"data": torch.zeros(0, 10)}, ValueError, "data is empty"),
        ({"data": [1.0]}, TypeError, "data must be a torch.Tensor, a tuple of tensors or a dict"),
        ({"method": "data"}, ValueError, "data is needed to initialize this model"),
    ],
)
def test_errors_about_options(options, error, message):
    model = reference_model("mlp:depth=2,width=10", in_shape=(10,), classes=3)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error) as caught:
        critical_(model, **options)
    assert message in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_errors_about_the_model():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str; build the model first"):
        critical_("mlp")
    norm = reference_model("mlp:depth=2,norm=layer", in_shape=(10,), classes=3)
    with pytest.raises(ValueError, match=r"data is needed .*'hidden\.0\.norm' \(norm\) is no part of a plain chain"):
        critical_(norm)
    with pytest.raises(ValueError, match=r"method='analytic' does not apply to this model: 'hidden\.0\.norm'"):
        critical_(norm, method="analytic", data=torch.randn(4, 10))
