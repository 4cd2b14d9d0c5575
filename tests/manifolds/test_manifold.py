"""What holds on every manifold: one table of manifolds and shapes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.manifolds import Oblique, Orthogonal, Stiefel
from tests.manifolds.cases import CASES, MANIFOLDS, gaussian, point_and_tangent, seeded, upright

every_case = pytest.mark.parametrize(("name", "shape"), CASES)


def naive_difference(manifold, x):
    """The equation that points satisfy, matrix by matrix."""
    q = upright(manifold, x).reshape(-1, *upright(manifold, x).shape[-2:])
    if isinstance(manifold, Oblique):
        return torch.stack([m.square().sum(0) - 1 for m in q])
    return torch.stack([m.T @ m - torch.eye(m.shape[1], dtype=m.dtype) for m in q])


@every_case
def test_random_points_and_projections_satisfy_the_equation(name, shape):
    manifold = MANIFOLDS[name]
    for x in (manifold.random(*shape, dtype=torch.float64, generator=seeded()), manifold.project(3 * gaussian(shape))):
        assert x.shape == shape
        assert float(naive_difference(manifold, x).abs().max()) < 4e-15
        assert manifold.check(x).ok
        assert torch.allclose(manifold.project(x), x, atol=1e-14)


@every_case
def test_no_point_is_nearer_than_the_projection(name, shape):
    """First order: the way to it is orthogonal to the tangent space; second order: random points are farther away."""
    manifold = MANIFOLDS[name]
    a = gaussian(shape)
    x = manifold.project(a)
    assert float(manifold.tangent(x, a - x).abs().max()) < 1e-13
    nearest = torch.linalg.vector_norm(a - x, dim=(-2, -1))
    for seed in range(20):
        other = manifold.random(*shape, dtype=torch.float64, generator=seeded(seed))
        assert bool((torch.linalg.vector_norm(a - other, dim=(-2, -1)) >= nearest - 1e-12).all())


@every_case
def test_check_reads_the_defect(name, shape):
    manifold = MANIFOLDS[name]
    x = 1.001 * manifold.random(*shape, dtype=torch.float64, generator=seeded())
    found = manifold.check(x)
    wanted = naive_difference(manifold, x)
    assert found.max_abs == pytest.approx(float(wanted.abs().max()), rel=1e-9)
    assert found.frobenius == pytest.approx(float(wanted.flatten(1).norm(dim=1).max()), rel=1e-9)
    assert not found.ok
    assert str(found).startswith("OFF the manifold: defect")
    assert manifold.check(x, tolerance=1.0).ok
    assert json.dumps(found.to_dict())


@every_case
def test_tangent_vectors(name, shape):
    """The projection is linear, idempotent and orthogonal, and its image has the manifold's dimension."""
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, shape)
    g = gaussian(shape, 5)
    t = manifold.tangent(x, g)
    assert torch.allclose(manifold.tangent(x, t), t, atol=1e-13)
    assert float(((g - t) * v).sum((-2, -1)).abs().max()) < 1e-12
    q, u = upright(manifold, x), upright(manifold, t)
    product = q.mT @ u
    zero = product.diagonal(dim1=-2, dim2=-1) if isinstance(manifold, Oblique) else product + product.mT
    assert float(zero.abs().max()) < 1e-13
    one = x.reshape(-1, *shape[-2:])[0]
    basis = torch.eye(one.numel(), dtype=one.dtype).reshape(-1, *one.shape)
    rank = int(torch.linalg.matrix_rank(manifold.tangent(one, basis).flatten(1), atol=1e-9))
    assert rank == manifold.dimension(one.shape)
    assert manifold.dimension(shape) == rank * (x.numel() // one.numel())


@every_case
def test_the_gradient_represents_the_differential(name, shape):
    """<grad, v> in the metric is the Euclidean <g, v> for all tangent v."""
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, shape)
    g = gaussian(shape, 5)
    grad = manifold.gradient(x, g)
    assert torch.allclose(manifold.tangent(x, grad), grad, atol=1e-13)
    assert torch.allclose(manifold.inner(x, grad, v), (g * v).sum((-2, -1)), atol=1e-12)
    assert torch.allclose(manifold.norm(x, v) ** 2, manifold.inner(x, v, v), atol=1e-12)


@every_case
def test_transport_is_tangent(name, shape):
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, shape)
    y = manifold.retract(x, v)
    carried = manifold.transport(x, v, y)
    assert torch.equal(carried, manifold.tangent(y, v))
    assert torch.allclose(manifold.transport(x, v, x), v, atol=1e-13)


@every_case
def test_retractions_are_of_first_order_and_stay(name, shape):
    """R(tv) = x + t v + O(t^2): halving t quarters the difference."""
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, shape)
    for method in manifold.retractions:
        taken = manifold.retraction(x, 0.1 * v, method)
        assert taken.defect.frobenius < 1e-14
        assert torch.equal(taken.point, manifold.retract(x, 0.1 * v, method))
        assert torch.allclose(manifold.retract(x, 0 * v, method), x, atol=1e-14)
        far, near = ((manifold.retract(x, t * v, method) - x - t * v).norm() for t in (2e-3, 1e-3))
        assert float(near) <= 0.26 * float(far) + 1e-15, method
        assert float(far) < 1e-5


@every_case
def test_exponential_and_logarithm(name, shape):
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, shape, length=1.3)
    y = manifold.exponential(x, v)
    assert manifold.check(y).frobenius < 1e-14
    assert torch.allclose(manifold.exponential(x, 0 * v), x, atol=1e-15)
    # along a geodesic one may stop on the way, or turn back
    half = manifold.exponential(x, v / 2)
    n, p = upright(manifold, x).shape[-2:]
    if name == "stiefel" and 1 < p < n:
        with pytest.raises(ValueError, match=r"no formula is known for the logarithm of \d x \d matrices in the embed"):
            manifold.logarithm(x, y)
        return
    assert torch.allclose(manifold.logarithm(x, y), v, atol=2e-12)
    assert torch.allclose(manifold.distance(x, y), manifold.norm(x, v), atol=2e-12)
    assert torch.allclose(manifold.distance(x, half), manifold.norm(x, v) / 2, atol=2e-12)
    assert torch.allclose(manifold.distance(y, half), manifold.norm(x, v) / 2, atol=2e-12)
    assert float(manifold.distance(x, x).abs().max()) < 1e-12


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_are_worked_on_in_float32_and_cast_back(name, shape, dtype):
    manifold = MANIFOLDS[name]
    x64, v64 = point_and_tangent(manifold, shape, length=0.3)
    x, v = x64.to(dtype), v64.to(dtype)
    eps = torch.finfo(dtype).eps
    assert manifold.check(x).ok
    for got, wanted in (
        (manifold.project(2 * x), x64),
        (manifold.tangent(x, v), v64),
        (manifold.gradient(x, v), manifold.gradient(x64, v64)),
        (manifold.transport(x, v, x), v64),
        (manifold.retract(x, v), manifold.retract(x64, v64)),
        (manifold.exponential(x, v), manifold.exponential(x64, v64)),
    ):
        assert got.dtype == dtype
        assert float((got.double() - wanted).abs().max()) < 8 * eps
    assert manifold.check(manifold.retract(x, v)).ok
    assert manifold.inner(x, v, v).dtype == torch.float32
    drawn = manifold.random(*shape, dtype=dtype, generator=seeded())
    assert drawn.dtype == dtype
    assert manifold.check(drawn).ok


@pytest.mark.parametrize("name", MANIFOLDS)
def test_batches_are_broadcast(name):
    manifold = MANIFOLDS[name]
    x, _ = point_and_tangent(manifold, (4, 4))
    v = manifold.tangent(x, gaussian((3, 4, 4)))
    for method in manifold.retractions:
        together = manifold.retract(x, 0.1 * v, method)
        assert torch.allclose(together, torch.stack([manifold.retract(x, 0.1 * one, method) for one in v]), atol=1e-14)
    assert torch.allclose(
        manifold.exponential(x, v), torch.stack([manifold.exponential(x, one) for one in v]), atol=1e-13
    )
    assert manifold.inner(x, v, v).shape == (3,)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_turning_the_problem_turns_the_answer(name):
    """Rotations on the side that the manifold does not constrain are isometries: every operation commutes with them."""
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, (5, 5) if isinstance(manifold, Orthogonal) else (6, 4), length=0.7)
    g = gaussian(x.shape, 7)
    rows = manifold.transposes(x.shape)
    turn = Stiefel().random(*(x.shape[-1 if rows else -2],) * 2, dtype=torch.float64, generator=seeded(3))

    def turned(a):
        return a @ turn if rows else turn @ a

    for operation in (
        lambda x, v, g: manifold.project(g),
        lambda x, v, g: manifold.gradient(x, g),
        lambda x, v, g: manifold.exponential(x, v),
        *(lambda x, v, g, m=m: manifold.retract(x, v, m) for m in manifold.retractions),
        lambda x, v, g: manifold.transport(x, v, manifold.retract(x, v)),
    ):
        assert torch.allclose(operation(turned(x), turned(v), turned(g)), turned(operation(x, v, g)), atol=1e-12)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_randomness_is_an_argument(name):
    manifold = MANIFOLDS[name]
    before = torch.random.get_rng_state()
    first = manifold.random(4, 4, generator=seeded(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, manifold.random(4, 4, generator=seeded(3)))
    assert not torch.equal(first, manifold.random(4, 4, generator=seeded(4)))


@pytest.mark.parametrize("name", MANIFOLDS)
def test_random_points_have_the_moments_of_the_uniform_law(name):
    """E q = 0, E q_ij^2 = 1/n, E q_ij^4 = 3 / (n (n + 2)) for a column uniform on the sphere of R^n.

    With N draws the standard errors of the three means are below 1 / sqrt(N n), sqrt(2) / (n sqrt(N)) and, since
    q^8 has mean 105 / (n (n+2) (n+4) (n+6)), sqrt(that / N). Entries of 16 positions are each held to five of them.
    """
    manifold = MANIFOLDS[name]
    n, count = 4, 20_000
    q = manifold.random(count, n, n, dtype=torch.float64, generator=seeded(11))
    root = count**0.5
    assert float(q.mean(0).abs().max()) < 5 / (root * n**0.5)
    assert float((q.square().mean(0) - 1 / n).abs().max()) < 5 * 2**0.5 / (n * root)
    eighth = 105 / (n * (n + 2) * (n + 4) * (n + 6))
    assert float((q.pow(4).mean(0) - 3 / (n * (n + 2))).abs().max()) < 5 * eighth**0.5 / root
    # and columns of a Haar matrix repel: E q_11^2 q_22^2 = (n + 1) / ((n - 1) n (n + 2)); independent ones: 1 / n^2
    mixed = float((q[:, 0, 0] * q[:, 1, 1]).square().mean())
    wanted = 1 / n**2 if isinstance(manifold, Oblique) else (n + 1) / ((n - 1) * n * (n + 2))
    assert abs(mixed - wanted) < 5 * eighth**0.5 / root


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(set(MANIFOLDS) - {"orthogonal"})),
    n=st.integers(1, 9),
    p=st.integers(1, 9),
    exponent=st.integers(-12, 12),
    length=st.floats(0, 20),
    seed=st.integers(0, 2**20),
)
def test_projections_and_retractions_land_for_any_size_and_scale(name, n, p, exponent, length, seed):
    manifold = MANIFOLDS[name]
    x = manifold.project(gaussian((n, p), seed) * 10.0**exponent)
    assert manifold.check(x).ok
    v = length * manifold.tangent(x, gaussian((n, p), seed + 1))
    taken = manifold.retraction(x, v)
    assert taken.defect.ok
    assert taken.method in ("polar", "newton-schulz")
    assert manifold.check(manifold.exponential(x, manifold.tangent(x, v))).ok


@pytest.mark.parametrize("name", MANIFOLDS)
def test_bad_arguments_are_refused_by_name(name):
    manifold = MANIFOLDS[name]
    x, v = point_and_tangent(manifold, (3, 3))
    bad = v.clone()
    bad[0, 0] = float("nan")
    for call, words in (
        (lambda: manifold.project(bad), "x holds 1 non-finite value"),
        (lambda: manifold.tangent(x, bad), "v holds 1 non-finite value"),
        (lambda: manifold.gradient(x, bad), "g holds 1 non-finite value"),
        (lambda: manifold.retract(x, bad), "v holds 1 non-finite value"),
        (lambda: manifold.transport(x, v, bad), "y holds 1 non-finite value"),
        (lambda: manifold.inner(x, bad, v), "u holds 1 non-finite value"),
        (lambda: manifold.exponential(bad, v), "x holds 1 non-finite value"),
        (lambda: manifold.logarithm(x, bad), "y holds 1 non-finite value"),
        (lambda: manifold.check(bad), "x holds 1 non-finite value"),
        (lambda: manifold.retract(x, v, "qz"), "unknown retraction of .* 'qz'; did you mean 'qr'"),
        (lambda: manifold.exponential(2 * x, v), "x is not on the manifold .*: its defect is .*; pass project"),
        (lambda: manifold.retract(3 * x, 0 * v), "x is not on the manifold .*: its defect is .*; pass project"),
        (lambda: manifold.retraction(3 * x, v), "x is not on the manifold"),
        (lambda: manifold.logarithm(x, 2 * x), "y is not on the manifold"),
        (lambda: manifold.exponential(x, v + 0.1 * x), "v is not tangent to .* at x: 0.* of its length sticks out"),
        (lambda: manifold.tangent(x, v[:2, :2]), "v must have the shape of x, a matrix of 3 x 3, got one of 2 x 2"),
        (lambda: manifold.tangent(x[0], v[0]), "x must have at least 2 dimensions"),
        (lambda: manifold.random(3), r"shape must be \(\*batch, n, p\), got \(3,\); a vector of length n is"),
        (lambda: manifold.random(0, 3), "each length in shape must be at least 1"),
        (lambda: manifold.project(x.to("meta")), "x is on the meta device"),
        (lambda: manifold.project(torch.zeros(3, 3)), "x has (rank 0, but|3 zero columns)"),
        (lambda: manifold.check(x, tolerance=-1.0), "tolerance must be a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="x's dtype must be real floating point"):
        manifold.project(torch.eye(3, dtype=torch.complex64))
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifold.dim = 3


def test_equality_is_by_definition():
    assert Stiefel() == Stiefel("embedded") != Stiefel("canonical")
    assert Oblique(-1) != Oblique(-2) == Oblique().upright
    assert Orthogonal() != Stiefel()
    assert len({Stiefel(), Stiefel(), Oblique()}) == 2
