"""Metrics, retractions and geodesics of the Stiefel manifold, against formulas written out naively."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch

from isometry.manifolds import Orthogonal, Stiefel
from isometry.manifolds._geodesics import RADIUS
from tests.manifolds.cases import gaussian, point_and_tangent, seeded

EMBEDDED, CANONICAL = Stiefel(), Stiefel("canonical")
SHAPES = [(7, 3), (5, 4), (5, 5), (6, 1), (3, 8)]


def tall(shape, length=1.0, seed=0):
    x, v = point_and_tangent(EMBEDDED, shape, length, seed)
    return (x, v) if shape[0] >= shape[1] else (x.T, v.T)


# -- formulas as two other libraries have them, written out matrix by matrix -------------------------------------------


def geoopt_formulas(x, g):
    """geoopt: EuclideanStiefel.proju, CanonicalStiefel's gradient, EuclideanStiefel.retr (QR with the signs)."""
    xtg = x.T @ g
    q, r = torch.linalg.qr(x + g)
    unflip = torch.sign(torch.sign(torch.diagonal(r)) + 0.5)
    return {"projection": g - x @ (0.5 * (xtg + xtg.T)), "canonical": g - x @ (xtg.T), "qr": q * unflip[None, :]}


def pymanopt_formulas(x, g):
    """pymanopt: Stiefel.projection, Stiefel._retraction_polar, Stiefel.exp."""
    p = x.shape[1]
    u, _, vt = torch.linalg.svd(x + g, full_matrices=False)
    a = x.T @ g
    w = torch.linalg.matrix_exp(torch.cat([torch.cat([a, -g.T @ g], 1), torch.cat([torch.eye(p).to(x), a], 1)], 0))
    z = torch.cat([torch.linalg.matrix_exp(-a), torch.zeros(p, p).to(x)], 0)
    return {
        "projection": g - x @ ((x.T @ g + g.T @ x) / 2),
        "polar": u @ vt,
        "exponential": torch.cat([x, g], 1) @ (w @ z),
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_formulas_of_geoopt_and_pymanopt(shape):
    x, v = tall(shape)
    g = gaussian(tuple(x.shape), 5)
    for found, wanted in (
        (EMBEDDED.gradient(x, g), geoopt_formulas(x, g)["projection"]),
        (EMBEDDED.tangent(x, g), pymanopt_formulas(x, g)["projection"]),
        (CANONICAL.gradient(x, g), geoopt_formulas(x, g)["canonical"]),
        (EMBEDDED.retract(x, v, "qr"), geoopt_formulas(x, v)["qr"]),
        (EMBEDDED.retract(x, v, "polar"), pymanopt_formulas(x, v)["polar"]),
        (EMBEDDED.exponential(x, v), pymanopt_formulas(x, v)["exponential"]),
    ):
        assert torch.allclose(found, wanted, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_wide_matrices_are_the_transposes_of_tall_ones(shape):
    x, v = tall(shape)
    g = gaussian(tuple(x.shape), 5)
    if x.shape[0] == x.shape[1]:
        return
    v = v / 2  # short enough for every retraction
    for manifold in (EMBEDDED, CANONICAL):
        assert torch.equal(manifold.gradient(x.T, g.T), manifold.gradient(x, g).T)
        assert torch.equal(manifold.inner(x.T, v.T, g.T), manifold.inner(x, v, g))
        for method in manifold.retractions:
            assert torch.equal(manifold.retract(x.T, v.T, method), manifold.retract(x, v, method).T)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_canonical_metric_counts_turns_of_the_frame_half(shape):
    x, v = tall(shape)
    n = x.shape[0]
    naive = torch.trace(v.T @ (torch.eye(n).to(x) - x @ x.T / 2) @ v)
    assert torch.allclose(CANONICAL.inner(x, v, v), naive, atol=1e-13)
    a = torch.randn(x.shape[1], x.shape[1], dtype=x.dtype, generator=seeded(4))
    turn = x @ (a - a.T)
    assert torch.allclose(CANONICAL.inner(x, turn, turn), EMBEDDED.inner(x, turn, turn) / 2, atol=1e-12)


def order(retract, exponential):
    """Slope of log |R(t v) - exp(t v)| against log t."""
    far, near = (float((retract(t) - exponential(t)).norm()) for t in (4e-2, 1e-2))
    return math.log(far / near) / math.log(4)


@pytest.mark.parametrize(
    ("manifold", "method", "slope"),
    [
        (EMBEDDED, "qr", 2),
        (EMBEDDED, "polar", 3),
        (EMBEDDED, "newton-schulz", 3),
        (EMBEDDED, "auto", 3),
        (CANONICAL, "cayley", 3),
        # in the other metric each of them is of first order only: the tangential acceleration differs
        (CANONICAL, "polar", 2),
        (EMBEDDED, "cayley", 2),
    ],
)
def test_orders_of_the_retractions(manifold, method, slope):
    x, v = tall((8, 3))
    found = order(lambda t: manifold.retract(x, t * v, method), lambda t: manifold.exponential(x, t * v))
    assert found == pytest.approx(slope, abs=0.06)


@pytest.mark.parametrize("method", ["polar", "cayley"])
@pytest.mark.parametrize("shape", [(5, 5), (6, 1)])
def test_on_the_group_and_on_the_sphere_both_metrics_have_the_same_geodesics(shape, method):
    x, v = tall(shape)
    assert torch.allclose(EMBEDDED.exponential(x, v), CANONICAL.exponential(x, v), atol=1e-13)
    found = order(lambda t: EMBEDDED.retract(x, t * v, method), lambda t: EMBEDDED.exponential(x, t * v))
    assert found == pytest.approx(3, abs=0.06)


@pytest.mark.parametrize("shape", [(7, 3), (5, 4), (4, 3), (6, 2)])
@pytest.mark.parametrize("manifold", [EMBEDDED, CANONICAL], ids=["embedded", "canonical"])
def test_exponentials_solve_the_geodesic_equation(manifold, shape):
    """Their accelerations are normal to the manifold, in the metric (finite differences of second order).

    Embedded: X'' is normal. Canonical: X'' + X' X'^T X + X ((X^T X')^2 + X'^T X') = 0 (Edelman et al., Sec. 2.4.2).
    """
    x, v = tall(shape)
    h = 1e-3
    at = {k: manifold.exponential(x, (0.5 + k * h) * v) for k in (-1, 0, 1)}
    y, speed = at[0], (at[1] - at[-1]) / (2 * h)
    bend = (at[1] - 2 * at[0] + at[-1]) / h**2
    if manifold is EMBEDDED:
        assert float(EMBEDDED.tangent(y, bend).norm()) < 2e-6
    else:
        a = y.T @ speed
        assert float((bend + speed @ speed.T @ y + y @ (a @ a + speed.T @ speed)).norm()) < 2e-6
    # the speed is constant
    assert float(manifold.norm(y, manifold.tangent(y, speed))) == pytest.approx(float(manifold.norm(x, v)), abs=1e-6)


@pytest.mark.parametrize("shape", [(7, 3), (5, 4), (9, 2)])
def test_cayley_solves_the_full_system(shape):
    """Wen and Yin's curve with the n x n system, whatever the shape."""
    x, v = tall(shape)
    n = len(x)
    eye = torch.eye(n, dtype=x.dtype)
    half = (eye - x @ x.T / 2) @ v
    w = half @ x.T - x @ half.T
    assert torch.allclose(w @ x, v, atol=1e-13)
    wanted = torch.linalg.solve(eye - w / 2, (eye + w / 2) @ x)
    assert torch.allclose(CANONICAL.retract(x, v, "cayley"), wanted, atol=1e-13)


def test_cayley_keeps_orthogonality_only_of_points_and_tangents_and_says_so():
    x, v = tall((6, 3))
    with pytest.raises(ValueError, match=r"x is not on the manifold stiefel: its defect is 5\.2; pass project\(x\)"):
        EMBEDDED.retract(2 * x, v, "cayley")
    with pytest.raises(ValueError, match=r"v is not tangent to stiefel at x: .* sticks out; pass tangent\(x, v\)"):
        EMBEDDED.retract(x, v + 0.1 * x, "cayley")


# -- the polar retraction and Newton-Schulz ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_auto_says_what_it_used_and_equals_the_exact_factor(shape, dtype):
    x, v = tall(shape)
    x, v = x.to(dtype), v.to(dtype)
    eps = torch.finfo(dtype).eps
    for length, method in ((0.3, "newton-schulz"), (3.0, "polar")):
        taken = EMBEDDED.retraction(x, length * v)
        y = x + length * v
        assert taken.spread == pytest.approx(float((y.T @ y - torch.eye(y.shape[1]).to(y)).norm()), rel=1e-4)
        assert taken.method == method
        assert (taken.steps > 0) == (method == "newton-schulz")
        assert float((taken.point - EMBEDDED.retract(x, length * v, "polar")).abs().max()) < 8 * eps
        assert taken.defect.frobenius < 8 * eps


def test_newton_schulz_takes_one_or_two_steps_after_a_small_move():
    x = EMBEDDED.random(100, 100, generator=seeded())
    v = EMBEDDED.tangent(x, gaussian((100, 100)).float())
    v /= v.norm()
    for length, steps in ((0.05, 1), (0.5, 2), (2.0, 3), (20.0, 0)):
        taken = EMBEDDED.retraction(x, length * v)
        assert (taken.method, taken.steps) == ("newton-schulz" if steps else "polar", steps)
        assert taken.defect.frobenius < 4e-6


def test_steps_too_long_for_newton_schulz():
    """The bound is what it says: at a spread just below one it converges, above it refuses."""
    x, v = tall((6, 3))
    scale = float((v.T @ v).norm()) ** -0.5  # |v^T v| = 1
    just = EMBEDDED.retraction(x, 0.999 * scale * v, "newton-schulz")
    assert just.steps > 3
    assert just.defect.frobenius < 1e-14
    assert torch.allclose(just.point, EMBEDDED.retract(x, 0.999 * scale * v, "polar"), atol=1e-13)
    with pytest.raises(
        ValueError, match=r"v is too long for Newton-Schulz: .* = 1\.\d* must be below 1; take a shorter"
    ):
        EMBEDDED.retract(x, 1.1 * scale * v, "newton-schulz")


def test_newton_schulz_is_safe_without_tangency_too():
    """v that shrinks x leaves singular values below one, which a bound for tangent vectors would not see."""
    x, _ = tall((6, 3))
    taken = EMBEDDED.retraction(x, -0.25 * x, "newton-schulz")
    assert torch.allclose(taken.point, x, atol=1e-14)
    column, _ = tall((6, 1))
    taken = EMBEDDED.retraction(column, -0.8 * column, "newton-schulz")  # a singular value of 0.2 alone
    assert taken.steps == 6
    assert torch.allclose(taken.point, column, atol=1e-15)


# -- projection --------------------------------------------------------------------------------------------------------


def test_rank_deficient_matrices_are_refused_with_their_rank():
    low = gaussian((8, 2)) @ gaussian((2, 5), 2)
    for matrix in (low, low.float(), 1e-20 * low, low.float().T):
        with pytest.raises(ValueError, match=r"x has rank 2, but orthonormalizing a matrix of 8 x 5 takes rank 5"):
            EMBEDDED.project(matrix)
    with pytest.raises(ValueError, match=r"x\[1\] has rank 2"):
        EMBEDDED.project(torch.stack([gaussian((8, 5)), low]))
    x = EMBEDDED.random(4, 2, dtype=torch.float64, generator=seeded())
    with pytest.raises(ValueError, match=r"x \+ v has rank 0"):
        EMBEDDED.retract(x, -x)


def test_ill_conditioned_matrices_are_projected_nevertheless():
    """Singular values down to 1e-6 in float32: no rank is lost, and the factor is orthonormal to rounding."""
    u, v = EMBEDDED.random(50, 20, generator=seeded()), EMBEDDED.random(20, 20, generator=seeded(1))
    a = (u * torch.logspace(0, -6, 20)) @ v
    q = EMBEDDED.project(a)
    assert EMBEDDED.check(q).frobenius < 3e-6
    assert EMBEDDED.check(EMBEDDED.project(1e30 * a)).ok


def test_polar_factor_against_scipy():
    a = gaussian((7, 4))
    wanted, _ = scipy.linalg.polar(a.numpy())
    assert torch.allclose(EMBEDDED.project(a), torch.from_numpy(wanted), atol=1e-13)


# -- logarithm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.1, 1.5, 2.5])
@pytest.mark.parametrize("shape", [(8, 3), (5, 4), (4, 3), (10, 5), (3, 9), (3, 6, 2)])
def test_the_logarithm_undoes_the_exponential_up_to_the_injectivity_radius(shape, length):
    x, v = point_and_tangent(CANONICAL, shape)
    v = v * (length / CANONICAL.norm(x, v))[..., None, None]
    y = CANONICAL.exponential(x, v)
    assert torch.allclose(CANONICAL.logarithm(x, y), v, atol=1e-11)
    assert torch.allclose(CANONICAL.distance(x, y), torch.full(shape[:-2], length, dtype=torch.float64), atol=1e-11)
    assert torch.allclose(CANONICAL.distance(y, x), CANONICAL.distance(x, y), atol=1e-11)


@pytest.mark.parametrize("shape", [(8, 3), (6, 2), (4, 2), (7, 5), (5, 4)])
@pytest.mark.parametrize("part", ["frame", "plane"])
def test_the_logarithm_of_turns_of_the_frame_alone_and_of_the_plane_alone(shape, part):
    """The two extremes: x A, and several planes by more than a right angle each (where x^T y is negative)."""
    x, v = point_and_tangent(CANONICAL, shape)
    inside = x @ (x.mT @ v)
    v = inside if part == "frame" else v - inside
    v = v * (2.7 / CANONICAL.norm(x, v))
    assert torch.allclose(CANONICAL.logarithm(x, CANONICAL.exponential(x, v)), v, atol=1e-11)


def test_the_logarithm_in_float32():
    x, v = point_and_tangent(CANONICAL, (8, 3))
    x, v = x.float(), v.float()
    y = CANONICAL.exponential(x, v)
    assert torch.allclose(CANONICAL.logarithm(x, y), v, atol=5e-6)


def test_distances_obey_the_triangle_inequality_and_rotations():
    points = [CANONICAL.exponential(*_near(seed)) for seed in range(4)]
    a, b, c, _ = points
    assert float(CANONICAL.distance(a, c)) <= float(CANONICAL.distance(a, b) + CANONICAL.distance(b, c)) + 1e-12
    turn = Orthogonal().random(6, 6, dtype=torch.float64, generator=seeded(9))
    assert torch.allclose(CANONICAL.distance(turn @ a, turn @ b), CANONICAL.distance(a, b), atol=1e-11)


def _near(seed):
    x = CANONICAL.random(6, 3, dtype=torch.float64, generator=seeded())
    return x, 0.5 * CANONICAL.tangent(x, gaussian((6, 3), seed)) / 3**0.5


def test_points_too_far_apart_are_refused():
    x = torch.eye(6, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the rotation from x to y turns a plane by an angle of pi"):
        CANONICAL.logarithm(x, -x)
    v = torch.zeros_like(x)
    v[2, 0] = v[3, 1] = 0.9 * RADIUS  # two planes turn at a time: longer than the radius
    with pytest.raises(ValueError, match=r"has length 3\.58, beyond the injectivity radius of sqrt\(4/5\) pi = 2\.81"):
        CANONICAL.logarithm(x, CANONICAL.exponential(x, v))
    sphere = torch.eye(6, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="x and y have opposite columns"):
        CANONICAL.logarithm(sphere, -sphere)


def test_unknown_metric():
    with pytest.raises(ValueError, match="unknown metric 'canonic'; did you mean 'canonical'"):
        Stiefel("canonic")
