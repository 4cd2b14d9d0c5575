"""The Fisher spectrum against its definition, closed forms and invariances."""

import copy
import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry import measure
from isometry._base import MemoryBudgetError
from tests.measure.fisher_models import Overwriting, case, cases
from tests.measure.fisher_oracle import check_spectrum, dense_empirical, dense_fisher, jacobians, spectrum

NAMES = list(cases())


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_spectrum_is_that_of_the_definition(name):
    model, x, general = case(name)
    f = measure.fisher(model, x)
    assert sorted(f.general) == sorted(general)
    check_spectrum(f.eigenvalues(), dense_fisher(model, x))
    assert f.residual < 1e-12
    assert f.lambda_max == float(f.eigenvalues()[0])
    assert f.trace == pytest.approx(float(dense_fisher(model, x).trace()), rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied head", "gru", "merged, positions first"])
def test_gaussian_and_empirical_spectra_are_those_of_their_definitions(name):
    model, x, _ = case(name)
    out = model(x.clone()).detach()
    gaussian = measure.fisher(model, x, likelihood="gaussian")
    check_spectrum(gaussian.eigenvalues(), dense_fisher(model, x, "gaussian"))
    labels = torch.arange(len(x)) % out.shape[1]
    empirical = measure.fisher(model, x, targets=labels, kind="empirical")
    residuals = out.softmax(1) - nn.functional.one_hot(labels, out.shape[1])
    check_spectrum(empirical.eigenvalues(), dense_empirical(model, x, residuals))
    values = torch.randn_like(out)
    regression = measure.fisher(model, x, targets=values, kind="empirical", likelihood="gaussian")
    check_spectrum(regression.eigenvalues(), dense_empirical(model, x, out - values))


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_products_agree_with_the_dense_matrix(name):
    model, x, _ = case(name)
    f = measure.fisher(model, x)
    dense = dense_fisher(model, x)
    vector = torch.randn(f.size, dtype=torch.float64)
    for keep in (False, True, True):
        product = f.matvec(vector, keep_graph=keep)
        assert ("products" in f._cache) is keep
        allowed = 1e-10 * float(spectrum(dense)[0]) * float(vector.norm())
        assert torch.allclose(product, dense @ vector, rtol=0, atol=allowed)
    start = 0
    blocks = {}
    for parameter, value in model.named_parameters():
        blocks.setdefault(f._setup.plan.group_of(parameter), []).extend(range(start, start + value.numel()))
        start += value.numel()
    layers = f.per_layer()
    assert [layer.name for layer in layers] == list(blocks)
    for layer in layers:
        block = dense[blocks[layer.name]][:, blocks[layer.name]]
        wanted = spectrum(block)[: len(layer.eigenvalues)]
        assert torch.allclose(layer.eigenvalues, wanted, rtol=0, atol=1e-10 * f.lambda_max)
    assert sum(layer.trace for layer in layers) == pytest.approx(f.trace, rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied head", "gru", "reused and tied"])
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_matrix_free_agrees_with_dense(name, likelihood):
    model, x, _ = case(name)
    dense = measure.fisher(model, x, likelihood=likelihood)
    free = measure.fisher(model, x, likelihood=likelihood, dense=False)
    top = free.top(2)
    assert top.converged
    assert torch.allclose(top.eigenvalues, dense.eigenvalues()[:2], rtol=1e-7)
    assert free.trace == pytest.approx(dense.trace, rel=1e-10)
    assert free.effective_rank == pytest.approx(dense.effective_rank, rel=1e-7)
    assert "matrix-free" in str(free)
    with pytest.raises(RuntimeError, match=r"matrix-free .*use \.top\(k\)"):
        free.eigenvalues()


def test_matrix_free_handles_empirical_and_drawn_rows():
    model, x, _ = case("mlp")
    for options in ({"kind": "empirical", "targets": torch.tensor([0, 1, 2, 3, 0, 1])}, {"kind": "monte-carlo"}):
        dense = measure.fisher(model, x, **options, generator=torch.Generator().manual_seed(1))
        free = measure.fisher(model, x, **options, dense=False, generator=torch.Generator().manual_seed(1))
        assert float(free.top(1).eigenvalues[0]) == pytest.approx(dense.lambda_max, rel=1e-7)
        vector = torch.randn(dense.size, dtype=torch.float64)
        quadratic = float(vector @ dense.matvec(vector))
        assert 0 <= quadratic <= dense.lambda_max * float(vector @ vector) * (1 + 1e-10)


def test_linear_gaussian_model_is_a_kronecker_product():
    """For f(x) = W x + b the Fisher matrix is E[(x, 1)(x, 1)^T] kron 1: known eigenvalues, each C times."""
    torch.manual_seed(1)
    model, x = nn.Linear(4, 3).double(), torch.randn(9, 4, dtype=torch.float64)
    wide = torch.cat([x, torch.ones(9, 1, dtype=torch.float64)], 1)
    wanted = spectrum(wide.T @ wide / 9).repeat_interleave(3)
    f = measure.fisher(model, x, likelihood="gaussian")
    assert len(f.eigenvalues()) == 15  # parameters, fewer than rows
    assert torch.allclose(f.eigenvalues(), wanted, rtol=1e-10)


def test_softmax_zeros_are_left_out_and_nothing_else():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 5)).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    f = measure.fisher(model, x)
    assert f.eigenvalues().shape == (7 * 4,)
    assert float(f.eigenvalues()[-1]) > 1e-8 * f.lambda_max
    condition = f.condition()
    assert condition.below == 0
    assert condition.smallest == pytest.approx(f.lambda_max / float(f.eigenvalues()[-1]))
    assert condition.median == pytest.approx(f.lambda_max / float(f.eigenvalues()[13:15].mean()))
    assert f.condition(cutoff=0.5).below == int((f.eigenvalues() <= 0.5 * f.lambda_max).sum())


@pytest.mark.parametrize("spread", [1.0, 30.0, 700.0])
def test_saturated_softmax_keeps_its_small_curvature(spread):
    """Two classes: H has the one eigenvalue 2 p (1 - p), which must not cancel to zero."""
    from isometry.measure._fisher_roots import softmax_root

    logits = torch.tensor([[spread, 0.0], [0.0, spread]], dtype=torch.float64)
    root = softmax_root(logits)
    small = math.exp(-spread) / (1 + math.exp(-spread)) ** 2
    assert torch.allclose(root.square().sum(1).squeeze(), torch.full((2,), 2 * small, dtype=torch.float64), rtol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 6),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    st.integers(0, 2**31),
)
def test_softmax_root_is_a_root(classes, samples, scale, seed):
    from isometry.measure._fisher_roots import softmax_root

    logits = scale * torch.randn(samples, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    root, p = softmax_root(logits), logits.softmax(1)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    assert root.shape == (samples, classes, classes - 1)
    assert torch.allclose(root @ root.transpose(1, 2), hessian, atol=1e-15)


@settings(deadline=None, max_examples=12)
@given(
    depth=st.integers(1, 4),
    width=st.integers(1, 7),
    samples=st.integers(1, 6),
    classes=st.integers(2, 5),
    bias=st.booleans(),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e3]),
    seed=st.integers(0, 2**31),
)
def test_any_perceptron_matches_the_definition(depth, width, samples, classes, bias, scale, seed):
    torch.manual_seed(seed)
    sizes = [3, *[width] * depth, classes]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=bias), nn.Tanh())]
    model = nn.Sequential(*layers[:-1]).double()
    x = scale * torch.randn(samples, 3, dtype=torch.float64)
    f = measure.fisher(model, x)
    dense = dense_fisher(model, x)
    top = float(spectrum(dense)[0])
    assert torch.allclose(f.eigenvalues(), spectrum(dense)[: len(f.eigenvalues())], rtol=0, atol=1e-10 * top + 1e-300)
    assert len(f.eigenvalues()) == min(samples * (classes - 1), f.size)


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention"])
def test_order_of_samples_does_not_matter(name):
    model, x, _ = case(name)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    a, b = measure.fisher(model, x).eigenvalues(), measure.fisher(model, shuffled).eigenvalues()
    assert torch.allclose(a, b, rtol=0, atol=1e-12 * float(a[0]))


def test_repeating_the_batch_changes_no_eigenvalue():
    model, x, _ = case("mlp")
    once, twice = measure.fisher(model, x), measure.fisher(model, torch.cat([x, x]))
    count = len(once.eigenvalues())
    assert torch.allclose(twice.eigenvalues()[:count], once.eigenvalues(), rtol=0, atol=1e-12 * once.lambda_max)
    assert float(twice.eigenvalues()[count:].abs().max()) < 1e-12 * once.lambda_max


def test_frozen_parameters_count():
    model, x, _ = case("mlp")
    before = measure.fisher(model, x).eigenvalues()
    model.requires_grad_(False)
    assert torch.equal(measure.fisher(model, x).eigenvalues(), before)
    with torch.no_grad():
        assert torch.equal(measure.fisher(model, x).eigenvalues(), before)


def test_parameters_can_be_chosen():
    model, x, _ = case("mlp")
    hidden = [n for n, _ in model.named_parameters() if not n.startswith("4.")]
    check_spectrum(measure.fisher(model, x, params="hidden").eigenvalues(), dense_fisher(model, x, names=hidden))
    for patterns, names in (
        (["2.*"], ["2.weight", "2.bias"]),
        ("*.bias", ["0.bias", "2.bias", "4.bias"]),
        (["0.weight", "4.bias"], ["0.weight", "4.bias"]),
    ):
        f = measure.fisher(model, x, params=patterns)
        check_spectrum(f.eigenvalues(), dense_fisher(model, x, names=names))
        assert list(f.parameter_names) == names
    with pytest.raises(ValueError, match=r"unknown params pattern '0.wieght'.*did you mean '0.weight'"):
        measure.fisher(model, x, params=["0.wieght"])
    with pytest.raises(ValueError, match=r'leaves no parameters.*use "all"'):
        measure.fisher(nn.Linear(4, 3).double(), x, params="hidden")
    with pytest.raises(TypeError, match=r'params must be "all", "hidden" or patterns'):
        measure.fisher(model, x, params=[])


@pytest.mark.parametrize("formed", [True, False])
def test_positions_by_pairs_and_by_formed_rows_agree(formed, monkeypatch):
    """Both routes for layers with many positions, and small chunks of each, against the definition."""
    from isometry.measure import _gram, _gram_sums

    monkeypatch.setattr(_gram_sums.FullGram, "pair_cost", lambda *_a: 2.0 if formed else 0.5)
    monkeypatch.setattr(_gram_sums, "_BLOCK_BYTES", 8 * 40**2)
    monkeypatch.setattr(_gram, "CHUNK_BYTES", 2000)
    for name in ("cnn", "conv3d", "positions", "tied head", "reused and tied", "attention", "gru"):
        model, x, _ = case(name)
        check_spectrum(measure.fisher(model, x).eigenvalues(), dense_fisher(model, x))
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 3)).double()
    x = torch.randint(0, 5, (6, 4))
    check_spectrum(measure.fisher(tokens, x).eigenvalues(), dense_fisher(tokens, x))


def test_what_vmap_cannot_take_is_looped_over():
    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, back):
            return back * ctx.saved_tensors[0].cos()

    class Sine(nn.Module):
        def __init__(self):
            super().__init__()
            self.raw = nn.Parameter(torch.tensor(0.7))

        def forward(self, x):
            return Stubborn.apply(x * self.raw)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), Sine(), nn.Linear(5, 3)).double()
    x = torch.randn(4, 4, dtype=torch.float64)
    plain = copy.deepcopy(model)
    plain[1].forward = lambda h: (h * plain[1].raw).sin()
    check_spectrum(measure.fisher(model, x).eigenvalues(), dense_fisher(plain, x))


def test_monte_carlo_agrees_with_the_true_one_within_its_errors():
    model, x, _ = case("mlp")
    true = measure.fisher(model, x)
    drawn = measure.fisher(model, x, kind="monte-carlo", draws=48, generator=torch.Generator().manual_seed(3))
    error = drawn.stderr
    assert error.draws == 48
    assert 0 < error.trace < 0.4 * true.trace
    assert abs(drawn.trace - true.trace) < 4 * error.trace
    assert abs(drawn.lambda_max - true.lambda_max) < 4 * error.lambda_max
    assert "+-" in str(drawn)
    assert "48 a sample: extreme eigenvalues are biased upwards" in str(drawn)
    assert "biased" not in str(true)
    assert true.stderr is None
    assert math.isnan(measure.fisher(model, x, kind="monte-carlo", draws=1).stderr.trace)


def test_jackknife_of_a_mean_is_its_standard_error():
    """Rows that all point the same way: the largest eigenvalue is the mean of their squares, as the trace is."""
    from isometry.measure._fisher_result import _over_draws

    rows = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = _over_draws(torch.outer(rows, rows) / 10, draws=10)
    assert error.lambda_max == pytest.approx(float(rows.square().std()) / 10**0.5, rel=1e-10)
    assert error.trace == pytest.approx(error.lambda_max, rel=1e-10)


def test_monte_carlo_for_regression_and_its_generator():
    model, x, _ = case("mlp")
    state = torch.get_rng_state()
    drawn = measure.fisher(
        model, x, kind="monte-carlo", likelihood="gaussian", draws=60, generator=torch.Generator().manual_seed(0)
    )
    again = measure.fisher(
        model, x, kind="monte-carlo", likelihood="gaussian", draws=60, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn.gram, again.gram)
    true = measure.fisher(model, x, likelihood="gaussian")
    assert abs(drawn.trace - true.trace) < 4 * drawn.stderr.trace


def test_single_precision_is_good_to_its_digits():
    """Sums and eigenvalues are in float64: even small eigenvalues keep most of the model's digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 4))
    x = torch.randn(10, 6)
    single, double = measure.fisher(model, x), measure.fisher(copy.deepcopy(model).double(), x.double())
    assert single.dtype == torch.float32
    assert single.eigenvalues().dtype == torch.float64
    assert torch.allclose(single.eigenvalues(), double.eigenvalues(), rtol=1e-3)  # condition number about 1e5
    assert single.residual < 1e-4


def test_half_precision_runs():
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 4)).bfloat16()
    x = torch.randn(5, 6).bfloat16()
    f, wanted = measure.fisher(model, x), measure.fisher(copy.deepcopy(model).double(), x.double())
    assert f.lambda_max == pytest.approx(wanted.lambda_max, rel=0.05)


def test_result_is_plain_data_and_prints():
    model, x, _ = case("mlp")
    f = measure.fisher(model, x)
    plain = json.loads(json.dumps(f.to_dict()))
    assert plain["eigenvalues"] == f.eigenvalues().tolist()
    assert plain["lambda_max"] == f.lambda_max
    assert "gram" not in plain
    assert "largest eigenvalue" in str(f)
    assert "condition" in str(f)
    with pytest.raises(AttributeError):
        f.samples = 3


def test_later_questions_refuse_a_model_that_has_changed():
    model, x, _ = case("mlp")
    f = measure.fisher(model, x)
    f.per_layer()
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"have changed since.*measure it again"):
        f.bound(form="rigorous")
    model[0].weight.data.div_(2)  # does not count as a change for autograd; the values are back
    f = measure.fisher(model, x)
    model[0].weight.data.mul_(1.5)
    with pytest.raises(RuntimeError, match="have changed since"):
        f.matvec(torch.zeros(f.size))


def test_changing_the_batch_afterwards_does_not_matter():
    model, x, _ = case("mlp")
    f = measure.fisher(model, x)
    bound = float(f.bound())
    g = measure.fisher(model, x)
    x.mul_(100)
    assert float(g.bound()) == bound


def test_the_inputs_of_in_place_models_survive():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = x.clone()
    f = measure.fisher(model, x)
    f.bound(form="rigorous"), f.per_layer(), f.top(1)
    assert torch.equal(x, before)
    check_spectrum(f.eigenvalues(), dense_fisher(nn.Sequential(nn.ReLU(), model[1]), x))


def test_bytes_are_known_beforehand_and_refused():
    model, x, _ = case("mlp")
    f = measure.fisher(model, x)
    assert f.cost.bytes >= 2 * 8 * (6 * 3) ** 2
    with pytest.raises(MemoryBudgetError, match=r"dual Gram matrix of 18 x 18.*dense=False\)\.top\(k\)"):
        measure.fisher(model, x, budget=1000)
    assert measure.fisher(model, x, budget=f.cost.bytes).lambda_max == f.lambda_max


def test_attention_and_dense_jacobians_agree_in_rank():
    """The rank of the dual is at most that of the stacked Jacobians."""
    model, x, _ = case("attention")
    f = measure.fisher(model, x, likelihood="gaussian")
    rank = int(torch.linalg.matrix_rank(torch.cat(jacobians(model, x))))
    assert int((f.eigenvalues() > 1e-12 * f.lambda_max).sum()) == rank


def test_zero_fisher_has_no_effective_rank():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, -1.0)
    f = measure.fisher(model, torch.randn(4, 3).double())
    assert f.lambda_max == 0
    assert math.isnan(f.effective_rank)
    assert f.condition().median == math.inf
    assert "inf" in str(f)


def test_constant_output_is_refused():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 2)

        def forward(self, x):
            self.lin(x)
            return x.new_ones(len(x), 2)

    with pytest.raises(ValueError, match="does not depend on any parameter through differentiable operations"):
        measure.fisher(Constant(), torch.randn(4, 3))


def test_overwritten_activations_are_copied():
    torch.manual_seed(0)
    model, x = Overwriting().double(), torch.randn(5, 4).double()
    other = Overwriting(in_place=False).double()
    other.load_state_dict(model.state_dict())
    f = measure.fisher(model, x)
    check_spectrum(f.eigenvalues(), dense_fisher(other, x))
    assert math.isnan(f.residual)  # the model's own backward pass fails, so there is nothing to compare with
    assert measure.fisher(other, x).residual < 1e-12


QUESTIONS = {
    "fisher": lambda model, x: measure.fisher(model, x),
    "empirical": lambda model, x: measure.fisher(model, x, kind="empirical", targets=torch.arange(len(x)) % 3),
    "per layer": lambda model, x: measure.fisher(model, x, dense=False).per_layer(),
    "certificate": lambda model, x: measure.fisher(model, x, dense=False).bound(form="rigorous"),
    "theorem": lambda model, x: measure.fisher(model, x, dense=False, params="1.*").bound(form="theorem"),
    "top": lambda model, x: measure.fisher(model, x, dense=False).top(1),
    "product": lambda model, x: measure.fisher(model, x, dense=False).matvec(torch.ones(59, dtype=x.dtype)),
    "general route": lambda model, x: measure.fisher(nn.Sequential(model, Raw3()), x),
    "refused": lambda model, x: measure.fisher(nn.Sequential(model, nn.Dropout()), x),
}


class Raw3(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_no_trace_is_left_on_the_model(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).eval()
    model[1].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones(3, 6)
    model[2].train()
    model[1].register_forward_hook(lambda *_: None)
    x = torch.randn(5, 4)
    values = copy.deepcopy(model.state_dict())
    grad, random_state = model[4].weight.grad, torch.get_rng_state()
    if name == "refused":
        with pytest.raises(ValueError, match=r"Call model.eval\(\) first"):
            QUESTIONS[name](model, x)
    else:
        QUESTIONS[name](model, x)
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert model[4].weight.grad is grad
    assert torch.equal(grad, torch.ones(3, 6))
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True, True, True]
    assert [m.training for m in model.modules()] == [False, False, False, True, False, False]
    assert [len(m._forward_hooks) for m in model.modules()] == [0, 0, 1, 0, 0, 0]
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters() if p is not model[4].weight)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_coverage_is_said_in_shares_of_the_parameters():
    model, x, general = case("attention")
    found = measure.fisher(model, x)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    assert found.coverage["sample by sample"] == pytest.approx(sum(sizes[n] for n in general) / sum(sizes.values()))
    assert sum(found.coverage.values()) == pytest.approx(1)
    assert f"{found.coverage['sample by sample']:.1%} sample by sample" in str(found)
    assert "coverage" not in str(measure.fisher(*case("mlp")[:2]))
