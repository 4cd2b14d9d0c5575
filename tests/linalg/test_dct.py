"""The discrete cosine transform against scipy's and its defining sum."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import _dct as module
from isometry.linalg import dct, dct_matrix


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_matrix_is_its_definition():
    n = 7
    expected = [
        [
            math.sqrt(2 / n) * math.cos(math.pi * i * (2 * j + 1) / (2 * n)) * (math.sqrt(0.5) if i == 0 else 1)
            for j in range(n)
        ]
        for i in range(n)
    ]
    torch.testing.assert_close(
        dct_matrix(n, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )
    assert torch.equal(dct_matrix(1), torch.ones(1, 1))


@pytest.mark.parametrize("n", [2, 3, 64, 257, 1000])
def test_its_rows_are_orthonormal(n):
    c = dct_matrix(n, dtype=torch.float64)
    # n products of rounded cosines: a few epsilon times sqrt(n).
    assert float((c @ c.T - torch.eye(n, dtype=torch.float64)).abs().max()) < 1e-15 * 8 * math.sqrt(n)


@given(st.integers(1, 70), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_both_routes_are_scipys_for_even_and_odd_lengths(n, m, seed):
    x = draw(2, m, n, seed=seed)
    expected = torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))
    for route in ("fft", "matmul", "auto"):
        torch.testing.assert_close(dct(x, route=route), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("route", ["fft", "matmul"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 0.02), (torch.float16, 2e-3)])
def test_low_precision_is_computed_in_float32(route, dtype, tolerance):
    x = draw(5, 96).to(dtype)
    out = dct(x, route=route)
    assert out.dtype == dtype
    expected = torch.from_numpy(scipy.fft.dct(x.double().numpy(), norm="ortho"))
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("route", ["fft", "matmul"])
def test_gradients_pass_through(route):
    x = draw(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: dct(v, route=route), x)


def test_the_shared_matrix_cannot_be_reached_from_outside():
    dct_matrix(6).zero_()
    assert float(dct_matrix(6).norm()) == pytest.approx(math.sqrt(6))
    with torch.inference_mode():
        dct(torch.ones(1, 11), route="fft")
        dct(torch.ones(1, 11), route="matmul")
    for route in ("fft", "matmul"):  # what was made there can be trained through here
        x = torch.ones(1, 11, requires_grad=True)
        dct(x, route=route).sum().backward()
        assert x.grad is not None


def test_auto_takes_the_fft_where_it_pays():
    cpu = torch.device("cpu")
    assert [n for n in (8, 127, 128, 131, 192, 509, 512, 521) if module.by_fft_pays(n, cpu)] == [128, 192, 512, 521]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dct_matrix(0), ValueError, "n must be at least 1, got 0"),
        (lambda: dct_matrix(2.0), TypeError, "n must be an integer, got float"),
        (lambda: dct_matrix(2, dtype=torch.int64), TypeError, "dtype must be real floating point"),
        (lambda: dct(torch.ones(3)), ValueError, "x"),
        (lambda: dct(torch.ones(2, 3), route="quick"), ValueError, "route"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
