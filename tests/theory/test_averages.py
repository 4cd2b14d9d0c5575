"""Quadrature against closed forms, and two-dimensional averages against independent routes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from isometry.theory import MeanField
from isometry.theory._averages import GaussianAverages
from isometry.theory._quadrature import erfc

CLOSED = ["relu", "leaky_relu(0.2)", "linear", "erf", "sin", "hardtanh", "hardtanh(-0.3, 0.3)"]


def both(name: str) -> tuple[GaussianAverages, GaussianAverages]:
    activation = MeanField(name).activation
    return GaussianAverages(activation), GaussianAverages(activation, closed_forms=False)


@pytest.mark.parametrize("name", CLOSED)
def test_one_dimensional_closed_forms(name: str) -> None:
    closed, quadrature = both(name)
    # tiny and huge variances: a spike and a plateau for the rule
    q = np.array([1e-10, 1e-4, 1 / 64, 0.5, 1.0, 8.0, 1e3] + ([] if name == "sin" else [1e7, 1e10]))
    np.testing.assert_allclose(quadrature.second_moment(q), closed.second_moment(q), rtol=1e-12)
    for k in (1, 2, 5):
        np.testing.assert_allclose(quadrature.slope_moment(k, q), closed.slope_moment(k, q), rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in CLOSED if not n.startswith("hardtanh")])
@pytest.mark.parametrize("c", [1.0, 1 - 1e-12, 1 - 1e-6, 0.99, 0.5, 1e-3, 0.0, -0.3, -0.999, -1 + 1e-9, -1.0])
def test_two_dimensional_closed_forms(name: str, c: float) -> None:
    closed, quadrature = both(name)
    for q in (1e-6, 1 / 64, 1.0, 20.0):
        size = float(closed.second_moment(np.array([q]))[0])
        assert quadrature.covariance(c, q) == pytest.approx(closed.covariance(c, q), abs=1e-12 * size)
        mu = float(closed.slope_moment(1, np.array([q]))[0])
        assert quadrature.slope_covariance(c, q) == pytest.approx(closed.slope_covariance(c, q), abs=1e-11 * mu)


def test_hard_tanh_slope_covariance_is_a_bivariate_normal_probability() -> None:
    # P(|u| < 1, |u'| < 1): by Price's theorem its derivative in c is a sum of densities at the corners
    averages = both("hardtanh")[1]
    q, c = 0.7, 0.8

    def rate(r: float) -> float:
        s = 1 - r * r
        same, other = math.exp(-(1 - r) / (q * s)), math.exp(-(1 + r) / (q * s))
        return 2 * (same - other) / (2 * math.pi * math.sqrt(s))

    inside = 1 - float(erfc(1 / math.sqrt(2 * q)))
    expected = inside**2 + integrate.quad(rate, 0, c, epsabs=1e-14)[0]
    assert averages.slope_covariance(c, q) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu6", "hardshrink", "threshold(0.1, 2)", "softsign", "selu"])
@pytest.mark.parametrize("q", [1 / 64, 1.0, 30.0])
def test_slope_covariance_is_the_derivative_of_the_covariance(name: str, q: float) -> None:
    averages = GaussianAverages(MeanField(name).activation)
    for c in (0.4, -0.6):
        h = 1e-4
        a, b, d, e = (averages.covariance(c + k * h, q) for k in (-2, -1, 1, 2))
        numeric = (a - 8 * b + 8 * d - e) / (12 * h * q)
        assert averages.slope_covariance(c, q) == pytest.approx(numeric, rel=1e-8)


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu6", "hardshrink", "threshold(0.1, 2)", "softplus", "relu"])
def test_slope_of_the_second_moment(name: str) -> None:
    averages = GaussianAverages(MeanField(name).activation)
    for q in (0.1, 1.0, 9.0):
        h = 1e-3 * q
        a, b, d, e = averages.second_moment(q + h * np.array([-2, -1, 1, 2]))
        assert averages.second_moment_slope(np.array([q]))[0] == pytest.approx(
            (a - 8 * b + 8 * d - e) / (12 * h), rel=1e-7
        )


def test_the_papers_form_of_that_slope() -> None:
    # chi_1 / sigma_w^2 + E phi'' phi, for tanh, by scipy
    q = 0.8

    def term(z: float) -> float:
        t = math.tanh(math.sqrt(q) * z)
        s = 1 - t * t
        return (s * s - 2 * t * s * t) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    expected = integrate.quad(term, -12, 12, epsabs=1e-14)[0]
    averages = GaussianAverages(MeanField("tanh").activation)
    assert averages.second_moment_slope(np.array([q]))[0] == pytest.approx(expected, rel=1e-11)


@settings(deadline=None, max_examples=8)
@given(st.floats(1e-3, 2.0), st.floats(-0.9, 0.9), st.sampled_from(["tanh", "silu", "gelu_tanh"]))
def test_mehlers_expansion(q: float, c: float, name: str) -> None:
    # E phi phi' = SUM a_k^2 c^k: an independent route that needs smoothness
    averages = GaussianAverages(MeanField(name).activation)
    a = averages.hermite(60, np.array([q]))[:, 0]
    expected = float(np.sum(a**2 * c ** np.arange(60)))
    assert averages.covariance(c, q) == pytest.approx(expected, abs=1e-9 * float(np.sum(a**2)))


def test_jumps_make_the_slope_covariance_infinite_at_one() -> None:
    averages = GaussianAverages(MeanField("hardshrink").activation)
    assert averages.slope_covariance(1.0, 1.0) == math.inf
    assert math.isfinite(averages.slope_covariance(0.999, 1.0))
