"""The choice of a learning rate against a naive transcription, and the interval against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from isometry.training.compare import choose_lr, interval

values = st.floats(-1e3, 1e3)


@given(st.lists(values, min_size=2, max_size=8))
def test_the_interval_is_students(found):
    got = interval(found)
    assert got.n == len(found)
    assert got.mean == pytest.approx(np.mean(found), abs=1e-9)
    error = stats.sem(found)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(found) - 1, loc=np.mean(found), scale=error)
        assert (got.low, got.high) == (pytest.approx(low, rel=1e-6, abs=1e-6), pytest.approx(high, rel=1e-6, abs=1e-6))


def test_it_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = [(found := interval(list(row))).low <= 0 <= found.high for row in draws]
    # Binomial: the share's standard error is sqrt(0.95 * 0.05 / 4000) = 0.0034; four of them.
    assert abs(np.mean(covered) - 0.95) < 0.014


def test_few_values():
    one = interval([2.0])
    assert (one.mean, one.n, str(one)) == (2.0, 1, "2")
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert str(interval([])) == "-"
    assert str(interval([1.0, 2.0, 3.0])) == "2 ± 2.5"


scores = st.dictionaries(
    st.floats(1e-4, 10.0),
    st.lists(st.one_of(st.floats(0, 10), st.just(math.inf), st.none()), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@given(scores)
def test_the_choice_is_that_of_a_naive_transcription(found):
    ranking = [(sum(v) / len(v), lr) for lr, v in found.items() if None not in v]
    got = choose_lr(found)
    if not ranking:
        assert got is None
        return
    assert got.lr == sorted(ranking)[0][1]
    assert got.left_out == tuple(sorted(lr for lr in found if None in found[lr]))
    assert got.edge == (
        None if len(found) == 1 else "lowest" if got.lr == min(found) else "highest" if got.lr == max(found) else None
    )


def test_one_diverged_seed_puts_a_rate_last():
    got = choose_lr({0.1: [0.5, 0.6], 1.0: [0.01, math.inf]})
    assert (got.lr, got.edge) == (0.1, "lowest")
    assert got.scores[1.0] == math.inf
    middle = choose_lr({0.1: [0.5], 0.2: [0.4], 0.3: [0.5]})
    assert (middle.lr, middle.edge) == (0.2, None)
    assert choose_lr({0.1: [0.5, None], 1.0: [0.9, 0.9]}).lr == 1.0  # what cannot be judged is not chosen
