"""Rows in 8 or 4 bits: order, error, odd lengths, constant rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.optim._packed_rows import pack_rows, unpack_rows


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("columns", [1, 2, 7, 8])
def test_whole_numbers_in_their_order_come_back(bits, columns):
    """The released quantizer gives 0..7 back as 0, 2, 4, 6, 1, 3, 5, 7."""
    rows = torch.stack([torch.arange(columns), torch.arange(columns).flip(0)]).float()
    rows = torch.cat([rows, torch.tensor([[0.0] * (columns - 1) + [15.0]])])  # distances of 1 / 17 at 8 bits
    codes, levels = pack_rows(rows, bits=bits)
    assert codes.shape == (3, -(-columns * bits // 8))
    assert codes.dtype == torch.uint8
    back = unpack_rows(codes, levels, columns=columns, bits=bits)
    assert float((back - rows).abs().max()) <= 0.5 * (columns - 1) / (2**bits - 1) + 1e-6


@given(st.integers(1, 33), st.sampled_from([4, 8]), st.sampled_from([1e-40, 1e-30, 1.0, 1e30]), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_error_is_at_most_half_of_a_distance(columns, bits, size, seed):
    rows = size * torch.randn(4, columns, generator=torch.Generator().manual_seed(seed))
    codes, levels = pack_rows(rows, bits=bits)
    error = (unpack_rows(codes, levels, columns=columns, bits=bits) - rows).abs()
    # Rounding of the largest entry and, among subnormal numbers, of the distance itself is on top.
    slack = rows.abs().amax(1, keepdim=True) * 1e-6 + 2**bits * 1.5e-45
    assert bool((error <= 0.5 * levels[:, 1:] + slack).all())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e38, 1e-45])
def test_a_constant_row_comes_back_exactly(bits, value):
    rows = torch.full((2, 5), value)
    assert torch.equal(unpack_rows(*pack_rows(rows, bits=bits), columns=5, bits=bits), rows)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_widest_row_stays_finite(bits):
    rows = torch.tensor([[-3e38, 0.0, 3e38]])
    assert bool(unpack_rows(*pack_rows(rows, bits=bits), columns=3, bits=bits).isfinite().all())


def test_nothing_is_packed_into_nothing():
    codes, levels = pack_rows(torch.zeros(3, 0, 5), bits=4)
    assert (codes.shape, levels.shape) == ((3, 0, 3), (3, 0, 2))
