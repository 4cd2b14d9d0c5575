"""The four-point vertex: closed forms, limits, a second quadrature, and refusals. Ensembles are in tests/measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.theory import finite_width


def test_linear_networks_are_exact():
    # Gaussian: V/K^2 = 2 (l - 1); orthogonal: -2 throughout; mixed: rotations of a Gaussian vector, so 0.
    growth = 2.0 * np.arange(40)
    assert finite_width("linear", k1=0.7, depth=40, weights="gaussian").fluctuation == pytest.approx(growth, rel=1e-12)
    orthogonal = finite_width("linear", k1=0.7, depth=40)
    assert orthogonal.fluctuation == pytest.approx(np.full(40, -2.0), rel=1e-12)
    assert orthogonal.kernel == pytest.approx(np.full(40, 0.7), rel=1e-12)
    assert finite_width("linear", k1=0.7, depth=40, weights="mixed").fluctuation == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(slope=st.floats(-0.9, 0.9), k1=st.floats(1e-3, 1e3), weights=st.sampled_from(["gaussian", "orthogonal"]))
def test_two_slopes_in_closed_form(slope, k1, weights):
    # <phi^2> = (1 + a^2) K / 2, <phi^4> = 3 (1 + a^4) K^2 / 2; at the critical C = 2 / (1 + a^2), chi = 1.
    # Seen to fail with m = 2 in place of 3, with chi in place of chi^2 off criticality (below), with V^1 = 0.
    found = finite_width(f"leaky_relu({slope!r})", k1=k1, depth=6, weights=weights)
    kurtosis = 6 * (1 + slope**4) / (1 + slope**2) ** 2
    start, m = (0, 1) if weights == "gaussian" else (-2, 3)
    assert found.fluctuation == pytest.approx(start + (kurtosis - m) * np.arange(6), rel=1e-9, abs=1e-9)
    assert found.chi_parallel == pytest.approx(np.ones(6), rel=1e-12)


def test_relu_grows_even_with_orthogonal_weights():
    layers = np.arange(20)
    assert finite_width("relu", k1=1.0, depth=20, weights="gaussian").fluctuation == pytest.approx(5.0 * layers)
    assert finite_width("relu", k1=1.0, depth=20).fluctuation == pytest.approx(-2 + 3.0 * layers)
    assert finite_width("relu", k1=1.0, depth=2).sigma_w == pytest.approx(math.sqrt(2))


def test_off_criticality_deviations_scale_with_chi_squared():
    # Linear, C = 0.81: K falls as C^l, V = C^2 (3 - m) K^2 + C^2 V, so V/K^2 is as at criticality.
    found = finite_width("linear", k1=1.0, depth=5, sigma_w=0.9, weights="gaussian")
    assert found.kernel == pytest.approx(0.81 ** np.arange(5))
    assert found.fluctuation == pytest.approx(2.0 * np.arange(5))


def test_tanh_against_gauss_hermite():
    # An independent rule: 150 Gauss-Hermite nodes, good to 1e-12 for tanh at this variance.
    nodes, masses = np.polynomial.hermite_e.hermegauss(150)
    masses = masses / masses.sum()
    k, v = 0.49, -2 * 0.49**2
    found = finite_width("tanh", k1=0.49, depth=25, sigma_w=1.1)
    for layer in range(25):
        assert found.kernel[layer] == pytest.approx(k, rel=1e-9)
        assert found.vertex[layer] == pytest.approx(v, rel=1e-8)
        z = math.sqrt(k) * nodes
        second, fourth = masses @ np.tanh(z) ** 2, masses @ np.tanh(z) ** 4
        chi = 1.21 * masses @ (np.tanh(z) ** 2 * (z * z - k)) / (2 * k * k)
        v = 1.21**2 * (fourth - 3 * second**2) + chi**2 * v
        k = 1.21 * second


def test_tanh_limits_at_criticality():
    # K -> 1 / (2 l); Gaussian V/K^2 -> 2 l / 3, orthogonal -> -2: the corrections are of relative order log(l) / l.
    gaussian, steady = (finite_width("tanh", k1=0.49, depth=800, weights=w) for w in ("gaussian", "orthogonal"))
    assert steady.sigma_w == 1.0
    assert steady.kernel[-1] == pytest.approx(1 / 1600, rel=0.03)
    assert gaussian.fluctuation[-1] / 800 == pytest.approx(2 / 3, rel=0.03)
    assert steady.fluctuation[-1] == pytest.approx(-2, abs=0.01)
    assert steady.fluctuation.max() == pytest.approx(-1.807, abs=0.001)
    assert int(steady.fluctuation.argmax()) in (2, 3, 4)


def test_a_callable_is_as_good_as_its_name():
    ours = finite_width(lambda u: torch.sin(u), k1=0.3, depth=8, weights="mixed", sigma_w=1.0, kinks=())
    named = finite_width("sin", k1=0.3, depth=8, weights="mixed")
    assert ours.fluctuation == pytest.approx(named.fluctuation, rel=1e-9)


def test_it_prints_and_is_plain_data():
    found = finite_width("relu", k1=1.0, depth=3)
    assert str(found) == ("relu, orthogonal weights of sigma_w=1.41421, 3 layers: K 1 -> 1, V/K^2 -2 -> 4")
    assert found.to_dict()["weights"] == "orthogonal"
    assert len(found.to_dict()["vertex"]) == 3


def test_refusals():
    with pytest.raises(ValueError, match="k1 must be a finite number > 0, got 0"):
        finite_width("tanh", k1=0.0, depth=3)
    with pytest.raises(ValueError, match="depth must be a positive integer, got 0"):
        finite_width("tanh", k1=0.5, depth=0)
    with pytest.raises(ValueError, match="unknown weights 'ortogonal'; did you mean 'orthogonal'"):
        finite_width("tanh", k1=0.5, depth=3, weights="ortogonal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma_w must be a finite number > 0, got -1"):
        finite_width("tanh", k1=0.5, depth=3, sigma_w=-1.0)
    with pytest.raises(ValueError, match=r"carry the kernel of 'linear' to .* at layer 17, so V / K\^2 is lost"):
        finite_width("linear", k1=1.0, depth=30, sigma_w=1e-5)
    with pytest.raises(ValueError, match="no critical point with sigma_b=0"):
        finite_width("softplus", k1=0.5, depth=3)
