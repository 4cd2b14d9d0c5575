"""Oracles: torch.func.hessian of the whole loss, J^T H_L J from dense Jacobians, closed forms, and measure.fisher."""

import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from isometry import measure
from isometry._base import MemoryBudgetError
from isometry.measure import _curvature_chunks as curvature_chunks
from tests.measure.fisher_models import case, cases

NAMES = [n for n in cases() if n not in ("two samples", "gru", "lstm")]
# torch 2.13's forward mode is wrong in second order for these layers' normalizations (by 3% to 30%, against differences
# of gradients), or has no rule: differences are the oracle.
NORMALIZED = ("conv1d", "positions", "attention", "merged, samples first", "merged, positions first", "parametrized")
# A padded embedding that is the head too: autograd's derivative is that of the embedding without its padding row.
PADDED = ("tied head", "tied by a function")
CLOSE = 1e-8


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def log_cosh(out, y):
    """A loss of one's own that is not quadratic, and ties the samples together by a root."""
    return ((out - y).cosh().log().sum() + 1).sqrt()


def targets(loss, out):
    if loss == "cross-entropy":
        return torch.randint(0, out.shape[1], (len(out),), generator=gen(1))
    return torch.randn(out.shape, dtype=torch.float64, generator=gen(1)).to(out.dtype)


def cross_entropy(out, y):
    return nn.functional.cross_entropy(out.flatten(0, -2), y.flatten())


FUNCTIONS = {"cross-entropy": cross_entropy, "mse": nn.functional.mse_loss}


def flat_function(model, x, names=None):
    """Outputs as a function of one flat vector, in the order of named_parameters; tied parameters once."""
    values = {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}
    flat = torch.cat([v.flatten() for v in values.values()])

    def f(vector):
        parts = torch.split(vector, [v.numel() for v in values.values()])
        shaped = {n: part.view(v.shape) for (n, v), part in zip(values.items(), parts, strict=True)}
        return functional_call(model, shaped, (x.clone(),))

    return f, flat


def dense(model, x, y, loss, kind="hessian", names=None):
    f, flat = flat_function(model, x, names)
    function = FUNCTIONS.get(loss, loss)
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        if kind == "hessian":
            return hessian(lambda v: function(f(v), y))(flat).detach()
        out = f(flat).detach()
        J = jacrev(f)(flat).detach().reshape(out.numel(), -1)
        H = hessian(lambda o: function(o, y))(out).reshape(out.numel(), out.numel())
        return J.T @ H @ J


def differences(model, x, y, loss):
    """The Hessian from central differences of plain gradients, good to about 1e-8 of its scale."""
    f, flat = flat_function(model, x)

    def gradient(vector):
        vector = vector.clone().requires_grad_()
        return torch.autograd.grad(FUNCTIONS[loss](f(vector), y), vector)[0]

    steps = 1e-5 * torch.eye(len(flat), dtype=torch.float64)
    return torch.stack([(gradient(flat + s) - gradient(flat - s)) / 2e-5 for s in steps])


def assert_close(found, exact, tolerance=CLOSE):
    assert found.shape == exact.shape
    assert float((found - exact).abs().max()) <= tolerance * float(exact.abs().max())


# -- the matrix --


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_network(name, kind):
    """Convolutions, norms, attention, embeddings, tied, reused, unused, raw and parametrized weights."""
    model, x, _ = case(name)
    out = model(x.clone()).detach()
    y = targets("cross-entropy", out)
    found = measure.curvature(model, x, y, kind=kind)
    tolerance = CLOSE
    if kind == "hessian" and name in PADDED:
        f, flat = flat_function(model, x)
        exact = torch.autograd.functional.hessian(lambda v: cross_entropy(f(v), y), flat)
    elif kind == "hessian" and name in NORMALIZED:
        exact, tolerance = differences(model, x, y, "cross-entropy"), 3e-8
    else:
        exact = dense(model, x, y, "cross-entropy", kind)
    assert_close(found.dense(), exact, tolerance)
    assert found.asymmetry < 1e-8
    assert found.value == pytest.approx(float(nn.functional.cross_entropy(out, y)), rel=1e-12)
    v = torch.randn(found.size, 3, dtype=torch.float64, generator=gen(2))
    assert_close(found.matvec(v), exact @ v, tolerance)
    assert_close(found.matvec(v[:, 0]), exact @ v[:, 0], tolerance)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_layers(cell):
    """In float64 and in float32."""
    model, x, _ = case(cell)
    y = targets("cross-entropy", model(x))
    exact = differences(model, x, y, "cross-entropy")
    assert_close(measure.curvature(model, x, y).dense(), exact, 3e-8)
    found = measure.curvature(model.float(), x.float(), y).dense()
    assert_close(found.double(), exact, 1e-4)


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("loss", ["cross-entropy", "mse", log_cosh])
@pytest.mark.parametrize("chunk_bytes", [1, 1_000, 10**9])
def test_losses_and_chunks(loss, kind, chunk_bytes, monkeypatch):
    model, x, _ = case("mlp")
    monkeypatch.setattr(curvature_chunks, "GRAPH_BYTES", chunk_bytes)
    y = targets(loss, model(x))
    found = measure.curvature(model, x, y, loss=loss, kind=kind)
    assert (found.chunk == 1) == (chunk_bytes == 1)
    assert (found.chunk == 6) == (chunk_bytes == 10**9)
    assert_close(found.dense(), dense(model, x, y, loss, kind))
    gradient = torch.autograd.grad(FUNCTIONS.get(loss, loss)(model(x), y), list(model.parameters()))
    assert found.gradient_norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradient)), rel=1e-10)


class Tagger(nn.Module):
    """A label for every position, classes last; and the arguments of a language model."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, tokens, attention_mask=None):
        h = self.embed(tokens)
        if attention_mask is not None:
            h = h * attention_mask.unsqueeze(-1)
        return {"logits": self.out(torch.tanh(self.mix(h) + h.cumsum(1)))}


@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
def test_sequences_with_labels_that_do_not_count(kind, chunk_bytes, monkeypatch):
    """The mean runs over the labels that count, whichever chunk they are in; a chunk may have none."""
    monkeypatch.setattr(curvature_chunks, "GRAPH_BYTES", chunk_bytes)
    torch.manual_seed(0)
    model = Tagger().double()
    tokens, y = torch.randint(0, 7, (4, 5)), torch.randint(0, 3, (4, 5))
    y[0, 2:] = -100
    y[2] = -100
    mask = torch.ones(4, 5).long()
    mask[3, 3:] = 0
    found = measure.curvature(model, {"tokens": tokens, "attention_mask": mask}, y, kind=kind)
    values = {n: p.detach() for n, p in model.named_parameters()}
    flat = torch.cat([v.flatten() for v in values.values()])
    counted = (y != -100) & mask.bool()

    def f(vector):
        parts = torch.split(vector, [v.numel() for v in values.values()])
        shaped = {n: part.view(v.shape) for (n, v), part in zip(values.items(), parts, strict=True)}
        return functional_call(model, shaped, (tokens, mask))["logits"][counted]

    if kind == "hessian":
        exact = hessian(lambda v: cross_entropy(f(v), y[counted]))(flat)
    else:
        J, p = jacrev(f)(flat), f(flat).softmax(-1)
        H = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)) / counted.sum()
        exact = torch.einsum("ncp,ncd,ndq->pq", J, H, J)
    assert_close(found.dense(), exact)


def test_linear_regression_is_the_closed_form():
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.randn(7, 3, dtype=torch.float64, generator=gen())
    for kind in ("hessian", "gauss-newton"):
        found = measure.curvature(model, x, torch.zeros(7, 1, dtype=torch.float64), loss="mse", kind=kind)
        assert torch.allclose(found.dense(), 2 / 7 * x.T @ x, rtol=1e-12)


def test_gauss_newton_is_the_fisher_matrix():
    """The exact trace and spectrum come from another machinery, the dual's Gram matrix."""
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x))
    fisher = measure.fisher(model, x)
    found = measure.curvature(model, x, y, kind="gauss-newton")
    assert float(found.dense().trace()) == pytest.approx(fisher.trace, rel=1e-10)
    assert torch.allclose(found.top(2).eigenvalues, fisher.eigenvalues()[:2], rtol=1e-9)
    for method, tolerance in (("hutchinson", 0.05), ("hutch++", 0.02), ("xtrace", 0.02)):
        trace = found.trace(method, tolerance=tolerance, max_probes=400, generator=gen())
        assert trace.converged
        assert abs(trace.value - fisher.trace) < 4 * trace.stderr + 1e-9 * fisher.trace
    gaussian = measure.fisher(model, x, likelihood="gaussian")
    squares = measure.curvature(model, x, torch.zeros(6, 4).double(), loss="mse", kind="gauss-newton")
    assert float(squares.dense().trace()) == pytest.approx(2 / 4 * gaussian.trace, rel=1e-10)


# -- what is asked of it --


@pytest.fixture(scope="module")
def measured():
    model, x, _ = case("residual, in place")
    y = targets("cross-entropy", model(x))
    return measure.curvature(model, x, y), dense(model, x, y, "cross-entropy")


def test_extremes(measured):
    found, exact = measured
    values = torch.linalg.eigvalsh(exact)
    top, bottom = found.top(3), found.bottom(2)
    assert top.converged
    assert bottom.converged
    assert torch.allclose(top.eigenvalues, values.flip(0)[:3], atol=1e-9)
    assert torch.allclose(bottom.eigenvalues, values[:2].flip(0), atol=1e-9)
    assert float(bottom.eigenvalues[-1]) < 0
    assert bool((top.residuals < 1e-7).all())
    assert torch.equal(found.top(3).eigenvalues, top.eigenvalues)  # the same start every time


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_trace(measured, method):
    found, exact = measured
    result = found.trace(method, tolerance=0.2 if method == "hutchinson" else 0.02, max_probes=1000, generator=gen())
    assert result.converged
    assert abs(result.value - float(exact.trace())) < 4 * result.stderr + 1e-9
    assert result.method == method
    assert not found.trace(method, tolerance=1e-12, max_probes=9, generator=gen()).converged or method != "hutchinson"


def test_diagonal(measured):
    found, exact = measured
    result = found.diagonal(tolerance=0.2, max_probes=2000, generator=gen())
    assert result.converged
    spread = (exact.square().sum(1) - exact.diagonal().square()).sqrt() / result.probes**0.5
    assert bool(((result.values - exact.diagonal()).abs() <= 5 * spread + 1e-12).all())
    parts = found.split(result.values)
    assert list(parts) == list(found.parameter_names)
    assert parts["a.weight"].shape == (5, 5)


def test_spectral_density(measured):
    found, exact = measured
    result = found.spectral_density(steps=40, probes=30, generator=gen())
    values = torch.linalg.eigvalsh(exact)
    assert result.converged
    assert abs(result.mean - float(values.mean())) < 4 * result.mean_stderr
    assert abs(result.mean_square - float(values.square().mean())) < 4 * result.mean_square_stderr
    negative, error = result.fraction(high=-1e-3)
    assert abs(negative - float((values < -1e-3).double().mean())) < 4 * error
    assert result.lowest == pytest.approx(float(values[0]), rel=1e-6)
    width = result.width
    smooth = (-0.5 * ((result.grid[:, None] - values) / width) ** 2).exp().mean(1) / (width * (2 * math.pi) ** 0.5)
    assert bool(((result.density - smooth).abs() < 5 * result.stderr + 1e-3 * float(smooth.max())).all())


def test_printing_and_plain_data(measured):
    found, _ = measured
    text = str(found)
    assert "Hessian of the cross-entropy loss in 73 parameters (all) at 5 samples" in text
    assert "the whole batch at once" in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["kind"] == "hessian"
    assert plain["size"] == 73
    assert "_setup" not in plain


def test_the_graph_is_kept_for_a_method_and_dropped_after_it(monkeypatch):
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x))
    found = measure.curvature(model, x, y)
    calls = []
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    found.trace(tolerance=1e-9, max_probes=50, generator=gen())
    found.top(1)
    assert len(calls) == 2
    assert found._products._kept is None
    v = torch.ones(found.size, dtype=torch.float64)
    first = found.matvec(v, keep_graph=True)
    assert torch.equal(found.matvec(v, keep_graph=True), first)
    found.top(1)
    assert len(calls) == 3
    handle.remove()
    with torch.no_grad():
        model[0].weight += 0.1
    with pytest.raises(RuntimeError, match=r"changed since this curvature was measured; measure it again"):
        found.matvec(v)


def test_vectors_through_a_small_graph_at_once_or_in_turn(monkeypatch):
    """Where torch has no batching rule (a convolution's second derivative fails in torch 2.13), it goes in turn."""
    from isometry.measure import _curvature_graph as graphs

    for name, params in (("mlp", "all"), ("cnn", ("0.*", "2.*", "3.bias"))):
        model, x, _ = case(name)
        y = targets("cross-entropy", model(x))
        names = measure.curvature(model, x, y, params=params).parameter_names
        exact = dense(model, x, y, "cross-entropy", names=names)
        for limit in (0, 10**9):
            monkeypatch.setattr(graphs, "_TOGETHER_BYTES", limit)
            assert_close(measure.curvature(model, x, y, params=params).dense(), exact)


def test_a_wrong_batching_rule_is_noticed(monkeypatch):
    """The first batch is compared with a pass of its own."""
    from isometry.measure import _curvature_graph as graphs

    right = graphs._batched
    monkeypatch.setattr(graphs, "_batched", lambda *a: [2 * g for g in right(*a)])
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x))
    assert_close(measure.curvature(model, x, y).dense(), dense(model, x, y, "cross-entropy"))


# -- the batch, the modes, the parameters --


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention"])
def test_order_of_the_batch_and_one_sample(name):
    model, x, _ = case(name)
    y = targets("cross-entropy", model(x))
    order = torch.randperm(len(x), generator=gen(4))
    found, permuted = measure.curvature(model, x, y), measure.curvature(model, x[order], y[order])
    v = torch.randn(found.size, dtype=torch.float64, generator=gen(5))
    assert_close(permuted.matvec(v), found.matvec(v), 1e-10)
    singles = [measure.curvature(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert singles[0].chunk == 1
    assert_close(sum(s.matvec(v) for s in singles) / len(x), found.matvec(v), 1e-10)


def batch_norm_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_batch_norm_in_training_mode_is_differentiated_with_its_statistics(monkeypatch):
    model = batch_norm_model()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    monkeypatch.setattr(curvature_chunks, "GRAPH_BYTES", 1)  # would divide the batch if it could be
    mean = model[1].running_mean.clone()
    found = measure.curvature(model, x, y)
    assert found.chunk == 6
    assert found.mixing == ("1 (BatchNorm1d) uses the batch's statistics",)
    assert "samples influence each other: 1 (BatchNorm1d)" in str(found)
    exact = differences(batch_norm_model(), x, y, "cross-entropy")
    for _ in range(2):
        assert_close(found.dense(), exact, 3e-8)
    assert found.top(1).converged
    assert torch.equal(model[1].running_mean, mean)
    model.eval()
    with pytest.raises(RuntimeError, match=r"parameters, buffers or modes have changed"):
        found.top(1)
    evaluated = measure.curvature(model, x, y)
    assert evaluated.mixing == ()
    assert_close(evaluated.dense(), dense(model, x, y, "cross-entropy"))
    assert float((evaluated.dense() - exact).abs().max()) > 0.01 * float(exact.abs().max())


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x):
        return torch.tanh(self.net(x)) - torch.tanh(self.net(x)).mean(0)


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x):
        return torch.tanh(self.net(x.view(6, 4)))


@pytest.mark.parametrize("kind", [Centred, FixedBatch])
def test_batches_that_no_module_names_as_indivisible(kind, monkeypatch):
    torch.manual_seed(0)
    model = kind().double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    monkeypatch.setattr(curvature_chunks, "GRAPH_BYTES", 400)
    found = measure.curvature(model, x, y)
    assert found.mixing == (
        ("outputs depend on which samples are in the batch",)
        if kind is Centred
        else ("the model takes no smaller batch",)
    )
    assert found.chunk == 6
    assert_close(found.dense(), dense(model, x, y, "cross-entropy"))


def test_frozen_parameters_are_measured_and_params_narrows():
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x))
    whole = measure.curvature(model, x, y).dense()
    model[0].requires_grad_(False)
    frozen = measure.curvature(model, x, y)
    assert torch.equal(frozen.dense(), whole)
    assert not model[0].weight.requires_grad
    model.requires_grad_(False)
    assert torch.equal(measure.curvature(model, x, y).dense(), whole)
    some = measure.curvature(model, x, y, params=["2.*"])
    assert some.parameter_names == ("2.weight", "2.bias")
    assert_close(some.dense(), dense(model, x, y, "cross-entropy", names=some.parameter_names))
    hidden = measure.curvature(model, x, y, params="hidden")
    assert hidden.parameter_names == ("0.weight", "0.bias", "2.weight", "2.bias")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_under_modes_that_record_nothing(mode):
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x).detach())
    exact = measure.curvature(model, x, y).dense()
    with mode():
        found = measure.curvature(model, x.clone(), y.clone())
        assert torch.equal(found.dense(), exact)
        assert found.top(1).converged
        assert found.trace(tolerance=1.0, generator=gen()).probes >= 8


def test_compiled_models_run_as_they_were_written():
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x).detach())
    exact = measure.curvature(model, x, y).dense()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    assert torch.equal(measure.curvature(compiled, x, y).dense(), exact)
    assert not graphs
    compiled(x)  # goes on to be compiled
    assert graphs


def test_sparse_gradients_are_made_dense_for_the_measurement():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randint(0, 5, (4, 2)), torch.arange(4) % 3
    found = measure.curvature(model, x, y).dense()
    assert model[0].sparse
    model[0].sparse = False  # the oracle needs it, too
    assert_close(found, dense(model, x, y, "cross-entropy"))


def test_unused_parameters_are_listed():
    model, x, _ = case("raw parameters")
    found = measure.curvature(model, x, targets("cross-entropy", model(x)))
    assert found.unused == ("unused",)
    assert "without influence on the output: unused" in str(found)


def test_half_precision_weights():
    """bfloat16 keeps 8 bits: products err by about 2^-8 times a small factor per layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).bfloat16()
    x, y = torch.randn(20, 6).bfloat16(), torch.arange(20) % 3
    found = measure.curvature(model, x, y)
    assert found.dtype == torch.bfloat16
    single = measure.curvature(model.float(), x.float(), y)  # the same values, as floats
    exact = single.dense()
    model.bfloat16()
    found = measure.curvature(model, x, y)
    v = torch.randn(found.size, generator=gen())
    product = found.matvec(v)
    assert product.dtype == torch.float32
    assert float((product - exact @ v).norm() / (exact @ v).norm()) < 0.03
    top = found.top(1)
    assert float(top.eigenvalues[0]) == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=0.05)
    assert found.trace(generator=gen()).dtype == torch.float32


def test_budget():
    model, x, _ = case("mlp")
    y = targets("cross-entropy", model(x))
    found = measure.curvature(model, x, y)
    with pytest.raises(MemoryBudgetError, match=r"dense matrix of 89 x 89.*\.top\(k\).*form no matrix"):
        found.dense(budget=100_000)
    assert measure.curvature(model, x, y, budget=1_000).chunk < 6
    with pytest.raises(MemoryBudgetError, match=r"the graph of 1 sample needs.*Pass smaller samples"):
        measure.curvature(model, x, y, budget=10)
    with pytest.raises(MemoryBudgetError, match=r"the graph of 6 samples, which influence each other, needs"):
        measure.curvature(batch_norm_model(), x, torch.arange(6) % 3, budget=100)
