"""Oracles: torch's dense Jacobian row by row, the paper's product of matrices written out, and closed forms."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev, vmap
from torch.nn import functional

from isometry import measure
from isometry._base import MemoryBudgetError
from isometry.measure import _jacobian_chain, _jacobian_dense


def mlp(sizes=(5, 6, 4, 3), activation=nn.Tanh, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b), activation()] if i < len(sizes) - 2 else [nn.Linear(a, b)]
    return nn.Sequential(*layers).to(dtype)


def batch(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def dense(model, x):
    """One input and one output at a time."""
    rows = [torch.autograd.functional.jacobian(lambda v: model(v[None])[0], sample) for sample in x]
    return torch.stack(rows).reshape(len(x), -1, x[0].numel())


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


class Softmaxed(nn.Module):
    """Keeps its input's shape and has no parameters, but is not elementwise."""

    def forward(self, x):
        return functional.softmax(x, dim=-1)


def models():
    torch.manual_seed(2)
    batched = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval()
    batched[1].running_mean.uniform_()
    batched[1].running_var.uniform_(0.5, 2)
    scaled = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    branch = nn.Sequential(nn.Tanh(), nn.Linear(4, 4))
    chains = {
        "mlp": (mlp(), (5,)),
        "deep in place": (mlp((4, 5, 5, 6), lambda: nn.ReLU(inplace=True)), (4,)),
        "no bias, widening": (nn.Sequential(nn.Linear(3, 8, bias=False), nn.GELU(), nn.Linear(8, 7)), (3,)),
        "slopes first and last": (nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.PReLU()), (4,)),
        "images": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout(), nn.SiLU()).eval(), (3, 4)),
        "nested": (nn.Sequential(nn.Sequential(nn.Identity(), nn.Linear(4, 6)), nn.Sequential(nn.ELU())), (4,)),
        "parametrized": (nn.Sequential(scaled, nn.Tanh(), nn.Linear(6, 2)), (4,)),
        "batch norm, evaluated": (batched, (5,)),
    }
    graphs = {
        "softmax is not elementwise": (nn.Sequential(nn.Linear(4, 5), Softmaxed(), nn.Linear(5, 3)), (4,)),
        "layer norm": (nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)), (5,)),
        "plain norm": (nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, elementwise_affine=False)), (4,)),
        "residual": (nn.Sequential(nn.Linear(4, 4), Residual(branch)), (4,)),
        "convolution": (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)), (2, 4, 4)),
        "convolution, widening": (nn.Sequential(nn.Conv1d(1, 4, 3), nn.Tanh()), (1, 6)),
        "no matrix at all": (nn.Tanh(), (4,)),
        "attention": (nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), (3, 4)),
    }
    table = {name: (*case, True) for name, case in chains.items()}
    return table | {name: (*case, False) for name, case in graphs.items()}


@pytest.mark.parametrize("name", models())
def test_everything_against_rows_of_autograd(name):
    model, shape, chain = models()[name]
    model = model.double()
    x = batch(4, *shape)
    expected = dense(model, x)
    jac = measure.jacobian(model, x)
    assert jac.is_chain == chain
    assert jac.shape == tuple(expected.shape[1:])
    assert jac.in_shape == shape
    assert torch.allclose(jac.matrix(), expected, atol=1e-12)
    assert torch.allclose(jac.singular_values(), torch.linalg.svdvals(expected), atol=1e-12)
    v, u = batch(4, *shape, seed=5), batch(4, *jac.out_shape, seed=6)
    image = torch.einsum("noi,ni->no", expected, v.flatten(1))
    assert torch.allclose(jac.matvec(v).flatten(1), image, atol=1e-12)
    assert jac.matvec(v.flatten(1)).shape == (4, *jac.out_shape)
    back = torch.einsum("noi,no->ni", expected, u.flatten(1))
    assert torch.allclose(jac.rmatvec(u).flatten(1), back, atol=1e-12)
    route = jac.spectrum().route
    assert route == f"{'chain' if chain else 'graph'}, {'forward' if jac.shape[1] < jac.shape[0] else 'reverse'}"


def test_paths_between_modules_are_what_the_docstring_says():
    model, x = mlp((5, 6, 4, 3)), batch(3, 5)
    w = [m.weight.detach() for m in model if isinstance(m, nn.Linear)]
    h1 = model[0](x)
    x1 = h1.tanh()
    h2 = model[2](x1)
    d1 = torch.diag_embed(1 - h1.tanh() ** 2)
    d2 = torch.diag_embed(1 - h2.tanh() ** 2)

    def path(start, stop):
        return measure.jacobian(model, x, start=start, stop=stop).matrix()

    assert torch.allclose(path("0", "2"), w[1] @ d1)  # from h^1 to h^2: W^2 D^1
    assert torch.allclose(path("1", "3"), d2 @ w[1])  # from x^1 to x^2: D^2 W^2
    assert torch.allclose(path("0", None), w[2] @ d2 @ w[1] @ d1)
    assert torch.allclose(path(None, "1"), d1 @ w[0])
    assert torch.allclose(path(None, "0"), w[0].expand(3, -1, -1))


@pytest.mark.parametrize("inplace", [False, True])
def test_ends_beside_modules_that_work_in_place(inplace):
    model, x = mlp((4, 5, 5, 6), lambda: nn.ReLU(inplace=inplace)), batch(3, 4)
    w = [m.weight.detach() for m in model if isinstance(m, nn.Linear)]
    d1 = torch.diag_embed((model[0](x) > 0).double())
    at_linear = measure.jacobian(model, x, start="0", stop="2")  # module 3 overwrites the output of 2
    assert torch.allclose(at_linear.matrix(), w[1] @ d1)
    assert at_linear.is_chain
    d2 = torch.diag_embed((model[:3](x) > 0).double())
    assert torch.allclose(measure.jacobian(model, x, start="0", stop="3").matrix(), d2 @ w[1] @ d1)


def test_containers_as_ends():
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))).double()
    x = batch(3, 4)
    jac = measure.jacobian(blocks, x, start="0", stop="2")
    assert jac.is_chain
    assert torch.allclose(jac.matrix(), dense(blocks[1:3], blocks[0](x).detach()))


def test_start_behind_an_embedding():
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 4)).double()
    tokens = torch.arange(8).reshape(4, 2)
    jac = measure.jacobian(model, tokens, start="0")
    assert jac.in_shape == (2, 3)
    assert torch.allclose(jac.matrix(), model[2].weight.detach().expand(4, -1, -1))
    with pytest.raises(
        ValueError, match=r"x has dtype torch.int64, so nothing can be differentiated .* name the module"
    ):
        measure.jacobian(model, tokens)


def test_orthogonal_linear_net_is_an_isometry():
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(50)))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    spectrum = measure.jacobian(model, batch(2, 20, dtype=torch.float32)).spectrum()
    assert torch.allclose(spectrum.values, torch.ones(2, 20, dtype=torch.float64), atol=1e-5)
    assert spectrum.mean_square.tolist() == pytest.approx([1, 1], abs=1e-5)
    assert spectrum.variance.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert spectrum.condition.tolist() == pytest.approx([1, 1], abs=1e-4)


def test_small_singular_values_survive():
    """Graded diagonal layers: forming J^T J, or decomposing in float32, would lose everything below 3e-4 or 1e-7."""
    grades = 10.0 ** -torch.arange(0, 16, 2, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.diag(grades.sqrt()))
    values = measure.jacobian(model, torch.zeros(1, 8)).singular_values()[0]
    assert torch.allclose(values, grades, rtol=1e-5)


def test_no_worse_than_float32_autograd_at_small_singular_values():
    model = mlp([30] * 40, dtype=torch.float32)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain=1.1)
    x = batch(4, 30, dtype=torch.float32)
    exact = torch.linalg.svdvals(dense(model.double(), x.double()))
    model.float()
    sure = exact > 1e-5 * exact[:, :1]  # below, both are noise: s_max times the epsilon is 1e-7 s_max

    def error(values):
        return (values[sure] / exact[sure] - 1).square().mean().sqrt()

    ours = error(measure.jacobian(model, x).singular_values())
    theirs = error(torch.linalg.svdvals(dense(model, x)).double())
    assert ours <= 2 * theirs
    assert error(measure.jacobian(model, x, dtype=torch.float64).singular_values()) < ours / 5


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6),
    st.integers(1, 7),
    st.sampled_from([nn.Tanh, nn.ReLU, nn.Identity, nn.Softsign]),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_any_widths_and_scales(sizes, samples, activation, scale):
    model, x = mlp(sizes, activation), batch(samples, sizes[0])
    with torch.no_grad():
        model[0].weight.mul_(scale)
    expected = dense(model, x)
    jac = measure.jacobian(model, x)
    assert jac.is_chain
    assert torch.allclose(jac.matrix(), expected, atol=1e-12 * scale)


def test_blocks_and_chunks_change_nothing(monkeypatch):
    model, x = mlp((5, 6, 4, 7)), batch(6, 5)
    whole = measure.jacobian(model, x)
    monkeypatch.setattr(_jacobian_chain, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(_jacobian_chain, "_LEAST_ROWS", 1)
    one = 5 * 7 * (2 * 8 + 24) + _jacobian_dense.sweep_bytes((7, 5), 7, 1, 8)
    for budget in (one, 2 * one, 5 * one):
        parts = measure.jacobian(model, x, budget=budget)
        assert torch.allclose(parts.singular_values(), whole.singular_values(), atol=1e-13)
        assert parts.spectrum().cost.bytes <= budget


def test_sweeps_of_a_graph_change_nothing(monkeypatch):
    model, shape, _ = models()["convolution"]
    model, x = model.double(), batch(3, *shape)
    whole = measure.jacobian(model, x).matrix()
    monkeypatch.setattr(_jacobian_dense, "_SWEEP_BYTES", 3 * 32 * 8 * 2)
    assert torch.allclose(measure.jacobian(model, x).matrix(), whole, atol=1e-13)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.cat([x, x], 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        return cotangent.chunk(2, 1)[0] + cotangent.chunk(2, 1)[1]


class Doubled(nn.Module):
    def forward(self, x):
        return OnceDifferentiable.apply(x)


def test_operations_without_batching_or_second_derivatives():
    """A custom function without vmap support: direction by direction, and in reverse although forward were cheaper."""
    model, x = nn.Sequential(nn.Linear(3, 4), Doubled()).double(), batch(2, 3)
    jac = measure.jacobian(model, x)
    weight = model[0].weight.detach()
    assert torch.allclose(jac.matrix(), torch.cat([weight, weight]).expand(2, -1, -1))
    assert jac.spectrum().route == "graph, reverse"
    with pytest.raises(NotImplementedError, match=r"has no second derivative .* need only the first"):
        jac.matvec(x)
    assert jac.rmatvec(batch(2, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["mlp", "residual", "no bias, widening"])
def test_extremes_against_the_spectrum(name):
    model, shape, _ = models()[name]
    x = batch(3, *shape)
    jac = measure.jacobian(model.double(), x)
    found = jac.extremes(generator=torch.Generator().manual_seed(0))
    spectrum = jac.spectrum()
    assert found.converged
    assert torch.allclose(found.s_max, spectrum.s_max)
    assert torch.allclose(found.s_min, spectrum.s_min, atol=1e-9)
    assert found.residuals.max() < 1e-7
    assert found.cost.matvecs > 0
    largest = jac.extremes(which="largest", count=2)
    assert torch.allclose(largest.values, spectrum.values[:, :2])
    assert "matrix-free" in str(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    model, x = mlp(dtype=dtype), batch(3, 5, dtype=dtype)
    jac = measure.jacobian(model, x)
    assert jac.dtype == torch.float32  # of a chain's products
    exact = dense(model.double(), x.double())
    model.to(dtype)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 0.1}[dtype]
    assert torch.allclose(measure.jacobian(model, x).matrix().double(), exact, atol=tolerance)
    assert jac.spectrum().values.dtype == torch.float64


def test_spectrum_knows_itself():
    model, x = mlp((8, 9, 9, 6), dtype=torch.float32), batch(5, 8, dtype=torch.float32)
    jac = measure.jacobian(model, x, stop="2")
    assert "not computed yet" in str(jac)
    spectrum = jac.spectrum()
    assert jac.spectrum() is spectrum
    assert spectrum.converged
    assert spectrum.residual < 1e-12
    assert spectrum.cost.bytes > 0
    assert spectrum.cost.backward_passes == 8
    assert spectrum.resolution.tolist() == pytest.approx((spectrum.s_max * 2**-23 * 3).tolist())
    text = str(jac)
    assert "from the input to 2, 9 x 8, by chain, forward" in text
    assert "medians over 5 inputs" in text
    plain = json.loads(json.dumps(spectrum.to_dict()))
    assert len(plain["values"]) == 5
    zero = mlp()
    nn.init.zeros_(zero[2].weight)
    dead = measure.jacobian(zero, batch(2, 5)).spectrum()
    assert dead.s_max.tolist() == [0, 0]
    assert dead.converged


def test_a_changed_model_is_refused():
    model, x = mlp(), batch(3, 5)
    jac = measure.jacobian(model, x)
    kept = jac.singular_values()
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert jac.singular_values() is kept
    with pytest.raises(RuntimeError, match="parameters have changed since this Jacobian was asked for; call measure"):
        jac.matrix()
    measure.jacobian(model, x).matrix()


def test_budget_is_refused_beforehand():
    model, x = mlp(), batch(3, 5)
    with pytest.raises(MemoryBudgetError, match=r"singular values of one 3 x 5 Jacobian needs .* Use .extremes\(\)"):
        measure.jacobian(model, x, budget=100).singular_values()
    with pytest.raises(MemoryBudgetError, match=r"3 dense Jacobians of 3 x 5 needs .* which form no matrix"):
        measure.jacobian(model, x, budget=100).matrix()
    wide = nn.Sequential(nn.Linear(20000, 4, bias=False), nn.Linear(4, 20000, bias=False))
    jac = measure.jacobian(wide, torch.randn(1, 20000), budget=2**20)
    with pytest.raises(MemoryBudgetError):
        jac.singular_values()
    exact = torch.linalg.svdvals(wide[1].weight.detach() @ torch.linalg.qr(wide[0].weight.detach().T)[1].T)[0]
    assert jac.extremes(which="largest").s_max.item() == pytest.approx(exact.item(), rel=1e-4)


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class FunctionalDropout(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, self.training)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.unused, self.table = nn.Linear(5, 5), nn.Linear(5, 5), nn.LSTM(5, 5)

    def forward(self, x):
        return self.layer(self.layer(self.table(x[None])[0][0]))


def chained(*modules):
    return nn.Sequential(nn.Linear(5, 5), *modules, nn.Linear(5, 2)).double()


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (3, {}, TypeError, r"model must be a torch.nn.Module, got int"),
        (mlp(), {"start": "O"}, ValueError, r"unknown module for start: 'O'"),
        (chained(), {"stop": "2"}, ValueError, r"unknown module for stop: '2'; known names: 0, 1"),
        (mlp(), {"start": 0}, TypeError, "start must be a module's qualified name, got int; pass a string"),
        (mlp(), {"start": "1", "stop": "1"}, ValueError, "start and stop are both '1'; name two modules"),
        (
            mlp(),
            {"start": "2", "stop": "1"},
            ValueError,
            "output of stop '1' does not depend on the output of start '2'",
        ),
        (Reused().double(), {"start": "layer"}, ValueError, "start 'layer' was called 2 times in the forward pass"),
        (Reused().double(), {"stop": "unused"}, ValueError, "stop 'unused' was not called in the forward pass"),
        (Reused().double(), {"start": "table"}, TypeError, "start 'table' returns tuple, not one real-valued tensor"),
        (chained(nn.BatchNorm1d(5)), {}, ValueError, r"Jacobian of one input is undefined here: '1' \(BatchNorm1d\)"),
        (chained(nn.Dropout()), {"training": True}, ValueError, "drops units at random. Pass training=False"),
        (chained(Mixing()), {}, ValueError, "samples influence each other: the first one's output depends"),
        (chained(FunctionalDropout()), {}, ValueError, "model is random: two passes over the same inputs differ"),
        (chained(), {"dtype": torch.float16}, ValueError, r"dtype must be torch.float32 or torch.float64, got"),
        (chained(Residual(nn.Tanh())), {"dtype": torch.float32}, ValueError, "this path is no chain of linear layers"),
    ],
)
def test_refusals(model, options, error, message):
    with pytest.raises(error, match=message):
        measure.jacobian(model, batch(3, 5), **options)


def test_evaluation_mode_is_a_way_out():
    for module in (nn.BatchNorm1d(5), nn.Dropout(), FunctionalDropout()):
        model = chained(module).train()
        assert measure.jacobian(model, batch(3, 5), training=False).matrix().shape == (3, 2, 5)
        assert model.training


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1.0], TypeError, "x must be a torch.Tensor.*got list"),
        (batch(0, 5), ValueError, "x is empty"),
        (batch(3, 6), ValueError, r"raised RuntimeError on x of shape \(3, 6\)"),
        (batch(3, 5).float(), ValueError, r"pass x.to\(torch.float64\)"),
        (torch.full((3, 5), math.inf), ValueError, "x holds 15 non-finite values"),
    ],
)
def test_bad_inputs(x, error, message):
    with pytest.raises(error, match=message):
        measure.jacobian(mlp(), x)


def test_overflow_is_named():
    model = mlp((5, 6, 6, 3), nn.Identity, dtype=torch.float32)
    with torch.no_grad():
        for i in (0, 2, 4):
            model[i].weight.mul_(1e20)
    with pytest.raises(ValueError, match=r"the Jacobian at input 0 is not finite; measure.signal says in which layer"):
        measure.jacobian(model, torch.zeros(2, 5)).singular_values()


@pytest.mark.parametrize(("what", "shape"), [("matvec", (3, 4)), ("rmatvec", (2, 3))])
def test_bad_vectors(what, shape):
    with pytest.raises(ValueError, match="one vector per input, got"):
        getattr(measure.jacobian(mlp(), batch(3, 5)), what)(torch.zeros(shape))


class Between(nn.Module):
    """Works on the very tensor that one module hands to the next."""

    def __init__(self):
        super().__init__()
        self.a, self.phi, self.b = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)

    def forward(self, x):
        h = self.a(x)
        h.mul_(3.0)
        return self.b(self.phi(h))


def test_work_in_place_between_modules_is_seen():
    torch.manual_seed(0)
    model, x = Between().double(), batch(3, 5)
    found = measure.jacobian(model, x)
    wanted = vmap(jacrev(lambda v: model.b(torch.tanh(3 * model.a(v)))))(x)
    assert not found.is_chain
    assert torch.allclose(found.matrix(), wanted, atol=1e-12)


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_products_beyond_the_range_of_float32(gain):
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(40) for m in (nn.Linear(6, 6, bias=False), nn.Identity())])
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=gain)
    found = measure.jacobian(model, torch.zeros(2, 6)).singular_values()  # gain^40: 1e-120 and 1e120
    assert torch.allclose(found.log10(), torch.full((2, 6), 40 * math.log10(gain), dtype=torch.float64), atol=1e-4)


def test_a_part_of_the_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    x = torch.randn(3, 4)
    whole = measure.jacobian(model, x, start="0")
    part = measure.jacobian(model, x, start="0", part=lambda out: out[:, 1:3])
    assert part.shape == (2, 6)
    assert torch.allclose(part.matrix(), whole.matrix()[:, 1:3], atol=1e-6)
    assert torch.allclose(part.singular_values()[:, 0], part.extremes(which="largest").s_max.double(), rtol=1e-3)
    u = torch.randn(3, 2)
    padded = torch.zeros(3, 5)
    padded[:, 1:3] = u
    assert torch.allclose(part.rmatvec(u), whole.rmatvec(padded), atol=1e-6)
    inner = measure.jacobian(model, x, stop="0", part=lambda out: out.square())  # any function of it
    assert torch.allclose(inner.matrix(), 2 * model[0](x).detach().unsqueeze(2) * model[0].weight, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (lambda out: out.argmax(1), TypeError, "part must return a real-valued tensor, got one of torch.int64"),
        (lambda out: [out], TypeError, "part must return a real-valued tensor, got list"),
        (lambda out: out[0], ValueError, r"part returned shape \(5,\) for 3 inputs; keep the first dimension"),
        (lambda out: out[:, :0], ValueError, "and at least one element of each input"),
        (lambda out: out.detach(), ValueError, "does not depend on the model's input"),
    ],
)
def test_parts_that_are_none(part, error, message):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    with pytest.raises(error, match=message):
        measure.jacobian(model, torch.randn(3, 4), part=part)


class AlwaysNoisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(("model", "advice"), [(Mixing(), "measure one input"), (AlwaysNoisy(), "fix the noise")])
def test_a_model_in_evaluation_mode_is_not_told_to_go_there(model, advice):
    model, x = chained(model), torch.randn(6, 5, dtype=torch.float64)
    for training in (None, False):
        with pytest.raises(ValueError, match=f"It is in evaluation mode already: .*{advice}"):
            measure.jacobian(model.eval(), x, training=training)
    with pytest.raises(ValueError, match="Pass training=False"):
        measure.jacobian(model.train(), x, training=None)
