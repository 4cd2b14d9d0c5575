"""The law of the Jacobian's singular values: the sheet's figures, closed forms, self-checks and random networks."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor

from isometry.linalg import haar
from isometry.theory import JacobianLaw, MeanField, NoCriticalPointError, jacobian_law, universal_edges


def check(law: JacobianLaw) -> None:
    assert law.converged, law
    assert law.mass == pytest.approx(1.0, abs=1e-3)
    assert law.moments[0] == pytest.approx(law.mean_square, rel=1e-3)
    assert law.moments[1] == pytest.approx(law.variance, rel=1e-2, abs=1e-8)
    assert law.s_min <= law.s_max
    assert law.residual < 1e-2


# figures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "s_max", "within"), [(9e-4, 1.015, 5e-4), (1 / 64, 1.27, 5e-3), (0.5, 6.5, 5e-2)])
def test_published_edges_of_tanh(q: float, s_max: float, within: float) -> None:
    law = jacobian_law("tanh", depth=50, q_star=q)
    check(law)
    assert law.s_max == pytest.approx(s_max, abs=within)


def test_published_edge_of_gaussian_tanh() -> None:
    law = jacobian_law("tanh", depth=50, q_star=1 / 64, weights="gaussian")
    check(law)
    assert law.s_max == pytest.approx(11.7, abs=0.05)
    assert law.s_min == 0


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 100, 1000])
def test_gaussian_linear_networks(depth: int) -> None:
    law = jacobian_law("linear", depth=depth, weights="gaussian")
    check(law)
    assert 2 * law.log_s_max == pytest.approx((depth + 1) * math.log(depth + 1) - depth * math.log(depth), rel=1e-11)
    assert law.variance == pytest.approx(depth, rel=1e-12)


def test_one_gaussian_layer_is_the_quarter_circle() -> None:
    law = jacobian_law("linear", depth=1, weights="gaussian", sigma_w=1.5)
    s = np.linspace(0.01, 2.999, 57)
    np.testing.assert_allclose(law.density(s), np.sqrt(4 * 2.25 - s**2) / (math.pi * 2.25), rtol=1e-8)
    assert law.density(3.01) == 0.0
    exact = (s * np.sqrt(9 - s**2) / 2 + 4.5 * np.arcsin(s / 3)) / (math.pi * 2.25)
    np.testing.assert_allclose(law.cdf(s), exact, atol=2e-4)


def test_orthogonal_linear_networks_are_one_atom() -> None:
    law = jacobian_law("linear", depth=7, sigma_w=1.1)
    check(law)
    assert law.s_max == law.s_min == pytest.approx(1.1**7)
    assert [(a.s, a.mass) for a in law.atoms] == [(pytest.approx(1.1**7), pytest.approx(1.0))]
    assert law.curve()[0].size == 0
    assert law.cdf(1.0) == 0.0
    assert law.cdf(2.0) == 1.0


def linear_or_dead(p: float, depth: int) -> float:
    """The closed form of the largest squared singular value, orthogonal weights.

    Returns:
        s_max^2.
    """
    if depth * (1 - p) <= 1:
        return p**-depth
    m = p / (depth * (1 - p) - 1)
    return p**-depth * (1 + m) ** (1 - depth) * (m + p) ** depth / m


def test_relu_at_depth_ten() -> None:
    law = jacobian_law("relu", depth=10)
    check(law)
    assert law.s_max**2 == pytest.approx(25.8, abs=0.05)
    assert law.s_max**2 == pytest.approx(linear_or_dead(0.5, 10), rel=1e-11)
    assert [(a.s, a.mass) for a in law.atoms] == [(0.0, 0.5)]


@pytest.mark.parametrize("q", [0.02, 0.08, 0.1, 0.2, 0.5, 3.0])
@pytest.mark.parametrize("depth", [2, 20, 300])
def test_hard_tanh_in_closed_form(q: float, depth: int) -> None:
    p = math.erf(1 / math.sqrt(2 * q))
    law = jacobian_law("hardtanh", depth=depth, q_star=q)
    check(law)
    assert law.s_max**2 == pytest.approx(linear_or_dead(p, depth), rel=1e-9)
    assert law.variance == pytest.approx(depth * (1 / p - 1), rel=1e-9, abs=1e-13)
    top = [a.mass for a in law.atoms if a.s > 0]
    assert sum(top) == pytest.approx(max(0.0, 1 - depth * (1 - p)), abs=1e-9)


@pytest.mark.parametrize("variance", [0.1, 0.5, 2.0])
def test_the_universal_limit_of_smooth_activations(variance: float) -> None:
    # Var(s^2) = v at growing depth: mu_2/mu_1^2 - 1 = v/L, about 8 q^2 for tanh; the corrections go like q ~ L^-1/2
    mf = MeanField("tanh")
    limit = universal_edges(variance)
    errors = []
    for depth in (300, 4800):
        low, high = 1e-5, 1.0
        for _ in range(60):
            q = math.sqrt(low * high)
            low, high = (q, high) if mf.mu(2, q) / mf.mu(1, q) ** 2 - 1 < variance / depth else (low, q)
        law = jacobian_law(mf, depth=depth, q_star=q)
        assert law.variance == pytest.approx(variance, rel=1e-6)
        errors.append(law.s_max / limit.s_max - 1)
        # The lower edge belongs to the rarest small slopes, which thin out only slowly.
        assert 0.5 * limit.s_min < law.s_min < 1.01 * limit.s_min
    assert abs(errors[1]) < 0.01
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.25)


def test_the_universal_limit_of_linear_or_dead() -> None:
    for variance in (0.5, 3.0):
        q = 1 / (2 * (math.sqrt(2) * erf_inverse(1 - variance / 5000)) ** 2 / 2)
        law = jacobian_law("hardtanh", depth=5000, q_star=q)
        assert law.s_max == pytest.approx(universal_edges(variance, family="linear-or-dead").s_max, rel=0.01)


def erf_inverse(x: float) -> float:
    return float(torch.special.erfinv(torch.tensor(x, dtype=torch.float64)))


# every activation, every depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tanh", "gelu", "silu", "selu", "softsign", "sin", "leaky_relu(0.2)", "tanhshrink", "elu"]
)
@pytest.mark.parametrize("weights", ["orthogonal", "gaussian"])
@pytest.mark.parametrize("depth", [1, 3, 40])
def test_mass_and_moments(name: str, weights: str, depth: int) -> None:
    law = jacobian_law(name, depth=depth, q_star=0.3, weights=weights)  # type: ignore[arg-type]
    check(law)
    mf = MeanField(name)
    spread = mf.mu(2, 0.3) / mf.mu(1, 0.3) ** 2 - 1 + (weights == "gaussian")
    assert law.variance == pytest.approx(depth * spread, rel=1e-9)
    assert law.mean_square == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("weights", ["orthogonal", "gaussian"])
@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_depth_one_thousand_takes_seconds(name: str, weights: str) -> None:
    law = jacobian_law(name, depth=1000, q_star=0.1, weights=weights)  # type: ignore[arg-type]
    check(law)
    assert law.cost.seconds < 30  # about 0.3 s on an idle core


@settings(deadline=None, max_examples=8)
@given(st.floats(1e-5, 10.0), st.integers(2, 200), st.sampled_from(["tanh", "hardtanh", "relu6", "silu"]))
def test_self_checks_hold_at_random(q: float, depth: int, name: str) -> None:
    check(jacobian_law(name, depth=depth, q_star=q))


def test_off_criticality_scales() -> None:
    mf = MeanField("tanh")
    w = 1.3 * mf.critical(q_star=0.1).sigma_w
    law, critical = jacobian_law("tanh", depth=12, q_star=0.1, sigma_w=w), jacobian_law("tanh", depth=12, q_star=0.1)
    check(law)
    assert law.chi == pytest.approx(1.69, rel=1e-12)
    assert law.mean_square == pytest.approx(1.69**12, rel=1e-10)
    assert law.s_max == pytest.approx(1.3**12 * critical.s_max, rel=1e-9)
    deep = jacobian_law("tanh", depth=1000, q_star=0.1, sigma_w=3 * w)
    assert deep.s_max == math.inf  # 10^600
    assert deep.log_s_max == pytest.approx(
        1000 * math.log(3.9) + jacobian_law("tanh", depth=1000, q_star=0.1).log_s_max
    )
    json.dumps(deep.to_dict(), allow_nan=False)


def test_density_integrates_to_the_distribution_function() -> None:
    law = jacobian_law("tanh", depth=30, q_star=1 / 16)
    for low, high in ((0.5, 1.0), (1.0, 1.5), (law.s_min, law.s_max)):
        s = 0.5 * (low + high) + 0.5 * (high - low) * np.cos(np.linspace(math.pi, 0, 4001))
        area = integrate.trapezoid(law.density(s), s)
        assert area == pytest.approx(law.cdf(high) - law.cdf(low), abs=1e-4)


def test_kinds_of_arguments_of_the_density() -> None:
    law = jacobian_law("tanh", depth=10, q_star=0.1)
    assert isinstance(law.density(1.0), float)
    assert law.density(np.ones((2, 3))).shape == (2, 3)
    tensor = law.density(torch.tensor([0.0, 1.0]))
    assert tensor.dtype == torch.float64
    assert tensor[0] == 0
    with pytest.raises(ValueError, match="s must be finite and >= 0, got -1"):
        law.density(-1.0)
    with pytest.raises(ValueError, match="points must be at least 2, got 1"):
        law.curve(1)


def test_prints_and_serializes() -> None:
    law = jacobian_law("relu", depth=4)
    assert "relu, orthogonal, depth 4" in str(law)
    assert "atom 0.5 at s=0" in str(law)
    plain = json.loads(json.dumps(law.to_dict(), allow_nan=False))
    assert len(plain["s"]) == len(plain["density"]) == 200
    assert plain["atoms"] == [{"s": 0.0, "mass": 0.5}]
    with pytest.raises(AttributeError):
        law.depth = 5  # type: ignore[misc]


def test_equal_questions_are_answered_once() -> None:
    assert jacobian_law("tanh", depth=9, q_star=0.2) is jacobian_law(MeanField("tanh"), depth=9, q_star=0.2)


# random networks ----------------------------------------------------------------------------------------------------


def network_singular_values(
    phi: str, *, depth: int, width: int, q: float, sigma_w: float, gaussian: bool, seed: int
) -> Tensor:
    """Draw one network in its free model: independent weights and Gaussian pre-activations.

    Returns:
        The singular values of D^L W^L ... D^1 W^1.
    """
    generator = torch.Generator().manual_seed(seed)
    slope = MeanField(phi).activation.slope
    jacobian = torch.eye(width, dtype=torch.float64)
    for _ in range(depth):
        if gaussian:
            weight = torch.randn(width, width, dtype=torch.float64, generator=generator) / math.sqrt(width)
        else:
            weight = haar(width, width, dtype=torch.float64, generator=generator)
        h = math.sqrt(q) * torch.randn(width, dtype=torch.float64, generator=generator)
        jacobian = torch.from_numpy(slope(h.numpy()))[:, None] * (sigma_w * weight @ jacobian)
    return torch.linalg.svdvals(jacobian)


@pytest.mark.parametrize(
    ("phi", "q", "depth", "gaussian"),
    [
        ("tanh", 0.2, 12, False),
        ("tanh", 0.2, 4, True),
        ("relu", 1.0, 5, False),
        ("leaky_relu(0.2)", 1.0, 3, False),
        ("silu", 1 / 16, 8, False),
        ("hardtanh", 0.3, 8, False),
        ("gelu", 0.5, 2, True),
    ],
)
def test_random_networks_obey(phi: str, q: float, depth: int, gaussian: bool) -> None:
    width = 240
    weights = "gaussian" if gaussian else "orthogonal"
    law = jacobian_law(phi, depth=depth, q_star=q, weights=weights)  # type: ignore[arg-type]
    s = network_singular_values(
        phi, depth=depth, width=width, q=q, sigma_w=law.sigma_w, gaussian=gaussian, seed=3
    ).flip(0)
    # The mean slopes of a layer fluctuate by sqrt((mu_2/mu_1^2 - 1)/width), which moves log s^2 as a whole.
    mf = MeanField(phi)
    shift = math.sqrt(depth * (mf.mu(2, q) / mf.mu(1, q) ** 2 - 1 + 1e-3) / width)
    assert float(s[-1]) == pytest.approx(law.s_max, rel=3 * shift + 2 * width ** (-2 / 3))
    assert float((s**2).mean()) == pytest.approx(law.mean_square, rel=5 * math.sqrt(law.variance) / width + 5 * shift)
    # Eigenvalues are rigid: the distribution functions differ by the shift times the density, and about 1/width.
    grid = np.quantile(s.numpy(), np.linspace(0.03, 0.97, 30))
    for top in law.atoms:  # on an atom itself rounding decides
        grid = grid[np.abs(grid - top.s) > 1e-6]
    empirical = np.searchsorted(s.numpy(), grid, side="right") / width
    atom = sum(a.mass for a in law.atoms if a.s == 0)
    assert grid.size > 10
    steep = float((law.density(grid) * grid).max())
    assert np.abs(law.cdf(grid) - empirical).max() < 2 * shift * steep + 0.02
    dead = float((s < 1e-9).double().mean())
    assert dead == pytest.approx(atom, abs=4 * math.sqrt(max(atom * (1 - atom), 1e-12) * depth / width) + 0.02)


def test_a_real_network_with_biases() -> None:
    generator = torch.Generator().manual_seed(5)
    width, depth, q = 300, 20, 1 / 64
    point = MeanField("tanh").critical(q_star=q)
    h = torch.randn(width, dtype=torch.float64, generator=generator)
    h *= math.sqrt(q * width) / h.norm()
    jacobian = torch.eye(width, dtype=torch.float64)
    for layer in range(depth):
        jacobian = (1 - torch.tanh(h) ** 2)[:, None] * jacobian
        if layer < depth - 1:
            weight = point.sigma_w * haar(width, width, dtype=torch.float64, generator=generator)
            h = weight @ torch.tanh(h) + point.sigma_b * torch.randn(width, dtype=torch.float64, generator=generator)
            jacobian = weight @ jacobian
    s = point.sigma_w * torch.linalg.svdvals(jacobian)  # W^1 is orthogonal: it only turns the input
    law = jacobian_law("tanh", depth=depth, q_star=q)
    assert float(s[0]) == pytest.approx(law.s_max, rel=0.05)
    assert float((s**2).mean()) == pytest.approx(1.0, abs=0.03)


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation": "tanh", "depth": 3}, ValueError, "needs q_star for 'tanh'"),
        ({"activation": "tanh", "depth": 0, "q_star": 1.0}, ValueError, "depth must be from 1 to 10000, got 0"),
        ({"activation": "tanh", "depth": 2.0, "q_star": 1.0}, TypeError, "depth must be an integer, got float"),
        ({"activation": "tanh", "depth": 2, "q_star": -1.0}, ValueError, "q_star must be a finite number > 0, got -1"),
        ({"activation": "tanh", "depth": 2, "q_star": math.nan}, ValueError, "q_star must be a finite number > 0"),
        (
            {"activation": "tanh", "depth": 2, "q_star": 1.0, "sigma_w": 0.0},
            ValueError,
            "sigma_w must be a finite number",
        ),
        (
            {"activation": "tanh", "depth": 2, "q_star": 1.0, "weights": "ortogonal"},
            ValueError,
            "unknown weights 'ortogonal'; did you mean 'orthogonal'",
        ),
        ({"activation": "tahn", "depth": 2}, ValueError, "unknown activation 'tahn'; did you mean 'tanh'"),
        ({"activation": torch.sign, "depth": 2, "q_star": 1.0, "sigma_w": 1.0}, ValueError, "slope 0 at every unit"),
        ({"activation": "softplus", "depth": 2, "q_star": 1.0}, NoCriticalPointError, "no critical point at q_star=1"),
        (
            {"activation": MeanField("tanh", dropout_keep=0.9), "depth": 2, "q_star": 1.0},
            ValueError,
            "without dropout, got dropout_keep=0.9",
        ),
    ],
)
def test_refusals(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jacobian_law(**arguments)  # type: ignore[arg-type]


def test_without_a_critical_point_a_scale_can_be_given() -> None:
    check(jacobian_law("softplus", depth=6, q_star=1.0, sigma_w=1.5))
