"""Pass rules against a naive reading of each, and intervals against scipy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.papers import Rule
from isometry.papers._rules import interval

numbers = st.integers(-3, 3).map(float)
OPERATORS = {
    "<": lambda v, t: v < t,
    "<=": lambda v, t: v <= t,
    ">": lambda v, t: v > t,
    ">=": lambda v, t: v >= t,
    "within": lambda v, t: t[0] <= v <= t[1],
}


def decide(rule, values, skipped=None):
    return rule.outcome({"x": np.array(values, dtype=float)}, skipped or {}).outcome


@given(
    values=st.lists(numbers, min_size=1, max_size=5),
    threshold=numbers,
    comparison=st.sampled_from(["<", "<=", ">", ">=", "within"]),
    over=st.sampled_from(["all", "mean"]),
)
@settings(deadline=None, max_examples=100)
def test_numbers_are_compared_as_written(values, threshold, comparison, over):
    bound = (threshold, threshold + 2) if comparison == "within" else threshold
    tested = [sum(values) / len(values)] if over == "mean" else values
    if len(values) in (3, 5) and over == "mean":
        return  # a mean of thirds or fifths may miss an equality by rounding, here or there
    expected = all(OPERATORS[comparison](v, bound) for v in tested)
    assert decide(Rule("x", comparison, over, bound), values) == ("holds" if expected else "fails")


@given(rows=st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_series_increase_strictly_for_every_seed(rows):
    expected = all(a < b < c for a, b, c in rows)
    assert decide(Rule("x", "increasing"), rows) == ("holds" if expected else "fails")
    assert decide(Rule("x", "decreasing"), [r[::-1] for r in rows]) == ("holds" if expected else "fails")


def test_means_of_series():
    crossing = [[0, 2, 1], [0, 1, 4]]
    assert decide(Rule("x", "increasing"), crossing) == "fails"
    assert decide(Rule("x", "increasing", "mean"), crossing) == "holds"
    assert decide(Rule("x", "<", "mean", 2), crossing) == "fails"  # the mean of the last entries is 2.5


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([1.0, 1.1, 1.2], "holds"),
        ([-1.0, -1.1, -1.2], "fails"),
        ([-1.0, 1.1, 0.2], "unclear"),
        ([5.0], "unclear"),
        ([2.0, 2.0], "holds"),
        ([0.0, 0.0], "fails"),
        ([[1, 1], [1.1, 1.1]], "holds"),
        ([[1, -5], [1.1, -5.1]], "fails"),
    ],
)
def test_an_interval_with_both_sides_is_unclear(values, outcome):
    assert decide(Rule("x", ">", "interval", 0.0), values) == outcome


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(size=(7, 2))
    low, high = interval(values)
    expected = scipy.stats.t.interval(0.95, 6, loc=values.mean(0), scale=scipy.stats.sem(values, axis=0))
    np.testing.assert_allclose([low, high], expected, rtol=1e-12)


def test_nan_and_skipped_are_unclear_and_missing_is_an_error():
    rule = Rule("x", "<", "all", 1.0)
    assert decide(rule, [0.0, np.nan]) == "unclear"
    skipped = rule.outcome({}, {"x": "the data set is not installed"})
    assert (skipped.outcome, skipped.why) == ("unclear", "not measured: the data set is not installed")
    with pytest.raises(ValueError, match=r"asks for a quantity that the evidence lacks; it holds y\. Name it in study"):
        rule.outcome({"y": np.zeros(2)}, {})


def test_a_series_is_needed_to_increase():
    with pytest.raises(ValueError, match="needs a series for each seed, got single numbers"):
        decide(Rule("x", "increasing"), [1.0, 2.0])


def test_rules_read_as_sentences():
    assert str(Rule("a/b", "<=", "all", 0.05)) == "a/b <= 0.05 for every seed"
    assert str(Rule("a/b", "within", "mean", (1, 2))) == "a/b within [1, 2] on average"
    assert str(Rule("a/b", "increasing", "interval")) == "a/b increasing with its whole 95 % interval"
    why = Rule("x", "<", "all", 1.0).outcome({"x": np.array([1.0, 2.0])}, {}).why
    assert re.fullmatch(r"x: mean 1\.5, from 1 to 2 over 2 seeds", why)
