"""The oblique manifold against formulas of the sphere, column by column."""

from __future__ import annotations

import math

import pytest
import torch

from isometry.manifolds import Oblique
from tests.manifolds.cases import gaussian, point_and_tangent, seeded

COLUMNS, ROWS = Oblique(dim=-2), Oblique(dim=-1)


def test_agrees_with_the_sphere_column_by_column():
    """The sphere's formulas as geoopt has them (Sphere.egrad2rgrad, retr, expmap, logmap, dist)."""
    x, v = point_and_tangent(COLUMNS, (5, 3), length=1.1)
    g = gaussian((5, 3), 4)
    y = COLUMNS.exponential(x, v)
    for j in range(3):
        q, u, h, z = x[:, j], v[:, j], g[:, j], y[:, j]
        size = u.norm()
        assert torch.allclose(COLUMNS.gradient(x, g)[:, j], h - q * (q @ h))
        assert torch.allclose(COLUMNS.retract(x, v)[:, j], (q + u) / (q + u).norm())
        assert torch.allclose(z, q * size.cos() + u * size.sin() / size)
        assert torch.allclose(COLUMNS.logarithm(x, y)[:, j], u, atol=1e-14)
    angles = torch.stack([torch.acos(x[:, j] @ y[:, j]) for j in range(3)])
    assert torch.allclose(COLUMNS.distance(x, y), angles.norm())


def test_rows_are_columns_of_the_transpose():
    x, v = point_and_tangent(ROWS, (4, 6), length=0.8)
    assert torch.allclose(x.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(ROWS.retract(x, v), COLUMNS.retract(x.T, v.T).T)
    assert torch.equal(ROWS.exponential(x, v), COLUMNS.exponential(x.T, v.T).T)
    assert torch.equal(Oblique().project(x), ROWS.project(x))  # wide: the longer side
    assert torch.equal(Oblique().project(x.T), COLUMNS.project(x.T))
    assert ROWS.dimension((2, 4, 6)) == 2 * 4 * 5
    assert COLUMNS.dimension((4, 6)) == 6 * 3


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 3.0, math.pi - 1e-6])
def test_the_logarithm_is_accurate_at_both_ends(angle):
    x = torch.eye(4, 1, dtype=torch.float64)
    v = torch.zeros_like(x)
    v[1] = angle
    y = COLUMNS.exponential(x, v)
    assert torch.allclose(COLUMNS.logarithm(x, y), v, rtol=1e-9, atol=1e-25)
    assert float(COLUMNS.distance(x, y)) == pytest.approx(angle, rel=1e-9)


def test_scale_is_no_matter():
    a = gaussian((6, 3))
    for factor in (1e-300, 1e300):
        assert torch.allclose(COLUMNS.project(a * factor), COLUMNS.project(a), rtol=1e-14)
    assert torch.allclose(COLUMNS.project(a.float() * 1e-42), COLUMNS.project(a).float(), atol=1e-2)  # denormals


def test_refusals():
    a = gaussian((4, 3))
    a[:, 1] = 0
    with pytest.raises(ValueError, match=r"x has 1 zero column \(rows, .*\), which have no direction; draw them anew"):
        COLUMNS.project(a)
    assert ROWS.check(ROWS.project(a)).ok
    x = COLUMNS.random(4, 3, generator=seeded())
    with pytest.raises(ValueError, match=r"x \+ v has 3 zero columns"):
        COLUMNS.retract(x, -x)
    with pytest.raises(ValueError, match="x and y have opposite columns, which no shortest geodesic singles out"):
        COLUMNS.logarithm(x, -x)
    for dim in (0, 1, 2, True, "rows"):
        with pytest.raises(ValueError, match="dim must be -2"):
            Oblique(dim)
