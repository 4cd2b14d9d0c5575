"""Projection onto chosen columns of a fixed basis: what is chosen, what is lost, what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import dct_matrix
from isometry.optim import DCTProjector
from isometry.optim._dct_projector import strongest_columns

BASES = ["dct2", "dct3", "random", "identity"]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def basis(name, n):
    """Q as the projector shows it: what each unit vector of coefficients comes back as."""
    projector = DCTProjector((n, n), rank=n, basis=name)
    projector.select(draw(n, n))
    return projector.up(torch.eye(n, dtype=torch.float64)).T


def test_the_bases_are_what_they_are_called():
    c = dct_matrix(6, dtype=torch.float64)
    torch.testing.assert_close(basis("dct2", 6), c.T)
    torch.testing.assert_close(basis("dct3", 6), c)
    torch.testing.assert_close(basis("identity", 6), torch.eye(6, dtype=torch.float64))
    q = basis("random", 6)
    torch.testing.assert_close(q.T @ q, torch.eye(6, dtype=torch.float64))
    assert torch.equal(q, basis("random", 6))


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_projection_is_the_dense_one(name, p, shape):
    g, q = draw(*shape, seed=3), basis(name, min(shape))
    projector = DCTProjector(shape, rank=2, p=p, basis=name)
    low = projector.project(g)
    s = g @ q if shape[0] >= shape[1] else (q.T @ g).T
    norms = torch.linalg.vector_norm(s, p, dim=0)
    assert projector.indices.tolist() == sorted(norms.argsort(descending=True)[:2].tolist())
    qi = q[:, projector.indices.long()]
    expected, back = (g @ qi, g @ qi @ qi.T) if shape[0] >= shape[1] else (qi.T @ g, qi @ qi.T @ g)
    torch.testing.assert_close(low, expected)
    torch.testing.assert_close(projector.down(g), expected)
    torch.testing.assert_close(projector.up(low), back)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_routes_choose_alike_and_give_the_same_numbers(shape):
    g = draw(3, *shape)
    by = {route: DCTProjector(shape, rank=3, route=route) for route in ("fft", "matmul")}
    torch.testing.assert_close(*(projector.up(projector.project(g)) for projector in by.values()))
    assert torch.equal(by["fft"].indices, by["matmul"].indices)


def test_each_matrix_of_a_batch_chooses_for_itself():
    g, projector = draw(4, 8, 5), DCTProjector((8, 5), rank=2)
    low, indices = projector.project(g), projector.indices
    assert len({tuple(row) for row in indices.tolist()}) > 1
    for i in range(4):
        one = DCTProjector((8, 5), rank=2)
        torch.testing.assert_close(one.project(g[i]), low[i])
        assert torch.equal(one.indices, indices[i])


@given(st.integers(1, 8), st.integers(1, 8), st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_lost_is_within_the_bound_and_the_least_of_all_choices(m, n, data):
    rank = data.draw(st.integers(1, min(m, n)))
    g = draw(m, n, seed=data.draw(st.integers(0, 10_000)))
    projector = DCTProjector((m, n), rank=rank)
    lost = float((g - projector.up(projector.project(g))).square().sum())
    assert lost <= (1 - rank / min(m, n)) * float(g.square().sum()) + 1e-12
    s = (g if m >= n else g.T) @ dct_matrix(min(m, n), dtype=torch.float64).T
    kept = [float(s[:, list(c)].square().sum()) for c in itertools.combinations(range(min(m, n)), rank)]
    assert lost == pytest.approx(float(g.square().sum()) - max(kept), abs=1e-9)


def test_with_the_other_norm_the_bound_can_fail():
    # One column of a single large entry, three of many small ones with a larger sum.
    s = torch.zeros(40, 4, dtype=torch.float64)
    s[0, 0], s[:, 1] = 8.0, 0.25
    g = s @ dct_matrix(4, dtype=torch.float64)
    lost = {}
    for p in (1, 2):
        projector = DCTProjector((40, 4), rank=1, p=p)
        lost[p] = float((g - projector.up(projector.project(g))).square().sum() / g.square().sum())
    assert lost[1] == pytest.approx(64 / 66.5)
    assert lost[1] > 1 - 1 / 4 > lost[2]


def test_of_equal_columns_the_first_are_chosen():
    assert strongest_columns(torch.ones(3, 6), 4).tolist() == [0, 1, 2, 3]
    assert strongest_columns(torch.zeros(3, 6), 2, p=1).tolist() == [0, 1]


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_sizes_whose_squares_leave_float32_are_chosen_alike(size):
    s = draw(5, 6, dtype=torch.float32)
    assert torch.equal(strongest_columns(s * size, 3), strongest_columns(s, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_kept(dtype):
    projector, g = DCTProjector((6, 4), rank=0.5), draw(6, 4).to(dtype)
    assert projector.rank == 2
    back = projector.up(projector.project(g))
    assert back.dtype == dtype
    torch.testing.assert_close(back.double(), projector.up(projector.down(g.double())), rtol=0.03, atol=0.03)


def test_one_column_and_zeros():
    projector = DCTProjector((5, 1), rank=1)
    g = draw(5, 1)
    assert torch.equal(projector.up(projector.project(g)), g)
    assert torch.equal(projector.up(projector.project(0 * g)), 0 * g)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DCTProjector((4, 3), 0), ValueError, "rank must be at least 1, got 0"),
        (
            lambda: DCTProjector((4, 3), 4),
            ValueError,
            r"rank must be from 1 to 3 for the matrix of shape \(4, 3\), got 4",
        ),
        (lambda: DCTProjector((4, 3), 0.1), ValueError, r"0.1 of 3 rounds to 0; give a whole number"),
        (lambda: DCTProjector((4, 3), 1.5), ValueError, "rank as a fraction must be above 0 and at most 1, got 1.5"),
        (lambda: DCTProjector((4, 3), 0.0), ValueError, "rank as a fraction must be above 0"),
        (lambda: DCTProjector((4, 3), math.nan), ValueError, "rank must be a finite number"),
        (lambda: DCTProjector((4, 3), True), TypeError, "rank must be an integer, got bool"),
        (lambda: DCTProjector((4, 3), "half"), TypeError, "rank must be an integer, got str"),
        (lambda: DCTProjector((4, 3, 2), 1), ValueError, r"shape must be \(rows, columns\), got \(4, 3, 2\)"),
        (lambda: DCTProjector((4, 0), 1), ValueError, "shape must be at least 1, got 0"),
        (lambda: DCTProjector((4, 3), 1, p=3), ValueError, "p must be 1 or 2, got 3"),
        (lambda: DCTProjector((4, 3), 1, basis="dct4"), ValueError, "basis"),
        (lambda: DCTProjector((4, 3), 1, route="slow"), ValueError, "route"),
        (lambda: DCTProjector((4, 3), 1).down(draw(4, 3)), ValueError, "no columns are chosen yet; call select"),
        (
            lambda: DCTProjector((4, 3), 1).project(draw(3, 4)),
            ValueError,
            r"matrix must have the shape \(\*batch, 4, 3\)",
        ),
        (lambda: DCTProjector((4, 3), 1).up(draw(3, 1)), ValueError, r"low must have the shape \(\*batch, 4, 1\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
