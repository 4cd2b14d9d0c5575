"""The first batch: seeded, without repetition, even over the classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.data import Dataset, batch


def numbered(labels, classes=None):
    x = torch.arange(len(labels), dtype=torch.float32)[:, None]
    return Dataset("toy", x, torch.tensor(labels), classes or max(labels) + 1)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1),
    n=st.integers(1, 50),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_as_even_as_the_classes_allow(labels, n, seed):
    x, y = batch(numbered(labels), n, generator=torch.Generator().manual_seed(seed))
    assert len(x) == len(y) == min(n, len(labels))
    indices = x[:, 0].long().tolist()
    assert len(set(indices)) == len(indices)
    assert y.tolist() == [labels[i] for i in indices]
    have, drawn = torch.tensor(labels).bincount(minlength=5), y.bincount(minlength=5)
    # A class falls behind the fullest by more than one only where all its samples are in.
    assert all(d == h or d >= drawn.max() - 1 for d, h in zip(drawn, have, strict=True))


def test_a_seed_repeats_and_the_global_stream_rests():
    data = numbered([0, 1] * 20)
    before = torch.get_rng_state()
    first, again, other = (batch(data, 10, generator=torch.Generator().manual_seed(s))[0] for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    batch(data, 10)
    assert not torch.equal(torch.get_rng_state(), before)


def test_uniform_when_asked_and_for_regression():
    lopsided = numbered([0] * 99 + [1])
    drawn = [batch(lopsided, 10, balanced=False, generator=torch.Generator().manual_seed(s))[1] for s in range(5)]
    assert any(int(y.sum()) == 0 for y in drawn)
    assert all(int(batch(lopsided, 10, generator=torch.Generator().manual_seed(s))[1].sum()) == 1 for s in range(5))
    x, y = batch(Dataset("r", torch.randn(8, 2), torch.randn(8, 1)), 3)
    assert (x.shape, y.shape) == ((3, 2), (3, 1))


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_counts_that_make_no_sense(n):
    with pytest.raises(ValueError, match="n must be a positive integer, got"):
        batch(numbered([0, 1]), n)
