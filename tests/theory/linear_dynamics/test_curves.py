"""Curves of modes against an ODE solver, naive formulas, and Lambert's function."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import wrightomega

from isometry.theory.linear_dynamics import learning_time, mode_curve, two_layer_curve

DEPTHS = [1, 2, 3, 4, 5, 20, 500, math.inf]


def integrate(velocity, start, times):
    """Give the solution of a differential equation, by an eighth-order Runge-Kutta method."""
    done = solve_ivp(
        lambda _t, u: velocity(u),
        (0, times[-1]),
        np.atleast_1d(start),
        method="DOP853",
        t_eval=times,
        rtol=1e-12,
        atol=1e-14,
    )
    return done.y


def velocity(s, depth):
    power, rate = (2.0, 1.0) if math.isinf(depth) else (2 - 2 / depth, depth)
    return lambda u: rate * np.abs(u) ** power * (s - u)  # a trial step may overshoot below 0


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("s", "u0"), [(1.0, 0.05), (3.0, 0.2), (0.4, 2.0), (1.0, 1.0), (0.0, 0.5), (2.0, 1.9999999)])
def test_balanced_curves_solve_the_differential_equation(s, u0, depth):
    end = 2 * float(learning_time(s, u0, 0.5 * (u0 + s) if u0 < s else u0, depth=depth)) + 1
    times = np.linspace(0, end, 40)
    np.testing.assert_allclose(
        mode_curve(s, u0, times, depth=depth), integrate(velocity(s, depth), u0, times)[0], rtol=2e-9, atol=1e-11
    )


@pytest.mark.parametrize(("s", "a", "b"), [
    (1.0, 0.1, 0.1), (2.0, 1.0, 0.0), (2.0, 0.5, -0.3), (1.0, -0.4, 0.41), (0.0, 1.0, 0.7), (0.0, 0.8, 0.8),
    (0.5, 3.0, 0.1), (1.0, 0.7, -0.7), (1.0, 2.0, 2.0), (0.0, 0.6, -0.6),
])  # fmt: skip
def test_unequal_factors_follow_their_own_equations(s, a, b):
    # The factors themselves are integrated; the closed form knows only their product.
    times = np.linspace(0, 6, 50)
    factors = integrate(lambda ab: (s - ab[0] * ab[1]) * ab[::-1], [a, b], times)
    # Along a = -b the flow runs into a saddle, and any rounding of the reference leaves it again.
    upto = 25 if a == -b and s > 0 else 50
    np.testing.assert_allclose(
        two_layer_curve(s, a, b, times)[:upto], (factors[0] * factors[1])[:upto], rtol=1e-8, atol=1e-9
    )


def test_equal_factors_give_the_balanced_curve():
    times = np.linspace(0, 9, 30)
    a = np.array([1e-3, 0.2, 1.5])
    for s in (0.0, 0.7, 2.0):
        np.testing.assert_allclose(
            two_layer_curve(s, a, a, times), mode_curve(s, a * a, times, depth=2), rtol=1e-13, atol=1e-300
        )


def test_two_layers_match_the_printed_formula():
    s, u0, tau, t = 2.0, 1e-6, 3.0, np.linspace(0, 40, 50)
    e = np.exp(2 * s * t / tau)
    np.testing.assert_allclose(mode_curve(s, u0, t, depth=2, tau=tau), s * e / (e - 1 + s / u0), rtol=1e-12)


def test_one_layer_has_no_plateau_and_takes_any_start():
    t = np.array([0.0, 1.0, 5.0])
    np.testing.assert_allclose(mode_curve(2.0, -1.0, t, depth=1), 2 - 3 * np.exp(-t), rtol=1e-14)
    np.testing.assert_allclose(mode_curve(2.0, 0.0, t, depth=1), 2 - 2 * np.exp(-t), rtol=1e-14)


@given(s=st.floats(0.01, 50), share=st.floats(1e-12, 0.999), t=st.floats(0, 20))
@settings(deadline=None, max_examples=60)
def test_infinitely_many_layers_match_lamberts_function(s, share, t):
    # log(w / (1 - w)) - 1 / w = s^2 t + const; with q = 1 / w - 1, q e^q = e^(-const - s^2 t - 1).
    u0 = share * s
    inside = s * s * t + math.log(share / (1 - share)) - 1 / share
    expected = s / (1 + wrightomega(-inside - 1).real)
    assert mode_curve(s, u0, t, depth=math.inf) == pytest.approx(expected, rel=1e-9)


@given(
    depth=st.sampled_from(DEPTHS),
    s=st.floats(1e-3, 100),
    start=st.floats(-8, 2),
    share=st.floats(0.001, 0.999),
    tau=st.floats(0.01, 100),
)
@example(depth=2, s=1.0, start=1e-15, share=0.5, tau=1.0)  # ten roundings above s, and halfway
@settings(deadline=None, max_examples=150)
def test_curve_and_time_undo_each_other(depth, s, start, share, tau):
    u0 = s * 10**start
    end = u0 + share * (s - u0)
    assume(end != s or end == u0)  # a start within a few roundings of s has no strength in between
    time = learning_time(s, u0, end, depth=depth, tau=tau)
    assert mode_curve(s, u0, time, depth=depth, tau=tau) == pytest.approx(end, rel=1e-7)


@pytest.mark.parametrize("depth", DEPTHS)
def test_long_times_and_extreme_strengths_overflow_nothing(depth):
    with np.errstate(all="raise", under="ignore"):
        assert mode_curve(3.0, 1e-3, 1e12, depth=depth) == 3.0
        assert mode_curve(3.0, 1e3, 1e12, depth=depth) == pytest.approx(3.0, rel=1e-15)
        curve = mode_curve([1e-8, 1e4], 1e-12, [0.0, 1e-3, 1e3], depth=depth)
    assert np.isfinite(curve).all()
    assert two_layer_curve(3.0, 1e-3, -1e-2, 1e9) == pytest.approx(3.0, rel=1e-15)


@pytest.mark.parametrize("depth", [3, 8, math.inf])
def test_curves_rise_and_start_where_they_should(depth):
    curve = mode_curve([1.0, 2.0, 2.0], [0.1, 0.1, 2.0], np.linspace(0, 30, 200), depth=depth)
    assert curve.shape == (3, 200)
    assert (np.diff(curve[:2]) >= -1e-15).all()
    np.testing.assert_allclose(curve[:, 0], [0.1, 0.1, 2.0], rtol=1e-14)
    assert (curve[2] == 2.0).all()


def test_tensors_are_taken():
    values = mode_curve(torch.tensor([1.0, 2.0]), 0.5, torch.linspace(0, 1, 3), depth=2)
    np.testing.assert_allclose(values, mode_curve([1.0, 2.0], 0.5, [0, 0.5, 1.0], depth=2), rtol=1e-7)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: mode_curve(-1.0, 0.1, 1.0, depth=2), r"s must be finite and >= 0, .* got -1; turn the sign of a singular"),
    (lambda: mode_curve(1.0, 0.0, 1.0, depth=3), r"u0 must be finite and > 0 with several balanced layers, got 0: at"),
    (lambda: mode_curve(1.0, math.nan, 1.0, depth=1), r"u0 must be finite"),
    (lambda: mode_curve(1.0, 0.1, -1.0, depth=2), r"t must hold finite times >= 0"),
    (lambda: mode_curve(1.0, 0.1, 1.0, depth=2.5), r"depth must be a whole number of weight matrices >= 1, or"),
    (lambda: mode_curve(1.0, 0.1, 1.0, depth=0), r"depth must be a whole number"),
    (lambda: mode_curve(1.0, 0.1, 1.0, depth=2, tau=0.0), r"tau must be a finite number > 0, got 0"),
    (lambda: two_layer_curve(1.0, math.inf, 1.0, 1.0), r"a0 must be finite, got NaN or infinity"),
    (lambda: two_layer_curve(-1.0, 1.0, 1.0, 1.0), r"s must be finite and >= 0"),
])  # fmt: skip
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
