"""Soft penalties of one weight and of whole models: naive formulas, gradients, and the table of what counts."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from isometry.linalg import conv_defect, haar
from isometry.nn import OrthogonalityRegularizer, orthogonality_penalty

KINDS = ("so", "double-sided", "mc", "srip")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=gen(seed))


def naive(w, kind):
    """Of one matrix (out, in), with both Gram matrices written out."""
    out, in_ = w.shape
    rows, columns = w @ w.T - torch.eye(out, dtype=w.dtype), w.T @ w - torch.eye(in_, dtype=w.dtype)
    short = rows if out <= in_ else columns
    if kind == "so":
        return (w.T @ w - torch.eye(in_, dtype=w.dtype)).square().sum() - max(0, in_ - out)
    if kind == "double-sided":
        return rows.square().sum() + columns.square().sum()
    if kind == "mc":
        return short.abs().max()
    return torch.linalg.matrix_norm(short, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 4), (4, 1)])
def test_one_matrix(shape, kind):
    w = draw(*shape)
    found = orthogonality_penalty(w, kind, steps=200, generator=gen())
    assert torch.allclose(found, naive(w, kind), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_kernels_and_the_factor(kind):
    w = draw(3, 4, 2, 3, 3)
    expected = sum(naive(m, kind) for m in w.reshape(3, 4, 18))
    found = orthogonality_penalty(w, kind, batch_dims=1, weight=0.5, steps=300, generator=gen())
    assert torch.allclose(found, 0.5 * expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_orthonormal_matrices_cost_nothing(kind):
    for rows, cols in ((6, 6), (3, 7), (7, 3)):
        q = haar(rows, cols, dtype=torch.float64, generator=gen())
        expected = abs(rows - cols) if kind == "double-sided" else 0
        assert float(orthogonality_penalty(q, kind)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    for shape in ((3, 4), (4, 3)):
        w = draw(*shape).requires_grad_()
        if kind != "srip":
            assert torch.autograd.gradcheck(lambda w: orthogonality_penalty(w, kind), w)
        found = torch.autograd.grad(orthogonality_penalty(w, kind, steps=300, generator=gen()), w)[0]
        assert torch.allclose(found, torch.autograd.grad(naive(w, kind), w)[0], rtol=1e-6)


def test_zero_and_orthogonal_weights_have_finite_gradients():
    for w in (torch.zeros(3, 4), torch.eye(3)):
        for kind in KINDS:
            leaf = w.clone().requires_grad_()
            gradient = torch.autograd.grad(orthogonality_penalty(leaf, kind), leaf)[0]
            assert bool(torch.isfinite(gradient).all())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10_000))
def test_srip_bounds_from_below_and_the_others_order(rows, cols, steps, seed):
    w = draw(rows, cols, seed=seed)
    exact = float(naive(w, "srip"))
    estimate = float(orthogonality_penalty(w, "srip", steps=steps, generator=gen(seed)))
    assert estimate <= exact * (1 + 1e-12)
    assert float(orthogonality_penalty(w, "mc")) <= exact * (1 + 1e-12)  # an entry is at most the spectral norm
    assert exact**2 <= float(orthogonality_penalty(w, "so")) * (1 + 1e-12)
    # The restricted isometry: no vector of the shorter side is stretched by more.
    z = draw(min(rows, cols), 5, seed=seed + 1)
    stretched = (w.T if rows <= cols else w) @ z
    ratios = stretched.square().sum(0) / z.square().sum(0) - 1
    assert float(ratios.abs().max()) <= exact + 1e-12


def test_opposite_eigenvalues_do_not_cancel():
    # G - I = diag(0.5, -0.5): a Rayleigh quotient would be anything in between; the norm of the image is 0.5.
    w = torch.diag(torch.tensor([1.5, 0.5], dtype=torch.float64).sqrt())
    assert float(orthogonality_penalty(w, "srip", generator=gen())) == pytest.approx(0.5)


def test_the_generator_decides_and_the_global_stream_stays():
    w, before = draw(5, 6), torch.get_rng_state()
    first, again, other = (float(orthogonality_penalty(w, "srip", generator=gen(s))) for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_and_autocast():
    w = draw(32, 32).bfloat16()
    found = orthogonality_penalty(w)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), naive(w.double(), "so"), rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(orthogonality_penalty(w.float()), orthogonality_penalty(w.float()))
        assert torch.allclose(orthogonality_penalty(w.float()).double(), naive(w.double(), "so"), rtol=1e-5)


# Whole models


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.hidden = parametrizations.weight_norm(nn.Linear(4, 6))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.table = nn.Embedding(5, 6)
        self.raw = nn.Parameter(torch.ones(3, 3))
        self.output = nn.Linear(6, 3)


def test_the_table_says_what_counts_and_why():
    regularizer = OrthogonalityRegularizer(Mixed(), "convolution", skip="stem.*")
    rows = {row.name: row for row in regularizer.rows}
    counted = {name: row.formula for name, row in rows.items() if row.action == "counted"}
    assert counted == {
        "grouped.weight": "L_orth",
        "up.weight": "L_orth",
        "attention.in_proj_weight": "so",
        "attention.out_proj.weight": "so",
        "hidden.parametrizations.weight.original1": "so",
    }
    assert rows["stem.weight"].why == "named in skip="
    assert rows["stem.bias"].action == "left"
    assert rows["output.weight"].why == "the output stays free; name it in names= to count it"
    assert rows["table.weight"].why.startswith("the embedding stays free")
    assert rows["norm.weight"].why == "its role is 'norm', not a matrix between layers"
    assert rows["raw"].action == "left"
    assert (rows["frozen.weight"].action, rows["frozen.weight"].why[:6]) == ("skipped", "frozen")
    assert "padding_mode='zeros' it governs all but the border" in rows["grouped.weight"].why
    assert len(rows) == len(list(Mixed().parameters()))
    assert "5 of" in str(regularizer)
    assert "L_orth" in str(regularizer)


def test_the_terms_are_those_of_the_layers():
    model = Mixed().double()
    terms = OrthogonalityRegularizer(model, "convolution").terms()
    assert torch.equal(terms["stem.weight"], conv_defect(model.stem.weight))
    assert torch.equal(terms["grouped.weight"], conv_defect(model.grouped.weight, stride=2, groups=2))
    assert torch.equal(terms["up.weight"], conv_defect(model.up.weight, stride=2))
    # Weight norm: the weight that the layer uses, not the one that is stored.
    hidden = terms["hidden.parametrizations.weight.original1"]
    assert torch.allclose(hidden, naive(model.hidden.weight, "so"))
    blocks = model.attention.in_proj_weight.chunk(3)
    assert torch.allclose(terms["attention.in_proj_weight"], sum(naive(w, "so") for w in blocks))


@pytest.mark.parametrize("kind", [*KINDS, "convolution"])
def test_the_sum_over_a_model_and_its_gradient(kind):
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 2)).double()
    total = orthogonality_penalty(model, kind, weight=0.1, steps=400, generator=gen())
    first = conv_defect(model[0].weight) if kind == "convolution" else naive(model[0].weight.flatten(1), kind)
    second = naive(model[3].weight, "so" if kind == "convolution" else kind)
    assert torch.allclose(total, 0.1 * (first + second), rtol=1e-6)
    total.backward()
    assert model[0].weight.grad is not None
    assert model[3].weight.grad is not None
    assert model[4].weight.grad is None  # the readout
    assert total.dtype == torch.float64


def test_grouped_kernels_are_matrices_of_their_own():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, dtype=torch.float64))
    expected = sum(naive(w.flatten(1), "mc") for w in model[0].weight.chunk(2))
    assert torch.allclose(orthogonality_penalty(model, "mc"), expected)


def test_it_pulls_a_network_towards_an_isometry():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    regularizer = OrthogonalityRegularizer(model, "srip")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    start = regularizer().item()
    for _ in range(300):
        optimizer.zero_grad()
        regularizer().backward()
        optimizer.step()
    assert regularizer().item() < 0.25 * start


def test_names_patterns_ties_and_copies():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    regularizer = OrthogonalityRegularizer(model, names=["0.weight", "2.*"], skip=["*.bias"])
    assert list(regularizer.terms()) == ["0.weight", "2.weight"]
    assert regularizer.rows[0].why == "once for all of 1.weight"
    twin = copy.deepcopy(regularizer)
    with torch.no_grad():
        model[0].weight.zero_()
    assert float(regularizer.terms()["0.weight"].detach()) == 3
    assert float(twin.terms()["0.weight"].detach()) != 3
    assert orthogonality_penalty(nn.Linear(3, 3)).item() > 0  # a model with a single matrix


def test_convolutions_that_cannot_reach_zero_are_told():
    model = nn.Sequential(nn.Conv2d(1, 5, 1, stride=2), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 2, 3, padding_mode="reflect",
        padding=1), nn.Flatten(), nn.Linear(8, 2))  # fmt: skip
    rows = {row.name: row for row in OrthogonalityRegularizer(model, "convolution").rows}
    assert rows["0.weight"].why == (
        "cannot reach zero: orthonormal columns: the taps read only 1 of the 4 positions of a stride's cell"
    )
    assert rows["1.weight"].why == ""
    # The penalty of a transposed convolution is its adjoint's, from 1 channel to 5.
    up = OrthogonalityRegularizer(nn.Sequential(nn.ConvTranspose2d(5, 1, 1, stride=2)), "convolution").rows[0]
    assert up.why.startswith("cannot reach zero: orthonormal columns: the taps read only 1 of the 4")
    assert "padding_mode='reflect'" in rows["2.weight"].why


def test_refusals():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(ValueError, match="unknown kind 'orth'"):
        orthogonality_penalty(model, "orth")
    with pytest.raises(ValueError, match=r"unknown names pattern '5\.weight'"):
        orthogonality_penalty(model, names="5.weight")
    with pytest.raises(ValueError, match="unknown skip pattern 'conv"):
        orthogonality_penalty(model, skip="conv*")
    with pytest.raises(ValueError, match=r"no weight is left to count \(0\.weight: named in skip=; .*names="):
        orthogonality_penalty(model, skip="*")
    with pytest.raises(ValueError, match=r"0\.bias cannot be counted: its output and input dimensions are not known"):
        orthogonality_penalty(model, names="0.bias")
    with pytest.raises(TypeError, match="names must be a name, a pattern or a non-empty sequence of these"):
        orthogonality_penalty(model, names=[])
    with pytest.raises(ValueError, match=r"steps must be a whole number >= 1, got 0"):
        orthogonality_penalty(model, "srip", steps=0)
    with pytest.raises(ValueError, match=r"weight must be a finite number >= 0, got -1\."):
        orthogonality_penalty(model, weight=-1)
    with pytest.raises(TypeError, match=r"batch_dims=1 is for a bare weight"):
        orthogonality_penalty(model, batch_dims=1)
    with pytest.raises(TypeError, match="names, skip and overrides choose among a model's parameters"):
        orthogonality_penalty(torch.eye(3), names="x")
    with pytest.raises(ValueError, match=r"depends on the layer's stride; call orthogonal_convolution_penalty"):
        orthogonality_penalty(torch.ones(1, 1, 3), "convolution")
    with pytest.raises(ValueError, match=r"model_or_weight must have at least 2 dimensions, got shape \(3,\)"):
        orthogonality_penalty(torch.ones(3))
    with pytest.raises(TypeError, match=r"model_or_weight must be real floating point, got torch\.int64"):
        orthogonality_penalty(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"batch_dims must be a whole number >= 0, got -1"):
        orthogonality_penalty(torch.ones(3, 3), batch_dims=-1)
    with pytest.raises(TypeError, match=r"model_or_weight must be a torch\.Tensor, got list"):
        orthogonality_penalty([1, 2])
