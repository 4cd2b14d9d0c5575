"""HybridAuON against its formulas written out, the scalar polynomial on singular values, and Muon."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.optim import HybridAuON, auon_update, hybrid_auon_update, muon_update
from isometry.roles import Axes

A, B, C = 3.4445, -4.7750, 2.0315


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def textbook_update(u, variant="paper", steps=None, eps=1e-7):
    """One matrix, as the paper and as the released code have it."""
    x = u / (u.norm() + eps)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps or {"paper": 1, "released": 5}[variant]):
        a = x @ x.T
        b = B * a + C * a @ a
        x = A * x + b @ x
    x = x.T if tall else x
    z = x if variant == "paper" else 1.5 * x / (x.norm() + eps)
    rms = z.cosh().square().mean().sqrt()
    return x / (rms + 1e-8), rms


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    variant=st.sampled_from(["paper", "released"]),
    steps=st.one_of(st.none(), st.integers(1, 4)),
    exponent=st.integers(-3, 6),
    seed=st.integers(0, 1000),
)
def test_any_matrix_has_the_update_of_the_formulas(rows, columns, variant, steps, exponent, seed):
    u = draw(rows, columns, seed=seed) * 10.0**exponent
    update, rms = hybrid_auon_update(u, variant=variant, ns_steps=steps)
    wanted, wanted_rms = textbook_update(u, variant, steps)
    assert torch.allclose(update, wanted, rtol=1e-9, atol=1e-11)
    assert math.isclose(rms, wanted_rms, rel_tol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (1, 7), (7, 1)])
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape):
    u = draw(*shape)
    s = torch.linalg.svdvals(u) / (u.norm() + 1e-7)
    update, rms = hybrid_auon_update(u)
    p = A * s + B * s**3 + C * s**5
    assert torch.allclose(torch.linalg.svdvals(update * rms), p.sort(descending=True).values, atol=1e-7)
    # The singular vectors are those of U: U^T Y and U Y^T are symmetric.
    for product in (u.T @ update, u @ update.T):
        assert torch.allclose(product, product.T, atol=1e-12)


def test_a_gaussian_momentum_is_multiplied_by_344_and_no_more():
    """All its singular values are small, at most 2 / n^(1/2); one that is dominated by a direction is reconditioned."""
    u = draw(300, 300)
    hybrid, auon = hybrid_auon_update(u)[0], auon_update(u)[0]
    assert torch.allclose(hybrid, A * auon, atol=0.07 * float(auon.abs().max()))  # 4.775 * 4 / 300 of 3.44 and more
    spiked = u + torch.outer(draw(300, seed=1), draw(300, seed=2))  # half of all squares in one direction

    def spread(update):
        values = torch.linalg.svdvals(update)
        return float(values[0] / values[150])

    before, after, muon = (
        spread(f) for f in (spiked, hybrid_auon_update(spiked)[0], muon_update(spiked, polar="muon"))
    )
    s = torch.linalg.svdvals(spiked / spiked.norm())
    lift = A + B * s**2 + C * s**4
    assert math.isclose(after / before, lift[0] / lift[150], rel_tol=1e-6)  # 1.60 / 3.44
    assert muon < 0.2 * after


def test_released_is_muon_up_to_its_inert_factor():
    u = draw(40, 30)
    update, rms = hybrid_auon_update(u, variant="released")
    assert 0 < float(rms) - 1 < 2.3 / 1200
    assert torch.allclose(update * rms, muon_update(u, polar="muon", scale="none"), atol=1e-5)


def test_the_cosines_change_less_than_the_docstring_says():
    for u in (draw(10, 10), draw(100, 100), torch.eye(10), torch.diag(draw(20)), torch.ones(10, 10)):
        n = u.numel()
        assert 0 < n * (float(hybrid_auon_update(u.double())[1]) - 1) < 10


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_its_steps_are_those_of_the_formulas(variant, nesterov):
    shapes = [(6, 6), (9, 4), (4, 9), (3, 2, 2), (6, 6)]
    parameters = [nn.Parameter(draw(*shape, seed=i)) for i, shape in enumerate(shapes)]
    expected, buffers = [p.detach().clone() for p in parameters], [torch.zeros_like(p) for p in parameters]
    optimizer = HybridAuON(
        [{"params": parameters, "layout": "conv"}],
        lr=0.03,
        momentum=0.8,
        nesterov=nesterov,
        weight_decay=0.1,
        variant=variant,
        scale="original",
    )
    for step in range(4):
        for i, p in enumerate(parameters):
            p.grad = draw(*p.shape, seed=100 * step + i)
            buffers[i] = 0.8 * buffers[i] + 0.2 * p.grad
            used = (0.2 * p.grad + 0.8 * buffers[i] if nesterov else buffers[i]).flatten(1)
            update = textbook_update(used, variant)[0].reshape(p.shape)
            factor = max(1, used.shape[0] / used.shape[1]) ** 0.5
            expected[i] = expected[i] * (1 - 0.003) - 0.03 * factor * update
        optimizer.step()
    assert all(torch.allclose(p.detach(), e, atol=1e-10) for p, e in zip(parameters, expected, strict=True))


def test_the_blocks_of_a_fused_projection_are_matrices_each():
    weights = [nn.Parameter(draw(4, 6, seed=i)) for i in range(3)]
    fused = nn.Parameter(torch.cat([w.detach() for w in weights]))
    axes = Axes(out=(0,), in_=(1,), blocks=("q", "k", "v")).to_dict()
    row = {"name": "qkv", "shape": [12, 6], "role": "attention_in", "rule": "matrix", "reason": "", "axes": axes}
    for w in weights:
        w.grad = draw(4, 6, seed=7)
    fused.grad = torch.cat([w.grad for w in weights])
    HybridAuON([{"params": [("qkv", fused)], "routes": [row]}], lr=0.1).step()
    HybridAuON(weights, lr=0.1).step()
    assert torch.allclose(fused.detach(), torch.cat([w.detach() for w in weights]), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-40, 1e-8, 1e15, 1e35])
def test_squares_neither_overflow_nor_vanish(size):
    u = (draw(6, 5).clamp(-3, 3) * size).float()
    for variant in ("paper", "released"):
        update, _ = hybrid_auon_update(u, variant=variant)
        wanted, _ = textbook_update(u.double(), variant)
        assert torch.allclose(update.double(), wanted, rtol=1e-3, atol=1e-5 if size > 1e-30 else 1e-37)


def test_zero_and_extreme_inputs():
    for eps in (1e-7, 0.0):
        for variant in ("paper", "released"):
            update, rms = hybrid_auon_update(torch.zeros(3, 4), variant=variant, eps=eps)
            assert torch.equal(update, torch.zeros(3, 4))
            assert float(rms) == 1.0
    for matrix in (torch.eye(1), torch.diag(torch.tensor([0.8321, 0.5547]))):  # p is largest, 1.2025, at s = 0.5547
        update, rms = hybrid_auon_update(matrix, gamma=36.0)
        assert bool(torch.isfinite(update).all())
        assert math.isfinite(rms)
        assert float(rms) > 1e9
    u = draw(2, 3, 5, 4)
    assert torch.allclose(hybrid_auon_update(u)[0][1, 2], hybrid_auon_update(u[1, 2])[0], rtol=1e-12)


def test_bfloat16_products_are_near_and_low_precision_stays():
    u = draw(60, 40, dtype=torch.float32)
    near = hybrid_auon_update(u, compute_dtype=torch.bfloat16)[0]
    assert near.dtype == torch.float32
    exact = hybrid_auon_update(u)[0]
    assert 1e-4 < float((near - exact).norm() / exact.norm()) < 0.02
    assert hybrid_auon_update(u.bfloat16())[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gamma": 37.0}, ValueError, "gamma must be above 0 and at most 36, beyond which cosh overflows"),
        ({"ns_steps": 0}, ValueError, "ns_steps must be at least 1, got 0"),
        ({"ns_steps": 1.5}, TypeError, "ns_steps must be an integer, got float"),
        ({"variant": "auon"}, ValueError, "variant .*paper"),
        ({"scale": "rms"}, ValueError, "scale .*none"),
        ({"compute_dtype": "float16"}, ValueError, "compute_dtype .*bfloat16"),
    ],
)
def test_senseless_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        HybridAuON([nn.Parameter(torch.ones(2, 2))], **options)


def test_a_step_has_the_size_that_its_rule_states():
    for gradient in (draw(8, 5), torch.diag(torch.tensor([0.8321, 0.5547])).double(), torch.ones(3, 3).double()):
        p = nn.Parameter(torch.zeros_like(gradient))
        p.grad = gradient
        optimizer = HybridAuON([p], lr=0.1, scale="original")
        rule, _ = optimizer._rule(p, optimizer.param_groups[0])
        optimizer.step()
        size = rule.update_size(tuple(p.shape), optimizer.param_groups[0])
        assert torch.linalg.matrix_norm(p.detach() / 0.1, 2) < size.spectral_norm
    assert size.spectral_norm == 1.21


def test_vectors_are_refused_by_name():
    with pytest.raises(ValueError, match=r"parameter 'bias' has shape \(3,\) and is no matrix.*rule='adamw'"):
        HybridAuON(nn.Linear(3, 3).named_parameters())
