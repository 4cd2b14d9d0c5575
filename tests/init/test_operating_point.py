import math

import numpy as np
import pytest
from scipy import integrate, stats

from isometry.init import operating_point
from isometry.init._operating_point import JACOBIAN_VARIANCE
from isometry.theory import MeanField, NoCriticalPointError
from isometry.theory._resolve import resolve_activation


def gaussian_mean(function, q, t):
    """Oracle: scipy's adaptive quadrature, told where the kink is."""
    scale = math.sqrt(q)

    def integrand(z):
        return float(function(np.array(t + scale * z))) * stats.norm.pdf(z)

    return integrate.quad(integrand, -9, -t / scale)[0] + integrate.quad(integrand, -t / scale, 9)[0]


@pytest.mark.parametrize(
    ("name", "depth"), [("relu", 50), ("sigmoid", 20), ("softplus", 50), ("gelu", 20), ("selu", 30)]
)
def test_shifted_points_keep_variance_and_slope(name, depth):
    activation = resolve_activation(name)
    point = operating_point(activation, depth=depth)
    value, slope = activation.value, activation.slope
    mean = gaussian_mean(value, point.q_star, point.shift)
    variance = gaussian_mean(lambda u: (value(u) - mean) ** 2, point.q_star, point.shift)
    chi = point.sigma_w**2 * gaussian_mean(lambda u: slope(u) ** 2, point.q_star, point.shift)
    assert point.mean == pytest.approx(mean, abs=1e-4)
    assert chi == pytest.approx(1, abs=1e-3)
    assert point.sigma_w**2 * variance + point.sigma_b**2 == pytest.approx(point.q_star, rel=1e-3)
    assert point.jacobian_variance <= JACOBIAN_VARIANCE * 1.01


def test_odd_activations_are_the_mean_field_prescription():
    for q_star in (1e-3, 1 / 64, 0.5):
        point = operating_point(resolve_activation("tanh"), depth=10, q_star=q_star)
        critical = MeanField("tanh").critical(q_star=q_star)
        assert (point.sigma_w, point.sigma_b) == (critical.sigma_w, critical.sigma_b)
        assert (point.shift, point.mean) == (0, 0)


def test_default_q_star_falls_with_depth_and_stops_at_one_half():
    found = [operating_point(resolve_activation("tanh"), depth=depth).q_star for depth in (1, 20, 100, 1000)]
    assert found[0] == 0.5
    assert found == sorted(found, reverse=True)
    assert found[2] == pytest.approx(0.1, abs=0.02)


def test_shallow_relu_stays_at_the_origin_and_deep_relu_is_shifted():
    shallow, deep = (operating_point(resolve_activation("relu"), depth=depth) for depth in (3, 100))
    assert (shallow.shift, shallow.sigma_b) == (0, 0)
    assert shallow.sigma_w == pytest.approx(math.sqrt(2), rel=1e-4)
    # L (1/p - 1) = 4 with p the share of active units
    assert stats.norm.cdf(deep.shift / math.sqrt(deep.q_star)) == pytest.approx(1 / 1.04, abs=0.01)


def test_never_shifting_means_the_origin_or_an_error():
    assert operating_point(resolve_activation("relu"), depth=100, shift="never").shift == 0
    with pytest.raises(NoCriticalPointError):
        operating_point(resolve_activation("softplus"), depth=10, q_star=0.1, shift="never")


def test_no_slope_is_an_error():
    with pytest.raises(ValueError, match=r"has no slope at q_star=.*; use another activation or a larger q_star"):
        operating_point(resolve_activation("hardshrink"), depth=2, q_star=1e-6, shift="never")


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus", "elu", "relu", "mish"])
def test_training_cannot_leave_for_much_larger_slopes(name):
    activation, depth = resolve_activation(name), 50
    point = operating_point(activation, depth=depth)
    for factor in (1, 4, 16):
        for t in (0, point.shift, 2 * point.shift, 4):
            chi = point.sigma_w**2 * gaussian_mean(lambda u: activation.slope(u) ** 2, factor * point.q_star, t)
            assert chi <= 1 + 1.1 * JACOBIAN_VARIANCE / depth


def test_dead_zones_are_left_by_a_shift_and_q_star_shrinks_where_shifts_do_not_suffice():
    shrink = operating_point(resolve_activation("softshrink"), depth=50)
    assert shrink.shift > 0.5
    assert operating_point(resolve_activation("sigmoid"), depth=100).q_star == 0.25
