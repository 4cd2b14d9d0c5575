"""Series and iterations against decompositions in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.optim import _polar_step
from isometry.optim._polar_step import RotationError, inverse_root, largest, polar_columns, polar_rotation, settle, skew


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation_of(theta, n=12, seed=0):
    a = skew(torch.randn(3, n, n, generator=gen(seed), dtype=torch.float64))
    return theta * a / torch.linalg.matrix_norm(a, 2)[:, None, None]


def tangent_of(theta, n=15, p=6, seed=0):
    q = torch.linalg.qr(torch.randn(3, n, p, generator=gen(seed), dtype=torch.float64))[0]
    v = torch.randn(3, n, p, generator=gen(seed + 1), dtype=torch.float64)
    v = v - q @ (q.mT @ v + v.mT @ q) / 2
    return q, theta * v / torch.linalg.matrix_norm(v, 2)[:, None, None]


def polar(y):
    u, _, vh = torch.linalg.svd(y, full_matrices=False)
    return u @ vh


# Between them, all branches in both dtypes: two terms, four, a series, Newton-Schulz, eigenvalues.
THETAS = [1e-5, 1e-3, 0.01, 0.05, 0.2, 0.45, 0.7, 1.5, 4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", THETAS)
def test_a_rotation_is_the_polar_factor(theta, dtype):
    a = rotation_of(theta).to(dtype)
    k, c = polar_rotation(a)
    exact = polar(torch.eye(12, dtype=torch.float64) + a.double())
    eps = torch.finfo(dtype).eps
    # A few roundings; those of the products are relative to the largest singular value, sqrt(1 + theta^2).
    tolerance = (8 if dtype == torch.float32 else 20) * eps * max(1, theta)  # the oracle rounds in float64
    assert float((torch.eye(12, dtype=torch.float64) + k.double() + c.double() - exact).abs().max()) < tolerance
    assert float((k + k.mT).abs().max()) < tolerance
    assert float((c - c.mT).abs().max()) < tolerance


@pytest.mark.parametrize("theta", [1.5e-3, 0.015, 0.1, 0.3])
def test_the_symmetric_part_is_right_to_its_own_digits(theta):
    """C - I is small beside K, so an error in it would hide there; but it is what keeps Q on the manifold."""
    a = rotation_of(theta)
    _, c = polar_rotation(a.float())
    values, vectors = torch.linalg.eigh(-a @ a)
    exact = (vectors * torch.expm1(-0.5 * torch.log1p(values.clamp_min(0)))[:, None]) @ vectors.mT
    error = torch.linalg.matrix_norm(c.double() - exact) / torch.linalg.matrix_norm(exact)
    assert float(error.max()) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", THETAS)
def test_columns_go_to_their_polar_factor(theta, dtype):
    q, v = tangent_of(theta)
    one = torch.ones(3, 1, 1, dtype=dtype)
    got = polar_columns((3 * (q + v)).to(dtype), 3 * one, one > 0)
    assert float((got.double() / 3 - polar(q + v)).abs().max()) < 20 * torch.finfo(dtype).eps * max(1, theta)


@given(bound=st.floats(1e-12, 1e4), share=st.floats(0.0, 1.0), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_inverse_root_holds_for_every_spectrum_below_its_bound(bound, share, seed):
    values = bound * share * torch.rand(2, 7, generator=gen(seed), dtype=torch.float64)
    values[:, 0] = bound
    vectors = torch.linalg.qr(torch.randn(2, 7, 7, generator=gen(seed), dtype=torch.float64))[0]
    got = inverse_root((vectors * values[:, None]) @ vectors.mT, bound)
    exact = (vectors * ((1 + values) ** -0.5 - 1)[:, None]) @ vectors.mT
    assert float((got - exact).abs().max()) < 2e-14 + 1e-15 * bound


def test_products_are_few_for_small_steps(monkeypatch):
    """One product for a step of 1e-3 in float32, two for one of 1e-2; a decomposition never below a radian."""
    counted = []
    original = torch.bmm
    monkeypatch.setattr(_polar_step.torch, "bmm", lambda *a: (counted.append(1), original(*a))[1])
    monkeypatch.setattr(_polar_step, "_by_eigenvalues", lambda s: pytest.fail("decomposed"))
    for theta, products in ((1e-3, 1), (1e-2, 2), (0.9 / 12**0.25, 12)):
        counted.clear()
        polar_rotation(rotation_of(theta).float())
        assert len(counted) <= products, theta


def test_a_long_memory_asks_for_more_terms():
    a = rotation_of(1.5e-3).float()
    k, _ = polar_rotation(a)
    assert k is a
    k, _ = polar_rotation(a, memory=100.0)
    assert k is not a


@pytest.mark.parametrize("off", [1e-4, 1e-2, 0.025])
def test_settling_ends_on_the_manifold_and_leaves_alone_what_did_not_move(off):
    q, _ = tangent_of(0.1)
    off = 2 * (q + off * torch.randn(q.shape, generator=gen(9), dtype=torch.float64))
    s = torch.full((3, 1, 1), 2.0, dtype=torch.float64)
    moved = torch.tensor([True, False, True]).view(3, 1, 1)
    got = settle(off, s, moved)
    assert torch.equal(got[1], off[1])
    assert float((got.mT @ got / 4 - torch.eye(6, dtype=torch.float64))[[0, 2]].abs().max()) < 3e-15
    assert torch.equal(settle(got, s, moved), got)


def test_settling_refuses_what_is_too_far_away():
    x, one = torch.diag_embed(torch.tensor([[1.0, 0.1], [1.0, float("nan")]])), torch.ones(1, 1, 1)
    for i in range(2):
        with pytest.raises(RotationError, match=r"the step does not come back to the manifold \(defect"):
            settle(x[i : i + 1], one, one > 0)


@pytest.mark.parametrize("theta", [0.45, 0.7, 4.0, 30.0])
def test_the_skew_part_is_skew_to_the_bit(theta):
    """A momentum is read off it, and what is not skew there would add up."""
    k, _ = polar_rotation(rotation_of(theta, n=40).float())
    assert torch.equal(k, -k.mT)


def test_a_step_without_a_finite_length_is_refused():
    with pytest.raises(RotationError, match="the step has no finite length"):
        largest(torch.tensor([1.0, float("inf")]))
