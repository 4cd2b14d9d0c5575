"""Critical points: published values, inverse problems, and clear words where there are none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.theory import CriticalPoint, MeanField, NoCriticalPointError


@pytest.mark.parametrize("name", ["tanh", "erf", "hardtanh", "sin", "softsign"])
def test_every_q_has_one_for_saturating_odd_activations(name: str) -> None:
    mf = MeanField(name)
    for q in (1e-6, 1e-4, 9e-4, 1 / 64, 0.5, 8.0):
        point = mf.critical(q_star=q)
        assert point.converged
        assert point.residual < 1e-12
        assert mf.chi(q, point.sigma_w) == pytest.approx(1.0, rel=1e-12)
        assert mf.length_map(q, point.sigma_w, point.sigma_b) == pytest.approx(q, rel=1e-12)


def test_erf_in_closed_form() -> None:
    for q in (1e-3, 0.5, 8.0):
        point = MeanField("erf").critical(q_star=q)
        gain = math.sqrt(1 + math.pi * q)
        assert point.sigma_w**2 == pytest.approx(gain, rel=1e-13)
        bias = q - gain * 2 / math.pi * math.asin(math.pi * q / (2 + math.pi * q))
        assert point.sigma_b**2 == pytest.approx(bias, rel=1e-10)


def test_hard_tanh_in_closed_form() -> None:
    q = 0.5
    p = math.erf(1 / math.sqrt(2 * q))
    s = 1 / math.sqrt(q)
    moment = q * (p - math.sqrt(2 / math.pi) * s * math.exp(-s * s / 2)) + 1 - p
    point = MeanField("hardtanh").critical(q_star=q)
    assert point.sigma_w**2 == pytest.approx(1 / p, rel=1e-13)
    assert point.sigma_b**2 == pytest.approx(q - moment / p, rel=1e-12)


def test_small_q_of_tanh_does_not_cancel() -> None:
    # sigma_b^2 = (4/3) q^3 (1 - 6 q + ...), far below the rounding of q itself
    for q in (1e-8, 1e-6, 1e-4, 1e-3):
        bias = MeanField("tanh").critical(q_star=q).sigma_b ** 2
        assert bias / (4 / 3 * q**3) == pytest.approx(1 - 6 * q, rel=1e-6 + 40 * q**2)


def test_known_point_of_tanh() -> None:
    # Schoenholz et al.'s example: sigma_b^2 = 0.05 goes with sigma_w^2 = 1.76; the digits are from scipy's quad
    point = MeanField("tanh").critical(sigma_b=math.sqrt(0.05))
    assert point.sigma_w**2 == pytest.approx(1.7609546396067, rel=1e-11)
    assert point.q_star == pytest.approx(0.57004788164, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.floats(1e-3, 30.0), st.sampled_from(["tanh", "erf", "hardtanh"]))
def test_inverse_problems(q: float, name: str) -> None:
    mf = MeanField(name)
    point = mf.critical(q_star=q)
    if name == "hardtanh" and point.sigma_b < 1e-4:
        return  # flat: no unit clips at small q
    assert mf.critical(sigma_w=point.sigma_w).q_star == pytest.approx(q, rel=1e-6)
    assert mf.critical(sigma_b=point.sigma_b).q_star == pytest.approx(q, rel=1e-6)
    assert mf.critical(sigma_b=point.sigma_b).sigma_b == point.sigma_b


def test_without_biases_the_limit_of_small_q() -> None:
    for name, w in (("tanh", 1.0), ("erf", 1.0), ("gelu", 2.0), ("silu", 2.0)):
        point = MeanField(name).critical(sigma_b=0.0)
        assert (point.q_star, point.sigma_b, point.chi) == (0.0, 0.0, 1.0)
        assert point.sigma_w == pytest.approx(w, rel=1e-9)
        assert "limit" in point.note
    assert MeanField("tanh").critical(sigma_w=1.0).q_star == 0.0


def test_relu_and_its_kin_keep_every_q() -> None:
    for name, slopes in (("relu", 1.0), ("leaky_relu(0.2)", 1.04), ("linear", 2.0), ("prelu", 1.0625)):
        mf = MeanField(name)
        point = mf.critical(q_star=0.3)
        assert point.sigma_w == pytest.approx(math.sqrt(2 / slopes), rel=1e-14)
        assert (point.sigma_b, point.q_star, point.degenerate) == (0.0, 0.3, True)
        assert mf.critical(sigma_b=0.0).sigma_w == point.sigma_w
        assert mf.critical(sigma_w=point.sigma_w).degenerate
    assert "every q is a fixed point" in str(MeanField("relu").critical(q_star=1.0))


def test_relu_says_what_it_is_critical_at() -> None:
    with pytest.raises(NoCriticalPointError, match=r"only at sigma_w=1.4142136 and sigma_b=0.*Set sigma_b=0") as caught:
        MeanField("relu").critical(sigma_b=0.1)
    assert caught.value.nearest is not None
    assert caught.value.nearest.sigma_w == pytest.approx(math.sqrt(2))
    with pytest.raises(NoCriticalPointError, match=r"got sigma_w=1.1. Use 1.4142136"):
        MeanField("relu").critical(sigma_w=1.1)


@pytest.mark.parametrize("coordinate", ["q_star", "sigma_w", "sigma_b"])
@pytest.mark.parametrize("name", ["softplus", "logsigmoid", "hardshrink"])
def test_where_there_is_none_at_all(name: str, coordinate: str) -> None:
    mf = MeanField(name)
    with pytest.raises(NoCriticalPointError, match="no critical point at all with q_star from 1e-6 to 1e4") as caught:
        mf.critical(**{coordinate: 1.1})  # type: ignore[arg-type]
    near = caught.value.nearest
    assert isinstance(near, CriticalPoint)
    assert near.chi < 1
    assert not near.converged
    assert mf.length_map(near.q_star, near.sigma_w, near.sigma_b) == pytest.approx(near.q_star, rel=1e-10)
    assert f"chi={near.chi:.5g}" in str(caught.value)
    if coordinate == "q_star":
        assert (near.q_star, near.sigma_b) == (1.1, 0.0)


def test_sigmoid_has_critical_points_only_at_large_q() -> None:
    mf = MeanField("sigmoid")
    with pytest.raises(NoCriticalPointError, match=r"its mean activation 0\.5 is too much for its slopes") as caught:
        mf.critical(q_star=1.0)
    near = caught.value.nearest
    assert near is not None
    assert near.q_star == pytest.approx(45.624, rel=1e-3)
    assert near.chi == pytest.approx(1.0)
    # below that q none exists, at it one does
    with pytest.raises(NoCriticalPointError):
        mf.critical(q_star=0.999 * near.q_star)
    assert mf.critical(q_star=1.001 * near.q_star).sigma_b > 0
    assert mf.critical(sigma_b=0.0).q_star == pytest.approx(near.q_star, rel=1e-6)


def test_sigma_w_out_of_the_range_names_the_range() -> None:
    with pytest.raises(
        NoCriticalPointError, match=r"critical points have sigma_w from 1.3985 to 2 .*nearest critical"
    ) as caught:
        MeanField("gelu").critical(sigma_w=1.1)
    assert caught.value.nearest is not None
    assert caught.value.nearest.sigma_w == pytest.approx(1.3985, abs=2e-4)


def test_no_slope_no_critical_point() -> None:
    with pytest.raises(NoCriticalPointError, match="has slope 0 everywhere"):
        MeanField(torch.sign).critical(q_star=1.0)


def test_the_condition_in_hermite_coefficients() -> None:
    # mu_1 sigma_b^2 = SUM (k - 1) a_k^2, the sum that decides whether a critical point exists
    mf = MeanField("silu")
    q = 0.4
    a = mf._averages.hermite(80, np.array([q]))[:, 0]
    total = float(np.sum((np.arange(80) - 1) * a**2))
    assert mf.critical(q_star=q).sigma_b ** 2 == pytest.approx(total / mf.mu(1, q), rel=1e-8)
