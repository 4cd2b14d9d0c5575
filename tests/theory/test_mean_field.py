"""The maps, fixed points, depth scales and diagrams of the mean-field theory."""

import doctest
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.theory import MeanField, _jacobian_law, _mean_field, _universality


def test_examples_of_the_docstrings() -> None:
    for module in (_mean_field, _jacobian_law, _universality):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


# maps ---------------------------------------------------------------------------------------------------------------


def test_published_maps_of_relu_and_erf() -> None:
    relu, erf = MeanField("relu"), MeanField("erf")
    assert relu.length_map(3.0, math.sqrt(2), 0.0) == pytest.approx(3.0, rel=1e-14)
    q = 0.8
    assert erf.length_map(q, 1.0, 0.0) == pytest.approx(
        2 / math.pi * math.asin(math.pi * q / (2 + math.pi * q)), rel=1e-14
    )
    assert erf.mu(3, q) == pytest.approx(1 / math.sqrt(1 + 3 * math.pi * q), rel=1e-14)
    assert MeanField("hardtanh").mu(4, q) == pytest.approx(math.erf(1 / math.sqrt(2 * q)), rel=1e-14)
    # Cho and Saul's angle form of the ReLU map
    c, angle = 0.3, math.acos(0.3)
    expected = (math.sin(angle) + (math.pi - angle) * c) / math.pi
    assert relu.correlation_map(c, q=2.0, sigma_w=math.sqrt(2), sigma_b=0.0) == pytest.approx(expected, rel=1e-13)


@settings(deadline=None, max_examples=15)
@given(st.floats(1e-4, 20.0), st.floats(0.2, 3.0), st.floats(0.0, 1.0), st.sampled_from(["tanh", "gelu", "relu6"]))
def test_a_correlation_of_one_stays_one(q: float, w: float, b: float, name: str) -> None:
    mf = MeanField(name)
    assert mf.correlation_map(1.0, q=q, sigma_w=w, sigma_b=b) == 1.0
    near = mf.correlation_map(1 - 1e-9, q=q, sigma_w=w, sigma_b=b)
    slope = w * w * mf.mu(1, q) * q / mf.length_map(q, w, b)
    assert 1 - near == pytest.approx(1e-9 * slope, rel=1e-3, abs=2e-15)


def test_odd_activations_mirror_correlations() -> None:
    mf = MeanField("tanh")
    a, b = (mf.correlation_map(c, q=0.7, sigma_w=1.4, sigma_b=0.0) for c in (0.6, -0.6))
    assert a == pytest.approx(-b, rel=1e-13)
    assert mf.correlation_map(-1.0, q=0.7, sigma_w=1.4, sigma_b=0.0) == pytest.approx(-1.0, rel=1e-13)


def test_kind_and_shape_are_kept() -> None:
    mf = MeanField("tanh")
    assert isinstance(mf.length_map(1.0, 1.0, 0.1), float)
    array = mf.length_map(np.array([[0.0, 1.0], [2.0, 3.0]]), 1.0, 0.1)
    assert array.shape == (2, 2)
    assert array[0, 0] == pytest.approx(0.01)
    tensor = mf.mu(1, torch.tensor([0.5, 1.0], dtype=torch.bfloat16))
    assert tensor.dtype == torch.float64
    assert tensor[1].item() == pytest.approx(mf.mu(1, 1.0), rel=1e-14)
    assert mf.correlation_map(torch.tensor([0.1, 0.2]), q=1.0, sigma_w=1.0, sigma_b=0.1).shape == (2,)
    assert mf.chi(np.array([1.0]), 2.0)[0] == pytest.approx(4 * mf.mu(1, 1.0))


def test_sampling_agrees() -> None:
    # statistical bound: five standard errors of a sample of 400,000
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 400_000, dtype=torch.float64, generator=generator)
    q, c, w, b = 1.7, 0.35, 1.2, 0.3
    u1, u2 = math.sqrt(q) * z[0], math.sqrt(q) * (c * z[0] + math.sqrt(1 - c * c) * z[1])
    for name, phi in (("gelu", torch.nn.GELU()), ("selu", torch.nn.SELU()), ("hardshrink", torch.nn.Hardshrink())):
        mf = MeanField(name)
        product = w * w * phi(u1) * phi(u2) + b * b
        expected = mf.correlation_map(c, q=q, sigma_w=w, sigma_b=b) * mf.length_map(q, w, b)
        assert float(product.mean()) == pytest.approx(expected, abs=5 * float(product.std()) / math.sqrt(z.shape[1]))


# fixed points -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.floats(0.3, 3.0), st.floats(0.0, 1.0), st.sampled_from(["tanh", "erf", "hardtanh", "relu6", "selu", "sin"]))
def test_fixed_points_are_fixed(w: float, b: float, name: str) -> None:
    mf = MeanField(name)
    point = mf.fixed_point(w, b)
    if not point.converged:
        return
    assert mf.length_map(point.q_star, w, b) == pytest.approx(point.q_star, rel=1e-10, abs=1e-300)
    if point.q_star > 1e-9:
        c = mf.correlation_map(point.c_star, q=point.q_star, sigma_w=w, sigma_b=b)
        assert c == pytest.approx(point.c_star, abs=1e-10)
        assert point.chi_c <= max(1.0, point.chi) + 1e-9
        assert point.chi == pytest.approx(mf.chi(point.q_star, w), rel=1e-12)


def test_iteration_arrives_at_the_fixed_point() -> None:
    mf = MeanField("tanh")
    point = mf.fixed_point(2.5, 0.3)
    profile = mf.propagate(60, q0=0.2, c0=0.9, sigma_w=2.5, sigma_b=0.3)
    assert profile.q[-1] == pytest.approx(point.q_star, rel=1e-12)
    assert profile.c is not None
    assert profile.c[-1] == pytest.approx(point.c_star, abs=1e-4)
    assert point.phase == "chaotic"
    # the approach has the predicted rates
    scales = mf.depth_scales(2.5, 0.3)
    e = np.abs(profile.c[20:30] - point.c_star)
    assert -1 / np.log(e[1:] / e[:-1])[-1] == pytest.approx(scales.xi_c, rel=0.01)
    e = np.abs(profile.q[3:8] - point.q_star)
    assert -1 / np.log(e[1:] / e[:-1])[-1] == pytest.approx(scales.xi_q, rel=0.02)


def test_phases_of_tanh() -> None:
    mf = MeanField("tanh")
    ordered, chaotic = mf.fixed_point(1.3, 0.25), mf.fixed_point(1.4, 0.2)
    assert (ordered.phase, ordered.c_star) == ("ordered", 1.0)
    assert chaotic.phase == "chaotic"
    assert 0 < chaotic.c_star < 1
    assert chaotic.chi_c < 1 < chaotic.chi
    assert mf.fixed_point(2.0, 0.0).c_star == 0.0  # odd and without biases: uncorrelated inputs stay so
    assert "ordered" in str(ordered)


def test_signal_that_dies_and_signal_that_explodes() -> None:
    dead = MeanField("tanh").fixed_point(0.9, 0.0)
    assert (dead.q_star, dead.converged) == (0.0, True)
    assert dead.chi == pytest.approx(0.81)
    assert "dies out" in dead.note
    wild = MeanField("relu").fixed_point(1.5, 0.1)
    assert (wild.q_star, wild.converged) == (math.inf, False)
    assert wild.chi == pytest.approx(1.125)
    assert "grows without end" in wild.note
    assert MeanField("softplus").fixed_point(3.0, 0.1).chi == pytest.approx(4.5, rel=1e-3)
    json.dumps(wild.to_dict(), allow_nan=False)


def test_relus_only_critical_point_keeps_every_q() -> None:
    point = MeanField("relu").fixed_point(math.sqrt(2), 0.0, q0=0.37)
    assert (point.phase, point.degenerate, point.q_star) == ("critical", True, 0.37)
    ordered = MeanField("relu").fixed_point(1.0, 0.5)
    assert ordered.q_star == pytest.approx(0.5, rel=1e-12)


def test_several_fixed_points_are_told_apart_by_the_start() -> None:
    # u^2: q -> 3 w^2 q^2 + b^2 has a stable and an unstable fixed point
    mf = MeanField(lambda x: x**2)
    low = mf.fixed_point(1.0, 0.1, q0=0.05)
    assert low.q_star == pytest.approx((1 - math.sqrt(1 - 12 * 0.01)) / 6, rel=1e-10)
    assert low.stable
    assert mf.fixed_point(1.0, 0.1, q0=2.0).q_star == math.inf


# depth scales, diagram, profile -------------------------------------------------------------------------------------


def test_depth_scales_of_the_ordered_phase() -> None:
    mf = MeanField("tanh")
    scales = mf.depth_scales(1.2, 0.3)
    assert scales.xi_c == scales.xi_grad == pytest.approx(-1 / math.log(scales.point.chi), rel=1e-12)
    assert scales.trainable_depth == pytest.approx(6 * scales.xi_c)
    assert mf.depth_scales(2.5, 0.3).xi_grad < 0  # exploding
    critical = mf.critical(q_star=0.5)
    assert mf.depth_scales(critical.sigma_w, critical.sigma_b).xi_c > 1e6


def test_dropout_keeps_the_depth_scale_finite() -> None:
    q, rho = 0.5, 0.9
    mf = MeanField("tanh", dropout_keep=rho)
    point = mf.critical(q_star=q)
    assert point.sigma_w == pytest.approx(math.sqrt(rho) * MeanField("tanh").critical(q_star=q).sigma_w, rel=1e-12)
    assert mf.length_map(q, point.sigma_w, point.sigma_b) == pytest.approx(q, rel=1e-12)
    fixed = mf.fixed_point(point.sigma_w, point.sigma_b)
    assert fixed.c_star < 0.99
    assert mf.depth_scales(point.sigma_w, point.sigma_b).xi_c < 10
    # two inputs with independent masks: the covariance carries no 1/rho
    expected = (point.sigma_w**2 * mf._averages.covariance(0.5, q) + point.sigma_b**2) / q
    assert mf.correlation_map(0.5, q=q, sigma_w=point.sigma_w, sigma_b=point.sigma_b) == pytest.approx(expected)
    assert repr(mf) == "MeanField('tanh', dropout_keep=0.9)"


def test_phase_diagram_agrees_with_single_points() -> None:
    mf = MeanField("tanh")
    diagram = mf.phase_diagram(np.array([0.8, 1.5, 3.0]), torch.tensor([0.0, 0.3]))
    assert diagram.chi.shape == diagram.q_star.shape == (2, 3)
    for i, b in enumerate(diagram.sigma_b):
        for j, w in enumerate(diagram.sigma_w):
            point = mf.fixed_point(float(w), float(b))
            assert diagram.chi[i, j] == pytest.approx(point.chi, rel=1e-10)
            assert diagram.q_star[i, j] == pytest.approx(point.q_star, rel=1e-10)
    line = diagram.critical
    assert line.sigma_w.size > 50
    for k in (0, 20, -1):
        assert mf.chi(float(line.q_star[k]), float(line.sigma_w[k])) == pytest.approx(1.0, rel=1e-12)
    plain = diagram.to_dict()
    assert set(plain) >= {"activation", "sigma_w", "sigma_b", "chi", "critical"}
    json.dumps(plain, allow_nan=False)
    assert "critical from sigma_w=" in str(diagram)


@pytest.mark.parametrize("name", ["relu", "softplus", "hardshrink", "gelu"])
def test_phase_diagrams_of_the_difficult_ones(name: str) -> None:
    diagram = MeanField(name).phase_diagram()
    assert np.isfinite(diagram.chi).all()
    assert (np.diff(diagram.chi[3]) > 0).all()  # chi grows with sigma_w at fixed sigma_b


def test_profile_of_a_relu_network() -> None:
    profile = MeanField("relu").propagate(5, q0=2.0, c0=0.0, sigma_w=2.0, sigma_b=0.0)
    assert profile.q == pytest.approx(2.0 * 2.0 ** np.arange(6))
    assert profile.chi == pytest.approx(np.full(5, 2.0))
    assert profile.gradient == pytest.approx(2.0 ** np.arange(5, -1, -1))
    assert profile.c is not None
    assert profile.c[1] == pytest.approx(1 / math.pi)
    assert MeanField("relu").propagate(3, q0=1.0, sigma_w=1.0, sigma_b=0.0).c is None


def test_profile_against_a_wide_network() -> None:
    generator = torch.Generator().manual_seed(1)
    width, depth, w, b = 3000, 6, 1.6, 0.3
    h = torch.randn(width, 2, generator=generator, dtype=torch.float64)
    h[:, 1] = 0.6 * h[:, 0] + 0.8 * h[:, 1]
    profile = MeanField("tanh").propagate(depth, q0=1.0, c0=0.6, sigma_w=w, sigma_b=b)
    for layer in range(depth):
        weight = torch.randn(width, width, generator=generator) * w / math.sqrt(width)
        h = weight.double() @ torch.tanh(h) + b * torch.randn(width, 1, generator=generator).double()
        q = float((h**2).mean())
        c = float((h[:, 0] * h[:, 1]).mean()) / q
        # fluctuations of relative size 1/sqrt(width) per layer
        assert q == pytest.approx(profile.q[layer + 1], rel=5 * math.sqrt((layer + 2) / width))
        assert c == pytest.approx(float(profile.c[layer + 1]), abs=5 * math.sqrt((layer + 2) / width))  # type: ignore[index]


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.length_map(-1.0, 1.0, 0.0), ValueError, "q must be finite and >= 0, got -1"),
        (lambda m: m.length_map(math.nan, 1.0, 0.0), ValueError, "q must be finite and >= 0, got nan"),
        (lambda m: m.length_map("a", 1.0, 0.0), TypeError, "q must be a number, an array or a tensor, got str"),
        (lambda m: m.length_map(torch.zeros(0), 1.0, 0.0), ValueError, "q is empty"),
        (lambda m: m.length_map(1.0, 0.0, 0.0), ValueError, "sigma_w must be a finite number > 0, got 0"),
        (lambda m: m.length_map(1.0, 1.0, -0.1), ValueError, "sigma_b must be a finite number >= 0"),
        (
            lambda m: m.correlation_map(1.1, q=1.0, sigma_w=1.0, sigma_b=0.0),
            ValueError,
            "c must be finite and >= -1 and <= 1",
        ),
        (lambda m: m.mu(0, 1.0), ValueError, "k must be a positive integer, got 0"),
        (lambda m: m.mu(1, 0.0), ValueError, "q must be finite and > 0, got 0"),
        (lambda m: m.chi(1.0, math.inf), ValueError, "sigma_w must be a finite number > 0, got inf"),
        (lambda m: m.critical(), ValueError, "exactly one of q_star, sigma_w and sigma_b, got none"),
        (lambda m: m.critical(1.0, sigma_w=1.0), ValueError, "got q_star and sigma_w; pass one"),
        (lambda m: m.critical(q_star=0.0), ValueError, "q_star must be a finite number > 0, got 0"),
        (lambda m: m.critical(q_star=math.nan), ValueError, "q_star must be a finite number > 0, got nan"),
        (
            lambda m: m.propagate(0, q0=1.0, sigma_w=1.0, sigma_b=0.0),
            ValueError,
            "depth must be a positive integer, got 0",
        ),
        (lambda m: m.propagate(2, q0=1.0, c0=2.0, sigma_w=1.0, sigma_b=0.0), ValueError, "c0 must be finite"),
        (lambda m: m.phase_diagram([2.0, 1.0]), ValueError, "sigma_w must be an ascending one-dimensional grid"),
        (lambda m: m.phase_diagram([1.0], [-1.0]), ValueError, "sigma_b must be finite and >= 0"),
        (lambda m: MeanField("tanh", dropout_keep=0.0), ValueError, "dropout_keep must be a finite number > 0"),
        (
            lambda m: MeanField("tanh", dropout_keep=1.5),
            ValueError,
            "dropout_keep must be at most 1.*kept, not dropped",
        ),
    ],
)
def test_refusals(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(MeanField("tanh"))  # type: ignore[operator]


def test_import_is_light() -> None:
    code = "import sys, isometry.theory; print([m for m in ('scipy', 'sklearn', 'plotly') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
