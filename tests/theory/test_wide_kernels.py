"""The kernels of infinitely wide chains against formulas that are written out here, and two-dimensional quadrature."""

import math

import numpy as np
import pytest
import torch

from isometry.theory import MeanField, wide_kernels

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def relu_pair(kxx, kxy, kyy):
    """Cho and Saul: E relu(u) relu(v) and P(u > 0, v > 0)."""
    angle = math.acos(max(-1.0, min(1.0, kxy / math.sqrt(kxx * kyy))))
    value = math.sqrt(kxx * kyy) * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    return value, (math.pi - angle) / (2 * math.pi)


def grid_pair(phi, slope):
    nodes, weights = np.polynomial.hermite_e.hermegauss(90)
    weights = weights / weights.sum()

    def pair(kxx, kxy, kyy):
        c = max(-1.0, min(1.0, kxy / math.sqrt(kxx * kyy)))
        u = math.sqrt(kxx) * nodes[:, None]
        v = math.sqrt(kyy) * (c * nodes[:, None] + math.sqrt(1 - c * c) * nodes[None])
        both = weights[:, None] * weights[None]
        return float((both * phi(u) * phi(v)).sum()), float((both * slope(u) * slope(v)).sum())

    return pair


def written_out(pair, x, widths, w, b, bias, standard):
    """The two recursions, entry by entry."""
    n, count = len(x), len(widths)
    nngp, ntk = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            second = {key: float(x[s] @ x[t]) / x.shape[1] for key, (s, t) in
                      {"ii": (i, i), "ij": (i, j), "jj": (j, j)}.items()}  # fmt: skip
            theta, slopes, fan_in = 0.0, 0.0, x.shape[1]
            for layer in range(count + 1):
                k = {key: w * w * value + b * b for key, value in second.items()}
                if standard:
                    theta = fan_in * second["ij"] + (1 if bias else 0) + w * w * slopes * theta
                else:
                    theta = w * w * second["ij"] + (b * b if bias else 0) + w * w * slopes * theta
                if layer < count:
                    value, slopes = pair(k["ii"], k["ij"], k["jj"])
                    second = {
                        "ii": pair(k["ii"], k["ii"], k["ii"])[0], "ij": value, "jj": pair(k["jj"], k["jj"], k["jj"])[0],
                    }  # fmt: skip
                    fan_in = widths[layer]
            nngp[i, j], ntk[i, j] = k["ij"], theta
    return nngp, ntk


CASES = {
    "relu": (relu_pair, 1e-12),
    "tanh": (grid_pair(np.tanh, lambda u: 1 / np.cosh(u) ** 2), 2e-5),  # what 90 nodes of the grid are good for
    "sin": (grid_pair(np.sin, np.cos), 1e-9),
}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("parametrization", ["standard", "ntk"])
def test_recursions(name, bias, parametrization):
    pair, tolerance = CASES[name]
    widths, w, b = (7, 5, 9), 1.2, 0.3 if bias else 0.0
    found = wide_kernels(name, X, widths=widths, sigma_w=w, sigma_b=b, bias=bias, parametrization=parametrization)
    nngp, ntk = written_out(pair, X.numpy(), widths, w, b, bias, parametrization == "standard")
    assert np.allclose(found.nngp.numpy(), nngp, rtol=tolerance, atol=0)
    assert np.allclose(found.ntk.numpy(), ntk, rtol=tolerance, atol=0)


def test_inputs_of_equal_length_take_quadrature():
    x = torch.nn.functional.normalize(X, dim=1)
    pair, _ = CASES["tanh"]
    found = wide_kernels("tanh", x, widths=(4, 4), sigma_w=1.5, sigma_b=0.1)
    nngp, ntk = written_out(pair, x.numpy(), (4, 4), 1.5, 0.1, True, True)
    assert found.residual == 0
    assert np.allclose(found.nngp.numpy(), nngp, rtol=1e-6)
    assert np.allclose(found.ntk.numpy(), ntk, rtol=1e-5)


def test_levels_are_those_of_mean_field_theory():
    x = X[:1] / X[:1].square().mean().sqrt()
    mf = MeanField("tanh")
    found = wide_kernels("tanh", x, widths=(3,) * 5, sigma_w=1.4, sigma_b=0.2)
    q = 1.4**2 + 0.2**2
    for level in found.q:
        assert level == pytest.approx(q)
        q = mf.length_map(q, 1.4, 0.2)


def test_scales_per_layer_and_printing():
    found = wide_kernels("relu", X, widths=(3,), sigma_w=(1.0, 2.0), sigma_b=(0.0, 0.5))
    one, _ = relu_pair(*[float(X[0] @ X[0]) / 6] * 3)
    assert float(found.nngp[0, 0]) == pytest.approx(4 * one + 0.25)
    assert "wide relu chain of 1 hidden layers at 4 inputs" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, r"widths must be positive whole numbers, at least one, got \[\]"),
        ({"widths": (3, 0)}, r"widths must be positive whole numbers"),
        ({"sigma_w": (1.0, 1.0)}, r"sigma_w must be one number, or one for each of the 2 hidden layers"),
        ({"sigma_w": -1.0}, r"sigma_w"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        wide_kernels("tanh", X, **{"widths": (3, 3), "sigma_w": 1.0, "sigma_b": 0.0, **options})
