"""Bracketed roots, many at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.theory._roots import bracketed_root


def test_many_roots_at_once() -> None:
    wanted = np.linspace(0.1, 5.0, 40)
    found = bracketed_root(lambda x: np.exp(x) - np.exp(wanted), np.zeros(40), np.full(40, 9.0))
    assert found == pytest.approx(wanted, rel=1e-14)


@settings(deadline=None, max_examples=50)
@given(st.floats(-3, 3), st.integers(0, 3), st.booleans())
def test_odd_powers_and_either_orientation(root: float, power: int, flipped: bool) -> None:
    low, high = np.array([-4.0]), np.array([7.0])
    if flipped:
        low, high = high, low
    found = bracketed_root(lambda x: (x - root) ** (2 * power + 1), low, high)
    # a root of multiplicity p is only known to the p-th root of rounding
    assert found[0] == pytest.approx(root, abs=1e-14 if power == 0 else 1e-3)


def test_a_root_at_an_end() -> None:
    assert bracketed_root(lambda x: x - 1, np.array([1.0]), np.array([3.0]))[0] == 1.0
    assert bracketed_root(lambda x: x - 3, np.array([1.0]), np.array([3.0]))[0] == 3.0


def test_a_jump_is_bracketed_to_rounding() -> None:
    found = bracketed_root(lambda x: np.where(x < 0.3, -1.0, 1.0), np.array([-1.0]), np.array([1.0]))
    assert found[0] == pytest.approx(0.3, abs=1e-15)


def test_superlinear_where_smooth() -> None:
    calls = []

    def function(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return np.cos(x) - x

    assert bracketed_root(function, np.array([0.0]), np.array([1.0]))[0] == pytest.approx(0.7390851332151607, rel=1e-15)
    assert len(calls) < 15  # bisection takes 50
