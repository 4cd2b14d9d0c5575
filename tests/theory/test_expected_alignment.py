"""The expected turn of a tangent kernel: against averages over tasks, and against trained networks."""

from __future__ import annotations

import math

import pytest
import torch

from isometry.theory import expected_alignment, tangent_form
from isometry.theory.linear_dynamics import simulate


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def cosine(a, b):
    return float((a * b).sum() / a.norm() / b.norm())


def test_it_is_the_average_over_tasks():
    d, draws = 7, 20000
    w1 = torch.randn(4, d, generator=gen(), dtype=torch.float64)
    m0 = tangent_form(w1, 0.3 * torch.ones(1, 4))
    b = torch.nn.functional.normalize(torch.randn(draws, d, generator=gen(1), dtype=torch.float64), dim=1)
    ends = b.unsqueeze(2) * b.unsqueeze(1) + torch.eye(d, dtype=torch.float64)
    cosines = (ends * m0).sum((1, 2)) / ends.flatten(1).norm(dim=1) / m0.norm()
    assert abs(expected_alignment(m0) - float(cosines.mean())) < 4 * float(cosines.std()) / math.sqrt(draws)


def test_small_weights_end_where_it_says():
    """Trained from a small scale: the closed form of the end, hence the alignment for this very task."""
    d, g = 6, gen(3)
    beta = torch.nn.functional.normalize(torch.randn(d, generator=g, dtype=torch.float64), dim=0)
    w1 = torch.randn(20, d, generator=g, dtype=torch.float64)
    w1 *= 1e-3 / w1.norm()
    w2 = torch.zeros(1, 20, dtype=torch.float64)
    path = simulate([w1, w2], torch.eye(d), beta.unsqueeze(0), lr=0.02, steps=3000, every=3000)
    m0, m1 = tangent_form(w1, w2), tangent_form(*path.weights)
    expected = torch.outer(beta, beta) + torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(m1, expected, atol=2e-3, rtol=0)
    exact = float(beta @ m0 @ beta + m0.trace()) / math.sqrt(d + 3) / float(m0.norm())
    assert cosine(m0, m1) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_equal_singular_values_give_the_root_of_the_rank(rank):
    d = 5
    q = torch.linalg.qr(torch.randn(d, rank, generator=gen(rank), dtype=torch.float64)).Q
    m0 = tangent_form(0.01 * q.T, torch.zeros(1, rank))
    assert expected_alignment(m0) == pytest.approx(math.sqrt(rank) * (1 + 1 / d) / math.sqrt(d + 3), rel=1e-12)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"m0 is zero, so its direction is undefined; start from weights that are not"):
        expected_alignment(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"m0 must be a symmetric matrix, got shape \(2, 3\); build it with"):
        expected_alignment(torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r"w2 must have shape \(1, 4\) for w1 of shape \(4, 3\), one output, got \(2, 4\)"
    ):
        tangent_form(torch.ones(4, 3), torch.ones(2, 4))
