"""The orthogonal group: exact geodesics, the logarithm near its end, the group's own operations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from isometry.manifolds import Orthogonal
from isometry.manifolds._rotations import rotation_logarithm
from tests.manifolds.cases import gaussian, point_and_tangent, seeded

GROUP = Orthogonal()


def turn(*angles, extra=0, seed=0):
    """A rotation by given angles in random planes, and its logarithm."""
    n = 2 * len(angles) + extra
    block = torch.zeros(n, n, dtype=torch.float64)
    for i, angle in enumerate(angles):
        block[2 * i + 1, 2 * i], block[2 * i, 2 * i + 1] = angle, -angle
    basis = GROUP.random(n, n, dtype=torch.float64, generator=seeded(seed))
    skew = basis @ block @ basis.T
    return torch.from_numpy(scipy.linalg.expm(skew.numpy())), skew


@pytest.mark.parametrize("angles", [(0.3,), (0.0, 0.0), (1e-9, 2.0), (1.0, 1.0, 1.0), (3.0, 0.1, 2.2), (math.pi / 2,)])
@pytest.mark.parametrize("extra", [0, 1])
def test_the_logarithm_finds_the_angles(angles, extra):
    """Equal angles and zeros are where eigenvectors are not unique."""
    q, skew = turn(*angles, extra=extra)
    found = rotation_logarithm("q", q, torch.float64)
    assert torch.allclose(found, skew, atol=1e-13)
    assert torch.equal(found, -found.mT)


@pytest.mark.parametrize("angle", [8e-5, 1e-7])
def test_small_turns_are_found_to_the_rounding_of_q(angle):
    q, skew = turn(angle, extra=1)
    found = rotation_logarithm("q", q, torch.float64)
    assert float((found - skew).abs().max()) < 4e-15


def test_the_logarithm_agrees_with_scipy_on_a_batch():
    x, v = point_and_tangent(GROUP, (5, 6, 6), length=1.5)
    y = GROUP.exponential(x, v)
    wanted = np.stack([scipy.linalg.logm((a.T @ b).numpy()).real for a, b in zip(x, y, strict=True)])
    assert torch.allclose(x.mT @ GROUP.logarithm(x, y), torch.from_numpy(wanted), atol=1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_the_logarithm_next_to_its_end(gap):
    """At an angle of pi - gap the rounding of q itself, eps, decides about the plane's angle to eps / gap."""
    q, skew = turn(math.pi - gap, 0.4)
    assert float((rotation_logarithm("q", q, torch.float64) - skew).abs().max()) < 50 * 2.2e-16 / gap


def test_distance_is_the_length_of_the_angles():
    x = GROUP.random(6, 6, dtype=torch.float64, generator=seeded(4))
    q, _ = turn(0.5, 1.2, 2.9)
    wanted = math.sqrt(2 * (0.5**2 + 1.2**2 + 2.9**2))
    assert float(GROUP.distance(x, x @ q)) == pytest.approx(wanted, rel=1e-12)
    assert float(GROUP.distance(x, q @ x)) == pytest.approx(wanted, rel=1e-12)  # turns on either side keep it


def test_other_components_and_the_cut_locus_are_refused():
    x = torch.eye(4, dtype=torch.float64)
    mirrored = x.clone()
    mirrored[0, 0] = -1
    with pytest.raises(ValueError, match=r"x\^T y has determinant -1: no path on the manifold joins the two points"):
        GROUP.distance(x, mirrored)
    q, _ = turn(math.pi, 0.3)
    with pytest.raises(ValueError, match=r"x\^T y turns a plane by an angle of pi: .* cut locus"):
        GROUP.logarithm(x, q)


def test_group_operations():
    x, v = point_and_tangent(GROUP, (5, 5))
    y = GROUP.random(5, 5, dtype=torch.float64, generator=seeded(8))
    assert torch.allclose(GROUP.product(x, GROUP.inverse(x)), torch.eye(5, dtype=torch.float64), atol=1e-14)
    assert torch.equal(GROUP.product(x, y), x @ y)
    carried = GROUP.translate(x, v, y)
    assert torch.allclose(GROUP.tangent(y, carried), carried, atol=1e-14)
    assert torch.allclose(GROUP.norm(y, carried), GROUP.norm(x, v))
    assert torch.allclose(GROUP.exponential(y, carried), y @ x.T @ GROUP.exponential(x, v), atol=1e-13)
    assert GROUP.product(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16


def test_both_components_are_drawn():
    signs = torch.linalg.det(GROUP.random(400, 3, 3, generator=seeded()))
    assert 140 < int((signs > 0).sum()) < 260  # six standard deviations of 400 fair coins


def test_other_matrices_are_refused():
    for call in (
        lambda: GROUP.project(gaussian((4, 3))),
        lambda: GROUP.random(4, 3),
        lambda: GROUP.dimension((4, 3)),
        lambda: GROUP.tangent(gaussian((3, 4)), gaussian((3, 4))),
    ):
        with pytest.raises(
            ValueError, match=r"the orthogonal group has square matrices only, got \d x \d; use Stiefel"
        ):
            call()
    with pytest.raises(TypeError):
        Orthogonal("canonical")
