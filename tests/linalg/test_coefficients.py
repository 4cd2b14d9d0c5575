import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import COEFFICIENTS, Coefficients, minimax_quintics, orthogonalize
from isometry.linalg._coefficients import minimax_polynomials
from isometry.linalg._orthogonalize import step_limit


def value(step, s):
    a, b, c = step
    return a * s + b * s**3 + c * s**5


def test_every_row_has_a_source_and_its_own_name():
    for name, row in COEFFICIENTS.items():
        assert row.name == name
        assert len(row.source) > 40


@pytest.mark.parametrize("name", [n for n, row in COEFFICIENTS.items() if row.converges])
def test_converging_sets_drive_every_singular_value_to_one(name):
    s = np.geomspace(2.3e-16, 1, 20_001)
    row = COEFFICIENTS[name]
    for index in range(step_limit(row, torch.float64)):
        s = value(row.step(index), s)
    assert np.abs(s - 1).max() < 1e-14


def test_muon_ends_where_its_row_says_and_does_not_converge():
    row = COEFFICIENTS["muon"]
    s = np.geomspace(1e-2, 1, 20_001)
    for index in range(row.default_steps):
        s = value(row.step(index), s)
    assert s.min() == pytest.approx(0.68, abs=0.01)
    assert s.max() == pytest.approx(1.13, abs=0.01)
    assert not row.converges


@settings(deadline=None, max_examples=15)
@given(low=st.floats(1e-5, 0.9))
def test_each_minimax_step_is_optimal(low):
    """Chebyshev: alternation at four points of the interval proves optimality; a perturbation cannot be better."""
    margin = 1.02
    interval = (low, margin)
    for step in minimax_quintics(low)[:-1]:
        s = np.linspace(*interval, 20_001)
        deviation = 1 - value(step, s)
        error = np.abs(deviation).max()
        extremes = [deviation[0], deviation[-1]]
        assert extremes[0] == pytest.approx(error, rel=1e-6)
        assert extremes[1] == pytest.approx(-error, rel=1e-6)
        for factor in ((1.001, 1, 1), (1, 1.001, 1), (1, 1, 1.001), (0.999, 1, 1), (1, 0.999, 1), (1, 1, 0.999)):
            other = tuple(c * f for c, f in zip(step, factor, strict=True))
            assert np.abs(1 - value(other, s)).max() > error
        interval = (1 - error, (1 + error) * margin)


def test_minimax_is_fastest_on_its_interval():
    def steps(name, tolerance=1e-6):
        s, row = np.geomspace(1e-3, 1, 2001), COEFFICIENTS[name]
        for index in range(100):
            if np.abs(s - 1).max() < tolerance:
                return index
            s = value(row.step(index), s)
        return 100

    assert steps("minimax") <= 7
    assert steps("quintic") >= 14
    assert steps("cubic") >= 20


def test_the_first_step_has_a_limit_for_ever_wider_intervals():
    # As the lower end goes to zero the first step tends to one limit: p / 2 alternates best on [0, 1].
    first = minimax_quintics(1e-9)[0]
    assert first[0] == pytest.approx(minimax_quintics(1e-7)[0][0], rel=1e-5)
    assert value(first, 1.02) == pytest.approx(2.0, abs=1e-6)


def test_own_coefficients_are_accepted():
    own = Coefficients("own", ((1.5, -0.5, 0.0),), converges=True, default_steps=3, source="a test")
    a = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(orthogonalize(a, coefficients=own), orthogonalize(a, coefficients="cubic", steps=3))


def test_bad_names_and_bounds():
    with pytest.raises(ValueError, match=r"unknown coefficients 'quintik'; did you mean 'quintic'"):
        orthogonalize(torch.eye(2), coefficients="quintik")
    with pytest.raises(TypeError, match="coefficients must be a name or a Coefficients, got tuple"):
        orthogonalize(torch.eye(2), coefficients=(1.0, 2.0))
    with pytest.raises(ValueError, match="lower must be below 1"):
        minimax_quintics(1.0)
    with pytest.raises(ValueError, match="lower must be a finite number > 0"):
        minimax_quintics(0.0)
    with pytest.raises(ValueError, match=r"margin must lie between 1 and 1.2, got 2"):
        minimax_quintics(0.1, margin=2)


@given(st.floats(1e-4, 0.6), st.lists(st.sampled_from([3, 5]), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_mixed_sequences_are_each_step_the_best_of_their_degree(lower, degrees):
    """The error alternates between its largest values, which characterizes the best polynomial (Chebyshev)."""
    low, high = lower, 1.02
    for degree, step in zip(degrees, minimax_polynomials(lower, tuple(degrees)), strict=True):
        assert (step[2] == 0) == (degree == 3)
        s = np.linspace(low, high, 40_001)
        off = value(step, s) - 1
        error = np.abs(off).max()
        touched = np.sign(off[np.abs(off) > error * (1 - 1e-3)])
        assert 1 + np.count_nonzero(np.diff(touched)) == (degree + 3) // 2
        low, high = 1 - error, (1 + error) * 1.02


def test_mixed_sequences_refuse_what_quintics_refuse():
    assert minimax_polynomials(0.01, (5, 5)) == minimax_quintics(0.01, steps=2)
    with pytest.raises(ValueError, match="lower must be below 1"):
        minimax_polynomials(1.5, (3,))
    with pytest.raises(ValueError, match=r"degrees must be 3 or 5, got \(4,\)"):
        minimax_polynomials(0.5, (4,))
